//! One direction of a relay.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::Side;

/// Fits the second-level cache: 128 to 256 KiB measured best.
const SCRATCH_BYTES: usize = 256 * 1024;
/// Reads per turn, so that a bulk stream lets its neighbours run.
const TURN: usize = 4;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

#[derive(Debug, Default)]
pub(super) struct Pump {
    /// Read and not yet written; empty, without memory, most of the time.
    rest: Vec<u8>,
    /// How much of `rest` is written.
    taken: usize,
    passed: u64,
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

    /// Moves what can be moved. Ready when FIN has been passed on.
    pub(super) fn poll(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Side>> {
        for _ in 0..TURN {
            ready!(self.poll_flush(to, cx)).map_err(|_| Side::To)?;
            match self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    // Fails only when the peer is gone, which its own direction reports.
                    let _gone = SockRef::from(to).shutdown(Shutdown::Write);
                    self.state = State::Ended;
                    return Poll::Ready(Ok(()));
                }
                State::Open => ready!(self.poll_move(from, to, cx))?,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_flush(&mut self, to: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.taken < self.rest.len() {
            ready!(to.poll_write_ready(cx))?;
            let (rest, taken) = (&self.rest, self.taken);
            match to.try_write(&rest[taken..]) {
                Ok(n) => {
                    self.taken += n;
                    self.passed += n as u64;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        if !self.rest.is_empty() {
            self.rest = Vec::new();
            self.taken = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// One read, and the write of it.
    fn poll_move(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Side>> {
        ready!(from.poll_read_ready(cx)).map_err(|_| Side::From)?;
        SCRATCH.with_borrow_mut(|scratch| {
            let n = match read(from, scratch) {
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
            self.rest.extend_from_slice(&scratch[written..n]);
            Poll::Ready(Ok(()))
        })
    }
}

/// A read that clears readiness when it was short: the socket is empty then,
/// and asking again would cost a call for EAGAIN. A FIN behind the data is not
/// lost, for "read closed" outlives the clearing.
fn read(from: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
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
