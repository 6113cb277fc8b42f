//! What is told of the node's pods.

use super::{DataPath, Failure, PodStatus, Reconciler, on_agent_down, ports};
use crate::model::{OnAgentDown, PodIps, Workload};
use crate::sys::errno;

impl<D: DataPath> Reconciler<D> {
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

    /// Who ran out of something has learned nothing of a pod that is served.
    pub(super) fn status_after(
        &self,
        workload: &Workload,
        result: Result<(), Failure>,
    ) -> PodStatus {
        let told = |failure: Failure| failure.error.to_string();
        match result {
            Err(failure) if failure.is_served && errno::is_shortage(&failure.error) => PodStatus {
                unknown: Some(told(failure)),
                ..self.status(workload, None)
            },
            result => self.status(workload, result.err().map(told)),
        }
    }

    pub(super) fn status(&self, workload: &Workload, message: Option<String>) -> PodStatus {
        let pod = self.pods.get(&workload.key);
        let delivery = self.workers.delivery_ports();
        let overlap = pod.filter(|p| p.dial_ports.is_none());
        let overlap = overlap.and_then(|p| ports::overlap(&p.netns, delivery).ok().flatten());
        let refused = pod.map(|pod| refused(workload.ips, pod.ips)).into_iter();
        let warnings = refused.flatten().chain(overlap.map(|o| o.to_string()));
        let links = self.link_warnings.get(&workload.key).cloned();
        let unfit = workload.on_node.unfit.as_ref().filter(|_| pod.is_some());
        let warnings = warnings.chain(links).chain(unfit.map(ToString::to_string));
        let warnings: Vec<String> = warnings.collect();
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
            untold: pod.and_then(|_| self.announced.untold(workload.runtime_uid())),
            warning: (!warnings.is_empty()).then(|| warnings.join("; ")),
        }
    }
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
