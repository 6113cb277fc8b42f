//! What was tried of a request, and how long to wait before it is tried again.

use std::time::Duration;

use super::upstreams::{Upstream, Way};
use crate::balance::Attempt;
use crate::model::http_route::Retry;
use crate::proxy::http::Held;

/// Beside the first, where the route says nothing of how many.
const ATTEMPTS: u32 = 2;
/// Before the first retry by status at most; it doubles with each, up to the last.
const BACKOFF: Duration = Duration::from_millis(25);
const LONGEST: u32 = 10;
/// An endpoint that asks for more time than that is not asked again.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was tried of a request.
pub(super) struct Tries {
    pub(super) attempt: Attempt,
    /// Of its route.
    pub(super) retry: Option<Retry>,
    /// Its head as the client sent it, where it goes on as another.
    pub(super) original: Option<Box<[u8]>>,
    /// Retries by status so far.
    pub(super) count: u32,
}

/// Where it goes instead.
pub(super) struct Fresh {
    pub(super) way: Way,
    pub(super) upstream: Upstream,
    /// It has carried requests before.
    pub(super) is_reused: bool,
}

impl Tries {
    pub(super) fn new(attempt: Attempt, retry: Option<Retry>, original: Option<Box<[u8]>>) -> Self {
        Self {
            attempt,
            retry,
            original,
            count: 0,
        }
    }

    /// For how long to wait before a retry by status; `None`: there is to be none.
    pub(super) fn pause(&self, held: Held, random: impl Fn(u64) -> u64) -> Option<Duration> {
        let retry = self.retry.as_ref()?;
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
            unseen: None,
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
        let mut tries = Tries::new(Attempt::default(), Some(retry), None);
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
        let without = Tries::new(Attempt::default(), None, None);
        assert_eq!(without.pause(held(None), |_| 0), None, "nobody asks for it");
    }
}
