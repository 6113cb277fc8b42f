//! Makes the node's pods be what the snapshot wants: enrolled or let go.
//!
//! The one caller of `capture` that changes maps. Invariants:
//! - a pod is enrolled only after the workers have its listeners;
//! - what changes about an enrolled pod changes under the same programs;
//! - a pod is let go only where the configuration says that it is not wanted.
//!   An error of any kind is not such a word: the kernel keeps what it has, so
//!   that a closed pod stays closed, and the error is shown;
//! - a failure of one pod never stops the others, and is tried again.

mod admit;
mod announced;
mod appearing;
mod arrivals;
mod carried;
mod data_path;
mod error;
pub(crate) mod find;
mod guards;
mod hold;
mod leave;
mod leaving;
mod links;
mod local_pod;
mod metrics;
mod ports;
pub(crate) mod probers;
mod rules;
mod status;
mod tell;
mod watch;
mod whereabouts;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::capture::{self, Capture};
use crate::identity::Identities;
use crate::model::{Snapshot, Workload, WorkloadKey};
use crate::observe::Observe;
use crate::sys::netns::Netns;
use crate::sys::route;
pub(crate) use appearing::Appearing;
pub(crate) use arrivals::{
    Admission, Arrival, Arrivals, MAX_ARRIVALS, Queue as Arrivees, arrivals,
};
use arrivals::{Arrived, Refusal};
pub(crate) use carried::{Active, Carried, OfPod};
pub(crate) use data_path::DataPath;
pub(crate) use data_path::{Recheck, ServeError};
pub(crate) use error::Error;
use leaving::Closed;
pub(crate) use local_pod::LocalPod;
use local_pod::on_agent_down;
pub(crate) use status::PodStatus;
use status::UNREAD;

/// Of the reconciler, for the reference of metrics.
#[cfg(test)]
pub(crate) fn register(observe: &Observe) {
    metrics::Metrics::new(observe);
}

/// Why a pod was not made what it is to be.
struct Failure {
    error: Error,
    /// It is served as what it was, where it is. Never of one that is elsewhere.
    is_served: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let is_served = false;
        Self { error, is_served }
    }
}

/// What a reconciler works with.
pub(crate) struct Parts<D> {
    pub(crate) node: String,
    pub(crate) capture: Capture,
    pub(crate) workers: D,
    pub(crate) identities: Identities,
    /// Where pods are looked for; `None` where annotations say where they are.
    pub(crate) find: Option<find::Node>,
    /// Where probers are looked for.
    pub(crate) probers: probers::Where,
}

/// The reconciler and what it has enrolled.
pub(crate) struct Reconciler<D> {
    node: String,
    capture: Capture,
    workers: D,
    host: Netns,
    finder: Option<find::Finder>,
    probers: probers::Probers,
    /// Of all pods by UID, as they were found last.
    cgroups: BTreeMap<String, Vec<PathBuf>>,
    /// Why they could not be looked at.
    cgroups_unseen: Option<String>,
    identities: Identities,
    pods: BTreeMap<WorkloadKey, LocalPod>,
    /// Where pods are, as the container runtime said.
    places: arrivals::Places,
    announced: announced::Announced,
    /// Namespaces that are closed and served by nobody: of pods that are in
    /// another one now, or whose enrolment failed half-way.
    closed: BTreeMap<u64, Closed>,
    /// Watched cgroups of wanted pods.
    guards: BTreeMap<WorkloadKey, Vec<find::Watched>>,
    enrol_seconds: BTreeMap<WorkloadKey, f64>,
    link_warnings: BTreeMap<WorkloadKey, String>,
    /// Pods whose links could not be guarded yet.
    unguarded_links: BTreeSet<WorkloadKey>,
    /// Pods that guards were missing of, and since when: they are looked at often for a while.
    links_lost: BTreeMap<WorkloadKey, std::time::Instant>,
    /// Addresses that are left alone, each pod's with its namespace.
    excluded: BTreeMap<WorkloadKey, (u64, Vec<IpAddr>)>,
    /// Pods that leave by another address than when they were enrolled.
    egress_changed: BTreeSet<WorkloadKey>,
    /// Pods that left by such an address at some time: they are asked after it often.
    had_egress: BTreeSet<WorkloadKey>,
    /// When all pods' links were last looked at.
    links_seen: std::time::Instant,
    /// Something of a pod's status has changed since it was last given.
    status_is_old: bool,
    /// What keeps an enrolled pod from being whole since [`Reconciler::apply`].
    broken: BTreeMap<WorkloadKey, String>,
    /// What of an enrolled pod could not be looked at, as last seen.
    unseen: BTreeMap<WorkloadKey, String>,
    /// What an earlier agent left and nobody wants, as far as it was seen last.
    strangers: Vec<PodStatus>,
    /// Why that could not be looked at, or not be removed.
    unsettled: Option<String>,
    /// Pods whose captured connections would not come to the agent.
    astray: BTreeSet<WorkloadKey>,
    /// Pods with a process whose connects are not captured.
    elsewhere: BTreeSet<WorkloadKey>,
    statuses: Vec<PodStatus>,
    /// What of the node's own programs could not be looked at or put back, as last told.
    unmended: String,
    /// Pins of other versions may still hold pods.
    has_other_versions: bool,
    /// These have agents that run.
    waits_for_others: bool,
    metrics: metrics::Metrics,
}

