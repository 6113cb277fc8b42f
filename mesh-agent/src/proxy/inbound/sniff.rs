//! What a connection from elsewhere begins with, without taking it.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::detect::{Hello, client_hello};

/// A ClientHello of the mesh is about 1,600 bytes; more than this is none of ours.
const MAX_HELLO: usize = 8 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sniffed {
    /// A ClientHello that offers `mesh/1`.
    Mesh,
    /// Anything else, the application's own TLS included.
    Plaintext,
    /// Nothing that can be told apart within the deadline.
    Silent,
    /// A ClientHello that does not parse: refused, never passed on.
    Malformed,
    /// The client ended its direction, or failed, before that.
    Closed,
}

pub(super) async fn sniff(client: &TcpStream, deadline: Duration) -> Sniffed {
    match tokio::time::timeout(deadline, look(client)).await {
        Ok(sniffed) => sniffed,
        Err(_) => Sniffed::Silent,
    }
}

async fn look(client: &TcpStream) -> Sniffed {
    let mut seen = 0;
    loop {
        if client.readable().await.is_err() {
            return Sniffed::Closed;
        }
        match peek_more(client, &mut seen) {
            Ok(Hello::Mesh) => return Sniffed::Mesh,
            Ok(Hello::NotTls | Hello::OtherTls { .. }) => return Sniffed::Plaintext,
            // It claims to be TLS and is none that any server would take.
            Ok(Hello::Malformed) => return Sniffed::Malformed,
            Ok(Hello::NeedMore) if seen >= MAX_HELLO => return Sniffed::Plaintext,
            Ok(Hello::NeedMore) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Sniffed::Closed,
        }
    }
}

/// Judges what is there, if it is more than `seen` bytes; else the socket's
/// readiness is cleared, so that the next bytes wake us.
fn peek_more(client: &TcpStream, seen: &mut usize) -> io::Result<Hello> {
    client.try_io(Interest::READABLE, || {
        let mut buffer = [0; MAX_HELLO];
        let n = recv(client.as_raw_fd(), &mut buffer, MsgFlags::MSG_PEEK)?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if n <= *seen {
            return Err(ErrorKind::WouldBlock.into());
        }
        *seen = n;
        Ok(client_hello(&buffer[..n]))
    })
}
