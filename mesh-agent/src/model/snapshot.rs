//! One consistent view of the configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::namespaced::Group;
use super::policy::{AuthorizationPolicy, MeshSettings, PeerAuthentication};
use super::route::{ReferenceGrant, Route};
use super::traffic_policy::TrafficPolicy;
use super::{
    ByIp, ByNamespace, Name, Namespaced, RefuseReason, Service, ServiceKey, Sharded, Workload,
    WorkloadKey,
};

/// For how long the address of a pod that left the mesh is nobody's: who has it
/// next may be in the mesh already, and this node the last one to hear of it.
const DEPARTED: Duration = Duration::from_secs(60);

/// Why no plaintext goes to an address though no workload of the mesh is known
/// to have it: what is not known never means "outside the mesh".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Withheld {
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
    #[must_use]
    pub(crate) fn is_over(self, now: Instant) -> bool {
        match self {
            Self::Departed(since) => now.saturating_duration_since(since) >= DEPARTED,
            Self::Contested | Self::Unreadable | Self::UnknownPod => false,
        }
    }
}

/// What one namespace has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    workloads: Option<Arc<Group<Workload>>>,
    services: Option<Arc<Group<Service>>>,
    policies: Option<Arc<[Arc<AuthorizationPolicy>]>>,
    peer_authentications: Option<Arc<[Arc<PeerAuthentication>]>>,
    routes: Option<Arc<[Arc<Route>]>>,
    grants: Option<Arc<[Arc<ReferenceGrant>]>>,
    traffic_policies: Option<Arc<[Arc<TrafficPolicy>]>>,
}

impl Part {
    /// The very same, not only equal.
    #[must_use]
    pub(crate) fn is_shared_with(&self, other: &Self) -> bool {
        fn one<T: ?Sized>(a: &Option<Arc<T>>, b: &Option<Arc<T>>) -> bool {
            match (a, b) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (None, None) => true,
                _ => false,
            }
        }
        let Self {
            workloads,
            services,
            policies,
            peer_authentications,
            routes,
            grants,
            traffic_policies,
        } = self;
        one(workloads, &other.workloads)
            && one(services, &other.services)
            && one(policies, &other.policies)
            && one(peer_authentications, &other.peer_authentications)
            && one(routes, &other.routes)
            && one(grants, &other.grants)
            && one(traffic_policies, &other.traffic_policies)
    }
}

/// Immutable; swapped whole. An exchange pins one for its life. A copy costs
/// next to nothing, and shares what it has in common with the original.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// Counts up by one with each accepted change; 0 is "nothing loaded yet".
    pub(crate) generation: u64,
    pub(crate) workloads: Namespaced<Workload>,
    pub(crate) by_ip: ByIp<Arc<Workload>>,
    /// Addresses of pods and Services that no plaintext goes to. The one place
    /// that says so; an address that `by_ip` gives to a workload of the mesh is
    /// that workload's all the same.
    pub(crate) withheld: Sharded<IpAddr, Withheld>,
    /// Pods that may be in the mesh, on any node and with any address, for what
    /// is written of them cannot be understood in full. What is known of them
    /// is in `workloads`. They are never released.
    pub(crate) unreadable_pods: Arc<BTreeSet<WorkloadKey>>,
    /// Something that may name further pods cannot be read at all: whatever the
    /// kernel holds enrolled is not known to be unwanted.
    pub(crate) hides_pods: bool,
    /// Some of it is what the cluster said before this agent ran: by now there may
    /// be pods that it does not tell of.
    pub(crate) is_dated: bool,
    /// Something cannot be read of which nothing is known at all: any address that
    /// is nobody else's may be a mesh pod's or a Service's.
    pub(crate) hides_addresses: bool,
    /// Namespaces that can be read, and whose labels enrol nobody.
    pub(crate) open_namespaces: Arc<BTreeSet<Name>>,
    pub(crate) services: Namespaced<Service>,
    pub(crate) by_vip: Sharded<IpAddr, Arc<Service>>,
    /// Addresses that lead to a Service from outside, with its ports; the other
    /// ports are somebody else's (a node's).
    pub(crate) by_external: Sharded<(IpAddr, u16), Arc<Service>>,
    /// Addresses of nodes, as the pods that share them say it.
    pub(crate) nodes: Sharded<IpAddr, ()>,
    /// Pods that are to be in the mesh and have their node's addresses, with the node:
    /// they are left alone.
    pub(crate) asked_on_host: Arc<BTreeMap<WorkloadKey, Name>>,
    /// By the port that leads to it on each node.
    pub(crate) by_node_port: Sharded<u16, Arc<Service>>,
    /// Of nodes, as the endpoints on them say it.
    pub(crate) zones: Sharded<Name, Name>,
    pub(crate) settings: MeshSettings,
    /// In the order of names.
    pub(crate) policies: ByNamespace<Arc<AuthorizationPolicy>>,
    pub(crate) peer_authentications: ByNamespace<Arc<PeerAuthentication>>,
    /// In the order of kinds and names; also those that say nothing to go by.
    pub(crate) routes: ByNamespace<Arc<Route>>,
    /// Whose routes may lead to Services of the namespace.
    pub(crate) grants: ByNamespace<Arc<ReferenceGrant>>,
    /// The routes that name a Service, there or not, as their parent.
    pub(crate) attached: Sharded<ServiceKey, Arc<[Arc<Route>]>>,
    /// In the order of kinds and names. What follows from them is told with each Service.
    pub(crate) traffic_policies: ByNamespace<Arc<TrafficPolicy>>,
}

