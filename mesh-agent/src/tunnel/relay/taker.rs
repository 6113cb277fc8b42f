//! Where the bytes of a stream go that the peer sent.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::net::TcpStream;

/// An application's socket, or a caller's buffer.
pub(super) trait Taker {
    /// Ready when it takes at least a byte more, as far as is known.
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// As much as it takes now; one that is full takes nothing.
    fn take(&self, parts: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Nothing comes behind what it took.
    fn end(&self);
}

impl Taker for TcpStream {
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_ready(cx)
    }

    fn take(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.try_write_vectored(parts) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }

    fn end(&self) {
        // Fails only when the application is gone, which its own direction reports.
        let _gone = SockRef::from(self).shutdown(Shutdown::Write);
    }
}

/// A buffer; once it is full it stays so.
pub(super) struct Buffer<'b> {
    bytes: RefCell<&'b mut [u8]>,
    filled: Cell<usize>,
}

impl<'b> Buffer<'b> {
    pub(super) fn new(bytes: &'b mut [u8]) -> Self {
        Self {
            bytes: RefCell::new(bytes),
            filled: Cell::new(0),
        }
    }

    pub(super) fn filled(&self) -> usize {
        self.filled.get()
    }
}

impl Taker for Buffer<'_> {
    fn poll_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.filled.get() < self.bytes.borrow().len() {
            true => Poll::Ready(Ok(())),
            // Whoever lent it looks at what it has, and comes again.
            false => Poll::Pending,
        }
    }

    fn take(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut bytes = self.bytes.borrow_mut();
        let before = self.filled.get();
        let mut at = before;
        for part in parts {
            let n = part.len().min(bytes.len() - at);
            bytes[at..at + n].copy_from_slice(&part[..n]);
            at += n;
        }
        self.filled.set(at);
        Ok(at - before)
    }

    fn end(&self) {}
}
