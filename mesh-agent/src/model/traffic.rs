//! How connections and requests to a Service are spread, limited and ended: what
//! its [`TrafficPolicy`](super::traffic_policy::TrafficPolicy) says, with defaults
//! for all that it leaves out.

use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::Name;
use super::injection::Injection;

/// Of a Service, or of one of its ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub load_balancer: LoadBalancer,
    pub outlier_detection: OutlierDetection,
    pub limits: Limits,
    pub retry_budget: RetryBudget,
    pub timeouts: Timeouts,
    /// Kept where the pods are; each by itself, and all of them must permit.
    pub rate_limits: Arc<[RateLimit]>,
    /// Injected where the callers are, the first of them that hits.
    pub faults: Arc<[Injection]>,
}

impl Traffic {
    /// Of what no policy is for.
    #[must_use]
    pub fn unset() -> Arc<Self> {
        static UNSET: LazyLock<Arc<Traffic>> = LazyLock::new(Arc::default);
        UNSET.clone()
    }
}

/// Which of the endpoints gets a connection, or a request of HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadBalancer {
    pub by: BalanceBy,
    pub locality: Locality,
    /// `None`: a new endpoint gets its whole share at once.
    pub warmup: Option<Warmup>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BalanceBy {
    /// The better of two by latency times what is in flight.
    #[default]
    PeakEwma,
    /// The one of two with less in flight.
    LeastRequest,
    RoundRobin,
    Random,
    ConsistentHash(HashOn),
}

/// What a consistent hash is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// Of requests; where it is missing, by chance.
    Header(Box<str>),
    /// The agent sets it where a request has none.
    Cookie {
        name: Box<str>,
        path: Box<str>,
        /// `None`: as long as the browser runs.
        ttl: Option<Duration>,
    },
    /// The client's address.
    SourceIp,
}

/// Which endpoints come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locality {
    pub prefer: Prefer,
    /// Others are used, too, where the load of the preferred ones is more than this
    /// of the mean of all: 150 is half as much again.
    pub spill_over_percent: u32,
}

impl Default for Locality {
    fn default() -> Self {
        Self {
            prefer: Prefer::Zone,
            spill_over_percent: 150,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefer {
    /// None of them.
    Nothing,
    /// Those of the client's zone.
    Zone,
    /// Those of the client's node, then those of its zone.
    Node,
}

/// A new endpoint's share grows for this long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warmup {
    pub duration: Duration,
    /// Of its whole share, which it has at once.
    pub minimum_percent: u32,
}

/// When an endpoint is left out for a while, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    pub is_on: bool,
    /// Failures of requests in a row: 5xx, the like of gRPC, no answer. `None`: they
    /// are not counted.
    pub consecutive_errors: Option<NonZeroU32>,
    /// Connections in a row that fail, or end by a reset before a byte came back.
    pub consecutive_local_origin_failures: Option<NonZeroU32>,
    /// `None`: it does not count.
    pub success_rate: Option<SuccessRate>,
    /// The first time; it doubles with each.
    pub base_ejection_time: Duration,
    pub max_ejection_time: Duration,
    /// Of all endpoints; one is kept in any case.
    pub max_ejection_percent: u32,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            is_on: true,
            consecutive_errors: NonZeroU32::new(7),
            consecutive_local_origin_failures: NonZeroU32::new(5),
            success_rate: Some(SuccessRate::default()),
            base_ejection_time: Duration::from_secs(1),
            max_ejection_time: Duration::from_secs(60),
            max_ejection_percent: 50,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuccessRate {
    /// Less than this share of successes is too little.
    pub threshold_percent: u32,
    /// Of fewer requests nothing is concluded.
    pub request_volume: u32,
    /// What is looked at.
    pub interval: Duration,
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self {
            threshold_percent: 80,
            request_volume: 20,
            interval: Duration::from_secs(10),
        }
    }
}

/// Of all pods of a node together, to a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `None`: the agent's own alone.
    pub max_connections: Option<u32>,
    /// In flight.
    pub max_requests: u32,
    /// Waiting for a connection.
    pub max_pending_requests: u32,
    /// How long they wait.
    pub max_pending_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: None,
            max_requests: 100_000,
            max_pending_requests: 10_000,
            max_pending_time: Duration::from_secs(3),
        }
    }
}

/// Of all pods of a node together, to a Service: retries are this share of its
/// requests at most, and as many as the minimum in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    pub percent: u32,
    /// What is looked at.
    pub interval: Duration,
    pub min_retries: Rate,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            percent: 20,
            interval: Duration::from_secs(10),
            min_retries: Rate {
                count: 10,
                per: Duration::from_secs(1),
            },
        }
    }
}

/// So many in so long; never in no time at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub per: Duration,
}

/// `None`: the agent's own, and of requests no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// To an endpoint.
    pub connect: Option<Duration>,
    /// No byte in either direction.
    pub idle: Option<Duration>,
    /// From the head of a request to the end of its answer. A route's own wins.
    pub request: Option<Duration>,
}

/// How often a Service may be asked by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Of the policy that has it: NAMESPACE/NAME.
    pub policy: Name,
    /// No other of the policy's is called so.
    pub name: Name,
    pub counts: Counts,
    /// More than none.
    pub rate: Rate,
    /// As many may come at once. More than none.
    pub burst: u32,
    pub key: RateKey,
    /// What is over it is counted, and passes.
    pub dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counts {
    Requests,
    Connections,
}

/// Something depends on what is a request.
#[must_use]
pub fn counts_requests(limits: &[RateLimit]) -> bool {
    limits.iter().any(|limit| limit.counts == Counts::Requests)
}

/// Who has a limit of their own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RateKey {
    /// Each identity that is proven; all callers without one together.
    Principal,
    /// Each value of this header, in lower case; all requests without it together.
    Header(Box<str>),
    /// All callers together.
    Service,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_policy_is_for_has_the_documented_defaults() {
        let unset = Traffic::unset();
        assert!(Arc::ptr_eq(&unset, &Traffic::unset()));
        assert_eq!(*unset, Traffic::default());
        assert_eq!(unset.load_balancer.by, BalanceBy::PeakEwma);
        let outlier = unset.outlier_detection;
        assert!(outlier.is_on && outlier.max_ejection_percent == 50);
        let minimum = unset.retry_budget.min_retries;
        assert_eq!((unset.retry_budget.percent, minimum.count), (20, 10));
        assert_eq!(unset.timeouts.request, None, "a stream is never cut");
        assert!(unset.rate_limits.is_empty() && unset.faults.is_empty());
    }
}
