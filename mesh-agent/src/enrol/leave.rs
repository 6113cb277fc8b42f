//! Pods that leave, and what only looks like it.
//!
//! A pod is let go of only by an explicit word: its label is off, or, where no
//! kubelet runs pods, it is absent from a configuration that could be read as a
//! whole. Everything else leaves its namespace closed, served or not, until it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::leaving::{Closed, Leaving, Word, leaving, outside};
use super::{DataPath, Error, LocalPod, PodStatus, Reconciler, on_agent_down, rules};
use crate::capture::{self, EnrolPod};
use crate::model::{OnAgentDown, PodIps, Snapshot, Workload, WorkloadKey};
use crate::sys::{netns, route};

type Wanted = BTreeMap<WorkloadKey, Arc<Workload>>;

impl<D: DataPath> Reconciler<D> {
    pub(super) async fn leave_unwanted(&mut self, snapshot: &Snapshot, wanted: &Wanted) {
        let unwanted = self.pods.keys().filter(|key| !wanted.contains_key(*key));
        let unwanted: Vec<WorkloadKey> = unwanted.cloned().collect();
        for key in unwanted {
            let Some(pod) = self.pods.get(&key).cloned() else {
                continue;
            };
            let leaving = leaving((&key, &pod.workload.uid), snapshot, self.word());
            if leaving == Leaving::Kept {
                continue;
            }
            self.enrol_seconds.remove(&key);
            self.pods.remove(&key);
            match leaving {
                Leaving::Released => self.withdraw(&pod).await,
                Leaving::Kept | Leaving::Closed => self.abandon(&pod).await,
            }
        }
        let word = self.word();
        let closed = self.closed.iter().filter(|(_, closed)| {
            !wanted.contains_key(&closed.key)
                && leaving((&closed.key, &closed.uid), snapshot, word) == Leaving::Released
        });
        let closed: Vec<u64> = closed.map(|(cookie, _)| *cookie).collect();
        self.release(&closed);
    }

