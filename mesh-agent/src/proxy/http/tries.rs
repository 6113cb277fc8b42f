//! What was tried of a request, and how long to wait before it is tried again.

use std::time::{Duration, Instant};

use super::hold::Held;
use crate::balance::{Attempt, Leave};
use crate::model::http_route::Retry;
use crate::model::{RefuseReason, Refused};
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
    /// An upstream closed before it said anything, so that an application may have seen it.
    was_lost: bool,
}

/// Where a request may go once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum RetryTo {
    /// To another endpoint, at once: no application has done anything of it, or its answer
    /// was for us to know.
    Elsewhere,
    /// To any: its route asks for it.
    Anywhere,
}

/// The time before a retry is over: where it goes is decided behind that.
pub(in crate::proxy) struct Waited {
    pub(in crate::proxy) to: RetryTo,
    /// Of a retry that may be to any: nobody waits for one that there is no budget for.
    pub(in crate::proxy) leave: Option<Leave>,
}

impl Tries {
    pub(in crate::proxy) fn new(attempt: Attempt, retry: Option<Retry>) -> Self {
        Self {
            attempt,
            retry,
            count: 0,
            was_lost: false,
        }
    }

    /// Its route wants no retries of any kind.
    pub(in crate::proxy) fn is_off(&self) -> bool {
        self.retry.as_ref().is_some_and(Retry::is_off)
    }

    /// A kept connection closed before it said anything, and there was no other.
    pub(in crate::proxy) fn was_lost(&mut self) {
        self.was_lost = true;
        self.attempt.was_seen();
    }

    /// The time of one attempt is over, and its route asks for retries: of what may be seen
    /// twice (`is_safe`, or nothing of it was sent); else where its codes have that answer.
    pub(in crate::proxy) fn late(&self, is_safe: bool) -> Option<Held> {
        let late: Refused = RefuseReason::RequestTimeout.into();
        let late = Held::unreached(&late);
        let retry = self.retry.as_ref().filter(|retry| !retry.is_off())?;
        (is_safe || retry.codes.contains(&late.status)).then_some(late)
    }

    /// Where the request whose answer is held may go first.
    pub(in crate::proxy) fn first(&mut self, held: Held) -> RetryTo {
        if matches!(
            held.lost,
            None | Some(RefuseReason::UpstreamClosed | RefuseReason::RequestTimeout)
        ) {
            self.attempt.was_seen();
        }
        let may = match held.lost {
            None => held.spared && !self.attempt.is_second(),
            // Only as its route asks for it.
            Some(RefuseReason::RequestTimeout) => false,
            // What ends one application is not to end all.
            Some(RefuseReason::UpstreamClosed) if self.was_lost => false,
            Some(_) => !self.attempt.has_tried_enough(),
        };
        self.was_lost |= held.lost == Some(RefuseReason::UpstreamClosed);
        match may {
            true => RetryTo::Elsewhere,
            false => RetryTo::Anywhere,
        }
    }

    /// And behind that, where it was not sent.
    pub(in crate::proxy) fn next(&self, last: RetryTo) -> Option<RetryTo> {
        // Else it was the budget that did not allow it.
        let is_alone = self.attempt.is_repeated();
        (last == RetryTo::Elsewhere && is_alone).then_some(RetryTo::Anywhere)
    }

