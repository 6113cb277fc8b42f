//! PeerAuthentication: selector before namespace before mesh, port first.

use std::collections::{BTreeMap, HashMap};

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
    whole: PeerMode,
    ports: BTreeMap<u16, PeerMode>,
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
        let of = |modes: &Modes| modes.ports.get(&port).copied().unwrap_or(modes.whole);
        match self.workloads.get(&workload.key) {
            Some(modes) => of(modes),
            None => of(&self.modes(workload)),
        }
    }

    fn modes(&self, workload: &Workload) -> Modes {
        let selecting: Vec<_> = self
            .all
            .iter()
            .filter(|p| self.selects(p, workload))
            .collect();
        // Whatever the others say: it may have been the one to go by.
        if selecting.iter().any(|p| p.broken.is_some()) {
            return Modes {
                whole: PeerMode::Strict,
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
        let whole = levels.iter().flatten().find_map(|p| p.mode);
        let whole = whole.unwrap_or_default();
        let ports = own.map(|p| {
            p.ports
                .iter()
                .map(|(n, m)| (*n, m.unwrap_or(whole)))
                .collect()
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
