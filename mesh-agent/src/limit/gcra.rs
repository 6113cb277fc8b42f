//! Rates by GCRA: each key has the time at which it would be even with its rate.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Each has a lock of its own, for as long as one key is looked up.
const PARTS: usize = 32;

type Map<K> = HashMap<K, u64, foldhash::quality::RandomState>;

/// So many in so long, and how many of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    /// From one to the next, in ns.
    interval: u64,
    /// By how much one may come before its time, in ns.
    tolerance: u64,
}

impl Quota {
    /// A rate of more than a million a second is met within 0.05 %.
    #[must_use]
    pub(crate) fn new(count: u32, per: Duration, burst: u32) -> Self {
        let (count, per) = (u128::from(count.max(1)), per.as_nanos());
        let interval = ((per + count / 2) / count).max(1);
        let tolerance = interval * u128::from(burst.max(1) - 1);
        let bounded = |nanos: u128| u64::try_from(nanos).unwrap_or(u64::MAX / 4);
        Self {
            interval: bounded(interval),
            tolerance: bounded(tolerance),
        }
    }

    /// `even`: when the key is even with its rate, in ns; the error is how long it is
    /// until the next one may come.
    fn take(self, even: &mut u64, now: u64) -> Result<(), Duration> {
        let from = (*even).max(now);
        let early = from - now;
        if early > self.tolerance {
            return Err(Duration::from_nanos(early - self.tolerance));
        }
        *even = from.saturating_add(self.interval);
        Ok(())
    }
}

/// One rate for each key, for all workers.
///
/// Keys are bounded: in a full part those that are even make room, for one that is
/// even is as good as unknown; where none is, all further keys have one rate together.
#[derive(Debug)]
pub(crate) struct Limiter<K> {
    interval: AtomicU64,
    tolerance: AtomicU64,
    start: Instant,
    /// Of a part.
    most: usize,
    hasher: foldhash::quality::RandomState,
    parts: [Mutex<Part<K>>; PARTS],
}

#[derive(Debug)]
struct Part<K> {
    known: Map<K>,
    /// Of those that have no room.
    others: u64,
}

impl<K> Default for Part<K> {
    fn default() -> Self {
        Self {
            known: Map::default(),
            others: 0,
        }
    }
}

impl<K: Eq + Hash + Clone> Limiter<K> {
    #[must_use]
    pub(crate) fn new(quota: Quota, max_keys: usize, start: Instant) -> Self {
        Self {
            interval: quota.interval.into(),
            tolerance: quota.tolerance.into(),
            start,
            most: max_keys.div_ceil(PARTS).max(1),
            hasher: Default::default(),
            parts: Default::default(),
        }
    }

    /// From now on; what each key has had stays.
    pub(crate) fn set(&self, quota: Quota) {
        self.interval.store(quota.interval, Ordering::Relaxed);
        self.tolerance.store(quota.tolerance, Ordering::Relaxed);
    }

    fn quota(&self) -> Quota {
        Quota {
            interval: self.interval.load(Ordering::Relaxed),
            tolerance: self.tolerance.load(Ordering::Relaxed),
        }
    }

