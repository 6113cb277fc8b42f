//! What was decided of a request by its head, and by one configuration.

use std::rc::Rc;
use std::time::Instant;

use super::copies::copies;
use super::course::{Found, Http1, Own, course};
use super::upstreams::Way;
use crate::balance::Attempt;
use crate::http::answer::{Answer, Client};
use crate::http::h1::{Framing, Request};
use crate::model::http_route::Retry;
use crate::model::{Edits, Refused, RuleRef};
use crate::proxy::context::{ConnectionContext, Exchange};
use crate::proxy::http::{Planned, SendCopies, is_safe};
use crate::proxy::request_report::{Heard, refused_by};
use crate::proxy::times::Times;

/// What was decided of a request by its head.
pub(super) struct Decided {
    pub(super) course: Result<Going, Own>,
    pub(super) found: Found,
    pub(super) heard: Heard,
    /// The rule of a policy that said no.
    pub(super) rule: Option<RuleRef>,
    pub(super) generation: u64,
    pub(super) client: Client,
    /// Of its head.
    pub(super) len: usize,
    /// Behind an answer of the agent's own the client may ask on.
    pub(super) may_stay: bool,
    pub(super) is_safe: bool,
}

/// A request that goes on.
pub(super) struct Going {
    pub(super) way: Way,
    pub(super) planned: Planned,
    pub(super) response: Edits,
    pub(super) limits: Limits,
    /// Of its route.
    pub(super) retry: Option<Retry>,
    /// Of the first decision alone.
    pub(super) copies: Option<SendCopies>,
}

/// How long it may take.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) times: Times,
    pub(super) began: Instant,
}

impl Limits {
    pub(super) fn whole(self) -> Option<Instant> {
        self.times.whole(self.began)
    }

    /// When an attempt that begins now has to be over.
    pub(super) fn attempt(self, now: Instant) -> Option<Instant> {
        self.times.ends(self.began, now)
    }
}

impl Decided {
    /// `attempt`: what was tried of it already.
    pub(super) fn of(
        context: &Rc<ConnectionContext>,
        request: &Request<'_>,
        bytes: &[u8],
        attempt: &mut Attempt,
    ) -> Self {
        let exchange = Exchange::begin(context);
        let to = Client::of(&request.head, true);
        let (mut found, mut rule) = (Found::default(), None);
        let course = going((&exchange, attempt), (request, bytes), &mut found);
        let course = course.unwrap_or_else(|refused| {
            let own = (Answer::refused(&refused, to), refused_by(&refused));
            rule = refused.rule;
            Err(own)
        });
        let observe = &context.worker.observe;
        Self {
            course,
            found,
            heard: Heard::of(&request.head, to.is_grpc, observe),
            rule,
            generation: exchange.in_force.snapshot.generation,
            client: to,
            len: bytes.len(),
            may_stay: request.persistent && request.framing == Framing::None,
            is_safe: is_safe(request.head.method),
        }
    }
}

/// Where a request goes and what changes of it, or the answer that it gets here.
fn going(
    tried: (&Exchange, &mut Attempt),
    (request, bytes): (&Request<'_>, &[u8]),
    found: &mut Found,
) -> Result<Result<Going, Own>, Refused> {
    let (exchange, attempt) = tried;
    let came = Http1(request, bytes);
    let course = match course((exchange, attempt), &came, found)? {
        Ok(course) => course,
        Err(own) => return Ok(Err(own)),
    };
    Ok(Ok(Going {
        way: course.way,
        planned: course.planned,
        response: course.response,
        limits: Limits {
            times: course.times,
            began: Instant::now(),
        },
        retry: course.retry,
        copies: course
            .mirrored
            .and_then(|wanted| copies(exchange, &came, wanted)),
    }))
}
