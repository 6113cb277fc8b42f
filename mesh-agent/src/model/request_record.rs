//! How one exchange of HTTP went: one record feeds metrics, access log and (later)
//! span.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{ByteCounts, Flow, HttpVersion, RefuseReason, RuleRef};

/// One request with its answer, told once, when both have ended.
#[derive(Clone, Debug)]
pub struct RequestRecord<'r> {
    /// Who talks to whom; its connection may carry many requests.
    pub flow: &'r Arc<Flow>,
    pub protocol: RequestProtocol,
    pub version: HttpVersion,
    pub method: &'r str,
    /// `Host` as it came.
    pub host: Option<&'r [u8]>,
    /// The target as it came.
    pub target: &'r [u8],
    pub route: Option<&'r RouteRef>,
    /// The rule that allowed or denied the request; `None` where no policy looks at
    /// requests (the flow has the connection's own).
    pub rule: Option<&'r RuleRef>,
    /// 0 when no answer began.
    pub status: u16,
    /// Of gRPC, from the trailers or the head of the answer.
    pub grpc_status: Option<u32>,
    pub ended: RequestEnd,
    /// Endpoints that were tried.
    pub attempts: u16,
    /// On the wire, heads included.
    pub bytes: ByteCounts,
    /// Of gRPC.
    pub messages: ByteCounts,
    pub timing: RequestTiming,
    /// For so long it was kept on purpose, before anything of it went on.
    pub fault_delay: Option<Duration>,
    pub trace: Option<TraceId>,
}

/// Istio's label `request_protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestProtocol {
    Http,
    Grpc,
}

/// The rule of a route that a request took.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteRef {
    /// `kind/namespace/name`, as `HTTPRoute/shop/cart`: a label.
    pub route: Arc<str>,
    /// Its name, or its number.
    pub rule: Arc<str>,
}

/// What ended an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestEnd {
    /// Request and answer are whole.
    Finished,
    /// The client left before it had the whole answer.
    Client,
    /// The application cut its answer short.
    Upstream,
    /// The agent answered, or cut it short; with what the codec found, in a word.
    Refused(RefuseReason, Option<&'static str>),
}

/// Parts of the time that an exchange took; each from its first byte.
#[derive(Clone, Copy, Debug)]
pub struct RequestTiming {
    #[allow(dead_code, reason = "for spans, which come later")]
    pub started: SystemTime,
    /// Until the request was whole.
    pub request: Option<Duration>,
    /// Until an upstream connection was there.
    pub connected: Option<Duration>,
    /// Until the answer's first byte.
    pub answered: Option<Duration>,
    /// Until the answer's last byte, or the end of it all.
    pub duration: Duration,
}

/// Of W3C's `traceparent`, or of B3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);
