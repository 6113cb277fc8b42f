//! What the authority counts.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use super::errors::{Error, Refusal};

/// How long one that failed is not ready. Whoever is not ready is not asked, and only who
/// is asked finds out that it works again.
const NEWS: Duration = Duration::from_secs(15);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct State {
    pub(super) state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Node {
    pub(super) node: String,
}

#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) issued: Counter,
    pub(super) refused: Family<Reason, Counter>,
    pub(super) duration: Histogram,
    /// Why it cannot sign, until it can, and when that was seen last.
    pub(super) failure: Mutex<Option<(String, Instant)>>,
    /// Why its own certificate and the revocation lists are not made anew.
    pub(super) unpublished: Mutex<Option<String>>,
    /// Why the ConfigMap with the roots is not what it should be.
    pub(super) unrooted: Mutex<Option<String>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let refused = Family::<Reason, Counter>::default();
        // A series that is not there cannot be watched.
        for refusal in Refusal::ALL {
            let _there = refused.get_or_create(&Reason {
                reason: refusal.label(),
            });
        }
        Self {
            issued: Counter::default(),
            refused,
            duration: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            failure: Mutex::default(),
            unpublished: Mutex::default(),
            unrooted: Mutex::default(),
        }
    }
}

impl Metrics {
    pub(super) fn answered(&self, result: Result<(), Refusal>, took: Duration) {
        self.duration.observe(took.as_secs_f64());
        match result {
            Ok(()) => self.issued.inc(),
            Err(reason) => self
                .refused
                .get_or_create(&Reason {
                    reason: reason.label(),
                })
                .inc(),
        };
    }

    pub(super) fn works(&self) {
        self.failure.lock().take();
    }

    /// Why it cannot sign, and whether that is news at `now`.
    pub(super) fn failure(&self, now: Instant) -> Option<(String, bool)> {
        let failure = self.failure.lock();
        let (what, seen) = failure.as_ref()?;
        Some((what.clone(), now.saturating_duration_since(*seen) < NEWS))
    }

    pub(super) fn rooted(&self, error: Option<String>) {
        *self.unrooted.lock() = error;
    }

    pub(super) fn unrooted(&self) -> Option<String> {
        self.unrooted.lock().clone()
    }

    pub(super) fn published(&self, error: Option<&Error>) {
        *self.unpublished.lock() = error.map(ToString::to_string);
    }

    pub(super) fn unpublished(&self) -> Option<String> {
        self.unpublished.lock().clone()
    }

    pub(super) fn fails(&self, error: &Error) {
        *self.failure.lock() = Some((error.to_string(), Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_told_until_it_works_and_keeps_it_from_being_asked_for_a_while_only() {
        let metrics = Metrics::default();
        let now = Instant::now();
        assert_eq!(metrics.failure(now), None);
        metrics.fails(&Error::Cluster("no answer".to_owned()));
        let (what, is_news) = metrics.failure(now).expect("a failure");
        assert!(is_news && what.contains("no answer"), "{what}");
        let later = now + NEWS + Duration::from_secs(1);
        let (_, is_news) = metrics.failure(later).expect("a failure");
        assert!(!is_news);
        metrics.works();
        assert_eq!(metrics.failure(later), None);
    }
}
