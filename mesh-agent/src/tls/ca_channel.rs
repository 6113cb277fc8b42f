//! TLS of the channel between agents and the certificate authority: the
//! server proves itself by certificate, the client by what it sends inside.
//! ALPN `h2`, for gRPC.

use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;

use super::failure::from_rustls;
use super::trust::certificates;
use super::{CredentialsError, PrivateKey, TrustError, provider};
use crate::model::TlsFailure;

const H2: &[u8] = b"h2";

/// Both halves of an encrypted connection: `AsyncRead + AsyncWrite`.
pub(crate) type CaStream = tokio_rustls::TlsStream<TcpStream>;

/// What the CA's certificate must name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CaName {
    /// A DNS name or IP address.
    Server(String),
}

#[derive(Clone)]
pub(crate) struct CaClient {
    connector: tokio_rustls::TlsConnector,
    name: ServerName<'static>,
}

impl CaClient {
    /// `roots` are certificates in PEM or DER.
    pub(crate) fn new(roots: &[u8], name: &CaName) -> Result<Self, CredentialsError> {
        let CaName::Server(name) = name;
        let (verifier, name) = (by_name(roots)?, server_name(name)?);
        let mut config = ClientConfig::builder_with_provider(provider::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![H2.to_vec()];
        Ok(Self {
            connector: Arc::new(config).into(),
            name,
        })
    }

    /// What the client holds against the server's certificate, where that is why it did
    /// not connect.
    pub(crate) fn mistrust(error: &io::Error) -> Option<TlsFailure> {
        match error.get_ref()?.downcast_ref()? {
            error @ rustls::Error::InvalidCertificate(_) => Some(from_rustls(error)),
            _ => None,
        }
    }

    /// The caller sets the deadline.
    pub(crate) async fn connect(&self, stream: TcpStream) -> io::Result<CaStream> {
        let stream = self.connector.connect(self.name.clone(), stream).await?;
        Ok(stream.into())
    }
}

fn by_name(roots: &[u8]) -> Result<Arc<dyn ServerCertVerifier>, CredentialsError> {
    let mut store = RootCertStore::empty();
    for root in certificates(roots)? {
        store.add(root)?;
    }
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider::provider())
            .build()
            .map_err(|_| TrustError::NoRoots)?;
    Ok(verifier)
}

fn server_name(name: &str) -> Result<ServerName<'static>, CredentialsError> {
    ServerName::try_from(name.to_owned()).map_err(|_| CredentialsError::Name)
}

#[derive(Clone)]
pub(crate) struct CaServer {
    acceptor: tokio_rustls::TlsAcceptor,
}

impl CaServer {
    pub(crate) fn new(chain_pem: &str, key: &PrivateKey) -> Result<Self, CredentialsError> {
        let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| CredentialsError::ChainUnreadable)?;
        let certified = CertifiedKey::new(chain, key.signing_key()?);
        certified
            .keys_match()
            .map_err(|_| CredentialsError::KeyMismatch)?;
        let mut config = ServerConfig::builder_with_provider(provider::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![H2.to_vec()];
        config.send_tls13_tickets = 0;
        Ok(Self {
            acceptor: Arc::new(config).into(),
        })
    }

    /// The caller sets the deadline.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<CaStream> {
        let stream = self.acceptor.accept(stream).await?;
        Ok(stream.into())
    }
}
