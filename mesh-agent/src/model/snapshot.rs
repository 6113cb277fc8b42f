//! One consistent view of the configuration.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::policy::{AuthorizationPolicy, MeshSettings, PeerAuthentication};
use super::{Service, ServiceKey, Workload, WorkloadKey};

/// For how long the address of a pod that left the mesh is nobody's: who has it
/// next may be in the mesh already, and this node the last one to hear of it.
const DEPARTED: Duration = Duration::from_secs(60);

/// Immutable; swapped whole. A connection pins one for its life.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts up by one with each accepted change; 0 is "nothing loaded yet".
    pub generation: u64,
    pub workloads: BTreeMap<WorkloadKey, Arc<Workload>>,
    pub by_ip: HashMap<IpAddr, Arc<Workload>, foldhash::fast::RandomState>,
    /// Addresses that are in the mesh, and of no workload: since when, where a
    /// pod left; without a time where several pods claim them.
    pub withheld: HashMap<IpAddr, Option<Instant>, foldhash::fast::RandomState>,
    pub services: BTreeMap<ServiceKey, Arc<Service>>,
    pub by_vip: HashMap<IpAddr, Arc<Service>, foldhash::fast::RandomState>,
    pub settings: MeshSettings,
    /// In the order of namespace and name.
    pub policies: Vec<AuthorizationPolicy>,
    pub peer_authentications: Vec<PeerAuthentication>,
}

impl Snapshot {
    /// What it is made of: the indexes follow from these objects, the generation
    /// and what was withheld are this node's own.
    pub fn content(&self) -> impl PartialEq + fmt::Debug {
        (
            &self.workloads,
            &self.services,
            &self.settings,
            &self.policies,
            &self.peer_authentications,
        )
    }

    /// Equal but for the generation.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        self.content() == other.content()
    }

    /// Addresses that a mesh pod has left since `before` are withheld for a while.
    pub fn withhold_departed(&mut self, before: &Self, now: Instant) {
        let enrolled = before.by_ip.iter().filter(|(_, w)| w.is_enrolled());
        let left = enrolled.map(|(ip, _)| (*ip, now));
        let earlier = before.withheld.iter();
        let earlier = earlier.map(|(ip, since)| (*ip, since.unwrap_or(now)));
        for (ip, since) in left.chain(earlier) {
            let over = now.saturating_duration_since(since) >= DEPARTED;
            if !over && !self.by_ip.contains_key(&ip) {
                self.withheld.entry(ip).or_insert(Some(since));
            }
        }
    }

    /// Plaintext must not go there: it may be a mesh pod's.
    #[must_use]
    pub fn withholds(&self, ip: IpAddr, now: Instant) -> bool {
        self.withheld.get(&ip).is_some_and(|since| {
            since.is_none_or(|since| now.saturating_duration_since(since) < DEPARTED)
        })
    }

    /// Enrolled workloads of `node`, in key order.
    pub fn enrolled_on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Arc<Workload>> {
        self.workloads
            .values()
            .filter(move |w| w.node == node && w.is_enrolled())
    }
}
