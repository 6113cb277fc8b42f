//! Makes the node's pods be what the snapshot wants: enrolled or let go.
//!
//! The one caller of `capture` that changes maps. Invariants:
//! - a pod is enrolled only after the workers have its listeners;
//! - what changes about an enrolled pod changes under the same programs;
//! - a pod is let go only where the configuration says that it is not wanted.
//!   An error of any kind is not such a word: the kernel keeps what it has, so
//!   that a closed pod stays closed, and the error is shown;
//! - a failure of one pod never stops the others, and is tried again.

mod arrivals;
mod data_path;
mod error;
pub(crate) mod find;
mod guards;
mod leave;
mod links;
mod local_pod;
mod metrics;
mod ports;
pub(crate) mod probers;
mod rules;
mod watch;
mod whereabouts;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::capture::{self, Capture, EnrolPod};
use crate::identity::Identities;
use crate::model::{Enrolment, OnAgentDown, PodIps, Snapshot, Workload, WorkloadKey};
use crate::observe::Observe;
use crate::sys::errno;
use crate::sys::netns::Netns;
use crate::sys::route;
pub(crate) use arrivals::arrivals;
#[allow(unused_imports, reason = "for the server of the CNI plugin")]
pub(crate) use arrivals::{Admission, Arrival, Arrivals};
use arrivals::{Arrived, Refusal};
pub(crate) use data_path::DataPath;
pub(crate) use data_path::{Recheck, ServeError};
pub(crate) use error::Error;
pub(crate) use local_pod::LocalPod;

/// Of the reconciler, for the reference of metrics.
#[cfg(test)]
pub(crate) fn register(observe: &Observe) {
    metrics::Metrics::new(observe);
}

/// State of one of the node's enrolled pods, for `status`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PodStatus {
    pub(crate) pod: String,
    pub(crate) enrolled: bool,
    pub(crate) addresses: Vec<IpAddr>,
    /// Its SPIFFE id, where its names make one.
    pub(crate) identity: Option<String>,
    pub(crate) netns_cookie: Option<u64>,
    /// How long enrolling took.
    pub(crate) enrol_seconds: Option<f64>,
    /// Why not, in one word that stays the same.
    pub(crate) reason: Option<&'static str>,
    /// Why not.
    pub(crate) message: Option<String>,
    /// Why it cannot be told whether all of it is still as it was seen last.
    pub(crate) unknown: Option<String>,
    /// Why its cgroup is not watched, though it is enrolled.
    pub(crate) unwatched: Option<String>,
    /// It asks to be outside of the mesh where no agent serves it.
    pub(crate) fails_open: bool,
    /// What does not work for it though it is enrolled.
    pub(crate) warning: Option<String>,
}

