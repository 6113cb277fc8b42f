//! One connection, from accept to its outcome.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::dial;
use super::worker::{Local, PodState};
use crate::balance;
use crate::io::{End, Relay};
use crate::model::{
    ClientAddr, CloseReason, Direction, Opening, OrigDst, Outcome, RefuseReason, ServiceKey,
    Snapshot, UnknownPeer, UpstreamAddr, Workload,
};
use crate::route::{self, Decision};
use crate::sys::socket;

/// What ends a connection from outside.
pub(super) struct Cut {
    pub(super) pod: CancellationToken,
    pub(super) all: CancellationToken,
}

/// Where an accepted connection goes.
struct Target {
    direction: Direction,
    upstream: UpstreamAddr,
    source: Result<Arc<Workload>, UnknownPeer>,
    destination: Result<Arc<Workload>, UnknownPeer>,
    service: Option<ServiceKey>,
}

/// Counts the connection for as long as it lives, also when its task is cancelled.
struct Active<'a>(&'a Local);

impl<'a> Active<'a> {
    fn enter(local: &'a Local) -> Option<Self> {
        let guard = Self(local);
        let before = local.shared.active.fetch_add(1, Ordering::Relaxed);
        (before < local.shared.config.max_connections).then_some(guard)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.shared.active.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) async fn serve(
    local: Rc<Local>,
    pod: Rc<PodState>,
    client: TcpStream,
    peer: SocketAddr,
    cut: Cut,
) {
    let started = Instant::now();
    let Ok(local_addr) = client.local_addr() else {
        // The client is gone already: there is nothing to carry or to report.
        return;
    };
    let (client_addr, orig_dst) = (ClientAddr::new(peer), OrigDst::new(local_addr));
    let snapshot = local.shared.published.load_full().snapshot.clone();
    let active = Active::enter(&local);
    let target = match &active {
        Some(_) => target(&local, &pod, &snapshot, &client, client_addr, orig_dst),
        None => Err(RefuseReason::OverLimit),
    };
    let mut opening = opening(&local, &pod, client_addr, orig_dst, snapshot.generation);
    let mut outcome = Outcome {
        opening: opening.clone(),
        bytes: crate::model::ByteCounts::default(),
        connect_time: None,
        duration: std::time::Duration::ZERO,
        reason: CloseReason::Refused(RefuseReason::Internal),
    };
    let connected = match target {
        Ok(target) => {
            opening.direction = target.direction;
            opening.upstream = Some(target.upstream);
            opening.source = target.source;
            opening.destination = target.destination;
            opening.service = target.service;
            let connecting = connect(&local, &pod, &opening, target.upstream);
            tokio::select! {
                biased; // removal and drain win over a connection just made
                () = cut.pod.cancelled() => Err(RefuseReason::PodRemoved),
                () = cut.all.cancelled() => Err(RefuseReason::Draining),
                connected = connecting => connected,
            }
        }
        Err(reason) => Err(reason),
    };
    outcome.opening = opening;
    match connected {
        Ok(upstream) => {
            outcome.connect_time = Some(started.elapsed());
            local.shared.observe.opened(&outcome.opening);
            let mut relay = Relay::default();
            outcome.reason = carry(&local, &mut relay, &client, &upstream, &cut).await;
            outcome.bytes = relay.bytes();
            if outcome.reason != CloseReason::Finished {
                socket::reset_on_close(&upstream);
                socket::reset_on_close(&client);
            }
        }
        Err(reason) => {
            socket::reset_on_close(&client);
            outcome.reason = CloseReason::Refused(reason);
        }
    }
    outcome.duration = started.elapsed();
    local.shared.observe.closed(&outcome);
}

fn opening(
    local: &Local,
    pod: &PodState,
    client: ClientAddr,
    orig_dst: OrigDst,
    generation: u64,
) -> Opening {
    let id = local.next_id.get();
    local.next_id.set(id + 1);
    let inbound = pod.pod.workload.ips.contains(orig_dst.ip());
    let own = Ok(pod.pod.workload.clone());
    let (direction, source, destination) = if inbound {
        (Direction::Inbound, Err(UnknownPeer), own)
    } else {
        (Direction::Outbound, own, Err(UnknownPeer))
    };
    Opening {
        id,
        direction,
        client,
        orig_dst,
        upstream: None,
        source,
        destination,
        service: None,
        source_principal: None,
        destination_principal: None,
        security: crate::model::Security::None,
        rule: None,
        started: SystemTime::now(),
        generation,
    }
}

fn target(
    local: &Local,
    pod: &PodState,
    snapshot: &Snapshot,
    client: &TcpStream,
    client_addr: ClientAddr,
    orig_dst: OrigDst,
) -> Result<Target, RefuseReason> {
    let own = &pod.pod.workload;
    if own.ips.contains(orig_dst.ip()) {
        if socket::is_own_delivery(client) {
            return Err(RefuseReason::Loop);
        }
        return Ok(Target {
            direction: Direction::Inbound,
            upstream: UpstreamAddr::new(orig_dst.get()),
            // A name for the log, from the address; never an identity.
            source: snapshot
                .by_ip
                .get(&client_addr.ip())
                .cloned()
                .ok_or(UnknownPeer),
            destination: Ok(own.clone()),
            service: None,
        });
    }
    let ip = orig_dst.ip();
    if !own.ips.contains(client_addr.ip())
        || ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
    {
        return Err(RefuseReason::Loop);
    }
    let (upstream, destination, service) = match route::resolve(snapshot, orig_dst) {
        Decision::Refused(reason) => return Err(reason),
        Decision::External => (UpstreamAddr::new(orig_dst.get()), None, None),
        Decision::Workload(workload) => {
            let upstream = UpstreamAddr::new(orig_dst.get());
            (upstream, Some(workload.clone()), None)
        }
        Decision::Service { service, port } => {
            let turn = local.turn.get();
            local.turn.set(turn.wrapping_add(1));
            let endpoint =
                balance::round_robin(&port.endpoints, ip, turn).ok_or(RefuseReason::NoEndpoint)?;
            let workload = snapshot.by_ip.get(&endpoint.addr.ip());
            let workload = endpoint.workload.as_ref().or(workload);
            (endpoint.addr, workload.cloned(), Some(service.key.clone()))
        }
    };
    let same_node = destination
        .as_ref()
        .is_some_and(|w| w.is_enrolled() && w.node == local.shared.node);
    Ok(Target {
        direction: if same_node {
            Direction::SameNode
        } else {
            Direction::Outbound
        },
        upstream,
        source: Ok(own.clone()),
        destination: destination.ok_or(UnknownPeer),
        service,
    })
}

async fn connect(
    local: &Local,
    pod: &PodState,
    opening: &Opening,
    upstream: UpstreamAddr,
) -> Result<TcpStream, RefuseReason> {
    let deadline = local.shared.config.connect_timeout;
    let netns = &pod.pod.netns;
    match opening.direction {
        Direction::Inbound => {
            dial::deliver(netns, opening.client, upstream, &local.ports, deadline).await
        }
        Direction::Outbound | Direction::SameNode => {
            let source = pod.pod.workload.ips.same_family(upstream.ip());
            let source = source.ok_or(RefuseReason::Unreachable)?;
            dial::dial(netns, source, upstream, deadline).await
        }
    }
}

async fn carry(
    local: &Local,
    relay: &mut Relay,
    client: &TcpStream,
    upstream: &TcpStream,
    cut: &Cut,
) -> CloseReason {
    let end = tokio::select! {
        biased; // removal and drain must not wait for a busy stream
        () = cut.pod.cancelled() => return CloseReason::PodRemoved,
        () = cut.all.cancelled() => return CloseReason::DrainDeadline,
        end = relay.run(client, upstream, local.shared.config.idle_timeout) => end,
    };
    match end {
        End::Finished => CloseReason::Finished,
        End::ResetByClient => CloseReason::ResetByClient,
        End::ResetByUpstream => CloseReason::ResetByUpstream,
        End::IdleTimeout => CloseReason::IdleTimeout,
    }
}
