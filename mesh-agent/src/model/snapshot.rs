//! One consistent view of the configuration.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::policy::{AuthorizationPolicy, MeshSettings, PeerAuthentication};
use super::{Service, ServiceKey, Workload, WorkloadKey};

/// Immutable; swapped whole. A connection pins one for its life.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts up by one with each accepted change; 0 is "nothing loaded yet".
    pub generation: u64,
    pub workloads: BTreeMap<WorkloadKey, Arc<Workload>>,
    pub by_ip: HashMap<IpAddr, Arc<Workload>, foldhash::fast::RandomState>,
    pub services: BTreeMap<ServiceKey, Arc<Service>>,
    pub by_vip: HashMap<IpAddr, Arc<Service>, foldhash::fast::RandomState>,
    pub settings: MeshSettings,
    /// In the order of namespace and name.
    pub policies: Vec<AuthorizationPolicy>,
    pub peer_authentications: Vec<PeerAuthentication>,
}

impl Snapshot {
    /// Equal but for the generation; the indexes follow from the objects.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        self.workloads == other.workloads
            && self.services == other.services
            && self.settings == other.settings
            && self.policies == other.policies
            && self.peer_authentications == other.peer_authentications
    }

    /// Enrolled workloads of `node`, in key order.
    pub fn enrolled_on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Arc<Workload>> {
        self.workloads
            .values()
            .filter(move |w| w.node == node && w.is_enrolled())
    }
}
