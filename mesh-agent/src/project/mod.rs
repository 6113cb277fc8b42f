//! Makes the node's pods be what the snapshot wants: enrolled or let go.
//!
//! The one caller of `capture` that changes maps. Invariants: a pod is
//! enrolled only after the workers have its listeners; a pod that left is let
//! go by the kernel first, then its sockets close; a failure of one pod never
//! stops the others, is shown, and is tried again.

mod links;
mod metrics;
mod ports;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use serde::Serialize;

use crate::capture::{self, Capture, EnrolPod};
use crate::identity::Identities;
use crate::model::{Enrolment, OnAgentDown, Snapshot, SpiffeError, Workload, WorkloadKey};
use crate::observe::Observe;
use crate::proxy::{self, LocalPod, Recheck, Workers};
use crate::sys::cgroup;
use crate::sys::netns::{self, Netns, NetnsError};
use crate::sys::route::{self, RouteError};

/// Of the projector, for the reference of metrics.
#[cfg(test)]
pub(crate) fn register(observe: &Observe) {
    metrics::Metrics::new(observe);
}

/// Why a pod is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no annotation says where its network namespace is; set mesh-agent.io/netns, /pid or /cgroup"
    )]
    NoNetns,
    #[error(
        "its network namespace is the node's own: a pod on the host network cannot be enrolled"
    )]
    HostNetwork,
    #[error("it has no address")]
    NoAddress,
    #[error("namespace and service account make no identity: {0}")]
    Identity(#[from] SpiffeError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(transparent)]
    Proxy(#[from] proxy::Error),
    #[error(transparent)]
    Capture(#[from] capture::Error),
}

/// State of one of the node's enrolled pods, for `status`.
#[derive(Clone, Debug, Serialize)]
pub struct PodStatus {
    pub pod: String,
    pub enrolled: bool,
    pub addresses: Vec<IpAddr>,
    /// Its SPIFFE id, where its names make one.
    pub identity: Option<String>,
    pub netns_cookie: Option<u64>,
    /// How long enrolling took.
    pub enrol_seconds: Option<f64>,
    /// Why not.
    pub message: Option<String>,
    /// What does not work for it though it is enrolled.
    pub warning: Option<String>,
}

/// The projector and what it has enrolled.
pub struct Projector {
    node: String,
    capture: Capture,
    workers: Workers,
    host: Netns,
    identities: Identities,
    pods: BTreeMap<WorkloadKey, LocalPod>,
    /// Watched cgroups of wanted pods, by id.
    guards: BTreeMap<WorkloadKey, u64>,
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
    metrics: metrics::Metrics,
}

impl Projector {
    pub fn new(
        node: String,
        capture: Capture,
        workers: Workers,
        identities: Identities,
        observe: &Observe,
    ) -> Result<Self, Error> {
        Ok(Self {
            identities,
            node,
            capture,
            workers,
            host: Netns::current()?,
            pods: BTreeMap::new(),
            guards: BTreeMap::new(),
            enrol_seconds: BTreeMap::new(),
            link_warnings: BTreeMap::new(),
            unguarded_links: BTreeSet::new(),
            excluded: BTreeMap::new(),
            links_seen: std::time::Instant::now(),
            status_is_old: false,
            metrics: metrics::Metrics::new(observe),
        })
    }

    /// Brings the node to the state that `snapshot` wants.
    pub async fn apply(&mut self, snapshot: &Snapshot) -> Vec<PodStatus> {
        let wanted: BTreeMap<WorkloadKey, Arc<Workload>> = snapshot
            .enrolled_on(&self.node)
            .map(|w| (w.key.clone(), w.clone()))
            .collect();
        self.withdraw_unwanted(&wanted).await;
        self.withdraw_moved().await;
        self.link_warnings.retain(|key, _| wanted.contains_key(key));
        self.unguarded_links.retain(|key| wanted.contains_key(key));
        self.excluded.retain(|key, _| wanted.contains_key(key));
        // Keys of identities without a pod here go; the others' are fetched.
        let domain = self.identities.trust_domain();
        let identities = wanted.values().filter_map(|w| w.spiffe_id(domain).ok());
        self.identities.want(&identities.collect());
        let mut unguarded = self.guard(&wanted);
        let mut statuses = Vec::with_capacity(wanted.len());
        for workload in wanted.values() {
            // Also a pod whose cgroup cannot be watched is better captured than not.
            let result = self.enrol(workload).await;
            let result = result.and(unguarded.remove(&workload.key).map_or(Ok(()), Err));
            if let Err(error) = &result {
                // Told as a problem, not at each attempt.
                tracing::debug!(pod = %workload.key, %error, "cannot enrol");
            }
            self.exclude(workload);
            let pod = self.pods.get(&workload.key);
            let delivery = self.workers.delivery_ports();
            let overlap = pod.filter(|p| p.dial_ports.is_none());
            let overlap = overlap.and_then(|p| ports::overlap(&p.netns, delivery));
            let identity = workload.spiffe_id(self.identities.trust_domain()).ok();
            statuses.push(PodStatus {
                pod: workload.key.to_string(),
                enrolled: result.is_ok(),
                addresses: workload.ips.iter().collect(),
                identity: identity.map(|id| id.to_string()),
                netns_cookie: pod.map(|p| p.netns.cookie()),
                enrol_seconds: self.enrol_seconds.get(&workload.key).copied(),
                message: result.err().map(|e| e.to_string()),
                warning: joined(
                    overlap.map(|overlap| overlap.to_string()),
                    self.link_warnings.get(&workload.key).cloned(),
                ),
            });
        }
        self.withdraw_strangers();
        self.status_is_old = false;
        statuses
    }

    /// Has live connections looked at again.
    pub async fn recheck(&self, what: &Recheck) {
        if let Err(error) = self.workers.recheck(what).await {
            tracing::error!(%error, "cannot have live connections looked at again");
        }
    }

    /// Watches the cgroups of all wanted pods, before any of them is enrolled,
    /// and those of others no more. Gives the pods whose cgroup cannot be watched.
    fn guard(
        &mut self,
        wanted: &BTreeMap<WorkloadKey, Arc<Workload>>,
    ) -> BTreeMap<WorkloadKey, Error> {
        let mut failed = BTreeMap::new();
        self.guards.retain(|key, _| wanted.contains_key(key));
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
        let kept = self.guards.values().copied().collect();
        if let Err(error) = self.capture.retain_pod_guards(&kept) {
            tracing::error!(%error, "cannot stop watching the cgroups of former pods");
        }
        failed
    }

    async fn withdraw_unwanted(&mut self, wanted: &BTreeMap<WorkloadKey, Arc<Workload>>) {
        let gone: Vec<WorkloadKey> = self
            .pods
            .iter()
            .filter(|(key, pod)| {
                // Another pod of the name, or other addresses: begin anew.
                wanted.get(*key).is_none_or(|w| {
                    w.uid != pod.workload.uid
                        || w.ips != pod.workload.ips
                        || w.netns != pod.workload.netns
                        || w.cgroup != pod.workload.cgroup
                        || w.enrolment != pod.workload.enrolment
                        || w.service_account != pod.workload.service_account
                })
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.enrol_seconds.remove(&key);
            if let Some(pod) = self.pods.remove(&key) {
                self.withdraw(&pod).await;
            }
        }
    }

    /// Is the cgroup that is watched for the pod the one at `dir` now? One that is
    /// gone has no processes to watch.
    fn is_guarded(&self, key: &WorkloadKey, dir: &std::path::Path) -> bool {
        let watched = self.guards.get(key);
        watched.is_some_and(|watched| cgroup::id(dir).map_or(true, |id| id == *watched))
    }

    /// Has a pod been restarted in another namespace or cgroup, which its
    /// annotations name as before, or is something else of it to be told?
    #[must_use]
    pub fn have_pods_moved(&self) -> bool {
        self.status_is_old
            || self.pods.iter().any(|(key, pod)| {
                let dir = pod.workload.cgroup.as_ref();
                has_moved(pod) || dir.is_some_and(|dir| !self.is_guarded(key, dir))
            })
    }

    /// Lets go of the namespaces that pods were in before; they are enrolled anew.
    async fn withdraw_moved(&mut self) {
        let moved = self.pods.iter().filter(|(_, pod)| has_moved(pod));
        let moved: Vec<WorkloadKey> = moved.map(|(key, _)| key.clone()).collect();
        for key in moved {
            if let Some(pod) = self.pods.remove(&key) {
                tracing::info!(pod = %key, "it is in another network namespace now");
                self.withdraw(&pod).await;
            }
        }
    }

    async fn withdraw(&mut self, pod: &LocalPod) {
        let cookie = pod.netns.cookie();
        if let Err(error) = self.capture.withdraw(cookie, pod.workload.ips) {
            tracing::error!(pod = %pod.workload.key, %error, "cannot withdraw");
        }
        if let Err(error) = self.workers.remove_pod(cookie).await {
            tracing::error!(pod = %pod.workload.key, %error, "cannot close its sockets");
        }
        // Last: deliveries in flight were still routed by it.
        if let Err(error) = route::remove(&pod.netns) {
            tracing::warn!(pod = %pod.workload.key, %error, "cannot remove its rule and routes");
        }
        tracing::info!(pod = %pod.workload.key, "withdrawn");
    }

    async fn enrol(&mut self, workload: &Arc<Workload>) -> Result<(), Error> {
        if self.pods.contains_key(&workload.key) {
            return Ok(());
        }
        let Enrolment::Yes(on_agent_down) = workload.enrolment else {
            return Ok(());
        };
        if workload.ips.is_empty() {
            return Err(Error::NoAddress);
        }
        let reference = workload.netns.as_ref().ok_or(Error::NoNetns)?;
        let netns = Arc::new(Netns::open(reference, workload.ips)?);
        if netns.cookie() == self.host.cookie() {
            return Err(Error::HostNetwork);
        }
        let started = std::time::Instant::now();
        let spiffe_id = workload.spiffe_id(self.identities.trust_domain())?;
        let overlap = ports::overlap(&netns, self.workers.delivery_ports());
        let pod = LocalPod {
            workload: workload.clone(),
            netns: netns.clone(),
            identity: self.identities.handle(&spiffe_id),
            spiffe_id,
            dial_ports: overlap.and_then(|overlap| overlap.clear()),
            active: Arc::default(),
        };
        if let Err(error) = self.take(&pod, on_agent_down).await {
            // Half of it would capture without serving: take all of it back.
            self.withdraw(&pod).await;
            return Err(error);
        }
        let took = started.elapsed().as_secs_f64();
        self.metrics.enrol.observe(took);
        self.enrol_seconds.insert(workload.key.clone(), took);
        self.guard_links(&pod.netns, workload);
        tracing::info!(pod = %workload.key, "enrolled");
        self.pods.insert(workload.key.clone(), pod);
        Ok(())
    }

    async fn take(&mut self, pod: &LocalPod, on_agent_down: OnAgentDown) -> Result<(), Error> {
        let ips = pod.workload.ips;
        route::install(&pod.netns, ips)?;
        let listeners = self.workers.add_pod(pod).await?;
        let borrowed: Vec<_> = listeners.iter().map(|(ip, fd)| (*ip, fd.as_fd())).collect();
        self.capture.enrol(&EnrolPod {
            netns: &pod.netns,
            ips,
            on_agent_down,
            listeners: &borrowed,
        })?;
        if let Some(id) = self.guards.get(&pod.workload.key) {
            self.capture.guard_enrolled(*id, pod.netns.cookie())?;
        }
        Ok(())
    }

    /// Lets go of pods that an earlier agent enrolled and nobody wants now.
    fn withdraw_strangers(&mut self) {
        let known: Vec<u64> = self.pods.values().map(|p| p.netns.cookie()).collect();
        let enrolled = match self.capture.enrolled() {
            Ok(enrolled) => enrolled,
            Err(error) => return tracing::error!(%error, "cannot list what is enrolled"),
        };
        let strangers: Vec<_> = enrolled
            .into_iter()
            .filter(|(cookie, _)| !known.contains(cookie))
            .collect();
        for &(cookie, ips) in &strangers {
            if let Err(error) = self.capture.withdraw(cookie, ips) {
                tracing::error!(cookie, %error, "cannot withdraw a pod of an earlier agent");
            }
        }
        if strangers.is_empty() {
            return;
        }
        let cookies: Vec<u64> = strangers.into_iter().map(|(cookie, _)| cookie).collect();
        for netns in netns::find(&cookies) {
            if let Err(error) = route::remove(&netns) {
                tracing::warn!(cookie = netns.cookie(), %error, "cannot remove the rules of an earlier agent");
            }
        }
    }

    #[must_use]
    pub fn active_connections(&self) -> usize {
        self.workers.active()
    }

    /// Ends it all: connections drain first; `on_stop` decides what the kernel keeps.
    pub async fn stop(
        self,
        drain: std::time::Duration,
        on_stop: capture::OnStop,
    ) -> Result<(), Error> {
        self.workers.drain(drain).await;
        if on_stop == capture::OnStop::Remove {
            for pod in self.pods.values() {
                route::remove(&pod.netns)?;
            }
        }
        Ok(self.capture.stop(on_stop)?)
    }
}

fn joined(first: Option<String>, second: Option<String>) -> Option<String> {
    let parts: Vec<String> = first.into_iter().chain(second).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn has_moved(pod: &LocalPod) -> bool {
    let reference = pod.workload.netns.as_ref();
    reference.is_some_and(|reference| pod.netns.has_moved(reference, pod.workload.ips))
}
