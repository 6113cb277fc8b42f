//! What is logged of breakers: their changes, and of many at once the first.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::balance::{Change, Transition};

/// Lines of a worker in each while: of ejections, and of all else.
const MOST: u32 = 20;
const WHILE: Duration = Duration::from_secs(1);

/// Of one worker. Failures have no line, ejections and what follows from them do.
#[derive(Debug, Default)]
pub(super) struct BreakerLog {
    ejections: Pace,
    others: Pace,
}

#[derive(Debug, Default)]
struct Pace {
    since: Cell<Option<Instant>>,
    said: Cell<u32>,
    left_out: Cell<u32>,
}

impl Pace {
    fn may(&self, now: Instant) -> bool {
        if !self.is_under_way(now) {
            self.since.set(Some(now));
            self.said.set(0);
        }
        let may = self.said.get() < MOST;
        let count = if may { &self.said } else { &self.left_out };
        count.set(count.get().saturating_add(1));
        may
    }

    /// Those that had no line, once their while is over.
    fn left_out(&self, now: Instant) -> u32 {
        match self.is_under_way(now) {
            true => 0,
            false => self.left_out.take(),
        }
    }

    fn is_under_way(&self, now: Instant) -> bool {
        let since = self.since.get();
        since.is_some_and(|since| now.saturating_duration_since(since) < WHILE)
    }
}

impl BreakerLog {
    pub(super) fn tell(&self, transition: &Transition) {
        let pace = match transition.change {
            Change::Ejected { .. } => &self.ejections,
            Change::StillFailing { .. } | Change::Works { .. } | Change::Returned => &self.others,
        };
        if pace.may(transition.at) {
            line(transition);
        }
    }

    /// Called from time to time: says how many were left out.
    pub(super) fn sweep(&self, now: Instant) {
        let ejections = self.ejections.left_out(now);
        let others = self.others.left_out(now);
        if ejections > 0 || others > 0 {
            tracing::warn!(
                ejections,
                others,
                "more endpoints were ejected, failed their probes or came back than are logged: see mesh-agent status endpoints --wide"
            );
        }
    }
}

fn line(transition: &Transition) {
    let Transition {
        service,
        endpoint,
        pod,
        ..
    } = transition;
    let pod = pod.as_deref().unwrap_or_default();
    match transition.change {
        Change::Ejected {
            cause,
            failure,
            lasts,
        } => {
            let (cause, last) = (cause.label(), failure.label());
            tracing::warn!(%service, %endpoint, %pod, cause, last, ?lasts, "endpoint is ejected");
        }
        Change::StillFailing { failure, lasts } => {
            let last = failure.label();
            tracing::info!(%service, %endpoint, %pod, last, ?lasts, "endpoint still fails: it stays ejected");
        }
        Change::Works { more } => {
            tracing::info!(%service, %endpoint, %pod, more, "ejected endpoint works: more probes decide");
        }
        Change::Returned => {
            tracing::info!(%service, %endpoint, %pod, "endpoint works again: it is used");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_at_once_the_first_have_a_line_and_the_rest_is_counted() {
        let (pace, now) = (Pace::default(), Instant::now());
        let said = (0..1_000).filter(|_| pace.may(now)).count();
        assert_eq!(said, MOST as usize);
        assert_eq!(pace.left_out(now), 0, "there may be more");
        let later = now + WHILE;
        assert_eq!([pace.left_out(later), pace.left_out(later)], [980, 0]);
        assert!(pace.may(later), "of the next while");
        assert_eq!(pace.left_out(later + WHILE), 0);
    }
}
