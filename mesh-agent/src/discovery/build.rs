//! Objects to one consistent snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::Problem;
use super::objects::{EndpointSlice, Kind, Meta, Object, Pod, PortRef, ServicePort, ServiceSpec};
use crate::model::policy::Action;
use crate::model::{
    AppProtocol, Endpoint, Enrolment, NamedPort, NetnsRef, OnAgentDown, PodIps, Service,
    ServiceKey, ServicePort as ModelPort, Snapshot, TargetPort, UpstreamAddr, Workload,
    WorkloadKey,
};

const ENROLLED: &str = "mesh-agent.io/enrolled";
const ON_AGENT_DOWN: &str = "mesh-agent.io/on-agent-down";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Builds the snapshot; what contradicts itself is left out and reported.
pub fn build<'o>(objects: impl Iterator<Item = &'o Object>) -> (Snapshot, Vec<Problem>) {
    let mut objects: Vec<&Object> = objects.collect();
    // The order of files and documents never matters.
    objects.sort_by_key(|o| o.name());
    let mut builder = Builder::default();
    builder.reject_duplicates(&mut objects);
    for object in &objects {
        if let Kind::Namespace = object.kind {
            builder.namespaces.insert(&object.meta.name, object);
        }
    }
    for object in &objects {
        if let Kind::Pod(pod) = &object.kind {
            builder.pod(object, pod);
        }
    }
    builder.index_pods();
    let mut slices: BTreeMap<ServiceKey, Vec<(&Object, &EndpointSlice)>> = BTreeMap::new();
    for object in &objects {
        if let Kind::EndpointSlice(slice) = &object.kind {
            match object.meta.labels.get(SERVICE_NAME) {
                Some(name) => {
                    let key = key(&object.meta, name);
                    slices.entry(key).or_default().push((object, slice));
                }
                None => builder.report(
                    object,
                    "metadata.labels",
                    format!("the label {SERVICE_NAME} is missing: it names the Service"),
                ),
            }
        }
    }
    for object in &objects {
        if let Kind::Service(spec) = &object.kind {
            let own = slices.remove(&key(&object.meta, &object.meta.name));
            builder.service(object, spec, own.as_deref());
        }
    }
    for object in &objects {
        match &object.kind {
            Kind::Policy(policy) => builder.snapshot.policies.push(policy.clone()),
            Kind::Peer(peer) => builder.snapshot.peer_authentications.push(peer.clone()),
            _ => {}
        }
    }
    (builder.snapshot, builder.problems)
}

fn key(meta: &Meta, name: &str) -> ServiceKey {
    ServiceKey {
        namespace: meta.namespace().to_owned(),
        name: name.to_owned(),
    }
}

#[derive(Default)]
struct Builder<'o> {
    snapshot: Snapshot,
    problems: Vec<Problem>,
    namespaces: BTreeMap<&'o str, &'o Object>,
    origins: BTreeMap<WorkloadKey, &'o Object>,
}

impl<'o> Builder<'o> {
    fn report(&mut self, object: &Object, field: &str, message: String) {
        self.problems.push(object.problem(field, message));
    }

    fn reject_duplicates(&mut self, objects: &mut Vec<&'o Object>) {
        let mut seen = BTreeSet::new();
        objects.retain(|object| {
            let first = seen.insert(object.name());
            if !first {
                self.report(
                    object,
                    "metadata.name",
                    "the object is given twice; this one is ignored".to_owned(),
                );
            }
            // A second DENY only restricts: it stays.
            first || matches!(&object.kind, Kind::Policy(p) if p.action == Action::Deny)
        });
    }

    fn pod(&mut self, object: &'o Object, pod: &Pod) {
        let gone = matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if gone || pod.spec.host_network {
            return;
        }
        let meta = &object.meta;
        let workload = Workload {
            key: WorkloadKey {
                namespace: meta.namespace().to_owned(),
                name: meta.name.clone(),
            },
            uid: meta
                .uid
                .clone()
                .unwrap_or_else(|| format!("{}/{}", meta.namespace(), meta.name)),
            ips: self.pod_ips(object, pod),
            node: pod.spec.node_name.clone(),
            service_account: pod
                .spec
                .service_account_name
                .clone()
                .unwrap_or_else(|| "default".to_owned()),
            app: ["app.kubernetes.io/name", "app"]
                .iter()
                .find_map(|l| meta.labels.get(*l))
                .unwrap_or(&meta.name)
                .clone(),
            labels: meta.labels.clone(),
            enrolment: self.enrolment(object),
            netns: self.netns(object),
            cgroup: meta
                .annotations
                .get("mesh-agent.io/cgroup")
                .map(PathBuf::from),
            ports: pod
                .spec
                .containers
                .iter()
                .flat_map(|c| &c.ports)
                .filter_map(|p| {
                    Some(NamedPort {
                        name: p.name.clone()?,
                        port: p.container_port,
                    })
                })
                .collect(),
        };
        if workload.is_enrolled() && workload.ips.is_empty() {
            self.report(
                object,
                "status.podIP",
                "an enrolled pod needs an address".to_owned(),
            );
        }
        self.origins.insert(workload.key.clone(), object);
        self.snapshot
            .workloads
            .insert(workload.key.clone(), Arc::new(workload));
    }

