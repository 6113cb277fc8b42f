//! Pods: addresses, enrolment, where they live.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::address::Holder;
use super::entry::{Made, ObjectEntry};
use super::id::ObjectId;
use super::state::{Step, Store};
use crate::discovery::Problem;
use crate::discovery::kinds::{ENROLLED, KindId, Part, Parts, Pod};
use crate::discovery::objects::{Kind, Object};
use crate::model::policy::{Action, AuthorizationPolicy, Scope};
use crate::model::{
    Enrolment, Labels, Name, NetnsRef, OnAgentDown, OnNode, Outside, PodIps, Unfit, Workload,
    WorkloadKey,
};

const EXCLUDED: &str = "mesh-agent.io/exclude-addresses";
const MAX_EXCLUDED: usize = 16;
const ON_AGENT_DOWN: &str = "mesh-agent.io/on-agent-down";
const CGROUP: &str = "mesh-agent.io/cgroup";
const ALLOW_CONNECT: &str = "mesh-agent.io/allow-connect";
const CLIENT_CERT: &str = "mesh-agent.io/forward-client-cert-details";
/// Of a pod whose labels cannot be read; its value is the pod's name.
const UNREADABLE: &str = "mesh-agent.io/unreadable";

/// What a Pod comes to by itself.
#[derive(Default)]
pub(super) struct MadePod {
    pub(super) made: Made,
    pub(super) problems: Vec<Problem>,
    pub(super) left_out: BTreeSet<IpAddr>,
    /// It may be in the mesh, and not all of it is known.
    pub(super) is_unreadable: bool,
    pub(super) deny: Option<AuthorizationPolicy>,
}

/// A Pod while something is made of it.
struct Maker<'s> {
    store: &'s Store,
    object: &'s Object,
    pod: &'s Pod,
    /// What two versions of it say differently.
    contradicted: Parts,
    namespace: Option<&'s Object>,
    out: MadePod,
}

/// A label or annotation.
enum Setting<'o> {
    None,
    Value(&'o str),
    /// It may be there, and cannot be read.
    Unknown,
}

impl Store {
    pub(super) fn make_pod(&self, key: &WorkloadKey) -> MadePod {
        let entry = self.objects.get(&ObjectId::pod(key));
        let Some((entry, object, pod)) = entry.and_then(parts) else {
            return MadePod::default();
        };
        let namespace = ObjectId {
            kind: KindId::Namespace,
            namespace: Name::default(),
            name: key.namespace.clone(),
        };
        let mut maker = Maker {
            store: self,
            object,
            pod,
            contradicted: entry.contradicted(),
            namespace: self.effective(&namespace).map(|object| &**object),
            out: MadePod::default(),
        };
        maker.out.made = maker.make(key);
        maker.out
    }

    /// It is to be in the mesh, and is left alone.
    pub(super) fn note_asked_on_host(&mut self, key: &WorkloadKey) {
        let node = match self.made(key) {
            Made::OnHost(node) => node.clone(),
            Made::Nothing | Made::Pod(_) => None,
        };
        if self.snapshot.asked_on_host.get(key) == node.as_ref() {
            return;
        }
        let all = Arc::make_mut(&mut self.snapshot.asked_on_host);
        match node {
            Some(node) => all.insert(key.clone(), node),
            None => all.remove(key),
        };
        self.dirty.touched.snapshot = true;
    }

    /// A Pod without the addresses that others have, too. Tells of these.
    pub(super) fn finish_pod(&mut self, key: &WorkloadKey) -> Option<Arc<Workload>> {
        let id = ObjectId::pod(key);
        let entry = self.objects.get(&id);
        let workload = match entry.map(|entry| &entry.made) {
            Some(Made::Pod(workload)) => Some(workload.clone()),
            _ => None,
        };
        let mut problems = Vec::new();
        let finished = workload.map(|mut workload| {
            let lost: Vec<(IpAddr, Holder)> = workload
                .ips
                .iter()
                .map(|ip| (ip, self.holder(ip)))
                .filter(|(_, holder)| *holder != Holder::One(key.clone()))
                .collect();
            for (ip, holder) in lost {
                problems.extend(self.contested(&id, ip, &holder));
                let ips = &mut Arc::make_mut(&mut workload).ips;
                match ip {
                    IpAddr::V4(_) => ips.v4 = None,
                    IpAddr::V6(_) => ips.v6 = None,
                }
            }
            workload
        });
        self.tell(&id, Step::Addresses, problems);
        finished
    }

    /// One that ends says nothing of an address that it loses.
    fn contested(&self, id: &ObjectId, ip: IpAddr, holder: &Holder) -> Option<Problem> {
        let Holder::Contested(pods) = holder else {
            return None;
        };
        if !pods.contains(&id.workload_key()) {
            return None;
        }
        let names: Vec<String> = pods.iter().map(ToString::to_string).collect();
        let names = names.join(" and ");
        let message = format!("{ip} is the address of {names}: none of them gets it");
        Some(self.effective(id)?.problem("status.podIP", message))
    }
}