    /// One more for the key; the error is how long it is until one may come.
    pub(crate) fn take<Q>(&self, key: &Q, now: Instant) -> Result<(), Duration>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let now = now.saturating_duration_since(self.start).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX / 4);
        let quota = self.quota();
        let mut part = self.part(key).lock();
        let part = &mut *part;
        if let Some(even) = part.known.get_mut(key) {
            return quota.take(even, now);
        }
        if part.known.len() >= self.most {
            part.known.retain(|_, even| *even > now);
            if part.known.len() >= self.most {
                return quota.take(&mut part.others, now);
            }
        }
        let mut even = now;
        let taken = quota.take(&mut even, now);
        part.known.insert(key.to_owned(), even);
        taken
    }

    /// One that was taken did not come after all.
    pub(crate) fn give_back<Q>(&self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let interval = self.quota().interval;
        let mut part = self.part(key).lock();
        let part = &mut *part;
        let even = match part.known.get_mut(key) {
            Some(even) => even,
            None => &mut part.others,
        };
        *even = even.saturating_sub(interval);
    }

    fn part<Q: Hash + ?Sized>(&self, key: &Q) -> &Mutex<Part<K>> {
        // Smaller than the number of parts.
        let at = (self.hasher.hash_one(key) % PARTS as u64) as usize;
        &self.parts[at]
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().known.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MANY: usize = 1 << 14;

    /// A bucket of `burst` tokens that fills at the rate, in whole ns of tokens.
    struct Bucket {
        level: u128,
        at: u128,
    }

    impl Bucket {
        fn take(&mut self, (interval, burst): (u128, u128), now: u128) -> Result<(), u128> {
            self.level = (self.level + (now - self.at)).min(interval * burst);
            self.at = now;
            match self.level.checked_sub(interval) {
                Some(left) => {
                    self.level = left;
                    Ok(())
                }
                None => Err(interval - self.level),
            }
        }
    }

    proptest! {
        #[test]
        fn it_decides_as_a_bucket_of_tokens_does(
            count in 1_u32..2_000,
            burst in 1_u32..50,
            pauses in prop::collection::vec(0_u64..200_000_000, 1..300),
        ) {
            let start = Instant::now();
            let quota = Quota::new(count, Duration::from_secs(1), burst);
            let limiter: Limiter<String> = Limiter::new(quota, MANY, start);
            let interval = u128::from(quota.interval);
            let mut bucket = Bucket { level: interval * u128::from(burst), at: 0 };
            let mut now = 0;
            for pause in pauses {
                now += pause;
                let taken = limiter.take("a", start + Duration::from_nanos(now));
                let expected = bucket.take((interval, u128::from(burst)), u128::from(now));
                prop_assert_eq!(taken.map_err(|wait| wait.as_nanos()), expected);
            }
        }
    }

    #[test]
    fn what_passes_in_ten_seconds_is_within_two_percent_whatever_is_offered() {
        for (offered, expected) in [(50, 500), (100, 1_000), (500, 1_000)] {
            let start = Instant::now();
            let quota = Quota::new(100, Duration::from_secs(1), 10);
            let limiter: Limiter<String> = Limiter::new(quota, MANY, start);
            let pause = Duration::from_secs(1) / offered;
            let passed = (0..offered * 10)
                .filter(|turn| limiter.take("a", start + pause * *turn).is_ok())
                .count();
            let (least, most) = (expected * 98 / 100, expected * 102 / 100);
            assert!((least..=most).contains(&passed), "{offered}: {passed}");
        }
    }

    #[test]
    fn who_waits_for_as_long_as_it_is_told_gets_the_next_one() {
        let start = Instant::now();
        let limiter: Limiter<String> =
            Limiter::new(Quota::new(2, Duration::from_secs(1), 2), MANY, start);
        let taken = [(); 3].map(|()| limiter.take("a", start));
        assert_eq!(taken, [Ok(()), Ok(()), Err(Duration::from_millis(500))]);
        let almost = start + Duration::from_nanos(499_999_999);
        assert_eq!(limiter.take("a", almost), Err(Duration::from_nanos(1)));
        assert_eq!(
            limiter.take("a", start + Duration::from_millis(500)),
            Ok(())
        );
    }

    #[test]
    fn keys_share_nothing_and_are_bounded() {
        let start = Instant::now();
        let limiter: Limiter<String> =
            Limiter::new(Quota::new(1, Duration::from_secs(60), 1), 640, start);
        assert!(limiter.take("a", start).is_ok());
        assert!(limiter.take("a", start).is_err());
        assert!(limiter.take("b", start).is_ok());
        for key in 0..10_000 {
            let _any = limiter.take(&*key.to_string(), start);
        }
        assert!(limiter.len() <= 640, "{}", limiter.len());
        // Those that are even are as good as unknown: there is room without a loss.
        let later = start + Duration::from_secs(61);
        assert!(limiter.take("z", later).is_ok());
        assert!(limiter.take("z", later).is_err());
    }

    #[test]
    fn the_largest_rates_and_times_do_not_overflow() {
        let start = Instant::now();
        for (count, per, burst) in [
            (u32::MAX, Duration::from_nanos(1), u32::MAX),
            (1, Duration::MAX, u32::MAX),
            (0, Duration::ZERO, 0),
        ] {
            let limiter: Limiter<String> = Limiter::new(Quota::new(count, per, burst), MANY, start);
            assert!(limiter.take("a", start).is_ok());
            let _any = limiter.take("a", start + Duration::from_secs(1 << 34));
        }
    }

    #[test]
    fn where_there_is_no_room_all_further_keys_share_one_rate() {
        let start = Instant::now();
        let quota = Quota::new(1, Duration::from_secs(60), 1);
        let limiter: Limiter<u128> = Limiter::new(quota, PARTS, start);
        let taken = (0..10_000_u128).filter(|key| limiter.take(key, start).is_ok());
        // Each part has one of its own, and one for all others.
        assert!(taken.count() <= 2 * PARTS);
    }

    #[test]
    fn a_new_rate_holds_for_what_was_taken_before_it() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let limiter: Limiter<String> = Limiter::new(Quota::new(10, second, 10), MANY, start);
        let takes = |at| (0..100).filter(|_| limiter.take("a", at).is_ok()).count();
        assert_eq!(takes(start), 10);
        limiter.set(Quota::new(100, second, 100));
        assert_eq!(takes(start), 0, "the second that it took counts");
        assert_eq!(takes(start + Duration::from_millis(10)), 1);
        limiter.set(Quota::new(10, second, 10));
        assert_eq!(takes(start), 0);
        assert_eq!(takes(start + second), 9);
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let start = Instant::now();
        let quota = Quota::new(1, Duration::from_secs(60), 1);
        let limiter: Limiter<String> = Limiter::new(quota, MANY, start);
        assert!(limiter.take("a", start).is_ok());
        assert!(limiter.take("a", start).is_err());
        limiter.give_back("a");
        assert!(limiter.take("a", start).is_ok());
        assert!(limiter.take("a", start).is_err());
    }
}
