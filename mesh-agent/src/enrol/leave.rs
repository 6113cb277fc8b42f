//! Pods that leave, and what only looks like it.
//!
//! A pod is let go of only by an explicit word: its label is off, or it is
//! absent from a configuration that could be read as a whole. Everything else
//! leaves its namespace closed, served or not, until it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{DataPath, Error, LocalPod, PodStatus, Reconciler, on_agent_down, rules};
use crate::capture::{self, EnrolPod};
use crate::model::{OnAgentDown, PodIps, Snapshot, Workload, WorkloadKey};
use crate::sys::{netns, route};

type Wanted = BTreeMap<WorkloadKey, Arc<Workload>>;

/// What is to become of an enrolled pod that is not wanted on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    Released,
    /// Its document is there and cannot be read.
    Kept,
    /// Its document may be there. It is not served, so that nothing of it is
    /// held, and not released either.
    Closed,
}

fn leaving(key: &WorkloadKey, snapshot: &Snapshot) -> Leaving {
    if snapshot.unreadable_pods.contains(key) {
        Leaving::Kept
    } else if (snapshot.hides_pods || snapshot.is_dated) && !snapshot.workloads.contains_key(key) {
        Leaving::Closed
    } else {
        Leaving::Released
    }
}

impl<D: DataPath> Reconciler<D> {
    pub(super) async fn leave_unwanted(&mut self, snapshot: &Snapshot, wanted: &Wanted) {
        let unwanted = self.pods.keys().filter(|key| !wanted.contains_key(*key));
        let unwanted: Vec<WorkloadKey> = unwanted.cloned().collect();
        for key in unwanted {
            let leaving = leaving(&key, snapshot);
            if leaving == Leaving::Kept {
                continue;
            }
            self.enrol_seconds.remove(&key);
            let Some(pod) = self.pods.remove(&key) else {
                continue;
            };
            match leaving {
                Leaving::Released => self.withdraw(&pod).await,
                Leaving::Kept | Leaving::Closed => self.abandon(&pod).await,
            }
        }
        let closed = self.closed.iter().filter(|(_, key)| {
            !wanted.contains_key(*key) && leaving(key, snapshot) == Leaving::Released
        });
        let closed: Vec<u64> = closed.map(|(cookie, _)| *cookie).collect();
        self.release(&closed);
    }

    /// An explicit word let it go.
    async fn withdraw(&mut self, pod: &LocalPod) {
        let cookie = pod.netns.cookie();
        if let Err(error) = self.capture.withdraw(cookie, pod.ips) {
            tracing::error!(pod = %pod.workload.key, %error, "cannot withdraw");
        }
        self.remove_from_workers(pod).await;
        // Last: deliveries in flight were still routed by it.
        if let Err(error) = route::remove(&pod.netns) {
            tracing::warn!(pod = %pod.workload.key, %error, "cannot remove its rule and routes");
        }
        tracing::info!(pod = %pod.workload.key, "withdrawn");
    }

    async fn remove_from_workers(&self, pod: &LocalPod) {
        if let Err(error) = self.workers.remove_pod(pod.netns.cookie()).await {
            tracing::error!(pod = %pod.workload.key, %error, "cannot close its sockets");
        }
    }

    /// Nobody serves the namespace any more, and what the kernel has stays: it is
    /// closed until it is gone, or until its pod is let go.
    pub(super) async fn abandon(&mut self, pod: &LocalPod) {
        let key = pod.workload.key.clone();
        self.closed.insert(pod.netns.cookie(), key);
        self.remove_from_workers(pod).await;
    }

    /// Enrolling it failed half-way: nobody serves it, and as far as the kernel
    /// lets us it is closed, too.
    pub(super) async fn close(&mut self, pod: &LocalPod, on_agent_down: OnAgentDown) {
        self.abandon(pod).await;
        let closed = self.capture.enrol(&EnrolPod {
            netns: &pod.netns,
            ips: pod.ips,
            on_agent_down,
            listeners: &[],
        });
        if let Err(error) = closed {
            tracing::error!(pod = %pod.workload.key, %error, "cannot close it");
        }
        // The hooks see connects; only the guard sees raw sockets and forwarded SYNs.
        self.guard_links(&pod.netns, &pod.workload);
    }

