//! Service: names and addresses for pods.

use std::net::IpAddr;
use std::time::Duration;

use super::about::{About, Contradiction, Fact, Followed};
use super::found::Found;
use super::meta::Meta;
use super::part::Part;
use crate::discovery::intern::Interner;
use crate::discovery::tree::{Node, View};
use crate::model::Labels;

/// As Kubernetes has it: three hours, and a day at most.
const AFFINITY: u64 = 10_800;
const MAX_AFFINITY: u64 = 86_400;

const SERVICE: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];

const SERVICE_SPEC: &[&str] = &[
    "allocateLoadBalancerNodePorts",
    "clusterIP",
    "clusterIPs",
    "externalIPs",
    "externalName",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "ports",
    "publishNotReadyAddresses",
    "selector",
    "sessionAffinity",
    "sessionAffinityConfig",
    "trafficDistribution",
    "type",
];

const SERVICE_PORT: &[&str] = &[
    "appProtocol",
    "name",
    "nodePort",
    "port",
    "protocol",
    "targetPort",
];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceSpec {
    pub(crate) is_external_name: bool,
    /// Empty for a headless service.
    pub(crate) vips: Vec<IpAddr>,
    /// `externalIPs` and addresses of load balancers: the Service's for its own
    /// ports alone.
    pub(crate) external_ips: Vec<IpAddr>,
    /// TCP ports.
    pub(crate) ports: Vec<ServicePort>,
    pub(crate) selector: Labels,
    pub(crate) publish_not_ready: bool,
    /// `internalTrafficPolicy: Local`.
    pub(crate) is_local: bool,
    /// `sessionAffinity: ClientIP`: for how long.
    pub(crate) affinity: Option<Duration>,
    pub(crate) distribution: Distribution,
}

/// `trafficDistribution`: what hints endpoints are given where nobody writes
/// slices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Distribution {
    #[default]
    All,
    SameZone,
    SameNode,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PortRef {
    Number(u16),
    Name(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) target_port: Option<PortRef>,
    /// On all nodes' addresses.
    pub(crate) node_port: Option<u16>,
    pub(crate) app_protocol: Option<String>,
}

impl Fact for ServiceSpec {
    const ABOUT: About = About {
        name: "Service",
        group: "",
        versions: &["v1"],
        plural: "services",
        namespaced: true,
        followed: Followed::Whole,
        meaning: "virtual and external addresses, TCP ports, selector, which endpoints a client gets",
    };

    fn read(value: &Node<'_>, found: &mut Found) -> Self {
        service(value, found)
    }

    fn fill(&mut self, before: &Self, part: Part) -> bool {
        self.fill_part(before, part);
        true
    }

    fn share(&mut self, names: &mut Interner) {
        names.share_labels(&mut self.selector);
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let all = self.vips.iter().chain(&self.external_ips);
        all.copied().collect()
    }

    /// Which pods are behind it is not known by two that differ.
    fn contradiction(one: (&Meta, &Self), other: (&Meta, &Self)) -> Contradiction {
        Contradiction::unless(one.1 == other.1)
    }
}

impl ServiceSpec {
    /// What cannot be understood of one part, as `before` said it.
    fn fill_part(&mut self, before: &Self, part: Part) {
        match part {
            Part::Addresses => {
                let more = before.vips.iter().filter(|ip| !self.vips.contains(ip));
                let more: Vec<_> = more.copied().collect();
                self.vips.extend(more);
                self.external_ips.extend(&before.external_ips);
            }
            Part::Ports => self.ports.clone_from(&before.ports),
            Part::Selector => self.selector.clone_from(&before.selector),
            _ => {}
        }
    }
}

fn service(value: &Node<'_>, found: &mut Found) -> ServiceSpec {
    found.names(value, "", SERVICE);
    let spec = &value["spec"];
    found.is_mapping(
        spec,
        "spec",
        &[Part::Addresses, Part::Ports, Part::Selector],
    );
    found.names(spec, "spec", SERVICE_SPEC);
    let mut service = ServiceSpec {
        is_external_name: spec["type"] == "ExternalName",
        ..ServiceSpec::default()
    };
    if service.is_external_name {
        let message = "ExternalName is a name of somewhere else: it has no address and no pods here, and connections to it are what its target is";
        found.advise("spec.type", message);
    }
    addresses(value, &mut service, found);
    for (i, port) in found
        .list(&spec["ports"], "spec.ports", Part::Ports)
        .iter()
        .enumerate()
    {
        service
            .ports
            .extend(self::port(port, &format!("spec.ports[{i}]"), found));
    }
    for (key, value) in spec["selector"].fields() {
        found.name(value, &format!("spec.selector.{key}"), Part::Selector);
    }
    let selector = found.texts(&spec["selector"], "spec.selector", Part::Selector);
    service.selector = selector.into();
    let not_ready = "publishNotReadyAddresses";
    let publish = found.flag(
        &spec[not_ready],
        &format!("spec.{not_ready}"),
        Part::Nothing,
    );
    service.publish_not_ready = publish.unwrap_or_default();
    choice(spec, &mut service, found);
    service
}

