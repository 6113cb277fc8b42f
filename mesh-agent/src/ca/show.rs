//! The state without secrets, for people and programs.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::Serialize;

use super::authority::Record;
use super::errors::Error;
use super::place::Place;
use super::records::{BUNDLE, CRL, REVOKED, RevokedFile, TOKENS};
use super::state::{TokensFile, authority_file, next};
use super::store::LiveCertificates;
use super::token::TokenState;
use super::units::{seconds, time};

/// One root, or given authority.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Root {
    pub(crate) id: String,
    pub(crate) signing: bool,
    pub(crate) added: String,
    /// When the first of its certificates, up to the root, ends.
    pub(crate) expires: String,
    pub(crate) expires_in_seconds: u64,
    /// Where they are listed.
    pub(crate) live_certificates: Option<usize>,
    pub(crate) last_expires: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Shown {
    pub(crate) trust_domain: String,
    pub(crate) authorities: Vec<Root>,
    /// Tokens that are good, expired, revoked.
    pub(crate) tokens: [usize; 3],
    pub(crate) revoked: Vec<String>,
    pub(crate) bundle: PathBuf,
    pub(crate) crl: PathBuf,
    /// What an operator does next of a rotation.
    pub(crate) next: String,
}

pub(crate) fn show(place: impl Into<Place>) -> Result<Shown, Error> {
    let store = place.into().known()?;
    let documents = store.read()?;
    let file = authority_file(&documents)?;
    let now = seconds(SystemTime::now());
    let live = store.live(now)?;
    let revoked = documents.get::<RevokedFile>(REVOKED)?.unwrap_or_default();
    let tokens = documents.get::<TokensFile>(TOKENS)?.unwrap_or_default();
    let count = |state| {
        tokens
            .tokens
            .iter()
            .filter(|t| t.state(now) == state)
            .count()
    };
    let root = |record: &Record| {
        let ends = seconds(record.load()?.ends());
        Ok(Root {
            id: record.id.clone(),
            signing: record.id == file.signing,
            added: time(record.added),
            expires: time(ends),
            expires_in_seconds: ends.saturating_sub(now),
            live_certificates: live.count(&record.id),
            last_expires: match live {
                LiveCertificates::Listed(_) => live.of_issuer(&record.id, 0, now).map(time),
                LiveCertificates::Unlisted { .. } => None,
            },
        })
    };
    let authorities: Result<_, Error> = file.authorities.iter().map(root).collect();
    Ok(Shown {
        authorities: authorities?,
        next: next(&file, &live, now),
        tokens: [TokenState::Valid, TokenState::Expired, TokenState::Revoked].map(count),
        revoked: revoked.revoked.into_iter().map(|r| r.serial).collect(),
        bundle: store.path(BUNDLE),
        crl: store.path(CRL),
        trust_domain: file.trust_domain,
    })
}
