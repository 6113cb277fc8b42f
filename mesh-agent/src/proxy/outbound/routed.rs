//! What is decided of a request: by the routes where it goes, by the policy of a
//! pod here whether it may, and what changes of it on the way.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use smallvec::SmallVec;

use super::reach::{authz_input, source, target};
use super::upstreams::Transport;
use super::{cookie, fault};
use crate::balance::{Attempt, InFlight, Kind};
use crate::http::answer::{Answer, Client, REASON};
use crate::http::h1::{Bad, InvalidEdit, Request, Side as Of};
use crate::http::h2 as http2;
use crate::http::h2::{Forwarded, Head, HeadLines, request};
use crate::model::http_route::Retry;
use crate::model::route::BackendRef;
use crate::model::{
    Edits, Path, RefuseReason, Refused, RequestEnd, RequestHead, RouteRef, SpiffeId,
};
use crate::plan::{self, Target};
use crate::proxy::authorize::{Permitted, authorize_request};
use crate::proxy::client_cert::{self, ProvenCaller};
use crate::proxy::context::Exchange;
use crate::proxy::http::{Planned, is_safe};
use crate::proxy::times::Times;
use crate::route::http::{Decision, Respond, RouteReason};

/// Where a request goes, by what leave, and what changes of it.
pub(super) struct RoutedRequest<P> {
    pub(super) via: Transport,
    pub(super) planned: P,
    /// Of the final answer.
    pub(super) response: Edits,
    pub(super) times: Times,
    pub(super) retry: Option<Retry>,
    /// When it is not answered by then another endpoint is asked as well.
    pub(super) hedging: Option<Duration>,
    /// Its route wants copies elsewhere.
    pub(super) mirrored: Option<Wanted>,
}

/// Copies of a request.
pub(super) struct Wanted {
    pub(super) to: SmallVec<[BackendRef; 1]>,
    /// Of the request.
    pub(super) edits: Rc<Edits>,
}

/// What is known of a request, whatever becomes of it.
#[derive(Default)]
pub(super) struct Found {
    pub(super) route: Option<RouteRef>,
    pub(super) target: Option<Target>,
    /// It goes to a pod here, of that identity.
    pub(super) same_node: Option<Option<SpiffeId>>,
}

/// The agent's own answer, and what it is to log and metrics.
pub(super) type LocalReply = (Answer, RequestEnd);

/// A request as it came, and as it goes on.
pub(super) trait IncomingRequest {
    type Planned;

    fn head(&self) -> &RequestHead<'_>;

    /// Behind it there may be another protocol, and so no end: there is no copy of it.
    fn is_endless(&self) -> bool;

    fn plan(&self, edits: &Edits) -> Result<Self::Planned, InvalidEdit>;

    /// What `judge` says of the head that goes on.
    fn judged<T>(
        &self,
        planned: &Self::Planned,
        judge: impl FnOnce(&RequestHead<'_>) -> T,
    ) -> Result<T, Bad>;
}

/// With the bytes of its head.
pub(super) struct Http1<'r>(pub(super) &'r Request<'r>, pub(super) &'r [u8]);

impl IncomingRequest for Http1<'_> {
    type Planned = Planned;

    fn head(&self) -> &RequestHead<'_> {
        &self.0.head
    }

    fn is_endless(&self) -> bool {
        self.0.upgrade || self.0.head.method == "CONNECT"
    }

    fn plan(&self, edits: &Edits) -> Result<Planned, InvalidEdit> {
        Planned::of(self.0, self.1, Some(edits))
    }

    fn judged<T>(
        &self,
        planned: &Planned,
        judge: impl FnOnce(&RequestHead<'_>) -> T,
    ) -> Result<T, Bad> {
        planned.judged(self.head(), judge)
    }
}

pub(super) struct Http2<'r>(
    pub(super) &'r RequestHead<'r>,
    pub(super) &'r request::Parts,
);

impl IncomingRequest for Http2<'_> {
    type Planned = Forwarded;

    fn head(&self) -> &RequestHead<'_> {
        self.0
    }

    fn is_endless(&self) -> bool {
        http2::is_tunnel(self.1)
    }

    fn plan(&self, edits: &Edits) -> Result<Forwarded, InvalidEdit> {
        http2::forwarded(self.1, edits)
    }

    fn judged<T>(
        &self,
        planned: &Forwarded,
        judge: impl FnOnce(&RequestHead<'_>) -> T,
    ) -> Result<T, Bad> {
        if !planned.is_changed {
            return Ok(judge(self.head()));
        }
        let mut lines = HeadLines::default();
        Ok(judge(&Head::of(&planned.parts, &mut lines)?.head))
    }
}

