//! Whose turn it is: every object has one, however often others change. Pure.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// An object is not written more often than this.
const BETWEEN: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Each at most once.
    waiting: VecDeque<String>,
    /// When each was written last.
    written: HashMap<String, Instant>,
}

impl Turns {
    /// Takes its place at the end, unless it has one.
    pub(super) fn add(&mut self, object: &str) {
        if !self.waiting.iter().any(|waiting| waiting == object) {
            self.waiting.push_back(object.to_owned());
        }
    }

    /// There is nothing to write any more.
    pub(super) fn leave(&mut self, object: &str) {
        self.waiting.retain(|waiting| waiting != object);
    }

    pub(super) fn forget(&mut self, object: &str) {
        self.waiting.retain(|waiting| waiting != object);
        self.written.remove(object);
    }

    pub(super) fn wrote(&mut self, object: &str, now: Instant) {
        self.written.insert(object.to_owned(), now);
    }

    /// The first that may be written now. Those before it keep their places.
    pub(super) fn next(&mut self, now: Instant) -> Option<String> {
        let is_due = |object: &String| {
            let written = self.written.get(object);
            written.is_none_or(|at| now.saturating_duration_since(*at) >= BETWEEN)
        };
        let at = self.waiting.iter().position(is_due)?;
        self.waiting.remove(at)
    }

    /// When the next one may be written, where any waits.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let due = |object: &String| self.written.get(object).map_or(now, |at| *at + BETWEEN);
        self.waiting.iter().map(due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_changes_all_the_time_is_not_written_more_than_its_share_and_keeps_none_waiting() {
        let (mut turns, begun) = (Turns::default(), Instant::now());
        let mut written: HashMap<String, usize> = HashMap::new();
        for name in ["a", "b", "c"] {
            turns.add(name);
        }
        for second in 0..100 {
            let now = begun + Duration::from_secs(second);
            turns.add("a");
            if let Some(name) = turns.next(now) {
                turns.wrote(&name, now);
                *written.entry(name).or_default() += 1;
            }
        }
        assert_eq!(written["a"], 10);
        assert_eq!((written["b"], written["c"]), (1, 1));
        turns.add("b");
        turns.add("b");
        assert_eq!(
            turns.due(begun),
            Some(begun + BETWEEN + Duration::from_secs(1))
        );
        turns.forget("b");
        turns.forget("a");
        assert_eq!(turns.due(begun), None);
    }
}
