//! The node as a whole on the metrics page: is it ready, its pods, its
//! configuration, and what its kernel programs counted.

use std::fmt;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::labels::{Event, PodState};

/// How many tuples the kernel has is no count of events.
pub(crate) const LIVE_TUPLES: &str = "live_tuples";

/// As `status` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeState {
    pub(crate) ready: bool,
    /// Problems that `status` names.
    pub(crate) problems: usize,
    pub(crate) pods_enrolled: usize,
    /// Wanted, and not enrolled.
    pub(crate) pods_failed: usize,
    pub(crate) generation: u64,
}

/// Of the last scrape.
#[derive(Debug, Default)]
pub(super) struct Node(Mutex<(NodeState, Vec<(&'static str, u64)>)>);

impl Node {
    pub(super) fn set(&self, state: NodeState, kernel: &[(&'static str, u64)]) {
        *self.0.lock() = (state, kernel.to_vec());
    }
}

impl Collector for Node {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (state, kernel) = self.0.lock().clone();
        let NodeState {
            ready,
            problems,
            pods_enrolled,
            pods_failed,
            generation,
        } = state;
        let tuples = kernel.iter().find(|(name, _)| *name == LIVE_TUPLES);
        let gauges = [
            (
                "mesh_agent_ready",
                "1 when every wanted pod was tried and the node can be used, else 0",
                u64::from(ready),
            ),
            (
                "mesh_agent_problems",
                "Problems that `status` names: mistakes of the configuration, certificates, pods",
                problems as u64,
            ),
            (
                "mesh_agent_configuration_generation",
                "Changes of the configuration that this process has taken",
                generation,
            ),
            (
                "mesh_agent_kernel_tuples",
                "Connections that the kernel programs remember",
                tuples.map_or(0, |(_, count)| *count),
            ),
        ];
        for (name, help, value) in gauges {
            encoder
                .encode_descriptor(name, help, None, MetricType::Gauge)?
                .encode_gauge(&value)?;
        }
        let help = "Pods of this node that are wanted in the mesh, by whether they are enrolled";
        let mut pods =
            encoder.encode_descriptor("mesh_agent_pods", help, None, MetricType::Gauge)?;
        let states = [("enrolled", pods_enrolled), ("failed", pods_failed)];
        for (state, count) in states {
            let labels = PodState { state };
            pods.encode_family(&labels)?.encode_gauge(&(count as u64))?;
        }
        let help =
            "What the kernel programs counted since they were first loaded, also by earlier agents";
        let counter = MetricType::Counter;
        let mut events =
            encoder.encode_descriptor("mesh_agent_kernel_events", help, None, counter)?;
        for (event, count) in kernel.iter().filter(|(name, _)| *name != LIVE_TUPLES) {
            let labels = Event { event };
            let mut event = events.encode_family(&labels)?;
            event.encode_counter::<NoLabelSet, u64, u64>(count, None)?;
        }
        Ok(())
    }
}
