//! Opening the upstream side.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use socket2::Socket;
use tokio::net::TcpStream;

use crate::model::{ClientAddr, RefuseReason, UpstreamAddr};
use crate::policy::Permit;
use crate::sys::{netns::Netns, socket};

/// Tries before a delivery is given up for want of a source port.
const PORT_TRIES: usize = 64;

/// A worker's own part of the delivery ports, used in turn.
#[derive(Debug)]
pub(super) struct PortRange {
    first: u16,
    count: u16,
    next: Cell<u16>,
}

impl PortRange {
    pub(super) fn part(all: &RangeInclusive<u16>, index: usize, parts: usize) -> Self {
        let total = usize::from(all.end().saturating_sub(*all.start())) + 1;
        let count = (total / parts.max(1)).max(1);
        let first = usize::from(*all.start()) + index * count;
        Self {
            first: u16::try_from(first).unwrap_or(*all.end()),
            count: u16::try_from(count).unwrap_or(u16::MAX),
            next: Cell::new(0),
        }
    }

    fn take(&self) -> u16 {
        let next = self.next.get();
        self.next.set((next + 1) % self.count);
        self.first + next
    }
}

/// Where a dial comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct From<'n> {
    pub(super) netns: &'n Netns,
    /// The pod's own address.
    pub(super) source: IpAddr,
    /// To be captured by the destination's agent, though that is this one.
    pub(super) through: bool,
}

/// What deliveries need of their worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery<'w> {
    pub(super) ports: &'w PortRange,
    pub(super) deadline: Duration,
}

/// From the pod's own address, over the pod's ordinary path.
pub(super) async fn dial(
    _permit: &Permit,
    from: From<'_>,
    upstream: UpstreamAddr,
    deadline: Duration,
) -> Result<TcpStream, RefuseReason> {
    let make = || match from.through {
        false => socket::dial_socket(from.source),
        true => socket::dial_through_socket(from.source),
    };
    let socket = start(from.netns, make, upstream.get());
    finish(socket.map_err(|e| reason(&e))?, deadline).await
}

/// To the application in `netns`, as the client.
pub(super) async fn deliver(
    _permit: &Permit,
    netns: &Netns,
    client: ClientAddr,
    upstream: UpstreamAddr,
    delivery: &Delivery<'_>,
) -> Result<TcpStream, RefuseReason> {
    for _ in 0..PORT_TRIES {
        let source = SocketAddr::new(client.ip(), delivery.ports.take());
        match start(netns, || socket::delivery_socket(source), upstream.get()) {
            Ok(socket) => return finish(socket, delivery.deadline).await,
            Err(e) if matches!(e.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable) => {}
            Err(e) => return Err(reason(&e)),
        }
    }
    Err(RefuseReason::SourcePortsExhausted)
}

/// Makes the socket and sends the SYN; the SYN's tuple is recorded on the way.
fn start(
    netns: &Netns,
    make: impl FnOnce() -> io::Result<Socket>,
    to: SocketAddr,
) -> io::Result<TcpStream> {
    let socket = netns.run(|| {
        let socket = make()?;
        match socket.connect(&to.into()) {
            Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
            _ => Ok(socket),
        }
    })??;
    TcpStream::from_std(socket.into())
}

async fn finish(stream: TcpStream, deadline: Duration) -> Result<TcpStream, RefuseReason> {
    match tokio::time::timeout(deadline, stream.writable()).await {
        Err(_) => return Err(RefuseReason::ConnectTimeout),
        Ok(Err(e)) => return Err(reason(&e)),
        Ok(Ok(())) => {}
    }
    match stream.take_error() {
        Ok(None) => Ok(stream),
        Ok(Some(e)) | Err(e) => Err(reason(&e)),
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

    #[test]
    fn workers_never_share_a_source_port() {
        let all = 10_000..=32_000;
        let ports = |index| {
            let part = PortRange::part(&all, index, 3);
            (0..part.count)
                .map(|_| part.take())
                .collect::<std::collections::HashSet<_>>()
        };
        let (a, b, c) = (ports(0), ports(1), ports(2));
        assert!(a.is_disjoint(&b) && b.is_disjoint(&c) && a.is_disjoint(&c));
        assert!(a.iter().chain(&b).chain(&c).all(|port| all.contains(port)));
    }
}
