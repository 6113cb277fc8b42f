//! The cgroups of the node's pods, which are watched from before they are enrolled.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{DataPath, Error, Reconciler};
use crate::model::{Workload, WorkloadKey};
use crate::sys::cgroup;

impl<D: DataPath> Reconciler<D> {
    /// Watches the cgroups of all wanted pods, before any of them is enrolled,
    /// and those of others no more. Gives the pods whose cgroup cannot be watched.
    pub(super) fn guard(
        &mut self,
        wanted: &BTreeMap<WorkloadKey, Arc<Workload>>,
        hides_any: bool,
    ) -> BTreeMap<WorkloadKey, Error> {
        let mut failed = BTreeMap::new();
        let pods = &self.pods;
        self.guards
            .retain(|key, _| wanted.contains_key(key) || pods.contains_key(key));
        for (key, workload) in wanted {
            let Some(dir) = &workload.cgroup else {
                self.guards.remove(key);
                continue;
            };
            let enrolled = self.pods.get(key).map(|pod| pod.netns.cookie());
            if enrolled.is_some() && self.is_guarded(key, dir) {
                continue;
            }
            let guarded = self.capture.guard_pod(dir).and_then(|id| {
                enrolled.map_or(Ok(()), |cookie| self.capture.guard_enrolled(id, cookie))?;
                Ok(id)
            });
            match guarded {
                Ok(id) => {
                    self.guards.insert(key.clone(), id);
                }
                Err(error) => {
                    failed.insert(key.clone(), error.into());
                }
            }
        }
        if hides_any {
            // Nobody's word that a watched cgroup is no wanted pod's.
            return failed;
        }
        let kept = self.guards.values().copied().collect();
        if let Err(error) = self.capture.retain_pod_guards(&kept) {
            tracing::error!(%error, "cannot stop watching the cgroups of former pods");
        }
        failed
    }

    /// Is the cgroup that is watched for the pod the one at `dir` now? One that is
    /// gone has no processes to watch.
    pub(super) fn is_guarded(&self, key: &WorkloadKey, dir: &std::path::Path) -> bool {
        let watched = self.guards.get(key);
        watched.is_some_and(|watched| cgroup::id(dir).map_or(true, |id| id == *watched))
    }
}
