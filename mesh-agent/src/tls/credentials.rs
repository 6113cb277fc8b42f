//! A workload's own certificate with its key, ready for handshakes.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::leaf::{Fingerprint, Leaf, Role};
use super::schedule::SecretLog;
use super::verify::{ClientVerifier, ServerVerifier};
use super::{KeyError, PrivateKey, Trust, TrustError, provider};
use crate::model::{PeerProtocol, SpiffeId, TlsFailure};

#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialsError {
    #[error("the chain is not one or more certificates in PEM")]
    ChainUnreadable,
    #[error("the private key cannot be used: {0}")]
    Key(#[from] KeyError),
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    #[error("the certificate is that of {0}")]
    OtherIdentity(SpiffeId),
    #[error("the certificate would be refused by others: {0:?}")]
    Rejected(TlsFailure),
    #[error("the roots cannot be used: {0}")]
    Trust(#[from] TrustError),
    #[error("the name that the server must have is none")]
    Name,
    #[error("the TLS library refused the configuration")]
    Configuration,
}

impl From<rustls::Error> for CredentialsError {
    fn from(_: rustls::Error) -> Self {
        Self::Configuration
    }
}

/// Immutable; a renewal makes another one. The key is overwritten when the
/// last handshake that uses it is gone.
#[derive(Debug)]
pub(crate) struct Credentials {
    leaf: Leaf,
    certified: Arc<CertifiedKey>,
    trust: Arc<Trust>,
    client: ClientConfig,
    server: Arc<ServerConfig>,
}

impl Credentials {
    /// Checks what a peer would check, and that key, certificate and `id` belong together.
    pub(crate) fn new(
        id: &SpiffeId,
        chain_pem: &str,
        key: &PrivateKey,
        trust: Arc<Trust>,
    ) -> Result<Arc<Self>, CredentialsError> {
        let credentials = Self::from_pem(chain_pem, key, trust)?;
        if credentials.id() == id {
            Ok(credentials)
        } else {
            Err(CredentialsError::OtherIdentity(credentials.id().clone()))
        }
    }

    /// As [`Credentials::new`], with the identity that the certificate names.
    pub(crate) fn from_pem(
        chain_pem: &str,
        key: &PrivateKey,
        trust: Arc<Trust>,
    ) -> Result<Arc<Self>, CredentialsError> {
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(chain_pem.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|_| CredentialsError::ChainUnreadable)?;
        let (first, _) = chain
            .split_first()
            .ok_or(CredentialsError::ChainUnreadable)?;
        let mut leaf = Leaf::parse(first).map_err(CredentialsError::Rejected)?;
        let certified = Arc::new(CertifiedKey::new(chain, key.signing_key()?));
        certified
            .keys_match()
            .map_err(|_| CredentialsError::KeyMismatch)?;
        // Peers believe it no longer than the whole path.
        leaf.not_after = verify_own(&certified, &trust).map_err(CredentialsError::Rejected)?;
        Self::build(leaf, certified, trust)
    }

    /// The same certificate and key under other roots or revocations. Does not
    /// fail when the new trust no longer covers this certificate: what it says
    /// about peers must count at once. See [`Credentials::is_trusted`].
    pub(crate) fn with_trust(&self, trust: Arc<Trust>) -> Result<Arc<Self>, CredentialsError> {
        Self::build(self.leaf.clone(), Arc::clone(&self.certified), trust)
    }

    fn build(
        leaf: Leaf,
        certified: Arc<CertifiedKey>,
        trust: Arc<Trust>,
    ) -> Result<Arc<Self>, CredentialsError> {
        Ok(Arc::new(Self {
            client: client_config(&certified, &trust)?,
            server: Arc::new(server_config(&certified, &trust)?),
            leaf,
            certified,
            trust,
        }))
    }

    #[must_use]
    pub(crate) fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }

    #[must_use]
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.leaf.fingerprint
    }

    #[must_use]
    pub(crate) fn not_before(&self) -> SystemTime {
        self.leaf.not_before
    }

    #[must_use]
    pub(crate) fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    /// Big-endian, as in the certificate.
    #[must_use]
    pub(crate) fn serial(&self) -> &[u8] {
        &self.leaf.name.serial
    }

    #[must_use]
    pub(crate) fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// Would a peer with the same trust accept this certificate now?
    pub(crate) fn is_trusted(&self) -> Result<(), TlsFailure> {
        verify_own(&self.certified, &self.trust).map(|_ends| ())
    }

    pub(super) fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// Of one connection: which identities are expected differs, and what is to be
    /// spoken with them.
    pub(super) fn client_config(
        &self,
        expected: &[SpiffeId],
        protocol: PeerProtocol,
    ) -> Arc<ClientConfig> {
        let mut config = self.client.clone();
        config.alpn_protocols = names(protocol.offered());
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(ServerVerifier {
                trust: Arc::clone(&self.trust),
                expected: expected.into(),
            }));
        Arc::new(config)
    }
}

/// A workload's certificate is used on both sides; gives when the first of its path ends.
fn verify_own(certified: &CertifiedKey, trust: &Trust) -> Result<SystemTime, TlsFailure> {
    let (leaf, intermediates) = certified
        .cert
        .split_first()
        .ok_or(TlsFailure::NoCertificate)?;
    let verify = |role| trust.verify(leaf, intermediates, role, UnixTime::now());
    let (_, as_client) = verify(Role::Client)?;
    let (_, as_server) = verify(Role::Server)?;
    Ok(as_client.ends.min(as_server.ends))
}

/// Expects nobody until [`Credentials::client_config`] says whom.
fn client_config(
    certified: &Arc<CertifiedKey>,
    trust: &Arc<Trust>,
) -> Result<ClientConfig, rustls::Error> {
    let verifier = ServerVerifier {
        trust: Arc::clone(trust),
        expected: Box::default(),
    };
    let mut config = ClientConfig::builder_with_provider(provider::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(certified))));
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(SecretLog);
    Ok(config)
}

fn names(protocols: &[PeerProtocol]) -> Vec<Vec<u8>> {
    let names = protocols.iter().map(|protocol| protocol.alpn().to_vec());
    names.collect()
}

fn server_config(
    certified: &Arc<CertifiedKey>,
    trust: &Arc<Trust>,
) -> Result<ServerConfig, rustls::Error> {
    let verifier = ClientVerifier {
        trust: Arc::clone(trust),
    };
    let mut config = ServerConfig::builder_with_provider(provider::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(certified))));
    config.alpn_protocols = names(PeerProtocol::ALL);
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(SecretLog);
    Ok(config)
}
