//! From a local pod to elsewhere: target, transport, permit, upstream.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::net::TcpStream;

use super::carry::{Ended, Stopped, Tunnelled, carry, carry_plain};
use super::connection::{Accepted, At};
use super::dial;
use crate::plan::Checked;
use crate::plan::{self, Leave, MeshPeer, Outside, Target, Transport};
use super::proofs::{Pair, Proof, Proved, Standing};
use super::reach::{self, reach, wait_for};
use super::report::Report;
use super::worker::{Local, PodState};
use crate::model::{
    CloseReason, Direction, RefuseReason, Security, TlsFailure, TlsRole, UnknownPeer, UpstreamAddr,
    Workload,
};
use crate::policy::Permit;
use crate::sys::socket;
use crate::tls::{self, Credentials, PeerId};
use crate::tunnel::{Connection, End, Key, Open, Relay, ResetReason};

pub(super) async fn serve(accepted: Accepted<'_>) {
    let mut report = accepted.at.report();
    let mut after = None;
    let result = carried(&accepted, &mut report, &mut after).await;
    let (local, pod) = (accepted.at.local, accepted.at.pod);
    accepted.conclude(report, result);
    if let Some(carrying) = after {
        give_back(local, pod, carrying).await;
    }
}

/// A stream and the connection that carries it. On the heap: what moves
/// between stages is a pointer, and a waiting connection needs no more.
struct Carrying {
    key: Key,
    connection: Connection,
    relay: Relay,
    /// What the peer is told when the application has been told of the end.
    answer: Option<ResetReason>,
}

async fn carried(
    accepted: &Accepted<'_>,
    report: &mut Report<'_>,
    after: &mut Option<Box<Carrying>>,
) -> Result<Ended, RefuseReason> {
    let target = target(&accepted.at)?;
    let shared = &accepted.at.local.shared;
    let premises = shared.premises(&accepted.at.published);
    let transport = premises.transport(&target, Instant::now())?;
    let upstream = target.upstream;
    let flow = report.flow();
    flow.upstream = Some(upstream);
    flow.service = target.service;
    flow.destination = target.destination.ok_or(UnknownPeer);
    match transport {
        Transport::SameNode(workload) => same_node(accepted, report, upstream, workload).await,
        Transport::Mesh(peer) => mesh(accepted, report, &peer, after).await,
        Transport::Plain(outside) => plain(accepted, report, &outside).await,
    }
}

fn target(at: &At<'_>) -> Result<Target, RefuseReason> {
    let from = (at.pod.pod.workload.ips, at.client_addr.ip());
    let turn = || at.local.next_turn();
    plan::target(&at.published.snapshot, from, at.orig_dst, turn)
}

/// Outside of the mesh.
async fn plain(
    accepted: &Accepted<'_>,
    report: &mut Report<'_>,
    outside: &Outside,
) -> Result<Ended, RefuseReason> {
    let stream = dial_upstream(&accepted.at, outside, false).await?;
    if entered_pod(&accepted.at, &stream, outside.to()).is_some() {
        // Meanwhile the address is that of a pod here, whose policy nobody asked.
        socket::reset_on_close(&stream);
        return Err(RefuseReason::WrongWorkload);
    }
    Ok(carry_between(accepted, report, &stream).await)
}

pub(super) async fn carry_between(
    accepted: &Accepted<'_>,
    report: &mut Report<'_>,
    upstream: &TcpStream,
) -> Ended {
    let idle = accepted.at.local.shared.config.idle_timeout;
    let cut = &accepted.at.entry.cut;
    carry_plain(&accepted.client, upstream, cut, report, idle).await
}

/// Both halves in one pass.
async fn same_node(
    accepted: &Accepted<'_>,
    report: &mut Report<'_>,
    upstream: UpstreamAddr,
    workload: Arc<Workload>,
) -> Result<Ended, RefuseReason> {
    let permit = permit_here(&accepted.at, report, upstream, workload.clone())?;
    let stream = dial_upstream(&accepted.at, &permit, false).await?;
    // The address may belong to another pod by now, enrolled or not.
    let entered = entered_pod(&accepted.at, &stream, permit.to());
    let shared = &accepted.at.local.shared;
    if !entered.is_some_and(|cookie| shared.is_pod(cookie, &workload)) {
        socket::reset_on_close(&stream);
        return Err(RefuseReason::WrongWorkload);
    }
    Ok(carry_between(accepted, report, &stream).await)
}

