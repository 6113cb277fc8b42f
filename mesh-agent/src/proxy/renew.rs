//! Another handshake with the peer of a live stream, before certificates end.
//!
//! It shows each end that the other one still gets certificates. The stream
//! itself is not touched; the new connection serves the next one.

use std::net::SocketAddr;
use std::rc::Rc;

use super::connection::At;
use super::outbound::connect;
use crate::plan::MeshPeer;
use super::proofs::Pair;
use super::worker::{Local, PodState};
use crate::model::{ClientAddr, OrigDst, UpstreamAddr};
use crate::tunnel::Key;

pub(super) async fn renew(local: Rc<Local>, pod: Rc<PodState>, pair: Pair, to: SocketAddr) {
    let Some(own) = pod.pod.workload.ips.same_family(to.ip()) else {
        return;
    };
    let registered = local.live.register(local.next_id(), pod.cookie());
    let at = At {
        local: &local,
        pod: &pod,
        client_addr: ClientAddr::new(SocketAddr::new(own, 0)),
        orig_dst: OrigDst::new(to),
        published: local.shared.published.load_full(),
        entry: &registered.entry,
    };
    let Some(peer) = wanted(&at, &pair, to) else {
        return;
    };
    match Box::pin(connect(&at, &peer)).await {
        Ok(connection) => {
            let key = Key {
                netns: pod.cookie(),
                destination: to,
            };
            local.keep(&pod, key, connection);
        }
        // Tried again by the next sweeps, until the stream is cut.
        Err(reason) => {
            tracing::debug!(?reason, peer = %pair.peer, "cannot renew the proof of a stream's peer");
        }
    }
}

/// The configuration still has that peer there, and in mutual TLS: anybody else
/// would get a handshake that is none of theirs.
fn wanted(at: &At<'_>, pair: &Pair, to: SocketAddr) -> Option<MeshPeer> {
    let workload = at.published.snapshot.by_ip.get(&to.ip())?;
    let premises = at.local.shared.premises(&at.published);
    let peer = premises.mesh_peer(workload, UpstreamAddr::new(to))?;
    (*peer.expected() == pair.peer).then_some(peer)
}
