//! Faults that a TrafficPolicy asks for: a delay, or an answer that no server has given.
//!
//! Found out once for each request, before an endpoint is picked for it: so none is
//! asked, blamed, or counts it. What is delayed is decided on anew behind that, by
//! the configuration of then, but for the answer of its fault, which stays. Never for copies, and nothing of it is tried again.

use std::time::SystemTime;

use crate::balance::{Attempt, Delayed};
use crate::model::injection::{Abort, Injection};
use crate::model::traffic::Traffic;
use crate::model::{RefuseReason, Refused, RuleRef, Status};
use crate::proxy::context::Exchange;
use crate::proxy::dice::Dice;
use crate::proxy::metrics::Injected;

/// An error is what it gets; or it is to wait, as `attempt` says then.
pub(super) fn inject(
    exchange: &Exchange,
    traffic: &Traffic,
    attempt: &mut Attempt,
) -> Result<(), Refused> {
    if traffic.faults.is_empty() || !attempt.draws() {
        return Ok(());
    }
    let now = SystemTime::now();
    let Some(fault) = drawn(exchange, &traffic.faults, now) else {
        return Ok(());
    };
    let refused = Refused {
        rule: Some(RuleRef {
            policy: fault.by.clone(),
            rule: None,
            generation: exchange.in_force.snapshot.generation,
        }),
        status: fault
            .abort
            .map(|Abort { http, grpc }| Status { http, grpc }),
        ..RefuseReason::FaultInjected.into()
    };
    let metrics = &exchange.context.worker.agent.metrics;
    match fault.delay {
        None => metrics.injected(Injected::Abort),
        Some(delay) => {
            metrics.injected(Injected::Delay);
            // No longer than the fault itself.
            let left = fault.until.duration_since(now).unwrap_or_default();
            attempt.delay(Delayed {
                lasts: delay.min(left),
                then: fault.abort.map(|_| (refused.clone(), fault.until)),
            });
        }
    }
    Err(refused)
}

/// The first that is for the caller, is not over, and hits.
fn drawn<'f>(
    exchange: &Exchange,
    faults: &'f [Injection],
    now: SystemTime,
) -> Option<&'f Injection> {
    let context = &exchange.context;
    let (caller, settings) = (&context.pod.spiffe_id, &exchange.in_force.snapshot.settings);
    let is_for = |fault: &&Injection| {
        !fault.is_over(now) && fault.from.have(caller, |name| settings.is_own(name))
    };
    let hits = |fault: &&Injection| context.worker.dice.below(100) < u64::from(fault.percent);
    faults.iter().filter(is_for).find(hits)
}

/// It has waited; an error is what it gets.
pub(super) fn waited(exchange: &Exchange, attempt: &mut Attempt) -> Result<(), Refused> {
    let Some((refused, until)) = attempt.has_waited() else {
        return Ok(());
    };
    if SystemTime::now() >= until {
        return Ok(());
    }
    let metrics = &exchange.context.worker.agent.metrics;
    metrics.injected(Injected::Abort);
    Err(refused)
}

/// Of what is decided on behind a wait, or for a try beside another one: the shares of routes
/// fall as they did before it, for the fault, the place, or the hedging, is that of the backend
/// that it was to go to.
pub(super) fn same_luck(attempt: &mut Attempt, dice: &Dice) -> Option<Dice> {
    if attempt.is_decided_anew() {
        return Some(Dice::at(attempt.luck));
    }
    attempt.luck = dice.stands();
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is the backend's that opted in, and no other's of the same route.
    #[test]
    fn the_shares_of_a_try_beside_another_fall_as_those_of_that() {
        let dice = Dice::new();
        let mut attempt = Attempt::default();
        assert!(same_luck(&mut attempt, &dice).is_none(), "it is drawn");
        let drawn = [dice.below(1_000), dice.below(1_000)];
        attempt.picked_nth(0);
        let again = same_luck(&mut attempt.beside(), &dice).expect("not drawn anew");
        assert_eq!([again.below(1_000), again.below(1_000)], drawn);
        // A retry may go to any.
        assert!(same_luck(&mut attempt, &dice).is_none());
    }
}
