//! How many requests a caller may make (GCRA). Pure.

use std::collections::HashMap;
use std::time::Duration;

/// Callers are tokens, which are bounded as well; this is the last resort.
const MAX_CALLERS: usize = 10_000;

#[derive(Debug)]
pub(super) struct Limit {
    interval: Duration,
    tolerance: Duration,
    /// When each caller's next request would be on time.
    next: HashMap<String, Duration>,
}

impl Limit {
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        Self::per(Duration::from_secs(1), per_second, burst)
    }

    /// `count` in each `span`, `burst` of them at once.
    pub(super) fn per(span: Duration, count: u32, burst: u32) -> Self {
        let interval = span / count.max(1);
        Self {
            interval,
            tolerance: interval * burst.max(1).saturating_sub(1),
            next: HashMap::new(),
        }
    }

    /// May this caller go on? `now` since some fixed moment.
    pub(super) fn admits(&mut self, caller: &str, now: Duration) -> bool {
        if self.next.len() >= MAX_CALLERS {
            self.next.retain(|_, next| *next > now);
        }
        let due = self.next.get(caller).copied().unwrap_or_default().max(now);
        if due - now > self.tolerance || self.next.len() > MAX_CALLERS {
            return false;
        }
        self.next.insert(caller.to_owned(), due + self.interval);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds_for_each_caller() {
        let mut limit = Limit::new(10, 3);
        let at = Duration::from_millis;
        let admitted =
            |limit: &mut Limit, who, ms| (0..10).filter(|_| limit.admits(who, at(ms))).count();
        assert_eq!(admitted(&mut limit, "a", 1000), 3);
        assert_eq!(admitted(&mut limit, "b", 1000), 3);
        assert_eq!(admitted(&mut limit, "a", 1100), 1);
        assert_eq!(admitted(&mut limit, "a", 9000), 3);
    }
}
