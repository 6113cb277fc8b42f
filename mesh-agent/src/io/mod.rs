//! The relay: copies both directions of one connection.
//!
//! One future for both directions, one scratch buffer per worker thread; a
//! connection owns memory only for bytes that its peer did not take yet, at
//! most one read, all together within a budget. Bulk goes through a pipe in the kernel instead (splice), as
//! long as it is bulk and the worker's few pipes last. FIN is passed on as FIN after everything before it, an error
//! is reported so that the caller passes it on as RST.

mod held;
mod pipe;
mod pump;
mod rest;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::task::Poll;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::model::{ByteCounts, ByteMeter};
pub use held::{Held, held, limit_held, room};
pub use pipe::keep_files_from;
use pump::Pump;

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both directions were closed with FIN.
    Finished,
    ResetByClient,
    ResetByUpstream,
}

/// Which socket failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    From,
    To,
}

/// The relay of one connection.
#[derive(Debug, Default)]
pub struct Relay {
    sent: Pump,
    received: Pump,
    meter: Option<Arc<ByteMeter>>,
}

impl Relay {
    /// Application bytes passed on so far.
    #[must_use]
    pub fn bytes(&self) -> ByteCounts {
        ByteCounts {
            sent: self.sent.passed(),
            received: self.received.passed(),
        }
    }

    /// Shows the bytes there from now on, after each turn.
    pub fn show(&mut self, meter: Arc<ByteMeter>) {
        meter.set(self.bytes());
        self.meter = Some(meter);
    }

    /// Copies until both directions have ended or one side failed. Cancel-safe:
    /// what was read and not written stays in the relay.
    pub async fn run(&mut self, client: &TcpStream, upstream: &TcpStream) -> End {
        poll_fn(|cx| {
            let sent = self.sent.poll(client, upstream, cx);
            if let Poll::Ready(Err(side)) = sent {
                return Poll::Ready(match side {
                    Side::From => End::ResetByClient,
                    Side::To => End::ResetByUpstream,
                });
            }
            let received = self.received.poll(upstream, client, cx);
            if let Some(meter) = &self.meter {
                meter.set(self.bytes());
            }
            if let Poll::Ready(Err(side)) = received {
                return Poll::Ready(match side {
                    Side::From => End::ResetByUpstream,
                    Side::To => End::ResetByClient,
                });
            }
            if sent.is_ready() && received.is_ready() {
                Poll::Ready(End::Finished)
            } else {
                Poll::Pending
            }
        })
        .await
    }
}

/// A read that clears readiness when it was short: the socket is empty then,
/// and asking again would cost a call for EAGAIN. A FIN behind the data is not
/// lost, for "read closed" outlives the clearing.
pub fn read(from: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut short = None;
    let full = from.try_io(Interest::READABLE, || {
        let n = io::Read::read(&mut &*SockRef::from(from), buffer)?;
        if n > 0 && n < buffer.len() {
            short = Some(n);
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(n)
    });
    short.map_or(full, Ok)
}