/// By one configuration; or the answer that it gets here, and no server sees it.
pub(super) fn routed<C: IncomingRequest>(
    (exchange, attempt): (&Exchange, &mut Attempt),
    came: &C,
    found: &mut Found,
) -> Result<Result<RoutedRequest<C::Planned>, LocalReply>, Refused> {
    let head = came.head();
    let luck = fault::same_luck(attempt, &exchange.context.worker.dice);
    let fault = fault::waited(exchange, attempt);
    let Some(routes) = exchange.in_force.routes_at(exchange.context.orig_dst) else {
        fault?;
        return go(
            (exchange, attempt, found),
            came,
            None,
            [Edits::default(), Edits::default()],
        );
    };
    let dice = luck.as_ref().unwrap_or(&exchange.context.worker.dice);
    let namespace = exchange.context.pod.workload.key.namespace.as_str();
    let random = |limit| dice.below(limit);
    let mut decision = routes.decide_at(head, namespace, Some(unix_now), random);
    if let Decision::Forward(forward) = &decision
        && forward
            .session
            .as_ref()
            .is_some_and(|session| session.token.is_some())
        && is_empty(exchange, forward.backend)
    {
        // A session that cannot go on goes elsewhere.
        decision = routes.decide_at(head, namespace, None, random);
    }
    // Also of what is answered on purpose.
    found.route = decision.rule().map(|rule| rule.shown.clone());
    fault?;
    match decision {
        Decision::Implicit => go(
            (exchange, attempt, found),
            came,
            None,
            [Edits::default(), Edits::default()],
        ),
        Decision::Respond(respond) => {
            let ended = ended(respond.reason, head);
            Ok(Err((answer(respond, head), ended)))
        }
        Decision::Forward(forward) => {
            let edits = [forward.request, forward.response].map(Cow::into_owned);
            let to = Some(forward.backend);
            // Once, with its first decision.
            let is_copied = !forward.mirrors.is_empty() && attempt.is_new() && !came.is_endless();
            let mirrored = is_copied.then(|| Wanted {
                to: forward.mirrors.iter().map(|to| to.to.clone()).collect(),
                edits: Rc::new(edits[0].clone()),
            });
            if let Some(session) = &forward.session {
                attempt.of_session(session.token.map(|token| token.endpoint));
            }
            let routed = go((exchange, attempt, found), came, to, edits);
            if let (Some((since, _)), Some(own)) = (attempt.queued(), forward.timeouts.request) {
                // The route's own wins.
                attempt.has_to_end(own.time().map(|longest| since + longest));
            }
            let mut routed = routed?;
            if let (Some(session), Some(endpoint)) = (forward.session, attempt.session_at())
                && let Ok(routed) = &mut routed
            {
                let told = session.answer(endpoint, unix_now());
                routed.response.headers.extend(told);
            }
            Ok(routed.map(|routed| RoutedRequest {
                times: routed.times.by_route(forward.timeouts),
                retry: forward.retry.cloned(),
                // Who wants no request to be seen twice says so of retries.
                hedging: routed
                    .hedging
                    .filter(|_| !forward.retry.is_some_and(Retry::is_off)),
                mirrored,
                ..routed
            }))
        }
    }
}

/// In seconds.
fn unix_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

/// No endpoint of it can be picked.
fn is_empty(exchange: &Exchange, to: &BackendRef) -> bool {
    let source = source(&exchange.context);
    let context = exchange.decision_context();
    // One that is gone has none either.
    let backends = context.backends_of(&source, (exchange.context.orig_dst, to));
    backends.map_or(true, |backends| backends.is_empty())
}

fn go<C: IncomingRequest>(
    (exchange, attempt, found): (&Exchange, &mut Attempt, &mut Found),
    came: &C,
    to: Option<&BackendRef>,
    [mut edits, mut response]: [Edits; 2],
) -> Result<Result<RoutedRequest<C::Planned>, LocalReply>, Refused> {
    let target = target(exchange, to, (Kind::Request, attempt), Some(came.head()))?;
    cookie::set(attempt, &mut response);
    let transport = exchange
        .decision_context()
        .transport(&target, Instant::now())?;
    let upstream = target.upstream;
    let (times, hedging) = (times(&target), hedging((exchange, attempt), &target, came));
    found.target = Some(target);
    let plan = |edits: &Edits| {
        let planned = came.plan(edits);
        planned.map_err(|_| Refused::from(RefuseReason::Internal))
    };
    let mut planned = plan(&edits)?;
    let via = match transport {
        plan::Transport::Mesh(peer) => Transport::Mesh(peer),
        plan::Transport::Plain(outside) => Transport::Plain(outside),
        plan::Transport::SameNode(workload) => {
            let trust_domain = &exchange.context.worker.agent.trust_domain;
            let expected = workload.spiffe_id(trust_domain).ok();
            found.same_node = Some(expected.clone());
            let input = authz_input(exchange, upstream, workload.clone());
            // Of what the application gets, as the agent of another node would see it.
            let counts = attempt.is_to_count(upstream);
            let judge = |head: &RequestHead<'_>| authorize_request(exchange, (input, counts), head);
            let permitted = came.judged(&planned, judge).map_err(|bad| Refused {
                detail: Some(bad.detail()),
                ..bad.reason(Of::Request).into()
            })?;
            let Permitted { authorized, target } = permitted?;
            attempt.was_admitted(upstream);
            let told = client_cert::told(&workload, || expected, || Some(own(exchange)));
            if target.is_some() || told.is_some() {
                edits.target = target.or(edits.target);
                edits.headers.extend(told.map(client_cert::line));
                planned = plan(&edits)?;
            }
            Transport::SameNode {
                authorized,
                workload,
            }
        }
    };
    Ok(Ok(RoutedRequest {
        via,
        planned,
        response,
        times,
        retry: None,
        hedging,
        mirrored: None,
    }))
}

