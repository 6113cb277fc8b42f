//! One record as one JSON line.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;

use super::super::labels::{TlsNames, close_reason, direction, security};
use super::super::who::workload;
use super::{End, Event, Record};
use crate::model::{
    CloseReason, RefuseReason, ServiceKey, SpiffeId, UpstreamAddr, Workload, WorkloadKey,
};

#[derive(Serialize)]
struct Line<'a> {
    #[serde(serialize_with = "shown")]
    timestamp: humantime::Rfc3339Timestamp,
    event: &'static str,
    node: &'a str,
    id: u64,
    direction: &'static str,
    #[serde(serialize_with = "shown")]
    client: std::net::SocketAddr,
    #[serde(serialize_with = "shown")]
    destination: std::net::SocketAddr,
    #[serde(serialize_with = "shown_if_some")]
    upstream: Option<UpstreamAddr>,
    #[serde(serialize_with = "shown_if_some")]
    source_workload: Option<&'a WorkloadKey>,
    source_service_account: Option<&'a str>,
    #[serde(serialize_with = "shown_if_some")]
    source_principal: Option<&'a SpiffeId>,
    #[serde(serialize_with = "shown_if_some")]
    destination_workload: Option<&'a WorkloadKey>,
    destination_service_account: Option<&'a str>,
    #[serde(serialize_with = "shown_if_some")]
    destination_principal: Option<&'a SpiffeId>,
    #[serde(serialize_with = "shown_if_some")]
    service: Option<&'a ServiceKey>,
    security: &'static str,
    tls: Option<TlsNames>,
    verdict: &'static str,
    rule: Option<Rule<'a>>,
    generation: u64,
    #[serde(flatten)]
    counts: Option<Counts>,
    connect_ms: Option<f64>,
    reason: Option<&'static str>,
}

#[derive(Serialize)]
struct Rule<'a> {
    policy: &'a str,
    index: Option<u16>,
    generation: u64,
}

#[derive(Serialize)]
struct Counts {
    bytes_sent: u64,
    bytes_received: u64,
    duration_ms: f64,
}

/// Appends the record's line, with its end.
pub(super) fn append(out: &mut Vec<u8>, node: &str, record: &Record) {
    let before = out.len();
    let line = Line::of(node, record);
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, Printable);
    // Writing to memory does not fail; half a line must not be left if it did.
    if line.serialize(&mut serializer).is_err() {
        out.truncate(before);
        return;
    }
    out.push(b'\n');
}

impl<'a> Line<'a> {
    fn of(node: &'a str, record: &'a Record) -> Self {
        let live = &*record.live;
        let who = &*live.who;
        let (source, destination) = (workload(&who.source), workload(&who.destination));
        let account = |w: &'a Workload| w.service_account.as_str();
        let (event, counts, end) = parts(record.event);
        Self {
            timestamp: humantime::format_rfc3339_millis(record.at),
            event,
            node,
            id: live.id,
            direction: direction(who.direction),
            client: live.client.get(),
            destination: live.orig_dst.get(),
            upstream: live.upstream,
            source_workload: source.map(|w| &w.key),
            source_service_account: source.map(account),
            source_principal: who.source_principal.as_ref(),
            destination_workload: destination.map(|w| &w.key),
            destination_service_account: destination.map(account),
            destination_principal: who.destination_principal.as_ref(),
            service: who.service.as_ref(),
            security: security(who.security),
            tls: live.tls.map(TlsNames::of),
            verdict: verdict(end.map(|e| e.reason)),
            rule: live.rule.as_ref().map(|r| Rule {
                policy: &r.policy,
                index: r.rule,
                generation: r.generation,
            }),
            generation: live.generation,
            counts,
            connect_ms: end.and_then(|e| e.connect_time).map(ms),
            reason: end.map(|e| close_reason(e.reason)),
        }
    }
}

fn parts(event: Event) -> (&'static str, Option<Counts>, Option<End>) {
    let (name, bytes, duration, end) = match event {
        Event::Open => return ("open", None, None),
        Event::Progress { bytes, duration } => ("progress", bytes, duration, None),
        Event::Close(end) => ("close", end.bytes, end.duration, Some(end)),
    };
    let counts = Counts {
        bytes_sent: bytes.sent,
        bytes_received: bytes.received,
        duration_ms: ms(duration),
    };
    (name, Some(counts), end)
}

/// What authorization said; a connection refused for another reason never got that far.
fn verdict(end: Option<CloseReason>) -> &'static str {
    match end {
        Some(CloseReason::Refused(RefuseReason::Denied) | CloseReason::PolicyChanged) => "denied",
        Some(CloseReason::Refused(_)) => "refused",
        _ => "allowed",
    }
}

fn ms(duration: Duration) -> f64 {
    // Whole microseconds: more digits say nothing and make lines longer.
    (duration.as_micros() as f64) / 1e3
}

fn shown<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn shown_if_some<T: Display, S: Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

/// JSON that is also safe to show on a terminal: every control character is
/// escaped, those that JSON itself would let through too.
struct Printable;

impl Formatter for Printable {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut done = 0;
        for (at, found) in fragment.char_indices().filter(|(_, c)| is_hidden(*c)) {
            writer.write_all(&fragment.as_bytes()[done..at])?;
            let mut units = [0; 2];
            for unit in found.encode_utf16(&mut units) {
                write!(writer, "\\u{unit:04x}")?;
            }
            done = at + found.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[done..])
    }
}

/// Control characters, line separators, and marks that change the direction of text.
pub(super) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
