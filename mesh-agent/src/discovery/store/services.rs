//! Services and the endpoints behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::address::Owner;
use super::claims::{Use, is_usable};
use super::id::ObjectId;
use super::state::Store;
use super::zones::ZONE;
use crate::discovery::kinds::{
    Distribution, Endpoint as Given, EndpointPort, EndpointSlice, KindId, Part, Pod, PortRef,
    ServicePort, ServiceSpec,
};
use crate::discovery::objects::{Kind, Object};
use crate::discovery::{Code, Problem};
use crate::model::{
    AppProtocol, Endpoint, Hinted, Name, Place, Service, ServiceKey, ServicePort as ModelPort,
    TargetPort, Tier, UpstreamAddr, Workload,
};
use crate::traffic;

/// By address, so that each is there once.
#[derive(Default)]
struct Candidates(BTreeMap<SocketAddr, Endpoint>);

impl Candidates {
    /// Ready in any slice counts.
    fn add(&mut self, endpoint: Endpoint) {
        let (at, tier) = (endpoint.addr.get(), endpoint.tier);
        let entry = self.0.entry(at).or_insert(endpoint);
        entry.tier = entry.tier.min(tier);
    }

    /// Of each family, and where that counts also of each node.
    fn best(self, by_node: bool) -> Vec<Endpoint> {
        let mut best: BTreeMap<(bool, Option<Name>), Tier> = BTreeMap::new();
        let places = |endpoint: &Endpoint| {
            let family = endpoint.addr.ip().is_ipv4();
            let node = endpoint.node().filter(|_| by_node).cloned();
            [Some((family, None)), node.map(|node| (family, Some(node)))]
        };
        for endpoint in self.0.values() {
            for place in places(endpoint).into_iter().flatten() {
                let tier = best.entry(place).or_insert(endpoint.tier);
                *tier = endpoint.tier.min(*tier);
            }
        }
        let is_best = |endpoint: &Endpoint| {
            let mut places = places(endpoint).into_iter().flatten();
            places.any(|place| best.get(&place) == Some(&endpoint.tier))
        };
        let all = self.0.into_values();
        all.filter(is_best).collect()
    }
}

/// A Service while it is made.
struct Maker<'s> {
    store: &'s Store,
    object: &'s Object,
    spec: &'s ServiceSpec,
    /// `None` without any: then the selector says it.
    slices: Option<Vec<&'s EndpointSlice>>,
    problems: Vec<Problem>,
}

impl Store {
    pub(super) fn make_service(&self, key: &ServiceKey) -> (Option<Arc<Service>>, Vec<Problem>) {
        let id = ObjectId::service(key);
        let Some(entry) = self.objects.get(&id) else {
            return (None, Vec::new());
        };
        let (object, spec) = match entry.effective.as_deref() {
            Some(object) => match &object.kind {
                Kind::Service(spec) if is_usable(object, spec) => (object, spec),
                _ => return (None, Vec::new()),
            },
            None => return (None, Vec::new()),
        };
        let mut maker = Maker {
            store: self,
            object,
            spec,
            slices: self.slices_of(key),
            problems: Vec::new(),
        };
        let service = maker.make(key, entry.is_doubtful());
        (Some(Arc::new(service)), maker.problems)
    }

    fn slices_of(&self, key: &ServiceKey) -> Option<Vec<&EndpointSlice>> {
        let names = self.slices.get(key)?;
        let slice = |name| {
            let id = ObjectId {
                kind: KindId::EndpointSlice,
                namespace: key.namespace.clone(),
                name,
            };
            match &self.effective(&id)?.kind {
                Kind::EndpointSlice(slice) => Some(&**slice),
                _ => None,
            }
        };
        Some(names.iter().cloned().filter_map(slice).collect())
    }

    /// Those of which the pods are named by a selector alone, and by labels of
    /// this pod.
    pub(super) fn services_selecting(&self, workload: &Workload) -> Vec<ServiceKey> {
        let services = self.entries(KindId::Service, &workload.key.namespace);
        let selecting = services.filter_map(|(id, entry)| {
            let Kind::Service(spec) = &entry.effective.as_deref()?.kind else {
                return None;
            };
            let key = id.service_key();
            let is = is_selected(spec, workload) && !self.slices.contains_key(&key);
            is.then_some(key)
        });
        selecting.collect()
    }
}

