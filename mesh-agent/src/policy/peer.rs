//! PeerAuthentication: selector before namespace before mesh, port first.

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

#[derive(Debug)]
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

impl Modes {
    fn of(&self, port: u16) -> &Decided {
        self.ports.get(&port).unwrap_or(&self.whole)
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
}

impl Peers {
    pub(super) fn build(snapshot: &Snapshot) -> Self {
        let mut peers = Self {
            all: snapshot.peer_authentications.clone(),
            root: snapshot.settings.root_namespace.clone(),
            ..Self::default()
        };
        // The first by name wins among equals.
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
        let selecting: Vec<_> = self
            .all
            .iter()
            .filter(|p| self.selects(p, workload))
            .collect();
        // Whatever the others say: it may have been the one to go by.
        if let Some(broken) = selecting.iter().find(|p| p.broken.is_some()) {
            return Modes {
                whole: Decided::new(PeerMode::Strict, broken),
                ports: BTreeMap::new(),
            };
        }
        let first = |labelled: bool, own: bool| {
            selecting.iter().find(|p| {
                matches!(p.scope, Scope::Labels(_)) == labelled
                    && (p.namespace == workload.key.namespace) == own
            })
        };
        let own = first(true, true).or_else(|| first(true, false));
        let levels = [own, first(false, true), first(false, false)];
        let mut said = levels
            .iter()
            .flatten()
            .filter_map(|p| Some(Decided::new(p.mode?, p)));
        let whole = said.next().unwrap_or_default();
        let ports = own.map(|p| {
            let port = |m: Option<PeerMode>| match m {
                Some(mode) => Decided::new(mode, p),
                None => whole.clone(),
            };
            p.ports.iter().map(|(n, m)| (*n, port(*m))).collect()
        });
        Modes {
            whole,
            ports: ports.unwrap_or_default(),
        }
    }

    fn selects(&self, peer: &PeerAuthentication, workload: &Workload) -> bool {
        let near = peer.namespace == workload.key.namespace || peer.namespace == self.root;
        match &peer.scope {
            Scope::Mesh => true,
            Scope::Namespace => near,
            Scope::Labels(labels) => near && has_labels(workload, labels),
            // Never made; strict would be wrong only for a broken object.
            Scope::Services(_) => peer.broken.is_some() && near,
        }
    }
}
