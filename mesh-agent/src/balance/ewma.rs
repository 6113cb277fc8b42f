//! How long an endpoint takes: the peaks of late, for all workers.

use std::sync::atomic::{AtomicU64, Ordering};

/// Before the first answer, in seconds.
const START: f32 = 0.03;
/// By then about a third is left of a peak, in seconds.
const DECAY: f32 = 10.0;
/// So many times what it took is waited for news of an endpoint that is avoided: then
/// one request looks at it again. What is ten times slower so costs a tenth of its time,
/// and one slow answer does not keep an endpoint out for the ten seconds that it decays.
const LOOK_AGAIN: f32 = 10.0;
/// And not less than that, in seconds.
const LOOK_AGAIN_LEAST: f32 = 0.1;
/// Another worker's word may be so many ms ahead.
const AHEAD: u32 = 60_000;

/// Peak EWMA: what is longer counts at once, what is shorter by and by. Without news
/// it decays, and after some time what comes next counts whatever it is.
#[derive(Debug)]
pub(super) struct Ewma(AtomicU64);

#[derive(Clone, Copy, Debug)]
struct Estimate {
    seconds: f32,
    /// By what is only supposed.
    is_start: bool,
    /// In ms; counts round.
    at: u32,
}

impl Estimate {
    fn of(word: u64) -> Self {
        let seconds = f32::from_bits((word >> 32) as u32);
        Self {
            seconds: seconds.abs(),
            is_start: seconds.is_sign_negative(),
            at: word as u32,
        }
    }

    /// There was no news for so long, or never, that whatever comes next is news.
    fn is_stale(self, now: u32) -> bool {
        let patience = (self.seconds * LOOK_AGAIN).clamp(LOOK_AGAIN_LEAST, DECAY);
        self.is_start || self.age(now) >= patience
    }

    fn word(self) -> u64 {
        let seconds = if self.is_start {
            -self.seconds
        } else {
            self.seconds
        };
        (u64::from(seconds.to_bits()) << 32) | u64::from(self.at)
    }

    /// What is left of it.
    fn left(self, now: u32) -> f32 {
        (-self.age(now) / DECAY).exp()
    }

    /// In seconds.
    fn age(self, now: u32) -> f32 {
        let passed = now.wrapping_sub(self.at);
        match passed > u32::MAX - AHEAD {
            true => 0.0,
            false => passed as f32 / 1000.0,
        }
    }
}

impl Ewma {
    /// `now`: in ms, as everywhere here.
    pub(super) fn new(now: u64) -> Self {
        let start = Estimate {
            seconds: START,
            is_start: true,
            at: now as u32,
        };
        Self(AtomicU64::new(start.word()))
    }

    pub(super) fn seconds(&self, now: u64) -> f32 {
        let found = Estimate::of(self.0.load(Ordering::Relaxed));
        found.seconds * found.left(now as u32)
    }

    /// Nothing is known of it, or nothing of late.
    pub(super) fn is_stale(&self, now: u64) -> bool {
        Estimate::of(self.0.load(Ordering::Relaxed)).is_stale(now as u32)
    }

    /// Of two at once one may be lost: there are more.
    pub(super) fn note(&self, seconds: f32, now: u64) {
        let word = self.0.load(Ordering::Relaxed);
        let found = Estimate::of(word);
        let left = found.left(now as u32);
        let seconds = if found.is_stale(now as u32) || seconds > found.seconds * left {
            seconds
        } else {
            found.seconds * left + seconds * (1.0 - left)
        };
        let next = Estimate {
            seconds,
            is_start: false,
            at: now as u32,
        };
        let _lost =
            self.0
                .compare_exchange(word, next.word(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// What was known, or supposed, is so still.
    pub(super) fn keep(&self, now: u64) {
        self.restart(Estimate::of(self.0.load(Ordering::Relaxed)).seconds, now);
    }

    /// Nothing that was before counts.
    pub(super) fn restart(&self, seconds: f32, now: u64) {
        let next = Estimate {
            seconds,
            is_start: false,
            at: now as u32,
        };
        self.0.store(next.word(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_by_and_by() {
        let ewma = Ewma::new(0);
        assert_eq!(ewma.seconds(0), 0.03);
        // What was only supposed gives way to what is.
        ewma.note(0.001, 0);
        assert_eq!(ewma.seconds(0), 0.001);
        ewma.note(1.0, 10);
        assert_eq!(ewma.seconds(10), 1.0);
        ewma.note(0.001, 10);
        assert!(ewma.seconds(10) > 0.99, "one answer is no recovery");
        let later = ewma.seconds(10_010);
        assert!((0.36..0.38).contains(&later), "{later}");
        // After that long silence one answer is.
        assert!(!ewma.is_stale(9_900) && ewma.is_stale(10_010));
        ewma.note(0.001, 10_010);
        assert_eq!(ewma.seconds(10_010), 0.001);
        // The shorter it was, the sooner.
        ewma.note(0.05, 11_000);
        ewma.note(0.001, 11_499);
        assert!(ewma.seconds(11_499) > 0.04);
        assert!(!ewma.is_stale(11_500) && ewma.is_stale(12_000));
        ewma.note(0.001, 12_000);
        assert_eq!(ewma.seconds(12_000), 0.001);
        assert!(!ewma.is_stale(12_099) && ewma.is_stale(12_100));
        ewma.restart(0.002, 20_000);
        assert_eq!(ewma.seconds(20_000), 0.002);
        ewma.keep(30_000);
        assert!(ewma.seconds(30_000) == 0.002 && !ewma.is_stale(30_000));
        let unknown = Ewma::new(0);
        unknown.keep(1);
        assert!(unknown.seconds(1) == START && !unknown.is_stale(1));
    }

    proptest! {
        /// The model: the same in double precision, with a clock that never turns round.
        #[test]
        fn it_is_what_the_definition_says(
            samples in prop::collection::vec((0_u64..5_000, 0.0001_f64..3.0), 1..100),
            start in 0_u64..1 << 33,
        ) {
            let ewma = Ewma::new(start);
            let (mut now, mut model, mut at) = (start, None, start);
            for (pause, seconds) in samples {
                now += pause;
                ewma.note(seconds as f32, now);
                let left = (-((now - at) as f64) / 10_000.0).exp();
                let patience: f64 = (model.unwrap_or(0.0_f64) * 10.0).clamp(0.1, 10.0);
                let is_stale = (now - at) as f64 / 1000.0 >= patience;
                // In single precision the very moment may be either.
                let is_edge = ((now - at) as f64 / 1000.0 - patience).abs() < 0.001;
                prop_assume!(!is_edge);
                let before: f64 = model.unwrap_or(0.0) * left;
                model = Some(if is_stale || seconds > before {
                    seconds
                } else {
                    before + seconds * (1.0 - left)
                });
                at = now;
                let (found, expected) = (f64::from(ewma.seconds(now)), model.unwrap_or(0.0));
                prop_assert!((found - expected).abs() <= expected * 0.001, "{} {}", found, expected);
            }
        }
    }
}
