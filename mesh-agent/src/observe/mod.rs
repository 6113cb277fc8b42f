//! Counters, the Prometheus page and the access log.
//!
//! Fed by one [`Opening`] and one [`Outcome`] per connection; never blocks
//! the caller: a full log queue drops and counts. Label values come from the
//! configuration only, and their sets are bounded.

mod access_log;
mod labels;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::model::{CloseReason, Opening, Outcome};
use access_log::AccessLog;
pub use access_log::Target as AccessLogTarget;
use labels::{Connection, Ended, Event, Overflow};
pub use labels::{close_reason, direction, refuse_reason};

/// Handle shared by all workers.
#[derive(Clone, Debug)]
pub struct Observe(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: parking_lot::Mutex<Registry>,
    opened: Family<Connection, Counter>,
    closed: Family<Connection, Counter>,
    sent: Family<Connection, Counter>,
    received: Family<Connection, Counter>,
    ended: Family<Ended, Counter>,
    duration: Histogram,
    connect: Histogram,
    active: Gauge<i64, AtomicI64>,
    overflow: Overflow,
    kernel: Family<Event, Gauge<f64, AtomicU64>>,
    log: AccessLog,
}

impl Observe {
    /// `node` names the node in every log line.
    #[must_use]
    pub fn new(node: &str, log: AccessLogTarget) -> Self {
        let mut r = Registry::default();
        let opened = Family::default();
        r.register(
            "istio_tcp_connections_opened",
            "Connections that reached their upstream",
            opened.clone(),
        );
        let closed = Family::default();
        r.register(
            "istio_tcp_connections_closed",
            "Connections that reached their upstream and ended",
            closed.clone(),
        );
        let sent = Family::default();
        r.register(
            "istio_tcp_sent_bytes",
            "Bytes from servers to clients, added when a connection ends",
            sent.clone(),
        );
        let received = Family::default();
        r.register(
            "istio_tcp_received_bytes",
            "Bytes from clients to servers, added when a connection ends",
            received.clone(),
        );
        let ended = Family::default();
        r.register(
            "mesh_agent_connections_ended",
            "Accepted connections by how they ended",
            ended.clone(),
        );
        let duration = Histogram::new(exponential_buckets(0.001, 4.0, 10));
        r.register(
            "mesh_agent_connection_duration_seconds",
            "From accept to the end",
            duration.clone(),
        );
        let connect = Histogram::new(exponential_buckets(0.000_05, 3.0, 11));
        r.register(
            "mesh_agent_upstream_connect_seconds",
            "From accept to the upstream's answer",
            connect.clone(),
        );
        let active = Gauge::default();
        r.register(
            "mesh_agent_connections_active",
            "Connections carried now",
            active.clone(),
        );
        let kernel = Family::default();
        r.register(
            "mesh_agent_kernel_events",
            "What the kernel programs counted since they were first loaded",
            kernel.clone(),
        );
        let log = AccessLog::start(node, log);
        r.register(
            "mesh_agent_log_lines_dropped",
            "Access log lines dropped because the queue was full",
            log.dropped(),
        );
        let overflow = Overflow::default();
        r.register(
            "mesh_agent_label_sets_overflowed",
            "Connections counted under the label value other because there are too many label sets",
            overflow.counter(),
        );
        Self(Arc::new(Inner {
            registry: parking_lot::Mutex::new(r),
            opened,
            closed,
            sent,
            received,
            ended,
            duration,
            connect,
            active,
            overflow,
            kernel,
            log,
        }))
    }

    /// Lets another room add its metrics at set-up.
    pub fn register(&self, f: impl FnOnce(&mut Registry)) {
        f(&mut self.0.registry.lock());
    }

    /// A connection reached its upstream.
    pub fn opened(&self, opening: &Opening) {
        let inner = &*self.0;
        inner
            .opened
            .get_or_create(&inner.overflow.bound(opening))
            .inc();
        inner.active.inc();
        inner.log.opened(opening);
    }

    /// Exactly once per accepted connection, carried or refused.
    pub fn closed(&self, outcome: &Outcome) {
        let inner = &*self.0;
        let ended = Ended {
            direction: direction(outcome.opening.direction),
            reason: close_reason(outcome.reason),
        };
        inner.ended.get_or_create(&ended).inc();
        inner.duration.observe(outcome.duration.as_secs_f64());
        if !matches!(outcome.reason, CloseReason::Refused(_)) {
            let labels = inner.overflow.bound(&outcome.opening);
            inner.closed.get_or_create(&labels).inc();
            inner
                .sent
                .get_or_create(&labels)
                .inc_by(outcome.bytes.received);
            inner
                .received
                .get_or_create(&labels)
                .inc_by(outcome.bytes.sent);
            inner.active.dec();
        }
        if let Some(connect) = outcome.connect_time {
            inner.connect.observe(connect.as_secs_f64());
        }
        inner.log.closed(outcome);
    }

    /// The Prometheus page. `kernel`: counters of the kernel programs.
    #[must_use]
    pub fn page(&self, kernel: &[(&'static str, u64)]) -> String {
        for (event, value) in kernel {
            // A gauge of a count: the kernel holds the truth, also over restarts.
            self.0
                .kernel
                .get_or_create(&Event { event })
                .set(*value as f64);
        }
        let mut page = String::new();
        if prometheus_client::encoding::text::encode(&mut page, &self.0.registry.lock()).is_err() {
            page.clear();
        }
        page
    }
}
