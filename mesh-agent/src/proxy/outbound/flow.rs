//! Who talks to whom by a request: for its metrics and its line in the log.

use std::sync::Arc;

use super::routed::Found;
use super::upstreams::Transport;
use crate::model::{Direction, Flow, Security, UnknownPeer, Workload};
use crate::proxy::context::Exchange;

/// Of a request that goes nowhere else.
pub(super) fn base(exchange: &Exchange, flow: &mut Flow) {
    let vip = exchange.context.orig_dst.ip();
    let service = exchange.in_force.snapshot.by_vip.get(&vip);
    flow.direction = Direction::Outbound;
    flow.upstream = None;
    flow.destination = Err(UnknownPeer);
    flow.service = service.map(|service| service.key.clone());
    flow.destination_principal = None;
    flow.security = Security::Unknown;
    flow.tls = None;
    flow.peer_certificate = None;
}

/// The one of the upstream's last request, where nothing differs.
pub(super) fn same<'f>(
    before: Option<&'f Arc<Flow>>,
    found: &Found,
    generation: u64,
) -> Option<&'f Arc<Flow>> {
    let target = found.target.as_ref()?;
    before.filter(|before| {
        before.generation == generation
            && before.upstream == Some(target.upstream)
            && before.service == target.service
            && is_same(&before.destination, target.destination.as_ref())
    })
}

/// `base`: of a request that goes nowhere else.
pub(super) fn of(base: Arc<Flow>, found: &Found, via: Option<&Transport>) -> Arc<Flow> {
    let Some(target) = &found.target else {
        return base;
    };
    let mut flow = Flow::clone(&base);
    flow.upstream = Some(target.upstream);
    flow.service.clone_from(&target.service);
    flow.destination = target.destination.clone().ok_or(UnknownPeer);
    if let Some(expected) = &found.same_node {
        flow.direction = Direction::SameNode;
        flow.security = Security::SameNode;
        flow.destination_principal.clone_from(expected);
    }
    match via {
        Some(Transport::Mesh(peer)) => flow.destination_principal = Some(peer.expected().clone()),
        Some(Transport::Plain(_)) => flow.security = Security::None,
        Some(Transport::SameNode { .. }) | None => {}
    }
    Arc::new(flow)
}

fn is_same(a: &Result<Arc<Workload>, UnknownPeer>, b: Option<&Arc<Workload>>) -> bool {
    match (a, b) {
        (Ok(a), Some(b)) => Arc::ptr_eq(a, b),
        (Err(UnknownPeer), None) => true,
        (Ok(_), None) | (Err(UnknownPeer), Some(_)) => false,
    }
}
