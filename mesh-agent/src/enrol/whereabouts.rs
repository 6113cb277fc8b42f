//! Where a pod is, and whether it is still there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::{DataPath, Error, LocalPod, Reconciler, find};
use crate::model::Workload;
use crate::sys::netns::Netns;

impl<D: DataPath> Reconciler<D> {
    /// The namespace that it is in, where that can be told; the one that it was
    /// in as long as nothing says otherwise. The container runtime's word comes
    /// first, then what is found, or what annotations say.
    pub(super) fn netns_of(
        &mut self,
        workload: &Workload,
        before: Option<&LocalPod>,
    ) -> Result<Arc<Netns>, Error> {
        let place = self.places.of(workload).map(|place| place.netns.clone());
        let netns = match (place, self.finder.take()) {
            (Some(place), finder) => {
                self.finder = finder;
                Ok(place)
            }
            (None, Some(mut finder)) => {
                let found = self.found(&mut finder, workload, before);
                self.finder = Some(finder);
                found
            }
            (None, None) => self.annotated(workload, before),
        }?;
        if netns.cookie() == self.host.cookie() {
            return Err(Error::HostNetwork);
        }
        // What is there already is kept, with its descriptor.
        Ok(match before {
            Some(before) if before.netns.cookie() == netns.cookie() => before.netns.clone(),
            _ => netns,
        })
    }

    /// The runtime's word of a sandbox holds until the pod's processes are in another
    /// one, which was made without our plugin. Gives whether a place is forgotten.
    pub(super) fn doubt_places(&mut self) -> bool {
        let Some(finder) = &mut self.finder else {
            return false;
        };
        self.places
            .forget(|uid, netns, since| finder.has_left(uid, netns, since))
    }

    /// A process of it that is not below the group where connects are captured is nobody's
    /// to capture. Of a pod that is served, what cannot be looked at is as it was.
    pub(super) fn check_captured(
        &mut self,
        workload: &Workload,
        before: Option<&LocalPod>,
    ) -> Result<(), Error> {
        let Some(finder) = &mut self.finder else {
            return Ok(());
        };
        let is_itself = before.is_some_and(|before| before.workload.uid == workload.uid);
        let is_told = self.places.of(workload).is_some();
        let checked = match finder.check_captured(workload.runtime_uid().as_str(), is_told) {
            Err(find::NotFound::Look { .. }) if is_itself => return Ok(()),
            checked => checked,
        };
        match checked {
            Err(find::NotFound::Elsewhere { .. }) => {
                self.elsewhere.insert(workload.key.clone());
            }
            _ => drop(self.elsewhere.remove(&workload.key)),
        }
        Ok(checked?)
    }

    /// Is another one of the enrolled pods not captured than was told of?
    fn is_another_elsewhere(&mut self) -> bool {
        let Some(finder) = &mut self.finder else {
            return false;
        };
        let uid = |pod: &'_ LocalPod| pod.workload.runtime_uid().clone();
        let uids: Vec<_> = self.pods.values().map(uid).collect();
        let Ok(elsewhere) = finder.elsewhere(uids.iter().map(|uid| uid.as_str())) else {
            return false;
        };
        self.pods.iter().any(|(key, pod)| {
            let is_elsewhere = elsewhere.contains(pod.workload.runtime_uid().as_str());
            is_elsewhere != self.elsewhere.contains(key)
        })
    }

    fn annotated(
        &self,
        workload: &Workload,
        before: Option<&LocalPod>,
    ) -> Result<Arc<Netns>, Error> {
        let reference = workload.on_node.netns.as_ref().ok_or(Error::NoNetns)?;
        if let Some(before) = before
            && before.workload.on_node.netns.as_ref() == Some(reference)
            && before.workload.uid == workload.uid
            && !before.netns.has_moved(reference, workload.ips)
        {
            return Ok(before.netns.clone());
        }
        Ok(Arc::new(Netns::open(reference, workload.ips)?))
    }

