//! Which policies select which workload.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Entry;
use super::compile::Compiled;
use crate::model::policy::{Action, AuthorizationPolicy, Scope};
use crate::model::{ServiceKey, Snapshot, Workload, WorkloadKey};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

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
    services: Map<ServiceKey, Vec<u32>>,
}

#[derive(Debug)]
struct Labels {
    namespace: Option<String>,
    all: std::collections::BTreeMap<String, String>,
}

impl Index {
    /// Also how many workloads each policy selects.
    pub(super) fn build(snapshot: &Snapshot) -> (Self, Vec<usize>) {
        let compile = |p| Arc::new(Compiled::new(p, snapshot.generation));
        let mut index = Self {
            policies: snapshot.policies.iter().map(compile).collect(),
            ..Self::default()
        };
        for (at, policy) in (0_u32..).zip(&snapshot.policies) {
            index
                .selection
                .add(at, policy, &snapshot.settings.root_namespace);
        }
        let behind = services(snapshot);
        let mut counts = vec![0; snapshot.policies.len()];
        let mut shared: Map<Vec<u32>, Arc<Entry>> = Map::default();
        for workload in snapshot.workloads.values() {
            let services = behind.get(&workload.key).map_or(&[][..], Vec::as_slice);
            let selected = index.selection.of(workload, services);
            for &at in &selected {
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
                let services: Vec<&ServiceKey> = self
                    .selection
                    .services
                    .keys()
                    .filter(|s| s.namespace == workload.key.namespace)
                    .collect();
                let selected = self.selection.of(workload, &services);
                Cow::Owned(Arc::new(self.make(&selected)))
            }
        }
    }

    fn make(&self, selected: &[u32]) -> Entry {
        let mut entry = Entry::default();
        for &at in selected {
            let policy = self.policies[at as usize].clone();
            match (policy.dry_run, policy.action) {
                (true, _) => entry.dry_run.push(policy),
                (false, Action::Deny) => entry.deny.push(policy),
                (false, Action::Allow) => entry.allow.push(policy),
            }
        }
        entry
    }
}

impl Selection {
    fn add(&mut self, at: u32, policy: &AuthorizationPolicy, root: &str) {
        let namespace = (policy.namespace != root).then(|| policy.namespace.clone());
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
            Scope::Services(services) => {
                for service in services {
                    self.services.entry(service.clone()).or_default().push(at);
                }
            }
        }
    }

    /// In ascending order, each once.
    fn of(&self, workload: &Workload, services: &[&ServiceKey]) -> Vec<u32> {
        let mut selected = BTreeSet::new();
        for whole in [None, Some(workload.key.namespace.clone())] {
            selected.extend(self.whole.get(&whole).into_iter().flatten());
        }
        for (key, value) in &workload.labels {
            let asked = self.labels.get(&(key.clone(), value.clone()));
            for (at, labels) in asked.into_iter().flatten() {
                let here = labels
                    .namespace
                    .as_ref()
                    .is_none_or(|n| *n == workload.key.namespace);
                if here && has_labels(workload, &labels.all) {
                    selected.insert(*at);
                }
            }
        }
        for service in services {
            selected.extend(self.services.get(*service).into_iter().flatten());
        }
        selected.into_iter().collect()
    }
}

pub(super) fn has_labels(
    workload: &Workload,
    labels: &std::collections::BTreeMap<String, String>,
) -> bool {
    labels
        .iter()
        .all(|(k, v)| workload.labels.get(k) == Some(v))
}

/// The services that policies name, by the workloads behind them.
fn services(snapshot: &Snapshot) -> Map<WorkloadKey, Vec<&ServiceKey>> {
    let mut behind: Map<WorkloadKey, Vec<&ServiceKey>> = Map::default();
    let named: BTreeSet<&ServiceKey> = snapshot
        .policies
        .iter()
        .filter_map(|p| match &p.scope {
            Scope::Services(services) => Some(services),
            _ => None,
        })
        .flatten()
        .collect();
    for key in named {
        let Some(service) = snapshot.services.get(key) else {
            continue;
        };
        for workload in snapshot.workloads.values() {
            let selected = !service.selector.is_empty()
                && workload.key.namespace == key.namespace
                && has_labels(workload, &service.selector);
            if selected || workload.ips.iter().any(|ip| service.members.contains(&ip)) {
                behind.entry(workload.key.clone()).or_default().push(key);
            }
        }
    }
    behind
}
