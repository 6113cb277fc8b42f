//! What is decided of a request: by the routes where it goes, by the policy of a
//! pod here whether it may, and what changes of it on the way.

use std::borrow::Cow;
use std::time::Instant;

use super::reach::{authz_input, routes, target};
use super::upstreams::Way;
use crate::http::answer::{Answer, Client, REASON};
use crate::http::h1::Request;
use crate::model::http_route::Timeouts;
use crate::model::route::BackendRef;
use crate::model::{Edits, Refused, RequestHead};
use crate::plan::{Target, Transport};
use crate::proxy::authorize::{Permitted, authorize_request};
use crate::proxy::context::Exchange;
use crate::route::http::{Decision, Respond, RouteReason};

/// Where a request goes, by what leave, and what changes of it.
pub(super) struct Course {
    pub(super) way: Way,
    pub(super) target: Target,
    pub(super) request: Edits,
    /// Of the final answer.
    pub(super) response: Edits,
    pub(super) timeouts: Timeouts,
}

/// By one configuration; or the answer that it gets here, and no server sees it.
pub(super) fn course(
    exchange: &Exchange,
    request: &Request<'_>,
) -> Result<Result<Course, Answer>, Refused> {
    let head = &request.head;
    let Some(routes) = routes(exchange) else {
        return go(exchange, head, None, [Edits::default(), Edits::default()]);
    };
    let worker = &exchange.context.worker;
    let namespace = exchange.context.pod.workload.key.namespace.as_str();
    match routes.decide(head, namespace, |limit| worker.dice.below(limit)) {
        Decision::Implicit => go(exchange, head, None, [Edits::default(), Edits::default()]),
        Decision::Respond(respond) => Ok(Err(answer(respond, head))),
        Decision::Forward(forward) => {
            let edits = [forward.request, forward.response].map(Cow::into_owned);
            let course = go(exchange, head, Some(forward.backend), edits)?;
            Ok(course.map(|course| Course {
                timeouts: forward.timeouts,
                ..course
            }))
        }
    }
}

fn go(
    exchange: &Exchange,
    head: &RequestHead<'_>,
    to: Option<&BackendRef>,
    [mut request, response]: [Edits; 2],
) -> Result<Result<Course, Answer>, Refused> {
    let target = target(exchange, to)?;
    let transport = exchange
        .decision_context()
        .transport(&target, Instant::now())?;
    let way = match transport {
        Transport::Mesh(peer) => Way::Mesh(peer),
        Transport::Plain(outside) => Way::Plain(outside),
        Transport::SameNode(workload) => {
            let trust_domain = &exchange.context.worker.agent.trust_domain;
            let expected = workload.spiffe_id(trust_domain).ok();
            let input = authz_input(exchange, target.upstream, workload.clone());
            let permitted = authorize_request(exchange, input, head)?;
            let Permitted { authorized, target } = permitted;
            request.target = request.target.or(target);
            Way::SameNode {
                authorized,
                workload,
                expected,
            }
        }
    };
    Ok(Ok(Course {
        way,
        target,
        request,
        response,
        timeouts: Timeouts::default(),
    }))
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
