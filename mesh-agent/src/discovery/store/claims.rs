//! What objects have to do with addresses.

use std::collections::BTreeSet;
use std::collections::hash_map::{Entry, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::{SmallVec, smallvec};

use super::id::ObjectId;
use crate::discovery::kinds::{EndpointSlice, KindId, Part, ServiceSpec};
use crate::discovery::objects::{Kind, Object};
use crate::model::{Name, ServiceKey, WorkloadKey};

type Map<K> = HashMap<K, Claims, foldhash::fast::RandomState>;

/// What an object has to do with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    /// It is the Pod's own.
    Pod,
    /// A Service's, with all ports.
    Vip,
    /// A Service's, for one of its ports.
    External(u16),
    /// The Pod has it from its node.
    Node,
    /// It is an endpoint of the slice.
    Endpoint,
    /// An object of this kind says that it has it, and does not get it.
    LeftOut(KindId),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    what: Use,
    namespace: Name,
    name: Name,
}

/// In order. Each pod of the cluster has one entry, and a table has up to twice the room
/// that it needs, so one claim is kept small: several are elsewhere. A pod's address is its
/// own and that of an endpoint, where it is of a Service.
#[derive(Debug)]
enum Claims {
    One(Claim),
    /// Two at least.
    More(Box<SmallVec<[Claim; 2]>>),
}

impl Claims {
    fn all(&self) -> &[Claim] {
        match self {
            Self::One(claim) => std::slice::from_ref(claim),
            Self::More(claims) => claims,
        }
    }

    fn add(&mut self, claim: Claim) {
        let Err(at) = self.all().binary_search(&claim) else {
            return;
        };
        match self {
            Self::One(one) => {
                let mut both = smallvec![one.clone()];
                both.insert(at, claim);
                *self = Self::More(Box::new(both));
            }
            Self::More(claims) => claims.insert(at, claim),
        }
    }

    /// False where none is left.
    fn remove(&mut self, claim: &Claim) -> bool {
        match self {
            Self::One(one) => return one != claim,
            Self::More(claims) => claims.retain(|one| one != claim),
        }
        if let [last] = self.all() {
            *self = Self::One(last.clone());
        }
        true
    }
}

/// Each family has its own: a key that may be of either is as large as an IPv6 address.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    v4: Map<Ipv4Addr>,
    v6: Map<Ipv6Addr>,
}

fn add<K: Eq + Hash>(all: &mut Map<K>, ip: K, claim: Claim) {
    match all.entry(ip) {
        Entry::Occupied(mut claims) => claims.get_mut().add(claim),
        Entry::Vacant(none) => {
            none.insert(Claims::One(claim));
        }
    }
}

fn remove<K: Eq + Hash>(all: &mut Map<K>, ip: &K, claim: &Claim) {
    let is_last = all.get_mut(ip).is_some_and(|claims| !claims.remove(claim));
    if is_last {
        all.remove(ip);
    }
}

impl Addresses {
    pub(super) fn add(&mut self, ip: IpAddr, what: Use, id: &ObjectId) {
        let claim = Claim::of(what, id);
        match ip {
            IpAddr::V4(ip) => add(&mut self.v4, ip, claim),
            IpAddr::V6(ip) => add(&mut self.v6, ip, claim),
        }
    }

    pub(super) fn remove(&mut self, ip: IpAddr, what: Use, id: &ObjectId) {
        let claim = Claim::of(what, id);
        match ip {
            IpAddr::V4(ip) => remove(&mut self.v4, &ip, &claim),
            IpAddr::V6(ip) => remove(&mut self.v6, &ip, &claim),
        }
    }

    fn of(&self, ip: IpAddr) -> &[Claim] {
        let claims = match ip {
            IpAddr::V4(ip) => self.v4.get(&ip),
            IpAddr::V6(ip) => self.v6.get(&ip),
        };
        claims.map_or(&[], Claims::all)
    }

    pub(super) fn pods(&self, ip: IpAddr) -> impl Iterator<Item = WorkloadKey> {
        let pods = self.of(ip).iter().filter(|claim| claim.what == Use::Pod);
        pods.map(|claim| WorkloadKey {
            namespace: claim.namespace.clone(),
            name: claim.name.clone(),
        })
    }

    /// Services that have it, or say so.
    pub(super) fn services(&self, ip: IpAddr) -> impl Iterator<Item = ServiceKey> {
        let of_services = |claim: &&Claim| matches!(claim.what, Use::Vip | Use::External(_));
        self.of(ip)
            .iter()
            .filter(of_services)
            .map(Claim::service_key)
    }

    /// Slices of which it is an endpoint.
    pub(super) fn slices(&self, ip: IpAddr) -> impl Iterator<Item = ObjectId> {
        let slices = self
            .of(ip)
            .iter()
            .filter(|claim| claim.what == Use::Endpoint);
        slices.map(|claim| ObjectId {
            kind: KindId::EndpointSlice,
            namespace: claim.namespace.clone(),
            name: claim.name.clone(),
        })
    }

