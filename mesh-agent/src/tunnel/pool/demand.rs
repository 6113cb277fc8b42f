//! How many spare connections a pair is worth, by how many of its streams had
//! to wait for a handshake at once. Pure: time is an argument.

use std::time::{Duration, Instant};

/// Most spare connections of a pair that are made ahead.
pub(in crate::tunnel) const MAX_PRECONNECTED: u16 = 16;
/// What is remembered: between one and two of these.
const WINDOW: Duration = Duration::from_secs(10);
/// One stream that waits is no burst: its connection will serve the next one.
const BURST: u16 = 2;

/// One pair's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    /// Streams that wait for a handshake now.
    waiting: u16,
    /// Connections that are being made ahead.
    preconnecting: u16,
    /// Most that waited at once, in this window and the one before.
    peak: u16,
    peak_before: u16,
    window: Instant,
}

impl Demand {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            waiting: 0,
            preconnecting: 0,
            peak: 0,
            peak_before: 0,
            window: now,
        }
    }

    /// A stream found no connection.
    pub(super) fn missed(&mut self, now: Instant) {
        self.roll_window(now);
        self.waiting = self.waiting.saturating_add(1);
        self.peak = self.peak.max(self.waiting);
    }

    /// It has one, or gave up.
    pub(super) fn served(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// How many more to make ahead, beside `idle` ones.
    pub(super) fn missing(&mut self, idle: usize, now: Instant) -> usize {
        let there = idle.saturating_add(usize::from(self.preconnecting));
        self.target(now).saturating_sub(there)
    }

    /// One of those that are being made is still worth its handshake.
    pub(super) fn still_missing(&mut self, idle: usize, now: Instant) -> bool {
        idle.saturating_add(usize::from(self.preconnecting)) <= self.target(now)
    }

    pub(super) fn begin(&mut self, count: usize) {
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        self.preconnecting = self.preconnecting.saturating_add(count);
    }

    pub(super) fn end(&mut self) {
        self.preconnecting = self.preconnecting.saturating_sub(1);
    }

    /// Nothing is remembered, and nothing under way.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        self.roll_window(now);
        let remembered = [
            self.waiting,
            self.preconnecting,
            self.peak,
            self.peak_before,
        ];
        remembered == [0; 4]
    }

    fn target(&mut self, now: Instant) -> usize {
        self.roll_window(now);
        let peak = self.peak.max(self.peak_before);
        if peak < BURST {
            return 0;
        }
        usize::from(peak.min(MAX_PRECONNECTED))
    }

    fn roll_window(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.window);
        if age < WINDOW {
            return;
        }
        self.peak_before = if age < 2 * WINDOW { self.peak } else { 0 };
        self.peak = self.waiting;
        self.window = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn streams_one_after_the_other_are_worth_no_spare_connection() {
        let now = Instant::now();
        let mut demand = Demand::new(now);
        for _ in 0..1_000 {
            demand.missed(now);
            assert_eq!(demand.missing(0, now), 0);
            demand.served();
        }
    }

    #[test]
    fn a_burst_is_worth_as_many_as_waited_at_once_up_to_the_bound() {
        let now = Instant::now();
        for burst in [2, 5, 16, 17, 1_000] {
            let mut demand = Demand::new(now);
            for _ in 0..burst {
                demand.missed(now);
            }
            for _ in 0..burst {
                demand.served();
            }
            let spare = burst.min(usize::from(MAX_PRECONNECTED));
            assert_eq!(demand.missing(0, now), spare);
            assert_eq!(demand.missing(1, now), spare - 1, "idle ones count");
            demand.begin(spare);
            assert_eq!(demand.missing(0, now), 0, "and those under way");
            assert!(demand.still_missing(0, now) && !demand.still_missing(1, now));
        }
    }

    #[test]
    fn a_burst_is_forgotten_after_two_windows_at_most() {
        let now = Instant::now();
        let mut demand = Demand::new(now);
        for _ in 0..4 {
            demand.missed(now);
        }
        for _ in 0..4 {
            demand.served();
        }
        assert_eq!(demand.missing(0, now + WINDOW), 4);
        assert!(!demand.is_over(now + WINDOW));
        assert_eq!(demand.missing(0, now + 2 * WINDOW), 0);
        assert!(demand.is_over(now + 2 * WINDOW));
    }

    proptest! {
        /// Whatever comes, no more is made ahead than the bound, and in the
        /// end nothing is remembered.
        #[test]
        fn never_more_than_the_bound(steps in proptest::collection::vec((0_u8..5, 0_u64..30), 0..200)) {
            let mut now = Instant::now();
            let mut demand = Demand::new(now);
            let (mut waiting, mut preconnecting) = (0, 0);
            for (step, seconds) in steps {
                match step {
                    0 => { demand.missed(now); waiting += 1; }
                    1 if waiting > 0 => { demand.served(); waiting -= 1; }
                    2 => {
                        let more = demand.missing(0, now);
                        demand.begin(more);
                        preconnecting += more;
                    }
                    3 if preconnecting > 0 => { demand.end(); preconnecting -= 1; }
                    _ => now += Duration::from_secs(seconds),
                }
                prop_assert!(preconnecting <= usize::from(MAX_PRECONNECTED));
            }
            for _ in 0..waiting { demand.served(); }
            for _ in 0..preconnecting { demand.end(); }
            let _turned = demand.is_over(now);
            let _turned = demand.is_over(now + WINDOW);
            prop_assert!(demand.is_over(now + 3 * WINDOW));
        }
    }
}
