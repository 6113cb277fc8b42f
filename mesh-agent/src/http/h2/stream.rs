//! The two ways of a stream: what is sent waits for capacity, what is received
//! takes it back when it was written on.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use ::h2::{Error, Reason, RecvStream, SendStream};
use bytes::Bytes;
use http::HeaderMap;

use super::limits::{FRAME, Hop};
use super::queue::{Piece, Queue};
use super::window::{Part, Unread};

/// Why no more can be sent.
#[derive(Debug)]
pub(crate) enum Cut {
    /// The peer reset the stream. With `NO_ERROR`: it has all that it wants, and its
    /// answer stays whole.
    Reset(Reason),
    Error(Error),
}

impl From<Error> for Cut {
    fn from(error: Error) -> Self {
        match error.reason() {
            Some(code) if error.is_reset() && error.is_remote() => Self::Reset(code),
            _ => Self::Error(error),
        }
    }
}

/// Counts the streams that live, by what an exchange still holds of them.
#[derive(Debug)]
pub(super) struct ActiveStream(Arc<AtomicUsize>);

impl ActiveStream {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Arc<Self> {
        count.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self(count.clone()))
    }
}

impl Drop for ActiveStream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Dropped before its end, the stream is reset with CANCEL.
#[derive(Debug)]
pub(crate) struct Sender {
    stream: SendStream<Piece>,
    queue: Arc<Queue>,
    ended: bool,
    live: Option<Arc<ActiveStream>>,
}

impl Sender {
    pub(super) fn new(stream: SendStream<Piece>, ended: bool, queue: Arc<Queue>) -> Self {
        Self {
            stream,
            queue,
            ended,
            live: None,
        }
    }

    pub(super) fn holding(mut self, live: Arc<ActiveStream>) -> Self {
        self.live = Some(live);
        self
    }

    /// Waits until the peer takes all of it; nothing of no bytes is sent. A call
    /// that is dropped may have sent a part.
    pub(crate) async fn send(&mut self, mut data: Bytes) -> Result<(), Cut> {
        while !data.is_empty() {
            let wanted = data.len().min(FRAME as usize);
            self.stream.reserve_capacity(wanted);
            let granted = poll_fn(|cx| self.poll_granted(cx)).await?;
            let piece = data.split_to(granted.min(wanted));
            // Only now: who has its turn uses it.
            self.room().await?;
            self.stream.send_data(self.queue.piece(piece), false)?;
        }
        // What is reserved and not used is taken from all other streams.
        self.stream.reserve_capacity(0);
        Ok(())
    }

    /// Until the connection's queue is short enough.
    async fn room(&mut self) -> Result<(), Cut> {
        let Self { stream, queue, .. } = self;
        while queue.is_long() {
            let mut shorter = pin!(queue.shorter());
            poll_fn(|cx| {
                if let Poll::Ready(code) = stream.poll_reset(cx) {
                    return Poll::Ready(Err(code.map_or_else(Cut::from, Cut::Reset)));
                }
                shorter.as_mut().poll(cx).map(Ok)
            })
            .await?;
        }
        Ok(())
    }

    fn poll_granted(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Cut>> {
        if let Poll::Ready(code) = self.stream.poll_reset(cx) {
            return Poll::Ready(Err(code.map_or_else(Cut::from, Cut::Reset)));
        }
        loop {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(0)) => {}
                Some(Ok(granted)) => return Poll::Ready(Ok(granted)),
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => return Poll::Ready(Err(Cut::Reset(Reason::CANCEL))),
            }
        }
    }

    /// The message is whole.
    pub(crate) fn finish(&mut self) -> Result<(), Cut> {
        self.ended = true;
        Ok(self.stream.send_data(Piece::default(), true)?)
    }

    /// The message is whole, with these lines at its end.
    pub(crate) fn trailers(&mut self, trailers: HeaderMap) -> Result<(), Cut> {
        self.ended = true;
        Ok(self.stream.send_trailers(trailers)?)
    }

    /// What waits to be sent is thrown away, whatever the code. So nothing is done
    /// for `NO_ERROR` behind a whole message: h2 says it behind the last byte when all
    /// that is held of the stream is dropped.
    pub(crate) fn reset(&mut self, code: Reason) {
        if self.ended && code == Reason::NO_ERROR {
            return;
        }
        self.ended = true;
        self.stream.send_reset(code);
    }

    /// Until the peer resets the stream: how a client's cancel is seen while the
    /// application is waited for.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, Error>> {
        self.stream.poll_reset(cx)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.ended {
            self.stream.send_reset(Reason::CANCEL);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Receiver {
    /// Goes before the stream does; `None`: there are no bytes of it.
    part: Option<Part>,
    stream: RecvStream,
    /// Counted as long as it is held.
    _live: Option<Arc<ActiveStream>>,
    hop: Hop,
}

impl Receiver {
    pub(super) fn new(mut stream: RecvStream, (unread, hop): (&Arc<Unread>, Hop)) -> Self {
        let part = (!stream.is_end_stream()).then(|| unread.part(&mut stream));
        Self {
            part,
            stream,
            _live: None,
            hop,
        }
    }

    pub(super) fn holding(self, live: Arc<ActiveStream>) -> Self {
        let _live = Some(live);
        Self { _live, ..self }
    }

    pub(crate) fn is_end(&self) -> bool {
        self.stream.is_end_stream()
    }

    /// The next bytes; `None` at the end of the data. What has none is no frame to us.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        loop {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                data => return Poll::Ready(data),
            }
        }
    }

    pub(crate) async fn data(&mut self) -> Option<Result<Bytes, Error>> {
        poll_fn(|cx| self.poll_data(cx)).await
    }

    /// So many bytes were written on: the peer may send as many again.
    pub(crate) fn written(&mut self, count: usize) -> Result<(), Error> {
        if let Some(part) = &self.part {
            part.released(count);
        }
        self.stream.flow_control().release_capacity(count)
    }

    /// Behind the data. Too many of them are a failure of this side.
    pub(crate) async fn trailers(&mut self) -> Result<Option<HeaderMap>, Error> {
        let trailers = poll_fn(|cx| self.stream.poll_trailers(cx)).await?;
        if let (Some(part), Some(_)) = (&self.part, &trailers) {
            part.took_trailers();
        }
        let checked = trailers.as_ref().map(|lines| self.hop.check(lines, 0));
        match checked {
            Some(Err(_)) => Err(Reason::ENHANCE_YOUR_CALM.into()),
            Some(Ok(())) | None => Ok(trailers),
        }
    }
}
