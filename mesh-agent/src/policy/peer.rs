//! PeerAuthentication as Istio merges it: selector before namespace before
//! mesh, port first.
//!
//! A selector in the root namespace selects nothing. Among equals the oldest
//! holds, by name where two are of one age; where an age is not known, the
//! strictest of what they say.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::reach::has_labels;
use crate::model::policy::{PeerAuthentication, PeerMode, Scope};
use crate::model::{Snapshot, Workload};

/// What counts in one namespace.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Those that may select a workload there, in the order of names.
    all: Vec<Arc<PeerAuthentication>>,
    /// Of workloads that none selects by their labels.
    whole: Modes,
    asks_labels: bool,
    root: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Modes {
    whole: PeerModeSource,
    ports: BTreeMap<u16, PeerModeSource>,
}

/// A mode, and who says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerModeSource {
    pub(crate) mode: PeerMode,
    /// `namespace/name` of the PeerAuthentication; `None` where none says anything.
    pub(crate) by: Option<Arc<str>>,
}

/// How an object selects, the nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Workload,
    Namespace,
    Mesh,
}

/// At which level it counts; `None` for a selector in the root namespace.
#[must_use]
pub(crate) fn level(peer: &PeerAuthentication, root: &str) -> Option<Level> {
    match (&peer.scope, peer.namespace == root) {
        (Scope::Labels(_), true) => None,
        (Scope::Labels(_), false) => Some(Level::Workload),
        (_, false) => Some(Level::Namespace),
        (_, true) => Some(Level::Mesh),
    }
}

/// Of equals the one that holds alone; `None` where the strictest of all holds.
#[must_use]
pub(crate) fn oldest<'p>(equals: &[&'p PeerAuthentication]) -> Option<&'p PeerAuthentication> {
    if let [one] = equals {
        return Some(one);
    }
    let known = equals.iter().all(|p| p.created.is_some());
    let by_age = |p: &&&PeerAuthentication| (p.created, p.name.clone());
    known.then(|| equals.iter().min_by_key(by_age).copied())?
}

impl Modes {
    pub(super) fn of(&self, port: u16) -> &PeerModeSource {
        self.ports.get(&port).unwrap_or(&self.whole)
    }

    fn whole(decided: PeerModeSource) -> Self {
        Self {
            whole: decided,
            ports: BTreeMap::new(),
        }
    }

    /// What `peer` says, and what `above` says where it is silent.
    fn said(peer: &PeerAuthentication, above: &PeerModeSource) -> Self {
        let decided = |mode: Option<PeerMode>, above: &PeerModeSource| match mode {
            Some(mode) => PeerModeSource::new(mode, peer),
            None => above.clone(),
        };
        let whole = decided(peer.mode, above);
        let ports = peer.ports.iter();
        let ports = ports.map(|(port, mode)| (*port, decided(*mode, &whole)));
        Self {
            ports: ports.collect(),
            whole,
        }
    }

    /// For each port the stricter of both.
    fn strictest(self, other: Self) -> Self {
        let ports = self.ports.keys().chain(other.ports.keys());
        let ports = ports.map(|port| {
            let stricter = self.of(*port).stricter(other.of(*port));
            (*port, stricter.clone())
        });
        Self {
            ports: ports.collect(),
            whole: self.whole.stricter(&other.whole).clone(),
        }
    }
}

impl PeerModeSource {
    fn new(mode: PeerMode, by: &PeerAuthentication) -> Self {
        let by = format!("{}/{}", by.namespace, by.name);
        Self {
            mode,
            by: Some(by.into()),
        }
    }

    fn stricter<'d>(&'d self, other: &'d Self) -> &'d Self {
        let rank = |decided: &Self| match decided.mode {
            PeerMode::Strict => 2,
            PeerMode::Permissive => 1,
            PeerMode::Disable => 0,
        };
        match rank(other) > rank(self) {
            true => other,
            false => self,
        }
    }
}

