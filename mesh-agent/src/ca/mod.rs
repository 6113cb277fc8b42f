//! The embedded certificate authority: signs the certificates of workloads for
//! agents that may have them. Speaks Istio's certificate service over TLS.
//!
//! State is a directory (`store`); commands change it while the authority
//! runs, and each request sees the newest. `authority` signs, `csr` reads
//! requests, `token` says who calls, `server` serves, `ops` are the commands.
//!
//! Never: a certificate without a line in the audit log, for an identity that
//! the caller's node may not have, or from state with wrong permissions.

mod authority;
mod csr;
mod limit;
mod ops;
mod server;
mod store;
#[cfg(test)]
mod tests;
mod token;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::identity::grpc::CertificateRequest;
use crate::model::TrustDomain;
use authority::{Authority, Record};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use csr::fuzz as fuzz_request;
use limit::Limit;
pub use ops::{Step, create_token, list_tokens, revoke, revoke_token, rotate, show};
pub use server::run;
use store::{Stamp, Store};
#[cfg(test)]
pub(crate) use tests::request_seeds;
pub use token::{Allowed, Answer, Authenticator, Caller, NotAllowed, Proof, Token};

const AUTHORITY: &str = "authority.json";
const TOKENS: &str = "tokens.json";
const REVOKED: &str = "revoked.json";
const ISSUED: &str = "issued.jsonl";
const AUDIT: &str = "audit.jsonl";
/// Roots that workloads trust, for agents to pin.
const BUNDLE: &str = "bundle.pem";
const CRL: &str = "crl.pem";
const MAX_AUDIT: u64 = 64 * 1024 * 1024;
/// Most certificates that are remembered.
const MAX_ISSUED: usize = 1_000_000;
/// Refusals per second that are written down; more are only counted.
const AUDITED_REFUSALS: u32 = 20;

/// Why the authority or one of its commands cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
    #[error(
        "{path} must belong to this user and be closed to others (mode {mode:o}): chmod go-rwx"
    )]
    Permissions { path: PathBuf, mode: u32 },
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

/// Why a request is refused; the caller learns only the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no_token")]
    NoToken,
    #[error("unknown_token")]
    UnknownToken,
    #[error("expired_token")]
    ExpiredToken,
    #[error("revoked_token")]
    RevokedToken,
    #[error("other_node")]
    OtherNode,
    #[error("rate_limit")]
    RateLimit,
    #[error("bad_csr")]
    Csr,
    #[error("csr_signature")]
    CsrSignature,
    #[error("key_type")]
    KeyType,
    #[error("names")]
    Names,
    #[error("foreign_trust_domain")]
    ForeignTrustDomain,
    #[error("identity_mismatch")]
    IdentityMismatch,
    #[error("identity_not_allowed")]
    NotAllowed,
    #[error("lifetime")]
    Lifetime,
    #[error("too_many_certificates")]
    Full,
    #[error("internal")]
    Internal,
}

/// How the authority runs.
#[derive(Clone, Debug)]
pub struct Config {
    pub state_dir: PathBuf,
    pub listen: std::net::SocketAddr,
    /// More names and addresses of its own.
    pub names: Vec<String>,
    pub trust_domain: TrustDomain,
    /// Certificate (with those above it) and key of a given authority.
    pub given: Option<(PathBuf, PathBuf)>,
    pub default_lifetime: Duration,
    pub max_lifetime: Duration,
    pub rate: u32,
    pub burst: u32,
    pub max_connections: usize,
}

#[derive(Serialize, Deserialize)]
struct AuthorityFile {
    trust_domain: String,
    /// Oldest first; two while they rotate.
    authorities: Vec<Record>,
    signing: String,
}