    fn pod_ips(&mut self, object: &Object, pod: &Pod) -> PodIps {
        let mut ips = PodIps::default();
        let listed = pod.status.pod_ips.iter().map(|p| &p.ip);
        for text in pod.status.pod_ip.iter().chain(listed) {
            match text.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
                Ok(IpAddr::V4(ip)) if ips.v4.is_none_or(|old| old == ip) => ips.v4 = Some(ip),
                Ok(IpAddr::V6(ip)) if ips.v6.is_none_or(|old| old == ip) => ips.v6 = Some(ip),
                Ok(ip) => self.report(
                    object,
                    "status.podIPs",
                    format!("{ip} is a second address of its family; one each is served"),
                ),
                Err(_) => self.report(
                    object,
                    "status.podIPs",
                    format!("{text:?} is not an address"),
                ),
            }
        }
        ips
    }

    /// Label of the pod, else of the namespace. A value that is not understood
    /// means enrolled and closed: it must never end in plaintext.
    fn enrolment(&mut self, object: &Object) -> Enrolment {
        let namespace = self.namespaces.get(object.meta.namespace()).copied();
        let metas = || [Some(object), namespace].into_iter().flatten();
        let enrolled = match metas()
            .find_map(|o| o.meta.labels.get(ENROLLED))
            .map(String::as_str)
        {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                self.report(
                    object,
                    "metadata.labels",
                    format!(
                        "{ENROLLED} is {other:?}, expected \"true\" or \"false\"; taken as \"true\""
                    ),
                );
                true
            }
        };
        if !enrolled {
            return Enrolment::No;
        }
        let annotation = metas().find_map(|o| o.meta.annotations.get(ON_AGENT_DOWN));
        Enrolment::Yes(match annotation.map(String::as_str) {
            None | Some("closed") => OnAgentDown::Closed,
            Some("open") => OnAgentDown::Open,
            Some(other) => {
                self.report(object, "metadata.annotations", format!("{ON_AGENT_DOWN} is {other:?}, expected \"closed\" or \"open\"; taken as \"closed\""));
                OnAgentDown::Closed
            }
        })
    }

    fn netns(&mut self, object: &Object) -> Option<NetnsRef> {
        let get = |name| object.meta.annotations.get(name);
        if let Some(path) = get("mesh-agent.io/netns") {
            return Some(NetnsRef::Path(path.into()));
        }
        if let Some(pid) = get("mesh-agent.io/pid") {
            return match pid.parse() {
                Ok(pid) => Some(NetnsRef::Pid(pid)),
                Err(_) => {
                    self.report(
                        object,
                        "metadata.annotations",
                        format!("mesh-agent.io/pid is {pid:?}, expected a process number"),
                    );
                    None
                }
            };
        }
        get("mesh-agent.io/cgroup").map(|dir| NetnsRef::Cgroup(dir.into()))
    }

    /// An address that two pods claim belongs to neither.
    fn index_pods(&mut self) {
        let mut claims: BTreeMap<IpAddr, Vec<Arc<Workload>>> = BTreeMap::new();
        for workload in self.snapshot.workloads.values() {
            for ip in workload.ips.iter() {
                claims.entry(ip).or_default().push(workload.clone());
            }
        }
        for (ip, mut claimants) in claims {
            if claimants.len() == 1 {
                self.snapshot.by_ip.extend(claimants.pop().map(|w| (ip, w)));
                continue;
            }
            let names: Vec<String> = claimants.iter().map(|w| w.key.to_string()).collect();
            for workload in claimants {
                let object = self.origins[&workload.key];
                self.report(
                    object,
                    "status.podIP",
                    format!(
                        "{ip} is the address of {}: none of them gets it",
                        names.join(" and ")
                    ),
                );
                if let Some(entry) = self.snapshot.workloads.get_mut(&workload.key) {
                    let stripped = Arc::make_mut(entry);
                    match ip {
                        IpAddr::V4(_) => stripped.ips.v4 = None,
                        IpAddr::V6(_) => stripped.ips.v6 = None,
                    }
                }
            }
        }
    }

    fn service(
        &mut self,
        object: &Object,
        spec: &ServiceSpec,
        slices: Option<&[(&Object, &EndpointSlice)]>,
    ) {
        if spec.kind.as_deref() == Some("ExternalName") {
            return self.report(object, "spec.type", "ExternalName is not served".to_owned());
        }
        let vips = self.vips(object, spec);
        let mut ports = Vec::new();
        for (i, port) in spec.ports.iter().enumerate() {
            if port.protocol.as_deref().is_some_and(|p| p != "TCP") {
                continue;
            }
            let endpoints = match slices {
                Some(slices) => self.from_slices(port, slices),
                None => self.from_pods(object, spec, port, i),
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
            });
        }
        let service = Arc::new(Service {
            key: key(&object.meta, &object.meta.name),
            vips,
            ports,
            selector: spec.selector.clone().unwrap_or_default(),
            members: members(slices.unwrap_or_default()),
        });
        for vip in &service.vips {
            self.snapshot.by_vip.insert(*vip, service.clone());
        }
        self.snapshot.services.insert(service.key.clone(), service);
    }

    fn vips(&mut self, object: &Object, spec: &ServiceSpec) -> Vec<IpAddr> {
        let mut vips = Vec::new();
        for text in spec.cluster_ip.iter().chain(&spec.cluster_ips) {
            if text == "None" || text.is_empty() {
                continue;
            }
            let Ok(ip) = text.parse::<IpAddr>() else {
                self.report(
                    object,
                    "spec.clusterIPs",
                    format!("{text:?} is not an address"),
                );
                continue;
            };
            let taken = self
                .snapshot
                .by_vip
                .get(&ip)
                .map(|s| format!("Service {}", s.key));
            let taken = taken.or_else(|| {
                self.snapshot
                    .by_ip
                    .get(&ip)
                    .map(|w| format!("Pod {}", w.key))
            });
            match taken {
                Some(owner) => self.report(
                    object,
                    "spec.clusterIPs",
                    format!("{ip} belongs to {owner} already"),
                ),
                None if !vips.contains(&ip) => vips.push(ip),
                None => {}
            }
        }
        vips
    }

    fn from_slices(
        &mut self,
        port: &ServicePort,
        slices: &[(&Object, &EndpointSlice)],
    ) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        for (object, slice) in slices {
            let Some(target) = slice
                .ports
                .iter()
                .find(|p| p.name == port.name && p.protocol.as_deref().is_none_or(|p| p == "TCP"))
            else {
                continue;
            };
            for endpoint in &slice.endpoints {
                if endpoint.conditions.ready == Some(false) {
                    continue;
                }
                for text in &endpoint.addresses {
                    match text.parse::<IpAddr>() {
                        Ok(ip) if ip.is_ipv4() == (slice.address_type == "IPv4") => {
                            endpoints.push(self.endpoint(ip, target.port, endpoint.zone.clone()));
                        }
                        Ok(_) => self.report(
                            object,
                            "endpoints",
                            format!("{text} is not of the addressType {}", slice.address_type),
                        ),
                        Err(_) => {
                            self.report(object, "endpoints", format!("{text:?} is not an address"))
                        }
                    }
                }
            }
        }
        endpoints
    }

    /// Without any slice: the ready pods that the selector names.
    fn from_pods(
        &mut self,
        object: &Object,
        spec: &ServiceSpec,
        port: &ServicePort,
        index: usize,
    ) -> Vec<Endpoint> {
        let Some(selector) = spec.selector.as_ref().filter(|s| !s.is_empty()) else {
            return Vec::new();
        };
        let mut endpoints = Vec::new();
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
            for ip in pod.ips.iter() {
                endpoints.push(self.endpoint(ip, number, None));
            }
        }
        endpoints
    }

    fn endpoint(&self, ip: IpAddr, port: u16, zone: Option<String>) -> Endpoint {
        Endpoint {
            addr: UpstreamAddr::new((ip, port).into()),
            workload: self.snapshot.by_ip.get(&ip).cloned(),
            zone,
        }
    }
}

/// Addresses of all endpoints, ready or not.
fn members(slices: &[(&Object, &EndpointSlice)]) -> BTreeSet<IpAddr> {
    slices
        .iter()
        .flat_map(|(_, slice)| &slice.endpoints)
        .flat_map(|endpoint| &endpoint.addresses)
        .filter_map(|text| text.parse().ok())
        .collect()
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
