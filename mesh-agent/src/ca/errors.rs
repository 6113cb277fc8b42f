//! Why the authority does not go on, and why it refuses.

use std::path::PathBuf;

/// Why the authority or one of its commands cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{path}: {error}")]
    Io {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("{path} is not what was written there: {error}")]
    Broken {
        path: PathBuf,
        error: serde_json::Error,
    },
    #[error("{path} is not closed to others (mode {mode:o}): chmod go-rwx")]
    Permissions { path: PathBuf, mode: u32 },
    #[error(
        "{path} belongs to user {owner}, and this command runs as user {user}: run it as user {owner}, as which the authority runs; nothing was changed"
    )]
    Owner {
        path: PathBuf,
        owner: u32,
        user: u32,
    },
    /// The state is changed, and stays so.
    #[error("done: {done}; but {failed}; to do: {remedy}")]
    Half {
        done: String,
        failed: String,
        remedy: &'static str,
    },
    #[error("the cluster: {0}")]
    Cluster(String),
    #[error("the state is changed by others again and again: try again")]
    Busy,
    #[error("the API server has not been seen for {0} minutes: the state may be another one now")]
    Stale(u64),
    #[error("an authority runs on {0} already")]
    Running(PathBuf),
    #[error("{0} has no authority yet: start `mesh-agent ca run` once")]
    Empty(PathBuf),
    #[error("the state is that of the trust domain {0}")]
    OtherTrustDomain(String),
    #[error("the given authority is not usable: {0}")]
    Given(&'static str),
    #[error(
        "the given certificate is not the one in the state: bring it in with `ca rotate prepare`"
    )]
    OtherAuthority,
    #[error("the signing certificate has expired")]
    AuthorityExpired,
    #[error("signing: {0}")]
    Sign(#[from] rcgen::Error),
    #[error("TLS: {0}")]
    Tls(#[from] crate::tls::CredentialsError),
    #[error("TLS key: {0}")]
    Key(#[from] crate::tls::KeyError),
    #[error("serving: {0}")]
    Serve(#[from] tonic::transport::Error),
    #[error("no rotation step now: {0}")]
    Stage(&'static str),
    #[error("too early: certificates that would break live until {0} (--force does it anyway)")]
    TooEarly(String),
    #[error("there is no token {0}")]
    NoToken(String),
    #[error("there are too many tokens; wait for some to expire")]
    TooManyTokens,
    #[error("no live certificate has the serial {0} (--force revokes it anyway)")]
    UnknownSerial(String),
    #[error("{0:?} is no serial number in hexadecimal")]
    NotASerial(String),
}

impl Error {
    /// Was what the command is for done all the same?
    #[must_use]
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Half { .. })
    }
}

/// Why a request is refused; the caller learns only the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.label())]
pub(crate) enum Refusal {
    NoToken,
    UnknownToken,
    ExpiredToken,
    RevokedToken,
    OtherNode,
    /// The token is not for this authority.
    Audience,
    /// Of no agent.
    Account,
    NoNodeClaim,
    NoSuchPod,
    /// Nobody can say now.
    Unreviewed,
    RateLimit,
    Csr,
    CsrSignature,
    KeyType,
    Names,
    ForeignTrustDomain,
    IdentityMismatch,
    NotAllowed,
    Lifetime,
    Full,
    Internal,
}

impl Refusal {
    pub(crate) const ALL: [Self; 21] = [
        Self::NoToken,
        Self::UnknownToken,
        Self::ExpiredToken,
        Self::RevokedToken,
        Self::OtherNode,
        Self::Audience,
        Self::Account,
        Self::NoNodeClaim,
        Self::NoSuchPod,
        Self::Unreviewed,
        Self::RateLimit,
        Self::Csr,
        Self::CsrSignature,
        Self::KeyType,
        Self::Names,
        Self::ForeignTrustDomain,
        Self::IdentityMismatch,
        Self::NotAllowed,
        Self::Lifetime,
        Self::Full,
        Self::Internal,
    ];

    /// In the logs and on the metrics page.
    #[must_use]
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::UnknownToken => "unknown_token",
            Self::ExpiredToken => "expired_token",
            Self::RevokedToken => "revoked_token",
            Self::OtherNode => "other_node",
            Self::Audience => "token_audience",
            Self::Account => "account_not_allowed",
            Self::NoNodeClaim => "no_node_claim",
            Self::NoSuchPod => "no_such_pod",
            Self::Unreviewed => "review_unavailable",
            Self::RateLimit => "rate_limit",
            Self::Csr => "bad_csr",
            Self::CsrSignature => "csr_signature",
            Self::KeyType => "key_type",
            Self::Names => "names",
            Self::ForeignTrustDomain => "foreign_trust_domain",
            Self::IdentityMismatch => "identity_mismatch",
            Self::NotAllowed => "identity_not_allowed",
            Self::Lifetime => "lifetime",
            Self::Full => "too_many_certificates",
            Self::Internal => "internal",
        }
    }
}
