//! The running authority, without its port: who may have what, and signs it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::audit::Trail;
use super::authority::{Record, import};
use super::book::{Book, Remembered, Room};
use super::cluster::{Cluster, Of, Pods, Reviews};
use super::csr;
use super::errors::{Error, Refusal};
use super::files::Files;
use super::limit::Limit;
use super::metrics::Metrics;
use super::publish::publish;
use super::records::{AUTHORITY, Issued};
use super::reports::Reports;
use super::state::{AuthorityFile, Loaded, load};
use super::store::Store;
use super::token::{self, Answer, Authenticator, Caller, Entitled, Proof};
use super::units::seconds;
use crate::identity::grpc::CertificateRequest;
use crate::model::{SpiffeId, TrustDomain};

/// How the authority runs.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) state_dir: PathBuf,
    /// In a cluster there is no such directory.
    pub(crate) cluster: Option<Cluster>,
    pub(crate) listen: std::net::SocketAddr,
    /// More names and addresses of its own.
    pub(crate) names: Vec<String>,
    pub(crate) trust_domain: TrustDomain,
    /// Certificate (with those above it) and key of a given authority.
    pub(crate) given: Option<(PathBuf, PathBuf)>,
    pub(crate) default_lifetime: Duration,
    pub(crate) max_lifetime: Duration,
    pub(crate) rate: u32,
    pub(crate) burst: u32,
    pub(crate) max_connections: usize,
    /// Who takes what agents report; in a cluster.
    pub(crate) reports: Option<Arc<dyn Reports>>,
}

/// A running authority, without its port.
pub(super) struct Ca {
    pub(super) store: Arc<dyn Store>,
    pub(super) config: Config,
    pub(super) loaded: Mutex<Arc<Loaded>>,
    pub(super) limit: Mutex<Limit>,
    pub(super) audit: Trail,
    /// Held while the disk is written: for threads that may wait.
    pub(super) book: Mutex<Book>,
    /// What the book says, for who may not.
    pub(super) remembered: Remembered,
    pub(super) metrics: Metrics,
    /// In a cluster: who calls, and what runs where.
    pub(super) cluster: Option<(Arc<Reviews>, Arc<Pods>)>,
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
        let store = Arc::new(Files::open(&config.state_dir)?);
        Self::on(store, config)
    }

    pub(super) fn on(store: Arc<dyn Store>, config: Config) -> Result<Self, Error> {
        ensure_authority(&*store, &config)?;
        let loaded = Mutex::new(Arc::new(load(&*store)?));
        let book = Book::new(store.callers()?.iter().map(String::as_str));
        Ok(Self {
            store,
            loaded,
            limit: Mutex::new(Limit::new(config.rate, config.burst)),
            audit: Trail::default(),
            remembered: book.remembered(),
            book: Mutex::new(book),
            metrics: Metrics::default(),
            cluster: None,
            started: Instant::now(),
            config,
        })
    }

    /// The newest state. State that cannot be read refuses everything.
    pub(super) fn fresh(&self) -> Result<Arc<Loaded>, Error> {
        let mut loaded = self.loaded.lock();
        if loaded.stamp != self.store.stamp()? {
            *loaded = Arc::new(load(&*self.store)?);
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
        self.allows(call.caller, &id)?;
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
            .issued(&*self.store, call.caller, call.peer, &issued);
        written.map_err(internal)?;
        self.metrics.works();
        let mut chain = vec![signed.pem];
        chain.extend(signing.intermediates.iter().cloned());
        chain.push(loaded.bundle());
        Ok(chain)
    }

    pub(super) fn allows(&self, caller: &Caller, id: &SpiffeId) -> Result<(), Refusal> {
        let pods = self.cluster.as_ref().map(|(_, pods)| pods);
        let may = match (&caller.entitled, pods) {
            (Entitled::Named(allowed), _) => allowed.iter().any(|allowed| allowed.covers(id)),
            // What is not known is not said to be absent.
            (Entitled::PodsOfNode, Some(pods)) if !pods.is_known() => {
                return Err(Refusal::Unreviewed);
            }
            (Entitled::PodsOfNode, Some(pods)) => pods.has(Of {
                node: &caller.node,
                namespace: id.namespace(),
                account: id.service_account(),
            }),
            (Entitled::PodsOfNode, None) => false,
        };
        may.then_some(()).ok_or(Refusal::NotAllowed)
    }

    /// What is asked for, within what is given.
    fn lifetime(&self, asked: i64) -> Result<Duration, Refusal> {
        match u64::try_from(asked) {
            Ok(0) => Ok(self.config.default_lifetime),
            Ok(seconds) => Ok(Duration::from_secs(seconds).min(self.config.max_lifetime)),
            Err(_) => Err(Refusal::Lifetime),
        }
    }

    /// What keeps the authority from working is shown until it works again. That it has
    /// ended is seen in its state, also when another one signs and nobody has asked yet.
    fn internal(&self, error: &Error) -> Refusal {
        tracing::error!(%error, "cannot sign");
        if !matches!(error, Error::AuthorityExpired) {
            self.metrics.fails(error);
        }
        Refusal::Internal
    }

    /// Room first, then the line: what is refused leaves nothing behind.
    fn remember(&self, issued: &Issued, now: u64) -> Result<(), Refusal> {
        let internal = |error: Error| self.internal(&error);
        let mut book = self.book.lock();
        let mono = self.started.elapsed();
        if book.room(&issued.caller, mono) == Room::Clean {
            let live = self.store.forget_expired(now).map_err(internal)?;
            book.cleaned(live.iter().map(String::as_str), mono);
        }
        match book.add(&issued.caller, mono) {
            Room::There => self.store.remember(issued).map_err(internal),
            Room::TooOften => Err(Refusal::RateLimit),
            Room::Clean | Room::Full => Err(Refusal::Full),
        }
    }
}

