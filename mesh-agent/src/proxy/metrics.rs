//! What the workers count beside connections.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use prometheus_client::registry::Registry;

use super::places::Full;
use crate::balance::{Cause, Change};
use crate::io;

use crate::observe::Observe;

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(super) replays: Counter,
    pub(super) untaken: Counter,
    pub(super) places: Gauge,
    over_share: Family<[(&'static str, &'static str); 1], Counter>,
    copies: Family<[(&'static str, &'static str); 1], Counter>,
    /// The series of it.
    copied: [Counter; CopyEnd::ALL.len()],
    pub(super) copies_active: Gauge,
    held_bytes: Gauge,
    pub(super) held_limit: Gauge,
    ejections: Family<[(&'static str, &'static str); 1], Counter>,
    probes: Family<[(&'static str, &'static str); 1], Counter>,
    ejected: Gauge,
    pub(super) retries: Counter,
    pub(super) over_budget: Counter,
    faults: Family<[(&'static str, &'static str); 1], Counter>,
}

/// A fault that a TrafficPolicy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Injected {
    Delay,
    Abort,
}

impl Metrics {
    pub(crate) fn new(observe: &Observe) -> Self {
        let mut metrics = Self::default();
        // Each series is there from the start.
        for full in [Full::Node, Full::Pod, Full::Source] {
            let _zero = metrics.over_share.get_or_create(&share(full));
        }
        for cause in [Cause::InARow, Cause::SuccessRate] {
            let _zero = metrics.ejections.get_or_create(&[("cause", cause.label())]);
        }
        for result in ["success", "failure"] {
            let _zero = metrics.probes.get_or_create(&[("result", result)]);
        }
        for kind in [Injected::Delay, Injected::Abort] {
            let _zero = metrics.faults.get_or_create(&kind_of(kind));
        }
        observe.register(|registry| metrics.register(registry));
        metrics.copied = CopyEnd::ALL.map(|end| {
            let of = [("copy", end.name())];
            metrics.copies.get_or_create_owned(&of)
        });
        observe.register(|registry| {
            registry.register(
                "mesh_agent_connections_limit",
                "Most connections that are carried at once; a pod or a source may have as many as are free",
                metrics.places.clone(),
            );
            registry.register(
                "mesh_agent_connections_over_share",
                "Connections refused because the node, their pod or their source had its share",
                metrics.over_share.clone(),
            );
            registry.register(
                "mesh_agent_buffer_bytes",
                "What one side sent and the other did not take, in bytes",
                metrics.held_bytes.clone(),
            );
            registry.register(
                "mesh_agent_buffer_limit_bytes",
                "Limit of that, in bytes; towards it, connections read less at a time",
                metrics.held_limit.clone(),
            );
            registry.register(
                "mesh_agent_mirrored_requests",
                "Copies of requests that routes sent elsewhere too, by what became of them",
                metrics.copies.clone(),
            );
            registry.register(
                "mesh_agent_mirrored_requests_active",
                "Copies of requests that are under way, or wait for the end of their request",
                metrics.copies_active.clone(),
            );
            registry.register(
                "mesh_agent_tunnel_replays",
                "Streams that the other agent did not take, begun again",
                metrics.replays.clone(),
            );
            registry.register(
                "mesh_agent_http2_replays",
                "Requests that a server provably did not take (GOAWAY), sent to a fresh connection",
                metrics.untaken.clone(),
            );
        });
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "mesh_agent_outlier_ejections",
            "Times that an endpoint was left out because it failed, by the rule that said so",
            self.ejections.clone(),
        );
        registry.register(
            "mesh_agent_outlier_probes",
            "Requests and connections that showed whether an ejected endpoint works again",
            self.probes.clone(),
        );
        registry.register(
            "mesh_agent_endpoints_ejected",
            "Endpoints whose breaker is open now",
            self.ejected.clone(),
        );
        registry.register(
            "mesh_agent_retries",
            "Requests and connections that were tried at another endpoint",
            self.retries.clone(),
        );
        registry.register(
            "mesh_agent_retry_budget_exhausted",
            "Retries that were not made because there had been too many for the requests",
            self.over_budget.clone(),
        );
        registry.register(
            "mesh_agent_faults_injected",
            "Faults injected into requests of pods of this node because a TrafficPolicy asks for them, by kind",
            self.faults.clone(),
        );
    }

    pub(super) fn injected(&self, kind: Injected) {
        self.faults.get_or_create(&kind_of(kind)).inc();
    }

    /// A breaker has changed.
    pub(super) fn breaker(&self, change: Change) {
        match change {
            Change::Ejected { cause, .. } => {
                let by = [("cause", cause.label())];
                self.ejections.get_or_create(&by).inc();
            }
            Change::StillFailing { .. } => self.probe("failure"),
            Change::Returned => self.probe("success"),
        }
    }

    fn probe(&self, result: &'static str) {
        self.probes.get_or_create(&[("result", result)]).inc();
    }

    pub(super) fn over_share(&self, full: Full) {
        self.over_share.get_or_create(&share(full)).inc();
    }

    pub(super) fn copied(&self, end: CopyEnd) {
        self.copied[end as usize].inc();
    }

    /// Brings what is held up to date.
    pub(super) fn refresh(&self, ejected: usize) {
        self.ejected.set(i64::try_from(ejected).unwrap_or(i64::MAX));
        let held = i64::try_from(io::held()).unwrap_or(i64::MAX);
        self.held_bytes.set(held);
    }
}

fn kind_of(injected: Injected) -> [(&'static str, &'static str); 1] {
    let kind = match injected {
        Injected::Delay => "delay",
        Injected::Abort => "abort",
    };
    [("kind", kind)]
}

fn share(full: Full) -> [(&'static str, &'static str); 1] {
    let of = match full {
        Full::Node => "node",
        Full::Pod => "pod",
        Full::Source => "source",
    };
    [("share", of)]
}

/// What became of the copy of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyEnd {
    Answered,
    /// There is no leave, or no endpoint.
    Refused,
    /// Too many were under way.
    Full,
    TooLong,
    Failed,
    TimedOut,
    /// The request itself did not go to its end, or its pod went.
    Abandoned,
}

impl CopyEnd {
    const ALL: [Self; 7] = [
        Self::Answered,
        Self::Refused,
        Self::Full,
        Self::TooLong,
        Self::Failed,
        Self::TimedOut,
        Self::Abandoned,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Full => "full",
            Self::TooLong => "too_long",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Abandoned => "abandoned",
        }
    }
}
