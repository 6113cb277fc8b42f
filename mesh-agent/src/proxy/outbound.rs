//! From a local pod to elsewhere: target, transport, permit, upstream.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::net::TcpStream;

use super::carry::{Stopped, Tunnelled, carry, carry_plain};
use super::connection::{Accepted, At};
use super::dial;
use super::live::Checked;
use super::report::Report;
use super::worker::Local;
use crate::balance;
use crate::model::policy::PeerMode;
use crate::model::{
    CloseReason, Direction, RefuseReason, Security, ServiceKey, Snapshot, SpiffeId, UnknownPeer,
    UpstreamAddr, Workload,
};
use crate::policy::{Permit, Request};
use crate::route::{self, Decision};
use crate::sys::socket;
use crate::tls::{self, Credentials};
use crate::tunnel::{Connection, End, Key, Open, ResetReason};

/// Where the connection goes.
struct Target {
    upstream: UpstreamAddr,
    destination: Option<Arc<Workload>>,
    service: Option<ServiceKey>,
}

/// How the bytes get there. Plaintext is chosen here, by what the
/// configuration says of the destination, and never later.
enum Transport {
    /// A pod of this node: one pass, identity from the kernel.
    SameNode(Arc<Workload>),
    /// A pod in the mesh: mutual TLS with exactly this identity.
    Mesh(SpiffeId),
    /// Not in the mesh, or its port is set to DISABLE.
    Plain,
}

pub(super) async fn serve(accepted: Accepted<'_>) {
    let mut report = accepted.at.report();
    let chosen = target(&accepted.at).and_then(|target| {
        let transport = transport(&accepted.at, &target)?;
        Ok((target, transport))
    });
    let (target, transport) = match chosen {
        Ok(chosen) => chosen,
        Err(reason) => return accepted.refuse(report, reason),
    };
    let opening = &mut report.opening;
    opening.upstream = Some(target.upstream);
    opening.service = target.service;
    opening.destination = target.destination.ok_or(UnknownPeer);
    match transport {
        Transport::SameNode(workload) => {
            same_node(accepted, report, target.upstream, workload).await;
        }
        Transport::Mesh(expected) => mesh(accepted, report, target.upstream, expected).await,
        Transport::Plain => plain(accepted, report, target.upstream).await,
    }
}

fn target(at: &At<'_>) -> Result<Target, RefuseReason> {
    let (snapshot, dst) = (&at.published.snapshot, at.orig_dst);
    let ip = dst.ip();
    let own = at.pod.pod.workload.ips;
    let foreign = !own.contains(at.client_addr.ip());
    if foreign || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
        return Err(RefuseReason::Loop);
    }
    let direct = |destination| Target {
        upstream: UpstreamAddr::new(dst.get()),
        destination,
        service: None,
    };
    match route::resolve(snapshot, dst) {
        Decision::Refused(reason) => Err(reason),
        Decision::External => Ok(direct(None)),
        Decision::Workload(workload) => Ok(direct(Some(workload.clone()))),
        Decision::Service { service, port } => {
            let turn = at.local.next_turn();
            let endpoint =
                balance::round_robin(&port.endpoints, ip, turn).ok_or(RefuseReason::NoEndpoint)?;
            Ok(Target {
                upstream: endpoint.addr,
                destination: workload_of(snapshot, endpoint),
                service: Some(service.key.clone()),
            })
        }
    }
}

fn workload_of(snapshot: &Snapshot, endpoint: &crate::model::Endpoint) -> Option<Arc<Workload>> {
    let by_ip = || snapshot.by_ip.get(&endpoint.addr.ip());
    endpoint.workload.as_ref().or_else(by_ip).cloned()
}

fn transport(at: &At<'_>, target: &Target) -> Result<Transport, RefuseReason> {
    let Some(workload) = target.destination.as_ref().filter(|w| w.is_enrolled()) else {
        return Ok(Transport::Plain);
    };
    let shared = &at.local.shared;
    let mode = at
        .published
        .policy
        .peer_mode(workload, target.upstream.port());
    if workload.node == shared.node && !shared.config.same_node_tls {
        return Ok(Transport::SameNode(workload.clone()));
    }
    match mode {
        PeerMode::Disable => Ok(Transport::Plain),
        PeerMode::Strict | PeerMode::Permissive => shared
            .identity_of(workload)
            .map(Transport::Mesh)
            // A name that makes no identity: nobody can prove to be it.
            .ok_or(RefuseReason::NoCertificate),
    }
}

/// Outside of the mesh.
async fn plain(accepted: Accepted<'_>, report: Report<'_>, upstream: UpstreamAddr) {
    let permit = accepted.at.published.policy.egress();
    match dial_upstream(&accepted.at, &permit, upstream, false).await {
        Ok(stream) => finish_plain(accepted, report, stream).await,
        Err(reason) => accepted.refuse(report, reason),
    }
}

