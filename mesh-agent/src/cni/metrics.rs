//! What the plugin's other side counts.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::observe::Observe;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Outcome {
    #[expect(non_camel_case_types, reason = "as it stands on the page")]
    enrolled,
    #[expect(non_camel_case_types, reason = "as it stands on the page")]
    outside,
    #[expect(non_camel_case_types, reason = "as it stands on the page")]
    refused,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Labels {
    pub(super) outcome: Outcome,
}

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    adds: Family<Labels, Counter>,
    seconds: Histogram,
    writes: Counter,
}

impl Metrics {
    pub(super) fn answered(&self, outcome: Outcome, seconds: f64) {
        self.adds.get_or_create(&Labels { outcome }).inc();
        self.seconds.observe(seconds);
    }

    pub(super) fn wrote(&self) {
        self.writes.inc();
    }
}

/// Adds the metrics of what is here.
pub(crate) fn register(observe: &Observe) -> Metrics {
    let metrics = Metrics {
        adds: Family::default(),
        seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
        writes: Counter::default(),
    };
    for outcome in [Outcome::enrolled, Outcome::outside, Outcome::refused] {
        // From the start there, at nought.
        drop(metrics.adds.get_or_create(&Labels { outcome }));
    }
    let Metrics {
        adds,
        seconds,
        writes,
    } = &metrics;
    observe.register(|registry| {
        registry.register(
            "mesh_agent_cni_adds",
            "New sandboxes of pods that the CNI plugin asked about, by what it was answered",
            adds.clone(),
        );
        registry.register(
            "mesh_agent_cni_add_seconds",
            "Time from the CNI plugin's question to the answer, in seconds",
            seconds.clone(),
        );
        registry.register(
            "mesh_agent_cni_chain_writes",
            "Times that the plugin was put into the node's CNI configuration: one for each start of a network that is written anew",
            writes.clone(),
        );
    });
    metrics
}
