//! Pods: addresses, enrolment, where they live.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::Builder;
use crate::discovery::kinds::Pod;
use crate::discovery::objects::Object;
use crate::model::{Enrolment, NamedPort, NetnsRef, OnAgentDown, PodIps, Workload, WorkloadKey};

const ENROLLED: &str = "mesh-agent.io/enrolled";
const ON_AGENT_DOWN: &str = "mesh-agent.io/on-agent-down";

impl<'o> Builder<'o> {
    pub(super) fn pod(&mut self, object: &'o Object, pod: &Pod) {
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

    /// An address that two pods claim belongs to neither; and if one of them is
    /// in the mesh, nobody's plaintext goes there.
    pub(super) fn index_pods(&mut self) {
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
            if claimants.iter().any(|w| w.is_enrolled()) {
                self.snapshot.withheld.insert(ip, None);
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
}