    fn word(&self) -> Word {
        match self.finder {
            Some(_) => Word::LivePod,
            None => Word::Absence,
        }
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
        let closed = Closed::of(&pod.workload);
        self.closed.insert(pod.netns.cookie(), closed);
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

    /// It is wanted, and cannot be served as it is: nothing of it passes, as far as it is found.
    pub(super) async fn close_unfit(&mut self, workload: &Arc<Workload>) {
        if self
            .closed
            .values()
            .any(|closed| closed.uid == workload.uid)
        {
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
            requests: Arc::default(),
            account: Arc::default(),
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
    pub(super) fn leave_strangers(&mut self, whole: bool, snapshot: &Snapshot) -> Vec<PodStatus> {
        let mut unsettled = Vec::new();
        match self.settle_strangers(whole, snapshot) {
            Ok(strangers) => self.strangers = strangers,
            // An error is no word of them: those that were seen last may be there.
            Err(error) => unsettled.push(error.to_string()),
        }
        if let Err(error) = self.leave_other_versions(whole, snapshot) {
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

    fn settle_strangers(
        &mut self,
        whole: bool,
        snapshot: &Snapshot,
    ) -> Result<Vec<PodStatus>, Error> {
        let (mut strangers, mut why) = (self.strangers()?, NOT_WHOLE);
        if whole && !strangers.is_empty() {
            let cookies: Vec<u64> = strangers.keys().copied().collect();
            let unwanted = self.let_go(&cookies, snapshot)?;
            self.release(&unwanted);
            (strangers, why) = (self.strangers()?, NOT_RELEASED);
        }
        let statuses = strangers.iter().map(|(c, ips)| stranger(*c, *ips, why));
        Ok(statuses.collect())
    }

    /// Of namespaces that an earlier agent closed, those whose pods are known to be
    /// unwanted, where no document is no such word.
    fn let_go(&mut self, cookies: &[u64], snapshot: &Snapshot) -> Result<Vec<u64>, Error> {
        let Some(finder) = &mut self.finder else {
            return Ok(cookies.to_vec());
        };
        let search = netns::find(self.capture.names(), cookies);
        let outside = outside(snapshot, &self.node);
        let mut let_go = Vec::new();
        for cookie in cookies {
            let found = search.found.iter().find(|n| n.cookie() == *cookie);
            let is_let_go = match found {
                Some(netns) => {
                    let pods = finder.pods_in(netns.inode())?;
                    !pods.is_empty() && pods.iter().all(|uid| outside.contains(uid.as_str()))
                }
                // Not found is gone, where all could be looked at.
                None => search.unasked.is_none(),
            };
            let_go.extend(is_let_go.then_some(*cookie));
        }
        Ok(let_go)
    }

    /// Pods that are closed because a mistake in the configuration may hide them, or
    /// because their objects are gone and their namespaces are not.
    pub(super) fn unserved(&mut self, wanted: &Wanted, snapshot: &Snapshot) -> Vec<PodStatus> {
        let may_be_hidden = snapshot.hides_pods || snapshot.is_dated;
        let (why, reason) = match may_be_hidden {
            true => (HIDDEN, "EarlierAgent"),
            false => (GONE, "PodGone"),
        };
        let mut statuses = Vec::new();
        for (cookie, closed) in &mut self.closed {
            closed.is_told = closed.lingers();
            let is_wanted = wanted.get(&closed.key).is_some_and(|w| w.uid == closed.uid);
            if !is_wanted && (may_be_hidden || closed.is_told) {
                statuses.push(PodStatus {
                    pod: closed.key.to_string(),
                    reason: Some(reason),
                    ..stranger(*cookie, PodIps::default(), why)
                });
            }
        }
        statuses
    }

    /// Is a namespace that is closed to be looked at anew: it is gone, or has to be told of?
    pub(super) fn have_closed_changed(&self) -> bool {
        self.closed.iter().any(|(cookie, closed)| {
            self.capture.is_detached(*cookie) || (closed.lingers() && !closed.is_told)
        })
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
        rules::remove(self.capture.names(), cookies);
    }

    /// Once all pods that another version holds are ours, or closed by us.
    fn leave_other_versions(&mut self, whole: bool, snapshot: &Snapshot) -> Result<(), Error> {
        if !self.has_other_versions {
            return Ok(());
        }
        let others = self.capture.of_other_versions()?;
        let mut unknown: BTreeSet<u64> = others.into_iter().collect();
        for pod in self.pods.values() {
            unknown.remove(&pod.netns.cookie());
        }
        let cookies: Vec<u64> = unknown.iter().copied().collect();
        if whole && self.let_go(&cookies, snapshot)?.len() == cookies.len() {
            // Nobody wants them: they go with the programs.
            self.remove_other_versions(snapshot)?;
            for cookie in &cookies {
                // Also of those whose agents still run.
                self.capture.forget_in_other_versions(*cookie)?;
            }
            rules::remove(self.capture.names(), &cookies);
            Ok(())
        } else {
            let search = netns::find(self.capture.names(), &cookies);
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
            self.remove_other_versions(snapshot)
        }
    }

    /// What an agent of another version still needs stays until that has ended.
    fn remove_other_versions(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let held = self.held(snapshot);
        let are_gone = self.capture.remove_other_versions(held.as_deref())?;
        self.has_other_versions = !are_gone;
        self.waits_for_others = self.has_other_versions;
        Ok(())
    }
}

const HIDDEN: &str =
    "it is in no document that can be read, and a mistake may hide it: it stays closed";

const GONE: &str = "its Pod is gone or has ended, and its network namespace is still there: it stays closed until that is gone, too";

const NOT_WHOLE: &str = "it stays closed until every wanted pod is enrolled and the configuration has no mistake that may hide one, and is no copy of before";
const NOT_RELEASED: &str = "it is not wanted any more, and cannot be let go yet or may run on without its Pod: it stays closed";

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
        untold: None,
        warning: None,
    }
}
