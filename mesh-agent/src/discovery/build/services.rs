//! Services and the endpoints behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{Builder, key};
use crate::discovery::kinds::{
    Endpoint as Given, EndpointPort, EndpointSlice, Part, Pod, PortRef, ServicePort, ServiceSpec,
    TargetRef,
};
use crate::discovery::objects::{Kind, Object};
use crate::model::{
    AppProtocol, Endpoint, Service, ServicePort as ModelPort, TargetPort, UpstreamAddr, Withheld,
    Workload,
};

/// Whose address an endpoint is.
enum Owner {
    /// A known pod's, or nobody's that is named.
    Known(Option<Arc<Workload>>),
    /// A pod is named that is not known, or does not have it.
    Unknown,
    /// Another pod's than is named.
    Other,
}

/// How good an endpoint is; only the best ones of a family are used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    Ready,
    /// The last that serve, while they end.
    Terminating,
    /// Its pod is not known: refused until it is.
    Unknown,
}

/// By address, so that each is there once.
#[derive(Default)]
struct Candidates(BTreeMap<SocketAddr, (Tier, Endpoint)>);

impl Candidates {
    /// Ready in any slice counts.
    fn add(&mut self, tier: Tier, endpoint: Endpoint) {
        let at = endpoint.addr.get();
        let entry = self.0.entry(at).or_insert_with(|| (tier, endpoint));
        entry.0 = entry.0.min(tier);
    }

    fn best(self) -> Vec<Endpoint> {
        let best = |v4: bool| {
            let family = self.0.iter().filter(|(at, _)| at.is_ipv4() == v4);
            family.map(|(_, (tier, _))| *tier).min()
        };
        let best = [best(false), best(true)];
        let used = self.0.into_iter();
        used.filter(|(at, (tier, _))| Some(*tier) == best[usize::from(at.is_ipv4())])
            .map(|(_, (_, endpoint))| endpoint)
            .collect()
    }
}

