//! The state without secrets, for people and programs.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use super::authority::Record;
use super::errors::Error;
use super::ops;
use super::state::{
    BUNDLE, CRL, ISSUED, Issued, REVOKED, RevokedFile, TOKENS, TokensFile, authority_file,
};
use super::store::Store;
use super::token::TokenState;
use super::units::{seconds, time};

/// One root, or given authority.
#[derive(Clone, Debug, Serialize)]
pub struct Root {
    pub id: String,
    pub signing: bool,
    pub added: String,
    /// When the first of its certificates, up to the root, ends.
    pub expires: String,
    pub expires_in_seconds: u64,
    pub live_certificates: usize,
    pub last_expires: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    pub trust_domain: String,
    pub authorities: Vec<Root>,
    /// Tokens that are good, expired, revoked.
    pub tokens: [usize; 3],
    pub revoked: Vec<String>,
    pub bundle: PathBuf,
    pub crl: PathBuf,
    /// What an operator does next of a rotation.
    pub next: String,
}

pub fn show(dir: &Path) -> Result<Shown, Error> {
    let store = Store::known(dir)?;
    let file = authority_file(&store)?;
    let now = seconds(SystemTime::now());
    let mut issued = store.lines::<Issued>(ISSUED)?;
    issued.retain(|i| i.not_after > now);
    let revoked = store.read::<RevokedFile>(REVOKED)?.unwrap_or_default();
    let tokens = store.read::<TokensFile>(TOKENS)?.unwrap_or_default();
    let count = |state| {
        tokens
            .tokens
            .iter()
            .filter(|t| t.state(now) == state)
            .count()
    };
    let root = |record: &Record| {
        let live = issued.iter().filter(|i| i.issuer == record.id);
        let ends = seconds(record.load()?.ends());
        Ok(Root {
            id: record.id.clone(),
            signing: record.id == file.signing,
            added: time(record.added),
            expires: time(ends),
            expires_in_seconds: ends.saturating_sub(now),
            live_certificates: live.clone().count(),
            last_expires: live.map(|i| i.not_after).max().map(time),
        })
    };
    let authorities: Result<_, Error> = file.authorities.iter().map(root).collect();
    Ok(Shown {
        authorities: authorities?,
        next: ops::next(&file, &issued),
        tokens: [TokenState::Valid, TokenState::Expired, TokenState::Revoked].map(count),
        revoked: revoked.revoked.into_iter().map(|r| r.serial).collect(),
        bundle: store.path(BUNDLE),
        crl: store.path(CRL),
        trust_domain: file.trust_domain,
    })
}
