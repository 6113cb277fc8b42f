//! What was tried of a request, and how long to wait before it is tried again.

use std::time::{Duration, Instant};

use super::hold::Held;
use crate::balance::Attempt;
use crate::model::http_route::Retry;
use crate::proxy::registry::{Cut, CutReason};

/// Beside the first, where the route says nothing of how many.
const ATTEMPTS: u32 = 2;
/// Before the first retry by status at most; it doubles with each, up to the last.
const BACKOFF: Duration = Duration::from_millis(25);
const LONGEST: u32 = 10;
/// An endpoint that asks for more time than that is not asked again.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was tried of a request.
pub(in crate::proxy) struct Tries {
    pub(in crate::proxy) attempt: Attempt,
    /// Of its route.
    pub(in crate::proxy) retry: Option<Retry>,
    /// Retries so far.
    pub(in crate::proxy) count: u32,
}

/// Where a request may go once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Whither {
    /// To another endpoint, at once: no application has done anything of it, or its answer
    /// was for us to know.
    Elsewhere,
    /// To any: its route asks for it.
    Anywhere,
}

/// The time before a retry is over: where it goes, and by what leave, is decided behind
/// that.
pub(in crate::proxy) struct Waited(Whither);

impl Waited {
    pub(in crate::proxy) fn whither(&self) -> Whither {
        self.0
    }
}

impl Tries {
    pub(in crate::proxy) fn new(attempt: Attempt, retry: Option<Retry>) -> Self {
        Self {
            attempt,
            retry,
            count: 0,
        }
    }

    /// Its route wants no retries of any kind.
    pub(in crate::proxy) fn is_off(&self) -> bool {
        self.retry.as_ref().is_some_and(Retry::is_off)
    }

    /// Where the request whose answer is held may go first.
    pub(in crate::proxy) fn first(&self, held: Held) -> Whither {
        match (held.lost.is_some() || held.spared) && !self.attempt.is_second() {
            true => Whither::Elsewhere,
            false => Whither::Anywhere,
        }
    }

    /// And behind that, where it was not sent.
    pub(in crate::proxy) fn next(&self, last: Whither) -> Option<Whither> {
        // Else it was the budget that did not allow it.
        let is_alone = self.attempt.is_repeated();
        (last == Whither::Elsewhere && is_alone).then_some(Whither::Anywhere)
    }

    /// Until it may be sent again; `None`: it is to have that answer. `ends`: when all of
    /// it has to be over.
    pub(in crate::proxy) async fn wait(
        &self,
        (held, whither): (Held, Whither),
        ends: Option<Instant>,
        (random, cut): (impl Fn(u64) -> u64, &Cut),
    ) -> Result<Option<Waited>, CutReason> {
        let pause = match whither {
            Whither::Elsewhere => Some(Duration::ZERO),
            Whither::Anywhere => self.pause(held, random),
        };
        let now = Instant::now();
        let is_in_time = |pause: &Duration| ends.is_none_or(|ends| now + *pause < ends);
        let Some(pause) = pause.filter(is_in_time) else {
            return Ok(None);
        };
        if !pause.is_zero() {
            tokio::select! {
                biased; // a cut must not wait
                reason = cut.wait() => return Err(reason),
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(Some(Waited(whither)))
    }

    /// For how long to wait before a retry of the route's; `None`: there is to be none.
    fn pause(&self, held: Held, random: impl Fn(u64) -> u64) -> Option<Duration> {
        let retry = self.retry.as_ref()?;
        // That a route asks for retries at all is for what was not reached.
        if held.lost.is_none() && !retry.codes.contains(&held.status) {
            return None;
        }
        if self.count >= retry.attempts.unwrap_or(ATTEMPTS) {
            return None;
        }
        let base = retry.backoff.unwrap_or(BACKOFF);
        let most = base.saturating_mul(2_u32.saturating_pow(self.count).min(LONGEST));
        // Full jitter: whoever was refused together comes back one by one.
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX - 1);
        let pause = Duration::from_micros(random(micros + 1));
        let asked = held.after.unwrap_or_default();
        (asked <= PATIENCE).then(|| pause.max(asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RefuseReason;

    fn held(after: Option<u64>) -> Held {
        Held {
            status: 503,
            lost: None,
            spared: false,
            after: after.map(Duration::from_secs),
        }
    }

    #[test]
    fn the_pause_doubles_up_to_ten_times_and_an_endpoint_that_asks_for_much_is_left_alone() {
        let retry = Retry {
            codes: [503].into(),
            attempts: Some(6),
            backoff: None,
        };
        let mut tries = Tries::new(Attempt::default(), Some(retry));
        let longest = |limit: u64| limit - 1;
        let mut pauses = vec![];
        while let Some(pause) = tries.pause(held(None), longest) {
            pauses.push(pause.as_millis());
            tries.count += 1;
        }
        assert_eq!(pauses, [25, 50, 100, 200, 250, 250]);
        tries.count = 0;
        assert_eq!(tries.pause(held(None), |_| 0), Some(Duration::ZERO));
        let asked = tries.pause(held(Some(3)), |_| 0);
        assert_eq!(asked, Some(Duration::from_secs(3)));
        assert_eq!(tries.pause(held(Some(60)), |_| 0), None);
        let other = Held {
            status: 500,
            ..held(None)
        };
        assert_eq!(tries.pause(other, |_| 0), None);
        let lost = Held {
            lost: Some(RefuseReason::ConnectRefused),
            ..other
        };
        assert_eq!(
            tries.pause(lost, |_| 0),
            Some(Duration::ZERO),
            "not reached"
        );
        let without = Tries::new(Attempt::default(), None);
        assert_eq!(without.pause(held(None), |_| 0), None, "nobody asks for it");
        assert_eq!(without.pause(lost, |_| 0), None, "nor for that");
    }
}
