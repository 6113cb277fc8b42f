//! One side of an exchange: a socket, or a stream of a connection between agents.

use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::AsRawFd as _;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{MsgFlags, recv};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::inbox::Inbox;
use crate::detect;
use crate::io::{poll_read, room, with_scratch};
use crate::sys::socket;
use crate::tunnel::{Connection, Relay, StreamEnd};

/// Duplex bytes, whatever carries them.
pub(in crate::proxy) enum ByteStream<'l> {
    Socket(&'l TcpStream),
    Stream {
        relay: &'l mut Relay,
        connection: &'l mut Connection,
    },
    /// Nobody waits for the answer: so many bytes more of it are taken.
    Nobody(&'l mut u64),
}

/// A stream, and what was read from it ahead.
pub(in crate::proxy) struct Side<'l> {
    pub(in crate::proxy) stream: ByteStream<'l>,
    pub(in crate::proxy) inbox: &'l mut Inbox,
}

/// The most that one read adds to what nobody has looked at yet.
const READ_AHEAD: usize = 16 * 1024;

impl ByteStream<'_> {
    /// 0 is the end of what comes.
    pub(in crate::proxy) fn poll_read(
        &mut self,
        buffer: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, StreamEnd>> {
        match self {
            Self::Socket(socket) => poll_read(socket, buffer, cx).map_err(failed),
            Self::Stream { relay, connection } => relay.poll_read(buffer, connection, cx),
            Self::Nobody(_) => Poll::Pending,
        }
    }

    /// Takes of `parts` what can go now.
    pub(in crate::proxy) fn poll_write(
        &mut self,
        parts: &[IoSlice<'_>],
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, StreamEnd>> {
        match self {
            Self::Socket(socket) => poll_write(socket, parts, cx).map_err(untaken),
            Self::Stream { relay, connection } => relay.poll_write(parts, connection, cx),
            Self::Nobody(left) => Poll::Ready(thrown_away(left, parts)),
        }
    }

    /// What is worth being read for it at once: more would wait here.
    pub(in crate::proxy) fn takes_at_once(&self) -> usize {
        match self {
            Self::Socket(_) | Self::Nobody(_) => usize::MAX,
            Self::Stream { connection, .. } => connection.takes_at_once(),
        }
    }

    /// What was taken is on its way.
    pub(in crate::proxy) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamEnd>> {
        match self {
            Self::Socket(_) | Self::Nobody(_) => Poll::Ready(Ok(())),
            Self::Stream { relay, connection } => relay.poll_flush(connection, cx),
        }
    }

    /// Passes FIN on.
    pub(in crate::proxy) fn poll_finish(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamEnd>> {
        match self {
            Self::Socket(socket) => {
                let ended = SockRef::from(*socket).shutdown(Shutdown::Write);
                Poll::Ready(ended.map_err(failed))
            }
            Self::Stream { relay, connection } => relay.poll_finish(connection, cx),
            Self::Nobody(_) => Poll::Ready(Ok(())),
        }
    }

    /// Ends in order, and reads what still comes to its end.
    pub(in crate::proxy) async fn leave(&mut self) {
        if poll_fn(|cx| self.poll_finish(cx)).await.is_err() {
            return;
        }
        let more = |stream: &mut Self, cx: &mut Context<'_>| {
            with_scratch(|scratch| stream.poll_read(scratch, cx))
        };
        while poll_fn(|cx| more(self, cx)).await.is_ok_and(|n| n > 0) {}
    }

    /// As [`socket::has_ended`]; of all others that is seen by who reads.
    pub(super) fn has_ended(&self) -> bool {
        match self {
            Self::Socket(of) => socket::has_ended(*of),
            Self::Stream { .. } | Self::Nobody(_) => false,
        }
    }

    /// Nothing has come that is not read, nor an end; of all others that is seen by who reads.
    pub(super) fn is_quiet(&self) -> bool {
        match self {
            Self::Socket(of) => is_quiet(of),
            Self::Stream { .. } | Self::Nobody(_) => true,
        }
    }

    /// It is an application's own connection, no stream between agents.
    pub(in crate::proxy) fn is_socket(&self) -> bool {
        matches!(self, Self::Socket(_))
    }

    /// The other end has taken the connection, as far as is known here.
    pub(in crate::proxy) fn is_accepted(&self) -> bool {
        match self {
            Self::Socket(_) | Self::Nobody(_) => true,
            Self::Stream { relay, .. } => relay.is_accepted(),
        }
    }

    /// The other agent has not been told yet that its stream is taken.
    pub(super) fn is_opening(&self) -> bool {
        match self {
            Self::Socket(_) | Self::Nobody(_) => false,
            Self::Stream { relay, .. } => relay.is_opening(),
        }
    }

    /// The other agent is to be told now that its stream is taken.
    pub(in crate::proxy) fn accept_is_due(&mut self) {
        if let Self::Stream { relay, .. } = self {
            relay.accept_is_due();
        }
    }
}

impl Side<'_> {
    /// Reads some more; false at the end of what comes.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, StreamEnd>> {
        with_scratch(|scratch| {
            let room = room(READ_AHEAD).min(scratch.len());
            let n = ready!(self.stream.poll_read(&mut scratch[..room], cx))?;
            self.inbox.extend(&scratch[..n]);
            Poll::Ready(Ok(n > 0))
        })
    }
}

/// An error when there is too much of it.
fn thrown_away(left: &mut u64, parts: &[IoSlice<'_>]) -> Result<usize, StreamEnd> {
    let all: usize = parts.iter().map(|part| part.len()).sum();
    *left = left.saturating_sub(all as u64);
    match *left {
        0 => Err(StreamEnd::ResetByApplication),
        _ => Ok(all),
    }
}

fn failed(_: io::Error) -> StreamEnd {
    StreamEnd::ResetByApplication
}

/// Why nothing is taken: a reset behind an end in order is told apart from any other, once.
fn untaken(error: io::Error) -> StreamEnd {
    match error.kind() == ErrorKind::BrokenPipe {
        true => StreamEnd::Finished,
        false => StreamEnd::ResetByApplication,
    }
}

fn poll_write(
    to: &TcpStream,
    parts: &[IoSlice<'_>],
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(to.poll_write_ready(cx))?;
        match to.try_write_vectored(parts) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}

/// Between two messages nothing comes on the socket, nor its end. Asks the kernel:
/// the word of an end may be on its way to the runtime.
pub(in crate::proxy) fn is_quiet(socket: &TcpStream) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    let peeked = SockRef::from(socket).peek(&mut byte);
    peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// A server of HTTP/2 has greeted, and waits for its client all the same.
pub(in crate::proxy) fn has_settings(socket: &TcpStream) -> bool {
    let mut begin = [0; 9];
    let peeked = recv(socket.as_raw_fd(), &mut begin, MsgFlags::MSG_PEEK);
    peeked.is_ok_and(|n| detect::http2_settings(&begin[..n]) == Some(true))
}
