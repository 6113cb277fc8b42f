//! Whose requests they are, and what the policy says of one.

use std::rc::Rc;

use crate::model::{ClientAddr, Edits, HeaderEdit, Refused, RequestHead, SpiffeId};
use crate::plan::AuthzInput;
use crate::proxy::authorize::{Authorized, Permitted, authorize_request};
use crate::proxy::client_cert::{self, ProvenCaller};
use crate::proxy::context::{ConnectionContext, Exchange};
use crate::tls::PeerId;

/// Whose requests they are.
pub(super) struct Caller {
    /// Proven by the certificate of its agent.
    pub(super) identity: Option<SpiffeId>,
    /// By this peer.
    pub(super) peer: Option<PeerId>,
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
    let to = &*context.pod.workload;
    let told = || client_cert::line(&exchange, to, || caller.proven());
    let permitted =
        permitted.map(|Permitted { authorized, target }| (authorized, edits(target, told())));
    (exchange.in_force.snapshot.generation, permitted)
}

impl Caller {
    fn proven(&self) -> Option<ProvenCaller> {
        Some(ProvenCaller {
            identity: self.identity.clone()?,
            certificate: self.peer.as_ref().map(PeerId::fingerprint),
        })
    }
}

fn edits(target: Option<String>, line: Option<HeaderEdit>) -> Option<Edits> {
    let changes = target.is_some() || line.is_some();
    changes.then(|| Edits {
        target,
        host: None,
        headers: line.into_iter().collect(),
    })
}