#[derive(Default, Serialize, Deserialize)]
struct TokensFile {
    tokens: Vec<Token>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Revoked {
    serial: String,
    at: u64,
    /// The certificate's end, after which it may be forgotten.
    until: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct RevokedFile {
    number: u64,
    revoked: Vec<Revoked>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Issued {
    serial: String,
    identity: String,
    node: String,
    issuer: String,
    issued: u64,
    not_after: u64,
}

#[derive(Serialize)]
struct Audit<'a> {
    time: String,
    event: &'a str,
    caller: &'a str,
    node: &'a str,
    identity: &'a str,
    serial: &'a str,
    not_after: String,
    reason: String,
    peer: &'a str,
}

/// What one state of the files means.
struct Loaded {
    stamps: [Stamp; 2],
    domain: TrustDomain,
    authorities: Vec<Authority>,
    signing: usize,
    tokens: Vec<Token>,
}

impl Loaded {
    fn signing(&self) -> Result<&Authority, Error> {
        self.authorities
            .get(self.signing)
            .ok_or(Error::Stage("there is no signing key"))
    }

    fn bundle(&self) -> String {
        self.authorities.iter().map(|a| a.root.as_str()).collect()
    }
}

/// A running authority, without its port.
pub(crate) struct Ca {
    store: Store,
    config: Config,
    loaded: Mutex<Arc<Loaded>>,
    limit: Mutex<Limit>,
    refusals: Mutex<(Limit, u64)>,
    /// Lines in the record of issues, and how many start a clean-up.
    issued: Mutex<(usize, usize)>,
    started: Instant,
}

/// Where a request came from and what it shows.
struct Call<'a> {
    caller: &'a Caller,
    peer: &'a str,
    request: &'a CertificateRequest,
}

impl Ca {
    fn open(config: Config) -> Result<Self, Error> {
        let store = Store::open(&config.state_dir)?;
        ensure_authority(&store, &config)?;
        let loaded = Mutex::new(Arc::new(load(&store)?));
        let lines = store.lines::<Issued>(ISSUED)?.len();
        Ok(Self {
            store,
            loaded,
            limit: Mutex::new(Limit::new(config.rate, config.burst)),
            refusals: Mutex::new((Limit::new(AUDITED_REFUSALS, AUDITED_REFUSALS), 0)),
            issued: Mutex::new((lines, lines.max(512) * 2)),
            started: Instant::now(),
            config,
        })
    }

    /// The newest state. State that cannot be read refuses everything.
    fn fresh(&self) -> Result<Arc<Loaded>, Error> {
        let mut loaded = self.loaded.lock();
        if loaded.stamps != stamps(&self.store) {
            *loaded = Arc::new(load(&self.store)?);
            tracing::info!("the authority's state changed");
        }
        Ok(loaded.clone())
    }

    fn admits(&self, caller: &Caller) -> Result<(), Refusal> {
        let admitted = self
            .limit
            .lock()
            .admits(&caller.name, self.started.elapsed());
        admitted.then_some(()).ok_or(Refusal::RateLimit)
    }

    /// The chain for the answer. Blocks: for a thread of its own.
    fn issue(&self, call: &Call<'_>) -> Result<Vec<String>, Refusal> {
        let now = SystemTime::now();
        let internal = |error: Error| {
            tracing::error!(%error, "cannot issue");
            Refusal::Internal
        };
        let loaded = self.fresh().map_err(internal)?;
        let (id, key) = csr::read(&call.request.csr)?;
        if id.trust_domain() != loaded.domain.as_str() {
            return Err(Refusal::ForeignTrustDomain);
        }
        let named = call
            .request
            .impersonated()
            .map_err(|_| Refusal::IdentityMismatch)?;
        if named.is_some_and(|named| named != id.as_str()) {
            return Err(Refusal::IdentityMismatch);
        }
        if !call.caller.may_have(&id) {
            return Err(Refusal::NotAllowed);
        }
        let lifetime = self.lifetime(call.request.validity_duration)?;
        let signing = loaded.signing().map_err(internal)?;
        let signed = signing.sign(&id, &key, lifetime, now).map_err(internal)?;
        let issued = Issued {
            serial: signed.serial,
            identity: id.to_string(),
            node: call.caller.node.clone(),
            issuer: signing.id.clone(),
            issued: seconds(now),
            not_after: seconds(signed.not_after),
        };
        self.remember(&issued, seconds(now))?;
        self.audit_issue(call, &issued).map_err(internal)?;
        let mut chain = vec![signed.pem];
        chain.extend(signing.intermediates.iter().cloned());
        chain.push(loaded.bundle());
        Ok(chain)
    }

    /// What is asked for, within what is given.
    fn lifetime(&self, asked: i64) -> Result<Duration, Refusal> {
        match u64::try_from(asked) {
            Ok(0) => Ok(self.config.default_lifetime),
            Ok(seconds) => Ok(Duration::from_secs(seconds).min(self.config.max_lifetime)),
            Err(_) => Err(Refusal::Lifetime),
        }
    }

    fn remember(&self, issued: &Issued, now: u64) -> Result<(), Refusal> {
        let mut lines = self.issued.lock();
        let result = (|| {
            if lines.0 >= lines.1 {
                let _lock = self.store.lock()?;
                let mut live = self.store.lines::<Issued>(ISSUED)?;
                live.retain(|i| i.not_after > now);
                let text: Vec<_> = live
                    .iter()
                    .filter_map(|i| serde_json::to_string(i).ok())
                    .collect();
                self.store.write_bytes(ISSUED, text.join("\n").as_bytes())?;
                *lines = (live.len(), live.len().max(512) * 2);
            }
            self.store.append(ISSUED, issued)
        })();
        result.map_err(|error: Error| {
            tracing::error!(%error, "cannot remember a certificate");
            Refusal::Internal
        })?;
        lines.0 += 1;
        (lines.0 <= MAX_ISSUED).then_some(()).ok_or(Refusal::Full)
    }

