//! How connections and requests to a Service are spread, limited and ended: what
//! its [`TrafficPolicy`](super::traffic_policy::TrafficPolicy) says, with defaults
//! for all that it leaves out.

use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::Name;
use super::injection::Injection;
use super::policy::{PathPattern, Pattern};

/// Of a Service, or of one of its ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) load_balancer: LoadBalancer,
    pub(crate) outlier_detection: OutlierDetection,
    pub(crate) limits: Limits,
    pub(crate) retry_budget: RetryBudget,
    /// `None`: a request has one try at a time.
    pub(crate) hedging: Option<Hedging>,
    pub(crate) timeouts: Timeouts,
    /// Kept where the pods are; each by itself, and all of them must permit.
    pub(crate) rate_limits: Arc<[RateLimit]>,
    /// Injected where the callers are, the first of them that hits.
    pub(crate) faults: Arc<[Injection]>,
}

impl Traffic {
    /// Of what no policy is for.
    #[must_use]
    pub(crate) fn unset() -> Arc<Self> {
        static UNSET: LazyLock<Arc<Traffic>> = LazyLock::new(Arc::default);
        UNSET.clone()
    }
}

/// Which of the endpoints gets a connection, or a request of HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LoadBalancer {
    pub(crate) by: BalanceBy,
    pub(crate) locality: Locality,
    /// `None`: a new endpoint gets its whole share at once.
    pub(crate) warmup: Option<Warmup>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum BalanceBy {
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
pub(crate) enum HashOn {
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

/// Which endpoints come first, of those that are as good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Locality {
    pub(crate) prefer: Prefer,
    /// Others are used, too, where a preferred one has more than this of the load of
    /// another one: 150 is half as much again.
    pub(crate) spill_over_percent: u32,
}

impl Default for Locality {
    fn default() -> Self {
        Self {
            prefer: Prefer::Hinted,
            spill_over_percent: 150,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prefer {
    /// Those that hints are for: what the Service's `trafficDistribution` came to.
    Hinted,
    /// None of them.
    Nothing,
    /// Those of the client's zone.
    Zone,
    /// Those of the client's node, then those of its zone.
    Node,
}

/// A new endpoint's share grows for this long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Warmup {
    pub(crate) duration: Duration,
    /// Of its whole share, which it has at once.
    pub(crate) minimum_percent: u32,
}

/// When an endpoint is left out for a while, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutlierDetection {
    pub(crate) is_on: bool,
    /// Failures of requests in a row: 5xx, the like of gRPC, no answer. `None`: they
    /// are not counted.
    pub(crate) consecutive_errors: Option<NonZeroU32>,
    /// Connections in a row that fail, or end by a reset before a byte came back.
    pub(crate) consecutive_local_origin_failures: Option<NonZeroU32>,
    /// `None`: it does not count.
    pub(crate) success_rate: Option<SuccessRate>,
    /// The first time; it doubles with each.
    pub(crate) base_ejection_time: Duration,
    pub(crate) max_ejection_time: Duration,
    /// Of all endpoints; one is kept in any case.
    pub(crate) max_ejection_percent: u32,
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
pub(crate) struct SuccessRate {
    /// Less than this share of successes is too little.
    pub(crate) threshold_percent: u32,
    /// Of fewer requests nothing is concluded.
    pub(crate) request_volume: u32,
    /// What is looked at.
    pub(crate) interval: Duration,
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
pub(crate) struct Limits {
    /// `None`: the agent's own alone.
    pub(crate) max_connections: Option<u32>,
    /// In flight.
    pub(crate) max_requests: u32,
    /// Requests, and connections, that wait where the others are reached.
    pub(crate) max_pending_requests: u32,
    /// How long they wait.
    pub(crate) max_pending_time: Duration,
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
pub(crate) struct RetryBudget {
    pub(crate) percent: u32,
    /// What is looked at.
    pub(crate) interval: Duration,
    pub(crate) min_retries: Rate,
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

/// Where an endpoint takes long to answer a request, another one is asked as well; the
/// first answer that will do is the client's, and the other try is cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hedging {
    /// From when the first try goes.
    pub(crate) delay: Duration,
    /// Beside GET, HEAD and OPTIONS: what these ask for may be done twice.
    pub(crate) methods: Arc<[Box<str>]>,
    /// Of gRPC, where all are POST, and none is safe by its name: `package.Service/Method`.
    pub(crate) grpc_methods: Arc<[Box<str>]>,
}

impl Hedging {
    /// May a request be seen by two endpoints? `target`: as the client names it.
    #[must_use]
    pub(crate) fn is_for(&self, method: &str, target: &[u8], is_grpc: bool) -> bool {
        if is_grpc {
            let called = target.strip_prefix(b"/").unwrap_or(target);
            let mut named = self.grpc_methods.iter();
            return named.any(|name| name.as_bytes() == called);
        }
        matches!(method, "GET" | "HEAD" | "OPTIONS")
            || self.methods.iter().any(|named| **named == *method)
    }
}

/// So many in so long; never in no time at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) count: u32,
    pub(crate) per: Duration,
}

/// `None`: the agent's own, and of requests no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// To an endpoint.
    pub(crate) connect: Option<Duration>,
    /// No byte in either direction.
    pub(crate) idle: Option<Duration>,
    /// From the head of a request to the end of its answer. A route's own wins.
    pub(crate) request: Option<Duration>,
}

/// How often a Service may be asked by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RateLimit {
    /// Of the policy that has it: NAMESPACE/NAME.
    pub(crate) policy: Name,
    /// No other of the policy's is called so.
    pub(crate) name: Name,
    pub(crate) counts: Counts,
    /// Of requests those that it counts.
    pub(crate) matching: RequestMatch,
    /// More than none.
    pub(crate) rate: Rate,
    /// As many may come at once. More than none.
    pub(crate) burst: u32,
    pub(crate) key: RateKey,
    /// What is over it is counted, and passes.
    pub(crate) dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Counts {
    Requests,
    Connections,
}

/// Requests with one of these methods and one of these paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestMatch {
    /// None: any.
    pub(crate) methods: Arc<[Pattern]>,
    /// None: any.
    pub(crate) paths: Arc<[PathPattern]>,
}

/// Something depends on what is a request.
#[must_use]
pub(crate) fn counts_requests(limits: &[RateLimit]) -> bool {
    limits.iter().any(|limit| limit.counts == Counts::Requests)
}

/// Who has a limit of their own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum RateKey {
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
        assert_eq!(unset.load_balancer.locality.prefer, Prefer::Hinted);
        assert!(outlier.is_on && outlier.max_ejection_percent == 50);
        let minimum = unset.retry_budget.min_retries;
        assert_eq!((unset.retry_budget.percent, minimum.count), (20, 10));
        assert_eq!(unset.timeouts.request, None, "a stream is never cut");
        assert!(unset.rate_limits.is_empty() && unset.faults.is_empty());
        assert_eq!(unset.hedging, None, "nothing is sent twice unasked");
    }

    #[test]
    fn only_what_is_safe_or_named_is_hedged() {
        let named = |names: &[&str]| names.iter().map(|name| (*name).into()).collect();
        let hedging = Hedging {
            delay: Duration::from_millis(50),
            methods: named(&["PUT"]),
            grpc_methods: named(&["shop.Cart/Get"]),
        };
        for (method, target, is_grpc, is_hedged) in [
            ("GET", "/", false, true),
            ("HEAD", "/", false, true),
            ("OPTIONS", "*", false, true),
            ("PUT", "/", false, true),
            ("POST", "/", false, false),
            ("get", "/", false, false),
            // What it does is for the loop back alone.
            ("TRACE", "/", false, false),
            ("CONNECT", "/", false, false),
            ("POST", "/shop.Cart/Get", true, true),
            ("POST", "/shop.Cart/Buy", true, false),
            ("POST", "/shop.Cart/Get/x", true, false),
            ("POST", "/shop.Cart/Get", false, false),
            // Of gRPC a name alone counts.
            ("PUT", "/shop.Cart/Buy", true, false),
            ("GET", "/shop.Cart/Buy", true, false),
        ] {
            let found = hedging.is_for(method, target.as_bytes(), is_grpc);
            assert_eq!(found, is_hedged, "{method} {target} {is_grpc}");
        }
    }
}
