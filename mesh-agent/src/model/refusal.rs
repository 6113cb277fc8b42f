//! Why a connection or a request is not carried: one table, from which labels, log,
//! answers and documents come.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{PeerCertificate, RuleRef, grpc_status};

/// Who has to change something before it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// Who called: what it asked for is not there, or not allowed to it.
    Client,
    /// The application or the network that was called.
    Upstream,
    /// The other end of the connection between agents.
    Peer,
    /// Whoever wrote the configuration.
    Configuration,
    /// This node's agent: its limits, its certificates, its life.
    Agent,
}

/// Nothing of a refused connection reached an application, so all may be tried
/// again; this says where that may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Retry {
    /// The answer would be the same.
    Never,
    /// At another endpoint, at once.
    Elsewhere,
    /// At the same one, after a while.
    Later,
}

/// Istio's label `response_flags`: what became of a connection, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ResponseFlags {
    None,
    Denied,
    Connect,
    TlsFailure,
    Identity,
    Other,
    /// The client sent what is no request.
    DownstreamProtocol,
    /// The application sent what is no answer.
    UpstreamProtocol,
    /// The application closed before it answered.
    UpstreamReset,
    NoRoute,
    Timeout,
    /// A limit of the destination.
    Overflow,
    /// A rate limit of the destination's Service.
    RateLimited,
    /// A fault that a TrafficPolicy of the destination's Service asks for.
    FaultInjected,
}

/// HTTP's and gRPC's word for a refusal, for a client that speaks one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Status {
    pub(crate) http: u16,
    pub(crate) grpc: u8,
}

impl Status {
    /// 403, `PERMISSION_DENIED`.
    pub(crate) const FORBIDDEN: Self = Self {
        http: 403,
        grpc: grpc_status::PERMISSION_DENIED,
    };
    /// 503, `UNAVAILABLE`: also for what timed out while it connected, as Envoy (`UF`).
    pub(crate) const UNAVAILABLE: Self = Self {
        http: 503,
        grpc: grpc_status::UNAVAILABLE,
    };
    /// 400, `INTERNAL`: not understood, or with more than one meaning.
    pub(crate) const BAD_REQUEST: Self = Self {
        http: 400,
        grpc: grpc_status::INTERNAL,
    };
    /// 404, `UNIMPLEMENTED`.
    pub(crate) const NOT_FOUND: Self = Self {
        http: 404,
        grpc: grpc_status::UNIMPLEMENTED,
    };
    /// 405, `UNIMPLEMENTED`.
    pub(crate) const METHOD: Self = Self {
        http: 405,
        grpc: grpc_status::UNIMPLEMENTED,
    };
    /// 408, `DEADLINE_EXCEEDED`.
    pub(crate) const SLOW: Self = Self {
        http: 408,
        grpc: grpc_status::DEADLINE_EXCEEDED,
    };
    /// 414, `RESOURCE_EXHAUSTED`.
    pub(crate) const LONG_TARGET: Self = Self {
        http: 414,
        grpc: grpc_status::RESOURCE_EXHAUSTED,
    };
    /// 429, `RESOURCE_EXHAUSTED`.
    pub(crate) const TOO_MANY: Self = Self {
        http: 429,
        grpc: grpc_status::RESOURCE_EXHAUSTED,
    };
    /// 431, `RESOURCE_EXHAUSTED`.
    pub(crate) const LARGE_HEAD: Self = Self {
        http: 431,
        grpc: grpc_status::RESOURCE_EXHAUSTED,
    };
    /// 500, `UNAVAILABLE`.
    pub(crate) const NO_BACKEND: Self = Self {
        http: 500,
        grpc: grpc_status::UNAVAILABLE,
    };
    /// 501, `UNIMPLEMENTED`.
    pub(crate) const NOT_IMPLEMENTED: Self = Self {
        http: 501,
        grpc: grpc_status::UNIMPLEMENTED,
    };
    /// 502, `UNAVAILABLE`.
    pub(crate) const BAD_GATEWAY: Self = Self {
        http: 502,
        grpc: grpc_status::UNAVAILABLE,
    };
    /// 504, `DEADLINE_EXCEEDED`.
    pub(crate) const TIMEOUT: Self = Self {
        http: 504,
        grpc: grpc_status::DEADLINE_EXCEEDED,
    };
    /// 505, `UNIMPLEMENTED`.
    pub(crate) const VERSION: Self = Self {
        http: 505,
        grpc: grpc_status::UNIMPLEMENTED,
    };
    /// 508, `INTERNAL`.
    pub(crate) const LOOP: Self = Self {
        http: 508,
        grpc: grpc_status::INTERNAL,
    };
    /// 500, `INTERNAL`.
    pub(crate) const INTERNAL: Self = Self {
        http: 500,
        grpc: grpc_status::INTERNAL,
    };
}

