//! What a client begins with, without taking it.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::io::with_scratch;

/// Looks at the first bytes, `most` of them, until `judge` can tell; `None` where
/// the client ends its direction, or fails, before that.
pub(super) async fn peek_until<T>(
    client: &TcpStream,
    most: usize,
    judge: impl Fn(&[u8]) -> Option<T>,
) -> Option<T> {
    let mut seen = 0;
    // Who looked before, in vain, has cleared the readiness for what is there.
    match look(client, most, &mut seen, &judge) {
        Ok(Some(told)) => return Some(told),
        Ok(None) => {}
        Err(e) if e.kind() == ErrorKind::WouldBlock => {}
        Err(_) => return None,
    }
    loop {
        let ready = client.ready(Interest::READABLE).await.ok()?;
        match peek_once(client, most, &mut seen, &judge) {
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

/// Judges what is there already; `None` also where nothing is.
pub(super) fn peek_now<T>(
    client: &TcpStream,
    most: usize,
    judge: impl Fn(&[u8]) -> Option<T>,
) -> Option<T> {
    peek_once(client, most, &mut 0, &judge).ok().flatten()
}

/// Judges what is there, if it is more than `seen` bytes; else the socket's
/// readiness is cleared, so that the next bytes wake us.
fn peek_once<T>(
    client: &TcpStream,
    most: usize,
    seen: &mut usize,
    judge: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<Option<T>> {
    client.try_io(Interest::READABLE, || look(client, most, seen, judge))
}

fn look<T>(
    client: &TcpStream,
    most: usize,
    seen: &mut usize,
    judge: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<Option<T>> {
    let mut peek = |buffer: &mut [u8]| {
        let n = recv(client.as_raw_fd(), buffer, MsgFlags::MSG_PEEK)?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if n <= *seen {
            return Err(ErrorKind::WouldBlock.into());
        }
        *seen = n;
        Ok(judge(&buffer[..n]))
    };
    // The worker's own buffer: each connection pays for its bytes, not for the most.
    with_scratch(|scratch| peek(&mut scratch[..most]))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt as _;
    use tokio::time::timeout;

    use super::*;
    use crate::tls::tests::support::sockets;

    #[tokio::test]
    async fn what_somebody_looked_at_in_vain_is_there_for_the_next_one() {
        let (mut client, server) = sockets().await;
        client.write_all(b"begun").await.expect("write");
        let never = peek_until(&server, 100, |_| None::<()>);
        let waited = timeout(Duration::from_millis(50), never).await;
        assert!(waited.is_err());
        let length = peek_until(&server, 100, |bytes| Some(bytes.len()));
        let told = timeout(Duration::from_secs(5), length).await;
        assert_eq!(told.expect("in time"), Some(5));
    }
}
