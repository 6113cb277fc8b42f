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
mod inner;
mod known_requests;
mod labels;
mod local;
mod node;
pub mod page;
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
pub use access_log::{Events as AccessLogEvents, Target as AccessLogTarget};
pub use connections::{ConnectionFilter, ConnectionInfo, ConnectionList};
use inner::Inner;
pub use labels::{refuse_reason, security};
pub use local::{Local, Open};
#[cfg(test)]
pub(crate) use node::LIVE_TUPLES;
pub use node::NodeState;

/// Handle of the control side; workers take a [`Local`].
#[derive(Clone, Debug)]
pub struct Observe(Arc<Inner>);

/// What the agent is told of itself.
#[derive(Clone, Debug)]
pub struct Config {
    /// In every log line.
    pub node: String,
    /// Istio's labels `source_cluster` and `destination_cluster`.
    pub cluster: String,
    pub log: AccessLogTarget,
    pub events: AccessLogEvents,
    /// Request metrics have a label for the route.
    pub route_label: bool,
}

/// Istio's name of a cluster that was given none, which Kiali expects.
pub const DEFAULT_CLUSTER: &str = "Kubernetes";

impl Observe {
    /// With the usual settings.
    #[cfg(test)]
    pub fn new(node: &str, log: AccessLogTarget) -> Self {
        Self::start(Config {
            node: node.to_owned(),
            cluster: DEFAULT_CLUSTER.to_owned(),
            log,
            events: AccessLogEvents::default(),
            route_label: true,
        })
    }

    #[must_use]
    pub fn start(config: Config) -> Self {
        let log = AccessLog::start(&config.node, config.log, config.events);
        let inner = Inner::new(config.cluster, config.route_label, log);
        inner.register_all();
        Self(Arc::new(inner))
    }

    /// The view of one worker; made in its thread, once.
    #[must_use]
    pub fn worker(&self) -> Local {
        Local::new(self.0.clone())
    }

    /// Lets another module add its metrics at set-up.
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
