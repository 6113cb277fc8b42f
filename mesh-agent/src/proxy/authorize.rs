//! Asks the policy, and has it asked again as long as what it allowed lives.

use super::context::Exchange;
use super::registry::Watched;
use super::report::Report;
use crate::model::{RefuseReason, Refused};
use crate::plan::{AuthzInput, Verdict};
use crate::policy::Permit;

/// Leave of the policy for one exchange. A change that takes it back cuts the
/// connection; that ends when this is dropped.
#[derive(Debug)]
pub(super) struct Authorized {
    permit: Permit,
    watched: Watched,
}

impl Authorized {
    pub(super) fn permit(&self) -> &Permit {
        &self.permit
    }

    /// The connection is there: nothing is opened by this permit any more, and
    /// what it allowed is still watched.
    pub(super) fn arrived(self) -> Watched {
        self.watched
    }
}

/// The rule that decided is in the report either way.
pub(super) fn authorize(
    exchange: &Exchange,
    report: &mut Report,
    check: AuthzInput,
) -> Result<Authorized, Refused> {
    let now = exchange.context.worker.agent.published.load();
    match check.verdict(&exchange.in_force, &now) {
        Verdict::Permit(permit) => {
            report.flow().rule = permit.rule().cloned();
            // Without a wait since the newest configuration was asked: whoever
            // publishes another one finds this check.
            let watched = Watched::begin(exchange.context.entry(), check);
            Ok(Authorized { permit, watched })
        }
        Verdict::Deny(refusal) => {
            report.flow().rule = refusal.rule().cloned();
            Err(refusal.reason().into())
        }
        // There is no request to ask for.
        Verdict::NeedsRequest => Err(RefuseReason::Denied.into()),
    }
}
