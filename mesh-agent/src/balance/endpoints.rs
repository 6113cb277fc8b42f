//! Endpoints that may be picked, and by what they are known again.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::model::traffic::{BalanceBy, HashOn, Prefer, Traffic};
use crate::model::{Endpoint, Name, Service, ServicePort, Snapshot, Tier, WorkloadKey};

/// Who connects, and from where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client<'s> {
    /// What session affinity knows it by: the pod's `uid`.
    pub(crate) pod: &'s Name,
    pub(crate) node: &'s str,
    /// `None` where nobody says it: then no hint for zones is for it.
    pub(crate) zone: Option<&'s str>,
}

/// The endpoint with the most is the key's: another one that comes or goes changes
/// nothing for the rest. The same in each process.
pub(super) fn weight(key: u64, endpoint: &Endpoint) -> u64 {
    let mut hasher = foldhash::quality::FixedState::default().build_hasher();
    key.hash(&mut hasher);
    match &endpoint.workload {
        Some(pod) => (&pod.key, &pod.uid, endpoint.addr.port()).hash(&mut hasher),
        None => endpoint.addr.hash(&mut hasher),
    }
    hasher.finish()
}

/// By what a client knows the endpoint of its session.
pub(super) fn session_hash(endpoint: &Endpoint) -> u64 {
    weight(0, endpoint)
}

/// From where a Service's endpoints are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// From all nodes.
    Cluster,
    /// From the client's own (`internalTrafficPolicy: Local`).
    Node,
}

/// How near an endpoint is to the client, or meant for it; the nearest are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Distance {
    /// On its node, or a hint is for that.
    Node,
    /// In its zone, or a hint is for that.
    Zone,
    /// Anywhere.
    Far,
}

/// The endpoints of one port of a Service, of one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidates<'s> {
    pub(crate) service: &'s Arc<Service>,
    pub(crate) port: &'s ServicePort,
    pub(super) client: Client<'s>,
    pub(super) is_ipv4: bool,
    reach: Reach,
}

impl<'s> Candidates<'s> {
    /// Those of the family of `called`, the address that the client calls.
    #[must_use]
    pub(crate) fn new(
        (service, port): (&'s Arc<Service>, &'s ServicePort),
        (client, called): (Client<'s>, IpAddr),
        reach: Reach,
    ) -> Self {
        Self {
            service,
            port,
            client,
            is_ipv4: called.is_ipv4(),
            reach,
        }
    }

    /// What is said of how they are used.
    pub(crate) fn traffic(&self) -> &'s Arc<Traffic> {
        self.service.traffic(self.port)
    }

