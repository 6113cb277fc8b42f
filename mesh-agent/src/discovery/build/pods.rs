//! Pods: addresses, enrolment, where they live.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::Builder;
use crate::discovery::kinds::{Part, Pod, Unknown};
use crate::discovery::objects::Object;
use crate::model::policy::{Action, AuthorizationPolicy, Scope};
use crate::model::{Enrolment, NetnsRef, OnAgentDown, PodIps, Withheld, Workload, WorkloadKey};

pub(super) const ENROLLED: &str = "mesh-agent.io/enrolled";
const EXCLUDED: &str = "mesh-agent.io/exclude-addresses";
const MAX_EXCLUDED: usize = 16;
const ON_AGENT_DOWN: &str = "mesh-agent.io/on-agent-down";
/// Of a pod whose labels cannot be read; its value is the pod's name.
const UNREADABLE: &str = "mesh-agent.io/unreadable";

impl<'o> Builder<'o> {
    pub(super) fn pod(&mut self, object: &'o Object, pod: &Pod) {
        let gone = matches!(pod.phase.as_deref(), Some("Succeeded" | "Failed"));
        let meta = &object.meta;
        let key = WorkloadKey {
            namespace: meta.namespace().to_owned(),
            name: meta.name.clone(),
        };
        if gone {
            return;
        }
        if pod.host_network {
            self.on_host_network.insert(key);
            return;
        }
        let workload = Workload {
            uid: meta
                .uid
                .clone()
                .unwrap_or_else(|| format!("{}/{}", meta.namespace(), meta.name)),
            ips: self.pod_ips(object, pod),
            node: pod.node_name.clone(),
            service_account: self.account(object, pod),
            app: ["app.kubernetes.io/name", "app"]
                .iter()
                .find_map(|l| meta.labels.get(*l))
                .unwrap_or(&meta.name)
                .clone(),
            labels: self.labels(object),
            enrolment: self.enrolment(object),
            netns: self.netns(object),
            cgroup: meta
                .annotations
                .get("mesh-agent.io/cgroup")
                .map(PathBuf::from),
            excluded: self.excluded(object, pod),
            ports: pod.ports.clone(),
            key,
        };
        let whole = object.unread.is_empty() && !self.contradicted.contains_key(&object.name());
        if workload.is_enrolled() && workload.ips.is_empty() && whole {
            self.report(
                object,
                "status.podIP",
                "an enrolled pod needs an address".to_owned(),
            );
        }
        if workload.is_enrolled() && !whole {
            self.snapshot.unreadable_pods.insert(workload.key.clone());
        }
        self.origins.insert(workload.key.clone(), object);
        self.snapshot
            .workloads
            .insert(workload.key.clone(), Arc::new(workload));
    }

    fn pod_ips(&mut self, object: &Object, pod: &Pod) -> PodIps {
        let mut ips = PodIps::default();
        for ip in &pod.ips {
            match ip {
                IpAddr::V4(ip) if ips.v4.is_none_or(|old| old == *ip) => ips.v4 = Some(*ip),
                IpAddr::V6(ip) if ips.v6.is_none_or(|old| old == *ip) => ips.v6 = Some(*ip),
                ip => {
                    let message =
                        format!("{ip} is a second address of its family; one each is served");
                    self.report(object, "status.podIPs", message);
                    // It is the pod's all the same.
                    self.left_out.push(*ip);
                }
            }
        }
        ips
    }

    /// A policy selects by labels. A pod of which they are not known is
    /// selected by one that stands for all that may: nobody is let in.
    fn labels(&mut self, object: &Object) -> BTreeMap<String, String> {
        let meta = &object.meta;
        let mut labels = meta.labels.clone();
        if self.is_unread(object, Part::Labels) {
            let own = (UNREADABLE.to_owned(), meta.name.clone());
            labels.extend([own.clone()]);
            self.snapshot.policies.push(AuthorizationPolicy {
                namespace: meta.namespace().to_owned(),
                name: format!("(unreadable labels of Pod {})", meta.name),
                action: Action::Deny,
                dry_run: false,
                scope: Scope::Labels(BTreeMap::from([own])),
                rules: Vec::new(),
                broken: Some("the Pod's labels cannot be read".to_owned()),
            });
        }
        labels
    }