fn is_selected(spec: &ServiceSpec, workload: &Workload) -> bool {
    let mut selector = spec.selector.iter();
    !spec.selector.is_empty() && selector.all(|(k, v)| workload.labels.get(k) == Some(v))
}

impl Maker<'_> {
    fn report(&mut self, field: &str, message: String) {
        let problem = self.object.problem(field, message);
        self.problems.push(problem);
    }

    fn make(&mut self, key: &ServiceKey, is_doubtful: bool) -> Service {
        let vips = self.vips(key);
        let policies = self.store.traffic_policies(key);
        let traffic = traffic::of_service(&policies, key);
        let mut ports = Vec::new();
        for (i, port) in self.spec.ports.iter().enumerate() {
            let endpoints = match &self.slices {
                Some(slices) => self.endpoints_of_slices(port, slices),
                None => self.endpoints_of_pods(port, i),
            };
            let hinted = Hinted::by(&endpoints);
            let own = traffic::of_port(&policies, (key, &traffic), &port.name);
            let (own, declared) = own.unzip();
            ports.push(ModelPort {
                name: port.name.clone(),
                port: port.port,
                node_port: port.node_port,
                target: match &port.target_port {
                    None => TargetPort::Number(port.port),
                    Some(PortRef::Number(n)) => TargetPort::Number(*n),
                    Some(PortRef::Name(name)) => TargetPort::Name(name.clone()),
                },
                protocol: declared.flatten().unwrap_or_else(|| protocol(port)),
                endpoints: endpoints.into(),
                hinted,
                slice_ports: slice_ports(port, self.slices()),
                traffic: own,
            });
        }
        self.externals(key);
        Service {
            key: key.clone(),
            vips,
            ports,
            is_local: self.spec.is_local,
            affinity: self.spec.affinity,
            selector: self.spec.selector.clone(),
            members: members(self.slices()),
            hides_ports: self.object.unread.contains(Part::Ports),
            hides_members: self.hides_members(is_doubtful),
            traffic,
        }
    }

    fn slices(&self) -> &[&EndpointSlice] {
        self.slices.as_deref().unwrap_or_default()
    }

    /// Without a selector only slices say which pods are behind it: all of them
    /// must be readable for that.
    fn hides_members(&self, is_doubtful: bool) -> bool {
        let hides_slices = !self.store.doubtful_slices.is_empty() || self.store.hidden.is_any;
        is_doubtful || (self.spec.selector.is_empty() && hides_slices)
    }

    /// Others have the rest of these addresses' ports; and a pod's own address
    /// is never another's.
    fn externals(&mut self, key: &ServiceKey) {
        for ip in &self.spec.external_ips {
            for port in &self.spec.ports {
                let owner = self.store.addresses.first(*ip, Use::External(port.port));
                if let Some(owner) = owner.filter(|owner| owner != key) {
                    let message = format!("{ip}:{} belongs to Service {owner} already", port.port);
                    let field = "spec.externalIPs";
                    let problem = self.object.problem_of(Code::Advisory, field, message);
                    self.problems.push(problem);
                }
            }
        }
    }

    fn vips(&mut self, key: &ServiceKey) -> Vec<IpAddr> {
        let mut vips = Vec::new();
        for ip in &self.spec.vips {
            let pod = self.store.snapshot.by_ip.get(ip);
            let owner = match (pod, self.store.vip_holder(*ip)) {
                (Some(pod), _) => format!("Pod {}", pod.key),
                (None, Some(owner)) if owner != *key => format!("Service {owner}"),
                (None, _) => {
                    vips.push(*ip);
                    continue;
                }
            };
            let message = format!("{ip} belongs to {owner} already");
            self.report("spec.clusterIPs", message);
        }
        vips
    }

    fn endpoints_of_slices(&self, port: &ServicePort, slices: &[&EndpointSlice]) -> Vec<Endpoint> {
        let mut candidates = Candidates::default();
        for slice in slices {
            let Some(number) = port_of(slice, port).map(|p| p.port) else {
                continue;
            };
            for given in &slice.endpoints {
                let Some(tier) = tier(given) else { continue };
                for ip in &given.addresses {
                    let (tier, workload) = match self.store.owner(*ip, &given.target) {
                        Owner::Known => (tier, self.store.snapshot.by_ip.get(ip).cloned()),
                        Owner::Unknown => (Tier::Unknown, None),
                        Owner::Other => continue,
                    };
                    candidates.add(Endpoint {
                        addr: UpstreamAddr::new((*ip, number).into()),
                        workload,
                        tier,
                        place: given.place.clone(),
                    });
                }
            }
        }
        candidates.best(self.spec.is_local)
    }

    /// Without any slice: the ready pods that the selector names.
    fn endpoints_of_pods(&mut self, port: &ServicePort, index: usize) -> Vec<Endpoint> {
        let spec = self.spec;
        if spec.selector.is_empty() {
            return Vec::new();
        }
        let mut candidates = Candidates::default();
        let namespace = self.object.meta.namespace();
        for pod in self.store.snapshot.workloads.in_namespace(namespace) {
            if !is_selected(spec, pod) {
                continue;
            }
            let number = match &port.target_port {
                None => Some(port.port),
                Some(PortRef::Number(n)) => Some(*n),
                Some(PortRef::Name(name)) => {
                    pod.ports.iter().find(|p| p.name == *name).map(|p| p.port)
                }
            };
            let Some(number) = number else {
                let field = format!("spec.ports[{index}].targetPort");
                let message = format!("Pod {} has no port of this name", pod.key);
                self.report(&field, message);
                continue;
            };
            let Some(tier) = self.tier_of_pod(pod) else {
                continue;
            };
            let place = self.place_of_pod(pod, tier);
            for ip in pod.ips.iter() {
                candidates.add(Endpoint {
                    addr: UpstreamAddr::new((ip, number).into()),
                    workload: Some(pod.clone()),
                    tier,
                    place: place.clone(),
                });
            }
        }
        candidates.best(spec.is_local)
    }

    /// With the hints that the EndpointSlice controller would give it.
    fn place_of_pod(&self, pod: &Workload, tier: Tier) -> Option<Arc<Place>> {
        let distribution = self.spec.distribution;
        let zone = pod.labels.get(ZONE).map(Name::from);
        if distribution == Distribution::All && zone.is_none() {
            return None;
        }
        let hint = |is: bool, of: &Option<Name>| {
            let of = of.iter().filter(|_| is && tier == Tier::Ready);
            of.cloned().collect()
        };
        let node = Some(pod.node.clone()).filter(|node| !node.is_empty());
        Some(Arc::new(Place {
            for_nodes: hint(distribution == Distribution::SameNode, &node),
            for_zones: hint(distribution != Distribution::All, &zone),
            node,
            zone,
        }))
    }

    /// As the EndpointSlice controller would write it.
    fn tier_of_pod(&self, workload: &Workload) -> Option<Tier> {
        let object = self.store.effective(&ObjectId::pod(&workload.key))?;
        let Kind::Pod(pod) = &object.kind else {
            return None;
        };
        // Where nobody says, it is: as in a file that a person writes.
        let serving = |pod: &Pod| pod.ready.unwrap_or(true);
        match object.meta.ends {
            _ if self.spec.publish_not_ready => Some(Tier::Ready),
            false => serving(pod).then_some(Tier::Ready),
            true => serving(pod).then_some(Tier::Terminating),
        }
    }
}

