//! A connection's bytes, counted as they are read; of a server's, what says something.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::Frames;
use super::window::Unread;

#[derive(Debug)]
pub(super) struct Counted<T> {
    io: T,
    unread: Arc<Unread>,
    frames: Option<Frames>,
}

impl<T> Counted<T> {
    pub(super) fn new(io: T, unread: Arc<Unread>) -> Self {
        Self {
            io,
            unread,
            frames: None,
        }
    }

    /// `greeted`: its first frame has come.
    pub(super) fn of_server(io: T, unread: Arc<Unread>, greeted: Arc<AtomicBool>) -> Self {
        let frames = Some(Frames::new(greeted));
        Self { io, unread, frames }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let Self { io, frames, .. } = &mut *self;
        let io = Pin::new(io);
        ready!(match frames {
            Some(frames) => frames.poll_read(io, cx, buffer),
            None => io.poll_read(cx, buffer),
        })?;
        self.unread.read(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
