//! Whose requests they are, and what the policy says of one.

use std::rc::Rc;

use crate::model::{ClientAddr, Edits, Refused, RequestHead, SpiffeId};
use crate::plan::AuthzInput;
use crate::proxy::authorize::{Authorized, Permitted, authorize_request};
use crate::proxy::context::{ConnectionContext, Exchange};

/// Whose requests they are.
pub(super) struct Caller {
    /// Proven by the certificate of its agent.
    pub(super) identity: Option<SpiffeId>,
    pub(super) address: ClientAddr,
}

/// By the configuration that holds now, with its generation and what changes of the
/// request.
pub(super) fn authorize(
    context: &Rc<ConnectionContext>,
    caller: &Caller,
    head: &RequestHead<'_>,
) -> (u64, Result<(Authorized, Option<Edits>), Refused>) {
    let exchange = Exchange::begin(context);
    let (from, at) = (context.client_addr.ip(), context.orig_dst.get());
    let workload = context.pod.workload.clone();
    let check = match &caller.identity {
        Some(peer) => AuthzInput::new(Some(peer.clone()), from, workload, at),
        None => AuthzInput::plaintext(from, workload, at),
    };
    let permitted = authorize_request(&exchange, check, head);
    let permitted =
        permitted.map(|Permitted { authorized, target }| (authorized, target.map(to_target)));
    (exchange.in_force.snapshot.generation, permitted)
}

fn to_target(target: String) -> Edits {
    Edits {
        target: Some(target),
        ..Edits::default()
    }
}
