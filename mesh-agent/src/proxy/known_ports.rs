//! Which ports of pods are for requests of HTTP and nothing else, as that is remembered.

use std::collections::HashMap;

use crate::model::{Workload, WorkloadKey};
use crate::plan::InForce;

/// Ports of pods that are remembered: anybody may ask for any.
const MAX_PORTS: usize = 4_096;

type Ports = HashMap<(WorkloadKey, u16), bool, foldhash::fast::RandomState>;

/// As one configuration has it.
#[derive(Default)]
pub(super) struct KnownPorts {
    generation: u64,
    ports: Ports,
}

impl KnownPorts {
    pub(super) fn is_for_requests(&mut self, now: &InForce, to: (&Workload, u16)) -> bool {
        let generation = now.snapshot.generation;
        if self.generation != generation || self.ports.len() >= MAX_PORTS {
            self.ports.clear();
            self.generation = generation;
        }
        let (workload, port) = to;
        let known = self.ports.entry((workload.key.clone(), port));
        *known.or_insert_with(|| now.is_for_requests(to))
    }
}
