//! One direction of a relay.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::net::TcpStream;

use super::held::room;
use super::pipe::Pipe;
use super::read::read;
use super::rest::Rest;

/// Fits the second-level cache: 128 to 256 KiB measured best.
const SCRATCH_BYTES: usize = 256 * 1024;
/// Reads per turn, so that a bulk stream lets its neighbours run; and no more once so
/// much has passed, which takes about as long as a pod's turn.
const READS_PER_POLL: usize = 4;
pub(crate) const BYTES_PER_POLL: u64 = SCRATCH_BYTES as u64;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

/// This worker's buffer, for one read and what becomes of it at once.
pub(crate) fn with_scratch<T>(f: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| f(scratch))
}

/// A stream goes through a pipe after this much without small reads; from then
/// on the second small read in a row ends it.
const BULK_BYTES: u32 = 1 << 20;
const SMALL_READ: u32 = 4 * 1024;

/// Which socket failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    From,
    To,
}

#[derive(Debug, Default)]
pub(super) struct Pump {
    rest: Rest,
    passed: u64,
    /// What was read lately, at most twice `BULK_BYTES`; halved by a small read.
    bulk: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// FIN came; what is left in `rest` goes first.
    Ending,
    /// FIN was passed on.
    Ended,
}

impl Pump {
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// FIN came.
    pub(super) fn has_ended(&self) -> bool {
        self.state != State::Open
    }

    /// Moves what can be moved. Ready when FIN has been passed on.
    pub(super) fn poll(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Side>> {
        let begun = self.passed;
        for _ in 0..READS_PER_POLL {
            ready!(self.rest.poll_flush(to, &mut self.passed, cx)).map_err(|_| Side::To)?;
            match self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    // Fails when the peer is gone: it did not get the end, and
                    // its own direction may have nothing left to fail with.
                    let passed_on = SockRef::from(to).shutdown(Shutdown::Write);
                    passed_on.map_err(|_| Side::To)?;
                    self.state = State::Ended;
                    return Poll::Ready(Ok(()));
                }
                State::Open => ready!(self.poll_move(from, to, cx))?,
            }
            if self.passed - begun >= BYTES_PER_POLL {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One read; what `to` does not take at once is the rest.
    fn poll_move(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Side>> {
        ready!(from.poll_read_ready(cx)).map_err(|_| Side::From)?;
        if self.bulk >= BULK_BYTES
            && let Some(pipe) = Pipe::fill(from).map_err(|_| Side::From)?
        {
            self.note(pipe.bytes());
            self.rest = Rest::Piped(pipe);
            return Poll::Ready(Ok(()));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let room = room(scratch.len());
            let n = match read(from, &mut scratch[..room]) {
                Ok(0) => {
                    self.state = State::Ending;
                    return Poll::Ready(Ok(()));
                }
                Ok(n) => n,
                // Readiness was stale and is cleared now: the next poll registers.
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Poll::Ready(Ok(())),
                Err(_) => return Poll::Ready(Err(Side::From)),
            };
            let written = match to.try_write(&scratch[..n]) {
                Ok(written) => written,
                Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => return Poll::Ready(Err(Side::To)),
            };
            self.passed += written as u64;
            self.rest = Rest::copied(&scratch[written..n]);
            self.note(n);
            Poll::Ready(Ok(()))
        })
    }

    fn note(&mut self, n: usize) {
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        self.bulk = if n < SMALL_READ {
            self.bulk / 2
        } else {
            self.bulk.saturating_add(n).min(2 * BULK_BYTES)
        };
    }
}
