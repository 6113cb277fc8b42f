//! What is decided of a request: by the routes where it goes, by the policy of a
//! pod here whether it may, and what changes of it on the way.

use std::borrow::Cow;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use smallvec::SmallVec;

use super::reach::{authz_input, source, target};
use super::upstreams::Way;
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
use crate::plan::{Target, Transport};
use crate::proxy::authorize::{Permitted, authorize_request};
use crate::proxy::client_cert::{self, ProvenCaller};
use crate::proxy::context::Exchange;
use crate::proxy::http::Planned;
use crate::proxy::times::Times;
use crate::route::http::{Decision, Respond, RouteReason};

/// Where a request goes, by what leave, and what changes of it.
pub(super) struct Course<P> {
    pub(super) way: Way,
    pub(super) planned: P,
    /// Of the final answer.
    pub(super) response: Edits,
    pub(super) times: Times,
    pub(super) retry: Option<Retry>,
    /// Its route wants copies elsewhere.
    pub(super) mirrored: Option<Wanted>,
}

/// Copies of a request.
pub(super) struct Wanted {
    pub(super) to: SmallVec<[BackendRef; 1]>,
    /// Of the request.
    pub(super) edits: Edits,
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
pub(super) type Own = (Answer, RequestEnd);

/// A request as it came, and as it goes on.
pub(super) trait Came {
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

impl Came for Http1<'_> {
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

impl Came for Http2<'_> {
    type Planned = Forwarded;

    fn head(&self) -> &RequestHead<'_> {
        self.0
    }

    /// CONNECT is refused.
    fn is_endless(&self) -> bool {
        false
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
pub(super) fn course<C: Came>(
    (exchange, attempt): (&Exchange, &mut Attempt),
    came: &C,
    found: &mut Found,
) -> Result<Result<Course<C::Planned>, Own>, Refused> {
    let head = came.head();
    let luck = fault::same_luck(attempt, &exchange.context.worker.dice);
    fault::waited(exchange, attempt)?;
    let Some(routes) = exchange.in_force.routes_at(exchange.context.orig_dst) else {
        return go(
            (exchange, attempt, found),
            came,
            None,
            [Edits::default(), Edits::default()],
        );
    };
    let dice = luck.as_ref().unwrap_or(&exchange.context.worker.dice);
    let namespace = exchange.context.pod.workload.key.namespace.as_str();
    let now = unix_now();
    let random = |limit| dice.below(limit);
    let mut decision = routes.decide_at(head, namespace, Some(now), random);
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
    match decision {
        Decision::Implicit => go(
            (exchange, attempt, found),
            came,
            None,
            [Edits::default(), Edits::default()],
        ),
        Decision::Respond(respond) => {
            found.route = respond.rule.map(|rule| rule.shown.clone());
            let ended = ended(respond.reason, head);
            Ok(Err((answer(respond, head), ended)))
        }
        Decision::Forward(forward) => {
            found.route = Some(forward.rule.shown.clone());
            let edits = [forward.request, forward.response].map(Cow::into_owned);
            let to = Some(forward.backend);
            let mirrored = (!forward.mirrors.is_empty() && attempt.is_new()).then(|| Wanted {
                to: forward.mirrors.iter().map(|to| to.to.clone()).collect(),
                edits: edits[0].clone(),
            });
            if let Some(session) = &forward.session {
                attempt.of_session(session.token.map(|token| token.endpoint));
            }
            let mut course = go((exchange, attempt, found), came, to, edits)?;
            if let (Some(session), Some(endpoint)) = (forward.session, attempt.session_at())
                && let Ok(course) = &mut course
            {
                let told = session.answer(endpoint, now);
                course.response.headers.extend(told);
            }
            Ok(course.map(|course| Course {
                times: course.times.by_route(forward.timeouts),
                retry: forward.retry.cloned(),
                mirrored,
                ..course
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
    let backends = context.backends_of(&source, (exchange.context.orig_dst, to));
    backends.is_ok_and(|backends| backends.list(1).is_err())
}

fn go<C: Came>(
    (exchange, attempt, found): (&Exchange, &mut Attempt, &mut Found),
    came: &C,
    to: Option<&BackendRef>,
    [mut edits, mut response]: [Edits; 2],
) -> Result<Result<Course<C::Planned>, Own>, Refused> {
    let target = target(exchange, to, (Kind::Request, attempt), Some(came.head()))?;
    cookie::set(attempt, &mut response);
    let transport = exchange
        .decision_context()
        .transport(&target, Instant::now())?;
    let upstream = target.upstream;
    let times = times(&target);
    found.target = Some(target);
    let plan = |edits: &Edits| {
        let planned = came.plan(edits);
        planned.map_err(|_| Refused::from(RefuseReason::Internal))
    };
    let mut planned = plan(&edits)?;
    let way = match transport {
        Transport::Mesh(peer) => Way::Mesh(peer),
        Transport::Plain(outside) => Way::Plain(outside),
        Transport::SameNode(workload) => {
            let trust_domain = &exchange.context.worker.agent.trust_domain;
            let expected = workload.spiffe_id(trust_domain).ok();
            found.same_node = Some(expected);
            let input = authz_input(exchange, upstream, workload.clone());
            // Of what the application gets, as the agent of another node would see it.
            let judge = |head: &RequestHead<'_>| authorize_request(exchange, input, head);
            let permitted = came.judged(&planned, judge).map_err(|bad| Refused {
                detail: Some(bad.detail()),
                ..bad.reason(Of::Request).into()
            })?;
            let Permitted { authorized, target } = permitted?;
            let line = client_cert::line(exchange, &workload, || Some(own(exchange)));
            if target.is_some() || line.is_some() {
                edits.target = target.or(edits.target);
                edits.headers.extend(line);
                planned = plan(&edits)?;
            }
            Way::SameNode {
                authorized,
                workload,
            }
        }
    };
    Ok(Ok(Course {
        way,
        planned,
        response,
        times,
        retry: None,
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
    load.map(|load| Times::of(load.traffic().timeouts))
        .unwrap_or_default()
}

/// Where a copy goes, and by what leave; `None`: nowhere. By what holds when it is sent:
/// whom it is for was decided with its request, and that may have been hours ago.
pub(super) fn course_of_copy<C: Came>(
    exchange: &Exchange,
    came: &C,
    (to, edits): (&BackendRef, &Edits),
) -> Option<(Course<C::Planned>, Option<InFlight>)> {
    if exchange.context.pod.is_retired() {
        return None;
    }
    let mut found = Found::default();
    let tried = (exchange, &mut Attempt::of_copy(), &mut found);
    let course = go(tried, came, Some(to), [edits.clone(), Edits::default()]);
    let course = course.ok()?.ok()?;
    Some((course, found.target.and_then(|target| target.load)))
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
