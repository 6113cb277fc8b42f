//! A connection's bytes, counted as they are read, a budget's at a time; of a server's, what
//! says something. Of lines no more go on than somebody would look at.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::blocks::{Blocks, Most};
use super::frames::Frames;
use super::window::Unread;

/// A client's bytes before its first frame.
const PREFACE: usize = 24;

#[derive(Debug)]
pub(super) struct Counted<T> {
    io: T,
    unread: Arc<Unread>,
    frames: Option<Frames>,
    blocks: Blocks,
}

impl<T> Counted<T> {
    pub(super) fn of_client(io: T, unread: Arc<Unread>, most: Most) -> Self {
        Self {
            io,
            unread,
            frames: None,
            blocks: Blocks::new(most, PREFACE),
        }
    }

    /// `greeted`: its first frame has come.
    pub(super) fn of_server(
        io: T,
        (unread, greeted): (Arc<Unread>, Arc<AtomicBool>),
        most: Most,
    ) -> Self {
        Self {
            io,
            unread,
            frames: Some(Frames::new(greeted)),
            blocks: Blocks::new(most, 0),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.may_read(cx) {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let Self {
            io,
            frames,
            unread,
            blocks,
        } = &mut *self;
        let io = Pin::new(io);
        ready!(match frames {
            Some(frames) => frames.poll_read(io, cx, buffer),
            None => io.poll_read(cx, buffer),
        })?;
        let came = &buffer.filled()[before..];
        unread.read(came.len());
        let most = blocks.most().kept;
        if blocks.pass(came, |stream, kept| unread.ends(stream, kept, most))
            && !unread.is_too_much()
        {
            return Poll::Ready(Ok(()));
        }
        // It is all over, and whoever drives the connection is about to look.
        unread.has_too_much();
        buffer.set_filled(before);
        Poll::Pending
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
