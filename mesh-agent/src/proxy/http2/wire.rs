//! A side as the stream of bytes that crate h2 reads and writes.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::io::{room, with_scratch};
use crate::model::ByteCounts;
use crate::proxy::http::Side;
use crate::tunnel::StreamEnd;

/// What is seen of a wire from outside.
#[derive(Debug, Default)]
pub(super) struct Seen {
    read: Cell<u64>,
    written: Cell<u64>,
    /// How it failed.
    failed: Cell<Option<StreamEnd>>,
}

impl Seen {
    /// Of a client's wire.
    pub(super) fn bytes(&self) -> ByteCounts {
        ByteCounts {
            sent: self.read.get(),
            received: self.written.get(),
        }
    }

    pub(super) fn failed(&self) -> Option<StreamEnd> {
        self.failed.get()
    }
}

pub(super) struct Wire<'w, 'l> {
    side: &'w mut Side<'l>,
    seen: Rc<Seen>,
}

impl<'w, 'l> Wire<'w, 'l> {
    pub(super) fn new(side: &'w mut Side<'l>, seen: Rc<Seen>) -> Self {
        Self { side, seen }
    }

    fn failed(&self, end: StreamEnd) -> io::Error {
        self.seen.failed.set(Some(end));
        io::Error::from(io::ErrorKind::ConnectionReset)
    }
}

fn add(cell: &Cell<u64>, n: usize) {
    cell.set(cell.get() + n as u64);
}

impl AsyncRead for Wire<'_, '_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        let ahead = wire.side.inbox.bytes();
        if !ahead.is_empty() {
            let n = ahead.len().min(buffer.remaining());
            buffer.put_slice(&ahead[..n]);
            wire.side.inbox.consume(n);
            add(&wire.seen.read, n);
            return Poll::Ready(Ok(()));
        }
        // Not into the buffer itself: all of it would have to be overwritten before.
        let read = with_scratch(|scratch| {
            let room = room(buffer.remaining()).min(scratch.len());
            let read = ready!(wire.side.stream.poll_read(&mut scratch[..room], cx));
            Poll::Ready(read.inspect(|n| buffer.put_slice(&scratch[..*n])))
        });
        let n = ready!(read).map_err(|end| wire.failed(end))?;
        add(&wire.seen.read, n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire<'_, '_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        let written = ready!(wire.side.stream.poll_write(parts, cx));
        let n = written.map_err(|end| wire.failed(end))?;
        add(&wire.seen.written, n);
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        let flushed = ready!(wire.side.stream.poll_flush(cx));
        Poll::Ready(flushed.map_err(|end| wire.failed(end)))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        let finished = ready!(wire.side.stream.poll_finish(cx));
        Poll::Ready(finished.map_err(|end| wire.failed(end)))
    }
}
