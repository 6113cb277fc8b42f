//! What the documents mean together.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::authority::{Authority, Record};
use super::errors::Error;
use super::records::{AUTHORITY, TOKENS};
use super::store::{Documents, LiveCertificates, Stamp, Store};
use super::token::Token;
use super::units::{seconds, time};
use crate::model::TrustDomain;

#[derive(Serialize, Deserialize)]
pub(super) struct AuthorityFile {
    pub(super) trust_domain: String,
    /// Oldest first; two while they rotate.
    pub(super) authorities: Vec<Record>,
    pub(super) signing: String,
    /// Since when it signs, in seconds since 1970.
    #[serde(default)]
    pub(super) signing_since: u64,
    /// No certificate lives longer than this many seconds, whichever replica signed it.
    #[serde(default)]
    pub(super) longest: u64,
}

#[derive(Default, Serialize, Deserialize)]
pub(super) struct TokensFile {
    pub(super) tokens: Vec<Token>,
}

/// What one state means.
pub(super) struct Loaded {
    pub(super) stamp: Stamp,
    pub(super) domain: TrustDomain,
    pub(super) authorities: Vec<Authority>,
    pub(super) signing: usize,
    pub(super) tokens: Vec<Token>,
}

impl Loaded {
    pub(super) fn signing(&self) -> Result<&Authority, Error> {
        self.authorities
            .get(self.signing)
            .ok_or(Error::Stage("there is no signing key"))
    }

    /// The one that the authority's own certificate comes from: the oldest that is valid,
    /// so that who pinned it needs another one only when it ends or is retired. Where none
    /// is, the oldest that has not ended: the clock that says so may be this one.
    pub(super) fn serving(&self, now: SystemTime) -> Result<&Authority, Error> {
        let lasting = || self.authorities.iter().filter(|a| a.ends() > now);
        let valid = lasting().find(|a| a.begins() <= now);
        let serving = valid.or_else(|| lasting().next());
        serving.ok_or(match self.authorities.is_empty() {
            true => Error::Stage("there is no signing key"),
            false => Error::AuthorityExpired,
        })
    }

    pub(super) fn bundle(&self) -> String {
        self.authorities.iter().map(|a| a.root.as_str()).collect()
    }
}

pub(super) fn load(store: &dyn Store) -> Result<Loaded, Error> {
    // Before the rest: a change meanwhile is then seen the next time.
    let stamp = store.stamp()?;
    let documents = store.read()?;
    let file = authority_file(&documents)?;
    let domain = TrustDomain::new(&file.trust_domain)
        .map_err(|_| Error::OtherTrustDomain(file.trust_domain.clone()))?;
    let signing = file.authorities.iter().position(|a| a.id == file.signing);
    let tokens = documents.get::<TokensFile>(TOKENS)?;
    Ok(Loaded {
        stamp,
        domain,
        authorities: file
            .authorities
            .iter()
            .map(Record::load)
            .collect::<Result<_, _>>()?,
        signing: signing.ok_or(Error::Stage("there is no signing key"))?,
        tokens: tokens.unwrap_or_default().tokens,
    })
}

pub(super) fn authority_file(documents: &Documents) -> Result<AuthorityFile, Error> {
    let file = documents.get::<AuthorityFile>(AUTHORITY)?;
    file.ok_or_else(|| Error::Empty(documents.place().to_owned()))
}

impl LiveCertificates {
    /// When the last certificate ends whose holder may not know a root added then.
    pub(super) fn unaware(&self, added: u64, now: u64) -> Option<u64> {
        match self {
            Self::Listed(issued) => {
                let before = issued.iter().filter(|i| i.issued <= added);
                before.map(|i| i.not_after).max()
            }
            Self::Unlisted { longest, stale } => ahead(added + longest + stale, now),
        }
    }

    /// When the last certificate of this one ends; it signed until `signed`.
    pub(super) fn of_issuer(&self, issuer: &str, signed: u64, now: u64) -> Option<u64> {
        match self {
            Self::Listed(issued) => {
                let of = issued.iter().filter(|i| i.issuer == issuer);
                of.map(|i| i.not_after).max()
            }
            Self::Unlisted { longest, stale } => ahead(signed + longest + stale, now),
        }
    }

    /// How many certificates of it live, where that is known.
    pub(super) fn count(&self, issuer: &str) -> Option<usize> {
        match self {
            Self::Listed(issued) => Some(issued.iter().filter(|i| i.issuer == issuer).count()),
            Self::Unlisted { .. } => None,
        }
    }
}

impl AuthorityFile {
    /// Until when a root that is new may be unknown to a certificate's holder.
    pub(super) fn unaware(&self, live: &LiveCertificates, now: u64) -> Option<u64> {
        let [old, new] = &self.authorities[..] else {
            return None;
        };
        within(old, live.unaware(new.added, now), now)
    }

    /// When the last certificate of the old root ends, which signs no more.
    pub(super) fn of_old(&self, live: &LiveCertificates, now: u64) -> Option<u64> {
        let old = self.authorities.first()?;
        within(old, live.of_issuer(&old.id, self.signing_since, now), now)
    }
}

/// No certificate outlives who signed it.
fn within(signer: &Record, until: Option<u64>, now: u64) -> Option<u64> {
    // One that cannot be read has no end that is known.
    let ends = signer.load().map_or(u64::MAX, |a| seconds(a.ends()));
    ahead(until?.min(ends), now)
}

fn ahead(until: u64, now: u64) -> Option<u64> {
    (until > now).then_some(until)
}

/// What an operator does next.
pub(super) fn next(file: &AuthorityFile, live: &LiveCertificates, now: u64) -> String {
    let when = |until: Option<u64>| match until {
        Some(until) => format!("from {} on", time(until)),
        None => "at once".to_owned(),
    };
    match &file.authorities[..] {
        [old, _] if file.signing == old.id => format!(
            "`mesh-agent ca rotate activate`, {}: by then every certificate in use came with both roots{}",
            when(file.unaware(live, now)),
            match live {
                LiveCertificates::Listed(_) =>
                    ". Copy bundle.pem to where the agents' --ca-root is",
                LiveCertificates::Unlisted { .. } => "",
            }
        ),
        [old, _] => format!(
            "`mesh-agent ca rotate retire`, {}: by then no certificate of {} is in use{}",
            when(file.of_old(live, now)),
            old.id,
            match live {
                LiveCertificates::Listed(_) =>
                    ". Before it, bundle.pem must be where the agents' --ca-root is",
                LiveCertificates::Unlisted { .. } => "",
            }
        ),
        _ => "nothing; a rotation begins with `mesh-agent ca rotate prepare`".to_owned(),
    }
}
