//! How much each caller has of what the authority keeps: live certificates, and
//! lines of the audit trail. Nobody can fill either alone. Pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::limit::Limit;

/// Certificates of all callers, and of one, that are remembered.
const MAX_ISSUED: usize = 1_000_000;
pub(super) const MAX_OF_ONE: usize = 20_000;
/// Certificates of one caller in a day that go on without end, after a first
/// burst: 250 identities renewed every 10 minutes are 36,000. With it a caller
/// that does nothing else takes weeks to turn the audit trail over.
const PER_DAY: u32 = 50_000;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// A look through the whole record for what has expired; not more often.
const CLEAN_EVERY: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Book {
    counts: Remembered,
    /// Lines that start a clean-up.
    clean_at: usize,
    cleaned: Option<Duration>,
    daily: Limit,
}

/// How many certificates are remembered. Its lock is held for a moment only, whatever
/// the book waits for.
#[derive(Clone, Debug, Default)]
pub(super) struct Remembered(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_caller: HashMap<String, usize>,
}

impl Remembered {
    /// Does it have certificates that are remembered?
    pub(super) fn knows(&self, caller: &str) -> bool {
        self.0.lock().by_caller.contains_key(caller)
    }

    pub(super) fn total(&self) -> usize {
        self.0.lock().total
    }
}

impl Counts {
    fn add(&mut self, caller: &str) {
        self.total += 1;
        *self.by_caller.entry(caller.to_owned()).or_default() += 1;
    }

    fn of(&self, caller: &str) -> usize {
        self.by_caller.get(caller).copied().unwrap_or(0)
    }
}

/// What a new certificate needs first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    There,
    /// After a clean-up perhaps.
    Clean,
    /// This caller, or all together, have too many.
    Full,
    /// This caller asked too often in a day.
    TooOften,
}

impl Book {
    pub(super) fn new<'a>(callers: impl Iterator<Item = &'a str>) -> Self {
        let mut book = Self {
            counts: Remembered::default(),
            clean_at: 0,
            cleaned: None,
            daily: Limit::per(DAY, PER_DAY, PER_DAY / 2),
        };
        book.replace(callers);
        book
    }

    /// `now` since some fixed moment.
    pub(super) fn room(&self, caller: &str, now: Duration) -> Room {
        let counts = self.counts.0.lock();
        let full = counts.total >= MAX_ISSUED || counts.of(caller) >= MAX_OF_ONE;
        let recently = self
            .cleaned
            .is_some_and(|at| now.saturating_sub(at) < CLEAN_EVERY);
        match (full, counts.total >= self.clean_at) {
            (true, _) if recently => Room::Full,
            (true, _) => Room::Clean,
            (false, true) if !recently => Room::Clean,
            (false, _) => Room::There,
        }
    }

    /// One more, which is about to be written down.
    pub(super) fn add(&mut self, caller: &str, now: Duration) -> Room {
        match self.room(caller, now) {
            Room::There if self.daily.admits(caller, now) => {
                self.counts.0.lock().add(caller);
                Room::There
            }
            Room::There => Room::TooOften,
            other => other,
        }
    }

    /// What is left after a clean-up.
    pub(super) fn cleaned<'a>(&mut self, callers: impl Iterator<Item = &'a str>, now: Duration) {
        self.replace(callers);
        self.cleaned = Some(now);
    }

    fn replace<'a>(&mut self, callers: impl Iterator<Item = &'a str>) {
        let mut counts = Counts::default();
        callers.for_each(|caller| counts.add(caller));
        self.clean_at = counts.total.max(512) * 2;
        *self.counts.0.lock() = counts;
    }

    pub(super) fn remembered(&self) -> Remembered {
        self.counts.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000);

    #[test]
    fn one_caller_that_has_its_share_is_refused_and_others_go_on() {
        let mut book = Book::new(std::iter::repeat_n("greedy", MAX_OF_ONE));
        assert_eq!(book.add("greedy", NOW), Room::Clean);
        book.cleaned(std::iter::repeat_n("greedy", MAX_OF_ONE), NOW);
        assert_eq!(book.add("greedy", NOW), Room::Full);
        assert_eq!(book.add("modest", NOW), Room::There);
        let later = NOW + CLEAN_EVERY;
        assert_eq!(book.room("greedy", later), Room::Clean);
        book.cleaned(std::iter::once("greedy"), later);
        assert_eq!(book.add("greedy", later), Room::There);
    }

    #[test]
    fn one_caller_cannot_turn_the_audit_trail_over_in_days() {
        let mut book = Book::new(std::iter::empty());
        let mut written = 0;
        for second in 0..86_400 {
            let now = Duration::from_secs(second);
            // 20 a second is the default of --rate; all expire at once.
            for _ in 0..20 {
                match book.add("greedy", now) {
                    Room::There => written += 1,
                    Room::Clean => book.cleaned(std::iter::empty(), now),
                    Room::Full | Room::TooOften => {}
                }
            }
        }
        assert!(written <= 80_000, "{written} lines in a day");
        assert!(
            written >= 36_000,
            "{written}: 250 identities every 10 minutes"
        );
    }
}
