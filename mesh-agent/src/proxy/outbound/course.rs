//! What is decided of a request: by the routes where it goes, by the policy of a
//! pod here whether it may, and what changes of it on the way.

use std::borrow::Cow;
use std::time::Instant;

use smallvec::SmallVec;

use super::mirror::{Copied, Copy1, Mirror, Ticket, sending};
use super::reach::{authz_input, target};
use super::upstreams::Way;
use crate::balance::{Attempt, Kind};
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
use crate::proxy::context::Exchange;
use crate::proxy::http::{Inbox, Planned, SendCopies};
use crate::proxy::metrics::CopyEnd;
use crate::proxy::times::Times;
use crate::route::http::{Decision, Mirrored, Respond, RouteReason};

/// Where a request goes, by what leave, and what changes of it.
pub(super) struct Course<P> {
    pub(super) way: Way,
    pub(super) planned: P,
    /// Of the final answer.
    pub(super) response: Edits,
    pub(super) times: Times,
    pub(super) retry: Option<Retry>,
    /// Sends the copies that a route wants elsewhere.
    pub(super) copies: Option<SendCopies>,
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

    type Copy: Copied;

    fn head(&self) -> &RequestHead<'_>;

    /// Behind it there may be another protocol, and so no end: there is no copy of it.
    fn is_endless(&self) -> bool;

    fn copy(&self, planned: Self::Planned) -> Self::Copy;

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
    type Copy = Copy1;

    fn head(&self) -> &RequestHead<'_> {
        &self.0.head
    }

    fn is_endless(&self) -> bool {
        self.0.upgrade || self.0.head.method == "CONNECT"
    }

    fn copy(&self, planned: Planned) -> Copy1 {
        let mut inbox = Inbox::default();
        inbox.extend(self.1);
        Copy1 { planned, inbox }
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
    type Copy = request::Parts;

    fn head(&self) -> &RequestHead<'_> {
        self.0
    }

    /// CONNECT is refused.
    fn is_endless(&self) -> bool {
        false
    }

    fn copy(&self, planned: Forwarded) -> request::Parts {
        planned.parts
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
    let Some(routes) = exchange.in_force.routes_at(exchange.context.orig_dst) else {
        return go(
            (exchange, attempt, found),
            came,
            None,
            [Edits::default(), Edits::default()],
        );
    };
    let worker = &exchange.context.worker;
    let namespace = exchange.context.pod.workload.key.namespace.as_str();
    match routes.decide(head, namespace, |limit| worker.dice.below(limit)) {
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
            let of_copies =
                (!forward.mirrors.is_empty() && attempt.is_new()).then(|| edits[0].clone());
            let course = go((exchange, attempt, found), came, to, edits)?;
            let copies =
                of_copies.and_then(|edits| copies(exchange, came, &forward.mirrors, &edits));
            Ok(course.map(|course| Course {
                times: course.times.by_route(forward.timeouts),
                retry: forward.retry.cloned(),
                copies,
                ..course
            }))
        }
    }
}

fn go<C: Came>(
    (exchange, attempt, found): (&Exchange, &mut Attempt, &mut Found),
    came: &C,
    to: Option<&BackendRef>,
    [mut edits, response]: [Edits; 2],
) -> Result<Result<Course<C::Planned>, Own>, Refused> {
    let target = target(exchange, to, (Kind::Request, attempt), Some(came.head()))?;
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
            if target.is_some() {
                edits.target = target;
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
        copies: None,
    }))
}

/// What is said of the Service that it goes to.
fn times(target: &Target) -> Times {
    let load = target.load.as_ref();
    load.map(|load| Times::of(load.traffic().timeouts))
        .unwrap_or_default()
}

/// What may not go there, or cannot, is left out.
fn copies<C: Came>(
    exchange: &Exchange,
    came: &C,
    mirrored: &[Mirrored<'_>],
    edits: &Edits,
) -> Option<SendCopies> {
    if came.is_endless() || exchange.context.pod.is_retired() {
        return None;
    }
    let copies: SmallVec<_> = mirrored
        .iter()
        .filter_map(|mirrored| copy(exchange, came, mirrored, edits))
        .collect();
    (!copies.is_empty()).then(|| sending(copies))
}

fn copy<C: Came>(
    exchange: &Exchange,
    came: &C,
    mirrored: &Mirrored<'_>,
    edits: &Edits,
) -> Option<Mirror<C::Copy>> {
    let ticket = Ticket::take(exchange)?;
    let (own, mut found) = (ticket.exchange(exchange), Found::default());
    let edits = [edits.clone(), Edits::default()];
    let tried = (&own, &mut Attempt::of_copy(), &mut found);
    let Ok(Ok(course)) = go(tried, came, Some(mirrored.to), edits) else {
        ticket.ends(CopyEnd::Refused);
        return None;
    };
    let load = found.target.and_then(|target| target.load);
    Some(Mirror {
        request: came.copy(course.planned),
        ticket,
        generation: own.in_force.snapshot.generation,
        context: own.context,
        way: course.way,
        load,
    })
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
