//! By which root, and until when, a chain was verified.
//!
//! rustls keeps neither. The verifier runs within a call of the handshake,
//! which takes it up right behind that call, on the same thread.

use std::cell::Cell;
use std::time::SystemTime;

use rustls_pki_types::TrustAnchor;
use sha2::{Digest as _, Sha256};

/// Bytes of a SHA-256: roots are the operator's, and this much tells them apart.
const BYTES: usize = 16;

thread_local! {
    static VERIFIED: Cell<Option<Path>> = const { Cell::new(None) };
}

/// Which root it is: by name, key and constraints. One that is made anew with the
/// same of them is the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AnchorId([u8; BYTES]);

impl AnchorId {
    pub(super) fn of(anchor: &TrustAnchor<'_>) -> Self {
        let constraints = anchor.name_constraints.as_deref().unwrap_or_default();
        let mut digest = Sha256::new();
        for part in [
            &*anchor.subject,
            &*anchor.subject_public_key_info,
            constraints,
        ] {
            digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(part);
        }
        let digest: [u8; 32] = digest.finalize().into();
        let mut id = [0; BYTES];
        id.copy_from_slice(&digest[..BYTES]);
        Self(id)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Of no root.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self([0; BYTES])
    }
}

/// What a verified chain stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) anchor: AnchorId,
    /// When the first of its certificates ends. A root's own end is no part of the
    /// verification (RFC 5280, section 6.1.1), and so not of this.
    pub(super) ends: SystemTime,
}

/// The chain of the handshake that runs was verified.
pub(super) fn note(path: Path) {
    VERIFIED.set(Some(path));
}

/// Runs one step of a handshake; what its verifier noted is the step's.
pub(super) fn capture<T>(verified: &mut Option<Path>, step: impl FnOnce() -> T) -> T {
    // What a step that panicked left behind is of another connection.
    VERIFIED.take();
    let result = step();
    if let Some(path) = VERIFIED.take() {
        *verified = Some(path);
    }
    result
}
