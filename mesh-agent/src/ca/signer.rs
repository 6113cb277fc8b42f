//! The running authority, without its port: who may have what, and signs it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::audit::Trail;
use super::authority::{Record, import};
use super::book::{Book, Room};
use super::csr;
use super::errors::{Error, Refusal};
use super::limit::Limit;
use super::metrics::Metrics;
use super::publish::publish;
use super::state::{AUTHORITY, AuthorityFile, ISSUED, Issued, Loaded, load, stamps};
use super::store::Store;
use super::token::{self, Answer, Authenticator, Caller, Proof};
use super::units::seconds;
use crate::identity::grpc::CertificateRequest;
use crate::model::TrustDomain;

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

/// A running authority, without its port.
pub(super) struct Ca {
    pub(super) store: Store,
    pub(super) config: Config,
    pub(super) loaded: Mutex<Arc<Loaded>>,
    pub(super) limit: Mutex<Limit>,
    pub(super) audit: Trail,
    pub(super) book: Mutex<Book>,
    pub(super) metrics: Metrics,
    pub(super) started: Instant,
}

/// Where a request came from and what it shows.
pub(super) struct Call<'a> {
    pub(super) caller: &'a Caller,
    pub(super) peer: &'a str,
    pub(super) request: &'a CertificateRequest,
}

impl Ca {
    pub(super) fn open(config: Config) -> Result<Self, Error> {
        let store = Store::open(&config.state_dir)?;
        ensure_authority(&store, &config)?;
        let loaded = Mutex::new(Arc::new(load(&store)?));
        let issued = store.lines::<Issued>(ISSUED)?;
        let book = Book::new(issued.iter().map(|i| &*i.caller));
        Ok(Self {
            store,
            loaded,
            limit: Mutex::new(Limit::new(config.rate, config.burst)),
            audit: Trail::default(),
            book: Mutex::new(book),
            metrics: Metrics::default(),
            started: Instant::now(),
            config,
        })
    }

    /// The newest state. State that cannot be read refuses everything.
    pub(super) fn fresh(&self) -> Result<Arc<Loaded>, Error> {
        let mut loaded = self.loaded.lock();
        if loaded.stamps != stamps(&self.store) {
            *loaded = Arc::new(load(&self.store)?);
            tracing::info!("the authority's state changed");
        }
        Ok(loaded.clone())
    }

    pub(super) fn admits(&self, caller: &Caller) -> Result<(), Refusal> {
        let admitted = self
            .limit
            .lock()
            .admits(&caller.name, self.started.elapsed());
        admitted.then_some(()).ok_or(Refusal::RateLimit)
    }

    /// The chain for the answer. Blocks: for a thread of its own.
    pub(super) fn issue(&self, call: &Call<'_>) -> Result<Vec<String>, Refusal> {
        let now = SystemTime::now();
        let internal = |error: Error| self.internal(&error);
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
            caller: call.caller.name.clone(),
            serial: signed.serial,
            identity: id.to_string(),
            node: call.caller.node.clone(),
            issuer: signing.id.clone(),
            issued: seconds(now),
            not_after: seconds(signed.not_after),
        };
        self.remember(&issued, seconds(now))?;
        let written = self
            .audit
            .issued(&self.store, call.caller, call.peer, &issued);
        written.map_err(internal)?;
        self.metrics.works();
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

    /// What keeps the authority from working is shown until it works again.
    fn internal(&self, error: &Error) -> Refusal {
        tracing::error!(%error, "cannot sign");
        self.metrics.fails(error);
        Refusal::Internal
    }

    /// Room first, then the line: what is refused leaves nothing behind.
    fn remember(&self, issued: &Issued, now: u64) -> Result<(), Refusal> {
        let internal = |error: Error| self.internal(&error);
        let mut book = self.book.lock();
        let mono = self.started.elapsed();
        if book.room(&issued.caller, mono) == Room::Clean {
            let live = self.forget_expired(now).map_err(internal)?;
            book.cleaned(live.iter().map(|i| &*i.caller), mono);
        }
        match book.add(&issued.caller, mono) {
            Room::There => self.store.append(ISSUED, issued).map_err(internal),
            Room::TooOften => Err(Refusal::RateLimit),
            Room::Clean | Room::Full => Err(Refusal::Full),
        }
    }

    fn forget_expired(&self, now: u64) -> Result<Vec<Issued>, Error> {
        let _lock = self.store.lock()?;
        let mut live = self.store.lines::<Issued>(ISSUED)?;
        live.retain(|i| i.not_after > now);
        let lines = live.iter().filter_map(|i| serde_json::to_string(i).ok());
        let text: String = lines.map(|line| line + "\n").collect();
        self.store.write_bytes(ISSUED, text.as_bytes())?;
        Ok(live)
    }
}

impl Authenticator for Ca {
    fn authenticate<'a>(&'a self, proof: Proof<'a>) -> Answer<'a> {
        Box::pin(async move {
            let loaded = self.fresh().map_err(|error| self.internal(&error))?;
            token::check(&loaded.tokens, &proof)
        })
    }
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
    publish(store, now)
}
