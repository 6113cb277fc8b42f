//! Which policies select which workload.
//!
//! Those of the workload itself are one group, those of each Service that leads
//! to it another: what is allowed for one Service opens none beside it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::compile::Compiled;
use super::reach::{Ports, Reach, missing_service};
use crate::model::policy::{Action, AuthorizationPolicy, Scope};
use crate::model::{ServiceKey, Snapshot, Workload, WorkloadKey};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The policies for one workload; shared by all with the same ones.
#[derive(Debug, Default)]
pub(super) struct Entry {
    own: Group,
    services: Vec<(Reach, Group)>,
}

/// Policies that are asked together.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) deny: Vec<Arc<Compiled>>,
    pub(super) allow: Vec<Arc<Compiled>>,
    pub(super) dry_run: Vec<Arc<Compiled>>,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    entries: Map<WorkloadKey, Arc<Entry>>,
    policies: Vec<Arc<Compiled>>,
    selection: Selection,
}

/// Policies by how they select, as places in the snapshot's list.
#[derive(Debug, Default)]
struct Selection {
    /// With no labels asked for; `None` is the whole mesh.
    whole: Map<Option<String>, Vec<u32>>,
    /// By one of the labels asked for.
    labels: Map<(String, String), Vec<(u32, Labels)>>,
    services: BTreeMap<ServiceKey, Vec<u32>>,
}

#[derive(Debug)]
struct Labels {
    namespace: Option<String>,
    all: BTreeMap<String, String>,
}

/// What selects a workload.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Selected {
    own: Vec<u32>,
    services: Vec<(Reach, Vec<u32>)>,
}

impl Entry {
    /// The groups that a connection to `port` is of concern to, the workload's own first.
    pub(super) fn groups(&self, port: u16) -> impl Iterator<Item = (&Group, Ports<'_>)> {
        let bound = self.services.iter();
        let bound = bound.filter_map(move |(reach, group)| Some((group, reach.ports(port)?)));
        [(&self.own, Ports::Own(port))].into_iter().chain(bound)
    }
}

impl Group {
    fn make<'c>(selected: impl Iterator<Item = &'c Arc<Compiled>>) -> Self {
        let mut group = Self::default();
        for policy in selected.cloned() {
            match (policy.dry_run, policy.action) {
                (true, _) => group.dry_run.push(policy),
                (false, Action::Deny) => group.deny.push(policy),
                (false, Action::Allow) => group.allow.push(policy),
            }
        }
        group
    }
}

impl Index {
    /// Also how many workloads each policy selects.
    pub(super) fn build(snapshot: &Snapshot) -> (Self, Vec<usize>) {
        let compile = |p| Arc::new(Compiled::new(p, snapshot));
        let mut index = Self {
            policies: snapshot.policies.iter().map(compile).collect(),
            ..Self::default()
        };
        for (at, policy) in (0_u32..).zip(&snapshot.policies) {
            index.selection.add(at, policy, snapshot);
        }
        let behind = behind(snapshot, index.selection.services.keys());
        let mut counts = vec![0; snapshot.policies.len()];
        let mut shared: Map<Selected, Arc<Entry>> = Map::default();
        for workload in snapshot.workloads.values() {
            let services = behind.get(&workload.key).cloned().unwrap_or_default();
            let selected = index.selection.of(workload, services);
            for at in selected.each() {
                counts[at as usize] += 1;
            }
            let entry = match shared.get(&selected) {
                Some(entry) => entry.clone(),
                None => {
                    let entry = Arc::new(index.make(&selected));
                    shared.insert(selected, entry.clone());
                    entry
                }
            };
            index.entries.insert(workload.key.clone(), entry);
        }
        (index, counts)
    }

