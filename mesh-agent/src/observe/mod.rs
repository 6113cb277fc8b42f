//! Counters, the Prometheus page and the access log.
//!
//! Fed by one [`Flow`] and one [`Outcome`] per connection, through one
//! [`Recorder`] per worker; never blocks the caller: a full log queue drops and
//! counts. Label values come from the configuration and from verified
//! identities only, and their sets are bounded.
//!
//! [`Flow`]: crate::model::Flow
//! [`Outcome`]: crate::model::Outcome

#![deny(clippy::wildcard_enum_match_arm)]

mod access_log;
mod connections;
pub(crate) mod explanation;
mod flow;
mod inner;
mod known_requests;
mod labels;
mod local;
mod node;
pub(crate) mod page;
mod process;
#[cfg(test)]
pub(crate) mod reference;
mod requests;
mod series;
mod tcp;
#[cfg(test)]
mod tests;
mod timing;

use std::sync::Arc;

use prometheus_client::registry::Registry;

use access_log::AccessLog;
pub(crate) use access_log::{Events as AccessLogEvents, Target as AccessLogTarget};
pub(crate) use connections::{ConnectionFilter, ConnectionInfo, ConnectionList};
use inner::Inner;
pub(crate) use labels::{refuse_reason, security};
pub(crate) use local::{OpenConnection, Recorder};
#[cfg(test)]
pub(crate) use node::LIVE_TUPLES;
pub(crate) use node::NodeState;

/// Handle of the control side; workers take a [`Recorder`].
#[derive(Clone, Debug)]
pub(crate) struct Observe(Arc<Inner>);

/// What the agent is told of itself.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// In every log line.
    pub(crate) node: String,
    /// Istio's labels `source_cluster` and `destination_cluster`.
    pub(crate) cluster: String,
    pub(crate) log: AccessLogTarget,
    pub(crate) events: AccessLogEvents,
    /// Request metrics have a label for the route.
    pub(crate) route_label: bool,
}

/// Istio's name of a cluster that was given none, which Kiali expects.
pub(crate) const DEFAULT_CLUSTER: &str = "Kubernetes";

impl Observe {
    /// With the usual settings.
    #[cfg(test)]
    pub(crate) fn new(node: &str, log: AccessLogTarget) -> Self {
        Self::start(Config {
            node: node.to_owned(),
            cluster: DEFAULT_CLUSTER.to_owned(),
            log,
            events: AccessLogEvents::default(),
            route_label: true,
        })
    }

    #[must_use]
    pub(crate) fn start(config: Config) -> Self {
        let log = AccessLog::start(&config.node, config.log, config.events);
        let inner = Inner::new(config.cluster, config.route_label, log);
        inner.register_all();
        Self(Arc::new(inner))
    }

    /// The view of one worker; made in its thread, once.
    #[must_use]
    pub(crate) fn worker(&self) -> Recorder {
        Recorder::new(self.0.clone())
    }

    /// Lets another module add its metrics at set-up.
    pub(crate) fn register(&self, f: impl FnOnce(&mut Registry)) {
        f(&mut self.0.registry.lock());
    }

    /// The access log's file was renamed: go on in a new one.
    pub(crate) fn reopen_log(&self) {
        self.0.log.reopen();
    }

    /// Why lines of the access log are dropped now, where they are.
    #[must_use]
    pub(crate) fn log_trouble(&self) -> Option<String> {
        self.0.log.trouble()
    }

    /// The oldest connections that the filter takes.
    #[must_use]
    pub(crate) fn connections(&self, filter: &ConnectionFilter) -> ConnectionList {
        ConnectionList {
            total: u64::try_from(self.0.active.get()).unwrap_or(0),
            connections: self.0.connections.list(filter),
        }
    }

    /// The page, as OpenMetrics; [`page::to_text`] gives the older format.
    /// `kernel`: counters of the kernel programs.
    #[must_use]
    pub(crate) fn page(&self, state: NodeState, kernel: &[(&'static str, u64)]) -> String {
        self.0.node.set(state, kernel);
        let mut page = String::new();
        if prometheus_client::encoding::text::encode(&mut page, &self.0.registry.lock()).is_err() {
            page.clear();
        }
        page
    }
}
