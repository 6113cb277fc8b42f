//! Which policies select which workload.
//!
//! Those of the workload itself are one group, those of each Service that leads
//! to it another: what is allowed for one Service opens none beside it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::compile::Compiled;
use super::reach::{Ports, Reach, has_labels, is_selected, leads_to, missing_service};
use crate::model::policy::{Action, AuthorizationPolicy, Scope};
use crate::model::{Name, Service, ServiceKey, Snapshot, Workload, WorkloadKey};

pub(super) type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The policies for one workload.
#[derive(Debug, Default, PartialEq)]
pub(super) struct WorkloadPolicies {
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

/// Those of one namespace, in the order of names.
#[derive(Debug, Default)]
pub(super) struct Policies {
    pub(super) compiled: Vec<Arc<Compiled>>,
    /// Of pods of the namespace.
    own: Selection,
    /// Of pods of all namespaces.
    mesh: Selection,
    targets: Vec<Target>,
}

/// Places in the list, by how the policies there select.
#[derive(Debug, Default)]
struct Selection {
    /// With no labels asked for.
    whole: Vec<u32>,
    /// By one of the labels asked for.
    labels: Map<(String, String), Vec<(u32, Labels)>>,
}

type Labels = BTreeMap<String, String>;

/// A Service that policies are for.
#[derive(Debug)]
struct Target {
    service: Arc<Service>,
    policies: Vec<u32>,
}

impl WorkloadPolicies {
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

/// The very same policies: what is compiled from the same object stays one.
impl PartialEq for Group {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &[Arc<Compiled>], b: &[Arc<Compiled>]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        same(&self.deny, &other.deny)
            && same(&self.allow, &other.allow)
            && same(&self.dry_run, &other.dry_run)
    }
}

impl Policies {
    /// What is compiled from the same as in `before` is not compiled again.
    pub(super) fn build(snapshot: &Snapshot, namespace: &str, before: Option<&Self>) -> Self {
        let mut known: Map<*const AuthorizationPolicy, &Arc<Compiled>> = Map::default();
        for compiled in before.iter().flat_map(|before| &before.compiled) {
            known.insert(Arc::as_ptr(&compiled.policy), compiled);
        }
        let mut policies = Self::default();
        for (at, policy) in (0_u32..).zip(snapshot.policies.of(namespace)) {
            let missing = missing_service(policy, snapshot);
            let same = known.get(&Arc::as_ptr(policy));
            let same = same.filter(|same| same.missing.as_ref() == missing);
            let compiled = match same {
                Some(same) => (*same).clone(),
                None => Arc::new(Compiled::new(policy, missing, &snapshot.settings)),
            };
            policies.compiled.push(compiled);
            policies.add(at, policy, snapshot);
        }
        policies
    }

    fn add(&mut self, at: u32, policy: &AuthorizationPolicy, snapshot: &Snapshot) {
        let is_root = policy.namespace == snapshot.settings.root_namespace;
        let reach = match is_root || policy.scope == Scope::Mesh {
            true => &mut self.mesh,
            false => &mut self.own,
        };
        match &policy.scope {
            Scope::Mesh | Scope::Namespace => reach.whole.push(at),
            Scope::Labels(labels) => match labels.first_key_value() {
                None => reach.whole.push(at),
                Some((key, value)) => {
                    let label = (key.clone(), value.clone());
                    let of_label = reach.labels.entry(label).or_default();
                    of_label.push((at, labels.clone()));
                }
            },
            // Whose pods it was about is not known: so it is about all.
            Scope::Services(_) if missing_service(policy, snapshot).is_some() => {
                reach.whole.push(at);
            }
            Scope::Services(services) => {
                for service in services {
                    self.target(at, service, snapshot);
                }
            }
        }
    }

