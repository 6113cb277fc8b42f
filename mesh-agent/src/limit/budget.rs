//! How many retries there may be: a share of the requests, and some in any case.

use std::time::{Duration, Instant};

use super::window::{SLOTS, Window};
use crate::model::traffic::RetryBudget;

/// Of one destination, for all workers of the node.
#[derive(Debug)]
pub(crate) struct Budget {
    start: Instant,
    /// Requests, and retries.
    window: Window,
}

impl Budget {
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            start,
            window: Window::default(),
        }
    }

    /// A request begins that is no retry.
    pub(crate) fn request(&self, of: &RetryBudget, now: Instant) {
        self.window.add(self.at(now), slot(of), [1, 0]);
    }

    /// May there be another retry? Then it is one. Workers that ask at the same moment
    /// may get one each where one was left.
    pub(crate) fn retry(&self, of: &RetryBudget, now: Instant) -> bool {
        let (at, slot) = (self.at(now), slot(of));
        let [requests, retries] = self.window.sum(at, slot);
        let share = requests * u64::from(of.percent) / 100;
        let may = retries < share + minimum(of);
        if may {
            self.window.add(at, slot, [0, 1]);
        }
        may
    }

    /// One that was allowed then is none after all.
    pub(crate) fn give_back(&self, of: &RetryBudget, then: Instant) {
        self.window.take_back(self.at(then), slot(of), [0, 1]);
    }

    fn at(&self, now: Instant) -> u64 {
        micros(now.saturating_duration_since(self.start))
    }
}

fn slot(of: &RetryBudget) -> u64 {
    micros(of.interval) / SLOTS as u64
}

/// In any case, in one interval.
fn minimum(of: &RetryBudget) -> u64 {
    let (rate, per) = (of.min_retries, micros(of.min_retries.per).max(1));
    let many = u128::from(rate.count) * u128::from(micros(of.interval)) / u128::from(per);
    u64::try_from(many).unwrap_or(u64::MAX)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_requests_there_are_ten_retries_a_second_by_default() {
        let (of, start) = (RetryBudget::default(), Instant::now());
        let budget = Budget::new(start);
        let granted = (0..1_000).filter(|_| budget.retry(&of, start)).count();
        assert_eq!(granted, 100, "of one interval");
        let later = start + Duration::from_secs(5);
        assert!(!budget.retry(&of, later));
        assert!(budget.retry(&of, start + Duration::from_secs(10)));
    }

    #[test]
    fn one_that_was_given_back_is_there_for_the_next() {
        let (of, start) = (RetryBudget::default(), Instant::now());
        let budget = Budget::new(start);
        let granted = (0..1_000).filter(|_| budget.retry(&of, start)).count();
        budget.give_back(&of, start);
        let later = start + Duration::from_secs(3);
        let again = (0..1_000).filter(|_| budget.retry(&of, later)).count();
        assert_eq!([granted, again], [100, 1]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]
        /// Whatever fails: what an application sees is at most 1.2 times what clients
        /// ask, and ten a second; and who is refused is so because there are as many.
        #[test]
        fn a_storm_is_no_more_than_its_share(
            steps in prop::collection::vec((0_u64..600, 0_u32..200, 0_u32..400), 1..100)
        ) {
            let (of, start) = (RetryBudget::default(), Instant::now());
            let budget = Budget::new(start);
            let (mut now, mut asked) = (start, Vec::new());
            for (pause, requests, retries) in steps {
                now += Duration::from_millis(pause);
                for _ in 0..requests {
                    budget.request(&of, now);
                }
                let granted = (0..retries).filter(|_| budget.retry(&of, now)).count();
                asked.push((now, u64::from(requests), granted as u64));
                // In any interval that ends now; what began before its first slot counts not.
                let whole = asked.iter().filter(|(at, ..)| now.duration_since(*at) < of.interval);
                let late = whole.clone().filter(|(at, ..)| {
                    now.duration_since(*at) <= of.interval - of.interval / SLOTS as u32
                });
                let most_requests: u64 = whole.clone().map(|(_, requests, _)| requests).sum();
                let most_retries: u64 = whole.map(|(.., retries)| retries).sum();
                let least_requests: u64 = late.clone().map(|(_, requests, _)| requests).sum();
                let least_retries: u64 = late.map(|(.., retries)| retries).sum();
                let fits = least_retries <= most_requests / 5 + 100;
                prop_assert!(granted == 0 || fits, "{} of {}", least_retries, most_requests);
                let is_used_up = most_retries >= least_requests / 5 + 100;
                let is_refused = granted < retries as usize;
                prop_assert!(!is_refused || is_used_up, "{} of {}", most_retries, least_requests);
            }
        }
    }
}
