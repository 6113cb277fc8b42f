//! Another handshake with the peer of a live stream, before certificates end.
//!
//! It shows each end that the other one still gets certificates. The stream
//! itself is not touched; the new connection serves the next one.

use std::net::SocketAddr;

use super::peers::Peers;
use super::proofs::Pair;
use crate::enrol::LocalPod;
use crate::model::UpstreamAddr;
use crate::plan::{DecisionContext, MeshPeer};
use crate::tunnel::{Connection, Key};

impl Peers {
    /// `None` where there is nothing to renew, or it failed: it is tried again by
    /// the next sweeps, until the stream is cut.
    pub(crate) async fn renew(
        &self,
        pod: &LocalPod,
        decision_context: &DecisionContext<'_>,
        (pair, to): (&Pair, SocketAddr),
    ) -> Option<(Key, Connection)> {
        let peer = wanted(decision_context, pair, to)?;
        match Box::pin(self.connect(pod, &peer)).await {
            Ok(connection) => Some((Self::key(pod, &peer), connection)),
            Err(refused) => {
                let reason = refused.reason;
                tracing::debug!(?reason, peer = %pair.peer, "cannot renew the proof of a stream's peer");
                None
            }
        }
    }
}

/// The configuration still has that peer there, and in mutual TLS: anybody else
/// would get a handshake that is none of theirs.
fn wanted(decision_context: &DecisionContext<'_>, pair: &Pair, to: SocketAddr) -> Option<MeshPeer> {
    let workload = decision_context.published.snapshot.by_ip.get(&to.ip())?;
    let peer = decision_context.mesh_peer(workload, UpstreamAddr::new(to))?;
    (*peer.expected() == pair.peer).then_some(peer)
}