impl PodStatus {
    pub(crate) fn is_whole(&self) -> bool {
        self.enrolled && self.unknown.is_none() && self.unwatched.is_none()
    }
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
    /// Namespaces that are closed and served by nobody: of pods that are in
    /// another one now, or whose enrolment failed half-way.
    closed: BTreeMap<u64, WorkloadKey>,
    /// Watched cgroups of wanted pods.
    guards: BTreeMap<WorkloadKey, Vec<find::Watched>>,
    enrol_seconds: BTreeMap<WorkloadKey, f64>,
    link_warnings: BTreeMap<WorkloadKey, String>,
    /// Pods whose links could not be guarded yet.
    unguarded_links: BTreeSet<WorkloadKey>,
    /// Addresses that are left alone, each pod's with its namespace.
    excluded: BTreeMap<WorkloadKey, (u64, Vec<IpAddr>)>,
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
    statuses: Vec<PodStatus>,
    /// What of the node's own programs could not be looked at or put back, as last told.
    unmended: String,
    /// Pins of other versions may still hold pods.
    has_other_versions: bool,
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
            closed: BTreeMap::new(),
            guards: BTreeMap::new(),
            enrol_seconds: BTreeMap::new(),
            link_warnings: BTreeMap::new(),
            unguarded_links: BTreeSet::new(),
            excluded: BTreeMap::new(),
            links_seen: std::time::Instant::now(),
            status_is_old: false,
            broken: BTreeMap::new(),
            unseen: BTreeMap::new(),
            strangers: Vec::new(),
            unsettled: None,
            astray: BTreeSet::new(),
            statuses: Vec::new(),
            unmended: String::new(),
            has_other_versions: true,
            metrics: metrics::Metrics::new(observe),
        })
    }

    /// Brings the node to the state that the configuration wants.
    pub(crate) async fn apply(&mut self, snapshot: &Snapshot) -> Vec<PodStatus> {
        let wanted: BTreeMap<WorkloadKey, Arc<Workload>> = snapshot
            .enrolled_on(&self.node)
            .map(|w| (w.key.clone(), self.places.applied(w)))
            .collect();
        self.leave_unwanted(snapshot, &wanted).await;
        let is_known = |key: &WorkloadKey| wanted.contains_key(key) || self.pods.contains_key(key);
        self.link_warnings.retain(|key, _| is_known(key));
        self.unguarded_links.retain(|key| is_known(key));
        self.excluded.retain(|key, _| is_known(key));
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
        let mut unguarded = self.guard(&wanted, snapshot.may_hide_pods());
        let mut statuses = Vec::with_capacity(wanted.len());
        let mut refusals = BTreeMap::new();
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
        statuses.extend(self.leave_strangers(whole));
        statuses.extend(self.unserved(&wanted));
        if snapshot.generation > 0
            && let Err(error) = self.capture.end_hold()
        {
            tracing::error!(%error, "pods outside the mesh are held still");
        }
        self.status_is_old = false;
        self.statuses = statuses;
        self.statuses()
    }

    /// Who ran out of something has learned nothing of a pod that is served.
    fn status_after(&self, workload: &Workload, result: Result<(), Failure>) -> PodStatus {
        let told = |failure: Failure| failure.error.to_string();
        match result {
            Err(failure) if failure.is_served && errno::is_shortage(&failure.error) => PodStatus {
                unknown: Some(told(failure)),
                ..self.status(workload, None)
            },
            result => self.status(workload, result.err().map(told)),
        }
    }

    fn status(&self, workload: &Workload, message: Option<String>) -> PodStatus {
        let pod = self.pods.get(&workload.key);
        let delivery = self.workers.delivery_ports();
        let overlap = pod.filter(|p| p.dial_ports.is_none());
        let overlap = overlap.and_then(|p| ports::overlap(&p.netns, delivery).ok().flatten());
        let refused = pod.map(|pod| refused(workload.ips, pod.ips)).into_iter();
        let warnings = refused.flatten().chain(overlap.map(|o| o.to_string()));
        let links = self.link_warnings.get(&workload.key).cloned();
        let warnings: Vec<String> = warnings.chain(links).collect();
        let identity = workload.spiffe_id(self.identities.trust_domain()).ok();
        PodStatus {
            pod: workload.key.to_string(),
            enrolled: message.is_none(),
            addresses: workload.ips.iter().collect(),
            identity: identity.map(|id| id.to_string()),
            netns_cookie: pod.map(|p| p.netns.cookie()),
            enrol_seconds: self.enrol_seconds.get(&workload.key).copied(),
            reason: None,
            message,
            unknown: None,
            unwatched: None,
            fails_open: on_agent_down(workload) == OnAgentDown::Open,
            warning: (!warnings.is_empty()).then(|| warnings.join("; ")),
        }
    }

    /// Takes up an arrival; [`Reconciler::apply`] says what becomes of it.
    pub(crate) fn arrived(&mut self, arrived: Arrived) {
        self.places.take(arrived, &self.host);
    }

    /// Has live connections looked at again.
    pub(crate) async fn recheck(&self, what: &Recheck) {
        if let Err(error) = self.workers.recheck(what).await {
            tracing::error!(%error, "cannot have live connections looked at again");
        }
    }

    /// As [`Reconciler::apply`] left them, and what was found broken since.
    #[must_use]
    pub(crate) fn statuses(&self) -> Vec<PodStatus> {
        let mut statuses = self.statuses.clone();
        for (key, why) in &self.unseen {
            let name = key.to_string();
            if let Some(status) = statuses.iter_mut().find(|status| status.pod == name) {
                status.unknown.get_or_insert_with(|| why.clone());
            }
        }
        for (key, why) in &self.broken {
            let name = key.to_string();
            if let Some(status) = statuses.iter_mut().find(|status| status.pod == name) {
                status.enrolled = false;
                status.reason.get_or_insert("Broken");
                status.message.get_or_insert_with(|| why.clone());
            }
        }
        statuses
    }

    /// Why it cannot be told what earlier agents left, or be removed.
    #[must_use]
    pub(crate) fn unsettled(&self) -> Option<&str> {
        self.unsettled.as_deref()
    }

    /// Enrols a pod, or makes of an enrolled one what it is now.
    async fn enrol(&mut self, workload: &Arc<Workload>) -> Result<(), Failure> {
        let on_agent_down = on_agent_down(workload);
        let before = self.pods.get(&workload.key).cloned();
        let pod = match self.local_pod(workload, before.as_ref()) {
            Ok(pod) => pod,
            Err(error) => {
                self.keep_closed(workload, before.as_ref()).await;
                if matches!(error, Error::Unfit(_)) {
                    self.close_unfit(workload).await;
                }
                return Err(error.into());
            }
        };
        if before.as_ref().is_some_and(|before| is_same(before, &pod)) {
            return Ok(());
        }
        let started = std::time::Instant::now();
        let here = before
            .as_ref()
            .filter(|b| b.netns.cookie() == pod.netns.cookie());
        if let Err(error) = self.take(&pod, here, on_agent_down).await {
            if errno::is_shortage(&error) && here.is_some_and(|before| serves_for(before, &pod)) {
                // What it is now is tried again; what it was still holds.
                let is_served = true;
                return Err(Failure { error, is_served });
            }
            if here.is_some() {
                self.pods.remove(&workload.key);
            }
            self.close(&pod, on_agent_down).await;
            return Err(error.into());
        }
        let took = started.elapsed().as_secs_f64();
        self.metrics.enrol.observe(took);
        self.enrol_seconds.insert(workload.key.clone(), took);
        self.guard_links(&pod.netns, workload);
        self.closed.remove(&pod.netns.cookie());
        self.astray.remove(&workload.key);
        let is_new = here.is_none();
        tracing::info!(pod = %workload.key, "{}", if is_new { "enrolled" } else { "changed" });
        self.pods.insert(workload.key.clone(), pod);
        if let Some(before) = before.filter(|_| is_new) {
            // The new namespace is served: now nobody serves the old one any more.
            tracing::info!(pod = %workload.key, "it is in another network namespace now");
            self.abandon(&before).await;
        }
        Ok(())
    }

    /// What the configuration and the machine make of a workload.
    fn local_pod(
        &mut self,
        workload: &Arc<Workload>,
        before: Option<&LocalPod>,
    ) -> Result<LocalPod, Error> {
        if let Some(unfit) = &workload.on_node.unfit {
            return Err(Error::Unfit(unfit.clone()));
        }
        if workload.ips.is_empty() {
            return Err(Error::NoAddress);
        }
        let spiffe_id = workload.spiffe_id(self.identities.trust_domain())?;
        let netns = self.netns_of(workload, before)?;
        let before = before.filter(|before| before.netns.cookie() == netns.cookie());
        let identity = match before {
            Some(before) if before.spiffe_id == spiffe_id => before.identity.clone(),
            _ => self.identities.handle(&spiffe_id),
        };
        let served = before.filter(|before| before.workload.ips == workload.ips);
        // What cannot be told is as it was seen last, and counts as there before that.
        let ips = netns.families(workload.ips);
        let ips = ips.unwrap_or_else(|_| served.map_or(workload.ips, |before| before.ips));
        let dial_ports = match ports::overlap(&netns, self.workers.delivery_ports()) {
            Ok(overlap) => overlap.and_then(|overlap| overlap.clear()),
            Err(_) => before.and_then(|before| before.dial_ports.clone()),
        };
        Ok(LocalPod {
            workload: workload.clone(),
            ips,
            dial_ports,
            active: before.map_or_else(Arc::default, |before| before.active.clone()),
            netns,
            identity,
            spiffe_id,
        })
    }

    /// `before`: what it was in the same namespace.
    async fn take(
        &mut self,
        pod: &LocalPod,
        before: Option<&LocalPod>,
        on_agent_down: OnAgentDown,
    ) -> Result<(), Error> {
        route::install(&pod.netns, pod.ips)?;
        let listeners = self.workers.put_pod(pod).await?;
        let borrowed: Vec<_> = listeners.iter().map(|(ip, fd)| (*ip, fd.as_fd())).collect();
        self.capture.enrol(&EnrolPod {
            netns: &pod.netns,
            ips: pod.ips,
            on_agent_down,
            listeners: &borrowed,
        })?;
        if let Some(before) = before {
            let gone: Vec<IpAddr> = before
                .ips
                .iter()
                .filter(|ip| !pod.ips.contains(*ip))
                .collect();
            if !gone.is_empty() {
                self.capture.drop_addresses(pod.netns.cookie(), &gone)?;
                // Last: a fail-open pod is open where no listener is left.
                self.workers.close_former(pod.netns.cookie()).await?;
            }
        }
        for watched in self.guards.get(&pod.workload.key).into_iter().flatten() {
            self.capture
                .guard_enrolled(watched.id, pod.netns.cookie())?;
        }
        Ok(())
    }

    #[must_use]
    pub(crate) fn active_connections(&self) -> usize {
        self.workers.active()
    }

    /// Another agent has the kernel's side from now on.
    pub(crate) fn hand_over(&mut self) {
        self.capture.hand_over();
    }

    /// Ends an agent that has handed over: its connections drain, and it is one of the
    /// node's agents no more.
    pub(crate) async fn leave(mut self, drain: std::time::Duration) -> Result<(), Error> {
        self.workers.drain(drain).await;
        Ok(self.capture.leave_agents()?)
    }

    /// Ends it all: connections drain first; `on_stop` decides what the kernel keeps.
    pub(crate) async fn stop(
        self,
        drain: std::time::Duration,
        on_stop: capture::OnStop,
    ) -> Result<(), Error> {
        self.workers.drain(drain).await;
        if on_stop == capture::OnStop::Remove {
            for pod in self.pods.values() {
                // Of one alone: the others' go, and all programs.
                if let Err(error) = route::remove(&pod.netns) {
                    tracing::warn!(pod = %pod.workload.key, %error, "cannot remove its rule and routes");
                }
            }
            rules::remove(&self.closed.keys().copied().collect::<Vec<_>>());
        }
        Ok(self.capture.stop(on_stop)?)
    }
}

