//! What carries a connection's bytes: a socket, or a channel of a shared connection.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::net::TcpStream;

use super::broken::Broken;
use super::shared::{Channel, ChannelEnd};
use crate::io::{poll_read, read, reset_on_close};

pub(super) enum Wire {
    /// Shared with who waits for its failure.
    Socket(Arc<TcpStream>),
    Channel(Channel),
}

/// The same, for who waits for its failure.
pub(crate) enum Carrier {
    Socket(Arc<TcpStream>),
    Channel(ChannelEnd),
}

impl Wire {
    pub(super) fn carrier(&self) -> Carrier {
        match self {
            Self::Socket(socket) => Carrier::Socket(socket.clone()),
            Self::Channel(channel) => Carrier::Channel(channel.end()),
        }
    }

    /// 0 is the end of what comes.
    pub(super) fn poll_read(
        &self,
        buffer: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Socket(socket) => poll_read(socket, buffer, cx),
            Self::Channel(channel) => channel.poll_read(buffer, cx),
        }
    }

    /// What is there now.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => read(socket, buffer),
            Self::Channel(channel) => channel.try_read(buffer),
        }
    }

    /// The same, whatever the readiness says.
    pub(super) fn read_rest(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => io::Read::read(&mut &*SockRef::from(&**socket), buffer),
            Self::Channel(channel) => channel.try_read(buffer),
        }
    }

    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.try_write(bytes),
            Self::Channel(channel) => channel.try_write(bytes),
        }
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Socket(socket) => socket.poll_write_ready(cx),
            Self::Channel(channel) => channel.poll_write_ready(cx),
        }
    }

    /// Ends the own direction; a channel has no end of its own but its close.
    pub(super) fn hang_up(&self) {
        if let Self::Socket(socket) = self {
            // Fails only where the peer has closed already.
            let _gone = SockRef::from(&**socket).shutdown(Shutdown::Write);
        }
    }

    /// Closing will send RST, past what the peer has not read.
    pub(super) fn reset_on_close(&self) {
        if let Self::Socket(socket) = self {
            reset_on_close(&**socket);
        }
    }

    /// What is worth being read for it at once. A socket's buffers are the kernel's.
    pub(super) fn takes_at_once(&self) -> usize {
        match self {
            Self::Socket(_) => usize::MAX,
            Self::Channel(channel) => channel.takes_at_once(),
        }
    }

    /// It has ended, and nothing that was written to it ever left. What goes into a socket may
    /// have arrived.
    pub(super) fn nothing_was_sent(&self) -> bool {
        match self {
            Self::Socket(_) => false,
            Self::Channel(channel) => channel.nothing_was_sent(),
        }
    }

    /// Why nothing more comes. Of a socket no more is known than that.
    pub(super) fn broken(&self) -> Broken {
        match self {
            Self::Socket(_) => Broken::Lost,
            Self::Channel(channel) => channel.broken(),
        }
    }

    /// Nothing is known of an end of what carries it that has not been read yet. What comes on
    /// a socket its reader sees.
    pub(super) fn is_whole(&self) -> bool {
        match self {
            Self::Socket(_) => true,
            Self::Channel(channel) => channel.is_whole(),
        }
    }
}
