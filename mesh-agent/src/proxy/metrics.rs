//! What the workers count beside connections.

use prometheus_client::metrics::counter::Counter;

use crate::observe::Observe;

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(super) connects: Counter,
    pub(super) connects_ahead: Counter,
    pub(super) replays: Counter,
}

impl Metrics {
    pub(crate) fn new(observe: &Observe) -> Self {
        let metrics = Self::default();
        observe.register(|registry| {
            let mut register = |name, help, counter: &Counter| {
                registry.register(name, help, counter.clone());
            };
            register(
                "mesh_agent_tunnel_connects",
                "Connections to other agents that a stream waited for",
                &metrics.connects,
            );
            register(
                "mesh_agent_tunnel_connects_ahead",
                "Connections to other agents made before a stream asked",
                &metrics.connects_ahead,
            );
            register(
                "mesh_agent_tunnel_replays",
                "Streams that the other agent did not take, begun again",
                &metrics.replays,
            );
        });
        metrics
    }
}