impl<D: DataPath> Reconciler<D> {
    pub(crate) fn new(parts: Parts<D>, observe: &Observe) -> Result<Self, Error> {
        Ok(Self {
            identities: parts.identities,
            node: parts.node,
            capture: parts.capture,
            workers: parts.workers,
            host: Netns::current()?,
            finder: parts.find.map(find::Finder::new),
            probers: probers::Probers::new(parts.probers),
            cgroups: BTreeMap::new(),
            cgroups_unseen: None,
            pods: BTreeMap::new(),
            places: arrivals::Places::default(),
            announced: announced::Announced::default(),
            closed: BTreeMap::new(),
            guards: BTreeMap::new(),
            enrol_seconds: BTreeMap::new(),
            link_warnings: BTreeMap::new(),
            unguarded_links: BTreeSet::new(),
            links_lost: BTreeMap::new(),
            excluded: BTreeMap::new(),
            egress_changed: BTreeSet::new(),
            had_egress: BTreeSet::new(),
            links_seen: std::time::Instant::now(),
            status_is_old: false,
            broken: BTreeMap::new(),
            unseen: BTreeMap::new(),
            strangers: Vec::new(),
            unsettled: None,
            astray: BTreeSet::new(),
            elsewhere: BTreeSet::new(),
            statuses: Vec::new(),
            unmended: String::new(),
            has_other_versions: true,
            waits_for_others: false,
            metrics: metrics::Metrics::new(observe),
        })
    }

    /// Brings the node to the state that the configuration wants.
    pub(crate) async fn apply(&mut self, snapshot: &Snapshot) -> Vec<PodStatus> {
        self.doubt_places();
        let wanted: BTreeMap<WorkloadKey, Arc<Workload>> = snapshot
            .enrolled_on(&self.node)
            .map(|w| (w.key.clone(), self.places.applied(w)))
            .collect();
        self.leave_unwanted(snapshot, &wanted).await;
        let is_known = |key: &WorkloadKey| wanted.contains_key(key) || self.pods.contains_key(key);
        self.link_warnings.retain(|key, _| is_known(key));
        self.unguarded_links.retain(|key| is_known(key));
        self.excluded.retain(|key, _| is_known(key));
        self.egress_changed.retain(|key| is_known(key));
        self.had_egress.retain(|key| is_known(key));
        self.elsewhere.retain(|key| is_known(key));
        let served: BTreeSet<u64> = self.pods.values().map(LocalPod::cookie).collect();
        if let Some(finder) = &mut self.finder {
            finder.retain(|cookie| served.contains(&cookie));
        }
        // Keys of identities without a pod here go; the others' are fetched.
        let kept = self
            .pods
            .iter()
            .filter(|(key, _)| !wanted.contains_key(*key));
        let kept = kept.map(|(_, pod)| pod.spiffe_id.clone());
        let domain = self.identities.trust_domain();
        let identities = wanted.values().filter_map(|w| w.spiffe_id(domain).ok());
        self.identities.want(&identities.chain(kept).collect());
        self.look_at_cgroups();
        let mut unguarded = self.guard(&wanted, snapshot);
        let mut statuses = Vec::with_capacity(wanted.len());
        let mut refusals = BTreeMap::new();
        let expected = self.expect(&wanted);
        for workload in wanted.values() {
            let result = self.enrol(workload).await;
            if let Err(Failure { error, .. }) = &result {
                // Told as a problem, not at each attempt.
                tracing::debug!(pod = %workload.key, %error, "cannot enrol");
            }
            let result = result.and(self.exclude(workload));
            let probed = self.probe(workload).map_err(|error| Failure {
                error: error.into(),
                is_served: true,
            });
            let result = result.and(probed);
            // Also a pod whose cgroup cannot be watched is better captured than not.
            let unwatched = unguarded.remove(&workload.key);
            let unwatched = unwatched.map(|error| error.to_string());
            let refused = result.as_ref().err().map(|failure| Refusal {
                why: failure.error.to_string(),
                lasts: failure.error.lasts(),
            });
            let not_watched = || unwatched.clone().map(|why| Refusal { why, lasts: false });
            if let Some(refusal) = refused.or_else(not_watched) {
                refusals.insert(workload.key.clone(), refusal);
            }
            let reason = result.as_ref().err().map(|failure| failure.error.reason());
            statuses.push(PodStatus {
                unwatched,
                reason,
                ..self.status_after(workload, result)
            });
        }
        self.expect_no_more(expected).await;
        let pods = &self.pods;
        let is_at = |key: &WorkloadKey, cookie: u64| {
            let pod = pods.get(key);
            pod.is_some_and(|pod| pod.netns.cookie() == cookie)
        };
        self.places.answer(snapshot, is_at, &refusals);
        let unread = self
            .pods
            .values()
            .filter(|p| !wanted.contains_key(&p.workload.key));
        let unread = unread.map(|pod| self.status(&pod.workload, Some(UNREAD.to_owned())));
        statuses.extend(unread);
        let whole = statuses.iter().all(PodStatus::is_whole) && !snapshot.may_lack_pods();
        statuses.extend(self.leave_strangers(whole, snapshot));
        statuses.extend(self.unserved(&wanted, snapshot));
        self.narrow_hold(snapshot);
        self.status_is_old = false;
        self.statuses = statuses;
        self.statuses()
    }

