//! Who a peer proved to be.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use super::leaf::{CertificateName, Fingerprint, Leaf};
use super::path::{AnchorId, Path};
use crate::model::{PeerCertificate, SpiffeId, TlsFailure};

/// Peers that a thread keeps in mind, at most.
const MAX_PROVEN: usize = 4096;

thread_local! {
    /// By the SHA-256 of the chain and what it was verified by.
    static PROVEN: RefCell<HashMap<[u8; 32], Weak<Proven>>> = RefCell::default();
}

/// Who the peer proved to be. Only a verified handshake makes one.
#[derive(Clone, Debug)]
pub(crate) struct PeerId {
    inner: Arc<Proven>,
}

#[derive(Debug)]
struct Proven {
    leaf: Leaf,
    chain: Box<[CertificateName]>,
    /// The root that it was verified by.
    anchor: AnchorId,
    /// What the log says of it, made once.
    certificate: Arc<PeerCertificate>,
}

impl Proven {
    fn new(leaf: Leaf, chain: Box<[CertificateName]>, anchor: AnchorId) -> Self {
        let certificate = Arc::new(PeerCertificate {
            principal: Some(leaf.id.clone()),
            serial: leaf.name.short_serial(),
        });
        Self {
            leaf,
            chain,
            anchor,
            certificate,
        }
    }
}

impl PeerId {
    /// From a chain that the verifier has passed. What the same chain says is
    /// kept once for all connections of this thread that have it.
    pub(super) fn from_verified(
        chain: &[CertificateDer<'_>],
        path: Path,
    ) -> Result<Self, TlsFailure> {
        let mut digest = Sha256::new();
        for der in chain {
            digest.update(u64::try_from(der.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(der);
        }
        // The same chain may be verified by another root, or another way, by now.
        digest.update(path.anchor.bytes());
        let ends = path.ends.duration_since(UNIX_EPOCH).unwrap_or_default();
        digest.update(ends.as_secs().to_be_bytes());
        let digest: [u8; 32] = digest.finalize().into();
        if let Some(inner) = PROVEN.with_borrow(|proven| proven.get(&digest)?.upgrade()) {
            return Ok(Self { inner });
        }
        let peer = Self::parse(chain, path)?;
        PROVEN.with_borrow_mut(|proven| {
            if proven.len() >= MAX_PROVEN {
                proven.retain(|_, peer| peer.strong_count() > 0);
            }
            if proven.len() < MAX_PROVEN {
                proven.insert(digest, Arc::downgrade(&peer.inner));
            }
        });
        Ok(peer)
    }

    fn parse(chain: &[CertificateDer<'_>], path: Path) -> Result<Self, TlsFailure> {
        let mut leaf = Leaf::parse(chain.first().ok_or(TlsFailure::NoCertificate)?)?;
        leaf.not_after = leaf.not_after.min(path.ends);
        let chain = chain
            .iter()
            .map(|der| CertificateName::of(der))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            inner: Arc::new(Proven::new(leaf, chain, path.anchor)),
        })
    }

    /// With another name of the same workload.
    pub(super) fn called(self, id: SpiffeId) -> Self {
        if id == *self.spiffe_id() {
            return self;
        }
        let leaf = Leaf {
            id,
            ..self.inner.leaf.clone()
        };
        let chain = self.inner.chain.clone();
        Self {
            inner: Arc::new(Proven::new(leaf, chain, self.inner.anchor)),
        }
    }

    /// Proves nothing: for the tests of what is done with proofs.
    #[cfg(test)]
    pub(crate) fn for_test(id: SpiffeId, not_after: SystemTime) -> Self {
        let name = CertificateName {
            issuer: Arc::new([]),
            serial: Arc::new([]),
        };
        let leaf = Leaf {
            id,
            name,
            not_before: SystemTime::UNIX_EPOCH,
            not_after,
            fingerprint: [0; 32],
        };
        Self {
            inner: Arc::new(Proven::new(leaf, Box::new([]), AnchorId::none())),
        }
    }

    #[must_use]
    pub(crate) fn spiffe_id(&self) -> &SpiffeId {
        &self.inner.leaf.id
    }

    #[must_use]
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.inner.leaf.fingerprint
    }

    /// When the first certificate of its path ends, and with it the connection.
    #[must_use]
    pub(crate) fn not_after(&self) -> SystemTime {
        self.inner.leaf.not_after
    }

    /// For log and list.
    #[must_use]
    pub(crate) fn certificate(&self) -> Arc<PeerCertificate> {
        self.inner.certificate.clone()
    }

    pub(super) fn chain(&self) -> &[CertificateName] {
        &self.inner.chain
    }

    pub(super) fn anchor(&self) -> AnchorId {
        self.inner.anchor
    }
}
