//! What breakers did of late, for people: also of endpoints that are back in use, or gone.

use std::collections::VecDeque;
use std::time::Instant;

use parking_lot::Mutex;

use super::breaker::Change;

/// Of all endpoints together; the oldest goes first.
const MAX: usize = 256;

/// One change of a breaker.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Transition {
    pub(crate) at: Instant,
    /// `namespace/name`; empty where the connection or request had none.
    pub(crate) service: String,
    pub(crate) endpoint: String,
    /// `namespace/name`.
    pub(crate) pod: Option<String>,
    pub(crate) change: Change,
}

#[derive(Debug, Default)]
pub(super) struct History(Mutex<VecDeque<Transition>>);

impl History {
    pub(super) fn note(&self, transition: Transition) {
        let mut all = self.0.lock();
        if all.len() >= MAX {
            all.pop_front();
        }
        all.push_back(transition);
    }

    /// The newest first.
    pub(super) fn all(&self) -> Vec<Transition> {
        self.0.lock().iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_newest_are_kept_and_come_first() {
        let (history, begun) = (History::default(), Instant::now());
        let after = |seconds| begun + Duration::from_secs(seconds);
        for n in 0..MAX as u64 + 3 {
            history.note(Transition {
                at: after(n),
                service: "shop/web:80".to_owned(),
                endpoint: n.to_string(),
                pod: None,
                change: Change::Returned,
            });
        }
        let all = history.all();
        assert_eq!(all.len(), MAX);
        assert_eq!(all[0].at, after(MAX as u64 + 2));
        assert_eq!(all[MAX - 1].at, after(3));
    }
}
