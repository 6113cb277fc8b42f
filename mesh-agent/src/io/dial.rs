//! Opening connections in a pod's network namespace.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use socket2::Socket;
use tokio::net::TcpStream;

use super::limits::{Limits, is_anothers_spare};
use crate::model::{RefuseReason, Refused};
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
) -> Result<TcpStream, Refused> {
    let make = || match from.through {
        false => socket::dial_socket(from.source, from.ports),
        true => socket::dial_through_socket(from.source, from.ports),
    };
    let socket = start(from.netns, from.limits, make, may_dial.to());
    finish(socket.map_err(|e| refused(&e))?, from.source, deadline).await
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
        if limits.is_held_back(&socket) || is_anothers_spare() {
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
) -> Result<TcpStream, Refused> {
    match tokio::time::timeout(deadline, stream.writable()).await {
        // An answer that came while this thread did not run is one: the other
        // side has the connection, and would see it end.
        Err(_) if stream.peer_addr().is_err() => return Err(RefuseReason::ConnectTimeout.into()),
        Ok(Err(e)) => return Err(refused(&e)),
        Err(_) | Ok(Ok(())) => {}
    }
    match socket::connected(&stream, source) {
        Ok(()) => Ok(stream),
        Err(e) => Err(refused(&e)),
    }
}

/// What an error of a dial is to the connection that needs it.
pub(crate) fn refused(error: &io::Error) -> Refused {
    Refused {
        errno: error.raw_os_error(),
        ..reason(error).into()
    }
}

fn reason(error: &io::Error) -> RefuseReason {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_that_was_taken_while_nobody_looked_is_not_given_up() {
        let listener = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let listener = listener.expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&any.into()).expect("a port");
        listener.listen(0).expect("it listens");
        let to = listener.local_addr().expect("an address");
        let to = to.as_socket().expect("an address");
        // It begins; the kernel takes it at once, and the runtime was not told yet.
        let begin = || {
            let socket = socket::dial_socket(to.ip(), None).expect("a socket");
            let _under_way = socket.connect(&to.into());
            TcpStream::from_std(socket.into()).expect("a stream")
        };
        let taken = finish(begin(), to.ip(), Duration::ZERO).await;
        assert!(taken.is_ok(), "{taken:?}");
        // One fills the backlog; what comes then is not answered.
        let mut rest = Vec::new();
        let silent = loop {
            match finish(begin(), to.ip(), Duration::ZERO).await {
                Ok(stream) if rest.len() < 10 => rest.push(stream),
                ended => break ended,
            }
        };
        assert!(
            matches!(&silent, Err(refused) if refused.reason == RefuseReason::ConnectTimeout),
            "{silent:?}"
        );
    }

    #[tokio::test]
    async fn what_the_kernel_said_is_kept_beside_what_it_means() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let to = closed.local_addr().expect("an address");
        drop(closed);
        let socket = socket::dial_socket(to.ip(), None).expect("a socket");
        let _under_way = socket.connect(&to.into());
        let stream = TcpStream::from_std(socket.into()).expect("a stream");
        let ended = finish(stream, to.ip(), Duration::from_secs(5)).await;
        let refused = ended.expect_err("nobody listens");
        assert_eq!(refused.reason, RefuseReason::ConnectRefused);
        assert_eq!(refused.errno, Some(libc::ECONNREFUSED));
    }
}
