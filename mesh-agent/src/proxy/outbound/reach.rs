//! The steps that bytes and requests have in common: a target, what its policy is
//! asked, a dial.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;

use super::{cookie, fault};
use crate::balance::{Attempt, Draw, InFlight, Kind, Leave};
use crate::io::dial;
use crate::model::route::BackendRef;
use crate::model::{RefuseReason, Refused, RequestHead, UpstreamAddr, Workload};
use crate::plan::{AuthzInput, MayDial, Outside, SourcePod, Target};
use crate::proxy::context::{ConnectionContext, Exchange};
use crate::proxy::http::{RetryTo, Waited, is_safe};
use crate::sys::socket;

pub(super) fn source(context: &ConnectionContext) -> SourcePod<'_> {
    let pod = &context.pod.workload;
    SourcePod {
        own: pod.ips,
        address: context.client_addr.ip(),
        egress: context.pod.egress(),
        pod: &pod.uid,
    }
}

/// `to`: where a route leads; else where the connection was made to.
pub(super) fn target(
    exchange: &Exchange,
    to: Option<&BackendRef>,
    (kind, attempt): (Kind, &mut Attempt),
    head: Option<&RequestHead<'_>>,
) -> Result<Target, Refused> {
    let context = &exchange.context;
    let source = source(context);
    let (decision_context, dst) = (exchange.decision_context(), context.orig_dst);
    let backends = match to {
        Some(to) => decision_context.backends_of(&source, (dst, to))?,
        None => decision_context.backends(&source, dst)?,
    };
    if let (Some(on), Some(head)) = (backends.hash_on(), head) {
        cookie::hash(on, head, attempt, &context.worker.dice);
    }
    if let (Kind::Request, Some(traffic)) = (kind, backends.traffic()) {
        fault::inject(exchange, traffic, attempt)?;
    }
    attempt.of_request(head.is_some_and(|head| is_safe(head.method)));
    let mut balancer = context.worker.balancer.borrow_mut();
    let random = |limit| context.worker.dice.below(limit);
    let draw = Draw {
        kind,
        now: Instant::now(),
        random: &random,
    };
    let is_first = attempt.is_new();
    let picked = backends.pick(&mut balancer, attempt, draw);
    if let (Some((since, _)), Some(traffic)) = (attempt.queued(), backends.traffic()) {
        let longest = traffic.timeouts.request.filter(|_| kind == Kind::Request);
        attempt.has_to_end(longest.map(|longest| since + longest));
    }
    let target = picked?;
    if let Some(load) = target.load.as_ref().filter(|_| is_first) {
        let of = &load.traffic().retry_budget;
        load.destination().budget.request(of, draw.now);
    }
    context.worker.agent.seen.note(&target);
    Ok(target)
}

/// One that was not tried yet, where there is one, and the budget allows it.
pub(super) fn another(
    exchange: &Exchange,
    to: Option<&BackendRef>,
    (kind, attempt): (Kind, &mut Attempt),
) -> Option<Target> {
    if attempt.has_tried_enough() {
        return None;
    }
    let target = target(exchange, to, (kind, attempt), None).ok()?;
    let load = target.load.as_ref()?;
    may_retry(&exchange.context, load, attempt).then_some(target)
}

/// It is for another endpoint, and the budget allows it: then it is a retry.
pub(super) fn may_retry(context: &ConnectionContext, load: &InFlight, attempt: &Attempt) -> bool {
    !attempt.is_repeated() && may_repeat(context, load)
}

/// Behind an answer that is held, or an endpoint that was not reached: it goes to another
/// one, and by its route also where there is no other.
pub(super) fn may_again(
    context: &ConnectionContext,
    load: &InFlight,
    (waited, attempt): (Waited, &Attempt),
) -> bool {
    if waited.to == RetryTo::Elsewhere {
        return may_retry(context, load, attempt);
    }
    if waited.leave.is_some_and(|leave| leave.goes_to(load)) {
        context.worker.agent.metrics.retries.inc();
        return true;
    }
    may_repeat(context, load)
}

/// Leave for another try, by the budget of where the last one went; asked before the wait
/// for it.
pub(super) fn leave(context: &ConnectionContext, attempt: &Attempt) -> Option<Leave> {
    let leave = attempt.ask_again(Instant::now());
    if leave.is_none() {
        context.worker.agent.metrics.over_budget.inc();
    }
    leave
}

/// The budget allows it, wherever it goes: then it is a retry.
pub(super) fn may_repeat(context: &ConnectionContext, load: &InFlight) -> bool {
    let of = &load.traffic().retry_budget;
    let may = load.destination().budget.retry(of, Instant::now());
    let metrics = &context.worker.agent.metrics;
    match may {
        true => metrics.retries.inc(),
        false => metrics.over_budget.inc(),
    };
    may
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

/// From the pod's address; ends early when the connection is cut. What leaves the mesh is
/// asked of the newest configuration, behind all that was waited for: nothing was said yet.
pub(super) async fn dial_upstream(
    context: &ConnectionContext,
    may_dial: &impl MayDial,
) -> Result<TcpStream, Refused> {
    let config = &context.worker.agent.config;
    let (pod, to, limits) = (&context.pod, may_dial.to().ip(), &config.limits);
    let from = match may_dial.leaves() {
        Some(_) => pod.leave_from(to, limits)?,
        None => pod.dial_from(to, false, limits)?,
    };
    let stream = tokio::select! {
        biased; // removal and drain win over a connection just made
        reason = context.entry().cut.wait() => return Err(reason.refuse()),
        connected = dial::dial(may_dial, from, config.connect_timeout) => connected?,
    };
    if let Some(outside) = may_dial.leaves()
        && let Err(reason) = still_outside(context, outside)
    {
        socket::reset_on_close(&stream);
        return Err(reason.into());
    }
    Ok(stream)
}

/// Is plaintext with it still what the configuration says?
fn still_outside(context: &ConnectionContext, outside: &Outside) -> Result<(), RefuseReason> {
    let agent = &context.worker.agent;
    let published = agent.published.load();
    agent
        .decision_context(&published)
        .still_outside(outside, Instant::now())
}
