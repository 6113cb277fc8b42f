//! What objects have to do with addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use smallvec::SmallVec;

use super::id::ObjectId;
use crate::discovery::kinds::{EndpointSlice, KindId, Part, ServiceSpec};
use crate::discovery::objects::{Kind, Object};
use crate::model::{Name, ServiceKey, WorkloadKey};

type Map<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

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

/// In order; a pod's address is its own and that of an endpoint.
type Claims = SmallVec<[Claim; 2]>;

#[derive(Debug, Default)]
pub(super) struct Addresses(Map<IpAddr, Claims>);

impl Addresses {
    pub(super) fn add(&mut self, ip: IpAddr, what: Use, id: &ObjectId) {
        let claim = Claim::of(what, id);
        let claims = self.0.entry(ip).or_default();
        if let Err(at) = claims.binary_search(&claim) {
            claims.insert(at, claim);
        }
    }

    pub(super) fn remove(&mut self, ip: IpAddr, what: Use, id: &ObjectId) {
        let Some(claims) = self.0.get_mut(&ip) else {
            return;
        };
        if let Ok(at) = claims.binary_search(&Claim::of(what, id)) {
            claims.remove(at);
        }
        if claims.is_empty() {
            self.0.remove(&ip);
        }
    }

    fn of(&self, ip: IpAddr) -> &[Claim] {
        self.0.get(&ip).map_or(&[], |claims| claims)
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
