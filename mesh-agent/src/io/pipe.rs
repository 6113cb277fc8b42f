//! Pipes for splice: a few per worker, lent to a direction only while they
//! hold bytes of it.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::sys::splice;

const PIPE_BYTES: i32 = 1 << 20;
/// Most pipes that hold bytes at once in one worker: others copy. Each takes
/// two descriptors, and up to 1 MiB of what was received.
pub(super) const MAX_LENT: usize = 64;
/// Empty ones that are kept for the next.
const MAX_SPARE: usize = 8;

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

#[derive(Default)]
struct Pool {
    spare: Vec<Ends>,
    /// One reference more than pipes are lent.
    lent: Arc<()>,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// A pipe that holds bytes which `to` did not take yet.
#[derive(Debug)]
pub(super) struct Pipe {
    /// `None` once it was given back.
    ends: Option<Ends>,
    bytes: usize,
    _lent: Arc<()>,
}

impl Pipe {
    /// `None`: all are in use, or the process has no descriptors left.
    fn lend() -> Option<Self> {
        POOL.with_borrow_mut(|pool| {
            if Arc::strong_count(&pool.lent) > MAX_LENT {
                return None;
            }
            let ends = pool.spare.pop().or_else(|| {
                let (read, write) = splice::pipe(PIPE_BYTES).ok()?;
                Some(Ends { read, write })
            })?;
            Some(Self {
                ends: Some(ends),
                bytes: 0,
                _lent: pool.lent.clone(),
            })
        })
    }

    /// Takes what `from` has. Readiness is left alone, and nothing says whether
    /// it was the end: when it is `None` the caller must read.
    pub(super) fn fill(from: &TcpStream) -> io::Result<Option<Self>> {
        let Some(mut pipe) = Self::lend() else {
            return Ok(None);
        };
        let Some(ends) = &pipe.ends else {
            return Ok(None);
        };
        match splice::transfer(from, &ends.write, PIPE_BYTES as usize) {
            Ok(0) => Ok(None),
            Ok(n) => {
                pipe.bytes = n;
                Ok(Some(pipe))
            }
            // Nothing there, urgent data, or a kind of socket that cannot do it.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::InvalidInput
                ) =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives `to` what it takes. The pipe is not empty, so that `WouldBlock` is
    /// the socket's, whose readiness it clears.
    pub(super) fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        let Some(ends) = &self.ends else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let n = to.try_io(Interest::WRITABLE, || {
            splice::transfer(&ends.read, to, self.bytes)
        })?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.bytes -= n;
        Ok(n)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // One that still holds bytes of a broken connection must not be lent again.
        let Some(ends) = self.ends.take().filter(|_| self.bytes == 0) else {
            return;
        };
        // While the thread ends there is no pool any more: the pipe is closed.
        let _ending = POOL.try_with(|pool| {
            let spare = &mut pool.borrow_mut().spare;
            if spare.len() < MAX_SPARE {
                spare.push(ends);
            }
        });
    }
}