/// Cookie of the pod that the dial went into, if this node's agent enrolled it.
fn entered_pod(at: &At<'_>, stream: &TcpStream, to: SocketAddr) -> Option<u64> {
    let source = stream.local_addr().ok()?;
    (at.local.shared.entered_pod)(source, to)
}

/// The destination's policy, for a caller whose identity the kernel gives.
fn permit_here(
    at: &At<'_>,
    report: &mut Report<'_>,
    upstream: UpstreamAddr,
    workload: Arc<Workload>,
) -> Result<Permit, RefuseReason> {
    report.flow().direction = Direction::SameNode;
    report.flow().security = Security::SameNode;
    let expected = workload.spiffe_id(&at.local.shared.trust_domain);
    report.flow().destination_principal = expected.ok();
    let checked = Checked::new(
        Some(at.pod.pod.spiffe_id.clone()),
        at.client_addr.ip(),
        workload,
        upstream.get(),
    );
    at.entry.set_checked(checked.clone());
    decide(at, report, &checked)
}

/// Asks the policy; the rule that decided is in the report either way.
pub(super) fn decide(
    at: &At<'_>,
    report: &mut Report<'_>,
    checked: &Checked,
) -> Result<Permit, RefuseReason> {
    match checked.verdict(&at.published.policy, &checked.destination) {
        Ok(permit) => {
            report.flow().rule = permit.rule().cloned();
            Ok(permit)
        }
        Err(refusal) => {
            report.flow().rule = refusal.rule().cloned();
            Err(refusal.reason())
        }
    }
}

/// From the pod's address; ends early when the connection is cut.
async fn dial_upstream(
    at: &At<'_>,
    leave: &impl Leave,
    through: bool,
) -> Result<TcpStream, RefuseReason> {
    let source = at.pod.pod.workload.ips.same_family(leave.to().ip());
    let from = dial::From {
        netns: &at.pod.pod.netns,
        source: source.ok_or(RefuseReason::Unreachable)?,
        through,
        ports: at.pod.pod.dial_ports.as_ref(),
        limits: &at.local.shared.config.limits,
    };
    let deadline = at.local.shared.config.connect_timeout;
    tokio::select! {
        biased; // removal and drain win over a connection just made
        reason = at.entry.cut.wait() => Err(reason.refuse()),
        connected = dial::dial(leave, from, deadline) => connected,
    }
}

/// To a pod in the mesh, by its agent.
async fn mesh(
    accepted: &Accepted<'_>,
    report: &mut Report<'_>,
    peer: &MeshPeer,
    after: &mut Option<Box<Carrying>>,
) -> Result<Ended, RefuseReason> {
    let at = &accepted.at;
    let key = Key {
        netns: at.pod.cookie(),
        destination: peer.to(),
    };
    let carrying = begin(at, key, peer).await?;
    stand_on(at, key, &carrying.connection);
    report.flow().destination_principal = Some(peer.expected().clone());
    report.secured(carrying.connection.tls(), carrying.connection.peer());
    still_trusted(at, carrying.connection.peer())?;
    let carrying = after.insert(carrying);
    stream(accepted, report, carrying, peer).await
}

/// A stream on a pooled connection, or else on a new one. Large while it
/// lasts, so not part of what waits.
async fn begin(at: &At<'_>, key: Key, peer: &MeshPeer) -> Result<Box<Carrying>, RefuseReason> {
    let (now, wall) = (Instant::now(), SystemTime::now());
    let expected = peer.expected();
    let pooled = at.local.pool.borrow_mut().take(key, expected, now, wall);
    let connection = match pooled {
        Some(connection) => {
            reach::ask(at.local, key, peer);
            connection
        }
        None => Box::pin(wait_for(at, key, peer)).await?,
    };
    Ok(Carrying::begin(at, key, connection))
}

/// What the stream to come is judged by while it lives.
fn stand_on(at: &At<'_>, key: Key, connection: &Connection) {
    let (own, peer) = (at.pod.pod.identity.clone(), connection.peer().clone());
    let pair = pair(at, key.destination.ip(), &peer);
    let due = at.local.due(SystemTime::now(), connection.expires());
    let proved = Proved::client(pair, peer.not_after(), key.destination, due);
    at.entry.set_standing(Standing { own, peer, proved });
}

pub(super) fn pair(at: &At<'_>, peer_ip: IpAddr, peer: &PeerId) -> Pair {
    Pair {
        netns: at.pod.cookie(),
        peer_ip,
        peer: peer.spiffe_id().clone(),
    }
}