/// The pod here that asks, as its connections prove it elsewhere.
fn own(exchange: &Exchange) -> ProvenCaller {
    let pod = &exchange.context.pod;
    let credentials = pod.identity.current();
    ProvenCaller {
        identity: pod.spiffe_id.clone(),
        certificate: credentials.map(|credentials| credentials.fingerprint()),
    }
}

/// What is said of the Service that it goes to.
fn times(target: &Target) -> Times {
    let load = target.load.as_ref();
    load.map(|load| Times::of(load.timeouts()))
        .unwrap_or_default()
}

/// For how long another endpoint is not asked as well; `None`: it never is. Where a policy
/// says nothing that is so for what shows whether its endpoint answers at all: a probe costs
/// its client some time, and not its request.
fn hedging<C: IncomingRequest>(
    (exchange, attempt): (&Exchange, &Attempt),
    target: &Target,
    came: &C,
) -> Option<Duration> {
    let load = target.load.as_ref()?;
    let (said, patience) = (load.traffic().hedging.as_ref(), load.patience());
    let said_delay = said.map(|hedging| hedging.delay);
    let delay = second_after((patience, load.is_probe()), said_delay)?;
    let services = &exchange.in_force.snapshot.services;
    let service = services.get(target.service.as_ref()?)?;
    // Its client would be another endpoint's from then on; that of a probe is already.
    if service.affinity.is_some() && !load.is_probe() {
        return None;
    }
    let head = came.head();
    let is_grpc = Client::of(head, true).is_grpc;
    let may = attempt.may_be_hedged() && !came.is_endless();
    let may_be_seen_twice = match said {
        Some(hedging) => hedging.is_for(head.method, head.target, is_grpc),
        None => !is_grpc && is_safe(head.method),
    };
    (may && may_be_seen_twice).then_some(delay)
}

/// A probe has the time to show that its endpoint works; else the policy's is for all.
fn second_after(
    (patience, is_probe): (Option<Duration>, bool),
    said: Option<Duration>,
) -> Option<Duration> {
    match is_probe {
        true => patience.or(said),
        false => [patience, said].into_iter().flatten().min(),
    }
}

/// Where a copy goes, and by what leave; `None`: nowhere. By what holds when it is sent:
/// whom it is for was decided with its request, and that may have been hours ago.
pub(super) fn routed_copy<C: IncomingRequest>(
    exchange: &Exchange,
    came: &C,
    (to, edits): (&BackendRef, &Edits),
) -> Option<(RoutedRequest<C::Planned>, Option<InFlight>)> {
    if exchange.context.pod.is_retired() {
        return None;
    }
    let mut found = Found::default();
    let tried = (exchange, &mut Attempt::of_copy(), &mut found);
    let routed = go(tried, came, Some(to), [edits.clone(), Edits::default()]);
    let routed = routed.ok()?.ok()?;
    Some((routed, found.target.and_then(|target| target.load)))
}

fn ended(reason: RouteReason, head: &RequestHead<'_>) -> RequestEnd {
    let Some(refused) = reason.refusal() else {
        return RequestEnd::Finished;
    };
    let detail = match (reason, &head.path) {
        (RouteReason::UnsupportedFilter, _) => Some("unsupported_filter"),
        (RouteReason::AmbiguousPath, Path::Ambiguous(problem)) => {
            Some(Bad::Path(*problem).detail())
        }
        _ => None,
    };
    RequestEnd::Refused(refused, detail)
}

/// The mesh's own, as the route has it.
fn answer(respond: Respond<'_>, head: &RequestHead<'_>) -> Answer {
    let Respond {
        status,
        headers,
        reason,
        ..
    } = respond;
    let client = Client::of(head, true);
    let is_the_routes = matches!(reason, RouteReason::Redirect | RouteReason::CorsPreflight);
    let mut answer = match (is_the_routes, client.is_grpc) {
        (false, true) => Answer::grpc(reason.grpc_status(), reason.sentence()),
        (false, false) => Answer::text(status, reason.sentence(), client.is_head),
        (true, _) => Answer {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        },
    };
    if is_the_routes && status != 204 {
        answer.headers.push(("content-length", "0".to_owned()));
    }
    if !is_the_routes {
        answer.headers.push((REASON, "no_route".to_owned()));
    }
    answer.headers.extend(headers);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policys_delay_is_no_longer_where_an_endpoint_is_doubtful() {
        let [short, long] = [20, 100].map(|ms| Some(Duration::from_millis(ms)));
        assert_eq!(second_after((long, false), short), short);
        assert_eq!(second_after((short, false), long), short);
        assert_eq!(second_after((long, true), short), long, "a probe");
        for is_probe in [false, true] {
            assert_eq!(second_after((None, is_probe), short), short);
            assert_eq!(second_after((long, is_probe), None), long);
            assert_eq!(second_after((None, is_probe), None), None);
        }
    }
}
