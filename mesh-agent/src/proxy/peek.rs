//! What a client begins with, without taking it.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Looks at the first bytes, `MOST` at most, until `judge` can tell; `None` where
/// the client ends its direction, or fails, before that.
pub(super) async fn look<const MOST: usize, T>(
    client: &TcpStream,
    judge: impl Fn(&[u8]) -> Option<T>,
) -> Option<T> {
    let mut seen = 0;
    loop {
        let ready = client.ready(Interest::READABLE).await.ok()?;
        match look_once::<MOST, T>(client, &mut seen, &judge) {
            Ok(Some(told)) => return Some(told),
            Ok(None) => {}
            // The client's FIN behind part of it: nothing more will come, and this
            // readiness is never cleared, so waiting would be a spin.
            Err(e) if e.kind() == ErrorKind::WouldBlock && ready.is_read_closed() => return None,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
}

/// Judges what is there, if it is more than `seen` bytes; else the socket's
/// readiness is cleared, so that the next bytes wake us.
fn look_once<const MOST: usize, T>(
    client: &TcpStream,
    seen: &mut usize,
    judge: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<Option<T>> {
    client.try_io(Interest::READABLE, || {
        let mut buffer = [0; MOST];
        let n = recv(client.as_raw_fd(), &mut buffer, MsgFlags::MSG_PEEK)?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if n <= *seen {
            return Err(ErrorKind::WouldBlock.into());
        }
        *seen = n;
        Ok(judge(&buffer[..n]))
    })
}