    /// The first Service by name that uses it so.
    pub(super) fn first(&self, ip: IpAddr, what: Use) -> Option<ServiceKey> {
        let mut claims = self.of(ip).iter();
        let first = claims.find(|claim| claim.what == what)?;
        Some(first.service_key())
    }

    pub(super) fn is_nodes(&self, ip: IpAddr) -> bool {
        let mut claims = self.of(ip).iter();
        claims.any(|claim| claim.what == Use::Node)
    }

    pub(super) fn is_left_out(&self, ip: IpAddr) -> bool {
        let mut claims = self.of(ip).iter();
        claims.any(|claim| matches!(claim.what, Use::LeftOut(_)))
    }
}

impl Claim {
    fn of(what: Use, id: &ObjectId) -> Self {
        Self {
            what,
            namespace: id.namespace.clone(),
            name: id.name.clone(),
        }
    }

    fn service_key(&self) -> ServiceKey {
        ServiceKey {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

/// What the object says of addresses by itself; that of pods follows from what
/// is made of them.
pub(super) fn uses(object: &Object) -> Vec<(IpAddr, Use)> {
    match &object.kind {
        Kind::Service(spec) if is_usable(object, spec) => {
            let vips = spec.vips.iter().map(|ip| (*ip, Use::Vip));
            let externals = spec.external_ips.iter().flat_map(|ip| {
                let ports = spec.ports.iter();
                ports.map(|port| (*ip, Use::External(port.port)))
            });
            vips.chain(externals).collect()
        }
        Kind::EndpointSlice(slice) => endpoints(slice).map(|ip| (ip, Use::Endpoint)).collect(),
        Kind::Pod(pod) if pod.host_network && !pod.is_over() => {
            pod.ips.iter().map(|ip| (*ip, Use::Node)).collect()
        }
        _ => Vec::new(),
    }
}

fn endpoints(slice: &EndpointSlice) -> impl Iterator<Item = IpAddr> {
    slice.endpoints.iter().flat_map(|e| &e.addresses).copied()
}

/// Ports of nodes that lead to the Service.
pub(super) fn node_ports(object: &Object) -> impl Iterator<Item = u16> {
    let spec = match &object.kind {
        Kind::Service(spec) if is_usable(object, spec) => Some(spec),
        _ => None,
    };
    let ports = spec.into_iter().flat_map(|spec| &spec.ports);
    ports.filter_map(|port| port.node_port)
}

/// Of the others nobody knows which pods are behind them, neither here nor for
/// policies.
pub(super) fn is_usable(object: &Object, spec: &ServiceSpec) -> bool {
    !spec.is_external_name && !object.unread.contains(Part::Selector)
}

/// Addresses of a Service that it does not get.
pub(super) fn left_out(object: &Object) -> BTreeSet<IpAddr> {
    let mut left_out = BTreeSet::new();
    if let Kind::Service(spec) = &object.kind {
        let is_usable = is_usable(object, spec);
        if !is_usable {
            left_out.extend(&spec.vips);
        }
        if !is_usable || object.unread.contains(Part::Ports) {
            left_out.extend(&spec.external_ips);
        }
    }
    left_out
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_claim_is_small() {
        assert_eq!(size_of::<(Ipv4Addr, Claims)>(), 32);
    }

    proptest! {
        #[test]
        fn claims_are_in_order_and_those_that_were_added_and_not_taken(
            ops in proptest::collection::vec((any::<bool>(), 0_u8..4, 0_u8..4, 0_u8..3), 0..100),
        ) {
            let (mut addresses, mut plain) = (Addresses::default(), BTreeMap::<_, BTreeSet<_>>::new());
            let ips = ["10.0.0.1", "10.0.0.2", "::ffff:10.0.0.1", "fd00::1"];
            let ips = ips.map(|ip| ip.parse::<IpAddr>().expect("address"));
            let uses = [Use::Pod, Use::External(80), Use::Endpoint, Use::LeftOut(KindId::Pod)];
            for (adds, ip, what, name) in ops {
                let (ip, what) = (ips[usize::from(ip)], uses[usize::from(what)]);
                let key = WorkloadKey::new("shop", name.to_string());
                let id = ObjectId::pod(&key);
                let claims = plain.entry(ip).or_default();
                match adds {
                    true => { claims.insert(Claim::of(what, &id)); addresses.add(ip, what, &id) }
                    false => { claims.remove(&Claim::of(what, &id)); addresses.remove(ip, what, &id) }
                }
                prop_assert!(addresses.of(ip).iter().eq(claims.iter()));
            }
            let has_any = |ip: &&IpAddr| !plain.get(*ip).is_none_or(BTreeSet::is_empty);
            prop_assert_eq!(addresses.v4.len() + addresses.v6.len(), ips.iter().filter(has_any).count());
        }
    }
}
