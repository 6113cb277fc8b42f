//! One record as one JSON line.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::super::labels::{TlsNames, close_reason, response_flags};
use super::json::append_line;
use super::parties::{Hex, Parties, shown, shown_if_some};
use super::record::{CloseRecord, Event, Record, verdict};
use crate::model::{RuleRef, SpiffeId};

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    parties: Parties<'a>,
    tls: Option<TlsNames>,
    peer_certificate: Option<Certificate<'a>>,
    verdict: &'static str,
    rule: Option<Rule<'a>>,
    denied_by: Option<DeniedBy<'a>>,
    generation: u64,
    #[serde(flatten)]
    counts: Option<Counts>,
    connect_ms: Option<f64>,
    reason: Option<&'static str>,
    errno: Option<Errno>,
    response_flags: Option<&'static str>,
}

#[derive(Serialize)]
struct Certificate<'a> {
    #[serde(serialize_with = "shown_if_some")]
    principal: Option<&'a SpiffeId>,
    #[serde(serialize_with = "shown")]
    serial: Hex<'a>,
}

/// An error by its name.
struct Errno(i32);

impl Serialize for Errno {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let name = nix::errno::Errno::from_raw(self.0);
        serializer.collect_str(&format_args!("{name:?}"))
    }
}

#[derive(Serialize)]
struct DeniedBy<'a> {
    policy: &'a str,
    index: Option<u16>,
}

/// The line's fields, in their order, with what each says.
#[cfg(test)]
pub(crate) const FIELDS: &[(&str, &str)] = &[
    ("timestamp", "when it was noted, RFC 3339 with milliseconds"),
    (
        "event",
        "`open`: the upstream took it; `progress`: every 10 s while it lasts; `close`: its end, or its refusal",
    ),
    ("node", "whose agent wrote it"),
    (
        "id",
        "the connection's, unique in the agent's process; as in `mesh-agent connections`, and for `mesh-agent explain ID`",
    ),
    ("direction", "`outbound`, `inbound`, `same_node`"),
    (
        "client",
        "address and port of who connected: of the application, also behind another agent",
    ),
    (
        "destination",
        "where it wanted to go: a Service's address, or a pod's",
    ),
    ("upstream", "the endpoint that was chosen"),
    (
        "source_workload",
        "`namespace/name` of the client's pod: by its proof, and by the address that the configuration gives it where it proved nothing (`source_principal` is null)",
    ),
    (
        "source_service_account",
        "of that pod, by the configuration",
    ),
    (
        "source_principal",
        "SPIFFE id that the client proved, by certificate or by the namespace that its socket is in",
    ),
    ("destination_workload", "`namespace/name` of the pod"),
    (
        "destination_service_account",
        "of that pod, by the configuration",
    ),
    (
        "destination_principal",
        "SPIFFE id that the destination proved",
    ),
    ("service", "`namespace/name` of the Service that was called"),
    (
        "security",
        "`mutual_tls`, `same_node`, `none` (plaintext); `unknown` where it was refused before that was settled",
    ),
    (
        "tls",
        "`version`, `group` and `cipher` that the handshake between the agents agreed on, by IANA's names",
    ),
    (
        "peer_certificate",
        "`principal` and `serial` (hexadecimal) of the other agent's certificate. Where the handshake failed (`reason` is `tls_…`) a claim, not a proof",
    ),
    (
        "verdict",
        "`allowed`: it was carried; `denied`: a policy said no, here or at the destination; `refused`: not carried for another reason",
    ),
    (
        "rule",
        "`policy`, `index` into its `spec.rules` (null: no single rule) and `generation` of what allowed or denied it here",
    ),
    (
        "denied_by",
        "`policy` and `index` of the rule that denied it on the destination's node, as its agent told",
    ),
    ("generation", "of the configuration that decided"),
    (
        "request_bytes",
        "application bytes from the client to the server so far (not in `open`)",
    ),
    (
        "response_bytes",
        "from the server to the client (not in `open`)",
    ),
    ("duration_ms", "since it was accepted (not in `open`)"),
    (
        "connect_ms",
        "until the upstream took it; null where it never did (in `close`). Of a stream to another node it is the time to the answer's first bytes, or to an ACCEPT that waits for them 5 ms at most",
    ),
    (
        "reason",
        "how it ended (in `close`): [metrics.md](metrics.md) has all values and what to do",
    ),
    (
        "errno",
        "the kernel's error that a refused connection met (`ECONNREFUSED`, `ENETUNREACH` …), where one is the cause",
    ),
    (
        "response_flags",
        "the same in one of few words (in `close`): [metrics.md](metrics.md)",
    ),
];

#[derive(Serialize)]
pub(super) struct Rule<'a> {
    policy: &'a str,
    index: Option<u16>,
    generation: u64,
}

impl<'a> Rule<'a> {
    pub(super) fn of(rule: &'a RuleRef) -> Self {
        Self {
            policy: &rule.policy,
            index: rule.rule,
            generation: rule.generation,
        }
    }
}

#[derive(Serialize)]
struct Counts {
    request_bytes: u64,
    response_bytes: u64,
    duration_ms: f64,
}

/// Appends the record's line, with its end.
pub(super) fn append(out: &mut Vec<u8>, node: &str, record: &Record) {
    append_line(out, &Line::of(node, record));
}

impl<'a> Line<'a> {
    fn of(node: &'a str, record: &'a Record) -> Self {
        let (live, flow) = (&*record.live, &*record.live.flow);
        let (event, counts, end) = parts(record.event);
        Self {
            parties: Parties::of(node, (record.at, event), flow),
            tls: flow.tls.map(TlsNames::of),
            peer_certificate: flow.peer_certificate.as_ref().map(|c| Certificate {
                principal: c.principal.as_ref(),
                serial: Hex(&c.serial),
            }),
            verdict: verdict(end),
            rule: flow.rule.as_ref().map(Rule::of),
            denied_by: flow.denied_by.as_ref().map(|r| DeniedBy {
                policy: &r.policy,
                index: r.rule,
            }),
            generation: flow.generation,
            counts,
            connect_ms: end.and_then(|e| e.connect_time).map(ms),
            reason: end.map(|e| close_reason(e.reason)),
            errno: flow.errno.map(Errno),
            response_flags: end.map(|_| response_flags(live.flags)),
        }
    }
}

fn parts(event: Event) -> (&'static str, Option<Counts>, Option<CloseRecord>) {
    let (name, bytes, duration, end) = match event {
        Event::Open => return ("open", None, None),
        Event::Progress { bytes, duration } => ("progress", bytes, duration, None),
        Event::Close(end) => ("close", end.bytes, end.duration, Some(end)),
    };
    let counts = Counts {
        request_bytes: bytes.sent,
        response_bytes: bytes.received,
        duration_ms: ms(duration),
    };
    (name, Some(counts), end)
}

fn ms(duration: Duration) -> f64 {
    // Whole microseconds: more digits say nothing and make lines longer.
    (duration.as_micros() as f64) / 1e3
}
