//! How one exchange of HTTP went: one record feeds metrics and access log.

use std::sync::Arc;
use std::time::Duration;

use super::{ByteCounts, Flow, HttpVersion, RefuseReason, RequestText, RuleRef};

/// One request with its answer, told once, when both have ended.
#[derive(Clone, Debug)]
pub(crate) struct RequestRecord<'r> {
    /// Who talks to whom; its connection may carry many requests.
    pub(crate) flow: &'r Arc<Flow>,
    pub(crate) protocol: RequestProtocol,
    pub(crate) version: HttpVersion,
    /// Of its head, for the access log; `None` where that has no lines of requests, or
    /// there is no head.
    pub(crate) text: Option<&'r Arc<RequestText>>,
    pub(crate) route: Option<&'r RouteRef>,
    /// The rule that allowed or denied the request; `None` where no policy looks at
    /// requests (the flow has the connection's own).
    pub(crate) rule: Option<&'r RuleRef>,
    /// 0 when no answer began.
    pub(crate) status: u16,
    /// Of gRPC, from the trailers or the head of the answer.
    pub(crate) grpc_status: Option<u32>,
    pub(crate) ended: RequestEnd,
    /// Endpoints that were tried.
    pub(crate) attempts: u16,
    /// A second try was sent beside the first.
    pub(crate) hedged: Option<Hedged>,
    /// On the wire, heads included.
    pub(crate) bytes: ByteCounts,
    /// Of gRPC.
    pub(crate) messages: ByteCounts,
    pub(crate) timing: RequestTiming,
    /// For so long it was kept on purpose, before anything of it went on.
    pub(crate) fault_delay: Option<Duration>,
    /// For so long it waited for a place at its destination.
    pub(crate) queued: Option<Duration>,
    pub(crate) trace: Option<TraceId>,
}

/// Istio's label `request_protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RequestProtocol {
    Http,
    Grpc,
}

/// What became of a second try beside the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hedged {
    /// Its answer was the client's: the request's endpoint, rule and attempt are its own.
    Won,
    /// It was cancelled, or had no answer that would do.
    Lost,
}

/// The rule of a route that a request took.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RouteRef {
    /// `kind/namespace/name`, as `HTTPRoute/shop/cart`: a label.
    pub(crate) route: Arc<str>,
    /// Its name, or its number.
    pub(crate) rule: Arc<str>,
}

/// What ended an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RequestEnd {
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
pub(crate) struct RequestTiming {
    /// Until the request was whole.
    pub(crate) request: Option<Duration>,
    /// Until an upstream connection was there.
    pub(crate) connected: Option<Duration>,
    /// Until the answer's first byte.
    pub(crate) answered: Option<Duration>,
    /// Until the answer's last byte, or the end of it all.
    pub(crate) duration: Duration,
}

/// Of W3C's `traceparent`, or of B3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TraceId(pub(crate) [u8; 16]);
