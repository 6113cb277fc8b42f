//! What a peer's certificate says that the verifier did not take.
//!
//! rustls keeps none of it. The verifier runs within a call of the handshake,
//! which takes it up right behind that call, on the same thread.

use std::cell::RefCell;
use std::sync::Arc;

use super::leaf::{CertificateName, Leaf};
use crate::model::PeerCertificate;

thread_local! {
    static SHOWN: RefCell<Option<Arc<PeerCertificate>>> = const { RefCell::new(None) };
}

/// A claim, for the log: never to decide on.
pub(super) fn note(certificate: &[u8]) {
    let Ok(name) = CertificateName::of(certificate) else {
        return;
    };
    let shown = PeerCertificate {
        principal: Leaf::parse(certificate).ok().map(|leaf| leaf.id),
        serial: name.short_serial(),
    };
    SHOWN.set(Some(Arc::new(shown)));
}

pub(super) fn take() -> Option<Arc<PeerCertificate>> {
    SHOWN.take()
}