/// Which endpoints a client gets. What is not understood is told, and counts
/// as not said: Kubernetes takes none of these, but for `trafficDistribution`.
fn choice(spec: &Node<'_>, service: &mut ServiceSpec, found: &mut Found) {
    let mut one_of = |field: &str, known: &[&str]| {
        let at = format!("spec.{field}");
        let said = found.text(&spec[field], &at, Part::Nothing)?;
        if said.is_empty() || known.contains(&said.as_str()) {
            return Some(said);
        }
        let message = format!("{said:?} is none of {}: it has no effect", known.join(", "));
        match field {
            "trafficDistribution" => found.advise(&at, message),
            _ => found.mistake(&at, message, Part::Nothing),
        }
        None
    };
    let is = |said: Option<String>, what: &str| said.as_deref() == Some(what);
    let policy = one_of("internalTrafficPolicy", &["Cluster", "Local"]);
    let affinity = one_of("sessionAffinity", &["None", "ClientIP"]);
    let near = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    let distribution = one_of("trafficDistribution", &near);
    service.is_local = is(policy, "Local");
    service.distribution = match distribution.as_deref() {
        Some("PreferClose" | "PreferSameZone") => Distribution::SameZone,
        Some("PreferSameNode") => Distribution::SameNode,
        _ => Distribution::All,
    };
    if is(affinity, "ClientIP") {
        service.affinity = Some(timeout(spec, found));
    }
}

/// For how long a client's next connection goes to the same endpoint.
fn timeout(spec: &Node<'_>, found: &mut Found) -> Duration {
    let at = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    let value = spec.at(&["sessionAffinityConfig", "clientIP", "timeoutSeconds"]);
    let seconds = match value.view() {
        View::Null => Some(AFFINITY),
        View::Number(n) => n.as_u64(),
        View::Text(text) => text.parse().ok(),
        _ => None,
    };
    let seconds = seconds.filter(|seconds| (1..=MAX_AFFINITY).contains(seconds));
    if seconds.is_none() {
        let message = format!(
            "{value} is not a number of seconds from 1 to {MAX_AFFINITY}: {AFFINITY} are taken"
        );
        found.mistake(at, message, Part::Nothing);
    }
    Duration::from_secs(seconds.unwrap_or(AFFINITY))
}

fn addresses(value: &Node<'_>, service: &mut ServiceSpec, found: &mut Found) {
    let spec = &value["spec"];
    let one = (&spec["clusterIP"], "spec.clusterIP".to_owned());
    let more = found.list(&spec["clusterIPs"], "spec.clusterIPs", Part::Addresses);
    let more = more.iter().enumerate();
    let more = more.map(|(i, value)| (value, format!("spec.clusterIPs[{i}]")));
    for (value, at) in std::iter::once(one).chain(more) {
        if value == "None" {
            continue;
        }
        let ip = found.address(value, &at, Part::Addresses);
        service
            .vips
            .extend(ip.filter(|ip| !service.vips.contains(ip)));
    }
    let external = found.list(&spec["externalIPs"], "spec.externalIPs", Part::Addresses);
    for (i, value) in external.iter().enumerate() {
        let at = format!("spec.externalIPs[{i}]");
        service
            .external_ips
            .extend(found.address(value, &at, Part::Addresses));
    }
    // A load balancer's address leads to the Service on each node, unless it
    // says that the balancer stands between as a proxy.
    let at = "status.loadBalancer.ingress";
    let ingress = &value["status"]["loadBalancer"]["ingress"];
    for entry in found.list(ingress, at, Part::Addresses) {
        let ip = found.address(&entry["ip"], at, Part::Addresses);
        service
            .external_ips
            .extend(ip.filter(|_| entry["ipMode"] != "Proxy"));
    }
}

/// `None` where it has no number, and for what is not TCP.
fn port(value: &Node<'_>, at: &str, found: &mut Found) -> Option<ServicePort> {
    found.is_mapping(value, at, &[Part::Ports]);
    found.names(value, at, SERVICE_PORT);
    let number_at = format!("{at}.port");
    let number = found.port(&value["port"], &number_at, Part::Ports);
    if value["port"].is_null() && value.is_mapping() {
        found.mistake(&number_at, "is missing", Part::Ports);
    }
    let is_tcp = found.is_tcp(&value["protocol"], &format!("{at}.protocol"), Part::Ports);
    let name = found.text(&value["name"], &format!("{at}.name"), Part::Ports);
    let target = target(&value["targetPort"], &format!("{at}.targetPort"), found)?;
    let node_port = &value["nodePort"];
    // The API server writes 0 for absent, here too.
    let node_port = match node_port.view() {
        View::Number(n) if n.as_u64() == Some(0) => None,
        _ => found.port(node_port, &format!("{at}.nodePort"), Part::Nothing),
    };
    let port = ServicePort {
        node_port,
        name: name.unwrap_or_default(),
        port: number?,
        target_port: target,
        app_protocol: value["appProtocol"].as_text().map(str::to_owned),
    };
    is_tcp.then_some(port)
}

/// `None` where it is there and cannot be understood.
fn target(value: &Node<'_>, at: &str, found: &mut Found) -> Option<Option<PortRef>> {
    match value.view() {
        View::Null => Some(None),
        View::Text("") => Some(None),
        // The API server writes 0 for absent.
        View::Number(n) if n.as_u64() == Some(0) => Some(None),
        View::Text(s) if s.parse::<u64>().is_err() => Some(Some(PortRef::Name(s.to_owned()))),
        _ => {
            let number = found.port(value, at, Part::Ports)?;
            Some(Some(PortRef::Number(number)))
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};

    use super::super::api::{fields, is_of_the_api};
    use super::{Fact as _, ServiceSpec as Kind};

    #[test]
    fn the_fields_are_those_of_the_api() {
        is_of_the_api::<Service>(&Kind::ABOUT);
        assert_eq!(super::SERVICE, fields::<Service>());
        assert_eq!(super::SERVICE_SPEC, fields::<ServiceSpec>());
        assert_eq!(super::SERVICE_PORT, fields::<ServicePort>());
    }
}
