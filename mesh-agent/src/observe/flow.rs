//! What of a flow decides on its labels: many connections have it in common.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::sync::Arc;

use crate::model::{Flow, ResponseFlags, UnknownPeer, Workload};

type Peer = Result<Arc<Workload>, UnknownPeer>;

/// Have they the same labels?
///
/// Workloads by pointer: a flow keeps them alive, so that no other can have
/// their address; one that was loaded anew is another, which costs a look-up.
pub(super) fn is_alike(a: &Flow, b: &Flow) -> bool {
    a.direction == b.direction
        && a.security == b.security
        && same(&a.source, &b.source)
        && same(&a.destination, &b.destination)
        && a.service == b.service
        && a.source_principal == b.source_principal
        && a.destination_principal == b.destination_principal
}

/// Equal for flows that are alike.
pub(super) fn hash(state: &foldhash::fast::RandomState, flow: &Flow, flags: ResponseFlags) -> u64 {
    let mut hasher = state.build_hasher();
    flags.hash(&mut hasher);
    flow.direction.hash(&mut hasher);
    flow.security.hash(&mut hasher);
    address(&flow.source).hash(&mut hasher);
    address(&flow.destination).hash(&mut hasher);
    flow.service.hash(&mut hasher);
    flow.source_principal.hash(&mut hasher);
    flow.destination_principal.hash(&mut hasher);
    hasher.finish()
}

pub(super) fn workload(peer: &Peer) -> Option<&Workload> {
    peer.as_ref().ok().map(|workload| &**workload)
}

fn address(peer: &Peer) -> Option<*const Workload> {
    peer.as_ref().ok().map(Arc::as_ptr)
}

fn same(a: &Peer, b: &Peer) -> bool {
    address(a) == address(b)
}
