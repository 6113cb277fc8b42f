//! From a local pod to elsewhere: target, transport, permit, upstream.

mod mesh;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;

use super::accepted::{Accepted, carry_between};
use super::authorize::{Authorized, authorize};
use super::carry::Ended;
use super::context::{At, Exchange};
use super::report::Report;
use crate::balance::Attempt;
use crate::io::dial;
use crate::model::{Direction, RefuseReason, Security, UnknownPeer, UpstreamAddr, Workload};
use crate::plan::{self, AuthzInput, MayDial, Outside, Target, Transport};
use crate::sys::socket;
use mesh::Carrying;

pub(super) async fn serve(accepted: Accepted) {
    let mut report = accepted.exchange.report();
    let mut after = None;
    let result = carried(&accepted, &mut report, &mut after).await;
    let at = accepted.exchange.at.clone();
    accepted.conclude(report, result);
    if let Some(carrying) = after {
        carrying.give_back(&at).await;
    }
}

async fn carried(
    accepted: &Accepted,
    report: &mut Report,
    after: &mut Option<Box<Carrying>>,
) -> Result<Ended, RefuseReason> {
    let exchange = &accepted.exchange;
    let target = target(exchange)?;
    let transport = exchange
        .decision_context()
        .transport(&target, Instant::now())?;
    let upstream = target.upstream;
    let flow = report.flow();
    flow.upstream = Some(upstream);
    flow.service = target.service;
    flow.destination = target.destination.ok_or(UnknownPeer);
    match transport {
        Transport::SameNode(workload) => same_node(accepted, report, upstream, workload).await,
        Transport::Mesh(peer) => mesh::serve(accepted, report, &peer, after).await,
        Transport::Plain(outside) => plain(accepted, report, &outside).await,
    }
}

fn target(exchange: &Exchange) -> Result<Target, RefuseReason> {
    let at = &exchange.at;
    let from = (at.pod.workload.ips, at.client_addr.ip());
    let backends = plan::resolve(&exchange.in_force.snapshot, from, at.orig_dst)?;
    let mut balancer = at.local.balancer.borrow_mut();
    backends.pick(&mut balancer, &mut Attempt::default())
}

/// Outside of the mesh.
async fn plain(
    accepted: &Accepted,
    report: &mut Report,
    outside: &Outside,
) -> Result<Ended, RefuseReason> {
    let stream = dial_upstream(accepted.at(), outside).await?;
    if entered_pod(accepted.at(), &stream, outside.to()).is_some() {
        // Meanwhile the address is that of a pod here, whose policy nobody asked.
        socket::reset_on_close(&stream);
        return Err(RefuseReason::WrongWorkload);
    }
    Ok(carry_between(accepted, report, &stream).await)
}

/// Both halves in one pass.
async fn same_node(
    accepted: &Accepted,
    report: &mut Report,
    upstream: UpstreamAddr,
    workload: Arc<Workload>,
) -> Result<Ended, RefuseReason> {
    let authorized = authorize_here(&accepted.exchange, report, upstream, workload.clone())?;
    let permit = authorized.permit();
    let stream = dial_upstream(accepted.at(), permit).await?;
    // The address may belong to another pod by now, enrolled or not.
    let entered = entered_pod(accepted.at(), &stream, permit.to());
    let shared = &accepted.at().local.shared;
    if !entered.is_some_and(|cookie| shared.is_pod(cookie, &workload)) {
        socket::reset_on_close(&stream);
        return Err(RefuseReason::WrongWorkload);
    }
    let _watched = authorized.arrived();
    Ok(carry_between(accepted, report, &stream).await)
}

/// Cookie of the pod that the dial went into, if this node's agent enrolled it.
fn entered_pod(at: &At, stream: &TcpStream, to: SocketAddr) -> Option<u64> {
    let source = stream.local_addr().ok()?;
    (at.local.shared.entered_pod)(source, to)
}

/// The destination's policy, for a caller whose identity the kernel gives.
fn authorize_here(
    exchange: &Exchange,
    report: &mut Report,
    upstream: UpstreamAddr,
    workload: Arc<Workload>,
) -> Result<Authorized, RefuseReason> {
    let at = &exchange.at;
    report.flow().direction = Direction::SameNode;
    report.flow().security = Security::SameNode;
    let expected = workload.spiffe_id(&at.local.shared.trust_domain);
    report.flow().destination_principal = expected.ok();
    let input = AuthzInput::new(
        Some(at.pod.spiffe_id.clone()),
        at.client_addr.ip(),
        workload,
        upstream.get(),
    );
    authorize(exchange, report, input)
}

/// From the pod's address; ends early when the connection is cut.
async fn dial_upstream(at: &At, may_dial: &impl MayDial) -> Result<TcpStream, RefuseReason> {
    let config = &at.local.shared.config;
    let from = at
        .pod
        .dial_from(may_dial.to().ip(), false, &config.limits)?;
    tokio::select! {
        biased; // removal and drain win over a connection just made
        reason = at.entry().cut.wait() => Err(reason.refuse()),
        connected = dial::dial(may_dial, from, config.connect_timeout) => connected,
    }
}
