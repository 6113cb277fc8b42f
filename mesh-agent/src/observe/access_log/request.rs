//! One request as one JSON line.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::labels::close_reason;
use super::super::requests;
use super::json::{Value, Word, append_value, members};
use super::line::Rule;
use super::parties::Known;
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
    known.begin(out, (entry.at, "request"), &entry.flow);
    let (timing, text) = (&entry.timing, entry.text.as_deref());
    let (ended_by, reason, detail) = end(entry.ended);
    members!(out,
        "version": Word(version(entry.version)),
        "method": text.map_or("", RequestText::method),
        "host": text.and_then(RequestText::host),
        "path": text.map_or("", RequestText::path),
        "route": entry.route.as_ref(),
        "verdict": Word(verdict(entry.ended)),
        "rule": entry.rule.as_ref().or(entry.flow.rule.as_ref()).map(Rule::of),
        "generation": entry.flow.generation,
        "status": u64::from(entry.status),
        "grpc_status": entry.grpc_status.map(u64::from),
        "attempts": u64::from(entry.attempts),
    );
    if let Some(hedged) = entry.hedged {
        members!(out, "hedge": Word(hedge(hedged)));
    }
    members!(out,
        "request_bytes": entry.bytes.sent,
        "response_bytes": entry.bytes.received,
        "request_ms": timing.request,
        "connect_ms": timing.connected,
        "answer_ms": timing.answered,
        "duration_ms": timing.duration,
        "ended_by": ended_by.map(Word),
        "reason": reason.map(Word),
        "detail": detail,
        "response_flags": Word(requests::response_flags(entry.ended, entry.fault_delay.is_some())),
    );
    if let Some(delay) = entry.fault_delay {
        members!(out, "fault_delay_ms": delay);
    }
    if let Some(queued) = entry.queued {
        members!(out, "queued_ms": queued);
    }
    members!(out, "trace_id": entry.trace.as_ref());
    out.extend_from_slice(b"}\n");
}

impl Value for &RouteRef {
    fn append(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"name":"#);
        (&*self.route).append(out);
        members!(out, "rule": &*self.rule);
        out.push(b'}');
    }
}

impl Value for Rule<'_> {
    fn append(&self, out: &mut Vec<u8>) {
        // Names and numbers are always written.
        _ = append_value(out, self);
    }
}

impl Value for &TraceId {
    fn append(&self, out: &mut Vec<u8>) {
        let digit = |half: u8| b"0123456789abcdef"[usize::from(half)];
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
        out.push(b'"');
        out.extend(digits.map(digit));
        out.push(b'"');
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