    fn audit_issue(&self, call: &Call<'_>, issued: &Issued) -> Result<(), Error> {
        self.store.rotate_log(AUDIT, MAX_AUDIT)?;
        let audit = Audit {
            time: time(seconds(SystemTime::now())),
            event: "issued",
            caller: &call.caller.name,
            node: &call.caller.node,
            identity: &issued.identity,
            serial: &issued.serial,
            not_after: time(issued.not_after),
            reason: String::new(),
            peer: call.peer,
        };
        self.store.append(AUDIT, &audit)
    }

    /// Refusals can be caused by anybody: their lines are limited.
    fn audit_refusal(&self, caller: Option<&Caller>, identity: &str, refusal: Refusal, peer: &str) {
        let mut refusals = self.refusals.lock();
        if !refusals.0.admits("", self.started.elapsed()) {
            refusals.1 += 1;
            return;
        }
        let unwritten = std::mem::take(&mut refusals.1);
        drop(refusals);
        let audit = Audit {
            time: time(seconds(SystemTime::now())),
            event: "refused",
            caller: caller.map_or("", |c| &c.name),
            node: caller.map_or("", |c| &c.node),
            identity,
            serial: "",
            not_after: String::new(),
            reason: match unwritten {
                0 => refusal.to_string(),
                n => format!("{refusal} (and {n} refusals before that were not written)"),
            },
            peer,
        };
        let written = self
            .store
            .rotate_log(AUDIT, MAX_AUDIT)
            .and_then(|()| self.store.append(AUDIT, &audit));
        if let Err(error) = written {
            tracing::error!(%error, "cannot write the audit log");
        }
    }
}

impl Authenticator for Ca {
    fn authenticate<'a>(&'a self, proof: Proof<'a>) -> Answer<'a> {
        Box::pin(async move {
            let loaded = self.fresh().map_err(|error| {
                tracing::error!(%error, "cannot read the tokens");
                Refusal::Internal
            })?;
            token::check(&loaded.tokens, &proof)
        })
    }
}

fn stamps(store: &Store) -> [Stamp; 2] {
    [AUTHORITY, TOKENS].map(|name| store.stamp(name))
}

fn load(store: &Store) -> Result<Loaded, Error> {
    // Before the files: a change meanwhile is then seen the next time.
    let stamps = stamps(store);
    let file = authority_file(store)?;
    let domain = TrustDomain::new(&file.trust_domain)
        .map_err(|_| Error::OtherTrustDomain(file.trust_domain.clone()))?;
    let signing = file.authorities.iter().position(|a| a.id == file.signing);
    Ok(Loaded {
        stamps,
        domain,
        authorities: file
            .authorities
            .iter()
            .map(Record::load)
            .collect::<Result<_, _>>()?,
        signing: signing.ok_or(Error::Stage("there is no signing key"))?,
        tokens: store.read::<TokensFile>(TOKENS)?.unwrap_or_default().tokens,
    })
}

fn authority_file(store: &Store) -> Result<AuthorityFile, Error> {
    let file = store.read::<AuthorityFile>(AUTHORITY)?;
    file.ok_or_else(|| Error::Empty(store.path("")))
}

/// Makes or takes in the first authority; a given one must be the known one.
fn ensure_authority(store: &Store, config: &Config) -> Result<(), Error> {
    let _lock = store.lock()?;
    store.sweep()?;
    let now = SystemTime::now();
    let given = match &config.given {
        Some((chain, key)) => Some(import(chain, key, now)?),
        None => None,
    };
    if let Some(file) = store.read::<AuthorityFile>(AUTHORITY)? {
        if file.trust_domain != config.trust_domain.as_str() {
            return Err(Error::OtherTrustDomain(file.trust_domain));
        }
        if given.is_some_and(|g| !file.authorities.iter().any(|a| a.chain == g.chain)) {
            return Err(Error::OtherAuthority);
        }
    } else {
        let record = match given {
            Some(record) => record,
            None => Record::generate(&config.trust_domain, now)?,
        };
        let file = AuthorityFile {
            trust_domain: config.trust_domain.to_string(),
            signing: record.id.clone(),
            authorities: vec![record],
        };
        store.write(AUTHORITY, &file)?;
    }
    ops::publish(store, now)
}

fn import(chain: &Path, key: &Path, now: SystemTime) -> Result<Record, Error> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|error| Error::Io {
            path: path.to_owned(),
            error,
        })
    };
    store::check_private(key)?;
    Record::import(&read(chain)?, read(key)?.into(), now)
}

fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

fn time(seconds: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(time).to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
