//! The cgroups of the node's pods, which are watched from before they are enrolled.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::find::{NotFound, Watched};
use super::leaving::outside;
use super::{DataPath, Error, Reconciler};
use crate::model::{Snapshot, Workload, WorkloadKey};
use crate::sys::cgroup;

impl<D: DataPath> Reconciler<D> {
    /// Watches the cgroups of all wanted pods, before any of them is enrolled,
    /// and those of others no more. Gives the pods whose cgroup cannot be watched.
    pub(super) fn guard(
        &mut self,
        wanted: &BTreeMap<WorkloadKey, Arc<Workload>>,
        snapshot: &Snapshot,
    ) -> BTreeMap<WorkloadKey, Error> {
        let mut failed = BTreeMap::new();
        let pods = &self.pods;
        self.guards
            .retain(|key, _| wanted.contains_key(key) || pods.contains_key(key));
        for (key, workload) in wanted {
            let enrolled = self.pods.get(key).map(|pod| pod.netns.cookie());
            if enrolled.is_none() && workload.on_node.runtime_uid.is_some() {
                // A manifest's hash is anybody's to write: the group is its when its
                // address was found there, and not before.
                self.guards.remove(key);
                continue;
            }
            let dirs = self.cgroups_of(workload);
            if dirs.is_empty() && self.finder.is_none() {
                self.guards.remove(key);
                continue;
            }
            if let Some(why) = self.cgroups_unseen.clone().filter(|_| dirs.is_empty()) {
                failed.insert(key.clone(), NotFound::Unseen(why).into());
                continue;
            }
            if enrolled.is_some() && self.is_guarded(key, &dirs) {
                continue;
            }
            let mut watched = Vec::new();
            for dir in dirs {
                let guarded = self.capture.guard_pod(&dir).and_then(|id| {
                    enrolled.map_or(Ok(()), |cookie| self.capture.guard_enrolled(id, cookie))?;
                    Ok(id)
                });
                match guarded {
                    Ok(id) => watched.push(Watched { dir, id }),
                    Err(error) => drop(failed.insert(key.clone(), error.into())),
                }
            }
            if !failed.contains_key(key) {
                self.guards.insert(key.clone(), watched);
            }
        }
        if snapshot.may_hide_pods() || self.cgroups_unseen.is_some() {
            // Nobody's word that a watched cgroup is no wanted pod's.
            return failed;
        }
        let kept = self.guards.values().flatten().map(|watched| watched.id);
        let mut kept: HashSet<u64> = kept.collect();
        // Containers may run on in the group of a pod whose object is gone.
        let outside = outside(snapshot, &self.node);
        let groups = self.cgroups.iter();
        let unknown = groups.filter(|(uid, _)| !outside.contains(uid.as_str()));
        for dir in unknown.flat_map(|(_, dirs)| dirs) {
            match cgroup::id(dir) {
                Ok(id) => drop(kept.insert(id)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(%error, dir = %dir.display(), "cannot look at a pod's cgroup: all stay watched");
                    return failed;
                }
            }
        }
        if let Err(error) = self.capture.retain_pod_guards(&kept) {
            tracing::error!(%error, "cannot stop watching the cgroups of former pods");
        }
        failed
    }

    /// After a hand-over: watches the cgroups of wanted pods that come, as the successor
    /// may need a while until it does, or end before. It takes their guards over with all
    /// others, and enrols them; what it says of a cgroup itself stays.
    pub(crate) fn guard_newcomers(&mut self, snapshot: &Snapshot) {
        self.look_at_cgroups();
        for workload in snapshot.enrolled_on(&self.node) {
            let pod = self.pods.get(&workload.key);
            let is_enrolled = pod.is_some_and(|pod| pod.workload.uid == workload.uid);
            // As in [`Self::guard`]: nobody has found its address in the group yet.
            if is_enrolled || workload.on_node.runtime_uid.is_some() {
                continue;
            }
            for dir in self.cgroups_of(workload) {
                if self.is_guarded(&workload.key, std::slice::from_ref(&dir)) {
                    continue;
                }
                match self.capture.guard_newcomer(&dir) {
                    Ok(id) => {
                        tracing::debug!(pod = %workload.key, "it is watched until the other agent has enrolled it");
                        let watched = self.guards.entry(workload.key.clone()).or_default();
                        watched.push(Watched { dir, id });
                    }
                    // Tried again with the next look: no line for each.
                    Err(error) => {
                        tracing::debug!(pod = %workload.key, %error, "cannot watch its cgroup");
                    }
                }
            }
        }
    }

    /// Are the cgroups that are watched for the pod the ones that are there now? One
    /// that is gone has no processes to watch.
    pub(super) fn is_guarded(&self, key: &WorkloadKey, dirs: &[PathBuf]) -> bool {
        let watched = self.guards.get(key).map_or(&[][..], Vec::as_slice);
        dirs.iter().all(|dir| {
            let known = watched.iter().find(|watched| watched.dir == *dir);
            known.is_some_and(|known| cgroup::id(dir).map_or(true, |id| id == known.id))
        })
    }
}