impl Snapshot {
    /// The zone of a node; `told`: to its agent, which goes before what endpoints say.
    #[must_use]
    pub(crate) fn zone_of<'s>(&'s self, node: &str, told: Option<&'s str>) -> Option<&'s str> {
        told.or_else(|| self.zones.get(node).map(Name::as_str))
    }

    /// What it is made of beside what its namespaces have.
    pub(crate) fn common(&self) -> impl PartialEq + fmt::Debug {
        let Self {
            // Of each namespace: `part`.
            workloads: _,
            services: _,
            policies: _,
            peer_authentications: _,
            routes: _,
            grants: _,
            traffic_policies: _,
            // They follow from those.
            by_ip: _,
            by_vip: _,
            by_node_port: _,
            attached: _,
            // This node's own.
            generation: _,
            is_dated: _,
            withheld,
            unreadable_pods,
            hides_pods,
            hides_addresses,
            open_namespaces,
            by_external,
            nodes,
            asked_on_host,
            zones,
            settings,
        } = self;
        // What time alone changes is this node's own, too.
        let lasting = withheld.iter();
        let lasting = lasting.filter(|(_, why)| !matches!(why, Withheld::Departed(_)));
        (
            (unreadable_pods, (hides_pods, hides_addresses), settings),
            (open_namespaces, asked_on_host),
            zones.iter().collect::<BTreeMap<_, _>>(),
            nodes.iter().map(|(ip, ())| ip).collect::<BTreeSet<_>>(),
            lasting.collect::<BTreeMap<_, _>>(),
            by_external
                .iter()
                .map(|(at, s)| (at, &s.key))
                .collect::<BTreeMap<_, _>>(),
        )
    }

    /// All namespaces that have anything.
    #[must_use]
    pub(crate) fn namespaces(&self) -> BTreeSet<Name> {
        let Self {
            workloads,
            services,
            policies,
            peer_authentications,
            routes,
            grants,
            traffic_policies,
            // What is not in the order of namespaces.
            generation: _,
            by_ip: _,
            withheld: _,
            unreadable_pods: _,
            hides_pods: _,
            is_dated: _,
            hides_addresses: _,
            open_namespaces: _,
            by_vip: _,
            by_external: _,
            nodes: _,
            asked_on_host: _,
            by_node_port: _,
            zones: _,
            settings: _,
            attached: _,
        } = self;
        let objects = workloads.namespaces().chain(services.namespaces());
        let policies = policies.namespaces();
        let policies = policies.chain(peer_authentications.namespaces());
        let policies = policies.chain(traffic_policies.namespaces());
        let routes = routes.namespaces().chain(grants.namespaces());
        objects.chain(policies).chain(routes).cloned().collect()
    }

    /// What a namespace has.
    #[must_use]
    pub(crate) fn part(&self, namespace: &str) -> Part {
        Part {
            workloads: self.workloads.group(namespace).cloned(),
            services: self.services.group(namespace).cloned(),
            policies: self.policies.group(namespace).cloned(),
            peer_authentications: self.peer_authentications.group(namespace).cloned(),
            routes: self.routes.group(namespace).cloned(),
            grants: self.grants.group(namespace).cloned(),
            traffic_policies: self.traffic_policies.group(namespace).cloned(),
        }
    }

    /// Why plaintext must not go there: it may be a mesh pod's.
    #[must_use]
    pub(crate) fn withholds(&self, ip: IpAddr, now: Instant) -> Option<RefuseReason> {
        let Some(why) = self.withheld.get(&ip).filter(|why| !why.is_over(now)) else {
            let is_hidden = self.hides_addresses && !self.by_ip.contains_key(&ip);
            return is_hidden.then_some(RefuseReason::Unreadable);
        };
        Some(match why {
            Withheld::Departed(_) | Withheld::Contested => RefuseReason::WrongWorkload,
            Withheld::Unreadable => RefuseReason::Unreadable,
            Withheld::UnknownPod => RefuseReason::UnknownPod,
        })
    }

    /// May there be pods that it does not tell of, or not all about?
    #[must_use]
    pub(crate) fn may_hide_pods(&self) -> bool {
        self.hides_pods || !self.unreadable_pods.is_empty()
    }

    /// May what it does not tell of be wanted all the same? Then nothing that the
    /// kernel holds is let go for not being told of.
    #[must_use]
    pub(crate) fn may_lack_pods(&self) -> bool {
        self.is_dated || self.may_hide_pods()
    }

    /// Enrolled workloads of `node`, in key order.
    pub(crate) fn enrolled_on<'a>(
        &'a self,
        node: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Workload>> {
        self.workloads
            .values()
            .filter(move |w| w.node == node && w.is_enrolled())
    }
}
