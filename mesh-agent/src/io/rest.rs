//! What was taken from one socket and not yet by the other.

use std::io::{self, ErrorKind};
use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

use super::held::Held;
use super::pipe::Pipe;

/// Nothing, without memory, most of the time.
#[derive(Debug, Default)]
pub(super) enum Rest {
    #[default]
    Nothing,
    Copied {
        bytes: Held,
        /// How much of it is written.
        taken: usize,
    },
    Piped(Pipe),
}

impl Rest {
    pub(super) fn copied(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::Nothing;
        }
        Self::Copied {
            bytes: Held::copied(bytes),
            taken: 0,
        }
    }

    /// Ready when nothing is left; what was written is added to `passed`.
    pub(super) fn poll_flush(
        &mut self,
        to: &TcpStream,
        passed: &mut u64,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            ready!(to.poll_write_ready(cx))?;
            match self.write(to) {
                Ok(n) => *passed += n as u64,
                // Readiness was stale and is cleared now.
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        *self = Self::Nothing;
        Poll::Ready(Ok(()))
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Copied { bytes, taken } => *taken == bytes.len(),
            Self::Piped(pipe) => pipe.bytes() == 0,
        }
    }

    fn write(&mut self, to: &TcpStream) -> io::Result<usize> {
        match self {
            Self::Nothing => Ok(0),
            Self::Copied { bytes, taken } => {
                let n = to.try_write(&bytes[*taken..])?;
                *taken += n;
                Ok(n)
            }
            Self::Piped(pipe) => pipe.drain(to),
        }
    }
}
