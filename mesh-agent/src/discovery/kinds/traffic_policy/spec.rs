//! A TrafficPolicy as the API has it. The CustomResourceDefinition and the reference
//! are made of these types and their sentences, by tests.

#[cfg(test)]
use schemars::JsonSchema;
use serde::Deserialize;

use super::fault_spec::Fault;
use super::values::{
    CookieName, CookiePath, GrpcMethod, HeaderName, Label, MethodPattern, PathText, Time, Within,
};

/// Up to two weeks: an idle stream.
pub(super) type Long = Time<1, 1_209_600_000>;
pub(super) type Hour = Time<1, 3_600_000>;
pub(super) type Minute = Time<1, 60_000>;
pub(super) type Count = Within<1, 1_000_000>;
pub(super) type Percent = Within<1, 100>;

/// How connections and requests to Services are spread, limited and ended.
#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.protocol) || self.targetRefs.all(t, has(t.sectionName) && t.sectionName != '')",
    "message": "protocol is of a port: each targetRef needs a sectionName",
}])))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(
    dead_code,
    reason = "each field is read by itself, so that all mistakes are told"
)]
pub(in crate::discovery::kinds) struct Spec {
    /// The Services that it is for, all in its own namespace. Of two policies for the
    /// same Service, or for the same port, the older one holds, then the first by name.
    #[cfg_attr(test, schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic")))]
    pub(super) target_refs: Vec<TargetRef>,
    /// What is spoken on the port, whatever its name or `appProtocol` say.
    pub(super) protocol: Option<Protocol>,
    /// Which endpoint gets a connection, or a request of HTTP.
    pub(super) load_balancer: Option<LoadBalancer>,
    /// When an endpoint that fails is left out for a while (the circuit breaker).
    pub(super) outlier_detection: Option<OutlierDetection>,
    /// How much may be under way at once, from all pods of a node together. What is more
    /// waits for a place, as `maxPendingRequests` and `maxPendingTime` allow; what may not
    /// wait is answered at once: 503, and the name of the limit.
    pub(super) limits: Option<Limits>,
    /// How many retries there may be beside requests, of all pods of a node together.
    pub(super) retry_budget: Option<RetryBudget>,
    /// Where an endpoint takes long to answer a request, another one is asked as well, once;
    /// the first answer that will do is the client's, and the other try is cancelled. Of GET,
    /// HEAD and OPTIONS, and of what is named here. Counts as a retry: where the budget is
    /// used up there is none. Default: a request has one try at a time.
    pub(super) hedging: Option<Hedging>,
    /// How long things may take.
    pub(super) timeouts: Option<Timeouts>,
    /// How often callers may ask. Kept on the node of the pod that is asked, for all
    /// pods of the Service there together; each limit counts by itself, and all have to
    /// permit. What is more is answered with 429 (gRPC: RESOURCE_EXHAUSTED), or the
    /// connection is closed.
    #[cfg_attr(test, schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])))]
    pub(super) rate_limits: Option<Vec<RateLimit>>,
    /// Delays and wrong answers on purpose, to see how callers bear them. Of the named
    /// callers' requests of HTTP and gRPC alone, until the time that it says; injected on
    /// the caller's node, where nothing of the request has gone on. Of several the first
    /// one that hits. Never tried again, and no breaker counts it.
    #[cfg_attr(test, schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])))]
    pub(super) faults: Option<Vec<Fault>>,
}

/// A Service of the policy's namespace.
#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct TargetRef {
    /// Empty: the API's core.
    pub(super) group: Core,
    pub(super) kind: ServiceKind,
    /// Of the Service.
    pub(super) name: Label,
    /// The name of one of its ports. Each part that a policy with it sets replaces
    /// that part of the Service's own policy for this port; the others stay.
    pub(super) section_name: Option<Label>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) enum Core {
    #[serde(rename = "")]
    Core,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) enum ServiceKind {
    Service,
}

#[derive(Clone, Copy, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[allow(clippy::upper_case_acronyms, reason = "as the API has them")]
pub(super) enum Protocol {
    HTTP,
    HTTP2,
    GRPC,
    TLS,
    TCP,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.consistentHash) == (has(self.type) && self.type == 'ConsistentHash')",
    "message": "consistentHash and type ConsistentHash need each other",
}])))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct LoadBalancer {
    /// PeakEwma: the better of two by latency and requests in flight. LeastRequest: the
    /// one of two with fewer in flight. RoundRobin, Random. ConsistentHash: the same one
    /// for the same key. Default: PeakEwma.
    #[serde(rename = "type")]
    pub(super) by: Option<BalanceType>,
    /// What the key is.
    pub(super) consistent_hash: Option<ConsistentHash>,
    /// Which endpoints come first, and when others are used, too: instead of the Service's
    /// `trafficDistribution`.
    pub(super) locality: Option<Locality>,
    /// A new endpoint's share grows slowly; not with ConsistentHash, whose keys would move
    /// twice. Default: it has all of it at once.
    pub(super) warmup: Option<Warmup>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) enum BalanceType {
    PeakEwma,
    LeastRequest,
    RoundRobin,
    Random,
    ConsistentHash,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.httpHeaderName), has(self.httpCookie), has(self.useSourceIp)].filter(x, x).size() == 1",
    "message": "exactly one of httpHeaderName, httpCookie and useSourceIp",
}])))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ConsistentHash {
    /// The value of this header; requests without it go by chance.
    pub(super) http_header_name: Option<HeaderName>,
    /// The value of this cookie, which the agent sets where there is none.
    pub(super) http_cookie: Option<HttpCookie>,
    /// The address of the client pod.
    pub(super) use_source_ip: Option<Yes>,
}

