//! When the directory was looked at last: one on a file system that does not
//! answer holds up the thread that follows it, and nobody else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest time between two looks: a directory that is not read for longer does
/// not answer.
const STALLED: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Looked {
    begun: Instant,
    /// Milliseconds since `begun`.
    last: AtomicU64,
}

impl Looked {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            begun: now,
            last: AtomicU64::new(0),
        }
    }

    pub(super) fn note(&self, now: Instant) {
        let since = now.saturating_duration_since(self.begun).as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    /// How long nothing was heard of the directory, where that is too long.
    #[must_use]
    pub(crate) fn is_stalled(&self, now: Instant) -> Option<Duration> {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        let silent = now.saturating_duration_since(self.begun + last);
        (silent > STALLED).then_some(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_does_not_answer_is_told_and_again_when_it_does() {
        let begun = Instant::now();
        let looked = Looked::new(begun);
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(looked.is_stalled(at(30)), None);
        let silent = looked.is_stalled(at(90)).expect("stalled");
        assert_eq!(silent.as_secs(), 90);
        looked.note(at(91));
        assert_eq!(looked.is_stalled(at(100)), None);
    }
}
