//! After a reboot: pods run before anybody knows which of them are the mesh's.

use std::path::PathBuf;

use super::leaving::outside;
use super::{DataPath, Reconciler};
use crate::model::Snapshot;

impl<D: DataPath> Reconciler<D> {
    /// Ends the hold of the node's pods, one by one: of those that are watched by
    /// themselves, that are the host network's, or that are known to be outside. All
    /// others are held, whatever pods there are beside them.
    pub(super) fn narrow_hold(&mut self, snapshot: &Snapshot) {
        let Some(held) = self.held(snapshot) else {
            return;
        };
        if let Err(error) = self.capture.narrow_hold(&held) {
            tracing::error!(%error, "pods outside the mesh are held still");
        }
    }

    /// Cgroups of pods that are held, or are to be. `None`: none is, or it cannot be told.
    pub(super) fn held(&mut self, snapshot: &Snapshot) -> Option<Vec<PathBuf>> {
        let can_tell = self.capture.holds() && snapshot.generation != 0;
        can_tell.then(|| self.unknown_cgroups(snapshot)).flatten()
    }

    /// Cgroups of pods of which it cannot be told that they are outside of the mesh,
    /// and that are not watched. `None`: that cannot be told.
    fn unknown_cgroups(&mut self, snapshot: &Snapshot) -> Option<Vec<PathBuf>> {
        if self.cgroups_unseen.is_some() {
            return None;
        }
        let Some(finder) = &mut self.finder else {
            return Some(Vec::new());
        };
        // Before the kubelet has made the group of all pods, none of them runs.
        if !finder.has_pods_group() {
            return None;
        }
        let on_host = finder.on_host().ok()?;
        let outside = outside(snapshot, &self.node);
        let is_watched = |dir: &PathBuf| {
            let mut watched = self.guards.values().flatten();
            watched.any(|watched| watched.dir == *dir)
        };
        let unknown = self
            .cgroups
            .iter()
            .filter(|(uid, _)| !outside.contains(uid.as_str()) && !on_host.contains(*uid));
        let dirs = unknown.flat_map(|(_, dirs)| dirs);
        Some(dirs.filter(|dir| !is_watched(dir)).cloned().collect())
    }
}
