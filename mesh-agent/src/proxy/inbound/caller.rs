//! Whose requests they are, and what the policy says of one.

use std::cell::OnceCell;
use std::rc::Rc;

use crate::model::{ClientAddr, Edits, Name, Refused, RequestHead, SpiffeId};
use crate::plan::AuthzInput;
use crate::proxy::authorize::{Authorized, Permitted, authorize_request};
use crate::proxy::client_cert::{self, ProvenCaller};
use crate::proxy::context::{ConnectionContext, Exchange};
use crate::tls::PeerId;

/// Whose requests they are.
#[derive(Clone)]
pub(super) struct Caller {
    /// Proven by the certificate of its agent.
    peer: Option<PeerId>,
    pub(super) address: ClientAddr,
    /// What the pod's application is told of it, made once for all its requests.
    told: OnceCell<Option<Name>>,
}

/// By the configuration that holds now, with its generation and what changes of the
/// request. `counts`: by limits of rates.
pub(super) fn authorize(
    context: &Rc<ConnectionContext>,
    caller: &Caller,
    (head, counts): (&RequestHead<'_>, bool),
) -> (u64, Result<(Authorized, Option<Edits>), Refused>) {
    let exchange = Exchange::begin(context);
    let (from, at) = (context.client_addr.ip(), context.orig_dst.get());
    let workload = context.pod.workload.clone();
    let check = match caller.identity() {
        Some(peer) => AuthzInput::new(Some(peer.clone()), from, workload, at),
        None => AuthzInput::plaintext(from, workload, at),
    };
    let permitted = authorize_request(&exchange, (check, counts), head);
    let permitted = permitted.map(|Permitted { authorized, target }| {
        let edits = edits(target, caller.told_to(context));
        (authorized, edits)
    });
    (exchange.in_force.snapshot.generation, permitted)
}

impl Caller {
    pub(super) fn proven_by(peer: &PeerId, address: ClientAddr) -> Self {
        Self {
            peer: Some(peer.clone()),
            ..Self::unproven(address)
        }
    }

    pub(super) fn unproven(address: ClientAddr) -> Self {
        Self {
            peer: None,
            address,
            told: OnceCell::new(),
        }
    }

    pub(super) fn identity(&self) -> Option<&SpiffeId> {
        self.peer.as_ref().map(PeerId::spiffe_id)
    }

    fn told_to(&self, context: &ConnectionContext) -> Option<&str> {
        let told = self.told.get_or_init(|| {
            let (pod, trust_domain) = (&context.pod.workload, &context.worker.agent.trust_domain);
            let own = || pod.spiffe_id(trust_domain).ok();
            client_cert::told(pod, own, || self.proven()).map(Name::from)
        });
        told.as_deref()
    }

    fn proven(&self) -> Option<ProvenCaller> {
        let peer = self.peer.as_ref()?;
        Some(ProvenCaller {
            identity: peer.spiffe_id().clone(),
            certificate: Some(peer.fingerprint()),
        })
    }
}

fn edits(target: Option<String>, told: Option<&str>) -> Option<Edits> {
    let changes = target.is_some() || told.is_some();
    changes.then(|| Edits {
        target,
        host: None,
        headers: told
            .map(|told| client_cert::line(told.to_owned()))
            .into_iter()
            .collect(),
    })
}
