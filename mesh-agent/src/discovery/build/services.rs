//! Services and the endpoints behind them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Builder, key};
use crate::discovery::kinds::{EndpointSlice, PortRef, ServicePort, ServiceSpec};
use crate::discovery::objects::Object;
use crate::model::{
    AppProtocol, Endpoint, Service, ServicePort as ModelPort, TargetPort, UpstreamAddr, Workload,
};

impl Builder<'_> {
    pub(super) fn service(
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

    fn endpoints_of_slices(
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
                            self.report(object, "endpoints", format!("{text:?} is not an address"));
                        }
                    }
                }
            }
        }
        endpoints
    }

    /// Without any slice: the ready pods that the selector names.
    fn endpoints_of_pods(
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
