//! The client's side between two exchanges: its next request, an answer of the
//! agent's own, and the end.

use std::future::{Future as _, poll_fn};
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{sleep, timeout, timeout_at};

use super::byte_stream::Side;
use super::drive::{ACCEPT_DELAY, HEAD_TIMEOUT, silence};
use crate::detect::{self, Spoken};
use crate::http::h1::{Bad, Lines, Parsed, Request, Scan, request_head};
use crate::io::with_scratch;
use crate::model::CloseReason;
use crate::proxy::first::First;
use crate::proxy::registry::Cut;
use crate::tunnel::StreamEnd;

/// What a client sends behind its request is read up to here before it goes on, and
/// before its answer.
const PIPELINED: usize = 16 * 1024;

/// Who still sends is read for this long, and this far, behind the last answer: a
/// close over what is unread would take the answer back.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;
/// Of a client that waits with more than is read ahead it is looked this often whether it
/// has gone.
const LOOK: Duration = Duration::from_millis(250);

/// What a client does next.
pub(in crate::proxy) enum Next<T> {
    Request(T),
    /// It ended, between two requests.
    End,
    Bad(Bad),
    /// A request that it began does not come.
    Slow,
    /// It failed, or ended within a head.
    Lost,
}

impl Side<'_> {
    /// The next request, as `decide` sees it: its head, and the bytes of that.
    /// Nothing of it is taken out of the inbox. Cancel-safe.
    pub(in crate::proxy) async fn next<T>(
        &mut self,
        mut decide: impl FnMut(&Request<'_>, &[u8]) -> T,
    ) -> Next<T> {
        let mut scan = Scan::default();
        self.inbox.begin();
        loop {
            if !self.inbox.is_empty() {
                let bytes = self.inbox.bytes();
                let mut lines = Lines::new();
                match request_head(bytes, &mut scan, &mut lines) {
                    Err(bad) => return Next::Bad(bad),
                    Ok(Parsed::Head { head, len }) => {
                        return Next::Request(decide(&head, &bytes[..len]));
                    }
                    Ok(Parsed::NeedMore) => {}
                }
            }
            let is_between = self.inbox.is_empty();
            let whole_by = self.inbox.began() + HEAD_TIMEOUT;
            let fill = poll_fn(|cx| {
                let filled = self.poll_fill(cx);
                if filled.is_pending() && !is_between && self.stream.is_opening() {
                    // The other agent may hold the rest back until it is told that this is taken.
                    self.stream.accept_is_due();
                    // Who cannot be told fails by what comes of it.
                    let _on_its_way = self.stream.poll_flush(cx);
                }
                filled
            });
            let filled = match is_between {
                true => fill.await,
                // On the heap, so that what waits between two requests has no room for it.
                false => match Box::pin(timeout_at(whole_by.into(), fill)).await {
                    Ok(filled) => filled,
                    Err(_) => return Next::Slow,
                },
            };
            match filled {
                Ok(true) => self.inbox.seen(),
                Ok(false) if self.inbox.is_empty() => return Next::End,
                Ok(false) | Err(_) => return Next::Lost,
            }
        }
    }

    /// As [`Side::next`], but no longer than `farewell`, if the client has asked nothing by
    /// then: the end is behind a look, for what is closed over a request is its loss.
    /// `farewell` is the caller's to keep: what a future takes with it is in it twice.
    pub(in crate::proxy) async fn next_before<T>(
        &mut self,
        mut decide: impl FnMut(&Request<'_>, &[u8]) -> T,
        farewell: Pin<&mut impl Future<Output = ()>>,
    ) -> Next<T> {
        tokio::select! {
            biased; // who has asked is served
            next = self.next(&mut decide) => return next,
            () = farewell => {}
        }
        if self.inbox.is_empty() && self.stream.is_quiet() {
            return Next::End;
        }
        Box::pin(self.next(decide)).await
    }

    /// Until the client ends or fails. What it sends until then stays in the inbox, as far
    /// as there is room for it. Cancel-safe.
    pub(in crate::proxy) async fn gone(&mut self) {
        let has_ended = poll_fn(|cx| match self.poll_ended(cx) {
            Ok(false) if self.inbox.bytes().len() < PIPELINED => Poll::Pending,
            Ok(has_ended) => Poll::Ready(has_ended),
            Err(_) => Poll::Ready(true),
        });
        let mut has_ended = has_ended.await;
        // Its end comes behind what is not read.
        while !has_ended {
            sleep(LOOK).await;
            has_ended = self.stream.has_ended();
        }
    }

    /// What the client of a stream begins with: that stays in the inbox. An ACCEPT
    /// that nothing follows goes alone meanwhile. `patience`: for all of the first line
    /// once it has begun.
    pub(in crate::proxy) async fn first(&mut self, patience: Duration) -> First {
        let judge = |bytes: &[u8]| match detect::http(bytes) {
            Spoken::NeedMore => Err(patience),
            told @ (Spoken::Http1 | Spoken::Http2 | Spoken::Other) => Ok(First::from(told)),
        };
        self.begins(judge).await.unwrap_or_else(|end| end)
    }

    /// The same of whatever is looked for: `judge` tells it, or how long the rest is waited
    /// for once it has begun.
    pub(in crate::proxy) async fn begins<T>(
        &mut self,
        judge: impl Fn(&[u8]) -> Result<T, Duration>,
    ) -> Result<T, First> {
        let mut delay = pin!(sleep(ACCEPT_DELAY));
        let mut part = pin!(None);
        poll_fn(|cx| {
            if delay.as_mut().poll(cx).is_ready() {
                self.stream.accept_is_due();
            }
            let patience = loop {
                let patience = match judge(self.inbox.bytes()) {
                    Ok(told) => return Poll::Ready(Ok(told)),
                    Err(patience) => patience,
                };
                match self.poll_fill(cx) {
                    Poll::Ready(Ok(true)) => {}
                    Poll::Ready(Ok(false) | Err(_)) => return Poll::Ready(Err(First::Ended)),
                    Poll::Pending => break patience,
                }
            };
            if !self.inbox.is_empty() && part.is_none() {
                part.set(Some(sleep(patience)));
            }
            // It may wait for an answer to what it has said.
            if let Some(part) = part.as_mut().as_pin_mut()
                && part.poll(cx).is_ready()
            {
                return Poll::Ready(Err(First::Unfinished));
            }
            // A failure is found by who reads.
            let _on_its_way = self.stream.poll_flush(cx);
            Poll::Pending
        })
        .await
    }

    /// The client has ended, or failed, as far as that is known now. What it sends
    /// meanwhile is read up to a bound.
    pub(in crate::proxy) async fn has_ended(&mut self) -> bool {
        let ended = poll_fn(|cx| Poll::Ready(self.poll_ended(cx))).await;
        ended.unwrap_or(true)
    }

    pub(super) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Result<bool, StreamEnd> {
        while self.inbox.bytes().len() < PIPELINED {
            match self.poll_fill(cx) {
                Poll::Ready(more) if !more? => return Ok(true),
                Poll::Ready(_) => {}
                Poll::Pending => break,
            }
        }
        Ok(false)
    }

    /// An answer of the agent's own.
    async fn answer(&mut self, bytes: &[u8]) -> Result<(), StreamEnd> {
        let mut at = 0;
        poll_fn(|cx| {
            while at < bytes.len() {
                let part = [IoSlice::new(&bytes[at..])];
                at += ready!(self.stream.poll_write(&part, cx))?;
            }
            self.stream.poll_flush(cx)
        })
        .await
    }

    /// Ends the connection behind the last answer, so that the client can read it.
    pub(in crate::proxy) async fn linger(&mut self) {
        self.inbox.consume(self.inbox.bytes().len());
        // Who stays finds the connection closed.
        let _in_time = timeout(LINGER, self.farewell()).await;
    }

    async fn farewell(&mut self) {
        if poll_fn(|cx| self.stream.poll_finish(cx)).await.is_err() {
            return;
        }
        let mut left = LINGER_BYTES;
        while left > 0 {
            match poll_fn(|cx| self.poll_drop(cx)).await {
                Ok(n) if n > 0 => left = left.saturating_sub(n),
                _ => return,
            }
        }
    }

    fn poll_drop(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, StreamEnd>> {
        with_scratch(|scratch| self.stream.poll_read(scratch, cx))
    }
}

/// Gives the client an answer of the agent's own. One that does not read is not waited
/// for longer than any other.
pub(in crate::proxy) async fn told(
    client: &mut Side<'_>,
    answer: &[u8],
    cut: &Cut,
    idle: Option<Duration>,
) -> Result<(), CloseReason> {
    tokio::select! {
        biased; // removal and drain win
        reason = cut.wait() => Err(reason.close()),
        told = client.answer(answer) => told.map_err(|_| CloseReason::ResetByClient),
        () = silence(idle) => Err(CloseReason::IdleTimeout),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::super::byte_stream::ByteStream;
    use super::super::inbox::Inbox;
    use super::*;
    use crate::tls::tests::support::sockets;

    #[tokio::test]
    async fn who_leaves_is_noticed_whatever_it_has_sent_before() {
        for size in [100, PIPELINED, 4 * PIPELINED] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let to = listener.local_addr().expect("an address");
            let mut far = std::net::TcpStream::connect(to).expect("connected");
            let (near, _) = listener.accept().expect("a client");
            near.set_nonblocking(true).expect("asked for");
            let near = tokio::net::TcpStream::from_std(near).expect("a socket");
            far.write_all(&vec![b'a'; size]).expect("taken");
            let mut inbox = Inbox::default();
            let mut side = Side {
                stream: ByteStream::Socket(&near),
                inbox: &mut inbox,
            };
            let stays = timeout(2 * LOOK, side.gone()).await;
            assert!(stays.is_err(), "it is there: {size}");
            drop(far);
            let left = timeout(20 * LOOK, side.gone()).await;
            assert!(left.is_ok(), "it has left: {size}");
        }
    }

    #[tokio::test]
    async fn an_idle_connection_ends_behind_a_look_and_never_over_a_request() {
        const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        // So much of a request comes just then, and nobody was told of it yet.
        for (begun, is_served) in [(0, false), (1, true), (HEAD.len(), true)] {
            let (far, near) = sockets().await;
            let mut inbox = Inbox::default();
            let mut side = Side {
                stream: ByteStream::Socket(&near),
                inbox: &mut inbox,
            };
            let (begin, rest) = HEAD.split_at(begun);
            let farewell = async { assert_eq!(far.try_write(begin).expect("taken"), begun) };
            let farewell = pin!(farewell);
            let next = side.next_before(|request, _| request.persistent, farewell);
            let (next, sent) = tokio::join!(next, async { far.try_write(rest) });
            assert!(sent.is_ok(), "{begun}");
            match next {
                Next::Request(persistent) => assert!(persistent && is_served, "{begun}"),
                Next::End => assert!(!is_served, "{begun}"),
                Next::Bad(_) | Next::Slow | Next::Lost => panic!("{begun}"),
            }
        }
    }
}
