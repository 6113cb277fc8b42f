//! Counters, the Prometheus page and the access log.
//!
//! Fed by one [`Flow`] and one [`Outcome`] per connection, through one
//! [`Local`] per worker; never blocks the caller: a full log queue drops and
//! counts. Label values come from the configuration and from verified
//! identities only, and their sets are bounded.
//!
//! [`Flow`]: crate::model::Flow
//! [`Outcome`]: crate::model::Outcome

#![deny(clippy::wildcard_enum_match_arm)]

mod access_log;
mod connections;
pub mod explanation;
mod flow;
mod labels;
mod local;
mod node;
pub mod page;
mod process;
#[cfg(test)]
pub(crate) mod reference;
mod series;
mod tcp;
#[cfg(test)]
mod tests;
mod timing;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use access_log::AccessLog;
pub use access_log::{Events as AccessLogEvents, Target as AccessLogTarget};
use connections::Connections;
pub use connections::{ConnectionFilter, ConnectionInfo, ConnectionList, TlsInfo};
use labels::{Ended, Handshake, OTHER, Policy};
pub use labels::{close_reason, direction, refuse_reason, security};
pub use local::{Local, Open};
#[cfg(test)]
pub(crate) use node::LIVE_TUPLES;
use node::Node;
pub use node::NodeState;
use series::SeriesSet;
use timing::AllTimings;

/// Most policies with a counter of their own.
const MAX_POLICIES: usize = 1_000;

/// Handle of the control side; workers take a [`Local`].
#[derive(Clone, Debug)]
pub struct Observe(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cluster: String,
    registry: parking_lot::Mutex<Registry>,
    series: Arc<SeriesSet<tcp::Connection>>,
    timings: Arc<AllTimings>,
    ended: Family<Ended, Counter>,
    handshakes: Family<Handshake, Counter>,
    denied: Family<Policy, Counter>,
    policies: parking_lot::Mutex<HashSet<Arc<str>>>,
    /// Label of denials that no policy names.
    no_policy: Arc<str>,
    active: Gauge<i64, AtomicI64>,
    node: Arc<Node>,
    connections: Connections,
    log: AccessLog,
}

/// What the agent is told of itself.
#[derive(Clone, Debug)]
pub struct Config {
    /// In every log line.
    pub node: String,
    /// Istio's labels `source_cluster` and `destination_cluster`.
    pub cluster: String,
    pub log: AccessLogTarget,
    pub events: AccessLogEvents,
}

/// Istio's name of a cluster that was given none, which Kiali expects.
pub const DEFAULT_CLUSTER: &str = "Kubernetes";

impl Observe {
    /// With the usual settings.
    #[must_use]
    pub fn new(node: &str, log: AccessLogTarget) -> Self {
        Self::start(Config {
            node: node.to_owned(),
            cluster: DEFAULT_CLUSTER.to_owned(),
            log,
            events: AccessLogEvents::default(),
        })
    }

    #[must_use]
    pub fn start(config: Config) -> Self {
        let inner = Inner {
            log: AccessLog::start(&config.node, config.log, config.events),
            cluster: config.cluster,
            registry: parking_lot::Mutex::default(),
            series: Arc::new(SeriesSet::new(series::MAX_SETS)),
            timings: Arc::default(),
            ended: Family::default(),
            handshakes: Family::default(),
            denied: Family::default(),
            policies: parking_lot::Mutex::default(),
            no_policy: "none".into(),
            active: Gauge::default(),
            node: Arc::default(),
            connections: Connections::default(),
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

    /// Why lines of the access log are dropped now, where they are.
    #[must_use]
    pub fn log_trouble(&self) -> Option<String> {
        self.0.log.trouble()
    }

    /// The oldest connections that the filter takes.
    #[must_use]
    pub fn connections(&self, filter: &ConnectionFilter) -> ConnectionList {
        ConnectionList {
            total: u64::try_from(self.0.active.get()).unwrap_or(0),
            connections: self.0.connections.list(filter),
        }
    }

    /// The page, as OpenMetrics; [`page::to_text`] gives the older format.
    /// `kernel`: counters of the kernel programs.
    #[must_use]
    pub fn page(&self, state: NodeState, kernel: &[(&'static str, u64)]) -> String {
        self.0.node.set(state, kernel);
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

    /// Series of closed sets of labels are there from the start: the first
    /// event of one is then an increase, which a rule can see.
    fn begin_series(&self) {
        for way in labels::ALL_DIRECTIONS {
            for reason in labels::every_reason() {
                let labels = Ended {
                    direction: direction(way),
                    reason,
                };
                drop(self.ended.get_or_create(&labels));
            }
        }
        for labels in Handshake::every() {
            drop(self.handshakes.get_or_create(&labels));
        }
        let policy = self.no_policy.clone();
        drop(self.denied.get_or_create(&Policy { policy }));
    }

    fn register_all(&self) {
        let mut registry = self.registry.lock();
        let r = &mut *registry;
        r.register(
            "mesh_agent_build",
            "Version of the agent; always 1",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        r.register(
            "mesh_agent_connections_ended",
            "Accepted connections that ended, by how",
            self.ended.clone(),
        );
        r.register(
            "mesh_agent_tls_handshakes",
            "Finished handshakes between agents, by what they agreed on",
            self.handshakes.clone(),
        );
        r.register(
            "mesh_agent_authz_denied",
            "Connections that an authorization policy denied",
            self.denied.clone(),
        );
        r.register(
            "mesh_agent_connections_active",
            "Connections that are carried now",
            self.active.clone(),
        );
        r.register(
            "mesh_agent_log_lines_dropped",
            "Access log lines that found the queue full, or could not be written",
            self.log.dropped(),
        );
        r.register_collector(Box::new(self.series.clone()));
        r.register_collector(Box::new(self.timings.clone()));
        r.register_collector(Box::new(self.node.clone()));
        r.register_collector(Box::new(process::Process));
        drop(registry);
        self.begin_series();
    }
}
