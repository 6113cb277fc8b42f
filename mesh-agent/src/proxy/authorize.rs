//! Asks the policy.

use super::context::Exchange;
use super::report::Report;
use crate::model::RefuseReason;
use crate::plan::Checked;
use crate::policy::Permit;

/// The rule that decided is in the report either way.
pub(super) fn decide(
    exchange: &Exchange,
    report: &mut Report,
    checked: &Checked,
) -> Result<Permit, RefuseReason> {
    match checked.verdict(&exchange.in_force.policy, &checked.destination) {
        Ok(permit) => {
            report.flow().rule = permit.rule().cloned();
            Ok(permit)
        }
        Err(refusal) => {
            report.flow().rule = refusal.rule().cloned();
            Err(refusal.reason())
        }
    }
}
