//! The steps that bytes and requests have in common: the routes, a target, what its
//! policy is asked, a dial.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;

use crate::balance::Attempt;
use crate::io::dial;
use crate::model::route::BackendRef;
use crate::model::{Refused, UpstreamAddr, Workload};
use crate::plan::{AuthzInput, MayDial, Source, Target};
use crate::proxy::context::{ConnectionContext, Exchange};
use crate::route::{self, RouteDecision, ServiceRoutes};

/// Those of the port of the Service that the client called.
pub(super) fn routes(exchange: &Exchange) -> Option<&ServiceRoutes> {
    let in_force = &exchange.in_force;
    match route::resolve(&in_force.snapshot, exchange.context.orig_dst) {
        RouteDecision::Service { service, port, .. } => {
            let routes = in_force.routes.of(&service.key, port.port)?;
            Some(routes)
        }
        RouteDecision::Workload(_) | RouteDecision::External | RouteDecision::Refused(_) => None,
    }
}

pub(super) fn source(context: &ConnectionContext) -> Source<'_> {
    let pod = &context.pod.workload;
    Source {
        own: pod.ips,
        address: context.client_addr.ip(),
        pod: &pod.uid,
    }
}

/// `to`: where a route leads; else where the connection was made to.
pub(super) fn target(exchange: &Exchange, to: Option<&BackendRef>) -> Result<Target, Refused> {
    let context = &exchange.context;
    let source = source(context);
    let (decision_context, dst) = (exchange.decision_context(), context.orig_dst);
    let backends = match to {
        Some(to) => decision_context.backends_of(&source, (dst, to))?,
        None => decision_context.backends(&source, dst)?,
    };
    let mut balancer = context.worker.balancer.borrow_mut();
    let target = backends.pick(&mut balancer, &mut Attempt::default(), Instant::now())?;
    context.worker.agent.seen.note(&target);
    Ok(target)
}

/// Cookie of the pod that the dial went into, if this node's agent enrolled it.
pub(super) fn entered_pod(
    context: &ConnectionContext,
    stream: &TcpStream,
    to: SocketAddr,
) -> Option<u64> {
    let source = stream.local_addr().ok()?;
    (context.worker.agent.entered_pod)(source, to)
}

pub(super) fn authz_input(
    exchange: &Exchange,
    upstream: UpstreamAddr,
    workload: Arc<Workload>,
) -> AuthzInput {
    let context = &exchange.context;
    AuthzInput::new(
        Some(context.pod.spiffe_id.clone()),
        context.client_addr.ip(),
        workload,
        upstream.get(),
    )
}

/// From the pod's address; ends early when the connection is cut.
pub(super) async fn dial_upstream(
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
