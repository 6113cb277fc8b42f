//! Opening the upstream side.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use socket2::Socket;
use tokio::net::TcpStream;

use super::limits::Limits;
use crate::plan::Leave;
use crate::model::{ClientAddr, RefuseReason};
use crate::policy::Permit;
use crate::sys::{netns::Netns, socket};

/// Tries before a delivery is given up for want of a source port.
const PORT_TRIES: usize = 64;
/// Prime, so that leaps come to every part of a range.
const LEAP: usize = 13;

/// An application in the same namespace answers at once. Silence means that its
/// backlog is full, or that the port is one of the client's own, whose connection
/// took the SYN: then another one helps. The kernel would repeat the SYN as late.
const SILENCE: Duration = Duration::from_secs(1);

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

    /// Ports are taken in turn, so those of long streams stand side by side: each
    /// failure in a row leaps further, past runs of any length.
    fn skip(&self, failures: usize) {
        let next = usize::from(self.next.get()) + failures * LEAP;
        let next = next % usize::from(self.count);
        self.next.set(u16::try_from(next).unwrap_or(0));
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
    /// Where not every port of the pod's will do.
    pub(super) ports: Option<&'n RangeInclusive<u16>>,
    pub(super) limits: &'n Limits,
}

/// What deliveries need of their worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery<'w> {
    pub(super) ports: &'w PortRange,
    pub(super) limits: &'w Limits,
    pub(super) deadline: Duration,
}

/// From the pod's own address, over the pod's ordinary path.
pub(super) async fn dial(
    leave: &impl Leave,
    from: From<'_>,
    deadline: Duration,
) -> Result<TcpStream, RefuseReason> {
    let make = || match from.through {
        false => socket::dial_socket(from.source, from.ports),
        true => socket::dial_through_socket(from.source, from.ports),
    };
    let socket = start(from.netns, from.limits, make, leave.to());
    finish(socket.map_err(|e| reason(&e))?, from.source, deadline).await
}

/// To the application in `netns` that the permit is for, as the client.
pub(super) async fn deliver(
    permit: &Permit,
    netns: &Netns,
    client: ClientAddr,
    delivery: &Delivery<'_>,
) -> Result<TcpStream, RefuseReason> {
    let end = Instant::now() + delivery.deadline;
    loop {
        let socket = start_delivery(netns, client.ip(), permit.destination(), delivery)?;
        let left = end.saturating_duration_since(Instant::now());
        match finish(socket, client.ip(), left.min(SILENCE)).await {
            Err(RefuseReason::ConnectTimeout) if left > SILENCE => {}
            result => return result,
        }
    }
}

fn start_delivery(
    netns: &Netns,
    client: IpAddr,
    to: SocketAddr,
    delivery: &Delivery<'_>,
) -> Result<TcpStream, RefuseReason> {
    let ports = delivery.ports;
    for attempt in 0..PORT_TRIES {
        let source = SocketAddr::new(client, ports.take());
        let make = || socket::delivery_socket(source);
        match start(netns, delivery.limits, make, to) {
            Ok(socket) => return Ok(socket),
            Err(e) if matches!(e.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable) => {
                ports.skip(attempt);
            }
            Err(e) => return Err(reason(&e)),
        }
    }
    Err(RefuseReason::SourcePortsExhausted)
}

/// Makes the socket and sends the SYN; the SYN's tuple is recorded on the way.
fn start(
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

async fn finish(
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
    fn a_long_run_of_busy_ports_is_left_behind() {
        for (free, count) in [(250, 1_000_u16), (3_000, 11_000), (11_000, 22_000)] {
            let all = 10_000..=10_000 + count - 1;
            let part = PortRange::part(&all, 0, 1);
            let is_busy = |port: u16| port < 10_000 + count - free;
            let found = (0..PORT_TRIES).any(|attempt| {
                let busy = is_busy(part.take());
                part.skip(if busy { attempt } else { 0 });
                !busy
            });
            assert!(found, "{free} of {count} are free");
        }
    }

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
