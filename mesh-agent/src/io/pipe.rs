//! Pipes for splice: a few per worker, lent to a direction only while they
//! hold bytes of it.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
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
    /// Descriptors of this number and above are not for pipes.
    files: Option<usize>,
}

impl Pool {
    /// `None` where a new one would have to be of what is kept for others.
    fn make(&self) -> Option<Ends> {
        let (read, write) = splice::pipe(PIPE_BYTES).ok()?;
        let ends = Ends { read, write };
        // The kernel gives the lowest number that is free.
        let is_kept = |files: usize| {
            [&ends.read, &ends.write]
                .into_iter()
                .any(|end| usize::try_from(end.as_raw_fd()).is_ok_and(|number| number >= files))
        };
        (!self.files.is_some_and(is_kept)).then_some(ends)
    }
}

/// Has the calling thread make no pipe of descriptors from that number on.
pub(crate) fn keep_files_from(number: usize) {
    POOL.with_borrow_mut(|pool| pool.files = Some(number));
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
    /// `None`: all are in use, or the process has no descriptors left for them.
    fn lend() -> Option<Self> {
        POOL.with_borrow_mut(|pool| {
            if Arc::strong_count(&pool.lent) > MAX_LENT {
                return None;
            }
            let ends = pool.spare.pop().or_else(|| pool.make())?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pipe_is_made_of_descriptors_that_are_kept_for_others() {
        // The pool is the thread's own.
        let made = Pipe::lend().expect("without a bound");
        drop(made);
        keep_files_from(0);
        let spare = Pipe::lend().expect("one that is there already");
        assert!(Pipe::lend().is_none());
        drop(spare);
        keep_files_from(usize::MAX);
        assert!(Pipe::lend().is_some());
    }
}
