//! The client's side between two exchanges: its next request, an answer of the
//! agent's own, and the end.

use std::future::{Future as _, poll_fn};
use std::io::IoSlice;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{sleep, timeout, timeout_at};

use super::drive::{ACCEPT_DELAY, HEAD_TIMEOUT, silence};
use super::leg::Side;
use crate::detect::{self, Spoken};
use crate::http::h1::{Bad, Lines, Parsed, Request, Scan, request_head};
use crate::io::with_scratch;
use crate::model::CloseReason;
use crate::proxy::first::First;
use crate::proxy::registry::Cut;
use crate::tunnel::StreamEnd;

/// What a client sends behind its request is read up to here before the answer.
const PIPELINED: usize = 16 * 1024;

/// Who still sends is read for this long, and this far, behind the last answer: a
/// close over what is unread would take the answer back.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;
/// Of a client whose request waits so much is read ahead.
const AHEAD: usize = 16 * 1024;

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
            let fill = poll_fn(|cx| self.poll_fill(cx));
            let filled = match is_between {
                true => fill.await,
                false => match timeout_at(whole_by.into(), fill).await {
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

    /// Until the client ends or fails. What it sends until then stays in the inbox, as far
    /// as there is room for it. Cancel-safe.
    pub(in crate::proxy) async fn gone(&mut self) {
        poll_fn(|cx| {
            while self.inbox.bytes().len() < AHEAD {
                match ready!(self.poll_fill(cx)) {
                    Ok(true) => {}
                    Ok(false) | Err(_) => return Poll::Ready(()),
                }
            }
            Poll::Pending
        })
        .await;
    }

    /// What the client of a stream begins with: that stays in the inbox. An ACCEPT
    /// that nothing follows goes alone meanwhile. `patience`: for all of the first line
    /// once it has begun.
    pub(in crate::proxy) async fn first(&mut self, patience: Duration) -> First {
        let mut delay = pin!(sleep(ACCEPT_DELAY));
        let mut part = pin!(None);
        poll_fn(|cx| {
            if delay.as_mut().poll(cx).is_ready() {
                self.leg.accept_is_due();
            }
            loop {
                match detect::http(self.inbox.bytes()) {
                    Spoken::NeedMore => {}
                    told @ (Spoken::Http1 | Spoken::Http2 | Spoken::Other) => {
                        return Poll::Ready(First::from(told));
                    }
                }
                match self.poll_fill(cx) {
                    Poll::Ready(Ok(true)) => {}
                    Poll::Ready(Ok(false) | Err(_)) => return Poll::Ready(First::Ended),
                    Poll::Pending => break,
                }
            }
            if !self.inbox.is_empty() && part.is_none() {
                part.set(Some(sleep(patience)));
            }
            // It may wait for an answer to what it has said.
            if let Some(part) = part.as_mut().as_pin_mut()
                && part.poll(cx).is_ready()
            {
                return Poll::Ready(First::Unfinished);
            }
            // A failure is found by who reads.
            let _on_its_way = self.leg.poll_flush(cx);
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
                at += ready!(self.leg.poll_write(&part, cx))?;
            }
            self.leg.poll_flush(cx)
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
        if poll_fn(|cx| self.leg.poll_finish(cx)).await.is_err() {
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
        with_scratch(|scratch| self.leg.poll_read(scratch, cx))
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
