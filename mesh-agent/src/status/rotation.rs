//! Whose turn it is: every object has one, however often others change. Pure.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// An object is not written more often than this, but for one more time: what is said
/// of it at once, and what is said when it is in force everywhere.
const BETWEEN: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Rotation {
    /// Each at most once, by its place.
    waiting: BTreeMap<u64, String>,
    places: HashMap<String, u64>,
    last: u64,
    /// When each has all its writes to come again.
    written: HashMap<String, Instant>,
}

impl Rotation {
    /// Takes its place at the end, unless it has one.
    pub(super) fn add(&mut self, object: &str) {
        if !self.places.contains_key(object) {
            self.last += 1;
            self.places.insert(object.to_owned(), self.last);
            self.waiting.insert(self.last, object.to_owned());
        }
    }

    /// There is nothing to write any more.
    pub(super) fn leave(&mut self, object: &str) {
        if let Some(place) = self.places.remove(object) {
            self.waiting.remove(&place);
        }
    }

    pub(super) fn forget(&mut self, object: &str) {
        self.leave(object);
        self.written.remove(object);
    }

    pub(super) fn wrote(&mut self, object: &str, now: Instant) {
        let full = self.written.get(object).map_or(now, |full| now.max(*full));
        self.written.insert(object.to_owned(), full + BETWEEN);
    }

    /// Not before that.
    pub(super) fn refused(&mut self, object: &str, until: Instant) {
        self.written.insert(object.to_owned(), until + BETWEEN);
    }

    fn due_at(&self, object: &str, now: Instant) -> Instant {
        let full = self.written.get(object);
        full.and_then(|full| full.checked_sub(BETWEEN))
            .unwrap_or(now)
    }

    /// The first that may be written now. Those before it keep their places.
    pub(super) fn next(&mut self, now: Instant) -> Option<String> {
        let is_due = |object: &&String| self.due_at(object, now) <= now;
        let object = self.waiting.values().find(is_due)?.clone();
        self.leave(&object);
        Some(object)
    }

    /// When the next one may be written, where any waits. Those that may not now are
    /// few: they were written within the last seconds.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let mut due = None;
        for object in self.waiting.values() {
            let at = self.due_at(object, now);
            if at <= now {
                return Some(now);
            }
            due = due.map_or(Some(at), |due: Instant| Some(due.min(at)));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_changes_all_the_time_is_not_written_more_than_its_share_and_keeps_none_waiting() {
        let (mut rotation, begun) = (Rotation::default(), Instant::now());
        let mut written: HashMap<String, usize> = HashMap::new();
        for name in ["a", "b", "c"] {
            rotation.add(name);
        }
        for second in 0..100 {
            let now = begun + Duration::from_secs(second);
            rotation.add("a");
            if let Some(name) = rotation.next(now) {
                rotation.wrote(&name, now);
                *written.entry(name).or_default() += 1;
            }
        }
        assert_eq!(written["a"], 11);
        assert_eq!((written["b"], written["c"]), (1, 1));
        rotation.add("b");
        rotation.add("b");
        assert_eq!(rotation.due(begun), Some(begun + Duration::from_secs(1)));
        rotation.forget("b");
        rotation.forget("a");
        assert_eq!(rotation.due(begun), None);
    }
}
