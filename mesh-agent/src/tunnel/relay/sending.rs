//! From the application to the connection.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

use super::taker::Taker;
use super::{Fail, Relay, StreamEnd};
use crate::io::{BYTES_PER_POLL, room};
use crate::tunnel::broken::Broken;
use crate::tunnel::connection::Connection;
use crate::tunnel::frame::Prefix;
use crate::tunnel::outgoing::{Batch, Filled, with_batch};
use crate::tunnel::stream::Role;

/// What a client sends on a used connection before the ACCEPT; kept for replay.
pub(in crate::tunnel) const CREDIT_BYTES: usize = 16 * 1024;
/// Reads before neighbours run, where they are less than [`BYTES_PER_POLL`].
const READS_PER_POLL: usize = 4;

impl Relay {
    /// Application to connection. Ready when this direction has ended and is flushed.
    pub(super) fn poll_send(
        &mut self,
        application: &TcpStream,
        connection: &mut Connection,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fail>> {
        let begun = self.carried();
        for _ in 0..READS_PER_POLL {
            ready!(connection.poll_flush(cx))
                .map_err(|_| self.send_failed(application, connection))?;
            if !self.stream.may_send() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_batch(application, connection, cx))?;
            if self.carried() - begun >= BYTES_PER_POLL {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One read from the application, and the sending of it.
    fn poll_batch(
        &mut self,
        application: &TcpStream,
        connection: &mut Connection,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fail>> {
        let credit = self.credit().min(connection.takes_at_once());
        if credit == 0 && self.resend.is_empty() {
            // The ACCEPT will wake us: it is read by this task.
            return Poll::Pending;
        }
        with_batch(|batch| {
            batch.begin(&self.prefix);
            let filled = if self.resend.is_empty() && !self.application_ended {
                match self.fill(application, batch, credit, cx) {
                    Poll::Ready(filled) => filled?,
                    Poll::Pending if self.prefix_due && !self.prefix.is_empty() => Filled::Nothing,
                    Poll::Pending => return Poll::Pending,
                }
            } else {
                let resend = std::mem::take(&mut self.resend);
                batch.copy_in(&resend);
                if self.application_ended {
                    Filled::End
                } else {
                    Filled::Some
                }
            };
            self.seal_and_send(batch, filled, connection)
                .map_err(|_| self.send_failed(application, connection))?;
            Poll::Ready(Ok(()))
        })
    }

    fn fill(
        &mut self,
        application: &TcpStream,
        batch: &mut Batch,
        credit: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Filled, Fail>> {
        loop {
            ready!(application.poll_read_ready(cx)).map_err(|_| Fail::Application)?;
            let room = room(credit);
            match batch.read(application, self.wide, room) {
                Ok(filled) => {
                    self.wide = batch.is_wide();
                    self.application_ended = filled == Filled::End;
                    self.keep(batch);
                    return Poll::Ready(Ok(filled));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(Err(Fail::Application)),
            }
        }
    }

    pub(super) fn seal_and_send(
        &mut self,
        batch: &mut Batch,
        filled: Filled,
        connection: &mut Connection,
    ) -> Result<(), Broken> {
        connection.before_seal()?;
        let ends = filled == Filled::End;
        let generation = self.stream.generation();
        let sealed = batch.seal(&mut connection.layer, generation, ends)?;
        connection.send(sealed)?;
        self.prefix = Prefix::new();
        self.count_sent(batch.data_len() as u64);
        if ends {
            self.stream.fin();
        }
        Ok(())
    }

    /// What was read, until the peer has accepted. On a new connection the
    /// application is not held back for that: more than the credit is not kept.
    pub(super) fn keep(&mut self, batch: &Batch) {
        if let Some(replay) = &mut self.replay {
            if self.held_back || replay.len() + batch.data_len() <= CREDIT_BYTES {
                batch.copy_out(replay);
            } else {
                self.replay = None;
            }
        }
    }

    /// Bytes that may be read from the application now.
    pub(super) fn credit(&self) -> usize {
        match &self.replay {
            Some(sent) if self.held_back && !self.stream.is_accepted() => {
                CREDIT_BYTES.saturating_sub(sent.len())
            }
            _ => usize::MAX,
        }
    }

    /// A failed write is the proof that the peer had closed before, and took
    /// nothing, while nothing of the stream was ever sent. After that only what
    /// the peer has said counts: it may have answered, and left what else was sent.
    pub(super) fn send_failed(
        &mut self,
        application: &impl Taker,
        connection: &mut Connection,
    ) -> Fail {
        let untouched = self.role == Role::Client && self.replay.is_some();
        let never_begun = !self.prefix.is_empty() && connection.unsent.is_empty();
        if untouched && (never_begun || connection.nothing_was_sent()) {
            Fail::End(StreamEnd::NotTaken)
        } else if self.role == Role::Client {
            self.last_words(application, connection)
        } else {
            Fail::Connection(Broken::Lost)
        }
    }
}
