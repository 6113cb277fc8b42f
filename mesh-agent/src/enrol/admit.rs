//! Makes one pod what it is to be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use super::find::NotFound;
use super::{DataPath, Error, Failure, LocalPod, Reconciler, local_pod, on_agent_down, ports};
use crate::capture::{self, EnrolPod};
use crate::model::{OnAgentDown, PodIps, Unfit, Workload, WorkloadKey};
use crate::sys::netns::Netns;
use crate::sys::{errno, route};

impl<D: DataPath> Reconciler<D> {
    /// Enrols a pod, or makes of an enrolled one what it is now.
    pub(super) async fn enrol(&mut self, workload: &Arc<Workload>) -> Result<(), Failure> {
        let on_agent_down = on_agent_down(workload);
        let before = self.pods.get(&workload.key).cloned();
        let pod = match self.local_pod(workload, before.as_ref()) {
            Ok(pod) => pod,
            Err(error) => {
                self.keep_closed(workload, before.as_ref()).await;
                let is_served = self.pods.contains_key(&workload.key);
                let is_uncaptured = match &error {
                    Error::Unfit(_) => true,
                    // What the guards of the links of one that is served let out does not change.
                    Error::NotFound(NotFound::Elsewhere { .. }) => !is_served,
                    _ => false,
                };
                if is_uncaptured {
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
        if !pod.egress().is_empty() {
            self.had_egress.insert(workload.key.clone());
        }
        self.pods.insert(workload.key.clone(), pod);
        if let Some(before) = before.filter(|_| is_new) {
            // The new namespace is served: now nobody serves the old one any more.
            tracing::info!(pod = %workload.key, "it is in another network namespace now");
            self.abandon(&before).await;
        }
        Ok(())
    }

    /// Of pods that an agent before this one captured, in its first look: what they connect
    /// to each other comes here pod by pod, and each has to be known as the other end from
    /// the first one on.
    pub(super) fn expect(&mut self, wanted: &BTreeMap<WorkloadKey, Arc<Workload>>) -> Vec<u64> {
        if !self.pods.is_empty() {
            return Vec::new();
        }
        let others = self.capture.beside_others().unwrap_or_else(|error| {
            tracing::warn!(%error, "connections to pods may fail until they are enrolled");
            Vec::new()
        });
        let others: BTreeSet<u64> = others.into_iter().collect();
        if !others.is_empty() {
            // What cannot be followed is told by the next look.
            let _seen_again = self.probers.follow(&mut self.capture);
        }
        let mut expected = Vec::new();
        for workload in wanted.values() {
            let Ok(pod) = self.local_pod(workload, None) else {
                continue;
            };
            if others.contains(&pod.cookie())
                && let Err(error) = self.go_beside(&pod)
            {
                tracing::warn!(pod = %workload.key, %error, "connections to it may fail until it is enrolled");
            }
            if self.capture.has_program(pod.cookie()) {
                self.workers.expect(&pod);
                expected.push(pod.cookie());
            }
        }
        expected
    }

    /// Our program at a pod of another version's: behind all that it has to let through.
    fn go_beside(&mut self, pod: &LocalPod) -> Result<(), capture::Error> {
        let on_node = &pod.workload.on_node;
        self.capture.exclude(pod.cookie(), &on_node.excluded)?;
        let ports = &on_node.probe_ports;
        self.capture.set_probe_ports(pod.cookie(), ports)?;
        self.capture.attach_beside(&pod.netns)
    }

    /// Those of them that did not come to be served.
    pub(super) async fn expect_no_more(&mut self, mut expected: Vec<u64>) {
        let served: Vec<u64> = self.pods.values().map(LocalPod::cookie).collect();
        expected.retain(|cookie| !served.contains(cookie));
        for cookie in expected {
            if let Err(error) = self.workers.remove_pod(cookie).await {
                tracing::error!(cookie, %error, "cannot forget a pod that is not served");
            }
        }
    }

    /// What the configuration and the machine make of a workload.
    fn local_pod(
        &mut self,
        workload: &Arc<Workload>,
        before: Option<&LocalPod>,
    ) -> Result<LocalPod, Error> {
        let is_itself = before.is_some_and(|before| before.workload.uid == workload.uid);
        match &workload.on_node.unfit {
            // Anybody may write that who may write the pod: it lets no pod go. Nor does a
            // class that is not told any more: its handler was known, and cannot change.
            Some(Unfit::Claimed(_) | Unfit::UnknownRuntime(_)) if is_itself => {}
            Some(unfit) => return Err(Error::Unfit(unfit.clone())),
            None => {}
        }
        if workload.ips.is_empty() {
            return Err(Error::NoAddress);
        }
        let spiffe_id = workload.spiffe_id(self.identities.trust_domain())?;
        let netns = self.netns_of(workload, before)?;
        self.check_captured(workload, before)?;
        let before = before.filter(|before| before.netns.cookie() == netns.cookie());
        let identity = match before {
            Some(before) if before.spiffe_id == spiffe_id => before.identity.clone(),
            _ => self.identities.handle(&spiffe_id),
        };
        let served = before.filter(|before| before.workload.ips == workload.ips);
        // What cannot be told is as it was seen last, and counts as there before that.
        let ips = netns.families(workload.ips);
        let ips = ips.unwrap_or_else(|_| served.map_or(workload.ips, LocalPod::own));
        let leaves_by = self.egress_of(workload, &netns, served);
        let ips = PodIps {
            v4: ips.v4.or(leaves_by.v4),
            v6: ips.v6.or(leaves_by.v6),
        };
        let dial_ports = match ports::overlap(&netns, self.workers.delivery_ports()) {
            Ok(overlap) => overlap.and_then(|overlap| overlap.clear()),
            Err(_) => before.and_then(|before| before.dial_ports.clone()),
        };
        Ok(LocalPod {
            workload: workload.clone(),
            ips,
            dial_ports,
            active: before.map_or_else(Arc::default, |before| before.active.clone()),
            requests: before.map_or_else(Arc::default, |before| before.requests.clone()),
            account: before.map_or_else(Arc::default, |before| before.account.clone()),
            netns,
            identity,
            spiffe_id,
        })
    }

    /// Looked at when it comes, and where it was seen to be another.
    fn egress_of(
        &mut self,
        workload: &Workload,
        netns: &Netns,
        served: Option<&LocalPod>,
    ) -> PodIps {
        let is_another = self.egress_changed.remove(&workload.key);
        let excluded = &workload.on_node.excluded;
        let served = served.filter(|before| before.workload.on_node.excluded == *excluded);
        match served.map(LocalPod::egress) {
            Some(before) if !is_another => before,
            before => {
                let now = local_pod::egress(netns, workload);
                now.unwrap_or_else(|_| before.unwrap_or_default())
            }
        }
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
}

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
