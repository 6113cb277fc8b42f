//! Two counts of what happened lately, for all workers.

use std::sync::atomic::{AtomicU64, Ordering};

/// Parts of the interval that is looked at.
pub(crate) const SLOTS: usize = 10;
/// Bits of one count in a slot; it stays at its most.
const COUNT: u32 = 20;
const MOST: u64 = (1 << COUNT) - 1;
const TICKS: u64 = 1 << (64 - 2 * COUNT);

/// A ring of slots: each has the number of its period, and both counts, in one word, so
/// that none is ever read half.
#[derive(Debug, Default)]
pub(crate) struct Window([AtomicU64; SLOTS]);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slot {
    period: u64,
    counts: [u64; 2],
}

impl Slot {
    fn of(word: u64) -> Self {
        Self {
            period: word >> (2 * COUNT),
            counts: [(word >> COUNT) & MOST, word & MOST],
        }
    }

    fn word(self) -> u64 {
        let [first, second] = self.counts.map(|count| count.min(MOST));
        (self.period << (2 * COUNT)) | (first << COUNT) | second
    }
}

/// Time in slots; the first period is 1, so that an empty slot is of none.
fn period_at(at: u64, slot: u64) -> u64 {
    at / slot.max(1) + 1
}

impl Window {
    /// `at` and the length of a `slot` are in one unit.
    pub(crate) fn add(&self, at: u64, slot: u64, more: [u64; 2]) {
        let (place, period) = self.place(at, slot);
        let _always = place.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let mut found = Slot::of(word);
            if found.period != period {
                found = Slot {
                    period,
                    counts: [0, 0],
                };
            }
            found.counts = [0, 1].map(|i| found.counts[i].saturating_add(more[i]));
            Some(found.word())
        });
    }

    /// What was added at that time was not so after all.
    pub(crate) fn take_back(&self, at: u64, slot: u64, less: [u64; 2]) {
        let (place, period) = self.place(at, slot);
        let _of_another_period = place.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let mut found = Slot::of(word);
            found.counts = [0, 1].map(|i| found.counts[i].saturating_sub(less[i]));
            (found.period == period).then(|| found.word())
        });
    }

    /// Where a period is counted, and how it is marked there.
    fn place(&self, at: u64, slot: u64) -> (&AtomicU64, u64) {
        let period = period_at(at, slot);
        // Below the number of slots.
        (&self.0[(period % SLOTS as u64) as usize], period % TICKS)
    }

    /// Of the last periods, the one that is under way included.
    pub(crate) fn sum(&self, at: u64, slot: u64) -> [u64; 2] {
        let now = period_at(at, slot);
        let slots = self
            .0
            .iter()
            .map(|word| Slot::of(word.load(Ordering::Relaxed)));
        let is_late = |found: &Slot| {
            let mut periods = (0..SLOTS as u64).filter_map(|ago| now.checked_sub(ago));
            found.period != 0 && periods.any(|period| period % TICKS == found.period)
        };
        slots
            .filter(is_late)
            .fold([0, 0], |sum, slot| [0, 1].map(|i| sum[i] + slot.counts[i]))
    }

    pub(crate) fn clear(&self) {
        for slot in &self.0 {
            slot.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_knows_what_happened_within_its_interval_and_nothing_else(
            steps in prop::collection::vec((0_u64..4_000, 0_u64..3, 0_u64..3), 1..200),
            start in 0_u64..100_000_000,
        ) {
            const SLOT: u64 = 1_000;
            let window = Window::default();
            let (mut now, mut told) = (start, Vec::new());
            for (pause, first, second) in steps {
                now += pause;
                window.add(now, SLOT, [first, second]);
                told.push((now, [first, second]));
                let oldest = (now / SLOT).saturating_sub(SLOTS as u64 - 1);
                let late = told.iter().filter(|(at, _)| at / SLOT >= oldest);
                let expected = late.fold([0, 0], |sum: [u64; 2], (_, more)| {
                    [sum[0] + more[0], sum[1] + more[1]]
                });
                prop_assert_eq!(window.sum(now, SLOT), expected);
            }
            prop_assert_eq!(window.sum(now + SLOT * SLOTS as u64, SLOT), [0, 0]);
        }
    }

    #[test]
    fn what_is_taken_back_was_never_there_and_nothing_else_changes() {
        let window = Window::default();
        window.add(5, 10, [2, 3]);
        window.add(25, 10, [1, 1]);
        window.take_back(5, 10, [0, 1]);
        assert_eq!(window.sum(25, 10), [3, 3]);
        window.take_back(25, 10, [9, 9]);
        assert_eq!(window.sum(25, 10), [2, 2], "no less than none");
        // Its period is long over: the slot is another's by now.
        window.add(105, 10, [0, 4]);
        window.take_back(5, 10, [0, 1]);
        assert_eq!(window.sum(105, 10), [0, 4]);
    }

    #[test]
    fn a_count_stays_at_its_most_and_leaves_the_other_alone() {
        let window = Window::default();
        window.add(0, 1, [MOST + 5, 1]);
        window.add(0, 1, [7, 1]);
        assert_eq!(window.sum(0, 1), [MOST, 2]);
        window.clear();
        assert_eq!(window.sum(0, 1), [0, 0]);
    }
}
