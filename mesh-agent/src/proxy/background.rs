//! What a worker does with other agents while no stream waits for it:
//! connections made ahead, and handshakes that renew proofs.
//!
//! Each is registered like a connection, so that whatever cuts the pod's
//! connections cuts it too.

use std::net::SocketAddr;
use std::rc::Rc;

use super::context::{PodState, WorkerState};
use crate::peer::{Pair, Preconnect};

/// A connection for streams to come.
pub(super) async fn preconnect(worker: Rc<WorkerState>, pod: Rc<PodState>, request: Preconnect) {
    let under_way = worker.peers.under_way(&request);
    let registration = worker.register(&pod);
    let made = tokio::select! {
        biased; // a pod that goes keeps nothing
        () = pod.stop.cancelled() => None,
        _reason = registration.entry.cut.wait() => None,
        made = worker.peers.preconnect(&pod, &request) => made,
    };
    if let Some(connection) = made {
        under_way.made(|key| worker.keep(&pod, key, connection));
    }
}

/// Another handshake with the peer of a live stream.
pub(super) async fn renew(worker: Rc<WorkerState>, pod: Rc<PodState>, pair: Pair, to: SocketAddr) {
    let registration = worker.register(&pod);
    let published = worker.agent.published.load_full();
    let decision_context = worker.agent.decision_context(&published);
    let renewed = tokio::select! {
        biased; // removal and drain win
        _reason = registration.entry.cut.wait() => None,
        renewed = worker.peers.renew(&pod, &decision_context, (&pair, to)) => renewed,
    };
    if let Some((key, connection)) = renewed {
        worker.keep(&pod, key, connection);
    }
}
