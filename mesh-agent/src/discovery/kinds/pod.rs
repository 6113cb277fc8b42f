//! Pod: who is where.

use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::about::{About, Contradiction, Fact, Followed};
use super::found::Found;
use super::meta::{ENROLLED, Meta};
use super::part::Part;
use super::unread;
use crate::discovery::intern::Interner;
use crate::discovery::tree::Node;
use crate::model::{Name, NamedPort, OnNode};

const POD: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];

const POD_SPEC: &[&str] = &[
    "activeDeadlineSeconds",
    "affinity",
    "automountServiceAccountToken",
    "containers",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "ephemeralContainers",
    "evictionResponders",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostUsers",
    "hostname",
    "hostnameOverride",
    "imagePullSecrets",
    "initContainers",
    "nodeName",
    "nodeSelector",
    "os",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "resourceClaims",
    "resources",
    "restartPolicy",
    "runtimeClassName",
    "schedulerName",
    "schedulingGates",
    "schedulingGroup",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
];

const POD_STATUS: &[&str] = &[
    "allocatedResources",
    "conditions",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "extendedResourceClaimStatus",
    "hostIP",
    "hostIPs",
    "initContainerStatuses",
    "message",
    "nodeAllocatableResourceClaimStatuses",
    "nominatedNodeName",
    "observedGeneration",
    "phase",
    "podIP",
    "podIPs",
    "qosClass",
    "reason",
    "resize",
    "resourceClaimStatuses",
    "resources",
    "startTime",
    "volumeHealth",
];

const CONTAINER: &[&str] = &[
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resizePolicy",
    "resources",
    "restartPolicy",
    "restartPolicyRules",
    "securityContext",
    "startupProbe",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
];

const CONTAINER_PORT: &[&str] = &["containerPort", "hostIP", "hostPort", "name", "protocol"];

#[derive(Clone, Debug, Default)]
pub(crate) struct Pod {
    pub(crate) node_name: Name,
    pub(crate) service_account_name: Option<Name>,
    pub(crate) host_network: bool,
    pub(crate) runtime_class: Option<Name>,
    /// Named TCP ports of what runs as long as the pod.
    pub(crate) ports: Arc<[NamedPort]>,
    pub(crate) on_node: Arc<OnNode>,
    pub(crate) phase: Option<Name>,
    /// `None` where nobody says.
    pub(crate) ready: Option<bool>,
    pub(crate) ips: SmallVec<[IpAddr; 1]>,
}

impl Pod {
    /// Its containers have ended for good: the address is another's.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// Its sandbox may not be there yet.
    pub(crate) fn is_starting(&self) -> bool {
        self.phase.as_deref() == Some("Pending")
    }
}

impl Fact for Pod {
    const ABOUT: About = About {
        name: "Pod",
        group: "",
        versions: &["v1"],
        plural: "pods",
        namespaced: true,
        followed: Followed::Without(&unread::OF_PODS),
        meaning: "node, account, labels, addresses, named ports, readiness; by its label and annotations whether it is in the mesh, where it lives, and what becomes of it without an agent",
    };

    fn read(value: &Node<'_>, found: &mut Found) -> Self {
        found.names(value, "", POD);
        let mut pod = Self {
            on_node: super::on_node::on_node(value),
            ..Self::default()
        };
        spec(&value["spec"], &mut pod, found);
        status(&value["status"], &mut pod, found);
        pod
    }

    fn fill(&mut self, before: &Self, part: Part) -> bool {
        self.fill_part(before, part);
        true
    }

    fn share(&mut self, names: &mut Interner) {
        names.share(&mut self.node_name);
        let optional = [
            &mut self.service_account_name,
            &mut self.runtime_class,
            &mut self.phase,
        ];
        for name in optional.into_iter().flatten() {
            names.share(name);
        }
        names.share_ports(&mut self.ports);
        names.share_on_node(&mut self.on_node);
    }

    fn strictness(meta: &Meta) -> u8 {
        meta.strictness()
    }

    fn addresses(&self) -> Vec<IpAddr> {
        self.ips.to_vec()
    }

    fn contradiction(one: (&Meta, &Self), other: (&Meta, &Self)) -> Contradiction {
        let parts: Vec<Part> = contradicted(one, other).collect();
        match parts.is_empty() {
            true => Contradiction::None,
            false => Contradiction::Parts(parts),
        }
    }
}

impl Pod {
    /// What cannot be understood of one part, as `before` said it.
    fn fill_part(&mut self, before: &Self, part: Part) {
        match part {
            Part::Node => self.node_name.clone_from(&before.node_name),
            Part::Account => {
                let account = &before.service_account_name;
                self.service_account_name.clone_from(account);
            }
            Part::HostNetwork => self.host_network = before.host_network,
            Part::Ports => self.ports.clone_from(&before.ports),
            Part::Class => self.runtime_class.clone_from(&before.runtime_class),
            Part::Phase => {
                self.phase.clone_from(&before.phase);
                self.ready = before.ready;
            }
            Part::Addresses => {
                let family = |ip: &std::net::IpAddr| ip.is_ipv4();
                for ip in &before.ips {
                    if !self.ips.iter().any(|own| family(own) == family(ip)) {
                        self.ips.push(*ip);
                    }
                }
            }
            _ => {}
        }
    }
}