    /// In the order of names.
    fn target(&mut self, at: u32, key: &ServiceKey, snapshot: &Snapshot) {
        let place = self.targets.binary_search_by(|t| t.service.key.cmp(key));
        let place = match (place, snapshot.services.get(key)) {
            (Ok(place), _) => place,
            (Err(place), Some(service)) => {
                let target = Target {
                    service: service.clone(),
                    policies: Vec::new(),
                };
                self.targets.insert(place, target);
                place
            }
            // Then it is missing, and is no target.
            (Err(_), None) => return,
        };
        let policies = &mut self.targets[place].policies;
        if !policies.contains(&at) {
            policies.push(at);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.compiled.is_empty()
    }

    pub(super) fn is_of_mesh(&self) -> bool {
        !self.mesh.is_empty()
    }

    /// The same policies for all namespaces as those of `other`, at the same places.
    pub(super) fn is_same_mesh(&self, other: &Self) -> bool {
        let both = [self, other].map(|p| {
            let places: Vec<u32> = p.mesh.places().collect();
            let of = |at: u32| (at, Arc::as_ptr(&p.compiled[at as usize]));
            places.into_iter().map(of).collect::<BTreeSet<_>>()
        });
        both[0] == both[1]
    }

    /// Addresses of all that are behind the Services that policies are for.
    pub(super) fn members(&self) -> impl Iterator<Item = &IpAddr> {
        self.targets.iter().flat_map(|t| &t.service.members)
    }

    /// Those that select the workload by itself, in order.
    pub(super) fn own(&self, workload: &Workload, is_here: bool) -> Vec<&Arc<Compiled>> {
        let mut places = BTreeSet::new();
        self.mesh.select(workload, &mut places);
        if is_here {
            self.own.select(workload, &mut places);
        }
        let compiled = |at: u32| &self.compiled[at as usize];
        places.into_iter().map(compiled).collect()
    }

    /// How many workloads of the namespace each policy selects, and for those
    /// of all namespaces none yet.
    pub(super) fn counts(&self, snapshot: &Snapshot, namespace: &str) -> Vec<usize> {
        let mut counts = vec![0; self.compiled.len()];
        if !self.own.is_empty() {
            for workload in snapshot.workloads.in_namespace(namespace) {
                let mut places = BTreeSet::new();
                self.own.select(workload, &mut places);
                for at in places {
                    counts[at as usize] += 1;
                }
            }
        }
        let mut behind: BTreeMap<u32, BTreeSet<&WorkloadKey>> = BTreeMap::new();
        for target in &self.targets {
            let own = snapshot.workloads.in_namespace(namespace);
            let own = own.filter(|workload| target.is_selected(workload));
            let members = target.service.members.iter();
            let members = members.filter_map(|ip| snapshot.by_ip.get(ip));
            let keys: Vec<&WorkloadKey> = own.chain(members).map(|w| &w.key).collect();
            for at in &target.policies {
                behind.entry(*at).or_default().extend(&keys);
            }
        }
        for (at, keys) in behind {
            counts[at as usize] += keys.len();
        }
        counts
    }

    /// How many workloads of a namespace each of the policies for all
    /// namespaces selects.
    pub(super) fn mesh_counts(&self, snapshot: &Snapshot, namespace: &str) -> Vec<(u32, usize)> {
        let workloads = || snapshot.workloads.in_namespace(namespace);
        let whole = self.mesh.whole.iter();
        let mut counts: BTreeMap<u32, usize> = whole.map(|at| (*at, workloads().count())).collect();
        if !self.mesh.labels.is_empty() {
            for workload in workloads() {
                let mut places = BTreeSet::new();
                self.mesh.by_label(workload, &mut places);
                for at in places {
                    *counts.entry(at).or_default() += 1;
                }
            }
        }
        counts.into_iter().collect()
    }

    fn group(&self, places: &[u32]) -> Group {
        Group::make(places.iter().map(|at| &self.compiled[*at as usize]))
    }
}

impl Selection {
    fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.labels.is_empty()
    }

    fn places(&self) -> impl Iterator<Item = u32> {
        let labels = self.labels.values().flatten().map(|(at, _)| *at);
        self.whole.iter().copied().chain(labels)
    }

    fn select(&self, workload: &Workload, places: &mut BTreeSet<u32>) {
        places.extend(&self.whole);
        self.by_label(workload, places);
    }

    fn by_label(&self, workload: &Workload, places: &mut BTreeSet<u32>) {
        if self.labels.is_empty() {
            return;
        }
        for (key, value) in workload.labels.iter() {
            let asked = self.labels.get(&(key.clone(), value.clone()));
            for (at, all) in asked.into_iter().flatten() {
                if has_labels(workload, all) {
                    places.insert(*at);
                }
            }
        }
    }
}

impl Target {
    fn is_selected(&self, workload: &Workload) -> bool {
        is_selected(&self.service, workload)
    }

    fn leads_to(&self, workload: &Workload) -> bool {
        leads_to(&self.service, workload)
    }
}

/// What a workload is resolved by.
pub(super) struct Resolver<'e> {
    pub(super) namespaces: &'e BTreeMap<Name, Arc<Policies>>,
    pub(super) unreadable_pods: &'e BTreeSet<WorkloadKey>,
}

impl Resolver<'_> {
    /// The policies for a workload of the snapshot.
    pub(super) fn entry(&self, workload: &Workload) -> WorkloadPolicies {
        let services = self.services(|target| {
            target.leads_to(workload).then(|| {
                let is_unreadable = self.unreadable_pods.contains(&workload.key);
                Reach::of(&target.service, workload, is_unreadable)
            })
        });
        self.with(workload, services)
    }

    /// A workload that the snapshot does not have (any more) is judged by its
    /// own labels. Which services it was behind is forgotten: take them all.
    pub(super) fn forgotten(&self, workload: &Workload) -> WorkloadPolicies {
        let services = self.services(|target| {
            let is_near = target.service.key.namespace == workload.key.namespace;
            is_near.then_some(Reach::Unknown)
        });
        self.with(workload, services)
    }

    fn with(&self, workload: &Workload, services: Vec<(Reach, Group)>) -> WorkloadPolicies {
        let own = self.namespaces.iter().flat_map(|(namespace, policies)| {
            let is_here = *namespace == workload.key.namespace;
            match is_here || policies.is_of_mesh() {
                true => policies.own(workload, is_here),
                false => Vec::new(),
            }
        });
        WorkloadPolicies {
            own: Group::make(own),
            services,
        }
    }

    fn services(&self, reach: impl Fn(&Target) -> Option<Reach>) -> Vec<(Reach, Group)> {
        let mut services = Vec::new();
        for policies in self.namespaces.values() {
            for target in &policies.targets {
                services.extend(reach(target).map(|reach| {
                    let group = policies.group(&target.policies);
                    (reach, group)
                }));
            }
        }
        services
    }
}