async fn finish_plain(accepted: Accepted<'_>, report: Report<'_>, upstream: TcpStream) {
    let idle = accepted.at.local.shared.config.idle_timeout;
    let cut = &accepted.at.entry.cut;
    carry_plain(&accepted.client, &upstream, cut, report, idle).await;
}

/// Both halves in one pass.
async fn same_node(
    accepted: Accepted<'_>,
    mut report: Report<'_>,
    upstream: UpstreamAddr,
    workload: Arc<Workload>,
) {
    report.opening.direction = Direction::SameNode;
    report.opening.security = Security::SameNode;
    report.opening.destination_principal = accepted.at.local.shared.identity_of(&workload);
    let checked = Checked {
        source: Some(accepted.at.pod.pod.spiffe_id.clone()),
        source_ip: accepted.at.client_addr.ip(),
        destination: workload,
        destination_ip: upstream.ip(),
        destination_port: upstream.port(),
        plaintext: false,
    };
    accepted.at.entry.set_checked(checked.clone());
    let permit = match accepted.at.published.policy.check(&Request::from(&checked)) {
        Ok(permit) => permit,
        Err(deny) => {
            report.opening.rule = Some(deny.rule().clone());
            return accepted.refuse(report, RefuseReason::Denied);
        }
    };
    report.opening.rule = permit.rule().cloned();
    let stream = match dial_upstream(&accepted.at, &permit, upstream, false).await {
        Ok(stream) => stream,
        Err(reason) => return accepted.refuse(report, reason),
    };
    // The address may belong to another pod by now, which nobody enrolled.
    let entered = stream
        .local_addr()
        .is_ok_and(|source| (accepted.at.local.shared.entered_pod)(source, upstream.get()));
    if entered {
        finish_plain(accepted, report, stream).await;
    } else {
        socket::reset_on_close(&stream);
        accepted.refuse(report, RefuseReason::WrongWorkload);
    }
}

/// From the pod's address; ends early when the connection is cut.
async fn dial_upstream(
    at: &At<'_>,
    permit: &Permit,
    upstream: UpstreamAddr,
    through: bool,
) -> Result<TcpStream, RefuseReason> {
    let source = at.pod.pod.workload.ips.same_family(upstream.ip());
    let from = dial::From {
        netns: &at.pod.pod.netns,
        source: source.ok_or(RefuseReason::Unreachable)?,
        through,
    };
    let deadline = at.local.shared.config.connect_timeout;
    tokio::select! {
        biased; // removal and drain win over a connection just made
        reason = at.entry.cut.wait() => Err(reason.refuse()),
        connected = dial::dial(permit, from, upstream, deadline) => connected,
    }
}

/// To a pod in the mesh, by its agent.
async fn mesh(
    accepted: Accepted<'_>,
    mut report: Report<'_>,
    upstream: UpstreamAddr,
    expected: SpiffeId,
) {
    report.opening.security = Security::MutualTls;
    report.opening.destination_principal = Some(expected.clone());
    let key = Key {
        netns: accepted.at.pod.cookie(),
        destination: upstream.get(),
    };
    let pooled =
        accepted
            .at
            .local
            .pool
            .borrow_mut()
            .take(key, &expected, Instant::now(), SystemTime::now());
    let connection = match pooled {
        Some(connection) => Ok(connection),
        None => connect(&accepted.at, upstream, &expected).await,
    };
    match connection {
        Ok(connection) => stream(accepted, report, connection, key, expected).await,
        Err(reason) => accepted.refuse(report, reason),
    }
}

/// A new connection to the other agent, verified.
async fn connect(
    at: &At<'_>,
    upstream: UpstreamAddr,
    expected: &SpiffeId,
) -> Result<Connection, RefuseReason> {
    let config = &at.local.shared.config;
    let credentials = credentials(at).await?;
    let permit = at.published.policy.egress();
    let tcp = dial_upstream(at, &permit, upstream, config.same_node_tls).await?;
    socket::bound_unsent(&tcp);
    let expected = std::slice::from_ref(expected);
    let handshake = tls::connect(&tcp, &credentials, expected, config.handshake_timeout);
    let session = tokio::select! {
        biased; // as above
        reason = at.entry.cut.wait() => return Err(reason.refuse()),
        session = handshake => session.map_err(RefuseReason::Tls)?,
    };
    let now = Instant::now();
    Ok(Connection::new(tcp, session, credentials.not_after(), now))
}

