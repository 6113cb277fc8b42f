//! To the application of a pod here, as the client.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::context::ConnectionContext;
use super::ports::{PORT_TRIES, PortRange};
use crate::io::{Limits, dial};
use crate::model::{ClientAddr, RefuseReason, Refused};
use crate::policy::Permit;
use crate::sys::{netns::Netns, socket};

/// An application in the same namespace answers at once. Silence means that its
/// backlog is full, or that the port is one of the client's own, whose connection
/// took the SYN: then another one helps. The kernel would repeat the SYN as late.
const SILENCE: Duration = Duration::from_secs(1);

/// Ends early when the connection is cut.
pub(super) async fn deliver(
    context: &ConnectionContext,
    permit: &Permit,
    client: ClientAddr,
) -> Result<TcpStream, Refused> {
    let worker = &context.worker;
    let delivery = Delivery {
        ports: &worker.ports,
        limits: &worker.agent.config.limits,
        deadline: worker.agent.config.connect_timeout,
    };
    tokio::select! {
        biased; // removal and drain win over a connection just made
        reason = context.entry().cut.wait() => Err(reason.refuse()),
        delivered = connect(permit, &context.pod.netns, client, &delivery) => delivered,
    }
}

/// What deliveries need of their worker.
#[derive(Clone, Copy, Debug)]
struct Delivery<'w> {
    ports: &'w PortRange,
    limits: &'w Limits,
    deadline: Duration,
}

/// To the application in `netns` that the permit is for.
async fn connect(
    permit: &Permit,
    netns: &Netns,
    client: ClientAddr,
    delivery: &Delivery<'_>,
) -> Result<TcpStream, Refused> {
    let end = Instant::now() + delivery.deadline;
    loop {
        let socket = start_delivery(netns, client.ip(), permit.destination(), delivery)?;
        let left = end.saturating_duration_since(Instant::now());
        match dial::finish(socket, client.ip(), left.min(SILENCE)).await {
            Err(refused) if is_silent(&refused) && left > SILENCE => {}
            result => return result,
        }
    }
}

fn is_silent(refused: &Refused) -> bool {
    refused.reason == RefuseReason::ConnectTimeout
}

fn start_delivery(
    netns: &Netns,
    client: IpAddr,
    to: SocketAddr,
    delivery: &Delivery<'_>,
) -> Result<TcpStream, Refused> {
    let ports = delivery.ports;
    for attempt in 0..PORT_TRIES {
        let source = SocketAddr::new(client, ports.take());
        let make = || socket::delivery_socket(source);
        match dial::start(netns, delivery.limits, make, to) {
            Ok(socket) => return Ok(socket),
            Err(e) if matches!(e.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable) => {
                ports.skip(attempt);
            }
            Err(e) => return Err(dial::refused(&e)),
        }
    }
    Err(RefuseReason::SourcePortsExhausted.into())
}
