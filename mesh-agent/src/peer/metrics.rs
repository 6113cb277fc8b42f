//! What is counted of connections to other agents.

use prometheus_client::metrics::counter::Counter;

use crate::observe::Observe;

#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(super) connects: Counter,
    pub(crate) connects_ahead: Counter,
    pub(crate) channels: Counter,
}

impl Metrics {
    pub(crate) fn new(observe: &Observe) -> Self {
        let metrics = Self::default();
        let Self {
            connects,
            connects_ahead,
            channels,
        } = &metrics;
        observe.register(|registry| {
            registry.register(
                "mesh_agent_tunnel_connects",
                "Connections to other agents that a stream waited for",
                connects.clone(),
            );
            registry.register(
                "mesh_agent_tunnel_connects_ahead",
                "Connections to other agents made before a stream asked",
                connects_ahead.clone(),
            );
            registry.register(
                "mesh_agent_tunnel_channels",
                "Streams that began on a connection which they share with others",
                channels.clone(),
            );
        });
        metrics
    }
}
