//! All policies of one snapshot, and how they follow the next one.
//!
//! Compiled by namespace, and resolved for the pods that connections are let
//! in to here: those of this node. For others it is done when it is asked.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::index::{Map, Policies, Resolver, WorkloadPolicies};
use super::peer::{Modes, PeerModeSource, Peers, is_of_mesh};
use super::status::PolicyStatus;
use crate::model::policy::{PeerAuthentication, PeerMode};
use crate::model::{Name, Namespaced, Snapshot, Workload, WorkloadKey};

/// Which pods connections are let in to here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Here {
    /// Any, for whoever asks about all.
    #[default]
    Everywhere,
    /// Those of the node.
    Node(String),
}

impl Here {
    fn is_here(&self, workload: &Workload) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Node(node) => workload.node == *node,
        }
    }
}

/// Where something changed that policies go by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Where<'n> {
    Anywhere,
    Namespaces(&'n BTreeSet<Name>),
}

/// Pods of which a connection may be judged differently now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rejudged(pub(crate) BTreeSet<WorkloadKey>);

/// A pod that connections are let in to here.
#[derive(Debug, PartialEq)]
struct Resolved {
    workload: Arc<Workload>,
    entry: WorkloadPolicies,
    modes: Modes,
}

/// All policies of one snapshot, compiled. A copy shares them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Authorizer {
    pub(super) generation: u64,
    /// That have any.
    namespaces: Arc<BTreeMap<Name, Arc<Policies>>>,
    /// That have any of their own.
    peers: Arc<BTreeMap<Name, Arc<Peers>>>,
    /// Of all other namespaces.
    mesh_peers: Arc<Peers>,
    resolved: Arc<Map<WorkloadKey, Arc<Resolved>>>,
    workloads: Namespaced<Workload>,
    unreadable_pods: Arc<BTreeSet<WorkloadKey>>,
    /// How many of its workloads the policies of all namespaces select, by
    /// namespace and policy.
    mesh_counts: Arc<BTreeMap<Name, MeshCounts>>,
    counts: Arc<BTreeMap<Name, Vec<usize>>>,
    pub(super) status: Arc<[PolicyStatus]>,
}

/// Of one namespace's workloads: by namespace and place of the policy.
type MeshCounts = Vec<(Name, Vec<(u32, usize)>)>;

impl Authorizer {
    /// By itself, for whoever asks once.
    #[must_use]
    pub(crate) fn compile(snapshot: &Snapshot) -> Self {
        let all = Where::Anywhere;
        Self::default().update(snapshot, all, &Here::Everywhere).0
    }

    /// The policies of `snapshot`, which differs from that of this authorizer in
    /// what is `changed` alone.
    #[must_use]
    pub(crate) fn update(
        &self,
        snapshot: &Snapshot,
        changed: Where<'_>,
        here: &Here,
    ) -> (Self, Rejudged) {
        let mut next = Self {
            generation: snapshot.generation,
            workloads: snapshot.workloads.clone(),
            unreadable_pods: snapshot.unreadable_pods.clone(),
            ..self.clone()
        };
        let namespaces = self.namespaces_of(snapshot, changed);
        let is_for_all = next.recompile(snapshot, &namespaces)
            | next.merge_peers(snapshot, &namespaces)
            | matches!(changed, Where::Anywhere);
        next.count(snapshot, &namespaces, is_for_all);
        let rejudged = next.resolve_again(self, snapshot, &namespaces, is_for_all, here);
        (next, rejudged)
    }