/// What says who a pod is, and which policies are about it.
fn contradicted(a: (&Meta, &Pod), b: (&Meta, &Pod)) -> impl Iterator<Item = Part> {
    let labels = |meta: &Meta| {
        let mut labels = meta.labels.clone();
        // Of this one the stricter holds.
        if labels.get(ENROLLED).is_some() {
            labels.change(|all| drop(all.remove(ENROLLED)));
        }
        labels
    };
    let account = |pod: &Pod| match pod.service_account_name.as_deref() {
        None | Some("") => "default".to_owned(),
        Some(account) => account.to_owned(),
    };
    let is_account = account(a.1) != account(b.1);
    let is_labels = labels(a.0) != labels(b.0);
    let is_class = a.1.runtime_class != b.1.runtime_class;
    let parts = [
        (is_account, Part::Account),
        (is_labels, Part::Labels),
        (is_class, Part::Class),
    ];
    parts
        .into_iter()
        .filter_map(|(is, part)| is.then_some(part))
}

fn spec(spec: &Node<'_>, pod: &mut Pod, found: &mut Found) {
    let all = [
        Part::Node,
        Part::Account,
        Part::HostNetwork,
        Part::Ports,
        Part::Class,
    ];
    found.is_mapping(spec, "spec", &all);
    found.names(spec, "spec", POD_SPEC);
    let node = found.name(&spec["nodeName"], "spec.nodeName", Part::Node);
    pod.node_name = node.unwrap_or_default().into();
    let account = "spec.serviceAccountName";
    let account = found.name(&spec["serviceAccountName"], account, Part::Account);
    pod.service_account_name = account.map(Name::from);
    let host = found.flag(&spec["hostNetwork"], "spec.hostNetwork", Part::HostNetwork);
    pod.host_network = host.unwrap_or_default();
    let class = "spec.runtimeClassName";
    let class = found.name(&spec["runtimeClassName"], class, Part::Class);
    let class = class.filter(|class| !class.is_empty());
    pod.runtime_class = class.map(Name::from);
    let mut named = Vec::new();
    for field in ["containers", "initContainers"] {
        let at = format!("spec.{field}");
        for (i, container) in found
            .list(&spec[field], &at, Part::Ports)
            .iter()
            .enumerate()
        {
            // Others end before the pod serves.
            let runs = field == "containers" || container["restartPolicy"] == "Always";
            ports(container, &format!("{at}[{i}]"), runs, &mut named, found);
        }
    }
    pod.ports = named.into();
}

fn ports(
    container: &Node<'_>,
    at: &str,
    runs: bool,
    named: &mut Vec<NamedPort>,
    found: &mut Found,
) {
    found.is_mapping(container, at, &[Part::Ports]);
    found.names(container, at, CONTAINER);
    let list = format!("{at}.ports");
    for (i, port) in found
        .list(&container["ports"], &list, Part::Ports)
        .iter()
        .enumerate()
    {
        let at = format!("{list}[{i}]");
        found.is_mapping(port, &at, &[Part::Ports]);
        found.names(port, &at, CONTAINER_PORT);
        let field = |name: &str| format!("{at}.{name}");
        let number = &port["containerPort"];
        let number = found.port(number, &field("containerPort"), Part::Ports);
        let is_tcp = found.is_tcp(&port["protocol"], &field("protocol"), Part::Ports);
        let name = found.text(&port["name"], &field("name"), Part::Ports);
        let name = name.filter(|_| runs && is_tcp);
        let port = name.zip(number);
        named.extend(port.map(|(name, port)| NamedPort { name, port }));
    }
}

fn status(status: &Node<'_>, pod: &mut Pod, found: &mut Found) {
    found.is_mapping(status, "status", &[Part::Phase, Part::Addresses]);
    found.names(status, "status", POD_STATUS);
    let phase = found.text(&status["phase"], "status.phase", Part::Phase);
    pod.phase = phase.map(Name::from);
    let mut ips = Vec::new();
    ips.extend(found.address(&status["podIP"], "status.podIP", Part::Addresses));
    let list = found.list(&status["podIPs"], "status.podIPs", Part::Addresses);
    for (i, entry) in list.iter().enumerate() {
        let at = format!("status.podIPs[{i}]");
        found.is_mapping(entry, &at, &[Part::Addresses]);
        ips.extend(found.address(&entry["ip"], &format!("{at}.ip"), Part::Addresses));
    }
    for ip in ips {
        if !pod.ips.contains(&ip) {
            pod.ips.push(ip);
        }
    }
    let conditions = found.list(&status["conditions"], "status.conditions", Part::Phase);
    let ready = conditions.iter().find(|c| c["type"] == "Ready");
    pod.ready = ready.map(|c| c["status"] == "True" || c["status"] == true);
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodSpec, PodStatus};

    use super::super::api::{fields, is_of_the_api};
    use super::{Fact as _, Pod as Kind};

    #[test]
    fn the_fields_are_those_of_the_api() {
        is_of_the_api::<Pod>(&Kind::ABOUT);
        assert_eq!(super::POD, fields::<Pod>());
        assert_eq!(super::POD_SPEC, fields::<PodSpec>());
        assert_eq!(super::POD_STATUS, fields::<PodStatus>());
        assert_eq!(super::CONTAINER, fields::<Container>());
        assert_eq!(super::CONTAINER_PORT, fields::<ContainerPort>());
    }
}
