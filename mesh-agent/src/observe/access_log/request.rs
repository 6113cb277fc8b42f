//! One request as one JSON line.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::super::labels::close_reason;
use super::super::requests;
use super::json::append_value;
use super::line::{Rule, ms};
use super::parties::{Hex, Known, shown_if_some};
use super::record::{ALLOWED, verdict_of};
use crate::model::{
    ByteCounts, CloseReason, Flow, Hedged, HttpVersion, RequestEnd, RequestRecord, RequestText,
    RequestTiming, RouteRef, RuleRef, TraceId,
};

/// What the log's thread is given.
#[derive(Debug)]
pub(super) struct RequestLine {
    at: SystemTime,
    flow: Arc<Flow>,
    version: HttpVersion,
    text: Option<Arc<RequestText>>,
    route: Option<RouteRef>,
    rule: Option<RuleRef>,
    status: u16,
    grpc_status: Option<u32>,
    ended: RequestEnd,
    attempts: u16,
    hedged: Option<Hedged>,
    bytes: ByteCounts,
    timing: RequestTiming,
    fault_delay: Option<Duration>,
    queued: Option<Duration>,
    trace: Option<TraceId>,
}

impl RequestLine {
    pub(super) fn of(record: &RequestRecord<'_>) -> Self {
        Self {
            at: SystemTime::now(),
            flow: record.flow.clone(),
            version: record.version,
            text: record.text.cloned(),
            route: record.route.cloned(),
            rule: record.rule.cloned(),
            status: record.status,
            grpc_status: record.grpc_status,
            ended: record.ended,
            attempts: record.attempts,
            hedged: record.hedged,
            bytes: record.bytes,
            timing: record.timing,
            fault_delay: record.fault_delay,
            queued: record.queued,
            trace: record.trace,
        }
    }
}

/// Was it carried, and no policy said no?
pub(super) fn was_allowed(ended: RequestEnd) -> bool {
    verdict(ended) == ALLOWED
}

fn verdict(ended: RequestEnd) -> &'static str {
    match ended {
        RequestEnd::Finished | RequestEnd::Client | RequestEnd::Upstream => ALLOWED,
        RequestEnd::Refused(reason, _) => verdict_of(reason),
    }
}

/// Appends the entry's line, with its end.
pub(super) fn append(out: &mut Vec<u8>, known: &mut Known, entry: &RequestLine) {
    let before = out.len();
    known.begin(out, (entry.at, "request"), &entry.flow);
    let rest = out.len();
    // The object that is begun goes on.
    match append_value(out, &Rest::of(entry)) {
        true => {
            out[rest] = b',';
            out.push(b'\n');
        }
        false => out.truncate(before),
    }
}

/// Behind what lines of a flow have in common.
#[derive(Serialize)]
struct Rest<'a> {
    version: &'static str,
    method: &'a str,
    host: Option<&'a str>,
    path: &'a str,
    route: Option<Route<'a>>,
    verdict: &'static str,
    rule: Option<Rule<'a>>,
    generation: u64,
    status: u16,
    grpc_status: Option<u32>,
    attempts: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    hedge: Option<&'static str>,
    request_bytes: u64,
    response_bytes: u64,
    request_ms: Option<f64>,
    connect_ms: Option<f64>,
    answer_ms: Option<f64>,
    duration_ms: f64,
    ended_by: Option<&'static str>,
    reason: Option<&'static str>,
    detail: Option<&'static str>,
    response_flags: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault_delay_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queued_ms: Option<f64>,
    #[serde(serialize_with = "shown_if_some")]
    trace_id: Option<Hex<'a>>,
}

#[derive(Serialize)]
struct Route<'a> {
    name: &'a str,
    rule: &'a str,
}

impl<'a> Rest<'a> {
    fn of(entry: &'a RequestLine) -> Self {
        let flow = &*entry.flow;
        let (ended_by, reason, detail) = end(entry.ended);
        let (timing, text) = (&entry.timing, entry.text.as_deref());
        let rule = entry.rule.as_ref().or(flow.rule.as_ref());
        let millis = |part: Option<Duration>| part.map(ms);
        Self {
            version: version(entry.version),
            method: text.map_or("", RequestText::method),
            host: text.and_then(RequestText::host),
            path: text.map_or("", RequestText::path),
            route: entry.route.as_ref().map(|r| Route {
                name: &r.route,
                rule: &r.rule,
            }),
            verdict: verdict(entry.ended),
            rule: rule.map(Rule::of),
            generation: flow.generation,
            status: entry.status,
            grpc_status: entry.grpc_status,
            attempts: entry.attempts,
            hedge: entry.hedged.map(hedge),
            request_bytes: entry.bytes.sent,
            response_bytes: entry.bytes.received,
            request_ms: millis(timing.request),
            connect_ms: millis(timing.connected),
            answer_ms: millis(timing.answered),
            duration_ms: ms(timing.duration),
            ended_by,
            reason,
            detail,
            response_flags: requests::response_flags(entry.ended, entry.fault_delay.is_some()),
            fault_delay_ms: millis(entry.fault_delay),
            queued_ms: millis(entry.queued),
            trace_id: entry.trace.as_ref().map(|TraceId(id)| Hex(id)),
        }
    }
}

fn end(
    ended: RequestEnd,
) -> (
    Option<&'static str>,
    Option<&'static str>,
    Option<&'static str>,
) {
    match ended {
        RequestEnd::Finished => (None, None, None),
        RequestEnd::Client => (Some("client"), None, None),
        RequestEnd::Upstream => (Some("upstream"), None, None),
        RequestEnd::Refused(reason, detail) => {
            let reason = close_reason(CloseReason::Refused(reason));
            (Some("agent"), Some(reason), detail)
        }
    }
}

fn hedge(of: Hedged) -> &'static str {
    match of {
        Hedged::Won => "won",
        Hedged::Lost => "lost",
    }
}

fn version(version: HttpVersion) -> &'static str {
    match version {
        HttpVersion::Http10 => "1.0",
        HttpVersion::Http11 => "1.1",
        HttpVersion::Http2 => "2",
    }
}

/// Fields that only lines of requests have, in their order, with what each says.
#[cfg(test)]
pub(crate) const FIELDS: &[(&str, &str)] = &[
    ("version", "of HTTP: `1.0`, `1.1`, `2`"),
    ("method", "as it came"),
    ("host", "`Host` or `:authority` as it came"),
    (
        "path",
        "as it came, without the query, the first 2,048 bytes",
    ),
    (
        "route",
        "`name` (`kind/namespace/name`) and `rule` of the route that it took",
    ),
    ("status", "of the answer; 0 where none began"),
    ("grpc_status", "of gRPC, from the trailers or the head"),
    ("attempts", "endpoints that were tried"),
    (
        "hedge",
        "what became of a second try beside the first (TrafficPolicy `hedging`), which is one of the attempts: `won` (its answer was the client's), `lost`; only where one was sent",
    ),
    (
        "request_ms",
        "from its first byte until the request was whole",
    ),
    ("answer_ms", "until the answer's first byte"),
    (
        "ended_by",
        "`client` (it left), `upstream` (it cut its answer short), `agent` (it answered itself, or cut it short); null of what is whole",
    ),
    (
        "detail",
        "what is wrong with the message, in a word: the header or the part of it",
    ),
    (
        "fault_delay_ms",
        "for so long a TrafficPolicy's fault kept it, part of the times above; only where one did",
    ),
    (
        "queued_ms",
        "for so long it waited for a place at its Service (`limits.maxRequests`), part of the times above; only where it did",
    ),
    ("trace_id", "of `traceparent`, or of B3"),
];
