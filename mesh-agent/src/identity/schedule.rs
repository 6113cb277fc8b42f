//! When which certificate is fetched. Pure: time and chance are arguments.

use std::time::{Duration, SystemTime};

/// First pause after a failure; doubles.
const BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(150);
/// Longest pause while something needs the certificate: an outage's end must
/// be noticed within 5 s.
const URGENT_BACKOFF: Duration = Duration::from_secs(2);
/// The authority's replicas know by then what one of them has published.
const FIRST_INQUIRY: Duration = Duration::from_secs(2);
/// All agents have asked after the roots within this time more.
const INQUIRIES: Duration = Duration::from_secs(28);

/// Both clocks: the wall may jump, the other one only runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) wall: SystemTime,
    /// Since the agent started.
    pub(super) mono: Duration,
}

/// What is fetched first, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// A connection waits.
    OnDemand,
    Renewal,
    Prefetch,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    not_after: SystemTime,
    renew: Option<(SystemTime, Duration)>,
}

/// One identity's plan.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Plan {
    held: Option<Held>,
    failures: u32,
    failed_at: Duration,
    /// 0.8 to 1.2, drawn at the failure.
    jitter: f64,
    /// Whatever the pause after a failure is.
    at_once: bool,
    pub(super) in_flight: bool,
}

impl Plan {
    /// A certificate came. `renews`: will the source give another one when
    /// asked? `chance` from 0 to 1.
    pub(super) fn succeeded(&mut self, now: Now, not_after: SystemTime, renews: bool, chance: f64) {
        // From now, not from not_before: that lies in the past on purpose.
        let left = not_after.duration_since(now.wall).unwrap_or_default();
        let half = left.mul_f64(0.5 * (0.9 + 0.2 * chance.clamp(0.0, 1.0)));
        let renew = renews.then(|| (now.wall + half, now.mono + half));
        *self = Self {
            held: Some(Held { not_after, renew }),
            ..Self::default()
        };
    }

    pub(super) fn failed(&mut self, now: Now, chance: f64) {
        self.in_flight = false;
        self.at_once = false;
        self.failures = self.failures.saturating_add(1);
        self.failed_at = now.mono;
        self.jitter = 0.8 + 0.4 * chance.clamp(0.0, 1.0);
    }

    /// Asks for another certificate now.
    pub(super) fn hurry(&mut self) {
        self.failures = 0;
        if let Some(held) = &mut self.held {
            held.renew = Some((SystemTime::UNIX_EPOCH, Duration::ZERO));
        }
    }

    /// Tries again now: what was refused may be given. What failed so far stays
    /// known until it has succeeded.
    pub(super) fn try_again(&mut self) {
        self.at_once = true;
        if let Some(held) = &mut self.held {
            held.renew = Some((SystemTime::UNIX_EPOCH, Duration::ZERO));
        }
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    fn is_expired(&self, now: Now) -> bool {
        self.held.is_some_and(|held| held.not_after <= now.wall)
    }

    /// Is a fetch due, and how pressing is it?
    pub(super) fn due(&self, now: Now, is_awaited: bool) -> Option<Priority> {
        if self.in_flight || self.pause(now, is_awaited) > Duration::ZERO {
            return None;
        }
        let expired = self.is_expired(now);
        match &self.held {
            _ if is_awaited && (expired || self.held.is_none()) => Some(Priority::OnDemand),
            None => Some(Priority::Prefetch),
            Some(_) if expired => Some(Priority::Renewal),
            Some(held) => held
                .renew
                .filter(|(wall, mono)| *wall <= now.wall || *mono <= now.mono)
                .map(|_| Priority::Renewal),
        }
    }

    /// What is left of the pause after a failure.
    fn pause(&self, now: Now, is_awaited: bool) -> Duration {
        if self.failures == 0 || self.at_once {
            return Duration::ZERO;
        }
        let doublings = (self.failures - 1).min(8);
        let full = BACKOFF.saturating_mul(1 << doublings).min(MAX_BACKOFF);
        let mut pause = full.mul_f64(self.jitter).min(MAX_BACKOFF);
        if is_awaited || self.is_expired(now) {
            pause = pause.min(URGENT_BACKOFF);
        }
        (self.failed_at + pause).saturating_sub(now.mono)
    }
}

/// A question after the roots: elsewhere there are others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Inquiry {
    due: Option<Duration>,
}

impl Inquiry {
    /// Not at once: all agents of the mesh see the change in the same moment. `chance`
    /// from 0 to 1.
    pub(super) fn begin(&mut self, now: Now, chance: f64) {
        let wait = FIRST_INQUIRY + INQUIRIES.mul_f64(chance.clamp(0.0, 1.0));
        self.due.get_or_insert(now.mono + wait);
    }

