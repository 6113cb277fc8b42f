//! Where certificates come from.

use std::future::Future;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use super::token::TokenLife;
use crate::model::{SpiffeId, TlsFailure};
use crate::tls::{CredentialsError, CrlError, KeyError, PrivateKey, TrustError};

/// What a source gave for one identity, not yet checked.
pub(super) struct Fetched {
    /// PEM, leaf first.
    pub(super) chain: String,
    pub(super) key: PrivateKey,
    /// PEM; exactly whom to trust from now on.
    pub(super) roots: Vec<u8>,
    /// Of the token that was shown for it, where the source told.
    pub(super) token: Option<TokenLife>,
}

pub(super) type Fetch = Pin<Box<dyn Future<Output = Result<Fetched, SourceError>> + Send>>;

pub(super) trait CertificateSource: Send + Sync {
    /// For status and metrics.
    fn name(&self) -> &'static str;

    /// Does asking again give a newer certificate?
    fn renews(&self) -> bool;

    fn fetch(self: Arc<Self>, id: SpiffeId) -> Fetch;

    /// Looks, often: did something change because of which to fetch at once?
    fn look(&self) -> Change;

    /// What to do before the token ends; empty where there is none.
    fn new_token(&self) -> String;
}

/// What changed at a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// There may be other certificates.
    Certificates,
    /// The authority may have other roots.
    Roots,
    /// There is another token: what failed may succeed with it.
    Token,
}

/// How a node gets another join token.
pub(super) fn new_token(node: &str, file: &Path) -> String {
    format!(
        "make a token where the authority is (`mesh-agent ca token create --node {node} --allow …`) and put it into {}; no restart is needed",
        file.display()
    )
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
    /// It answers, and its certificate is not to be believed.
    #[error("{}", mistrusted(.address, *.failure, .error))]
    Mistrusted {
        address: String,
        failure: TlsFailure,
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
    #[error("the certificate authority refused the token in {file}: Unauthenticated: {message}")]
    TokenRefused {
        file: PathBuf,
        node: String,
        /// A service account's, which the kubelet makes anew.
        is_of_pod: bool,
        message: String,
    },
    #[error("no roots of the certificate authority are known yet: {why}")]
    NoRoots { configmap: String, why: String },
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
    /// Another replica of the authority may say something else.
    pub(super) fn is_of_replica(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == tonic::Code::Unavailable)
    }

    /// What an operator can do about it.
    pub(super) fn remedy(&self) -> String {
        match self {
            Self::TokenRefused {
                file,
                is_of_pod: true,
                ..
            } => format!(
                "see that {} is a projected token for the authority's audience (--token-audience), of an account that it serves (--agent-account)",
                file.display()
            ),
            Self::TokenRefused { file, node, .. } => new_token(node, file),
            Self::NoRoots { configmap, .. } => format!(
                "see that the authority runs and that this agent may list and watch the ConfigMap {configmap}"
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
            Self::Mistrusted { failure, address, .. } => match failure {
                TlsFailure::Expired => format!(
                    "where `mesh-agent ca show` says that its root has ended too: `mesh-agent ca rotate prepare`, then activate, and have its bundle.pem where --ca-root names it; else set the clock of this node, and see what is at {address}"
                ),
                TlsFailure::NotYetValid => {
                    "set the clocks of this node and of the authority".to_owned()
                }
                _ => format!(
                    "see that the authority is what is at {address}, and have its bundle.pem where --ca-root names it"
                ),
            },
            // It is there: one without a valid certificate closes what comes.
            Self::Unreachable { address, error } if is_closed(error) => format!(
                "see what `/readyz` of the authority at {address} says: where its root has ended, it serves nobody"
            ),
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

fn mistrusted(address: &str, failure: TlsFailure, error: &io::Error) -> String {
    let of = format!("the certificate of the certificate authority {address}");
    match failure {
        TlsFailure::Expired => format!("{of} has expired: {error}"),
        TlsFailure::NotYetValid => format!("{of} is not valid yet: {error}"),
        TlsFailure::UnknownIssuer => format!("{of} is of no root that this node knows"),
        _ => format!("{of} cannot be used: {error}"),
    }
}

/// By the other side, after it was connected.
fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let closed = [
        BrokenPipe,
        ConnectionAborted,
        ConnectionReset,
        UnexpectedEof,
    ];
    closed.contains(&error.kind())
}

/// Largest file of certificates, keys or tokens.
const MAX_FILE: u64 = 1 << 20;

pub(super) async fn read(path: PathBuf) -> Result<Vec<u8>, SourceError> {
    let from = path.clone();
    let read = tokio::task::spawn_blocking(move || read_file(&from, MAX_FILE));
    match read.await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(SourceError::File { path, error }),
        Err(_) => Err(SourceError::Aborted),
    }
}

/// Of a pipe the reader would wait for a writer, and of a device there is no end.
pub(super) fn read_file(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(most + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_or_no_writer_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        for path in [fifo.as_path(), Path::new("/dev/zero"), dir.path()] {
            assert!(read_file(path, 10).is_err(), "{}", path.display());
        }
        let file = dir.path().join("file");
        std::fs::write(&file, "0123456789").expect("write");
        assert_eq!(read_file(&file, 10).expect("it fits"), b"0123456789");
        let kind = read_file(&file, 9).map_err(|e| e.kind());
        assert_eq!(kind.err(), Some(io::ErrorKind::FileTooLarge));
    }
}