/// Of a pod that the configuration says nothing certain about.
const UNREAD: &str = "its document cannot be read: it stays as it was";

/// Would enrolling the one anew change nothing of the other?
fn is_same(before: &LocalPod, now: &LocalPod) -> bool {
    before.netns.cookie() == now.netns.cookie()
        && before.spiffe_id == now.spiffe_id
        && before.ips == now.ips
        && before.dial_ports == now.dial_ports
        && *before.workload == *now.workload
}

/// May it be served as what it was, until it can be made what it is now? Who it
/// is, where, and what holds without an agent are the same.
fn serves_for(before: &LocalPod, now: &LocalPod) -> bool {
    before.workload.uid == now.workload.uid
        && before.workload.ips == now.workload.ips
        && before.ips == now.ips
        && before.spiffe_id == now.spiffe_id
        && on_agent_down(&before.workload) == on_agent_down(&now.workload)
}

/// Of a pod whose namespace lacks a family.
fn refused(wanted: PodIps, served: PodIps) -> Option<String> {
    let lacks: Vec<String> = wanted
        .iter()
        .filter(|ip| !served.contains(*ip))
        .map(|ip| ip.to_string())
        .collect();
    (!lacks.is_empty()).then(|| {
        format!(
            "its network namespace has no IPv6 ({}): connections by it are refused both ways",
            lacks.join(", ")
        )
    })
}

/// What new connections of an enrolled pod meet without an agent.
fn on_agent_down(workload: &Workload) -> OnAgentDown {
    match workload.enrolment {
        Enrolment::Yes(on_agent_down) => on_agent_down,
        Enrolment::No => OnAgentDown::Closed,
    }
}
