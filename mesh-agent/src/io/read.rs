//! Reading that knows when a socket is empty.

use std::io::{self, ErrorKind};
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A read that clears readiness when it was short: the socket is empty then,
/// and asking again would cost a call for EAGAIN. A FIN behind the data is not
/// lost, for "read closed" outlives the clearing.
pub(crate) fn read(from: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut short = None;
    let full = from.try_io(Interest::READABLE, || {
        let n = io::Read::read(&mut &*SockRef::from(from), buffer)?;
        if n > 0 && n < buffer.len() {
            short = Some(n);
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(n)
    });
    short.map_or(full, Ok)
}

/// The same, once there is something; 0 is the end of what comes.
pub(crate) fn poll_read(
    from: &TcpStream,
    buffer: &mut [u8],
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(from.poll_read_ready(cx))?;
        match read(from, buffer) {
            // Readiness was stale and is cleared now: the next poll registers.
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}
