//! Where certificates come from.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use crate::model::SpiffeId;
use crate::tls::{CredentialsError, KeyError, PrivateKey, TrustError};

/// What a source gave for one identity, not yet checked.
pub(super) struct Fetched {
    /// PEM, leaf first.
    pub(super) chain: String,
    pub(super) key: PrivateKey,
    /// PEM; exactly whom to trust from now on.
    pub(super) roots: Vec<u8>,
}

pub(super) type Fetch = Pin<Box<dyn Future<Output = Result<Fetched, SourceError>> + Send>>;

pub(super) trait Source: Send + Sync {
    /// For status and metrics.
    fn name(&self) -> &'static str;

    /// Does asking again give a newer certificate?
    fn renews(&self) -> bool;

    fn fetch(self: Arc<Self>, id: SpiffeId) -> Fetch;

    /// Looks, often: did something change that should be fetched at once?
    fn has_changed(&self) -> bool;
}

/// Why a certificate did not come, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("cannot read {path}: {error}")]
    File {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("{0} is no text in UTF-8")]
    NotText(PathBuf),
    #[error("the token in {0} is empty or has characters that no token has")]
    Token(PathBuf),
    #[error("cannot reach the certificate authority {address}: {error}")]
    Unreachable {
        address: String,
        error: std::io::Error,
    },
    #[error("the certificate authority {0} does not answer in time")]
    Timeout(String),
    #[error("the channel to the certificate authority broke: {0}")]
    Channel(#[from] tonic::transport::Error),
    /// The text is the authority's: shortened and escaped.
    #[error("the certificate authority refused: {code:?}: {message}")]
    Refused { code: tonic::Code, message: String },
    #[error("the certificate authority answered without chain or roots")]
    Incomplete,
    #[error("the pinned roots cannot be used: {0}")]
    Pinned(CredentialsError),
    #[error("no key could be made: {0}")]
    Key(#[from] KeyError),
    #[error("the certificate cannot be used: {0}")]
    Credentials(#[from] CredentialsError),
    #[error("the roots cannot be used: {0}")]
    Trust(#[from] TrustError),
    #[error("the revocation list {0} has not been read yet")]
    NoCrl(PathBuf),
    #[error("the certificate had expired when it came: are the clocks right?")]
    ExpiredOnArrival,
    #[error("the fetch was broken off")]
    Aborted,
}

pub(super) async fn read(path: PathBuf) -> Result<Vec<u8>, SourceError> {
    tokio::fs::read(&path)
        .await
        .map_err(|error| SourceError::File { path, error })
}
