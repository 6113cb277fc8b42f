//! What a worker does with other agents while no stream waits for it:
//! connections made ahead, and handshakes that renew proofs.
//!
//! Each is registered like a connection, so that whatever cuts the pod's
//! connections cuts it too.

use std::net::SocketAddr;
use std::rc::Rc;

use super::context::{Local, PodState};
use crate::peer::{Pair, Preconnect};

/// A connection for streams to come.
pub(super) async fn preconnect(local: Rc<Local>, pod: Rc<PodState>, request: Preconnect) {
    let under_way = local.peers.under_way(&request);
    let registered = local.register(&pod);
    let made = tokio::select! {
        biased; // a pod that goes keeps nothing
        () = pod.stop.cancelled() => None,
        _reason = registered.entry.cut.wait() => None,
        made = local.peers.preconnect(&pod, &request) => made,
    };
    if let Some(connection) = made {
        under_way.made(|key| local.keep(&pod, key, connection));
    }
}

/// Another handshake with the peer of a live stream.
pub(super) async fn renew(local: Rc<Local>, pod: Rc<PodState>, pair: Pair, to: SocketAddr) {
    let registered = local.register(&pod);
    let published = local.shared.published.load_full();
    let decision_context = local.shared.decision_context(&published);
    let renewed = tokio::select! {
        biased; // removal and drain win
        _reason = registered.entry.cut.wait() => None,
        renewed = local.peers.renew(&pod, &decision_context, (&pair, to)) => renewed,
    };
    if let Some((key, connection)) = renewed {
        local.keep(&pod, key, connection);
    }
}
