//! Istio's standard request metrics: the counters, and their labels.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;

use super::series::{Family, Histogram, Labels};
use super::tcp::Connection;
use crate::model::{RefuseReason, RequestEnd, RequestProtocol, RequestRecord, ResponseFlags};

/// Most label sets: each has three histograms on the page.
pub(super) const MAX_SETS: usize = 2_000;

/// Istio's buckets, of milliseconds and of bytes alike.
pub(super) const BOUNDS: [f64; BUCKETS - 1] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2_500.0, 5e3, 1e4, 3e4, 6e4, 3e5,
    6e5, 1.8e6, 3.6e6,
];
const BUCKETS: usize = 20;

/// The counters of one label set.
#[derive(Debug, Default)]
pub(super) struct Counters {
    requests: AtomicU64,
    request_messages: AtomicU64,
    response_messages: AtomicU64,
    duration: Distribution,
    request_bytes: Distribution,
    response_bytes: Distribution,
}

/// How often each bucket was hit, and the sum (of microseconds, or of bytes).
#[derive(Debug, Default)]
pub(super) struct Distribution {
    counts: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl Distribution {
    fn observe(&self, value: f64, sum: u64) {
        let bucket = BOUNDS.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(sum, Ordering::Relaxed);
    }

    /// By upper bound; the sum in `unit`.
    fn read(&self, unit: f64) -> Histogram {
        let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
        let counts = self
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        Histogram {
            sum: self.sum.load(Ordering::Relaxed) as f64 / unit,
            count: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
        }
    }
}

impl Counters {
    pub(super) fn count(&self, record: &RequestRecord<'_>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let us = u64::try_from(record.timing.duration.as_micros()).unwrap_or(u64::MAX);
        self.duration.observe(millis(record.timing.duration), us);
        let bytes = record.bytes;
        self.request_bytes.observe(bytes.sent as f64, bytes.sent);
        self.response_bytes
            .observe(bytes.received as f64, bytes.received);
        if record.protocol == RequestProtocol::Grpc {
            let messages = record.messages;
            self.request_messages
                .fetch_add(messages.sent, Ordering::Relaxed);
            self.response_messages
                .fetch_add(messages.received, Ordering::Relaxed);
        }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// What of a record, beside its flow, decides on its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    protocol: RequestProtocol,
    status: u16,
    grpc_status: Option<u32>,
    flags: &'static str,
}

impl Kind {
    pub(super) fn of(record: &RequestRecord<'_>) -> Self {
        // What is no code of gRPC is none: applications may send anything.
        let grpc = record.grpc_status.filter(|status| *status <= 16);
        Self {
            protocol: record.protocol,
            // What is above has no meaning, and an application may send any.
            status: record.status.min(600),
            grpc_status: grpc.filter(|_| record.protocol == RequestProtocol::Grpc),
            flags: response_flags(record.ended, record.fault_delay.is_some()),
        }
    }
}

/// Envoy's words, as Istio's dashboards know them, for the reference.
#[cfg(test)]
pub(super) const REQUEST_FLAGS: &[(&str, &str)] = &[
    (
        "-",
        "it was answered by the application, or a policy said no (403)",
    ),
    (
        "DC",
        "the client left, or ended its side and the upstream then closed, before it had the answer",
    ),
    (
        "DPE",
        "the client sent what is no request, or one with two meanings",
    ),
    ("NR", "no route, or no backend of a route"),
    ("UC", "the connection to the application was lost"),
    ("UF", "no connection to the application"),
    ("RL", "a rate limit of the Service"),
    ("FI", "a TrafficPolicy injects this answer"),
    (
        "DI",
        "a TrafficPolicy injects a delay; what became of the request then stands behind it: `DI,FI`, `DI,DC`",
    ),
    ("UH", "no endpoint that is ready"),
    ("UO", "a limit of the agent's"),
    ("UPE", "the application sent what is no answer"),
    ("UT", "it took too long"),
];

pub(super) fn response_flags(ended: RequestEnd, is_delayed: bool) -> &'static str {
    let flags = flags(ended);
    match is_delayed {
        true => delayed(flags),
        false => flags,
    }
}

/// Labels are no place for texts that are put together.
fn delayed(flags: &'static str) -> &'static str {
    match flags {
        "DC" => "DI,DC",
        "DPE" => "DI,DPE",
        "FI" => "DI,FI",
        "NR" => "DI,NR",
        "RL" => "DI,RL",
        "UC" => "DI,UC",
        "UF" => "DI,UF",
        "UH" => "DI,UH",
        "UO" => "DI,UO",
        "UPE" => "DI,UPE",
        "UT" => "DI,UT",
        _ => "DI",
    }
}

fn flags(ended: RequestEnd) -> &'static str {
    match ended {
        RequestEnd::Finished => "-",
        RequestEnd::Client => "DC",
        RequestEnd::Upstream => "UC",
        RequestEnd::Refused(RefuseReason::NoEndpoint | RefuseReason::NoLocalEndpoint, _) => "UH",
        RequestEnd::Refused(RefuseReason::OverLimit | RefuseReason::SourcePortsExhausted, _) => {
            "UO"
        }
        RequestEnd::Refused(reason, _) => match reason.refusal().flags {
            ResponseFlags::None | ResponseFlags::Denied => "-",
            ResponseFlags::Connect
            | ResponseFlags::TlsFailure
            | ResponseFlags::Identity
            | ResponseFlags::Other => "UF",
            ResponseFlags::DownstreamProtocol => "DPE",
            ResponseFlags::UpstreamProtocol => "UPE",
            ResponseFlags::UpstreamReset => "UC",
            ResponseFlags::NoRoute => "NR",
            ResponseFlags::Timeout => "UT",
            ResponseFlags::Overflow => "UO",
            ResponseFlags::RateLimited => "RL",
            ResponseFlags::FaultInjected => "FI",
        },
    }
}

/// A connection's labels, with what is said of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Request {
    #[prometheus(flatten)]
    connection: Connection,
    response_code: u16,
    /// Of gRPC; empty, which is none to Prometheus, of what is not.
    grpc_response_status: Option<u32>,
    /// `None` where the label is switched off.
    route: Option<Arc<str>>,
}

