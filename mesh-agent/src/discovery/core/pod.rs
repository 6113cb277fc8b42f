use super::fields::{CONTAINER, CONTAINER_PORT, POD, POD_SPEC, POD_STATUS};
use super::read::Found;
use crate::discovery::kinds::{Part, Pod};
use crate::discovery::tree::Node;
use crate::model::{Name, NamedPort};

pub(super) fn pod(value: &Node<'_>, found: &mut Found) -> Pod {
    found.names(value, "", POD);
    let mut pod = Pod::default();
    spec(&value["spec"], &mut pod, found);
    status(&value["status"], &mut pod, found);
    pod
}

fn spec(spec: &Node<'_>, pod: &mut Pod, found: &mut Found) {
    let all = [Part::Node, Part::Account, Part::HostNetwork, Part::Ports];
    found.is_mapping(spec, "spec", &all);
    found.names(spec, "spec", POD_SPEC);
    let node = found.name(&spec["nodeName"], "spec.nodeName", Part::Node);
    pod.node_name = node.unwrap_or_default().into();
    let account = "spec.serviceAccountName";
    let account = found.name(&spec["serviceAccountName"], account, Part::Account);
    pod.service_account_name = account.map(Name::from);
    let host = found.flag(&spec["hostNetwork"], "spec.hostNetwork", Part::HostNetwork);
    pod.host_network = host.unwrap_or_default();
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

impl Pod {
    /// What cannot be understood of one part, as `before` said it.
    pub(super) fn fill(&mut self, before: &Self, part: Part) {
        match part {
            Part::Node => self.node_name.clone_from(&before.node_name),
            Part::Account => {
                let account = &before.service_account_name;
                self.service_account_name.clone_from(account);
            }
            Part::HostNetwork => self.host_network = before.host_network,
            Part::Ports => self.ports.clone_from(&before.ports),
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
