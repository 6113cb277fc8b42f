//! How long an endpoint takes in the middle of late, for all workers. Peaks tell which of two
//! is to be spared; of one that is asked often they are higher than of one that is hardly
//! asked, so that they do not tell which of these is slower.

use std::sync::atomic::{AtomicU64, Ordering};

/// A third of what was known is left after so many seconds.
const DECAY: f32 = 20.0;
/// The last so many count, about.
const LAST: f32 = 32.0;
/// Of fewer nothing is concluded.
const ENOUGH: f32 = 3.0;

/// How many samples it is of, which decays, and the mean, in seconds.
#[derive(Debug, Default)]
pub(super) struct Mean {
    word: AtomicU64,
    /// Of the last one, in ms.
    at: AtomicU64,
}

impl Mean {
    fn read(&self, now: u64) -> (f32, f32) {
        let word = self.word.load(Ordering::Relaxed);
        // Another worker's clock may be a moment ahead.
        let passed = now.saturating_sub(self.at.load(Ordering::Relaxed));
        let left = (-(passed as f32) / 1000.0 / DECAY).exp();
        let count = f32::from_bits((word >> 32) as u32) * left;
        (count, f32::from_bits(word as u32))
    }

    /// Of two at once one may be lost: there are more. `now`: in ms, as everywhere here.
    pub(super) fn note(&self, seconds: f32, now: u64) {
        let (count, mean) = self.read(now);
        let count = count.min(LAST - 1.0) + 1.0;
        self.write(count, mean + (seconds - mean) / count, now);
    }

    /// Nothing that was before counts.
    pub(super) fn restart(&self, seconds: f32, now: u64) {
        self.write(1.0, seconds, now);
    }

    fn write(&self, count: f32, mean: f32, now: u64) {
        let word = (u64::from(count.to_bits()) << 32) | u64::from(mean.to_bits());
        self.word.store(word, Ordering::Relaxed);
        self.at.store(now, Ordering::Relaxed);
    }

    /// `None`: nothing can be concluded by now.
    pub(super) fn known(&self, now: u64) -> Option<f32> {
        let (count, mean) = self.read(now);
        (count >= ENOUGH).then_some(mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As far as the clock of 32 bits tells: it goes round after 49 days.
    #[test]
    fn what_was_weeks_ago_says_nothing() {
        const DAY: u64 = 24 * 60 * 60 * 1000;
        let mean = Mean::default();
        for _ in 0..8 {
            mean.note(1.0, 0);
        }
        for days in [1, 24, 25, 40, 49] {
            assert_eq!(mean.known(days * DAY), None, "{days} days");
        }
        // Of one who read the clock a moment before.
        assert!(mean.known(0).is_some());
        mean.note(1.0, 5);
        assert!(mean.known(3).is_some());
    }

    #[test]
    fn few_samples_say_nothing_and_many_say_their_middle() {
        let mean = Mean::default();
        for n in 0..3 {
            assert_eq!(mean.known(0), None, "{n}");
            mean.note(0.01, 0);
        }
        assert!((mean.known(0).expect("known") - 0.01).abs() < 1e-6);
        // One in ten is ten times as long.
        for n in 0..1_000 {
            mean.note(if n % 10 == 0 { 0.1 } else { 0.01 }, 10);
        }
        let known = mean.known(10).expect("known");
        assert!((0.012..0.03).contains(&known), "{known}");
        // What was long ago says nothing, and what comes then says all.
        assert!(mean.known(10_000).is_some());
        assert_eq!(mean.known(60_000), None);
        for _ in 0..8 {
            mean.note(1.0, 200_000);
        }
        let known = mean.known(200_000).expect("known");
        assert!(known > 0.99, "{known}");
        mean.restart(0.5, 200_000);
        assert_eq!(mean.known(200_000), None);
    }
}
