//! From a local pod to elsewhere: target, transport, permit, upstream.

mod mesh;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;

use super::accepted::{Accepted, forward_between};
use super::authorize::{Authorized, authorize};
use super::context::{ConnectionContext, Exchange};
use super::forward::ForwardEnd;
use super::report::Report;
use crate::balance::Attempt;
use crate::io::dial;
use crate::model::{
    Direction, RefuseReason, Refused, Security, UnknownPeer, UpstreamAddr, Workload,
};
use crate::plan::{AuthzInput, MayDial, Outside, Source, Target, Transport};
use crate::sys::socket;
use mesh::MeshStream;

pub(super) async fn serve(accepted: Accepted) {
    let mut report = accepted.exchange.report();
    let mut after = None;
    let result = forwarded(&accepted, &mut report, &mut after).await;
    let context = accepted.exchange.context.clone();
    accepted.conclude(report, result);
    if let Some(carrying) = after {
        carrying.give_back(&context).await;
    }
}

async fn forwarded(
    accepted: &Accepted,
    report: &mut Report,
    after: &mut Option<Box<MeshStream>>,
) -> Result<ForwardEnd, Refused> {
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

fn target(exchange: &Exchange) -> Result<Target, Refused> {
    let context = &exchange.context;
    let pod = &context.pod.workload;
    let source = Source {
        own: pod.ips,
        address: context.client_addr.ip(),
        pod: &pod.uid,
    };
    let decision_context = exchange.decision_context();
    let backends = decision_context.backends(&source, context.orig_dst)?;
    let mut balancer = context.worker.balancer.borrow_mut();
    let target = backends.pick(&mut balancer, &mut Attempt::default(), Instant::now())?;
    context.worker.agent.seen.note(&target);
    Ok(target)
}

/// Outside of the mesh.
async fn plain(
    accepted: &Accepted,
    report: &mut Report,
    outside: &Outside,
) -> Result<ForwardEnd, Refused> {
    let stream = dial_upstream(accepted.context(), outside).await?;
    if entered_pod(accepted.context(), &stream, outside.to()).is_some() {
        // Meanwhile the address is that of a pod here, whose policy nobody asked.
        socket::reset_on_close(&stream);
        return Err(RefuseReason::WrongWorkload.into());
    }
    Ok(forward_between(accepted, report, &stream).await)
}

/// Both halves in one pass.
async fn same_node(
    accepted: &Accepted,
    report: &mut Report,
    upstream: UpstreamAddr,
    workload: Arc<Workload>,
) -> Result<ForwardEnd, Refused> {
    let authorized = authorize_here(&accepted.exchange, report, upstream, workload.clone())?;
    let permit = authorized.permit();
    let stream = dial_upstream(accepted.context(), permit).await?;
    // The address may belong to another pod by now, enrolled or not.
    let entered = entered_pod(accepted.context(), &stream, permit.to());
    let agent = &accepted.context().worker.agent;
    if !entered.is_some_and(|cookie| agent.is_pod(cookie, &workload)) {
        socket::reset_on_close(&stream);
        return Err(RefuseReason::WrongWorkload.into());
    }
    let _watched = authorized.arrived();
    Ok(forward_between(accepted, report, &stream).await)
}

/// Cookie of the pod that the dial went into, if this node's agent enrolled it.
fn entered_pod(context: &ConnectionContext, stream: &TcpStream, to: SocketAddr) -> Option<u64> {
    let source = stream.local_addr().ok()?;
    (context.worker.agent.entered_pod)(source, to)
}

/// The destination's policy, for a caller whose identity the kernel gives.
fn authorize_here(
    exchange: &Exchange,
    report: &mut Report,
    upstream: UpstreamAddr,
    workload: Arc<Workload>,
) -> Result<Authorized, Refused> {
    let context = &exchange.context;
    report.flow().direction = Direction::SameNode;
    report.flow().security = Security::SameNode;
    let expected = workload.spiffe_id(&context.worker.agent.trust_domain);
    report.flow().destination_principal = expected.ok();
    let input = AuthzInput::new(
        Some(context.pod.spiffe_id.clone()),
        context.client_addr.ip(),
        workload,
        upstream.get(),
    );
    authorize(exchange, report, input)
}

/// From the pod's address; ends early when the connection is cut.
async fn dial_upstream(
    context: &ConnectionContext,
    may_dial: &impl MayDial,
) -> Result<TcpStream, Refused> {
    let config = &context.worker.agent.config;
    let from = context
        .pod
        .dial_from(may_dial.to().ip(), false, &config.limits)?;
    tokio::select! {
        biased; // removal and drain win over a connection just made
        reason = context.entry().cut.wait() => Err(reason.refuse()),
        connected = dial::dial(may_dial, from, config.connect_timeout) => connected,
    }
}