    /// Also those of which there is nothing any more.
    fn namespaces_of<'n>(
        &self,
        snapshot: &Snapshot,
        changed: Where<'n>,
    ) -> Cow<'n, BTreeSet<Name>> {
        match changed {
            Where::Namespaces(namespaces) => Cow::Borrowed(namespaces),
            Where::Anywhere => {
                let known = self.namespaces.keys().chain(self.peers.keys());
                let now = snapshot.policies.namespaces();
                let now = now.chain(snapshot.peer_authentications.namespaces());
                let pods = self.workloads.namespaces();
                let pods = pods.chain(snapshot.workloads.namespaces());
                Cow::Owned(known.chain(now).chain(pods).cloned().collect())
            }
        }
    }

    /// Are there other policies for all namespaces?
    fn recompile(&mut self, snapshot: &Snapshot, changed: &BTreeSet<Name>) -> bool {
        let mut is_for_all = false;
        for namespace in changed {
            let before = self.namespaces.get(namespace);
            let now = Policies::build(snapshot, namespace, before.map(|p| &**p));
            if before.is_none() && now.is_empty() {
                continue;
            }
            let none = Policies::default();
            is_for_all |= !now.is_same_mesh(before.map_or(&none, |p| p));
            let namespaces = Arc::make_mut(&mut self.namespaces);
            match now.is_empty() {
                true => namespaces.remove(namespace),
                false => namespaces.insert(namespace.clone(), Arc::new(now)),
            };
        }
        is_for_all
    }

    /// Are there others for all namespaces?
    fn merge_peers(&mut self, snapshot: &Snapshot, changed: &BTreeSet<Name>) -> bool {
        let root = &snapshot.settings.root_namespace;
        let all = snapshot.peer_authentications.iter();
        let of_mesh = all.filter(|peer| is_of_mesh(peer, root));
        let of_mesh: Vec<Arc<PeerAuthentication>> = of_mesh.cloned().collect();
        let is_same = self.mesh_peers.is_of(&of_mesh);
        if !is_same {
            self.mesh_peers = Arc::new(Peers::build(snapshot, "", &of_mesh));
        }
        let mut again: BTreeSet<&Name> = changed.iter().collect();
        if !is_same {
            again.extend(snapshot.peer_authentications.namespaces());
        }
        for namespace in again {
            let own = snapshot.peer_authentications.of(namespace);
            let has_own = own.iter().any(|peer| !is_of_mesh(peer, root));
            if !has_own && !self.peers.contains_key(namespace) {
                continue;
            }
            let peers = Arc::make_mut(&mut self.peers);
            match has_own {
                true => {
                    let merged = Peers::build(snapshot, namespace, &of_mesh);
                    peers.insert(namespace.clone(), Arc::new(merged))
                }
                false => peers.remove(namespace),
            };
        }
        !is_same
    }

    /// How many workloads each policy selects.
    fn count(&mut self, snapshot: &Snapshot, changed: &BTreeSet<Name>, is_for_all: bool) {
        let mut is_changed = is_for_all;
        let counts = Arc::make_mut(&mut self.counts);
        for namespace in changed {
            match self.namespaces.get(namespace) {
                Some(policies) => {
                    let now = policies.counts(snapshot, namespace);
                    counts.insert(namespace.clone(), now);
                    is_changed = true;
                }
                None => is_changed |= counts.remove(namespace).is_some(),
            }
        }
        let of_mesh: Vec<(&Name, &Arc<Policies>)> = self
            .namespaces
            .iter()
            .filter(|(_, policies)| policies.is_of_mesh())
            .collect();
        if is_for_all {
            self.mesh_counts = Arc::default();
        }
        if !of_mesh.is_empty() {
            let all: BTreeSet<&Name> = match is_for_all {
                true => snapshot.workloads.namespaces().collect(),
                false => changed.iter().collect(),
            };
            let mesh_counts = Arc::make_mut(&mut self.mesh_counts);
            for namespace in all {
                let of = |(of, policies): &(&Name, &Arc<Policies>)| {
                    ((*of).clone(), policies.mesh_counts(snapshot, namespace))
                };
                if snapshot.workloads.in_namespace(namespace).next().is_none() {
                    mesh_counts.remove(namespace);
                    continue;
                }
                mesh_counts.insert(namespace.clone(), of_mesh.iter().map(of).collect());
            }
            is_changed = true;
        }
        if is_changed {
            self.status = self.statuses();
        }
    }

    fn statuses(&self) -> Arc<[PolicyStatus]> {
        let mut of_mesh: BTreeMap<(&Name, u32), usize> = BTreeMap::new();
        for (namespace, counts) in self.mesh_counts.values().flatten() {
            for (at, count) in counts {
                *of_mesh.entry((namespace, *at)).or_default() += count;
            }
        }
        let mut all = Vec::new();
        for (namespace, policies) in &*self.namespaces {
            let own = self.counts.get(namespace).into_iter().flatten();
            let compiled = (0_u32..).zip(&policies.compiled);
            for ((at, compiled), own) in compiled.zip(own) {
                let of_mesh = of_mesh.get(&(namespace, at)).copied();
                let workloads = own + of_mesh.unwrap_or_default();
                all.push(PolicyStatus::of(compiled, workloads));
            }
        }
        all.into()
    }

    /// Of pods that are here, and may be judged differently.
    fn resolve_again(
        &mut self,
        before: &Self,
        snapshot: &Snapshot,
        changed: &BTreeSet<Name>,
        is_for_all: bool,
        here: &Here,
    ) -> Rejudged {
        let mut again: BTreeMap<WorkloadKey, Option<Arc<Workload>>> = BTreeMap::new();
        let known = before.resolved.keys();
        let gone = known.filter(|key| is_for_all || changed.contains(&key.namespace));
        again.extend(gone.map(|key| (key.clone(), None)));
        let members = self.members(before, changed);
        for (key, resolved) in &*before.resolved {
            if resolved.workload.ips.iter().any(|ip| members.contains(&ip)) {
                again.insert(key.clone(), None);
            }
        }
        for key in again.keys().cloned().collect::<Vec<_>>() {
            let workload = snapshot.workloads.get(&key);
            let workload = workload.filter(|workload| here.is_here(workload));
            again.insert(key, workload.cloned());
        }
        let all = is_for_all.then(|| snapshot.workloads.values());
        let some = changed
            .iter()
            .flat_map(|n| snapshot.workloads.in_namespace(n));
        for workload in all.into_iter().flatten().chain(some) {
            if here.is_here(workload) {
                again.insert(workload.key.clone(), Some(workload.clone()));
            }
        }
        let mut rejudged = Rejudged::default();
        for (key, workload) in again {
            let now = workload.map(|workload| Resolved {
                entry: self.resolver().entry(&workload),
                modes: self.peers_of(&workload).modes(&workload),
                workload,
            });
            if before.resolved.get(&key).map(|resolved| &**resolved) == now.as_ref() {
                continue;
            }
            let resolved = Arc::make_mut(&mut self.resolved);
            match now {
                Some(now) => resolved.insert(key.clone(), Arc::new(now)),
                None => resolved.remove(&key),
            };
            rejudged.0.insert(key);
        }
        rejudged
    }

    /// Addresses behind Services of these namespaces that policies are for, or
    /// were: their pods may be of other namespaces.
    fn members(&self, before: &Self, changed: &BTreeSet<Name>) -> BTreeSet<IpAddr> {
        let of = |authorizer: &Self, namespace| {
            let policies = authorizer.namespaces.get(namespace).cloned();
            let members = policies.iter().flat_map(|p| p.members().copied());
            members.collect::<Vec<_>>()
        };
        let both = |namespace| [of(self, namespace), of(before, namespace)];
        changed.iter().flat_map(both).flatten().collect()
    }

    fn resolver(&self) -> Resolver<'_> {
        Resolver {
            namespaces: &self.namespaces,
            unreadable_pods: &self.unreadable_pods,
        }
    }

    /// Reads the policies for a workload.
    pub(super) fn with_entry<T>(
        &self,
        workload: &Workload,
        read: impl FnOnce(&WorkloadPolicies) -> T,
    ) -> T {
        if let Some(resolved) = self.resolved.get(&workload.key) {
            return read(&resolved.entry);
        }
        match self.workloads.get(&workload.key) {
            Some(known) => read(&self.resolver().entry(known)),
            None => read(&self.resolver().forgotten(workload)),
        }
    }

    fn peers_of(&self, workload: &Workload) -> &Peers {
        let own = self.peers.get(&workload.key.namespace);
        own.map_or(&*self.mesh_peers, |peers| peers)
    }

    /// What `port` of the workload takes.
    #[must_use]
    pub(crate) fn peer_mode(&self, workload: &Workload, port: u16) -> PeerMode {
        match self.resolved.get(&workload.key) {
            Some(resolved) => resolved.modes.of(port).mode,
            None => self.peers_of(workload).mode(self.known(workload), port),
        }
    }

    /// What `port` of the workload takes, and the object that says so.
    #[must_use]
    pub(crate) fn peer_mode_by(&self, workload: &Workload, port: u16) -> PeerModeSource {
        self.peers_of(workload).decided(self.known(workload), port)
    }

    /// As the snapshot has it; one that is not there by its own labels.
    fn known<'w>(&'w self, workload: &'w Workload) -> &'w Workload {
        self.workloads
            .get(&workload.key)
            .map_or(workload, |known| known)
    }

    /// Of all policies, by name.
    #[must_use]
    pub(crate) fn status(&self) -> &[PolicyStatus] {
        &self.status
    }
}