    /// It is wanted, and can never be served: nothing of it passes, as far as it is found.
    pub(super) async fn close_unfit(&mut self, workload: &Arc<Workload>) {
        if self.closed.values().any(|key| *key == workload.key) {
            return;
        }
        let (spiffe_id, netns) = match (
            workload.spiffe_id(self.identities.trust_domain()),
            self.netns_of(workload, None),
        ) {
            (Ok(spiffe_id), Ok(netns)) => (spiffe_id, netns),
            // Its cgroup is watched, and its namespace is sought again.
            _ => return,
        };
        let pod = LocalPod {
            workload: workload.clone(),
            ips: workload.ips,
            dial_ports: None,
            active: Arc::default(),
            identity: self.identities.handle(&spiffe_id),
            netns,
            spiffe_id,
        };
        self.close(&pod, OnAgentDown::Closed).await;
    }

    /// It is wanted, and what it is now cannot be made true. What is still said
    /// of it goes on; what is not said any more is not served.
    pub(super) async fn keep_closed(&mut self, workload: &Workload, before: Option<&LocalPod>) {
        let Some(before) = before else { return };
        let is_itself = before.workload.uid == workload.uid
            && before.workload.ips == workload.ips
            && workload
                .spiffe_id(self.identities.trust_domain())
                .ok()
                .as_ref()
                == Some(&before.spiffe_id);
        if is_itself {
            return;
        }
        self.pods.remove(&workload.key);
        let on_agent_down = on_agent_down(workload);
        self.close(before, on_agent_down).await;
    }

    /// Settles what an earlier agent enrolled and this one does not know. `whole`:
    /// every wanted pod is enrolled, and the configuration hides none. Gives those
    /// that stay, and what could not be settled: all of it is tried again.
    pub(super) fn leave_strangers(&mut self, whole: bool) -> Vec<PodStatus> {
        let mut unsettled = Vec::new();
        match self.settle_strangers(whole) {
            Ok(strangers) => self.strangers = strangers,
            // An error is no word of them: those that were seen last may be there.
            Err(error) => unsettled.push(error.to_string()),
        }
        if let Err(error) = self.leave_other_versions(whole) {
            unsettled.push(format!(
                "the programs of another version of the agent stay: {error}"
            ));
        }
        self.unsettled = (!unsettled.is_empty()).then(|| unsettled.join("; "));
        let served: BTreeSet<u64> = self.pods.values().map(LocalPod::cookie).collect();
        let is_served = |s: &PodStatus| s.netns_cookie.is_some_and(|c| served.contains(&c));
        self.strangers.retain(|stranger| !is_served(stranger));
        self.strangers.clone()
    }

    fn settle_strangers(&mut self, whole: bool) -> Result<Vec<PodStatus>, Error> {
        let (mut strangers, mut why) = (self.strangers()?, NOT_WHOLE);
        if whole && !strangers.is_empty() {
            let cookies: Vec<u64> = strangers.keys().copied().collect();
            self.release(&cookies);
            (strangers, why) = (self.strangers()?, NOT_RELEASED);
        }
        let statuses = strangers.iter().map(|(c, ips)| stranger(*c, *ips, why));
        Ok(statuses.collect())
    }

    /// Pods that are closed because a mistake in the configuration may hide them.
    pub(super) fn unserved(&self, wanted: &Wanted) -> Vec<PodStatus> {
        let hidden = self
            .closed
            .iter()
            .filter(|(_, key)| !wanted.contains_key(*key));
        let status = |(cookie, key): (&u64, &WorkloadKey)| PodStatus {
            pod: key.to_string(),
            ..stranger(*cookie, PodIps::default(), HIDDEN)
        };
        hidden.map(status).collect()
    }

    /// Enrolled namespaces that are there, and neither served nor known as closed.
    fn strangers(&mut self) -> Result<BTreeMap<u64, PodIps>, Error> {
        let served: BTreeSet<u64> = self.pods.values().map(|p| p.netns.cookie()).collect();
        let (gone, there) = self.capture.sweep(|cookie| served.contains(&cookie));
        self.closed.retain(|cookie, _| !gone.contains(cookie));
        let mut strangers: BTreeMap<u64, PodIps> = self.capture.enrolled()?.into_iter().collect();
        for cookie in there {
            strangers.entry(cookie).or_default();
        }
        strangers.retain(|c, _| !served.contains(c) && !self.closed.contains_key(c));
        Ok(strangers)
    }

