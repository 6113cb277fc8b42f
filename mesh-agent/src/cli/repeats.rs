//! Keeps the log to what changes: a line that says the same again is left out
//! for a while, and so are the many that one place writes at once.
//!
//! Pure but for the clock that it is given. What is left out is counted, and the
//! next line of its kind says how many there were.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// The same line is written again after this long.
const SAME: Duration = Duration::from_secs(60);
/// One place writes as many lines at once, and one more in each such time.
const BURST: u32 = 10;
const ONE_MORE: Duration = Duration::from_secs(6);
/// Most lines that are remembered; the oldest go.
const MAX: usize = 1_024;

/// Is this line written, and how many like it were not since the last one?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Write { left_out: u64 },
    LeaveOut,
}

#[derive(Debug)]
struct Place {
    /// When the burst is whole again.
    due: Instant,
    left_out: u64,
}

/// The memory; `P` names a place in the code, `L` a line with all it says.
#[derive(Debug)]
pub(super) struct Repeats<P, L> {
    lines: HashMap<L, Instant>,
    places: HashMap<P, Place>,
}

impl<P: Eq + Hash, L: Eq + Hash + Clone> Repeats<P, L> {
    pub(super) fn new() -> Self {
        Self {
            lines: HashMap::new(),
            places: HashMap::new(),
        }
    }

    pub(super) fn look(&mut self, place: P, line: L, now: Instant) -> Verdict {
        let place = self.places.entry(place).or_insert(Place {
            due: now,
            left_out: 0,
        });
        let said = self.lines.get(&line);
        let again = said.is_some_and(|at| now.saturating_duration_since(*at) < SAME);
        let ahead = place.due.saturating_duration_since(now);
        if again || ahead >= ONE_MORE * BURST {
            place.left_out += 1;
            return Verdict::LeaveOut;
        }
        place.due = place.due.max(now) + ONE_MORE;
        let left_out = std::mem::take(&mut place.left_out);
        self.remember(line, now);
        Verdict::Write { left_out }
    }

    fn remember(&mut self, line: L, now: Instant) {
        if self.lines.len() >= MAX {
            self.lines
                .retain(|_, at| now.saturating_duration_since(*at) < SAME);
        }
        if self.lines.len() >= MAX {
            let oldest = self.lines.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(line, _)| line.clone()) {
                self.lines.remove(&oldest);
            }
        }
        self.lines.insert(line, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: Verdict = Verdict::Write { left_out: 0 };

    #[test]
    fn the_same_line_is_written_once_a_minute_and_says_how_often_it_came() {
        let (mut repeats, start) = (Repeats::new(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(repeats.look("enrol", "pod a", at(0)), WRITTEN);
        for ms in (500..60_000).step_by(500) {
            assert_eq!(repeats.look("enrol", "pod a", at(ms)), Verdict::LeaveOut);
        }
        let again = Verdict::Write { left_out: 119 };
        assert_eq!(repeats.look("enrol", "pod a", at(60_000)), again);
    }

    #[test]
    fn another_line_of_the_place_is_written_at_once() {
        let (mut repeats, now) = (Repeats::new(), Instant::now());
        assert_eq!(repeats.look("enrol", "pod a", now), WRITTEN);
        assert_eq!(repeats.look("enrol", "pod b", now), WRITTEN);
    }

    #[test]
    fn a_place_that_writes_without_end_is_held_back_and_others_are_not() {
        let (mut repeats, start) = (Repeats::new(), Instant::now());
        let mut written = 0;
        for n in 0..6_000_u64 {
            let now = start + Duration::from_millis(n * 10);
            let verdict = repeats.look("refused", format!("port {n}"), now);
            written += u64::from(verdict != Verdict::LeaveOut);
        }
        assert!((10..=21).contains(&written), "{written} in a minute");
        let other = repeats.look("withdrawn", "pod a".to_owned(), start);
        assert_eq!(other, WRITTEN);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut repeats, now) = (Repeats::new(), Instant::now());
        for n in 0..3 * MAX {
            repeats.look(n, n, now);
        }
        assert!(repeats.lines.len() <= MAX);
    }
}
