//! A stream as duplex bytes, for who reads and writes it itself.
//!
//! The same rules as for a socket: memory only for what was not taken, the OPEN
//! travels with the first data, what was sent before the ACCEPT can be begun again.
//! Reading finds the ACCEPT, so a write that waits for it must be tried again
//! after a read.

use std::io::IoSlice;
use std::task::{Context, Poll, Waker, ready};

use super::sending::CREDIT_BYTES;
use super::taker::Buffer;
use super::{Fail, Relay, StreamEnd};
use crate::io::room;
use crate::tunnel::connection::Connection;
use crate::tunnel::outgoing::{Filled, with_batch};
use crate::tunnel::stream::Role;

impl Relay {
    /// Reads into `buffer`; 0 is the peer's FIN. What came before a failure is
    /// given first, a FIN as well.
    pub(crate) fn poll_read(
        &mut self,
        buffer: &mut [u8],
        connection: &mut Connection,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, StreamEnd>> {
        if let Some(end) = self.failed {
            let buffer = Buffer::new(buffer);
            let _as_far_as_it_goes = self.poll_rest(&buffer, cx);
            return Poll::Ready(match buffer.filled() {
                0 if self.is_read_to_end() => Ok(0),
                0 => Err(end),
                n => Ok(n),
            });
        }
        if let Some(reason) = self.peer_reset.take() {
            return Poll::Ready(Err(self.fail(Fail::End(StreamEnd::ResetByPeer(reason)))));
        }
        let buffer = Buffer::new(buffer);
        let polled = self.poll_receive(Some(&buffer), connection, cx);
        let failed = match polled {
            Poll::Ready(Err(Fail::Connection(_))) if self.was_never_sent(connection) => {
                Some(self.fail(Fail::End(StreamEnd::NotTaken)))
            }
            Poll::Ready(Err(fail)) => Some(self.fail(fail)),
            Poll::Ready(Ok(())) | Poll::Pending => None,
        };
        match (buffer.filled(), failed) {
            (0, _) if self.is_read_to_end() => Poll::Ready(Ok(0)),
            (0, Some(end)) => Poll::Ready(Err(end)),
            (0, None) => Poll::Pending,
            (n, _) => Poll::Ready(Ok(n)),
        }
    }

    /// A client's stream that is kept whole, of which nothing ever left.
    fn was_never_sent(&self, connection: &Connection) -> bool {
        self.role == Role::Client && self.replay.is_some() && connection.nothing_was_sent()
    }

    fn is_read_to_end(&self) -> bool {
        self.stream.has_fin() && self.rest.is_empty()
    }

    /// Sends of `parts` what can be sent now; the rest is the caller's to keep. What
    /// the socket does not take of it waits here, and nothing more is taken meanwhile.
    pub(crate) fn poll_write(
        &mut self,
        parts: &[IoSlice<'_>],
        connection: &mut Connection,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, StreamEnd>> {
        ready!(self.poll_unsent(connection, cx))?;
        if !self.stream.may_send() {
            return Poll::Ready(Err(self.fail(Fail::Application)));
        }
        let credit = self.credit().min(connection.takes_at_once());
        if credit == 0 {
            // The ACCEPT will wake who reads.
            return Poll::Pending;
        }
        let kept = self.replay.as_ref().map_or(0, Vec::len);
        let sent = with_batch(|batch| {
            batch.begin(&self.prefix);
            let n = batch.gather(parts, room(credit));
            // Sealing is done in place: afterwards it is too late.
            self.keep(batch);
            let filled = if n == 0 {
                Filled::Nothing
            } else {
                Filled::Some
            };
            self.seal_and_send(batch, filled, connection).map(|()| n)
        });
        if sent.is_err()
            && let Some(replay) = &mut self.replay
        {
            // The caller still has what was not taken: kept as well, it would go twice.
            replay.truncate(kept);
        }
        Poll::Ready(sent.map_err(|_| self.write_failed(connection)))
    }

    /// Hands what is on its way to the socket: bytes of a former attempt, an OPEN that
    /// nothing followed, and an ACCEPT that is due.
    pub(crate) fn poll_flush(
        &mut self,
        connection: &mut Connection,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamEnd>> {
        ready!(self.poll_unsent(connection, cx))?;
        let is_due = self.role == Role::Client || self.prefix_due;
        if is_due && !self.prefix.is_empty() {
            self.send_alone(Filled::Nothing, connection)?;
            ready!(self.poll_unsent(connection, cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends FIN, behind everything that was written.
    pub(crate) fn poll_finish(
        &mut self,
        connection: &mut Connection,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamEnd>> {
        ready!(self.poll_unsent(connection, cx))?;
        if self.stream.may_send() {
            self.application_ended = true;
            self.send_alone(Filled::End, connection)?;
            ready!(self.poll_unsent(connection, cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// The ACCEPT goes alone where nothing travels with it now.
    pub(crate) fn accept_is_due(&mut self) {
        self.prefix_due = true;
    }

    /// The ACCEPT has not gone yet.
    pub(crate) fn is_opening(&self) -> bool {
        self.role == Role::Server && !self.prefix.is_empty()
    }

    /// What came with the OPEN, for who has to know what it is.
    pub(crate) fn early(&self) -> &[u8] {
        &self.rest[self.rest_at..]
    }

    /// Gives back what was read: it comes before everything else.
    pub(crate) fn unread(&mut self, bytes: &[u8]) {
        let rest = [bytes, self.early()].concat();
        self.rest = rest.into();
        self.rest_at = 0;
        // Who gets it now has not heard of the end.
        self.fin_passed = false;
    }

    /// Between two messages nothing comes, and nothing is on its way: may another
    /// message be sent?
    pub(crate) fn is_quiet(&mut self, connection: &mut Connection) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        self.stream.may_send()
            && !connection.going_away
            && connection.is_flushed()
            && connection.is_whole()
            && self.poll_read(&mut [0], connection, cx).is_pending()
    }

    fn poll_unsent(
        &mut self,
        connection: &mut Connection,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamEnd>> {
        // Who reads may have heard of no more than a FIN.
        if let Some(end) = self.failed {
            return Poll::Ready(Err(end));
        }
        ready!(connection.poll_flush(cx)).map_err(|_| self.write_failed(connection))?;
        if self.resend.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let resend = std::mem::take(&mut self.resend);
        let filled = match self.application_ended {
            true => Filled::End,
            false => Filled::Some,
        };
        let sent = with_batch(|batch| {
            batch.begin(&self.prefix);
            batch.copy_in(&resend);
            self.seal_and_send(batch, filled, connection)
        });
        sent.map_err(|_| self.write_failed(connection))?;
        ready!(connection.poll_flush(cx)).map_err(|_| self.write_failed(connection))?;
        Poll::Ready(Ok(()))
    }

    fn send_alone(&mut self, filled: Filled, connection: &mut Connection) -> Result<(), StreamEnd> {
        let sent = with_batch(|batch| {
            batch.begin(&self.prefix);
            self.seal_and_send(batch, filled, connection)
        });
        sent.map_err(|_| self.write_failed(connection))
    }

    fn write_failed(&mut self, connection: &mut Connection) -> StreamEnd {
        // What is heard now is read behind this, before the stream's failure.
        let nobody = Buffer::new(&mut []);
        let fail = self.send_failed(&nobody, connection);
        self.fail(fail)
    }

    fn fail(&mut self, fail: Fail) -> StreamEnd {
        *self.failed.insert(fail.end())
    }
}

const _: () = assert!(CREDIT_BYTES <= 16 * 1024, "a former attempt fits one batch");
