//! Where certificates come from.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use crate::model::SpiffeId;
use crate::tls::{CredentialsError, CrlError, KeyError, PrivateKey, TrustError};

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
    /// It does not take the token; the text is its own, as above.
    #[error(
        "the certificate authority refused the join token in {file}: Unauthenticated: {message}"
    )]
    TokenRefused {
        file: PathBuf,
        node: String,
        message: String,
    },
    #[error("the node's name {0:?} cannot be told to the authority")]
    NodeName(String),
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
    #[error("the revocation list cannot be used: {0}")]
    Crl(#[from] CrlError),
    #[error("the revocation list {0} has not been read yet")]
    NoCrl(PathBuf),
    #[error("the certificate had expired when it came: are the clocks right?")]
    ExpiredOnArrival,
    #[error("the fetch was broken off")]
    Aborted,
}

impl SourceError {
    /// What an operator can do about it.
    pub(super) fn remedy(&self) -> String {
        match self {
            Self::TokenRefused { file, node, .. } => format!(
                "make a token where the authority is (`mesh-agent ca token create --node {node} --allow …`) and put it into {}; no restart is needed",
                file.display()
            ),
            Self::Refused {
                code: tonic::Code::PermissionDenied,
                ..
            } => "give the node a token that allows this identity (`mesh-agent ca token create --allow NAMESPACE/ACCOUNT`)".to_owned(),
            Self::Refused {
                code: tonic::Code::ResourceExhausted,
                ..
            } => "see the authority's refused.jsonl: this node's token asks too often or holds too many".to_owned(),
            Self::Refused { .. } | Self::Incomplete => {
                "see the log of the authority, and its refused.jsonl".to_owned()
            }
            Self::Unreachable { address, .. } | Self::Timeout(address) => format!(
                "see that `mesh-agent ca run` runs at {address} and can be reached from this node"
            ),
            Self::Channel(_) | Self::Aborted => "it is tried again by itself".to_owned(),
            Self::Pinned(_) => {
                "put the authority's bundle.pem where --ca-root names it".to_owned()
            }
            Self::NoCrl(_) => {
                "put the authority's crl.pem where --crl-file names it".to_owned()
            }
            Self::ExpiredOnArrival => "set the clocks of this node and of the authority".to_owned(),
            Self::NodeName(_) => "give another --node-name".to_owned(),
            Self::File { path, .. } | Self::NotText(path) | Self::Token(path) => {
                format!("mend {}; it is read again by itself", path.display())
            }
            Self::Key(_) | Self::Credentials(_) | Self::Trust(_) | Self::Crl(_) => {
                "see what the message names: the chain, its roots and this mesh's --trust-domain must fit".to_owned()
            }
        }
    }
}

pub(super) async fn read(path: PathBuf) -> Result<Vec<u8>, SourceError> {
    tokio::fs::read(&path)
        .await
        .map_err(|error| SourceError::File { path, error })
}