    pub(crate) fn hash_on(&self) -> Option<&'s HashOn> {
        match &self.traffic().load_balancer.by {
            BalanceBy::ConsistentHash(on) => Some(on),
            BalanceBy::PeakEwma
            | BalanceBy::LeastRequest
            | BalanceBy::RoundRobin
            | BalanceBy::Random => None,
        }
    }

    /// Which of the four kinds a worker's clients have.
    pub(super) fn kind(&self) -> usize {
        usize::from(self.is_ipv4) + 2 * usize::from(self.reach == Reach::Node)
    }

    /// Of the client, the same in each process.
    pub(super) fn client_hash(&self) -> u64 {
        foldhash::quality::FixedState::default().hash_one(self.client.pod)
    }

    /// Each of them, in the configuration's order: taking a look is no pick.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'s Endpoint> + use<'s> {
        let candidates = *self;
        let best = self.fitting().map(|(_, rank)| rank).min();
        let fitting = candidates.fitting();
        fitting
            .filter(move |(_, rank)| Some(*rank) == best)
            .map(|(endpoint, _)| endpoint)
    }

    /// Those that are as good, and farther: they are used where the nearest are not enough.
    pub(crate) fn farther(&self) -> impl Iterator<Item = &'s Endpoint> + use<'s> {
        let best = self.fitting().map(|(_, rank)| rank).min();
        let is_spare = move |(tier, distance)| {
            best.is_some_and(|(best, nearest)| tier == best && distance > nearest)
        };
        let fitting = self.fitting();
        fitting
            .filter(move |(_, rank)| is_spare(*rank))
            .map(|(endpoint, _)| endpoint)
    }

    pub(super) fn fitting(
        &self,
    ) -> impl Iterator<Item = (&'s Endpoint, (Tier, Distance))> + use<'s> {
        let candidates = *self;
        let all = candidates.port.endpoints.iter();
        all.filter_map(move |endpoint| {
            let rank = (candidates.fit(endpoint)?, candidates.distance(endpoint));
            Some((endpoint, rank))
        })
    }

    /// `internalTrafficPolicy: Local`.
    pub(super) fn keeps_to_node(&self) -> bool {
        self.reach == Reach::Node
    }

    /// None of them may be picked.
    pub(crate) fn is_empty(&self) -> bool {
        self.fitting().next().is_none()
    }

    /// Are there any, were it not for the node that they are on?
    pub(crate) fn has_others(&self) -> bool {
        let anywhere = Self {
            reach: Reach::Cluster,
            ..*self
        };
        anywhere.fitting().next().is_some()
    }

    /// How good it is; `None` where it may not be picked at all.
    pub(super) fn fit(&self, endpoint: &Endpoint) -> Option<Tier> {
        let is_of_family = endpoint.addr.ip().is_ipv4() == self.is_ipv4;
        let is_in_reach = self.reach == Reach::Cluster || self.is_on_node(endpoint);
        (is_of_family && is_in_reach).then_some(endpoint.tier)
    }

    /// As its TrafficPolicy has it, else as hints do.
    pub(super) fn distance(&self, endpoint: &Endpoint) -> Distance {
        if self.reach == Reach::Node {
            return Distance::Node;
        }
        match self.traffic().load_balancer.locality.prefer {
            Prefer::Hinted => self.hinted(endpoint),
            Prefer::Node if self.is_on_node(endpoint) => Distance::Node,
            Prefer::Node | Prefer::Zone if self.is_in_zone(endpoint) => Distance::Zone,
            Prefer::Node | Prefer::Zone | Prefer::Nothing => Distance::Far,
        }
    }

    fn is_on_node(&self, endpoint: &Endpoint) -> bool {
        let node = endpoint.node();
        node.is_some_and(|node| *node == *self.client.node)
    }

    fn is_in_zone(&self, endpoint: &Endpoint) -> bool {
        let place = endpoint.place.as_deref();
        let zone = place.and_then(|place| place.zone.as_deref());
        zone.is_some() && zone == self.client.zone
    }

    /// As kube-proxy takes hints: those for nodes first, either kind only where each
    /// ready endpoint has one.
    fn hinted(&self, endpoint: &Endpoint) -> Distance {
        let hints = self.port.hinted.of_family(self.is_ipv4);
        let place = endpoint.place.as_deref();
        let Some(place) = place.filter(|_| endpoint.tier == Tier::Ready) else {
            return Distance::Far;
        };
        let zone = self.client.zone;
        if hints.nodes && place.for_nodes.iter().any(|n| *n == *self.client.node) {
            Distance::Node
        } else if hints.zones && place.for_zones.iter().any(|z| zone == Some(z.as_str())) {
            Distance::Zone
        } else {
            Distance::Far
        }
    }
}

/// An endpoint is a port of a pod; one that no pod is behind goes by its address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Id {
    Pod {
        key: WorkloadKey,
        uid: String,
        port: u16,
    },
    Address(SocketAddr),
}

impl Id {
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        match &endpoint.workload {
            Some(pod) => Self::Pod {
                key: pod.key.clone(),
                uid: pod.uid.to_string(),
                port: endpoint.addr.port(),
            },
            None => Self::Address(endpoint.addr.get()),
        }
    }

    pub(super) fn is(&self, endpoint: &Endpoint) -> bool {
        match (self, &endpoint.workload) {
            (Self::Pod { key, uid, port }, Some(pod)) => {
                *port == endpoint.addr.port() && *key == pod.key && pod.uid == *uid
            }
            (Self::Address(at), None) => *at == endpoint.addr.get(),
            (Self::Pod { .. }, None) | (Self::Address(_), Some(_)) => false,
        }
    }

    /// Is there still that pod? An address alone tells nothing of who has it.
    pub(super) fn is_in(&self, snapshot: &Snapshot) -> bool {
        match self {
            Self::Pod { key, uid, .. } => {
                let pod = snapshot.workloads.get(key);
                pod.is_some_and(|pod| pod.uid == *uid)
            }
            Self::Address(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
