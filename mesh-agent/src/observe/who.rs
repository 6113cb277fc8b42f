//! Who talks to whom: what many connections have in common.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::sync::Arc;

use super::labels::ResponseFlags;
use crate::model::{Direction, Opening, Security, ServiceKey, SpiffeId, UnknownPeer, Workload};

type Peer = Result<Arc<Workload>, UnknownPeer>;

/// The parts of an [`Opening`] that decide on its labels, and what became of it.
#[derive(Debug)]
pub(super) struct Who {
    pub(super) flags: ResponseFlags,
    pub(super) direction: Direction,
    pub(super) security: Security,
    pub(super) source: Peer,
    pub(super) destination: Peer,
    pub(super) service: Option<ServiceKey>,
    pub(super) source_principal: Option<SpiffeId>,
    pub(super) destination_principal: Option<SpiffeId>,
}

impl Who {
    pub(super) fn of(opening: &Opening, flags: ResponseFlags) -> Self {
        Self {
            flags,
            direction: opening.direction,
            security: opening.security,
            source: opening.source.clone(),
            destination: opening.destination.clone(),
            service: opening.service.clone(),
            source_principal: opening.source_principal.clone(),
            destination_principal: opening.destination_principal.clone(),
        }
    }

    /// Workloads by pointer: this keeps them alive, so that no other can have
    /// their address; one that was loaded anew is another, which costs a look-up.
    pub(super) fn is_of(&self, opening: &Opening, flags: ResponseFlags) -> bool {
        self.flags == flags
            && self.direction == opening.direction
            && self.security == opening.security
            && same(&self.source, &opening.source)
            && same(&self.destination, &opening.destination)
            && self.service == opening.service
            && self.source_principal == opening.source_principal
            && self.destination_principal == opening.destination_principal
    }
}

/// Equal for openings of which `Who::is_of` says the same.
pub(super) fn hash(
    state: &foldhash::fast::RandomState,
    opening: &Opening,
    flags: ResponseFlags,
) -> u64 {
    let mut hasher = state.build_hasher();
    flags.hash(&mut hasher);
    opening.direction.hash(&mut hasher);
    opening.security.hash(&mut hasher);
    address(&opening.source).hash(&mut hasher);
    address(&opening.destination).hash(&mut hasher);
    opening.service.hash(&mut hasher);
    opening.source_principal.hash(&mut hasher);
    opening.destination_principal.hash(&mut hasher);
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