fn tier(given: &Given) -> Option<Tier> {
    match given.ready {
        true => Some(Tier::Ready),
        false => (given.serving && given.terminating).then_some(Tier::Terminating),
    }
}

/// Slices say themselves which port of the pods it is: `targetPort` is for
/// whoever writes them.
fn port_of<'s>(slice: &'s EndpointSlice, port: &ServicePort) -> Option<&'s EndpointPort> {
    slice.ports.iter().find(|p| p.name == port.name)
}

fn slice_ports(port: &ServicePort, slices: &[&EndpointSlice]) -> BTreeSet<u16> {
    let given = slices.iter().filter_map(|slice| port_of(slice, port));
    given.map(|p| p.port).collect()
}

/// Addresses of all endpoints, ready or not.
fn members(slices: &[&EndpointSlice]) -> BTreeSet<IpAddr> {
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    endpoints.flat_map(|e| &e.addresses).copied().collect()
}

fn protocol(port: &ServicePort) -> AppProtocol {
    let prefix = port.name.split('-').next().unwrap_or_default();
    match port.app_protocol.as_deref().unwrap_or(prefix) {
        "http" | "http1" => AppProtocol::Http1,
        "http2" | "kubernetes.io/h2c" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        "https" | "tls" => AppProtocol::Tls,
        "tcp" => AppProtocol::Tcp,
        _ => AppProtocol::Unspecified,
    }
}