fn parts(entry: &ObjectEntry) -> Option<(&ObjectEntry, &Object, &Pod)> {
    let object = entry.effective.as_deref()?;
    match &object.kind {
        Kind::Pod(pod) => Some((entry, object, pod)),
        _ => None,
    }
}

impl<'s> Maker<'s> {
    fn report(&mut self, field: &str, message: String) {
        let problem = self.object.problem(field, message);
        self.out.problems.push(problem);
    }

    fn make(&mut self, key: &WorkloadKey) -> Made {
        let (object, pod) = (self.object, self.pod);
        if pod.is_over() {
            return Made::Nothing;
        }
        if pod.host_network {
            let label = self.setting(Part::Labels, ENROLLED);
            let is_asked = !matches!(label, Setting::None | Setting::Value("false"));
            return Made::OnHost(is_asked.then(|| pod.node_name.clone()));
        }
        if self.is_before_its_namespace() {
            self.out.left_out = pod.ips.iter().copied().collect();
            self.out.is_unreadable = true;
            return Made::Nothing;
        }
        let meta = &object.meta;
        let uid = meta.uid.clone();
        let workload = Workload {
            key: key.clone(),
            uid: uid.unwrap_or_else(|| format!("{}/{}", meta.namespace(), meta.name).into()),
            ips: self.ips(),
            node: pod.node_name.clone(),
            service_account: self.account(),
            app: ["app.kubernetes.io/name", "app"]
                .iter()
                .find_map(|l| meta.labels.get(l).map(Name::from))
                .unwrap_or_else(|| meta.name.clone()),
            labels: self.labels(),
            enrolment: self.enrolment(),
            ports: pod.ports.clone(),
            on_node: self.on_node(),
        };
        let whole = object.unread.is_empty() && self.contradicted.is_empty();
        // One that starts has none yet; who made it need not correct anything.
        if workload.is_enrolled() && workload.ips.is_empty() && whole && !pod.is_starting() {
            let message = "an enrolled pod needs an address".to_owned();
            self.report("status.podIP", message);
        }
        self.out.is_unreadable = workload.is_enrolled() && !whole;
        Made::Pod(Arc::new(workload))
    }

    fn ips(&mut self) -> PodIps {
        let mut ips = PodIps::default();
        for ip in &self.pod.ips {
            match ip {
                IpAddr::V4(ip) if ips.v4.is_none_or(|old| old == *ip) => ips.v4 = Some(*ip),
                IpAddr::V6(ip) if ips.v6.is_none_or(|old| old == *ip) => ips.v6 = Some(*ip),
                ip => {
                    let message =
                        format!("{ip} is a second address of its family; one each is served");
                    self.report("status.podIPs", message);
                    // It is the pod's all the same.
                    self.out.left_out.insert(*ip);
                }
            }
        }
        ips
    }

    /// Cannot be understood, or is said in two ways.
    fn is_unread(&self, part: Part) -> bool {
        self.object.unread.contains(part) || self.contradicted.contains(part)
    }

