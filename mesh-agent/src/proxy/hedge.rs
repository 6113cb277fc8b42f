//! A second try of a request beside its first, whatever the version of HTTP: whether it
//! may go, and what becomes of it. The same for both is that it goes to another endpoint,
//! by leave of the budget of retries, and that it is told once how it ended.

use std::sync::Arc;
use std::time::Instant;

use super::context::ConnectionContext;
use super::load::Load;
use super::metrics::HedgeEnd;
use crate::balance::{Attempt, InFlight, Leave, Outcome};
use crate::model::Flow;

/// Leave for a try beside that of `attempt`, by the budget of where that went.
pub(super) fn ask(context: &ConnectionContext, attempt: &mut Attempt) -> Option<Leave> {
    let leave = attempt.ask_beside(Instant::now());
    if leave.is_none() {
        context.worker.agent.metrics.hedge(HedgeEnd::OverBudget);
    }
    leave
}

/// May it go where it was decided that it goes (`None`: nowhere)? Not to an endpoint that
/// was asked already, and not to another destination, whose policy may want none.
pub(super) fn may_go(
    context: &ConnectionContext,
    load: Option<&InFlight>,
    (leave, attempt): (Leave, &Attempt),
) -> bool {
    let load = load.filter(|_| !attempt.is_repeated());
    let may = load.is_some_and(|load| leave.goes_to(load));
    if !may {
        context.worker.agent.metrics.hedge(HedgeEnd::Nowhere);
    }
    may
}

/// A second try that goes. Dropped, it is cancelled.
pub(super) struct Beside {
    /// `None`: it is told how it ended.
    load: Option<Load>,
    flow: Arc<Flow>,
}

impl Beside {
    pub(super) fn new(load: Load, flow: Arc<Flow>) -> Self {
        let load = Some(load);
        Self { load, flow }
    }

    /// The connection that it goes over is there.
    pub(super) fn connected(&mut self, now: Instant) {
        if let Some(load) = &mut self.load {
            load.goes(now);
        }
    }

    /// It has no answer that will do.
    pub(super) fn failed(mut self, outcome: Outcome) {
        if let Some(mut load) = self.load.take() {
            load.tell(outcome, &self.flow);
            end(&load, HedgeEnd::Failed);
        }
    }

    /// Its answer is the client's: what becomes of that is for the request to tell.
    pub(super) fn won(mut self) -> Option<Load> {
        let load = self.load.take()?;
        end(&load, HedgeEnd::Won);
        Some(load)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(mut load) = self.load.take() {
            load.gave_way();
            end(&load, HedgeEnd::Lost);
        }
    }
}

fn end(load: &Load, end: HedgeEnd) {
    load.context().worker.agent.metrics.hedge(end);
}