/// What is refused for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RefusalScope {
    /// Connections, and requests too.
    Any,
    /// A connection never ends for it.
    Requests,
}

/// What is to be known of a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// In labels and log.
    pub(crate) label: &'static str,
    pub(crate) scope: RefusalScope,
    pub(crate) fault: Fault,
    pub(crate) retry: Retry,
    pub(crate) flags: ResponseFlags,
    pub(crate) status: Status,
    /// What it means, and what to do: a sentence for people.
    pub(crate) means: &'static str,
}

/// Makes the enum, and the table with a row for each value.
macro_rules! refusals {
    (
        $(#[$doc:meta])*
        $name:ident, $all:ident:
        $($(#[$what:meta])* $value:ident: $label:literal, $scope:ident, $fault:ident, $retry:ident, $flags:ident, $status:ident, $means:literal;)*
        $(=> $nested:ident($inner:ty);)?
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum $name {
            $(
                #[doc = $means]
                $(#[$what])*
                $value,
            )*
            $(
                /// The handshake with the other agent failed.
                $nested($inner),
            )?
        }

        impl $name {
            #[must_use]
            pub(crate) const fn refusal(self) -> &'static Refusal {
                match self {
                    $(Self::$value => &Refusal {
                        label: $label,
                        scope: RefusalScope::$scope,
                        fault: Fault::$fault,
                        retry: Retry::$retry,
                        flags: ResponseFlags::$flags,
                        status: Status::$status,
                        means: $means,
                    },)*
                    $(Self::$nested(inner) => inner.refusal(),)?
                }
            }
        }

        /// Every value that has a row of its own.
        pub(crate) const $all: &[$name] = &[$($name::$value),*];
    };
}

refusals! {
    /// Why a connection was not carried.
    RefuseReason, REFUSE_REASONS:
    // value: label, of what, whose fault, where a retry may help, response_flags, status, what it means
    UnknownServicePort: "unknown_service_port", Any, Client, Never, Connect, UNAVAILABLE,
        "the Service has no such port";
    NoEndpoint: "no_endpoint", Any, Upstream, Later, Connect, UNAVAILABLE,
        "no ready pod of that address family; check selector and readiness";
    NoLocalEndpoint: "no_local_endpoint", Any, Configuration, Later, Connect, UNAVAILABLE,
        "the Service's `internalTrafficPolicy` is Local, and none of its ready pods is on the client's node";
    ConnectRefused: "connect_refused", Any, Upstream, Elsewhere, Connect, UNAVAILABLE,
        "the application does not listen";
    ConnectTimeout: "connect_timeout", Any, Upstream, Elsewhere, Connect, UNAVAILABLE,
        "no answer: network, routes, NetworkPolicy";
    /// `EHOSTUNREACH`, `ENETUNREACH`, `EACCES` …
    Unreachable: "unreachable", Any, Upstream, Elsewhere, Connect, UNAVAILABLE,
        "no route, or a firewall said so: network, routes, NetworkPolicy";
    SourcePortsExhausted: "source_ports_exhausted", Any, Agent, Elsewhere, Other, UNAVAILABLE,
        "too many deliveries to one address at once: widen `--delivery-ports`";
    OverLimit: "over_limit", Any, Agent, Later, Other, UNAVAILABLE,
        "`--max-connections`, `--max-connections-per-pod`, or open files";
    MaxRequestsPerPod: "max_requests_per_pod", Requests, Agent, Later, Overflow, UNAVAILABLE,
        "as many requests are in flight here of the pod as `--max-requests-per-pod` allows, or as its share of `--max-requests` is, or the share of the one who asks it; the log's `detail` says which: `pod`, `node`, `source`";
    MaxRequests: "max_requests", Requests, Configuration, Later, Overflow, UNAVAILABLE,
        "as many requests to the Service are in flight from this node as `limits.maxRequests` of its TrafficPolicy allows";
    MaxConnections: "max_connections", Any, Configuration, Later, Overflow, UNAVAILABLE,
        "as many connections to the Service from this node as `limits.maxConnections` of its TrafficPolicy allows";
    MaxPendingRequests: "max_pending_requests", Any, Configuration, Later, Overflow, UNAVAILABLE,
        "as many requests or connections wait for a place at the Service, from this node, as `limits.maxPendingRequests` of its TrafficPolicy allows";
    MaxPendingTime: "max_pending_time", Any, Configuration, Later, Overflow, UNAVAILABLE,
        "there was no place at the Service for as long as `limits.maxPendingTime` of its TrafficPolicy lets requests and connections wait: `maxRequests` or `maxConnections` are reached";
    /// The oldest of the source with the most.
    Displaced: "displaced", Any, Client, Later, Other, UNAVAILABLE,
        "many connections that never say who they are; the oldest of the source with the most makes room: look at that source";
    Loop: "loop", Any, Configuration, Never, Other, LOOP,
        "the connection leads back to an agent, or a peer spoke for another address";
    Denied: "denied", Any, Client, Never, Denied, FORBIDDEN,
        "the policy that the access log names: `explain`";
    /// `PeerAuthentication` of mode STRICT.
    PlaintextRefused: "plaintext_refused", Any, Client, Never, Denied, FORBIDDEN,
        "the pod is STRICT and the client is not in the mesh";
    /// Yet, or any more.
    NoCertificate: "no_certificate", Any, Agent, Later, Identity, UNAVAILABLE,
        "no source of certificates, or the authority does not answer: `status`";
    Unreadable: "destination_unreadable", Any, Configuration, Never, Connect, UNAVAILABLE,
        "what the configuration says of the address cannot be understood, and it may be in the mesh: see `mesh-agent check-config`";
    UnknownPod: "unknown_pod", Any, Configuration, Elsewhere, Connect, UNAVAILABLE,
        "an EndpointSlice gives the address to a Pod that is not known here (yet), or not with that address";
    WrongWorkload: "wrong_workload", Any, Configuration, Elsewhere, Identity, UNAVAILABLE,
        "the address belongs to another pod than the configuration says, is claimed by two, or was a mesh pod's that left within the last minute; or plaintext was chosen and mutual TLS was set for it before it was connected";
    RefusedByPeer: "refused_by_peer", Any, Client, Never, Denied, FORBIDDEN,
        "the destination's policy denied: the log's `denied_by` names it, as does the log of the node there";
    Draining: "draining", Any, Agent, Later, Other, UNAVAILABLE,
        "the agent stops";
    PodRemoved: "refused_pod_removed", Any, Agent, Never, Other, UNAVAILABLE,
        "the pod leaves the mesh or goes away";
    Internal: "internal", Any, Agent, Later, Other, INTERNAL,
        "a fault of the agent: report it, with its log";
    MalformedRequest: "malformed_request", Requests, Client, Never, DownstreamProtocol, BAD_REQUEST,
        "the request's head or body breaks HTTP's syntax; the log's `detail` says where";
    AmbiguousFraming: "ambiguous_framing", Requests, Client, Never, DownstreamProtocol, BAD_REQUEST,
        "servers differ on where the request ends: `Content-Length` and `Transfer-Encoding` together, several, or unclear";
    AmbiguousHost: "ambiguous_host", Requests, Client, Never, DownstreamProtocol, BAD_REQUEST,
        "no `Host`, several, one that differs from the target, or one that is no host";
    AmbiguousPath: "ambiguous_path", Requests, Client, Never, DownstreamProtocol, BAD_REQUEST,
        "servers differ on what the path means, and a route or a policy looks at it";
    TargetTooLong: "target_too_long", Requests, Client, Never, DownstreamProtocol, LONG_TARGET,
        "a request line of more than 64 KiB";
    HeadTooLarge: "head_too_large", Requests, Client, Never, DownstreamProtocol, LARGE_HEAD,
        "a head of more than 64 KiB (over HTTP/2: 96 KiB) or 200 lines";
    HttpVersion: "http_version", Requests, Client, Never, DownstreamProtocol, VERSION,
        "neither HTTP/1.0 nor HTTP/1.1";
    ConnectMethod: "connect_method", Requests, Client, Never, DownstreamProtocol, METHOD,
        "CONNECT where it is not allowed: the pod's annotation `mesh-agent.io/allow-connect`; over HTTP/2 never";
    UpgradeNotOffered: "upgrade_not_offered", Requests, Client, Never, DownstreamProtocol, NOT_IMPLEMENTED,
        "an upgrade over HTTP/2 (WebSocket) to a server whose settings do not offer it (extended CONNECT, RFC 8441)";
    SlowRequest: "slow_request", Requests, Client, Later, Timeout, SLOW,
        "the request's head did not come in time";
    NoRoute: "no_route", Any, Configuration, Never, NoRoute, NOT_FOUND,
        "none of the routes of the Service's port matches the request: `explain`";
    NoBackend: "no_backend", Any, Configuration, Never, NoRoute, NO_BACKEND,
        "the route's backend does not exist, or may not be used: `status routes`";
    MalformedResponse: "malformed_response", Requests, Upstream, Never, UpstreamProtocol, BAD_GATEWAY,
        "the application's answer breaks HTTP's syntax, or where it ends is unclear; the log's `detail` says where";
    UpstreamClosed: "upstream_closed", Any, Upstream, Elsewhere, UpstreamReset, BAD_GATEWAY,
        "the application closed the connection before it answered";
    RequestTimeout: "request_timeout", Requests, Upstream, Later, Timeout, TIMEOUT,
        "the application did not answer within the route's timeout";
    DeadlineExceeded: "deadline_exceeded", Requests, Client, Never, Timeout, TIMEOUT,
        "the caller's own deadline (`grpc-timeout`) was over before the answer was: the application is slower than its caller's patience";
    UndecidedProtocol: "undecided_protocol", Any, Configuration, Never, Denied, FORBIDDEN,
        "the port is for requests (it is declared so, or a policy, route or rate limit is about requests there), and the connection is no HTTP, or does not say in time; or a policy goes by `connection.sni` there, and the name cannot be told (`authorization.md`)";
    RateLimited: "rate_limited", Any, Client, Later, RateLimited, TOO_MANY,
        "more than a rate limit of a TrafficPolicy of the destination's Service lets pass: the log's `rule` names it";
    FaultInjected: "fault_injected", Requests, Configuration, Never, FaultInjected, UNAVAILABLE,
        "on purpose: a TrafficPolicy of the destination's Service asks for this fault, the log's `rule` names it; the status is the one that it gives";
    => Tls(TlsFailure);
}

refusals! {
    /// Why the handshake between two agents failed.
    TlsFailure, TLS_FAILURES:
    NoCertificate: "tls_no_certificate", Any, Peer, Never, TlsFailure, UNAVAILABLE,
        "the peer showed no certificate";
    /// Self-signed ones included.
    UnknownIssuer: "tls_unknown_issuer", Any, Peer, Elsewhere, TlsFailure, UNAVAILABLE,
        "another mesh, or a root that is not known here yet";
    Expired: "tls_expired", Any, Peer, Elsewhere, TlsFailure, UNAVAILABLE,
        "clocks, or an authority that is away";
    NotYetValid: "tls_not_yet_valid", Any, Peer, Elsewhere, TlsFailure, UNAVAILABLE,
        "clocks";
    /// The extended key usage does not fit the role.
    WrongUsage: "tls_wrong_usage", Any, Peer, Elsewhere, TlsFailure, UNAVAILABLE,
        "a certificate that the authority must not make so";
    /// No URI SAN.
    NoIdentity: "tls_no_identity", Any, Peer, Elsewhere, TlsFailure, UNAVAILABLE,
        "as above";
    /// More than one URI SAN.
    SeveralIdentities: "tls_several_identities", Any, Peer, Elsewhere, TlsFailure, UNAVAILABLE,
        "as above";
    /// A URI SAN that is no SPIFFE ID of a workload.
    MalformedIdentity: "tls_malformed_identity", Any, Peer, Elsewhere, TlsFailure, UNAVAILABLE,
        "as above";
    ForeignTrustDomain: "tls_foreign_trust_domain", Any, Peer, Elsewhere, TlsFailure, UNAVAILABLE,
        "another mesh: compare `--trust-domain`";
    /// A valid certificate of another workload than the address belongs to.
    UnexpectedIdentity: "tls_unexpected_identity", Any, Configuration, Elsewhere, TlsFailure, UNAVAILABLE,
        "the address has another service account than configured";
    Revoked: "tls_revoked", Any, Peer, Elsewhere, TlsFailure, UNAVAILABLE,
        "revoked: meant, or renew the pod's certificate";
    ChainTooLarge: "tls_chain_too_large", Any, Peer, Elsewhere, TlsFailure, UNAVAILABLE,
        "more or larger certificates than a mesh peer sends";
    BadCertificate: "tls_bad_certificate", Any, Peer, Elsewhere, TlsFailure, UNAVAILABLE,
        "a certificate or signature that does not parse or verify";
    /// No common TLS version, cipher suite or application protocol.
    NoCommonProtocol: "tls_no_common_protocol", Any, Peer, Elsewhere, TlsFailure, UNAVAILABLE,
        "the other end is no agent of this mesh";
    /// It sent an alert.
    RefusedByPeer: "tls_refused_by_peer", Any, Peer, Elsewhere, TlsFailure, UNAVAILABLE,
        "the reason is in the other agent's log";
    /// Bytes that are not TLS, or TLS out of order.
    Malformed: "tls_malformed", Any, Peer, Elsewhere, TlsFailure, UNAVAILABLE,
        "the other end is no agent of this mesh";
    Timeout: "tls_timeout", Any, Peer, Elsewhere, TlsFailure, UNAVAILABLE,
        "network, or an overloaded peer";
    /// Closed or reset during the handshake.
    Closed: "tls_closed", Any, Peer, Elsewhere, TlsFailure, UNAVAILABLE,
        "network, or a peer that ends or refused without an alert";
}

/// What the other agent is told of a stream that is refused: no more than its
/// client may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Denied,
    OverLimit,
    ConnectFailed,
}

impl RefuseReason {
    #[must_use]
    pub(crate) const fn told(self) -> Told {
        match self {
            Self::Denied | Self::UndecidedProtocol => Told::Denied,
            Self::OverLimit
            | Self::MaxRequests
            | Self::MaxConnections
            | Self::MaxPendingRequests
            | Self::MaxPendingTime
            | Self::MaxRequestsPerPod
            | Self::RateLimited
            | Self::SourcePortsExhausted => Told::OverLimit,
            Self::UnknownServicePort
            | Self::NoEndpoint
            | Self::NoLocalEndpoint
            | Self::ConnectRefused
            | Self::ConnectTimeout
            | Self::Unreachable
            | Self::Displaced
            | Self::Loop
            | Self::PlaintextRefused
            | Self::NoCertificate
            | Self::Unreadable
            | Self::UnknownPod
            | Self::WrongWorkload
            | Self::RefusedByPeer
            | Self::Draining
            | Self::PodRemoved
            | Self::Internal
            | Self::MalformedRequest
            | Self::AmbiguousFraming
            | Self::AmbiguousHost
            | Self::AmbiguousPath
            | Self::TargetTooLong
            | Self::HeadTooLarge
            | Self::HttpVersion
            | Self::ConnectMethod
            | Self::UpgradeNotOffered
            | Self::SlowRequest
            | Self::NoRoute
            | Self::NoBackend
            | Self::MalformedResponse
            | Self::UpstreamClosed
            | Self::RequestTimeout
            | Self::DeadlineExceeded
            | Self::FaultInjected
            | Self::Tls(_) => Told::ConnectFailed,
        }
    }
}

/// A refusal with what is known of its cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: RefuseReason,
    /// The kernel's error, where that is the cause.
    pub(crate) errno: Option<i32>,
    /// What the peer's certificate says, where its handshake failed: a claim.
    pub(crate) shown: Option<Arc<PeerCertificate>>,
    /// The rule of a policy that said no.
    pub(crate) rule: Option<RuleRef>,
    /// What is wrong with a message, in a word.
    pub(crate) detail: Option<&'static str>,
    /// The rate limit that it is over.
    pub(crate) limited: Option<Arc<Limited>>,
    /// Instead of the reason's own, of a fault that is injected.
    pub(crate) status: Option<Status>,
}

/// What a client is told of a rate limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limited {
    /// NAMESPACE/POLICY/LIMIT.
    pub(crate) by: Arc<str>,
    /// So many in so long.
    pub(crate) quota: (u32, Duration),
    pub(crate) retry_after: Duration,
}

