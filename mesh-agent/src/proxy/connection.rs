//! One accepted connection: who it is from, and which way it goes.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::TcpStream;

use super::accepted::Accepted;
use super::context::{ConnectionContext, PodState, WorkerState};
use super::{inbound, outbound};
use crate::model::RefuseReason;

/// What carries it, to its end; `None`: its client is gone already, and there is nothing to
/// carry or to report. `former`: it came to the listener of an address that the pod has no more.
pub(super) fn serve(
    worker: &Rc<WorkerState>,
    pod: &Rc<PodState>,
    (client, peer): (TcpStream, SocketAddr),
    former: bool,
) -> Option<impl Future<Output = ()> + use<>> {
    let local_addr = client.local_addr().ok()?;
    let context = ConnectionContext::new(worker.clone(), pod.clone(), peer, local_addr);
    Some(carry(Accepted::new(client, context), former))
}

/// A block, for what an `async fn` is given is in it twice.
#[expect(clippy::manual_async_fn, reason = "a third larger")]
fn carry(accepted: Accepted, former: bool) -> impl Future<Output = ()> {
    async move {
        let context = accepted.context_rc().clone();
        let inbound = context.is_inbound();
        let agent = &context.worker.agent;
        let held_back = agent.config.limits.is_held_back(&accepted.client);
        if held_back || former || context.pod.is_retired() {
            // Accepted before the pod became somebody else, and registered after; or
            // with a descriptor that is control's.
            let reason = match held_back {
                true => RefuseReason::OverLimit,
                false => RefuseReason::PodRemoved,
            };
            let report = accepted.exchange().report();
            return accepted.conclude(report, Err(reason.into()));
        }
        let source = inbound.then(|| accepted.exchange().source());
        let _place = match agent.places.enter(context.pod.places(), source) {
            Ok(place) => place,
            Err(full) => {
                agent.metrics.over_share(full);
                let report = accepted.exchange().report();
                return accepted.conclude(report, Err(RefuseReason::OverLimit.into()));
            }
        };
        // Each on the heap for as long as it lasts: a connection waits with the
        // memory of its own kind only.
        if !inbound {
            return Box::pin(outbound::serve(accepted)).await;
        }
        let Some(peer) = Box::pin(inbound::serve(accepted)).await else {
            return;
        };
        Box::pin(inbound::session::serve(peer)).await;
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
        size(inbound::session::serve),
    ]
}

#[cfg(test)]
mod tests {
    fn size<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_that_waits_needs_little_memory() {
        let bytes = size(super::carry);
        assert!(bytes <= 104, "{bytes} bytes");
        let kinds = super::sizes();
        assert!(kinds.iter().all(|bytes| *bytes <= 2_100), "{kinds:?}");
        let silent = crate::proxy::outbound::sizes_of_silence();
        // What lasts as long as a client's connection, and what is in the second of them
        // while nobody has spoken.
        let [outbound, ..] = kinds;
        let [bytes, races @ ..] = silent;
        assert!(outbound <= 500, "{kinds:?}");
        assert!(bytes <= 2_900, "{silent:?}");
        assert!(races.iter().all(|race| *race <= 900), "{silent:?}");
    }
}