    /// Label of the pod, else of the namespace. A value that is not understood
    /// means enrolled and closed: it must never end in plaintext.
    fn enrolment(&mut self, object: &Object) -> Enrolment {
        let enrolled = match self.setting(object, Part::Labels, ENROLLED) {
            Setting::None => false,
            Setting::Unknown => true,
            Setting::Value("false") => false,
            Setting::Value("true") => true,
            Setting::Value(other) => {
                let message = format!(
                    "{ENROLLED} is {other:?}, expected \"true\" or \"false\"; taken as \"true\""
                );
                self.report(object, "metadata.labels", message);
                true
            }
        };
        if !enrolled {
            return Enrolment::No;
        }
        Enrolment::Yes(
            match self.setting(object, Part::Annotations, ON_AGENT_DOWN) {
                Setting::Value("open") => OnAgentDown::Open,
                Setting::None | Setting::Unknown | Setting::Value("closed") => OnAgentDown::Closed,
                Setting::Value(other) => {
                    let message = format!(
                        "{ON_AGENT_DOWN} is {other:?}, expected \"closed\" or \"open\"; taken as \"closed\""
                    );
                    self.report(object, "metadata.annotations", message);
                    OnAgentDown::Closed
                }
            },
        )
    }

    /// A label or annotation of the pod, else of its namespace. Where the nearer
    /// one cannot be read, the farther one is not asked.
    fn setting(&self, object: &'o Object, part: Part, name: &str) -> Setting<'o> {
        let namespace = object.meta.namespace();
        let known = self.namespaces.get(namespace).copied();
        for object in [Some(object), known].into_iter().flatten() {
            let texts = match part {
                Part::Annotations => &object.meta.annotations,
                _ => &object.meta.labels,
            };
            if let Some(value) = texts.get(name) {
                return Setting::Value(value);
            }
            if object.unread.contains(&part) {
                return Setting::Unknown;
            }
        }
        let may_say = |u: &&Unknown| u.hides_namespaces || u.namespaces.contains(namespace);
        match known.is_none() && self.unknown.iter().any(may_say) {
            true => Setting::Unknown,
            false => Setting::None,
        }
    }

    /// An account that cannot be read is no name: nobody proves to be it.
    fn account(&self, object: &Object, pod: &Pod) -> String {
        match &pod.service_account_name {
            _ if self.is_unread(object, Part::Account) => String::new(),
            Some(account) if !account.is_empty() => account.clone(),
            _ => "default".to_owned(),
        }
    }

    /// Never the pod's own addresses, nor what is no address: those stay captured.
    fn excluded(&mut self, object: &Object, pod: &Pod) -> Vec<IpAddr> {
        let Some(text) = object.meta.annotations.get(EXCLUDED) else {
            return Vec::new();
        };
        let known = object.unread.is_empty();
        let mut excluded = Vec::new();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            match part.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
                Ok(ip) if known && !pod.ips.contains(&ip) && excluded.len() < MAX_EXCLUDED => excluded.push(ip),
                _ => self.report(
                    object,
                    "metadata.annotations",
                    format!("{EXCLUDED} has {part:?}, expected at most {MAX_EXCLUDED} addresses that are not in status.podIPs; it stays refused"),
                ),
            }
        }
        excluded
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
        for (ip, claimants) in claims {
            let mut claimants = self.stay(ip, claimants);
            if claimants.len() == 1 {
                self.snapshot.by_ip.extend(claimants.pop().map(|w| (ip, w)));
                continue;
            }
            if claimants.iter().any(|w| w.is_enrolled()) {
                self.snapshot.withheld.insert(ip, Withheld::Contested);
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
                self.strip(&workload.key, ip);
            }
        }
    }

    /// A pod that ends loses a contested address to those that do not.
    fn stay(&mut self, ip: IpAddr, claimants: Vec<Arc<Workload>>) -> Vec<Arc<Workload>> {
        let ends = |w: &Arc<Workload>| self.origins[&w.key].meta.deletion_timestamp.is_some();
        let (leaving, staying): (Vec<_>, Vec<_>) = claimants.into_iter().partition(ends);
        if staying.is_empty() {
            return leaving;
        }
        for workload in leaving {
            self.strip(&workload.key, ip);
        }
        staying
    }

    fn strip(&mut self, key: &WorkloadKey, ip: IpAddr) {
        if let Some(entry) = self.snapshot.workloads.get_mut(key) {
            let stripped = Arc::make_mut(entry);
            match ip {
                IpAddr::V4(_) => stripped.ips.v4 = None,
                IpAddr::V6(_) => stripped.ips.v6 = None,
            }
        }
    }
}

/// A label or annotation.
enum Setting<'o> {
    None,
    Value(&'o str),
    /// It may be there, and cannot be read.
    Unknown,
}