    fn release(&mut self, cookies: &[u64]) {
        let enrolled = self.capture.enrolled().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot list what is enrolled");
            Vec::new()
        });
        let ips: BTreeMap<u64, PodIps> = enrolled.into_iter().collect();
        for cookie in cookies {
            let ips = ips.get(cookie).copied().unwrap_or_default();
            match self.capture.withdraw(*cookie, ips) {
                Ok(()) => drop(self.closed.remove(cookie)),
                Err(error) => tracing::error!(cookie, %error, "cannot let a namespace go"),
            }
        }
        rules::remove(cookies);
    }

    /// Once all pods that another version holds are ours, or closed by us.
    fn leave_other_versions(&mut self, whole: bool) -> Result<(), Error> {
        if !self.has_other_versions {
            return Ok(());
        }
        let others = self.capture.of_other_versions()?;
        let mut unknown: BTreeSet<u64> = others.into_iter().collect();
        for pod in self.pods.values() {
            unknown.remove(&pod.netns.cookie());
        }
        let cookies: Vec<u64> = unknown.iter().copied().collect();
        if whole {
            // Nobody wants them: they go with the programs.
            self.capture.remove_other_versions()?;
            rules::remove(&cookies);
        } else {
            let search = netns::find(&cookies);
            for netns in search.found {
                self.capture.enrol(&EnrolPod {
                    netns: &netns,
                    ips: PodIps::default(),
                    on_agent_down: OnAgentDown::Closed,
                    listeners: &[],
                })?;
                if let Err(error) = self.capture.guard_links(&netns, PodIps::default()) {
                    tracing::warn!(cookie = netns.cookie(), %error, "cannot guard its links");
                }
                unknown.remove(&netns.cookie());
            }
            if let Some(error) = search.unasked {
                return Err(capture::Error::Search(error).into());
            }
            if !unknown.is_empty() {
                tracing::warn!(
                    namespaces = unknown.len(),
                    "another version of the agent holds namespaces that cannot be found: its programs stay"
                );
                return Ok(());
            }
            self.capture.remove_other_versions()?;
        }
        self.has_other_versions = false;
        Ok(())
    }
}

const HIDDEN: &str =
    "it is in no document that can be read, and a mistake may hide it: it stays closed";

const NOT_WHOLE: &str = "it stays closed until every wanted pod is enrolled and the configuration has no mistake that may hide one, and is no copy of before";
const NOT_RELEASED: &str = "it is not wanted any more and cannot be let go yet: it stays closed";

/// For `status`.
fn stranger(cookie: u64, ips: PodIps, why: &str) -> PodStatus {
    PodStatus {
        pod: format!("of an earlier agent (network namespace {cookie})"),
        enrolled: false,
        addresses: ips.iter().collect(),
        identity: None,
        netns_cookie: Some(cookie),
        enrol_seconds: None,
        reason: Some("EarlierAgent"),
        message: Some(why.to_owned()),
        unknown: None,
        unwatched: None,
        fails_open: false,
        warning: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_configuration_that_could_be_read_lets_a_pod_go() {
        let key = |name: &str| WorkloadKey::new("shop", name);
        let mut snapshot = Snapshot::default();
        assert_eq!(leaving(&key("web"), &snapshot), Leaving::Released);
        assert!(!snapshot.may_hide_pods());
        Arc::make_mut(&mut snapshot.unreadable_pods).insert(key("web"));
        assert_eq!(leaving(&key("web"), &snapshot), Leaving::Kept);
        assert_eq!(leaving(&key("db"), &snapshot), Leaving::Released);
        assert!(snapshot.may_hide_pods(), "an earlier agent's may be web's");
        snapshot.hides_pods = true;
        assert_eq!(leaving(&key("web"), &snapshot), Leaving::Kept);
        assert_eq!(leaving(&key("db"), &snapshot), Leaving::Closed);
    }

    #[test]
    fn what_the_disk_does_not_tell_of_is_not_let_go() {
        let mut snapshot = Snapshot::default();
        assert!(!snapshot.may_lack_pods());
        snapshot.is_dated = true;
        assert!(snapshot.may_lack_pods(), "strangers stay");
        let key = WorkloadKey::new("shop", "web");
        assert_eq!(leaving(&key, &snapshot), Leaving::Closed);
    }
}