    /// Until it may be sent again; `None`: it is to have that answer. `ends`: when all of
    /// it has to be over.
    pub(in crate::proxy) async fn wait(
        &self,
        (held, to): (Held, RetryTo),
        ends: Option<Instant>,
        (random, may, cut): (impl Fn(u64) -> u64, impl FnOnce() -> Option<Leave>, &Cut),
    ) -> Result<Option<Waited>, CutReason> {
        let pause = match to {
            RetryTo::Elsewhere => Some(Duration::ZERO),
            RetryTo::Anywhere => self.pause(held, random),
        };
        let now = Instant::now();
        let is_in_time = |pause: &Duration| ends.is_none_or(|ends| now + *pause < ends);
        let Some(pause) = pause.filter(is_in_time) else {
            return Ok(None);
        };
        let leave = match to {
            RetryTo::Elsewhere => None,
            RetryTo::Anywhere => match may() {
                Some(leave) => Some(leave),
                None => return Ok(None),
            },
        };
        if !pause.is_zero() {
            tokio::select! {
                biased; // a cut must not wait
                reason = cut.wait() => return Err(reason),
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(Some(Waited { to, leave }))
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

    fn held(after: Option<u64>) -> Held {
        Held {
            status: 503,
            grpc: None,
            lost: None,
            spared: false,
            is_overflow: false,
            after: after.map(Duration::from_secs),
        }
    }

    #[test]
    fn what_nobody_saw_is_tried_at_three_endpoints_and_what_one_may_have_seen_at_two() {
        use RefuseReason::{ConnectRefused, UpstreamClosed};
        let goes = |lost: &[RefuseReason]| {
            let mut tries = Tries::new(Attempt::default(), None);
            let mut to = vec![];
            for (at, reason) in lost.iter().enumerate() {
                tries.attempt.picked_nth(at);
                let lost = Some(*reason);
                to.push(tries.first(Held { lost, ..held(None) }));
            }
            to
        };
        let (elsewhere, no) = (RetryTo::Elsewhere, RetryTo::Anywhere);
        assert_eq!(goes(&[ConnectRefused; 3]), [elsewhere, elsewhere, no]);
        assert_eq!(goes(&[UpstreamClosed; 2]), [elsewhere, no]);
        let mixed = [ConnectRefused, UpstreamClosed, ConnectRefused];
        assert_eq!(goes(&mixed), [elsewhere, elsewhere, no]);
    }

    #[test]
    fn what_takes_too_long_goes_again_only_where_its_route_asks_for_retries() {
        let none = Tries::new(Attempt::default(), None);
        assert_eq!(none.late(true), None);
        let asked = |attempts| Retry {
            codes: [503].into(),
            attempts,
            backoff: None,
        };
        let off = Tries::new(Attempt::default(), Some(asked(Some(0))));
        assert_eq!(off.late(true), None);
        let mut tries = Tries::new(Attempt::default(), Some(asked(Some(1))));
        let late = tries.late(true).expect("it asks");
        // What asks for something to be done may have been done.
        assert_eq!(tries.late(false), None);
        let named = Tries::new(
            Attempt::default(),
            Some(Retry {
                codes: [503, 504].into(),
                ..asked(None)
            }),
        );
        assert_eq!(named.late(false), Some(late));
        assert_eq!((late.status, tries.first(late)), (504, RetryTo::Anywhere));
        let pause = |tries: &Tries| tries.pause(late, |_| 0);
        assert_eq!(
            pause(&tries),
            Some(Duration::ZERO),
            "whatever its codes are"
        );
        tries.count += 1;
        assert_eq!(pause(&tries), None);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_retry_that_there_is_no_budget_for() {
        let retry = Retry {
            codes: [503].into(),
            attempts: None,
            backoff: Some(Duration::from_secs(8)),
        };
        let tries = Tries::new(Attempt::default(), Some(retry));
        let (began, cut) = (tokio::time::Instant::now(), Cut::default());
        let longest = |limit: u64| limit - 1;
        let to = (held(None), RetryTo::Anywhere);
        let waited = tries.wait(to, None, (longest, || None, &cut)).await;
        assert!(matches!(waited, Ok(None)));
        assert_eq!(began.elapsed(), Duration::ZERO);
        // What goes elsewhere at once is asked where it goes.
        let to = (held(None), RetryTo::Elsewhere);
        let never = || panic!("it is not asked");
        let waited = tries.wait(to, None, (longest, never, &cut)).await;
        assert!(waited.is_ok_and(|waited| waited.is_some()));
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
