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
    /// Retries by status so far.
    pub(in crate::proxy) count: u32,
}

/// The time before a retry is over: where it goes, and by what leave, is decided behind
/// that.
pub(in crate::proxy) struct Waited(());

impl Tries {
    pub(in crate::proxy) fn new(attempt: Attempt, retry: Option<Retry>) -> Self {
        Self {
            attempt,
            retry,
            count: 0,
        }
    }

    /// Until the request may be sent again whose answer is held; `None`: it is to have
    /// that answer. `ends`: when all of it has to be over.
    pub(in crate::proxy) async fn wait(
        &self,
        held: Held,
        ends: Option<Instant>,
        (random, cut): (impl Fn(u64) -> u64, &Cut),
    ) -> Result<Option<Waited>, CutReason> {
        let is_at_once = (held.lost.is_some() || held.spared) && !self.attempt.is_second();
        let pause = match is_at_once {
            true => Some(Duration::ZERO),
            false => self.pause(held, random),
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
        Ok(Some(Waited(())))
    }

    /// For how long to wait before a retry by status; `None`: there is to be none.
    fn pause(&self, held: Held, random: impl Fn(u64) -> u64) -> Option<Duration> {
        let retry = self.retry.as_ref()?;
        if !retry.codes.contains(&held.status) {
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
        let without = Tries::new(Attempt::default(), None);
        assert_eq!(without.pause(held(None), |_| 0), None, "nobody asks for it");
    }
}
