//! Between changes: puts back what was taken away, tells of refusals.

use std::net::IpAddr;

use mesh_common::counter::Counter;

use super::Projector;

/// Events read in one turn, and of these logged; all are counted by the kernel.
const READ: usize = 256;
const LOGGED: usize = 10;

impl Projector {
    /// Puts back lost programs and pins.
    pub fn restore(&mut self) {
        let mut missing = self.capture.restore_node().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot put back the node's programs");
            0
        });
        for pod in self.pods.values() {
            match self.capture.restore_pod(&pod.netns) {
                Ok(lost) => missing += usize::from(lost),
                Err(error) => {
                    tracing::error!(pod = %pod.workload.key, %error, "cannot put back its program");
                }
            }
        }
        missing += self.restore_links();
        if missing > 0 {
            tracing::warn!(missing, "programs or pins were taken away and are put back");
            self.metrics.reattached.inc_by(missing as u64);
        }
    }

    /// Logs the latest refusals, a few of them in a turn.
    pub fn log_refusals(&mut self) {
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
