//! A place among what may be in flight to a destination.

use std::rc::Rc;
use std::time::Instant;

use super::attempt::Attempt;
use super::in_flight::Here;
use super::outcome::Kind;
use super::ticket::{Queued, Ticket};
use crate::limit::WaiterOf;
use crate::model::RefuseReason;

/// A place for the attempt, which is in flight then; false: the try before it has one. The
/// error is the limit that has none, and where there is a queue the attempt waits in it, by
/// whom it is of.
pub(super) fn enter(
    here: &Rc<Here>,
    attempt: &mut Attempt,
    (kind, now): (Kind, Instant),
    source: impl FnOnce() -> WaiterOf,
) -> Result<bool, RefuseReason> {
    if attempt.has_place(here) {
        return Ok(false);
    }
    let ticket = attempt.take_ticket();
    if ticket.is_some_and(|ticket| ticket.become_place(here, kind)) {
        return Ok(true);
    }
    let limits = &here.traffic.limits;
    let (most, named) = kind.limit(limits);
    let cap = here.destination.count(kind);
    if cap.enter(most) {
        return Ok(true);
    }
    if limits.max_pending_requests == 0 || !attempt.may_queue() {
        return Err(named);
    }
    let number = cap
        .wait(most, limits.max_pending_requests, source())
        .ok_or(RefuseReason::MaxPendingRequests)?;
    let ticket = Ticket::new(here, kind, (number, now));
    attempt.queued = Queued::Waits(Box::new(ticket));
    Err(named)
}

#[cfg(test)]
mod tests;