/// `true`.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "bool")]
pub(super) struct Yes;

impl TryFrom<bool> for Yes {
    type Error = &'static str;

    fn try_from(is: bool) -> Result<Self, Self::Error> {
        is.then_some(Self).ok_or("true, or nothing at all")
    }
}

#[cfg(test)]
impl JsonSchema for Yes {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Yes".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "boolean", "enum": [true]})
    }
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct HttpCookie {
    pub(super) name: CookieName,
    /// Default: `/`.
    pub(super) path: Option<CookiePath>,
    /// Default: as long as the browser runs.
    pub(super) ttl: Option<Long>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Locality {
    /// Node: endpoints of the client's node, then of its zone. Zone: those of its zone.
    /// None: all alike. Default: those that the Service's `trafficDistribution` prefers.
    pub(super) prefer: Option<Prefer>,
    /// Others are used as well where a preferred one has this much of the load of another
    /// one, in percent: how long it takes, and what is in flight there; or this much of its
    /// share of the limits. Default: 150.
    pub(super) spill_over_percent: Option<Within<100, 1_000>>,
}

#[derive(Clone, Copy, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) enum Prefer {
    Node,
    Zone,
    None,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Warmup {
    /// Until it has its whole share.
    pub(super) duration: Hour,
    /// The share that it begins with, in percent. Default: 10.
    pub(super) minimum_percent: Option<Percent>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(extend("x-kubernetes-validations" = [{
    "rule": "duration(has(self.baseEjectionTime) ? self.baseEjectionTime : '1s') <= duration(has(self.maxEjectionTime) ? self.maxEjectionTime : '60s')",
    "message": "baseEjectionTime is more than maxEjectionTime",
}])))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct OutlierDetection {
    /// False: no endpoint is ever left out. Default: true.
    pub(super) enabled: Option<bool>,
    /// Failed requests in a row: 5xx (gRPC: UNAVAILABLE, DEADLINE_EXCEEDED, INTERNAL,
    /// DATA_LOSS), or no answer. 0: they do not count. Default: 7.
    pub(super) consecutive_errors: Option<Within<0, 1_000>>,
    /// Connections in a row, of whatever protocol, that could not be made, or ended by a
    /// reset before a byte came back. 0: they do not count. Default: 5.
    pub(super) consecutive_local_origin_failures: Option<Within<0, 1_000>>,
    /// Too few successes in a while: of requests, and of connections that carry none, which
    /// have succeeded when a byte has come back.
    pub(super) success_rate: Option<SuccessRate>,
    /// For how long an endpoint is left out the first time; it doubles with each.
    /// Default: 1s.
    pub(super) base_ejection_time: Option<Hour>,
    /// The longest. Default: 60s.
    pub(super) max_ejection_time: Option<Hour>,
    /// How many of all endpoints may be left out, in percent; one stays in any case.
    /// Default: 50.
    pub(super) max_ejection_percent: Option<Percent>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct SuccessRate {
    /// Fewer successes than this are too few, in percent. 0: they do not count.
    /// Default: 80.
    pub(super) threshold_percent: Option<Within<0, 100>>,
    /// Of fewer requests, or connections, nothing is concluded. Default: 20.
    pub(super) request_volume: Option<Count>,
    /// The time that is looked at. Default: 10s.
    pub(super) interval: Option<Minute>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Limits {
    /// Connections. Default: no limit but the agent's own.
    pub(super) max_connections: Option<Count>,
    /// Requests in flight. Default: 100000.
    pub(super) max_requests: Option<Count>,
    /// Requests, and connections, that wait for a place where `maxRequests` or `maxConnections`
    /// are reached, pods in turn and those of one in the order in which they came. 0: none waits. Default: 10000.
    pub(super) max_pending_requests: Option<Within<0, 1_000_000>>,
    /// How long they wait. Default: 3s.
    pub(super) max_pending_time: Option<Minute>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RetryBudget {
    /// Retries may be this much of the requests, in percent. 0: only the minimum.
    /// Default: 20.
    pub(super) percent: Option<Within<0, 100>>,
    /// The time that is looked at. Default: 10s.
    pub(super) interval: Option<Time<1_000, 3_600_000>>,
    /// As many retries there may be in any case. Default: 10 in 1s.
    pub(super) min_retry_rate: Option<MinRetryRate>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct MinRetryRate {
    /// 0: none but those of the percentage.
    pub(super) count: Within<0, 1_000_000>,
    /// Default: 1s.
    pub(super) interval: Option<Hour>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Hedging {
    /// From when the first try goes until the second one does, if nothing of an answer has
    /// come. What nearly all answers take (their 95th percentile) is a good one.
    pub(super) delay: Minute,
    /// Of DELETE, PATCH, POST and PUT those whose requests may be done twice, beside GET, HEAD
    /// and OPTIONS. Default: none.
    #[cfg_attr(test, schemars(length(max = 4), extend("x-kubernetes-list-type" = "set")))]
    pub(super) methods: Option<Vec<Method>>,
    /// Methods of gRPC whose calls of one message may be done twice, as
    /// `package.Service/Method`. Default: none.
    #[cfg_attr(test, schemars(length(max = 64), extend("x-kubernetes-list-type" = "set")))]
    pub(super) grpc_methods: Option<Vec<GrpcMethod>>,
}

#[derive(Clone, Copy, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[allow(clippy::upper_case_acronyms, reason = "as HTTP has them")]
pub(super) enum Method {
    DELETE,
    PATCH,
    POST,
    PUT,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Timeouts {
    /// Until the endpoint, or its node's agent, takes the connection; no longer than the
    /// agent's `--connect-timeout` in any case, which is the default.
    pub(super) connect: Option<Minute>,
    /// A connection without a byte in either direction ends, of HTTP a request that is
    /// under way. Default: the agent's `--idle-timeout`.
    pub(super) idle: Option<Long>,
    /// From the head of a request to the end of its answer, with all its attempts. A
    /// route's own wins, and its 0s switches this one off. Default: no limit, so that no
    /// stream is ever cut.
    pub(super) request: Option<Long>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "has(self.requests) != has(self.connections)",
        "message": "exactly one of requests and connections",
    },
    {
        "rule": "!has(self.connections) || !has(self.key) || self.key.type != 'Header'",
        "message": "connections have no headers",
    },
    {
        "rule": "!has(self.connections) || !has(self.match)",
        "message": "connections have no methods and paths",
    },
])))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RateLimit<M = RateLimitMatch> {
    /// Its name in answers, metrics and log.
    pub(super) name: Label,
    /// So many requests of HTTP or gRPC in each interval.
    pub(super) requests: Option<Count>,
    /// So many connections in each interval, of whatever protocol. Callers in the mesh
    /// open one for several requests.
    pub(super) connections: Option<Count>,
    /// Default: 1s.
    pub(super) interval: Option<Hour>,
    /// So many may come at once; behind them they come as the rate has it. Default: as
    /// many as in one interval.
    pub(super) burst: Option<Count>,
    /// Which requests are counted. Default: all. Where what is said here is not understood, and
    /// no former version is known that was, all as well.
    #[serde(rename = "match")]
    #[allow(dead_code, reason = "it is read by itself, so that the others are")]
    pub(super) matching: Option<M>,
    /// Who is counted by themselves. Default: each identity.
    pub(super) key: Option<RateLimitKey>,
    /// True: what is over it is only counted. Default: false.
    pub(super) dry_run: Option<bool>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.header) == (self.type == 'Header')",
    "message": "header and type Header need each other",
}])))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RateLimitKey {
    /// Principal: each identity, as proven by its certificate; all callers without one
    /// together. Header: each value of a header, as the caller sends it; all requests
    /// without it together. Service: all callers together.
    #[serde(rename = "type")]
    pub(super) by: KeyType,
    /// The header's name.
    pub(super) header: Option<HeaderName>,
}

/// Those with one of the methods and one of the paths, where both are said. What some server
/// could take for one of them is counted, too.
#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.methods) || has(self.paths)",
    "message": "needs methods or paths",
}])))]
#[serde(deny_unknown_fields)]
pub(super) struct RateLimitMatch {
    /// In capitals; `M*` and `*M` are a beginning and an end. Default: any.
    #[cfg_attr(test, schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "set")))]
    pub(super) methods: Option<Vec<MethodPattern>>,
    /// As a policy has them: `/x`, `/x*`, `*x`, or segments of which `{*}` is one and `{**}`
    /// any number; compared with the path in its normal form. Of gRPC
    /// `/package.Service/Method`. Default: any.
    #[cfg_attr(test, schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "set")))]
    pub(super) paths: Option<Vec<PathText>>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) enum KeyType {
    Principal,
    Header,
    Service,
}
