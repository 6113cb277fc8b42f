//! What workers and the page share.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::access_log::AccessLog;
use super::connections::Connections;
use super::labels::{self, Handshake, OTHER, Policy, ReasonLabels};
use super::node::Node;
use super::process;
use super::requests;
use super::series::{self, SeriesSet};
use super::tcp;
use super::timing::AllTimings;

/// Most policies with a counter of their own.
pub(super) const MAX_POLICIES: usize = 1_000;

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) cluster: String,
    pub(super) registry: parking_lot::Mutex<Registry>,
    pub(super) route_label: bool,
    pub(super) series: Arc<SeriesSet<tcp::Connection>>,
    pub(super) requests: Arc<SeriesSet<requests::Request>>,
    pub(super) timings: Arc<AllTimings>,
    pub(super) ended: Family<ReasonLabels, Counter>,
    /// Requests that an agent answered itself, or cut, by why.
    pub(super) refused: Family<ReasonLabels, Counter>,
    pub(super) handshakes: Family<Handshake, Counter>,
    pub(super) denied: Family<Policy, Counter>,
    pub(super) policies: parking_lot::Mutex<HashSet<Arc<str>>>,
    /// Label of denials that no policy names, and of requests that took no route.
    pub(super) no_policy: Arc<str>,
    pub(super) active: Gauge<i64, AtomicI64>,
    pub(super) node: Arc<Node>,
    pub(super) connections: Connections,
    pub(super) log: AccessLog,
}

impl Inner {
    pub(super) fn new(cluster: String, route_label: bool, log: AccessLog) -> Self {
        Self {
            log,
            cluster,
            registry: parking_lot::Mutex::default(),
            route_label,
            series: Arc::new(SeriesSet::new(series::MAX_SETS)),
            requests: Arc::new(SeriesSet::new(requests::MAX_SETS)),
            timings: Arc::default(),
            ended: Family::default(),
            refused: Family::default(),
            handshakes: Family::default(),
            denied: Family::default(),
            policies: parking_lot::Mutex::default(),
            no_policy: "none".into(),
            active: Gauge::default(),
            node: Arc::default(),
            connections: Connections::default(),
        }
    }

    /// The policy's own name, or `other` when too many have one.
    pub(super) fn policy_label(&self, policy: &Arc<str>) -> Arc<str> {
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
            for reason in labels::every_end() {
                let labels = ReasonLabels::new(way, reason);
                drop(self.ended.get_or_create(&labels));
            }
            for reason in labels::every_refusal() {
                let labels = ReasonLabels::new(way, labels::refuse_reason(reason));
                drop(self.refused.get_or_create(&labels));
            }
        }
        for labels in Handshake::every() {
            drop(self.handshakes.get_or_create(&labels));
        }
        let policy = self.no_policy.clone();
        drop(self.denied.get_or_create(&Policy { policy }));
    }

    /// All of them: the compiler tells of one that is left out.
    pub(super) fn register_all(&self) {
        let Self {
            cluster: _,
            registry,
            route_label: _,
            series,
            requests,
            timings,
            ended,
            refused,
            handshakes,
            denied,
            policies: _,
            no_policy: _,
            active,
            node,
            connections: _,
            log,
        } = self;
        let mut registry = registry.lock();
        let r = &mut *registry;
        r.register(
            "mesh_agent_build",
            "Version of the agent; always 1",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        r.register(
            "mesh_agent_connections_ended",
            "Accepted connections that ended, by how",
            ended.clone(),
        );
        r.register(
            "mesh_agent_requests_refused",
            "Requests that the agent answered itself, or cut, by why",
            refused.clone(),
        );
        r.register(
            "mesh_agent_tls_handshakes",
            "Finished handshakes between agents, by what they agreed on",
            handshakes.clone(),
        );
        r.register(
            "mesh_agent_authz_denied",
            "Connections and requests that an authorization policy denied",
            denied.clone(),
        );
        r.register(
            "mesh_agent_connections_active",
            "Connections that are carried now",
            active.clone(),
        );
        r.register(
            "mesh_agent_log_lines_dropped",
            "Access log lines that found the queue full, or could not be written",
            log.dropped(),
        );
        r.register_collector(Box::new(series.clone()));
        r.register_collector(Box::new(requests.clone()));
        r.register_collector(Box::new(timings.clone()));
        r.register_collector(Box::new(node.clone()));
        r.register_collector(Box::new(process::Process));
        drop(registry);
        self.begin_series();
    }
}