impl Builder<'_> {
    pub(super) fn service(
        &mut self,
        object: &Object,
        spec: &ServiceSpec,
        slices: Option<&[&EndpointSlice]>,
    ) {
        if spec.is_external_name || object.unread.contains(&Part::Selector) {
            // Nobody knows which pods these are, neither here nor for policies.
            self.left_out.extend(&spec.vips);
            return self.left_out.extend(&spec.external_ips);
        }
        if object.unread.contains(&Part::Ports) {
            self.left_out.extend(&spec.external_ips);
        }
        let vips = self.vips(object, spec);
        let mut ports = Vec::new();
        for (i, port) in spec.ports.iter().enumerate() {
            let endpoints = match slices {
                Some(slices) => self.endpoints_of_slices(port, slices),
                None => self.endpoints_of_pods(object, spec, port, i),
            };
            ports.push(ModelPort {
                name: port.name.clone(),
                port: port.port,
                target: match &port.target_port {
                    None => TargetPort::Number(port.port),
                    Some(PortRef::Number(n)) => TargetPort::Number(*n),
                    Some(PortRef::Name(name)) => TargetPort::Name(name.clone()),
                },
                protocol: protocol(port),
                endpoints: endpoints.into(),
                slice_ports: slice_ports(port, slices.unwrap_or_default()),
            });
        }
        let service = Arc::new(Service {
            key: key(&object.meta, &object.meta.name),
            vips,
            ports,
            selector: spec.selector.clone(),
            members: members(slices.unwrap_or_default()),
            hides_ports: object.unread.contains(&Part::Ports),
            hides_members: self.hides_members(object, spec),
        });
        for vip in &service.vips {
            self.snapshot.by_vip.insert(*vip, service.clone());
        }
        self.externals(object, spec, &service);
        self.snapshot.services.insert(service.key.clone(), service);
    }

    /// Without a selector only slices say which pods are behind it: all of them
    /// must be readable for that.
    fn hides_members(&self, object: &Object, spec: &ServiceSpec) -> bool {
        let hides_slices = self.hides_slices || !self.unknown.is_empty();
        self.is_doubtful(object) || (spec.selector.is_empty() && hides_slices)
    }

    /// Others have the rest of these addresses' ports; and a pod's own address
    /// is never another's.
    fn externals(&mut self, object: &Object, spec: &ServiceSpec, service: &Arc<Service>) {
        for ip in &spec.external_ips {
            for port in &service.ports {
                let at = (*ip, port.port);
                let owner = self.snapshot.by_external.get(&at).map(|s| s.key.clone());
                if let Some(owner) = owner.filter(|owner| *owner != service.key) {
                    let message = format!("{ip}:{} belongs to Service {owner} already", port.port);
                    self.advise(object, "spec.externalIPs", message);
                    continue;
                }
                self.snapshot.by_external.insert(at, service.clone());
            }
        }
    }

    fn vips(&mut self, object: &Object, spec: &ServiceSpec) -> Vec<IpAddr> {
        let mut vips = Vec::new();
        for ip in &spec.vips {
            let taken = self
                .snapshot
                .by_vip
                .get(ip)
                .map(|s| format!("Service {}", s.key));
            let taken = taken.or_else(|| {
                self.snapshot
                    .by_ip
                    .get(ip)
                    .map(|w| format!("Pod {}", w.key))
            });
            match taken {
                Some(owner) => self.report(
                    object,
                    "spec.clusterIPs",
                    format!("{ip} belongs to {owner} already"),
                ),
                None => vips.push(*ip),
            }
        }
        vips
    }

    fn owner(&self, ip: IpAddr, target: &TargetRef) -> Owner {
        let owner = self.snapshot.by_ip.get(&ip);
        match (target, owner) {
            (TargetRef::Pod(key), Some(owner)) if owner.key != *key => Owner::Other,
            (_, Some(owner)) => Owner::Known(Some(owner.clone())),
            (TargetRef::None, None) => Owner::Known(None),
            (TargetRef::Pod(key), None) if self.on_host_network.contains(key) => Owner::Known(None),
            (TargetRef::Pod(_) | TargetRef::Unknown, None) => Owner::Unknown,
        }
    }

    /// A slice may be here before its pods: they may be in the mesh.
    pub(super) fn withhold_of_unknown_pods(&mut self, slice: &EndpointSlice) {
        for endpoint in &slice.endpoints {
            for ip in &endpoint.addresses {
                if let Owner::Unknown = self.owner(*ip, &endpoint.target) {
                    let withheld = self.snapshot.withheld.entry(*ip);
                    withheld.or_insert(Withheld::UnknownPod);
                }
            }
        }
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
                    let (tier, workload) = match self.owner(*ip, &given.target) {
                        Owner::Known(workload) => (tier, workload),
                        Owner::Unknown => (Tier::Unknown, None),
                        Owner::Other => continue,
                    };
                    candidates.add(
                        tier,
                        Endpoint {
                            addr: UpstreamAddr::new((*ip, number).into()),
                            workload,
                            zone: given.zone.clone(),
                        },
                    );
                }
            }
        }
        candidates.best()
    }

    /// Without any slice: the ready pods that the selector names.
    fn endpoints_of_pods(
        &mut self,
        object: &Object,
        spec: &ServiceSpec,
        port: &ServicePort,
        index: usize,
    ) -> Vec<Endpoint> {
        let selector = &spec.selector;
        if selector.is_empty() {
            return Vec::new();
        }
        let mut candidates = Candidates::default();
        let pods: Vec<Arc<Workload>> = self.snapshot.workloads.values().cloned().collect();
        for pod in pods {
            let selected = pod.key.namespace == object.meta.namespace()
                && selector.iter().all(|(k, v)| pod.labels.get(k) == Some(v));
            if !selected {
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
                self.report(
                    object,
                    &format!("spec.ports[{index}].targetPort"),
                    format!("Pod {} has no port of this name", pod.key),
                );
                continue;
            };
            let Some(tier) = self.tier_of_pod(spec, &pod) else {
                continue;
            };
            for ip in pod.ips.iter() {
                candidates.add(
                    tier,
                    Endpoint {
                        addr: UpstreamAddr::new((ip, number).into()),
                        workload: Some(pod.clone()),
                        zone: None,
                    },
                );
            }
        }
        candidates.best()
    }

    /// As the EndpointSlice controller would write it.
    fn tier_of_pod(&self, spec: &ServiceSpec, workload: &Workload) -> Option<Tier> {
        let object = self.origins.get(&workload.key)?;
        let Kind::Pod(pod) = &object.kind else {
            return None;
        };
        // Where nobody says, it is: as in a file that a person writes.
        let serving = |pod: &Pod| pod.ready.unwrap_or(true);
        match object.meta.deletion_timestamp.is_some() {
            _ if spec.publish_not_ready => Some(Tier::Ready),
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