    fn found(
        &self,
        finder: &mut find::Finder,
        workload: &Workload,
        before: Option<&LocalPod>,
    ) -> Result<Arc<Netns>, Error> {
        let before = before.filter(|before| before.workload.uid == workload.uid);
        if let Some(before) = before
            && before.workload.ips == workload.ips
            && finder.is_still(&before.netns)
        {
            return Ok(before.netns.clone());
        }
        let is_anothers = |cookie: u64| self.is_anothers(workload, cookie);
        match (finder.find(workload, is_anothers), before) {
            (Ok(netns), _) => Ok(Arc::new(netns)),
            // Nothing of it is seen any more, and nothing says where else it is.
            (Err(find::NotFound::Nowhere), Some(before)) => Ok(before.netns.clone()),
            (Err(error), _) => Err(error.into()),
        }
    }

    /// Is the namespace known to be of another pod?
    fn is_anothers(&self, workload: &Workload, cookie: u64) -> bool {
        let served = self
            .pods
            .iter()
            .any(|(key, pod)| *key != workload.key && pod.netns.cookie() == cookie);
        let closed = self.closed.get(&cookie);
        served
            || closed.is_some_and(|closed| closed.uid != workload.uid)
            || self.places.is_at(workload, cookie)
    }

    /// Looks which cgroups pods have; was it otherwise before? What cannot be
    /// looked at is as it was.
    pub(super) fn look_at_cgroups(&mut self) -> bool {
        let Some(finder) = &self.finder else {
            return false;
        };
        let (now, error) = match finder.cgroups() {
            Ok(now) => (now, None),
            Err(error) => (self.cgroups.clone(), Some(error.to_string())),
        };
        if error.is_none() {
            self.announced.look(Instant::now(), &now);
        }
        self.cgroups_unseen = error;
        let changed = now != self.cgroups;
        self.cgroups = now;
        changed
    }

    /// The cgroups that those of pods are made in.
    pub(crate) fn above_pods(&self) -> Vec<PathBuf> {
        let finder = self.finder.as_ref();
        finder.map(find::Finder::above_pods).unwrap_or_default()
    }

    /// The cgroups whose processes are the pod's.
    pub(super) fn cgroups_of(&self, workload: &Workload) -> Vec<PathBuf> {
        match self.finder {
            Some(_) => {
                let found = self.cgroups.get(workload.runtime_uid().as_str());
                found.cloned().unwrap_or_default()
            }
            None => workload.on_node.cgroup.clone().into_iter().collect(),
        }
    }

    /// Has an enrolled pod become another one than it was enrolled as: restarted
    /// in another namespace or cgroup, or given or bereft of a family? Or is
    /// something else of it to be told?
    #[must_use]
    pub(crate) fn have_pods_moved(&mut self) -> bool {
        let changed = self.look_at_cgroups();
        let left = self.doubt_places();
        // Others are given one seldom.
        let leaves = self.look_at_egress(false);
        changed
            || left
            || leaves
            || self.is_another_elsewhere()
            || self.have_closed_changed()
            || self.status_is_old
            || self.pods.iter().any(|(key, pod)| {
                let families = pod.netns.families(pod.workload.ips);
                self.has_moved(pod)
                    || families.is_ok_and(|ips| ips != pod.own())
                    || !self.is_guarded(key, &self.cgroups_of(&pod.workload))
            })
    }

    fn has_moved(&self, pod: &LocalPod) -> bool {
        if self.places.of(&pod.workload).is_some() {
            return false;
        }
        match &self.finder {
            Some(finder) => finder.is_due() && !finder.is_still(&pod.netns),
            None => {
                let reference = pod.workload.on_node.netns.as_ref();
                reference.is_some_and(|reference| pod.netns.has_moved(reference, pod.workload.ips))
            }
        }
    }
}
