//! What the reconciler counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::observe::Observe;

#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) enrol: Histogram,
    pub(super) reattached: Counter,
}

impl Metrics {
    pub(super) fn new(observe: &Observe) -> Self {
        let metrics = Self {
            enrol: Histogram::new(exponential_buckets(0.000_125, 2.0, 12)),
            reattached: Counter::default(),
        };
        let Self { enrol, reattached } = &metrics;
        observe.register(|registry| {
            registry.register(
                "mesh_agent_enrol_seconds",
                "Time to enrol a pod, in seconds",
                enrol.clone(),
            );
            registry.register(
                "mesh_agent_reattached",
                "Programs, pins, rules and routes that were taken away and put back",
                reattached.clone(),
            );
        });
        metrics
    }
}