/// The pod's own certificate; waits for one that is on its way.
pub(super) async fn credentials(at: &At<'_>) -> Result<Arc<Credentials>, RefuseReason> {
    let identity = &at.pod.pod.identity;
    if let Some(credentials) = identity.current() {
        return Ok(credentials);
    }
    let deadline = tokio::time::Instant::now() + at.local.shared.config.handshake_timeout;
    tokio::select! {
        biased; // as above
        reason = at.entry.cut.wait() => Err(reason.refuse()),
        waited = identity.wait(deadline) => waited.map_err(|_| RefuseReason::NoCertificate),
    }
}

async fn stream(
    accepted: Accepted<'_>,
    mut report: Report<'_>,
    mut connection: Connection,
    key: Key,
    expected: SpiffeId,
) {
    let open = open(&accepted.at);
    let own = accepted.at.pod.pod.identity.clone();
    accepted.at.entry.set_tls(own, connection.peer().clone());
    let mut relay = connection.open(&open);
    report.opened();
    let idle = accepted.at.local.shared.config.idle_timeout;
    let stopped = loop {
        let mut tunnelled = Tunnelled {
            relay: &mut relay,
            application: &accepted.client,
            connection: &mut connection,
        };
        let stopped = carry(&mut tunnelled, &accepted.at.entry.cut, &report, idle).await;
        if !matches!(stopped, Stopped::Ended(End::NotTaken)) || relay.is_replay() {
            break stopped;
        }
        let upstream = UpstreamAddr::new(key.destination);
        connection = match connect(&accepted.at, upstream, &expected).await {
            Ok(connection) => connection,
            Err(reason) => return accepted.refuse(report, reason),
        };
        relay = relay.again(&mut connection, &open);
    };
    let (reason, answer) = end(&stopped, relay.is_accepted());
    if reason != CloseReason::Finished {
        socket::reset_on_close(&accepted.client);
    }
    report.ended(relay.bytes(), reason);
    let local = accepted.at.local;
    drop(accepted.client);
    give_back(local, key, connection, relay, answer).await;
}

fn open(at: &At<'_>) -> Open {
    Open {
        original: at.orig_dst.get(),
        source: at.client_addr.get(),
        hops: 1,
        trace: None,
    }
}

/// What a stream's end is to the application, and what the peer is told.
fn end(stopped: &Stopped<End>, accepted: bool) -> (CloseReason, Option<ResetReason>) {
    let refused = |reason| (CloseReason::Refused(reason), Some(ResetReason::Answer));
    match stopped {
        Stopped::Ended(End::Finished) => (CloseReason::Finished, None),
        Stopped::Ended(End::ResetByApplication) => {
            (CloseReason::ResetByClient, Some(ResetReason::Aborted))
        }
        Stopped::Ended(End::ResetByPeer(reason)) => match reason {
            ResetReason::Denied if !accepted => refused(RefuseReason::RefusedByPeer),
            ResetReason::ConnectFailed if !accepted => refused(RefuseReason::ConnectRefused),
            ResetReason::OverLimit if !accepted => refused(RefuseReason::OverLimit),
            _ => (CloseReason::ResetByUpstream, Some(ResetReason::Answer)),
        },
        Stopped::Ended(End::NotTaken | End::Lost) => (CloseReason::ResetByUpstream, None),
        Stopped::Ended(End::Refused) => (
            CloseReason::Refused(RefuseReason::Tls(crate::model::TlsFailure::RefusedByPeer)),
            None,
        ),
        Stopped::Ended(End::Protocol(_)) => (CloseReason::ProtocolError, None),
        Stopped::Idle => (CloseReason::IdleTimeout, Some(ResetReason::Cut)),
        Stopped::Cut(reason) => (reason.close(), Some(ResetReason::Cut)),
    }
}

/// Ends the stream with the peer; keeps the connection where it may be used again.
async fn give_back(
    local: &Local,
    key: Key,
    mut connection: Connection,
    mut relay: crate::tunnel::Relay,
    answer: Option<ResetReason>,
) {
    let reusable = match answer {
        Some(reason) => relay.settle(&mut connection, reason).await,
        None => relay.is_over(&connection),
    };
    if reusable && !local.draining.is_cancelled() {
        local.pool.borrow_mut().put(key, connection, Instant::now());
    }
}

impl<'c> From<&'c Checked> for Request<'c> {
    fn from(checked: &'c Checked) -> Self {
        Self {
            source: checked.source.as_ref(),
            source_ip: checked.source_ip,
            destination: &checked.destination,
            destination_ip: checked.destination_ip,
            destination_port: checked.destination_port,
            sni: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_before_the_accept_is_told_as_such_and_a_later_reset_as_a_reset() {
        let denied = Stopped::Ended(End::ResetByPeer(ResetReason::Denied));
        assert_eq!(
            end(&denied, false).0,
            CloseReason::Refused(RefuseReason::RefusedByPeer)
        );
        assert_eq!(end(&denied, true).0, CloseReason::ResetByUpstream);
    }
}
