//! Endpoints that refuse, and are not ejected for it: others are asked first.

use std::sync::atomic::{AtomicU64, Ordering};

/// After so many ms one request looks whether it is still so: as long as an ejection lasts at
/// first.
const LOOK_AGAIN: u64 = 1_000;

/// When an endpoint last refused what it was asked, in ms since the agent's start, and 1 at
/// least; 0: what it was asked last it did. One that says no in a millisecond looks quicker
/// than others, and has less in flight: without this it would get what they can do.
#[derive(Debug, Default)]
pub(super) struct Aside(AtomicU64);

impl Aside {
    pub(super) fn refused(&self, now: u64) {
        self.0.store(now.max(1), Ordering::Relaxed);
    }

    pub(super) fn worked(&self) {
        // Nearly always there is nothing to write.
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    /// Others are asked first.
    pub(super) fn is_passed_by(&self, now: u64) -> bool {
        is_recent(self.0.load(Ordering::Relaxed), now)
    }

    /// It is asked something. Where others were asked first, that is the look at it, and the
    /// next one is as much later, however long this one takes.
    pub(super) fn asked(&self, now: u64) {
        let refused = self.0.load(Ordering::Relaxed);
        if refused != 0 && !is_recent(refused, now) {
            // What another worker has heard meanwhile is newer than this look.
            let (is, at) = (Ordering::Relaxed, now.max(1));
            let _newer = self.0.compare_exchange(refused, at, is, is);
        }
    }
}

fn is_recent(refused: u64, now: u64) -> bool {
    refused > 0 && now.saturating_sub(refused) < LOOK_AGAIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_refuses_is_looked_at_by_one_request_a_second_and_an_answer_ends_it() {
        let aside = Aside::default();
        aside.asked(4_000);
        assert!(!aside.is_passed_by(5_000));
        aside.refused(5_000);
        assert!(aside.is_passed_by(5_000) && aside.is_passed_by(5_999));
        // Of a worker whose clock is a moment behind.
        assert!(aside.is_passed_by(4_999));
        // Who has no other asks it all the same, and puts no look off.
        aside.asked(5_500);
        assert!(!aside.is_passed_by(6_000));
        // One looks, and may take for ever.
        aside.asked(6_000);
        assert!(aside.is_passed_by(6_000) && aside.is_passed_by(6_999));
        assert!(!aside.is_passed_by(7_000));
        aside.worked();
        assert!(!aside.is_passed_by(7_001));
        aside.refused(0);
        assert!(aside.is_passed_by(0), "also in the first moment");
    }
}
