//! Opening connections in a pod's network namespace.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use socket2::Socket;
use tokio::net::TcpStream;

use super::limits::Limits;
use crate::model::RefuseReason;
use crate::plan::MayDial;
use crate::sys::{netns::Netns, socket};

/// Where a dial comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct From<'n> {
    pub(crate) netns: &'n Netns,
    /// The pod's own address.
    pub(crate) source: IpAddr,
    /// To be captured by the destination's agent, though that is this one.
    pub(crate) through: bool,
    /// Where not every port of the pod's will do.
    pub(crate) ports: Option<&'n RangeInclusive<u16>>,
    pub(crate) limits: &'n Limits,
}

/// From the pod's own address, over the pod's ordinary path.
pub(crate) async fn dial(
    may_dial: &impl MayDial,
    from: From<'_>,
    deadline: Duration,
) -> Result<TcpStream, RefuseReason> {
    let make = || match from.through {
        false => socket::dial_socket(from.source, from.ports),
        true => socket::dial_through_socket(from.source, from.ports),
    };
    let socket = start(from.netns, from.limits, make, may_dial.to());
    finish(socket.map_err(|e| reason(&e))?, from.source, deadline).await
}

/// Makes the socket and sends the SYN; the SYN's tuple is recorded on the way.
pub(crate) fn start(
    netns: &Netns,
    limits: &Limits,
    make: impl FnOnce() -> io::Result<Socket>,
    to: SocketAddr,
) -> io::Result<TcpStream> {
    let socket = netns.run(|| {
        let socket = make()?;
        if limits.is_held_back(&socket) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        match socket.connect(&to.into()) {
            Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
            _ => Ok(socket),
        }
    })??;
    TcpStream::from_std(socket.into())
}

/// Waits for the answer to the SYN.
pub(crate) async fn finish(
    stream: TcpStream,
    source: IpAddr,
    deadline: Duration,
) -> Result<TcpStream, RefuseReason> {
    match tokio::time::timeout(deadline, stream.writable()).await {
        Err(_) => return Err(RefuseReason::ConnectTimeout),
        Ok(Err(e)) => return Err(reason(&e)),
        Ok(Ok(())) => {}
    }
    match socket::connected(&stream, source) {
        Ok(()) => Ok(stream),
        Err(e) => Err(reason(&e)),
    }
}

/// What an error of a dial is to the connection that needs it.
pub(crate) fn reason(error: &io::Error) -> RefuseReason {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::ECONNRESET) => RefuseReason::ConnectRefused,
        Some(libc::ETIMEDOUT) => RefuseReason::ConnectTimeout,
        Some(
            libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::ENETDOWN
            | libc::EACCES
            | libc::EPERM
            | libc::EINVAL,
        ) => RefuseReason::Unreachable,
        Some(libc::EADDRNOTAVAIL | libc::EADDRINUSE) => RefuseReason::SourcePortsExhausted,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => RefuseReason::OverLimit,
        _ => RefuseReason::Internal,
    }
}
