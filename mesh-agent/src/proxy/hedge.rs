//! A second try of a request beside its first, whatever the version of HTTP: whether it
//! may go, and what becomes of it. The same for both is that it goes to another endpoint,
//! by leave of the budget of retries, and that it is told once how it ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::context::ConnectionContext;
use super::load::Load;
use super::metrics::HedgeEnd;
use crate::balance::{Attempt, InFlight, Leave, Outcome};
use crate::model::Flow;

/// So many times the delay, at most, and no less than the first try took.
const PATIENCE: u32 = 10;

/// For how long what a first try has, or how it ended, is kept from the client for what the
/// second may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    delay: Duration,
    /// Of the first try.
    began: Instant,
    /// All of the request has to be over then.
    whole: Option<Instant>,
}

impl Patience {
    /// Of a first try that begins now.
    pub(super) fn new(delay: Duration, whole: Option<Instant>) -> Self {
        Self {
            delay,
            began: Instant::now(),
            whole,
        }
    }

    /// Behind a first try that is as far `now`.
    pub(super) fn left(self, now: Instant) -> Duration {
        let took = now.saturating_duration_since(self.began);
        let most = self.delay.saturating_mul(PATIENCE).max(took);
        let left = |whole: Instant| whole.saturating_duration_since(now);
        self.whole.map_or(most, |whole| most.min(left(whole)))
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_kept_back_for_ten_delays_or_as_long_as_it_took_and_not_beyond_its_request() {
        let ms = Duration::from_millis;
        for (delay, took, whole, left) in [
            (50, 60, None, 500),
            (50, 2_000, None, 2_000),
            (50, 60, Some(10_000), 500),
            (50, 60, Some(100), 40),
            (50, 60, Some(10), 0),
        ] {
            let mut patience = Patience::new(ms(delay), None);
            patience.whole = whole.map(|whole| patience.began + ms(whole));
            let now = patience.began + ms(took);
            assert_eq!(patience.left(now), ms(left), "{delay} {took} {whole:?}");
        }
    }
}