impl Authenticator for Ca {
    fn authenticate<'a>(&'a self, proof: Proof<'a>) -> Answer<'a> {
        Box::pin(async move {
            let loaded = self.fresh().map_err(|error| self.internal(&error))?;
            match &self.cluster {
                Some((reviews, _)) if !token::is_join_token(&proof) => reviews.check(&proof).await,
                _ => token::check(&loaded.tokens, &proof),
            }
        })
    }
}

/// Makes or takes in the first authority; a given one must be the known one.
fn ensure_authority(store: &dyn Store, config: &Config) -> Result<(), Error> {
    let now = SystemTime::now();
    let given = match &config.given {
        Some((chain, key)) => Some(import(chain, key, now)?),
        None => None,
    };
    store.change(&mut |documents| {
        let longest = config.max_lifetime.as_secs();
        if let Some(mut file) = documents.get::<AuthorityFile>(AUTHORITY)? {
            is_the_known_one(&file, given.as_ref(), config)?;
            if file.longest < longest {
                file.longest = longest;
                documents.put(AUTHORITY, &file)?;
            }
            return Ok(());
        }
        let record = match &given {
            Some(record) => record.clone(),
            None => Record::generate(&config.trust_domain, now)?,
        };
        let file = AuthorityFile {
            trust_domain: config.trust_domain.to_string(),
            signing: record.id.clone(),
            signing_since: seconds(now),
            longest,
            authorities: vec![record],
        };
        documents.put(AUTHORITY, &file)
    })?;
    publish(store, now).map(drop)
}

fn is_the_known_one(
    file: &AuthorityFile,
    given: Option<&Record>,
    config: &Config,
) -> Result<(), Error> {
    if file.trust_domain != config.trust_domain.as_str() {
        return Err(Error::OtherTrustDomain(file.trust_domain.clone()));
    }
    match given.is_some_and(|g| !file.authorities.iter().any(|a| a.chain == g.chain)) {
        true => Err(Error::OtherAuthority),
        false => Ok(()),
    }
}