    /// Once for each beginning.
    pub(super) fn is_due(&mut self, now: Now) -> bool {
        self.due.take_if(|due| *due <= now.mono).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(seconds: u64) -> Now {
        Now {
            wall: SystemTime::UNIX_EPOCH + 1000 * HOUR + Duration::from_secs(seconds),
            mono: Duration::from_secs(1_000_000 + seconds),
        }
    }

    fn valid(chance: f64) -> Plan {
        let mut plan = Plan::default();
        plan.succeeded(at(0), at(0).wall + HOUR, true, chance);
        plan
    }

    #[test]
    fn a_new_identity_is_fetched_at_once_and_sooner_when_awaited() {
        let plan = Plan::default();
        assert_eq!(plan.due(at(0), false), Some(Priority::Prefetch));
        assert_eq!(plan.due(at(0), true), Some(Priority::OnDemand));
        assert!(Priority::OnDemand < Priority::Renewal && Priority::Renewal < Priority::Prefetch);
    }

    #[test]
    fn agents_ask_after_other_roots_within_half_a_minute_and_not_all_at_once() {
        for (chance, seconds) in [(0.0, 2), (0.5, 16), (1.0, 30)] {
            let mut inquiry = Inquiry::default();
            assert!(!inquiry.is_due(at(1_000)), "nothing has changed");
            inquiry.begin(at(0), chance);
            inquiry.begin(at(1), 1.0);
            assert!(!inquiry.is_due(at(seconds - 1)), "{chance}");
            assert!(inquiry.is_due(at(seconds)), "{chance}");
            assert!(!inquiry.is_due(at(seconds)), "once");
        }
    }

    #[test]
    fn nothing_is_fetched_twice_at_once() {
        let plan = Plan {
            in_flight: true,
            ..Plan::default()
        };
        assert_eq!(plan.due(at(0), true), None);
    }

    #[test]
    fn renewal_is_at_half_life_give_or_take_a_tenth() {
        for (chance, seconds) in [(0.0, 1620), (0.5, 1800), (1.0, 1980)] {
            assert_eq!(valid(chance).due(at(seconds - 1), false), None);
            assert_eq!(
                valid(chance).due(at(seconds + 1), false),
                Some(Priority::Renewal)
            );
        }
    }

    #[test]
    fn a_clock_that_jumps_back_delays_no_renewal_and_one_that_jumps_ahead_hastens_it() {
        let plan = valid(0.5);
        let back = Now {
            wall: at(0).wall - HOUR,
            ..at(1801)
        };
        assert_eq!(plan.due(back, false), Some(Priority::Renewal));
        let ahead = Now {
            wall: at(0).wall + 25 * HOUR,
            ..at(1)
        };
        assert_eq!(plan.due(ahead, false), Some(Priority::Renewal));
        assert_eq!(plan.due(ahead, true), Some(Priority::OnDemand));
        let slightly_back = Now {
            wall: at(0).wall - HOUR,
            ..at(1)
        };
        assert_eq!(
            plan.due(slightly_back, false),
            None,
            "no storm after a jump"
        );
    }

    #[test]
    fn pauses_double_up_to_their_bound() {
        let mut plan = Plan::default();
        let mut now = 0;
        for expected in [1, 2, 4, 8, 16, 32, 64, 128, 150, 150] {
            plan.failed(at(now), 0.5);
            assert_eq!(plan.due(at(now + expected - 1), false), None, "{expected}");
            assert!(plan.due(at(now + expected), false).is_some(), "{expected}");
            now += expected;
        }
    }

    #[test]
    fn what_is_needed_is_tried_every_two_seconds() {
        let mut plan = valid(0.5);
        for _ in 0..10 {
            plan.failed(at(3599), 1.0);
        }
        assert_eq!(plan.due(at(3599), false), None);
        assert_eq!(
            plan.due(at(3601), false),
            Some(Priority::Renewal),
            "expired by now"
        );
        let mut awaited = Plan::default();
        for _ in 0..10 {
            awaited.failed(at(0), 1.0);
        }
        assert_eq!(awaited.due(at(2), false), None);
        assert_eq!(awaited.due(at(2), true), Some(Priority::OnDemand));
    }

    #[test]
    fn another_token_is_tried_at_once_and_the_failures_stay_known_until_it_works() {
        let mut plan = valid(0.5);
        for _ in 0..10 {
            plan.failed(at(1800), 0.5);
        }
        assert_eq!(plan.due(at(1801), false), None);
        plan.try_again();
        assert_eq!(plan.due(at(1801), false), Some(Priority::Renewal));
        assert_eq!(plan.failures(), 10);
        plan.failed(at(1801), 0.5);
        assert_eq!(plan.due(at(1802), false), None, "once");
        let mut good = valid(0.5);
        good.try_again();
        assert_eq!(good.due(at(1), false), Some(Priority::Renewal));
    }

    #[test]
    fn a_source_that_does_not_renew_is_asked_again_only_when_told_or_expired() {
        let mut plan = Plan::default();
        plan.succeeded(at(0), at(0).wall + HOUR, false, 0.5);
        assert_eq!(plan.due(at(3599), false), None);
        assert_eq!(plan.due(at(3600), false), Some(Priority::Renewal));
        plan.hurry();
        assert_eq!(plan.due(at(1), false), Some(Priority::Renewal));
    }
}
