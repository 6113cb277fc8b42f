//! Reading that knows when a socket is empty.

use std::io::{self, ErrorKind};

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
