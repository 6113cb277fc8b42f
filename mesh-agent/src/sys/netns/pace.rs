//! How often namespaces are sought: a search looks at all processes of the node.

use std::time::{Duration, Instant};

/// After the first search that did not settle it, and at most.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(10);

/// Of searches by one that looks all the time. What was sought and is not settled,
/// whether it was not found or could not be mended, is sought again less and less
/// often; what is new at once.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    unsettled: Vec<u64>,
    again: Option<Instant>,
    wait: Duration,
}

impl Pace {
    /// Is one of these to be sought now?
    #[must_use]
    pub(crate) fn is_due(&self, cookies: &[u64], now: Instant) -> bool {
        let is_new = cookies.iter().any(|c| !self.unsettled.contains(c));
        is_new || (!cookies.is_empty() && self.again.is_none_or(|at| at <= now))
    }

    /// A search is over, and this is what is still not as it is to be.
    pub(crate) fn sought(&mut self, unsettled: Vec<u64>, now: Instant) {
        let is_old = unsettled.iter().any(|c| self.unsettled.contains(c));
        self.wait = match is_old {
            true => (self.wait * 2).min(LONGEST),
            false => FIRST,
        };
        self.again = Some(now + self.wait);
        self.unsettled = unsettled;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_settled_is_sought_less_and_less_often_and_what_is_new_at_once() {
        let mut pace = Pace::default();
        let start = Instant::now();
        let mut now = start;
        let mut searches = 0;
        // Found each time, and never mended.
        while now < start + Duration::from_secs(120) {
            if pace.is_due(&[7], now) {
                searches += 1;
                pace.sought(vec![7], now);
            }
            now += Duration::from_millis(500);
        }
        assert!((13..=17).contains(&searches), "{searches}");
        assert!(!pace.is_due(&[7], now) && !pace.is_due(&[], now));
        assert!(pace.is_due(&[7, 8], now), "another one");
        pace.sought(vec![], now);
        assert!(
            pace.is_due(&[7], now),
            "it was settled, and is missing anew"
        );
    }
}
