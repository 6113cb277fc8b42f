//! What was decided of a request by its head, and by one configuration.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::copies::copies;
use super::reach::may_again;
use super::routed::{Found, Http1, LocalReply, routed};
use super::upstreams::Transport;
use crate::balance::Attempt;
use crate::http::answer::{Answer, Client};
use crate::http::h1::{Framing, Request};
use crate::model::http_route::Retry;
use crate::model::{Edits, Refused, RuleRef};
use crate::proxy::context::{ConnectionContext, Exchange};
use crate::proxy::http::{Planned, SendCopies, Waited, is_safe};
use crate::proxy::request_place::RequestPlace;
use crate::proxy::request_report::{Heard, refused_by};
use crate::proxy::times::Times;

/// What was decided of a request by its head.
pub(super) struct Http1Decision {
    pub(super) forward: Result<Going, LocalReply>,
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
    pub(super) via: Transport,
    pub(super) planned: Planned,
    pub(super) response: Edits,
    pub(super) limits: Limits,
    /// Of its route.
    pub(super) retry: Option<Retry>,
    /// When it is not answered by then another endpoint is asked as well.
    pub(super) hedging: Option<Duration>,
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

    /// There is time for another attempt.
    pub(super) fn is_left(self, now: Instant) -> bool {
        self.whole().is_none_or(|ends| now < ends)
    }

    /// Of the same exchange at another endpoint: for how long that one's connection is waited
    /// for was decided with it, as the last one may have been a probe.
    pub(super) fn at(self, next: Self) -> Self {
        Self {
            times: Times {
                connect: next.times.connect,
                ..self.times
            },
            ..self
        }
    }

    /// When an attempt that begins now has to be over.
    pub(super) fn attempt(self, now: Instant) -> Option<Instant> {
        self.times.ends(self.began, now)
    }

    /// When one that was to be over then has to, where it waited for so long for its next one.
    pub(super) fn behind(self, ends: Option<Instant>, waited: Duration) -> Option<Instant> {
        let ends = ends.map(|ends| ends + waited);
        [ends, self.whole()].into_iter().flatten().min()
    }
}

/// A request that came, on the heap: moved about as a pointer, and no part of what waits.
pub(super) struct Came {
    pub(super) decided: Box<Http1Decision>,
    pub(super) attempt: Attempt,
    /// Until it is answered.
    pub(super) place: Option<RequestPlace>,
}

impl Came {
    pub(super) fn decided(
        context: &Rc<ConnectionContext>,
        asked: &Request<'_>,
        bytes: &[u8],
    ) -> Box<Self> {
        let mut attempt = Attempt::default();
        let (decided, place) = match RequestPlace::take(context) {
            Ok(place) => {
                let decided = Http1Decision::of(context, asked, bytes, &mut attempt);
                (decided, Some(place))
            }
            Err(refused) => {
                let refused = Http1Decision::refused(context, (asked, bytes), refused);
                (refused, None)
            }
        };
        let decided = Box::new(decided);
        Box::new(Self {
            decided,
            attempt,
            place,
        })
    }
}

impl Http1Decision {
    /// Where the last try got no answer that is passed on: it goes there, if it may, and the
    /// budget allows it.
    pub(super) fn may_again(
        self,
        context: &ConnectionContext,
        (waited, attempt): (Waited, &Attempt),
    ) -> Option<Self> {
        let load = self.found.target.as_ref()?.load.as_ref()?;
        let may = self.forward.is_ok() && may_again(context, load, (waited, attempt));
        may.then_some(self)
    }

    /// `attempt`: what was tried of it already.
    pub(super) fn of(
        context: &Rc<ConnectionContext>,
        request: &Request<'_>,
        bytes: &[u8],
        attempt: &mut Attempt,
    ) -> Self {
        Self::made(context, (request, bytes), |exchange, found| {
            going((exchange, attempt), (request, bytes), found)
        })
    }

    /// It goes nowhere.
    pub(super) fn refused(
        context: &Rc<ConnectionContext>,
        came: (&Request<'_>, &[u8]),
        refused: Refused,
    ) -> Self {
        Self::made(context, came, |_, _| Err(refused))
    }

    fn made(
        context: &Rc<ConnectionContext>,
        (request, bytes): (&Request<'_>, &[u8]),
        going: impl FnOnce(&Exchange, &mut Found) -> Result<Result<Going, LocalReply>, Refused>,
    ) -> Self {
        let exchange = Exchange::begin(context);
        let to = Client::of(&request.head, true);
        let (mut found, mut rule) = (Found::default(), None);
        let routed = going(&exchange, &mut found);
        let routed = routed.unwrap_or_else(|refused| {
            let own = (Answer::refused(&refused, to), refused_by(&refused));
            rule = refused.rule;
            Err(own)
        });
        let observe = &context.worker.observe;
        Self {
            forward: routed,
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
) -> Result<Result<Going, LocalReply>, Refused> {
    let (exchange, attempt) = tried;
    let came = Http1(request, bytes);
    let routed = match routed((exchange, attempt), &came, found)? {
        Ok(routed) => routed,
        Err(own) => return Ok(Err(own)),
    };
    Ok(Ok(Going {
        via: routed.via,
        planned: routed.planned,
        response: routed.response,
        limits: Limits {
            times: routed.times,
            began: Instant::now(),
        },
        retry: routed.retry,
        hedging: routed.hedging,
        copies: routed
            .mirrored
            .and_then(|wanted| copies(exchange, &came, wanted)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first one was a probe, and not waited for beyond its patience.
    #[test]
    fn a_retry_has_its_own_endpoints_time_to_connect_and_the_rest_of_its_exchange() {
        const MS: Duration = Duration::from_millis(1);
        let began = Instant::now();
        let limits = |connect, request, began| Limits {
            times: Times {
                connect,
                request: Some(request),
                ..Times::default()
            },
            began,
        };
        let first = limits(Some(100 * MS), 2_000 * MS, began);
        let next = first.at(limits(None, 1_000 * MS, began + 300 * MS));
        assert_eq!(next.times.connect, None);
        assert_eq!(next.whole(), Some(began + 2_000 * MS));
        let policy = Some(5_000 * MS);
        let next = first.at(limits(policy, 1_000 * MS, began));
        assert_eq!(next.times.connect, policy);
    }
}
