//! Counters, the Prometheus page and the access log.
//!
//! Fed by one [`Opening`] and one [`Outcome`] per connection, through one
//! [`Local`] per worker; never blocks the caller: a full log queue drops and
//! counts. Label values come from the configuration and from verified
//! identities only, and their sets are bounded.
//!
//! [`Opening`]: crate::model::Opening
//! [`Outcome`]: crate::model::Outcome

mod access_log;
mod connections;
pub mod explanation;
mod labels;
mod local;
pub mod page;
mod process;
#[cfg(test)]
pub(crate) mod reference;
mod series;
#[cfg(test)]
mod tests;
mod timing;
mod who;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use access_log::AccessLog;
pub use access_log::Target as AccessLogTarget;
use connections::Connections;
pub use connections::{ConnectionInfo, ConnectionList, TlsInfo};
use labels::{Ended, Event, Handshake, Policy};
pub use labels::{close_reason, direction, refuse_reason, security};
pub use local::{Local, Open};
use series::SeriesSet;
use timing::AllTimings;

/// Value of a label that nothing is known for.
const UNKNOWN: &str = "unknown";
/// Value of the labels that count for all that are too many.
const OTHER: &str = "other";
/// Most policies with a counter of their own.
const MAX_POLICIES: usize = 1_000;

/// Handle of the control side; workers take a [`Local`].
#[derive(Clone, Debug)]
pub struct Observe(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: parking_lot::Mutex<Registry>,
    series: Arc<SeriesSet>,
    timings: Arc<AllTimings>,
    ended: Family<Ended, Counter>,
    handshakes: Family<Handshake, Counter>,
    denied: Family<Policy, Counter>,
    policies: parking_lot::Mutex<HashSet<Arc<str>>>,
    /// Label of denials that no policy names.
    no_policy: Arc<str>,
    active: Gauge<i64, AtomicI64>,
    kernel: Family<Event, Gauge<f64, AtomicU64>>,
    connections: Connections,
    log: AccessLog,
}

impl Observe {
    /// `node` names the node in every log line.
    #[must_use]
    pub fn new(node: &str, log: AccessLogTarget) -> Self {
        let inner = Inner {
            registry: parking_lot::Mutex::default(),
            series: Arc::new(SeriesSet::new(series::MAX_SETS)),
            timings: Arc::default(),
            ended: Family::default(),
            handshakes: Family::default(),
            denied: Family::default(),
            policies: parking_lot::Mutex::default(),
            no_policy: "none".into(),
            active: Gauge::default(),
            kernel: Family::default(),
            connections: Connections::default(),
            log: AccessLog::start(node, log),
        };
        inner.register_all();
        Self(Arc::new(inner))
    }

    /// The view of one worker; made in its thread, once.
    #[must_use]
    pub fn worker(&self) -> Local {
        Local::new(self.0.clone())
    }

    /// Lets another room add its metrics at set-up.
    pub fn register(&self, f: impl FnOnce(&mut Registry)) {
        f(&mut self.0.registry.lock());
    }

    /// The access log's file was renamed: go on in a new one.
    pub fn reopen_log(&self) {
        self.0.log.reopen();
    }

    /// The oldest connections that are carried now.
    #[must_use]
    pub fn connections(&self, limit: usize) -> ConnectionList {
        ConnectionList {
            total: u64::try_from(self.0.active.get()).unwrap_or(0),
            connections: self.0.connections.list(limit),
        }
    }

    /// The page, as OpenMetrics; [`page::to_text`] gives the older format.
    /// `kernel`: counters of the kernel programs.
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

impl Inner {
    /// The policy's own name, or `other` when too many have one.
    fn policy_label(&self, policy: &Arc<str>) -> Arc<str> {
        let known = &mut *self.policies.lock();
        if known.len() >= MAX_POLICIES && !known.contains(policy) {
            return OTHER.into();
        }
        known.insert(policy.clone());
        policy.clone()
    }

    fn register_all(&self) {
        let r = &mut *self.registry.lock();
        r.register(
            "mesh_agent_build",
            "Which agent this is",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        r.register(
            "mesh_agent_connections_ended",
            "Accepted connections by how they ended",
            self.ended.clone(),
        );
        r.register(
            "mesh_agent_tls_handshakes",
            "Finished handshakes between agents by what they agreed on",
            self.handshakes.clone(),
        );
        r.register(
            "mesh_agent_authz_denied",
            "Connections that an authorization policy denied",
            self.denied.clone(),
        );
        r.register(
            "mesh_agent_connections_active",
            "Connections carried now",
            self.active.clone(),
        );
        r.register(
            "mesh_agent_kernel_events",
            "What the kernel programs counted since they were first loaded",
            self.kernel.clone(),
        );
        r.register(
            "mesh_agent_log_lines_dropped",
            "Access log lines that found the queue full or could not be written",
            self.log.dropped(),
        );
        r.register_collector(Box::new(self.series.clone()));
        r.register_collector(Box::new(self.timings.clone()));
        r.register_collector(Box::new(process::Process));
    }
}
