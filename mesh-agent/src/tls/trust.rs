//! Whom we believe: roots, revocations and the trust domain.

use std::ptr;
use std::time::SystemTime;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::failure::from_webpki;
use super::leaf::{CertificateName, Leaf, Role, not_after, system_time};
use super::path::{AnchorId, Path};
use super::peer::PeerId;
use super::provider;
use super::revocation::{CrlError, Revocations, is_pem};
use crate::model::{SpiffeId, TlsFailure, TrustDomain};

/// Certificates in a chain, the leaf included.
const MAX_CHAIN: usize = 4;
/// Bytes of a chain, and of one certificate.
const MAX_CHAIN_BYTES: usize = 32 * 1024;
const MAX_CERTIFICATE_BYTES: usize = 10 * 1024;
/// Roots at once; a rotation needs two.
const MAX_ROOTS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TrustError {
    #[error("the roots are not certificates in PEM or DER")]
    RootsUnreadable,
    #[error("there is no root certificate")]
    NoRoots,
    #[error("there are more than {MAX_ROOTS} root certificates")]
    TooManyRoots,
    #[error("a root certificate is not that of a CA")]
    NotACa,
    #[error(transparent)]
    Crl(#[from] CrlError),
}

/// Roots, revocations and trust domain: immutable, replaced whole.
#[derive(Debug)]
pub(crate) struct Trust {
    trust_domain: TrustDomain,
    /// Other names of it: who is of one is taken for the same workload here.
    aliases: Vec<TrustDomain>,
    anchors: Vec<TrustAnchor<'static>>,
    /// Of each of them.
    anchor_ids: Vec<AnchorId>,
    revocations: Revocations,
    roots_end: Option<SystemTime>,
}

impl Trust {
    /// `roots` are one or more certificates and `crl` one or more revocation
    /// lists, as PEM or as one DER. A CRL of a root must carry its signature;
    /// one of an intermediate is believed as it stands (it comes from the
    /// operator, and can only take away). A CRL past its next update still counts.
    pub(crate) fn new(
        trust_domain: TrustDomain,
        roots: &[u8],
        crl: Option<&[u8]>,
    ) -> Result<Self, TrustError> {
        let roots = certificates(roots)?;
        let anchors = roots.iter().map(anchor).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            trust_domain,
            aliases: Vec::new(),
            anchor_ids: anchors.iter().map(AnchorId::of).collect(),
            anchors,
            revocations: match crl {
                Some(crl) => Revocations::parse(crl, &roots)?,
                None => Revocations::default(),
            },
            roots_end: roots_end(&roots),
        })
    }

    /// The same, also for peers of these trust domains.
    #[must_use]
    pub(crate) fn with_aliases(self, aliases: Vec<TrustDomain>) -> Self {
        Self { aliases, ..self }
    }

    /// When the first of the roots ends.
    #[must_use]
    pub(crate) fn roots_end(&self) -> Option<SystemTime> {
        self.roots_end
    }

    /// When the first of the revocation lists is to be replaced by a newer one.
    #[must_use]
    pub(crate) fn crl_next_update(&self) -> Option<SystemTime> {
        self.revocations.next_update()
    }

    /// Is what the peer showed believed by now? Not where a certificate of its chain is
    /// revoked, and not where the root that it was verified by is none any more: another
    /// one that may have signed it too is not looked for, a new handshake does that.
    pub(crate) fn still_trusts(&self, peer: &PeerId) -> Result<(), TlsFailure> {
        let mut chain = peer.chain().iter();
        chain.try_for_each(|name| self.check_revocation(name))?;
        match self.anchor_ids.contains(&peer.anchor()) {
            true => Ok(()),
            false => Err(TlsFailure::UnknownIssuer),
        }
    }

    /// The whole check of a peer's chain, but for whom we expect. The leaf's end is that
    /// of the first certificate of its path.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<(Leaf, Path), TlsFailure> {
        check_sizes(leaf, intermediates)?;
        let (anchor, path_ends) = self.verify_path(leaf, intermediates, role, now)?;
        let facts = Leaf::parse(leaf)?;
        self.check_revocation(&facts.name)?;
        for intermediate in intermediates {
            self.check_revocation(&CertificateName::of(intermediate)?)?;
        }
        let id = self.localize(&facts.id)?;
        let ends = path_ends.map_or(facts.not_after, |end| end.min(facts.not_after));
        let leaf = Leaf {
            id,
            not_after: ends,
            ..facts
        };
        Ok((leaf, Path { anchor, ends }))
    }

    /// The identity as one of the own trust domain.
    pub(super) fn localize(&self, id: &SpiffeId) -> Result<SpiffeId, TlsFailure> {
        let domain = id.trust_domain();
        if domain == self.trust_domain.as_str() {
            return Ok(id.clone());
        }
        if !self.aliases.iter().any(|alias| alias.as_str() == domain) {
            return Err(TlsFailure::ForeignTrustDomain);
        }
        SpiffeId::new(&self.trust_domain, id.namespace(), id.service_account())
            .map_err(|_| TlsFailure::MalformedIdentity)
    }

    fn check_revocation(&self, name: &CertificateName) -> Result<(), TlsFailure> {
        if self.revocations.contains(name) {
            Err(TlsFailure::Revoked)
        } else {
            Ok(())
        }
    }

    /// The root of the path, and when the first of its intermediates ends.
    fn verify_path(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<(AnchorId, Option<SystemTime>), TlsFailure> {
        let usage = match role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let algorithms = provider::chain_algorithms().all;
        let leaf = EndEntityCert::try_from(leaf).map_err(|error| from_webpki(&error))?;
        let path = leaf
            .verify_for_usage(
                algorithms,
                &self.anchors,
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .map_err(|error| from_webpki(&error))?;
        let mut ends = None;
        for intermediate in path.intermediate_certificates() {
            let end = not_after(&intermediate.der())?;
            ends = Some(ends.map_or(end, |first: SystemTime| first.min(end)));
        }
        Ok((self.anchor_id(path.anchor()), ends))
    }

    /// It is one of ours: its hash was made with the bundle.
    fn anchor_id(&self, anchor: &TrustAnchor<'_>) -> AnchorId {
        let at = self.anchors.iter().position(|ours| ptr::eq(ours, anchor));
        let known = at.and_then(|at| self.anchor_ids.get(at)).copied();
        known.unwrap_or_else(|| AnchorId::of(anchor))
    }
}

fn check_sizes(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<(), TlsFailure> {
    let sizes = || std::iter::once(leaf).chain(intermediates).map(|c| c.len());
    let fits = intermediates.len() < MAX_CHAIN
        && sizes().sum::<usize>() <= MAX_CHAIN_BYTES
        && sizes().all(|size| size <= MAX_CERTIFICATE_BYTES);
    fits.then_some(()).ok_or(TlsFailure::ChainTooLarge)
}

pub(super) fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let found: Vec<CertificateDer<'static>> = if is_pem(bytes) {
        CertificateDer::pem_slice_iter(bytes)
            .take(MAX_ROOTS + 1)
            .collect::<Result<_, _>>()
            .map_err(|_| TrustError::RootsUnreadable)?
    } else {
        vec![CertificateDer::from(bytes.to_vec())]
    };
    match found.len() {
        0 => Err(TrustError::NoRoots),
        1..=MAX_ROOTS => Ok(found),
        _ => Err(TrustError::TooManyRoots),
    }
}

fn anchor(root: &CertificateDer<'static>) -> Result<TrustAnchor<'static>, TrustError> {
    let (_, parsed) = X509Certificate::from_der(root).map_err(|_| TrustError::RootsUnreadable)?;
    if !parsed.is_ca() {
        return Err(TrustError::NotACa);
    }
    anchor_from_trusted_cert(root)
        .map(|anchor| anchor.to_owned())
        .map_err(|_| TrustError::RootsUnreadable)
}

fn roots_end(roots: &[CertificateDer<'static>]) -> Option<SystemTime> {
    let parsed = roots
        .iter()
        .filter_map(|der| X509Certificate::from_der(der).ok());
    parsed
        .map(|(_, root)| system_time(root.validity().not_after))
        .min()
}
