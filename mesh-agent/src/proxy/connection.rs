//! One accepted connection: who it is from, and which way it goes.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::carry::Ended;
use super::live::Entry;
use super::places::Source;
use super::report::Report;
use super::unproven::Place;
use super::worker::{Local, PodState};
use super::{inbound, outbound};
use crate::plan::Published;
use crate::model::{
    ByteCounts, ClientAddr, CloseReason, OrigDst, RefuseReason, UnknownPeer, Workload,
};
use crate::sys::socket;
use crate::tls;

/// The first stage: a connection that was steered to this agent.
pub(super) struct Accepted<'l> {
    pub(super) client: TcpStream,
    pub(super) at: At<'l>,
}

/// Where and between whom the connection is.
pub(super) struct At<'l> {
    pub(super) local: &'l Local,
    pub(super) pod: &'l PodState,
    pub(super) client_addr: ClientAddr,
    pub(super) orig_dst: OrigDst,
    /// The configuration that all stages of this connection see.
    pub(super) published: Arc<Published>,
    pub(super) entry: &'l Rc<Entry>,
}

impl<'l> At<'l> {
    /// Its place among those that have not shown who they are.
    pub(super) fn unproven(&self) -> Place<'l> {
        let unproven = &self.local.unproven;
        unproven.enter(self.pod.cookie(), self.client_addr.ip(), self.entry)
    }

    /// Whose places a connection from elsewhere takes.
    fn source(&self) -> Source {
        let ip = self.client_addr.ip();
        let by_ip = &self.published.snapshot.by_ip;
        Source::new(ip, by_ip.contains_key(&ip))
    }

    /// The pod that the configuration gives the client's address to: a name
    /// for people, and never a proof.
    pub(super) fn workload_of_client(&self) -> Result<Arc<Workload>, UnknownPeer> {
        let by_ip = &self.published.snapshot.by_ip;
        by_ip
            .get(&self.client_addr.ip())
            .cloned()
            .ok_or(UnknownPeer)
    }

    /// What the failed handshake showed of the peer is kept for the report.
    pub(super) fn refuse(&self, failed: tls::Failed) -> RefuseReason {
        self.entry.set_shown(failed.shown);
        RefuseReason::Tls(failed.failure)
    }

    pub(super) fn report(&self) -> Report<'l> {
        let generation = self.published.snapshot.generation;
        Report::new(
            self.local,
            self.pod,
            self.client_addr,
            self.orig_dst,
            generation,
        )
    }
}

impl Accepted<'_> {
    /// Closes the client the way that fits the end, then tells of it.
    pub(super) fn conclude(self, mut report: Report<'_>, result: Result<Ended, RefuseReason>) {
        let (bytes, reason) = match result {
            Ok(ended) => ended,
            Err(reason) => (ByteCounts::default(), CloseReason::Refused(reason)),
        };
        if reason != CloseReason::Finished {
            socket::reset_on_close(&self.client);
        }
        drop(self.client);
        if let CloseReason::Refused(RefuseReason::Tls(_)) = reason {
            report.shown(self.at.entry.take_shown());
        }
        report.ended(bytes, reason);
    }
}

pub(super) async fn serve(
    local: Rc<Local>,
    pod: Rc<PodState>,
    client: TcpStream,
    peer: SocketAddr,
) {
    let Ok(local_addr) = client.local_addr() else {
        // The client is gone already: there is nothing to carry or to report.
        return;
    };
    let registered = local.live.register(local.next_id(), pod.cookie());
    let at = At {
        local: &local,
        pod: &pod,
        client_addr: ClientAddr::new(peer),
        orig_dst: OrigDst::new(local_addr),
        published: local.shared.published.load_full(),
        entry: &registered.entry,
    };
    let inbound = pod.pod.workload.ips.contains(at.orig_dst.ip());
    let accepted = Accepted { client, at };
    let held_back = local.shared.config.limits.is_held_back(&accepted.client);
    if held_back || pod.is_retired() {
        // Accepted before the pod became somebody else, and registered after; or
        // with a descriptor that is control's.
        let reason = match held_back {
            true => RefuseReason::OverLimit,
            false => RefuseReason::PodRemoved,
        };
        let report = accepted.at.report();
        return accepted.conclude(report, Err(reason));
    }
    let source = inbound.then(|| accepted.at.source());
    let _place = match local.shared.places.enter(pod.places(), source) {
        Ok(place) => place,
        Err(full) => {
            local.shared.metrics.over_share(full);
            let report = accepted.at.report();
            return accepted.conclude(report, Err(RefuseReason::OverLimit));
        }
    };
    // Each on the heap for as long as it lasts: a connection waits with the
    // memory of its own kind only.
    if !inbound {
        Box::pin(outbound::serve(accepted)).await;
    } else if let Some(peer) = Box::pin(inbound::serve(accepted)).await {
        Box::pin(inbound::tunnelled::serve(peer)).await;
    }
}

/// Of an outbound, a plaintext inbound and a mesh peer's connection.
#[cfg(test)]
fn sizes() -> [usize; 3] {
    fn size<A, F>(_: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }
    [
        size(outbound::serve),
        size(inbound::serve),
        size(inbound::tunnelled::serve),
    ]
}

#[cfg(test)]
mod tests {
    fn size<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_that_waits_needs_little_memory() {
        let bytes = size(super::serve);
        assert!(bytes <= 600, "{bytes} bytes");
        let kinds = super::sizes();
        assert!(kinds.iter().all(|bytes| *bytes <= 2_300), "{kinds:?}");
    }
}