impl From<RefuseReason> for Refused {
    fn from(reason: RefuseReason) -> Self {
        Self {
            reason,
            errno: None,
            shown: None,
            rule: None,
            detail: None,
            limited: None,
            status: None,
        }
    }
}

impl fmt::Display for RefuseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.refusal().label)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all() -> Vec<&'static Refusal> {
        let tls = TLS_FAILURES.iter().map(|value| value.refusal());
        let own = REFUSE_REASONS.iter().map(|value| value.refusal());
        own.chain(tls).collect()
    }

    #[test]
    fn each_reason_has_a_label_of_its_own_and_a_sentence() {
        let labels: BTreeSet<_> = all().iter().map(|refusal| refusal.label).collect();
        assert_eq!(labels.len(), all().len());
        for refusal in all() {
            let is_word = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(refusal.label.chars().all(is_word), "{refusal:?}");
            assert!(!refusal.means.is_empty(), "{refusal:?}");
        }
    }

    #[test]
    fn what_a_policy_denies_is_forbidden_and_never_tried_again() {
        for refusal in all() {
            let denied = refusal.flags == ResponseFlags::Denied;
            assert_eq!(refusal.status == Status::FORBIDDEN, denied, "{refusal:?}");
            assert!(!denied || refusal.retry == Retry::Never, "{refusal:?}");
            assert!(refusal.flags != ResponseFlags::None, "{refusal:?}");
        }
    }

    #[test]
    fn what_only_a_request_can_be_refused_for_ends_no_connection() {
        for refusal in all() {
            let is_of_a_message = match refusal.flags {
                ResponseFlags::DownstreamProtocol
                | ResponseFlags::UpstreamProtocol
                | ResponseFlags::Timeout
                | ResponseFlags::FaultInjected => true,
                ResponseFlags::Overflow => refusal.label.starts_with("max_requests"),
                ResponseFlags::None
                | ResponseFlags::Denied
                | ResponseFlags::Connect
                | ResponseFlags::TlsFailure
                | ResponseFlags::Identity
                | ResponseFlags::Other
                | ResponseFlags::UpstreamReset
                | ResponseFlags::NoRoute
                | ResponseFlags::RateLimited => false,
            };
            let is_alone = refusal.scope == RefusalScope::Requests;
            assert_eq!(is_alone, is_of_a_message, "{refusal:?}");
        }
    }

    #[test]
    fn a_failed_handshake_says_what_failed() {
        let reason = RefuseReason::Tls(TlsFailure::Revoked);
        assert_eq!(reason.to_string(), "tls_revoked");
        assert_eq!(reason.refusal(), TlsFailure::Revoked.refusal());
    }
}