    /// A workload that the snapshot does not have (any more) is judged by its own labels.
    pub(super) fn entry<'i>(&'i self, workload: &Workload) -> Cow<'i, Arc<Entry>> {
        match self.entries.get(&workload.key) {
            Some(entry) => Cow::Borrowed(entry),
            None => {
                // Which services it was behind is forgotten: take them all.
                let services = self.selection.services.keys();
                let near = services.filter(|s| s.namespace == workload.key.namespace);
                let services = near.map(|s| (s, Reach::Unknown)).collect();
                let selected = self.selection.of(workload, services);
                Cow::Owned(Arc::new(self.make(&selected)))
            }
        }
    }

    /// In the order of the snapshot's policies.
    pub(super) fn compiled(&self) -> impl Iterator<Item = &Compiled> {
        self.policies.iter().map(|policy| &**policy)
    }

    fn make(&self, selected: &Selected) -> Entry {
        let group = |places: &[u32]| {
            let policies = places.iter().map(|at| &self.policies[*at as usize]);
            Group::make(policies)
        };
        let services = selected.services.iter();
        Entry {
            own: group(&selected.own),
            services: services
                .map(|(reach, places)| (reach.clone(), group(places)))
                .collect(),
        }
    }
}

impl Selected {
    fn each(&self) -> BTreeSet<u32> {
        let services = self.services.iter().flat_map(|(_, places)| places);
        self.own.iter().chain(services).copied().collect()
    }
}

impl Selection {
    fn add(&mut self, at: u32, policy: &AuthorizationPolicy, snapshot: &Snapshot) {
        let root = &snapshot.settings.root_namespace;
        let namespace = (policy.namespace != *root).then(|| policy.namespace.clone());
        match &policy.scope {
            Scope::Mesh => self.whole.entry(None).or_default().push(at),
            Scope::Namespace => self.whole.entry(namespace).or_default().push(at),
            Scope::Labels(labels) => match labels.first_key_value() {
                None => self.whole.entry(namespace).or_default().push(at),
                Some((key, value)) => {
                    let label = (key.clone(), value.clone());
                    let all = labels.clone();
                    let entry = self.labels.entry(label).or_default();
                    entry.push((at, Labels { namespace, all }));
                }
            },
            // Whose pods it was about is not known: so it is about all.
            Scope::Services(_) if missing_service(policy, snapshot).is_some() => {
                self.whole.entry(namespace).or_default().push(at);
            }
            Scope::Services(services) => {
                for service in services {
                    let places = self.services.entry(service.clone()).or_default();
                    if !places.contains(&at) {
                        places.push(at);
                    }
                }
            }
        }
    }

    /// Each policy once, in ascending order.
    fn of(&self, workload: &Workload, services: Vec<(&ServiceKey, Reach)>) -> Selected {
        let mut own = BTreeSet::new();
        for whole in [None, Some(workload.key.namespace.clone())] {
            own.extend(self.whole.get(&whole).into_iter().flatten().copied());
        }
        for (key, value) in &workload.labels {
            let asked = self.labels.get(&(key.clone(), value.clone()));
            for (at, labels) in asked.into_iter().flatten() {
                let here = labels
                    .namespace
                    .as_ref()
                    .is_none_or(|n| *n == workload.key.namespace);
                if here && has_labels(workload, &labels.all) {
                    own.insert(*at);
                }
            }
        }
        let places = |service| self.services.get(service).cloned().unwrap_or_default();
        Selected {
            own: own.into_iter().collect(),
            services: services
                .into_iter()
                .map(|(service, reach)| (reach, places(service)))
                .collect(),
        }
    }
}

pub(super) fn has_labels(workload: &Workload, labels: &BTreeMap<String, String>) -> bool {
    labels
        .iter()
        .all(|(k, v)| workload.labels.get(k) == Some(v))
}

/// Those of `services` that lead to each workload, and to which of its ports.
fn behind<'s>(
    snapshot: &Snapshot,
    services: impl Iterator<Item = &'s ServiceKey>,
) -> Map<WorkloadKey, Vec<(&'s ServiceKey, Reach)>> {
    let mut behind: Map<WorkloadKey, Vec<(&ServiceKey, Reach)>> = Map::default();
    for key in services {
        let Some(service) = snapshot.services.get(key) else {
            continue;
        };
        for workload in snapshot.workloads.values() {
            let selected = !service.selector.is_empty()
                && workload.key.namespace == key.namespace
                && has_labels(workload, &service.selector);
            if selected || workload.ips.iter().any(|ip| service.members.contains(&ip)) {
                let reach = Reach::of(service, workload, snapshot);
                behind
                    .entry(workload.key.clone())
                    .or_default()
                    .push((key, reach));
            }
        }
    }
    behind
}