    /// A policy selects by labels. A pod of which they are not known is
    /// selected by one that stands for all that may: nobody is let in.
    fn labels(&mut self) -> Labels {
        let meta = &self.object.meta;
        let mut labels = meta.labels.clone();
        if self.is_unread(Part::Labels) {
            let own = (UNREADABLE.to_owned(), meta.name.to_string());
            labels.change(|all| all.extend([own.clone()]));
            self.out.deny = Some(AuthorizationPolicy {
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
    fn enrolment(&mut self) -> Enrolment {
        let outside = match self.setting(Part::Labels, ENROLLED) {
            Setting::None => Some(Outside::NotAsked),
            Setting::Value("false") => Some(Outside::OptedOut),
            Setting::Unknown | Setting::Value("true") => None,
            Setting::Value(other) => {
                let message = format!(
                    "{ENROLLED} is {other:?}, expected \"true\" or \"false\"; taken as \"true\""
                );
                self.report("metadata.labels", message);
                None
            }
        };
        if let Some(outside) = outside {
            return Enrolment::No(outside);
        }
        if matches!(self.pod.on_node.unfit, Some(Unfit::AnotherMesh(_))) {
            return Enrolment::No(Outside::AnotherMesh);
        }
        Enrolment::Yes(match self.setting(Part::Annotations, ON_AGENT_DOWN) {
            Setting::Value("open") => OnAgentDown::Open,
            Setting::None | Setting::Unknown | Setting::Value("closed") => OnAgentDown::Closed,
            Setting::Value(other) => {
                let message = format!(
                    "{ON_AGENT_DOWN} is {other:?}, expected \"closed\" or \"open\"; taken as \"closed\""
                );
                self.report("metadata.annotations", message);
                OnAgentDown::Closed
            }
        })
    }

    /// With what its namespace may say instead of it. A value that is not understood
    /// tells the application nothing.
    fn on_node(&mut self) -> Arc<OnNode> {
        let of_pod = &self.pod.on_node;
        let forwards_client_cert = match self.setting(Part::Annotations, CLIENT_CERT) {
            Setting::Value("SANITIZE_SET") => true,
            Setting::None | Setting::Unknown | Setting::Value("SANITIZE") => false,
            Setting::Value(other) => {
                let message = format!(
                    "{CLIENT_CERT} is {other:?}, expected \"SANITIZE\" or \"SANITIZE_SET\"; taken as \"SANITIZE\""
                );
                self.report("metadata.annotations", message);
                false
            }
        };
        let allows_connect = match self.setting(Part::Annotations, ALLOW_CONNECT) {
            Setting::Value("true") => true,
            Setting::None | Setting::Unknown | Setting::Value("false") => false,
            Setting::Value(other) => {
                let message = format!(
                    "{ALLOW_CONNECT} is {other:?}, expected \"true\" or \"false\"; taken as \"false\""
                );
                self.report("metadata.annotations", message);
                false
            }
        };
        let annotations = &self.object.meta.annotations;
        let all = OnNode {
            netns: self.netns(),
            cgroup: annotations.get(CGROUP).map(PathBuf::from),
            excluded: self.excluded(),
            unfit: self.unfit(),
            forwards_client_cert,
            allows_connect,
            ..OnNode::clone(of_pod)
        };
        match all == **of_pod {
            true => of_pod.clone(),
            false => Arc::new(all),
        }
    }

    /// By itself, or by its runtime class.
    fn unfit(&self) -> Option<Unfit> {
        let of_pod = self.pod.on_node.unfit.clone();
        if of_pod.is_some() {
            return of_pod;
        }
        if self.is_unread(Part::Class) {
            return Some(Unfit::UnknownRuntime("(unreadable)".into()));
        }
        let class = self.pod.runtime_class.as_ref()?;
        self.store.unfit_by_class(class)
    }

    /// Neither in the mesh nor outside of it: what says so has not been told yet.
    /// It is as one that cannot be read: nothing goes to it in plaintext, what is
    /// enrolled stays so, and who waits for it waits on.
    fn is_before_its_namespace(&self) -> bool {
        self.store.tells_namespaces
            && self.namespace.is_none()
            && matches!(self.setting(Part::Labels, ENROLLED), Setting::None)
    }

    /// A label or annotation of the pod, else of its namespace. Where the nearer
    /// one cannot be read, the farther one is not asked.
    fn setting(&self, part: Part, name: &str) -> Setting<'s> {
        for object in [Some(self.object), self.namespace].into_iter().flatten() {
            let texts = match part {
                Part::Annotations => &object.meta.annotations,
                _ => &object.meta.labels,
            };
            if let Some(value) = texts.get(name) {
                return Setting::Value(value);
            }
            if object.unread.contains(part) {
                return Setting::Unknown;
            }
        }
        let hidden = &self.store.hidden.all;
        let namespace = self.object.meta.namespace();
        let may_say = hidden.hides_namespaces || hidden.namespaces.contains(namespace);
        match self.namespace.is_none() && may_say {
            true => Setting::Unknown,
            false => Setting::None,
        }
    }

    /// An account that cannot be read is no name: nobody proves to be it.
    fn account(&self) -> Name {
        match &self.pod.service_account_name {
            _ if self.is_unread(Part::Account) => Name::default(),
            Some(account) if !account.is_empty() => account.clone(),
            _ => "default".into(),
        }
    }

    /// Never the pod's own addresses, nor what is no address: those stay captured.
    fn excluded(&mut self) -> Vec<IpAddr> {
        let Some(text) = self.object.meta.annotations.get(EXCLUDED) else {
            return Vec::new();
        };
        let known = self.object.unread.is_empty();
        let mut excluded = Vec::new();
        let parts = text.split(',').map(str::trim);
        for part in parts.filter(|part| !part.is_empty()) {
            match part.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
                Ok(ip)
                    if known && !self.pod.ips.contains(&ip) && excluded.len() < MAX_EXCLUDED =>
                {
                    excluded.push(ip);
                }
                _ => self.report(
                    "metadata.annotations",
                    format!("{EXCLUDED} has {part:?}, expected at most {MAX_EXCLUDED} addresses that are not in status.podIPs; it stays refused"),
                ),
            }
        }
        excluded
    }

    fn netns(&mut self) -> Option<NetnsRef> {
        let object = self.object;
        let get = |name| object.meta.annotations.get(name);
        if let Some(path) = get("mesh-agent.io/netns") {
            return Some(NetnsRef::Path(path.into()));
        }
        if let Some(pid) = get("mesh-agent.io/pid") {
            let number = pid.parse();
            if number.is_err() {
                let message = format!("mesh-agent.io/pid is {pid:?}, expected a process number");
                self.report("metadata.annotations", message);
            }
            return number.ok().map(NetnsRef::Pid);
        }
        get(CGROUP).map(|dir| NetnsRef::Cgroup(dir.into()))
    }
}
