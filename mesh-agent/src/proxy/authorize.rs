//! Asks the policy, and has it asked again as long as what it allowed lives.

use super::context::Exchange;
use super::registry::Watched;
use super::report::Report;
use crate::http::h1::Bad;
use crate::model::{Path, RefuseReason, Refused, RequestHead, SpiffeId, Workload};
use crate::plan::{AuthzInput, Verdict};
use crate::policy::Permit;
use crate::traffic::Asks;

/// Leave of the policy for one exchange. A change that takes it back cuts the
/// connection; that ends when this is dropped.
#[derive(Debug)]
pub(super) struct Authorized {
    permit: Permit,
    /// `None`: somebody else has it.
    watched: Option<Watched>,
}

impl Authorized {
    pub(super) fn permit(&self) -> &Permit {
        &self.permit
    }

    /// The connection is there: nothing is opened by this permit any more, and
    /// what it allowed is still watched.
    pub(super) fn arrived(self) -> Option<Watched> {
        self.watched
    }

    /// Of one exchange of many: the leave is for whoever opens a connection by it, the
    /// watch for the exchange.
    pub(super) fn watch_apart(&mut self) -> Option<Watched> {
        self.watched.take()
    }
}

/// Leave for one request.
pub(super) struct Permitted {
    pub(super) authorized: Authorized,
    /// What goes on instead of its target: a rule or a limit looked at the path in this form.
    pub(super) target: Option<String>,
}

/// Of a request: only that one may go by it. `counts`: by limits of rates.
pub(super) fn authorize_request(
    exchange: &Exchange,
    (check, counts): (AuthzInput, bool),
    head: &RequestHead<'_>,
) -> Result<Permitted, Refused> {
    let now = exchange.context.worker.agent.published.load();
    let takes_connect = || {
        let destination = check.destination_in(&now);
        destination.is_some_and(|destination| destination.on_node.allows_connect)
    };
    if head.method == "CONNECT" && !takes_connect() {
        return Err(Refused {
            detail: Some(Bad::ConnectMethod.detail()),
            ..RefuseReason::ConnectMethod.into()
        });
    }
    let by_path = check.needs(&exchange.in_force).path || check.needs(&now).path;
    if let (true, Path::Ambiguous(problem)) = (by_path, &head.path) {
        return Err(Refused {
            detail: Some(Bad::Path(*problem).detail()),
            ..RefuseReason::AmbiguousPath.into()
        });
    }
    match check.verdict_on(head, &exchange.in_force, &now) {
        Verdict::Permit(permit) => {
            let (to, principal) = check.asked();
            let asks = Asks {
                principal,
                head: Some(head),
            };
            let rates = exchange.context.worker.rates(&now, to);
            if let Some(rates) = rates.as_ref().filter(|_| counts) {
                rates.admit(&asks)?;
            }
            let is_normal = by_path || rates.is_some_and(|rates| rates.is_by_path());
            let watched = Watched::begin(exchange.context.entry(), check.for_request(head));
            Ok(Permitted {
                authorized: Authorized {
                    permit,
                    watched: Some(watched),
                },
                target: is_normal.then(|| head.normal_target()).flatten(),
            })
        }
        Verdict::Deny(refusal) => Err(Refused {
            rule: refusal.rule().cloned(),
            ..refusal.reason().into()
        }),
        // It saw all that there is of a request.
        Verdict::NeedsRequest => Err(RefuseReason::Denied.into()),
    }
}

/// Leave for a connection.
pub(super) enum Leave {
    /// Whatever comes on it.
    Given(Authorized),
    /// It depends on each request.
    ByRequest,
    /// And, of what is no HTTP, on the name in a hello: to be asked with that.
    ByName(Box<AuthzInput>),
}

/// Of a leave that is not given: what is to be asked with a name.
pub(super) type ByName = Option<Box<AuthzInput>>;

impl Leave {
    /// Where something else asks for requests there, it is by those.
    pub(super) fn unless(self, for_requests: bool) -> Result<Authorized, ByName> {
        match self {
            Self::Given(authorized) if !for_requests => Ok(authorized),
            Self::ByName(check) if !for_requests => Err(Some(check)),
            Self::Given(_) | Self::ByName(_) | Self::ByRequest => Err(None),
        }
    }
}

/// The rule that decided is in the report either way.
pub(super) fn authorize_connection(
    exchange: &Exchange,
    report: &mut Report,
    check: AuthzInput,
) -> Result<Leave, Refused> {
    let now = exchange.context.worker.agent.published.load();
    match check.verdict(&exchange.in_force, &now) {
        Verdict::Permit(permit) => {
            report.flow().rule = permit.rule().cloned();
            // Without a wait since the newest configuration was asked: whoever
            // publishes another one finds this check.
            let watched = Watched::begin(exchange.context.entry(), check);
            Ok(Leave::Given(Authorized {
                permit,
                watched: Some(watched),
            }))
        }
        Verdict::Deny(refusal) => {
            report.flow().rule = refusal.rule().cloned();
            Err(refusal.reason().into())
        }
        Verdict::NeedsRequest if check.needs_name(&exchange.in_force, &now) => {
            Ok(Leave::ByName(Box::new(check)))
        }
        Verdict::NeedsRequest => Ok(Leave::ByRequest),
    }
}

/// Of what is no HTTP, once its name is known.
pub(super) fn authorize_named(
    exchange: &Exchange,
    report: &mut Report,
    check: AuthzInput,
) -> Result<Authorized, Refused> {
    match authorize_connection(exchange, report, check)? {
        Leave::Given(authorized) => Ok(authorized),
        // A rule asks for more than that.
        Leave::ByRequest | Leave::ByName(_) => Err(RefuseReason::UndecidedProtocol.into()),
    }
}

/// A connection that policy lets, before anything is opened for it.
pub(super) fn admit_connection(
    exchange: &Exchange,
    report: &mut Report,
    to: (&Workload, u16),
    principal: Option<&SpiffeId>,
) -> Result<(), Refused> {
    let asks = Asks {
        principal,
        head: None,
    };
    exchange
        .context
        .worker
        .admit(to, &asks)
        .inspect_err(|refused| {
            report.flow().rule.clone_from(&refused.rule);
        })
}
