//! Which ports of pods are for requests of HTTP and nothing else, by the Services that
//! lead there: what a caller claims of its way is not asked.

use std::collections::HashMap;
use std::sync::Arc;

use crate::detect::{self, Expected};
use crate::model::traffic::counts_requests;
use crate::model::{Service, Workload, WorkloadKey};
use crate::plan::InForce;
use crate::policy;

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
    /// It is declared so, a limit of requests holds there, or the application is told who
    /// calls: what passed as bytes could say that itself.
    pub(super) fn is_for_requests(&mut self, now: &InForce, to: (&Workload, u16)) -> bool {
        let generation = now.snapshot.generation;
        if self.generation != generation || self.ports.len() >= MAX_PORTS {
            self.ports.clear();
            self.generation = generation;
        }
        let (workload, port) = to;
        let known = self.ports.entry((workload.key.clone(), port));
        *known.or_insert_with(|| is_for_requests(now, to))
    }
}

fn is_for_requests(now: &InForce, (workload, own): (&Workload, u16)) -> bool {
    let is_unreadable = now.snapshot.unreadable_pods.contains(&workload.key);
    let is_told = workload.on_node.forwards_client_cert;
    let mut is_led_to = false;
    let mut says_so = |service: &Arc<Service>| {
        let leading = policy::leading(service, workload, own, is_unreadable);
        let mut ports = leading.iter().filter_map(|port| service.port(*port));
        ports.any(|port| {
            is_led_to = true;
            let is_asked = is_told || counts_requests(&service.traffic(port).rate_limits);
            let expected = detect::expected(port.protocol, [port.port, own], is_asked);
            expected == Some(Expected::Requests)
        })
    };
    let services = &now.snapshot.services;
    let mut near = services.in_namespace(&workload.key.namespace);
    // One of another namespace can lead here by its endpoints: its limits hold as well.
    let is_said = near.any(&mut says_so) || now.rates.services().any(&mut says_so);
    // What no Service speaks of is not declared to be anything else.
    is_said || (is_told && !is_led_to)
}