impl Request {
    /// `route`: as the label has it.
    pub(super) fn of(
        record: &RequestRecord<'_>,
        kind: Kind,
        route: Option<Arc<str>>,
        cluster: &str,
    ) -> Self {
        let protocol = match kind.protocol {
            RequestProtocol::Http => "http",
            RequestProtocol::Grpc => "grpc",
        };
        Self {
            connection: Connection::of(record.flow, kind.flags, protocol, cluster),
            response_code: kind.status,
            grpc_response_status: kind.grpc_status,
            route,
        }
    }

    fn is_grpc(&self) -> bool {
        self.connection.is_grpc()
    }
}

impl Labels for Request {
    type Counters = Counters;

    const FAMILIES: &'static [Family<Self>] = &[
        Family::counter(
            "istio_requests",
            "Requests of HTTP and gRPC, with their answers",
            |_| true,
            |counters: &Counters| counters.requests.load(Ordering::Relaxed),
        ),
        Family::histogram(
            "istio_request_duration_milliseconds",
            "From a request's first byte to its answer's last, in milliseconds",
            |counters: &Counters| counters.duration.read(1e3),
        ),
        Family::histogram(
            "istio_request_bytes",
            "Size of requests on the wire with their heads, in bytes",
            |counters: &Counters| counters.request_bytes.read(1.0),
        ),
        Family::histogram(
            "istio_response_bytes",
            "Size of answers on the wire with their heads, in bytes",
            |counters: &Counters| counters.response_bytes.read(1.0),
        ),
        Family::counter(
            "istio_request_messages",
            "Messages of gRPC from clients",
            Self::is_grpc,
            |counters: &Counters| counters.request_messages.load(Ordering::Relaxed),
        ),
        Family::counter(
            "istio_response_messages",
            "Messages of gRPC from servers",
            Self::is_grpc,
            |counters: &Counters| counters.response_messages.load(Ordering::Relaxed),
        ),
    ];

    const OVERFLOWED: (&'static str, &'static str) = (
        "mesh_agent_request_label_sets_overflowed",
        "Label sets of requests that are counted as `other`, for there are too many",
    );

    /// Flags are kept, of codes the class: 200, 400 …, and of gRPC's 0 or 2 (UNKNOWN).
    fn into_other(self) -> Self {
        Self {
            response_code: self.response_code / 100 * 100,
            grpc_response_status: self.grpc_response_status.map(|code| code.min(1) * 2),
            connection: self.connection.into_other(),
            route: self.route.map(|_| super::labels::OTHER.into()),
        }
    }
}