/// May one be about workloads of other namespaces than its own?
pub(super) fn is_of_mesh(peer: &PeerAuthentication, root: &str) -> bool {
    peer.namespace == root || peer.scope == Scope::Mesh
}

impl Peers {
    /// `of_mesh`: those of all namespaces that are about others, too.
    pub(super) fn build(
        snapshot: &Snapshot,
        namespace: &str,
        of_mesh: &[Arc<PeerAuthentication>],
    ) -> Self {
        let root = &snapshot.settings.root_namespace;
        let own = snapshot.peer_authentications.of(namespace).iter();
        let own = own.filter(|peer| !is_of_mesh(peer, root));
        let mut all: Vec<_> = own.chain(of_mesh).cloned().collect();
        all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let asks = |peer: &Arc<PeerAuthentication>| matches!(&peer.scope, Scope::Labels(_));
        let mut peers = Self {
            asks_labels: all.iter().any(asks),
            all,
            whole: Modes::default(),
            root: root.clone(),
        };
        let others = peers.all.iter().filter(|peer| !asks(peer));
        // Never made; strict would be wrong only for a broken object.
        let counts = |peer: &&Arc<PeerAuthentication>| {
            !matches!(&peer.scope, Scope::Services(_)) || peer.broken.is_some()
        };
        let others: Vec<&PeerAuthentication> = others.filter(counts).map(|p| &**p).collect();
        peers.whole = peers.merged(&others);
        peers
    }

    /// The same objects, and no others; never of what is not built yet.
    pub(super) fn is_of(&self, of: &[Arc<PeerAuthentication>]) -> bool {
        self.all == of
    }

    pub(super) fn mode(&self, workload: &Workload, port: u16) -> PeerMode {
        self.with(workload, |modes| modes.of(port).mode)
    }

    pub(super) fn decided(&self, workload: &Workload, port: u16) -> PeerModeSource {
        self.with(workload, |modes| modes.of(port).clone())
    }

    fn with<T>(&self, workload: &Workload, read: impl Fn(&Modes) -> T) -> T {
        match self.asks_labels {
            false => read(&self.whole),
            true => read(&self.modes(workload)),
        }
    }

    pub(super) fn modes(&self, workload: &Workload) -> Modes {
        let selecting = self.all.iter().map(|p| &**p);
        let selecting: Vec<_> = selecting
            .filter(|p| selects(p, workload, &self.root))
            .collect();
        self.merged(&selecting)
    }

    fn merged(&self, selecting: &[&PeerAuthentication]) -> Modes {
        // Whatever the others say: it may have been the one to go by.
        if let Some(broken) = selecting.iter().find(|p| p.broken.is_some()) {
            return Modes::whole(PeerModeSource::new(PeerMode::Strict, broken));
        }
        let mut modes = Modes::whole(PeerModeSource::default());
        for at in [Level::Mesh, Level::Namespace, Level::Workload] {
            let counts = |p: &&PeerAuthentication| level(p, &self.root) == Some(at);
            let equals: Vec<_> = selecting.iter().copied().filter(counts).collect();
            let above = modes.whole.clone();
            let said = |p: &&PeerAuthentication| Modes::said(p, &above);
            let strictest = || equals.iter().map(said).reduce(Modes::strictest);
            let found = match oldest(&equals) {
                Some(one) => Some(said(&one)),
                None => strictest(),
            };
            modes = found.unwrap_or(modes);
        }
        modes
    }
}

#[must_use]
pub(crate) fn selects(peer: &PeerAuthentication, workload: &Workload, root: &str) -> bool {
    let near = peer.namespace == workload.key.namespace || peer.namespace == root;
    match &peer.scope {
        Scope::Mesh => true,
        Scope::Namespace => near,
        Scope::Labels(labels) => near && has_labels(workload, labels),
        // Never made; strict would be wrong only for a broken object.
        Scope::Services(_) => peer.broken.is_some() && near,
    }
}
