//! epoll, level-triggered, with the descriptor itself as the token.

use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd};

/// An epoll set.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    pub fn new() -> Result<Self> {
        // SAFETY: takes no pointer.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: just made, and owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Tells when there is something to read; a closed descriptor leaves by itself.
    pub fn add(&self, fd: &impl AsRawFd) -> Result<()> {
        self.register(fd, libc::EPOLLIN)
    }

    /// The same for a descriptor in several sets: wakes one of them.
    pub fn add_exclusive(&self, fd: &impl AsRawFd) -> Result<()> {
        self.register(fd, libc::EPOLLIN | libc::EPOLLEXCLUSIVE)
    }

    /// Tells only of an error, or when both directions have ended: always told.
    pub fn add_for_errors(&self, fd: &impl AsRawFd) -> Result<()> {
        self.register(fd, 0)
    }

    /// No longer tells of it.
    pub fn remove(&self, fd: &impl AsRawFd) -> Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0)
    }

    fn register(&self, fd: &impl AsRawFd, events: i32) -> Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, events)
    }

    fn control(&self, what: i32, fd: &impl AsRawFd, events: i32) -> Result<()> {
        let fd = fd.as_raw_fd();
        let mut event = libc::epoll_event {
            events: events.cast_unsigned(),
            u64: u64::from(fd.cast_unsigned()),
        };
        // SAFETY: the kernel reads `event` during the call only.
        let rc = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), what, fd, &raw mut event) };
        if rc < 0 {
            return Err(Error::last_os_error());
        }
        Ok(())
    }

    /// Waits; the ready descriptors go to `ready`.
    pub fn wait(&self, timeout_ms: i32, ready: &mut Vec<RawFd>) -> Result<()> {
        const MOST: usize = 256;
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; MOST];
        ready.clear();
        // SAFETY: the kernel writes at most MOST events into the array.
        let n = unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                MOST as i32,
                timeout_ms,
            )
        };
        if n < 0 {
            let error = Error::last_os_error();
            if error.kind() == std::io::ErrorKind::Interrupted {
                return Ok(());
            }
            return Err(error);
        }
        let n = usize::try_from(n).unwrap_or(0);
        // The token is a descriptor, put in by `register`.
        ready.extend(events[..n].iter().map(|e| e.u64 as RawFd));
        Ok(())
    }
}