    /// Takes up an arrival; [`Reconciler::apply`] says what becomes of it.
    pub(crate) fn arrived(&mut self, arrived: Arrived) {
        self.announced
            .tell(arrived.uid(), std::time::Instant::now());
        self.places.take(arrived, &self.host);
    }

    /// Has live connections looked at again.
    pub(crate) async fn recheck(&self, what: &Recheck) {
        if let Err(error) = self.workers.recheck(what).await {
            tracing::error!(%error, "cannot have live connections looked at again");
        }
    }

    /// Why it cannot be told what earlier agents left, or be removed.
    #[must_use]
    pub(crate) fn unsettled(&self) -> Option<&str> {
        self.unsettled.as_deref()
    }

    /// What is carried now.
    #[must_use]
    pub(crate) fn carried(&self) -> Carried {
        let of = |pod: &LocalPod| OfPod {
            connections: pod.active.load(Ordering::Relaxed),
            requests: pod.requests.load(Ordering::Relaxed),
            reserved_bytes: pod.account.held(),
        };
        let pods = self.pods.iter();
        Carried {
            active: self.workers.active(),
            pods: pods.map(|(key, pod)| (key.to_string(), of(pod))).collect(),
        }
    }

    /// Another agent has the kernel's side from now on.
    pub(crate) fn hand_over(&mut self) {
        self.capture.hand_over();
    }

    /// Ends an agent that has handed over: its connections drain, and it is one of the
    /// node's agents no more.
    pub(crate) async fn leave(mut self, drain: std::time::Duration) -> Result<(), Error> {
        self.workers.drain(drain, true).await;
        Ok(self.capture.leave_agents()?)
    }

    /// Ends it all: connections drain first; `on_stop` decides what the kernel keeps.
    pub(crate) async fn stop(
        self,
        drain: std::time::Duration,
        on_stop: capture::OnStop,
    ) -> Result<(), Error> {
        let stays = on_stop == capture::OnStop::Keep;
        self.workers.drain(drain, stays).await;
        if on_stop == capture::OnStop::Remove {
            for pod in self.pods.values() {
                // Of one alone: the others' go, and all programs.
                if let Err(error) = route::remove(&pod.netns) {
                    tracing::warn!(pod = %pod.workload.key, %error, "cannot remove its rule and routes");
                }
            }
            rules::remove(
                self.capture.names(),
                &self.closed.keys().copied().collect::<Vec<_>>(),
            );
        }
        Ok(self.capture.stop(on_stop)?)
    }
}