/// A handshake that was verified proves the peer's identity for all streams of the pair.
pub(super) fn note(at: &At<'_>, peer_ip: IpAddr, peer: &PeerId, expires: SystemTime) {
    let now = SystemTime::now();
    let proof = Proof {
        peer: peer.clone(),
        due: at.local.due(now, expires),
    };
    let proofs = &at.local.shared.proofs;
    proofs.note(pair(at, peer_ip, peer), proof, now);
}

/// A new connection to the other agent, verified.
pub(super) async fn connect(at: &At<'_>, to: &MeshPeer) -> Result<Connection, RefuseReason> {
    let config = &at.local.shared.config;
    let credentials = credentials(at).await?;
    let tcp = dial_upstream(at, to, config.same_node_tls).await?;
    socket::bound_unsent(&tcp);
    socket::keep_alive(&tcp).map_err(|_| RefuseReason::ConnectRefused)?;
    let expected = std::slice::from_ref(to.expected());
    let handshake = tls::connect(&tcp, &credentials, expected, config.handshake_timeout);
    let session = tokio::select! {
        biased; // as above
        reason = at.entry.cut.wait() => return Err(reason.refuse()),
        session = handshake => session.map_err(|failed| at.refuse(failed))?,
    };
    at.local
        .observe
        .handshake(TlsRole::Client, session.parameters);
    let connection = Connection::new(tcp, session, credentials.not_after(), Instant::now());
    let (peer, expires) = (connection.peer(), connection.expires());
    note(at, to.to().ip(), peer, expires);
    Ok(connection)
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

/// Once the connection is registered, so that a revocation is either seen here
/// or cuts it: also one that came during the handshake, or in the pool.
pub(super) fn still_trusted(at: &At<'_>, peer: &PeerId) -> Result<(), RefuseReason> {
    match at.pod.pod.identity.current() {
        None => Err(RefuseReason::NoCertificate),
        Some(own) if own.trust().is_revoked(peer) => Err(RefuseReason::Tls(TlsFailure::Revoked)),
        Some(_) => Ok(()),
    }
}

impl Carrying {
    fn begin(at: &At<'_>, key: Key, mut connection: Connection) -> Box<Self> {
        let relay = connection.open(&open(at));
        Box::new(Self {
            key,
            connection,
            relay,
            answer: None,
        })
    }
}

async fn stream(
    accepted: &Accepted<'_>,
    report: &mut Report<'_>,
    carrying: &mut Carrying,
    peer: &MeshPeer,
) -> Result<Ended, RefuseReason> {
    let at = &accepted.at;
    let idle = at.local.shared.config.idle_timeout;
    let stopped = loop {
        let tcp = carrying.connection.tcp().clone();
        let mut tunnelled = Tunnelled {
            relay: &mut carrying.relay,
            application: &accepted.client,
            connection: &mut carrying.connection,
        };
        let sockets = [&accepted.client, &*tcp];
        let stopped = carry(&mut tunnelled, sockets, &at.entry.cut, report, idle).await;
        drop(tcp);
        if !matches!(stopped, Stopped::Ended(End::NotTaken)) {
            break stopped;
        }
        at.local.shared.metrics.replays.inc();
        carrying.connection.hang_up();
        carrying.connection = Box::pin(reach(at, peer)).await?;
        stand_on(at, carrying.key, &carrying.connection);
        report.secured(carrying.connection.tls(), carrying.connection.peer());
        carrying.relay.again(&mut carrying.connection, &open(at));
    };
    let (reason, answer) = end(&stopped, carrying.relay.is_accepted());
    carrying.answer = answer;
    report.flow().denied_by = carrying.relay.take_denied_by();
    Ok((carrying.relay.bytes(), reason))
}

fn open(at: &At<'_>) -> Open {
    Open {
        takes_rule: true,
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
            ResetReason::Denied
            | ResetReason::ConnectFailed
            | ResetReason::OverLimit
            | ResetReason::Aborted
            | ResetReason::Answer
            | ResetReason::Cut => (CloseReason::ResetByUpstream, Some(ResetReason::Answer)),
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
async fn give_back(local: &Local, pod: &PodState, mut carrying: Box<Carrying>) {
    let Carrying {
        connection,
        relay,
        answer,
        ..
    } = &mut *carrying;
    let reusable = match *answer {
        Some(reason) => Box::pin(relay.settle(connection, reason)).await,
        None => relay.is_over(connection),
    };
    // What was cut is not trusted with another stream.
    let cut = *answer == Some(ResetReason::Cut);
    if reusable && !cut && !local.draining.is_cancelled() {
        local.keep(pod, carrying.key, carrying.connection);
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
