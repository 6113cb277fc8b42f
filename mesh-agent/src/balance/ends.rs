//! Clients that end their side before they are answered, and what endpoints do behind that.
//!
//! Who hangs up and who has said all it will look alike. A server may reset either for it, so
//! one reset says nothing. What a client is does not depend on where chance sends it: an
//! endpoint that resets one after the other, and answers nobody, while all others answer
//! whoever comes and reset nobody, does so by itself.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

/// Others answer so many connections between two resets: a burst of clients that hang up is
/// one reset.
const MEANWHILE: u32 = 3;
/// So many resets in a row are none of the endpoint's failures, and all that follow are. By
/// chance a healthy endpoint has one behind another in 3 of 100 cases at the worst, whatever
/// part of its clients hangs up, and as many as eject it never.
const NONE: u32 = 3;

/// Of one port, for all workers: one endpoint's resets in a row.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// When the last of the row was, in ms and 1 at least; 0: there is no row.
    last: AtomicU64,
    /// Whose row it is.
    endpoint: AtomicU64,
    /// Of those that began since, so many were answered by others. No more than matters.
    answers: AtomicU32,
    row: Mutex<Row>,
}

#[derive(Debug, Default)]
struct Row {
    /// When the first of the row began, in ms.
    since: u64,
    count: u32,
}

/// A connection that was reset for an answer, to a client that had ended its side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reset {
    pub(super) endpoint: u64,
    /// In ms, as everywhere here.
    pub(super) begun: u64,
    pub(super) now: u64,
    /// Nothing that its client has or does has sent it there.
    pub(super) is_by_chance: bool,
}

/// Whether a reset is a failure of its endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stands {
    /// It is one more of the row.
    pub(super) counts: bool,
    /// The row is long enough, whatever this one is.
    pub(super) is_long: bool,
}

impl Ends {
    /// Somebody was answered there.
    pub(super) fn answered(&self, endpoint: u64, begun: u64) {
        let last = self.last.load(Ordering::Relaxed);
        // Nearly always there is no row.
        if last == 0 || begun < last {
            return;
        }
        if self.endpoint.load(Ordering::Relaxed) == endpoint {
            self.forget(&mut self.row.lock());
        } else if self.answers.load(Ordering::Relaxed) < MEANWHILE {
            self.answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// `is_silent`: its endpoint has answered nobody since then, wherever that came from.
    pub(super) fn reset(&self, of: Reset, is_silent: impl Fn(u64) -> bool) -> Stands {
        let row = &mut *self.row.lock();
        let is_same = self.endpoint.load(Ordering::Relaxed) == of.endpoint;
        let goes_on = is_same && row.count > 0 && of.is_by_chance && is_silent(row.since);
        if !goes_on {
            self.forget(row);
            if of.is_by_chance {
                row.since = of.begun;
                self.endpoint.store(of.endpoint, Ordering::Relaxed);
                self.note(row, of.now);
            }
            return Stands::default();
        }
        let is_next = of.begun >= self.last.load(Ordering::Relaxed);
        let counts = is_next && self.answers.load(Ordering::Relaxed) >= MEANWHILE;
        if counts {
            self.note(row, of.now);
        }
        let is_long = row.count > NONE;
        Stands { counts, is_long }
    }

    fn note(&self, row: &mut Row, now: u64) {
        row.count = row.count.saturating_add(1);
        self.answers.store(0, Ordering::Relaxed);
        self.last.store(now.max(1), Ordering::Relaxed);
    }

    fn forget(&self, row: &mut Row) {
        row.count = 0;
        self.last.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of endpoint 1, which answers nobody else.
    fn reset(ends: &Ends, endpoint: u64, at: u64) -> Stands {
        let of = Reset {
            endpoint,
            begun: at,
            now: at,
            is_by_chance: true,
        };
        ends.reset(of, |_| true)
    }

    fn answers(ends: &Ends, endpoint: u64, at: u64) {
        for _ in 0..MEANWHILE {
            ends.answered(endpoint, at);
        }
    }

    /// Endpoint 1 resets so often, and 2 answers meanwhile.
    fn row(ends: &Ends, count: u64) -> Stands {
        let mut stands = Stands::default();
        for n in 1..=count {
            stands = reset(ends, 1, 10 * n);
            answers(ends, 2, 10 * n + 1);
        }
        stands
    }

    #[test]
    fn the_fourth_of_a_row_is_a_failure_where_others_answer() {
        let stands = |count| {
            let Stands { counts, is_long } = row(&Ends::default(), count);
            counts && is_long
        };
        assert_eq!(
            [1, 2, 3, 4, 5].map(stands),
            [false, false, false, true, true]
        );
    }

    #[test]
    fn a_row_ends_with_an_answer_there_and_with_a_reset_elsewhere() {
        let ends = Ends::default();
        row(&ends, 5);
        ends.answered(1, 90);
        assert_eq!(reset(&ends, 1, 100), Stands::default());
        let ends = Ends::default();
        row(&ends, 5);
        reset(&ends, 2, 90);
        assert_eq!(reset(&ends, 1, 100), Stands::default());
        // It has answered by another Service.
        let ends = Ends::default();
        row(&ends, 5);
        let of = Reset {
            endpoint: 1,
            begun: 100,
            now: 100,
            is_by_chance: true,
        };
        assert_eq!(ends.reset(of, |since| since > 90), Stands::default());
    }

    #[test]
    fn what_comes_together_or_was_not_sent_there_by_chance_is_none_of_a_row() {
        let ends = Ends::default();
        row(&ends, 4);
        // Nobody was answered since the last but who had waited before.
        assert!(reset(&ends, 1, 50).counts);
        answers(&ends, 2, 49);
        for at in 51..60 {
            assert!(!reset(&ends, 1, at).counts, "{at}");
        }
        // It began before the last.
        answers(&ends, 2, 60);
        let late = Reset {
            endpoint: 1,
            begun: 40,
            now: 61,
            is_by_chance: true,
        };
        assert!(!ends.reset(late, |_| true).counts);
        let sent = Reset {
            begun: 62,
            is_by_chance: false,
            ..late
        };
        assert_eq!(ends.reset(sent, |_| true), Stands::default());
        assert_eq!(reset(&ends, 1, 70), Stands::default(), "nor a part of one");
    }
}
