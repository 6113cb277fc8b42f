//! PeerAuthentication as Istio merges it: selector before namespace before
//! mesh, port first.
//!
//! A selector in the root namespace selects nothing. Among equals the oldest
//! holds, by name where two are of one age; where an age is not known, the
//! strictest of what they say.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::index::has_labels;
use crate::model::policy::{PeerAuthentication, PeerMode, Scope};
use crate::model::{Snapshot, Workload, WorkloadKey};

#[derive(Debug, Default)]
pub(super) struct Peers {
    workloads: HashMap<WorkloadKey, Modes, foldhash::fast::RandomState>,
    all: Vec<PeerAuthentication>,
    root: String,
}

#[derive(Clone, Debug)]
struct Modes {
    whole: Decided,
    ports: BTreeMap<u16, Decided>,
}

/// A mode, and who says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    pub mode: PeerMode,
    /// `namespace/name` of the PeerAuthentication; `None` where none says anything.
    pub by: Option<Arc<str>>,
}

/// How an object selects, the nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Workload,
    Namespace,
    Mesh,
}

/// At which level it counts; `None` for a selector in the root namespace.
#[must_use]
pub fn level(peer: &PeerAuthentication, root: &str) -> Option<Level> {
    match (&peer.scope, peer.namespace == root) {
        (Scope::Labels(_), true) => None,
        (Scope::Labels(_), false) => Some(Level::Workload),
        (_, false) => Some(Level::Namespace),
        (_, true) => Some(Level::Mesh),
    }
}

/// Of equals the one that holds alone; `None` where the strictest of all holds.
#[must_use]
pub fn oldest<'p>(equals: &[&'p PeerAuthentication]) -> Option<&'p PeerAuthentication> {
    if let [one] = equals {
        return Some(one);
    }
    let known = equals.iter().all(|p| p.created.is_some());
    let by_age = |p: &&&PeerAuthentication| (p.created, p.name.clone());
    known.then(|| equals.iter().min_by_key(by_age).copied())?
}

impl Modes {
    fn of(&self, port: u16) -> &Decided {
        self.ports.get(&port).unwrap_or(&self.whole)
    }

    fn whole(decided: Decided) -> Self {
        Self {
            whole: decided,
            ports: BTreeMap::new(),
        }
    }

    /// What `peer` says, and what `above` says where it is silent.
    fn said(peer: &PeerAuthentication, above: &Decided) -> Self {
        let decided = |mode: Option<PeerMode>, above: &Decided| match mode {
            Some(mode) => Decided::new(mode, peer),
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

impl Decided {
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

impl Peers {
    pub(super) fn build(snapshot: &Snapshot) -> Self {
        let mut peers = Self {
            all: snapshot.peer_authentications.clone(),
            root: snapshot.settings.root_namespace.clone(),
            ..Self::default()
        };
        peers
            .all
            .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let modes = |w: &Workload| (w.key.clone(), peers.modes(w));
        peers.workloads = snapshot.workloads.values().map(|w| modes(w)).collect();
        peers
    }

    pub(super) fn mode(&self, workload: &Workload, port: u16) -> PeerMode {
        self.with(workload, |modes| modes.of(port).mode)
    }

    pub(super) fn decided(&self, workload: &Workload, port: u16) -> Decided {
        self.with(workload, |modes| modes.of(port).clone())
    }

    fn with<T>(&self, workload: &Workload, read: impl Fn(&Modes) -> T) -> T {
        match self.workloads.get(&workload.key) {
            Some(modes) => read(modes),
            None => read(&self.modes(workload)),
        }
    }

    fn modes(&self, workload: &Workload) -> Modes {
        let selecting = self.all.iter();
        let selecting: Vec<_> = selecting
            .filter(|p| selects(p, workload, &self.root))
            .collect();
        // Whatever the others say: it may have been the one to go by.
        if let Some(broken) = selecting.iter().find(|p| p.broken.is_some()) {
            return Modes::whole(Decided::new(PeerMode::Strict, broken));
        }
        let mut modes = Modes::whole(Decided::default());
        for at in [Level::Mesh, Level::Namespace, Level::Workload] {
            let counts = |p: &&&PeerAuthentication| level(p, &self.root) == Some(at);
            let equals: Vec<_> = selecting.iter().filter(counts).copied().collect();
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
pub fn selects(peer: &PeerAuthentication, workload: &Workload, root: &str) -> bool {
    let near = peer.namespace == workload.key.namespace || peer.namespace == root;
    match &peer.scope {
        Scope::Mesh => true,
        Scope::Namespace => near,
        Scope::Labels(labels) => near && has_labels(workload, labels),
        // Never made; strict would be wrong only for a broken object.
        Scope::Services(_) => peer.broken.is_some() && near,
    }
}
