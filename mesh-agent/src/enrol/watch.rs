//! Between changes: puts back what was taken away, tells of refusals.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mesh_common::counter::Counter;

use super::{DataPath, Reconciler, on_agent_down};
use crate::capture::{self, EnrolPod};
use crate::model::{OnAgentDown, PodIps, WorkloadKey};
use crate::sys::route::{self, RouteError};

/// Events read in one turn, and of these logged; all are counted by the kernel.
const READ: usize = 256;
const LOGGED: usize = 10;

impl<D: DataPath> Reconciler<D> {
    /// Puts back lost programs, pins, rules, routes and settings. Gives whether
    /// other pods are whole now than before.
    pub(crate) fn restore(&mut self) -> bool {
        let served: BTreeSet<u64> = self.pods.values().map(|p| p.netns.cookie()).collect();
        let node = self.capture.restore_node();
        let unserved = self
            .capture
            .restore_unserved(|cookie| served.contains(&cookie));
        let mut missing = node.count + unserved.count;
        let mut failed = [node.failed, unserved.failed].concat();
        if let Err(error) = self.look_for_agents() {
            failed.push(error.to_string());
        }
        let pods = self.pods.values().map(|pod| &*pod.netns);
        if let Err(error) = self.capture.forget_lost_tuples(pods) {
            failed.push(error.to_string());
        }
        let (found, lost) = self.probers.follow(&mut self.capture);
        missing += found;
        failed.extend(lost);
        self.tell_unmended(failed.join("; "));
        let (mut broken, mut unseen) = (BTreeMap::new(), BTreeMap::new());
        let mut astray = BTreeSet::new();
        for (key, pod) in &self.pods {
            let mut failed = Vec::new();
            // No answer is no word against the pod.
            let mut unasked = Vec::new();
            match self.capture.restore_pod(&pod.netns) {
                Ok(lost) => missing += usize::from(lost),
                Err(error) if error.is_unasked() => unasked.push(error.to_string()),
                Err(error) => failed.push(error.to_string()),
            }
            match route::restore(&pod.netns, pod.ips) {
                Ok(lost) => missing += lost,
                Err(error) => {
                    // Any other error does not tell where they go: it stays as it is.
                    let tells = matches!(error, RouteError::Elsewhere);
                    if tells || self.astray.contains(key) {
                        astray.insert(key.clone());
                    }
                    match error.is_unasked() {
                        true => unasked.push(error.to_string()),
                        false => failed.push(error.to_string()),
                    }
                }
            }
            if let Err(error) = self.capture.follow_link_local(&pod.netns) {
                unasked.push(error.to_string());
            }
            if !unasked.is_empty() {
                unseen.insert(key.clone(), unasked.join("; "));
            }
            if !failed.is_empty() {
                broken.insert(key.clone(), failed.join("; "));
            }
        }
        missing += self.restore_links();
        if missing > 0 {
            tracing::warn!(
                missing,
                "programs, pins or rules were taken away and are put back"
            );
            self.metrics.reattached.inc_by(missing as u64);
        }
        let changed = broken != self.broken || unseen != self.unseen;
        self.hold(astray);
        self.broken = broken;
        self.unseen = unseen;
        changed
    }

    /// What was kept for agents of other versions goes with the next look when none runs any
    /// more: by the word that keeps it, or it would be looked at again and again.
    fn look_for_agents(&mut self) -> Result<(), capture::Error> {
        self.capture.forget_gone_agents()?;
        if self.waits_for_others && !self.capture.do_others_run()? {
            self.waits_for_others = false;
            self.status_is_old = true;
        }
        Ok(())
    }

    /// What a pod connects to is refused while its captured connections would go
    /// elsewhere than to the agent.
    fn hold(&mut self, mut astray: BTreeSet<WorkloadKey>) {
        for (key, pod) in &self.pods {
            let is_astray = astray.contains(key);
            if is_astray == self.astray.contains(key) {
                continue;
            }
            let (ips, on_agent_down) = match is_astray {
                // Without an address of the family the hook refuses.
                true => (PodIps::default(), OnAgentDown::Closed),
                false => (pod.ips, on_agent_down(&pod.workload)),
            };
            if let Err(error) = self.capture.enrol(&EnrolPod {
                netns: &pod.netns,
                ips,
                on_agent_down,
                listeners: &[],
            }) {
                tracing::error!(pod = %key, %error, "cannot hold or release its connects");
                // It is as it was: the next look tries again.
                match is_astray {
                    true => astray.remove(key),
                    false => astray.insert(key.clone()),
                };
            }
        }
        self.astray = astray;
    }

    /// A line when it begins, changes or ends, not at each look.
    fn tell_unmended(&mut self, failed: String) {
        if failed == self.unmended {
            return;
        }
        match failed.is_empty() {
            true => tracing::info!("the node's programs and pins are whole again"),
            false => tracing::error!(failed, "cannot look after the node's programs and pins"),
        }
        self.unmended = failed;
    }

    /// Logs the latest refusals, a few of them in a turn.
    pub(crate) fn log_refusals(&mut self) {
        self.capture.forward_log();
        let events = match self.capture.refusals(READ) {
            Ok(events) => events,
            Err(error) => return tracing::warn!(%error, "cannot read the refusals"),
        };
        for event in events.iter().take(LOGGED) {
            let pod = self
                .pods
                .values()
                .find(|pod| pod.netns.cookie() == event.netns_cookie)
                .map(|pod| pod.workload.key.to_string());
            let reason = Counter::ALL.get(event.counter as usize);
            tracing::warn!(
                pod = pod.as_deref().unwrap_or("unknown"),
                netns_cookie = event.netns_cookie,
                cgroup_id = event.cgroup_id,
                destination = %IpAddr::from(event.destination),
                port = event.destination_port,
                reason = reason.map_or("unknown", |counter| counter.label()),
                "connect refused in the kernel"
            );
        }
        if events.len() > LOGGED {
            let more = events.len() - LOGGED;
            tracing::warn!(more, "further connects refused in the kernel");
        }
    }
}
