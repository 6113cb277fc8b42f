//! One consistent view of the configuration.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::policy::{AuthorizationPolicy, MeshSettings, PeerAuthentication};
use super::{RefuseReason, Service, ServiceKey, Workload, WorkloadKey};

/// For how long the address of a pod that left the mesh is nobody's: who has it
/// next may be in the mesh already, and this node the last one to hear of it.
const DEPARTED: Duration = Duration::from_secs(60);

/// Why no plaintext goes to an address though no workload of the mesh is known
/// to have it: what is not known never means "outside the mesh".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// A pod of the mesh, or a Service, left it then; for a while it is nobody's.
    Departed(Instant),
    /// Several pods claim it, and one of them is in the mesh.
    Contested,
    /// What the configuration says of whose it is cannot be understood.
    Unreadable,
    /// An EndpointSlice gives it to a Pod that is not known (yet), or that
    /// does not have it.
    UnknownPod,
}

impl Withheld {
    fn is_over(self, now: Instant) -> bool {
        match self {
            Self::Departed(since) => now.saturating_duration_since(since) >= DEPARTED,
            Self::Contested | Self::Unreadable | Self::UnknownPod => false,
        }
    }
}

/// Immutable; swapped whole. A connection pins one for its life.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts up by one with each accepted change; 0 is "nothing loaded yet".
    pub generation: u64,
    pub workloads: BTreeMap<WorkloadKey, Arc<Workload>>,
    pub by_ip: HashMap<IpAddr, Arc<Workload>, foldhash::fast::RandomState>,
    /// Addresses of pods and Services that no plaintext goes to. The one place
    /// that says so; an address that `by_ip` gives to a workload of the mesh is
    /// that workload's all the same.
    pub withheld: HashMap<IpAddr, Withheld, foldhash::fast::RandomState>,
    /// Pods that may be in the mesh, on any node and with any address, for what
    /// is written of them cannot be understood in full. What is known of them
    /// is in `workloads`. They are never released.
    pub unreadable_pods: BTreeSet<WorkloadKey>,
    /// Something that may name further pods cannot be read at all: whatever the
    /// kernel holds enrolled is not known to be unwanted.
    pub hides_pods: bool,
    pub services: BTreeMap<ServiceKey, Arc<Service>>,
    pub by_vip: HashMap<IpAddr, Arc<Service>, foldhash::fast::RandomState>,
    /// Addresses that lead to a Service from outside, with its ports; the other
    /// ports are somebody else's (a node's).
    pub by_external: HashMap<(IpAddr, u16), Arc<Service>, foldhash::fast::RandomState>,
    pub settings: MeshSettings,
    /// In the order of namespace and name.
    pub policies: Vec<AuthorizationPolicy>,
    pub peer_authentications: Vec<PeerAuthentication>,
}

impl Snapshot {
    /// What it is made of: the indexes follow from these, the generation and
    /// what time alone changes are this node's own.
    pub fn content(&self) -> impl PartialEq + fmt::Debug {
        let lasting = self.withheld.iter();
        let lasting = lasting.filter(|(_, why)| !matches!(why, Withheld::Departed(_)));
        let external = self.by_external.iter();
        (
            (&self.workloads, &self.unreadable_pods, self.hides_pods),
            lasting.collect::<BTreeMap<_, _>>(),
            &self.services,
            external
                .map(|(at, s)| (at, &s.key))
                .collect::<BTreeMap<_, _>>(),
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

    /// Addresses that a mesh pod or a Service has left since `before` are
    /// withheld for a while.
    pub fn withhold_departed(&mut self, before: &Self, now: Instant) {
        let enrolled = before.by_ip.iter().filter(|(_, w)| w.is_enrolled());
        let left = enrolled.map(|(ip, _)| (*ip, now));
        let vips = before.by_vip.keys().map(|ip| (*ip, now));
        let earlier = before.withheld.iter().map(|(ip, why)| match why {
            Withheld::Departed(since) => (*ip, *since),
            Withheld::Contested | Withheld::Unreadable | Withheld::UnknownPod => (*ip, now),
        });
        for (ip, since) in left.chain(vips).chain(earlier) {
            let why = Withheld::Departed(since);
            let known = self.by_ip.contains_key(&ip) || self.by_vip.contains_key(&ip);
            if !why.is_over(now) && !known {
                self.withheld.entry(ip).or_insert(why);
            }
        }
    }

    /// Why plaintext must not go there: it may be a mesh pod's.
    #[must_use]
    pub fn withholds(&self, ip: IpAddr, now: Instant) -> Option<RefuseReason> {
        let why = self.withheld.get(&ip).filter(|why| !why.is_over(now))?;
        Some(match why {
            Withheld::Departed(_) | Withheld::Contested => RefuseReason::WrongWorkload,
            Withheld::Unreadable => RefuseReason::Unreadable,
            Withheld::UnknownPod => RefuseReason::UnknownPod,
        })
    }

    /// May there be pods that it does not tell of, or not all about?
    #[must_use]
    pub fn may_hide_pods(&self) -> bool {
        self.hides_pods || !self.unreadable_pods.is_empty()
    }

    /// Enrolled workloads of `node`, in key order.
    pub fn enrolled_on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Arc<Workload>> {
        self.workloads
            .values()
            .filter(move |w| w.node == node && w.is_enrolled())
    }
}
