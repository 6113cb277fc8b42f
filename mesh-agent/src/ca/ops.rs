//! The commands that change the state, also of a running authority.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::audit::command as audit;
use super::authority::{Record, import, unhex};
use super::errors::Error;
use super::publish::publish;
use super::state::{
    AUTHORITY, AuthorityFile, CRL, ISSUED, Issued, REVOKED, Revoked, RevokedFile, TOKENS,
    TokensFile, authority_file,
};
use super::store::Store;
use super::token::{Allowed, Token};
use super::units::{seconds, time};
use crate::model::TrustDomain;

const MAX_TOKENS: usize = 10_000;
/// How long an expired token is still known as such.
const KNOWN_EXPIRED: u64 = 90 * 24 * 3600;
/// How long a forced revocation of an unknown certificate is kept.
const UNKNOWN_LIFETIME: u64 = 30 * 24 * 3600;

/// Of a rotation from A over A+B to B.
#[derive(Clone, Debug)]
pub enum Step {
    /// Adds a new root (given, or made) to what workloads trust.
    Prepare(Option<(PathBuf, PathBuf)>),
    /// Signs with the new root.
    Activate,
    /// Drops the old root.
    Retire,
}

/// A token that was made.
#[derive(Debug)]
pub struct NewToken {
    pub id: String,
    /// For the node; it is kept nowhere.
    pub text: String,
}

pub fn create_token(
    dir: &Path,
    node: &str,
    allowed: Vec<Allowed>,
    lifetime: Duration,
) -> Result<NewToken, Error> {
    let store = Store::known(dir)?;
    let _lock = store.lock()?;
    let now = seconds(SystemTime::now());
    let mut file = store.read::<TokensFile>(TOKENS)?.unwrap_or_default();
    forget(&mut file.tokens, now);
    if file.tokens.len() >= MAX_TOKENS {
        return Err(Error::TooManyTokens);
    }
    let (token, text) = Token::new(node.to_owned(), allowed, now, lifetime.as_secs());
    let id = token.id.clone();
    audit(&store, "token_created", &id)?;
    file.tokens.push(token);
    store.write(TOKENS, &file)?;
    Ok(NewToken { id, text })
}

/// Expired ones are known for a while, so that who shows one is told so; they
/// make room for new ones.
fn forget(tokens: &mut Vec<Token>, now: u64) {
    tokens.retain(|t| t.expires.saturating_add(KNOWN_EXPIRED) > now);
    if tokens.len() >= MAX_TOKENS {
        tokens.retain(|t| t.expires > now);
    }
}

pub fn list_tokens(dir: &Path) -> Result<Vec<Token>, Error> {
    let file = Store::known(dir)?.read::<TokensFile>(TOKENS)?;
    Ok(file.unwrap_or_default().tokens)
}

pub fn revoke_token(dir: &Path, id: &str) -> Result<(), Error> {
    let store = Store::known(dir)?;
    let _lock = store.lock()?;
    let mut file = store.read::<TokensFile>(TOKENS)?.unwrap_or_default();
    let token = file.tokens.iter_mut().find(|t| t.id == id);
    token.ok_or_else(|| Error::NoToken(id.to_owned()))?.revoked = true;
    store.write(TOKENS, &file)?;
    let done = format!("token {id} is revoked");
    follows(&done, audited(&store, "token_revoked", id), UNWRITTEN)
}

/// Nothing that the command is for.
const UNWRITTEN: &str = "mend what the message names; what was done stays done";
const UNPUBLISHED: &str = "mend what the message names, then start `mesh-agent ca run` again: it publishes at its start; `mesh-agent ca show` says what is next";
const REVOKE_AGAIN: &str =
    "mend what the message names, then run this command again: it publishes again";

/// What follows a change that is made. Where it fails, the change is made all
/// the same: the error says so.
fn follows(done: &str, following: Result<(), String>, remedy: &'static str) -> Result<(), Error> {
    following.map_err(|failed| Error::Half {
        done: done.to_owned(),
        failed,
        remedy,
    })
}

fn published(store: &Store, now: SystemTime) -> Result<(), String> {
    let failed = |e| format!("bundle.pem and crl.pem are not published anew: {e}");
    publish(store, now).map_err(failed)
}

fn audited(store: &Store, event: &str, what: &str) -> Result<(), String> {
    let failed = |e| format!("the audit trail does not say so: {e}");
    audit(store, event, what).map_err(failed)
}

/// What a step of a rotation did, and what comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    pub done: String,
    pub next: String,
}

/// What an operator does next. `issued`: live certificates.
pub(super) fn next(file: &AuthorityFile, issued: &[Issued]) -> String {
    let when = |until: Option<u64>| match until {
        Some(until) => format!("from {} on", time(until)),
        None => "at once".to_owned(),
    };
    match &file.authorities[..] {
        [old, new] if file.signing == old.id => format!(
            "`mesh-agent ca rotate activate`, {}: by then every certificate in use came with both roots. Copy bundle.pem to where the agents' --ca-root is",
            when(unaware(issued, new.added))
        ),
        [old, _] => format!(
            "`mesh-agent ca rotate retire`, {}: by then no certificate of {} is in use. Before it, bundle.pem must be where the agents' --ca-root is",
            when(of_issuer(issued, &old.id)),
            old.id
        ),
        _ => "nothing; a rotation begins with `mesh-agent ca rotate prepare`".to_owned(),
    }
}

/// When the last certificate ends whose holder may not know a root added then.
fn unaware(issued: &[Issued], added: u64) -> Option<u64> {
    let before = issued.iter().filter(|i| i.issued <= added);
    before.map(|i| i.not_after).max()
}

fn of_issuer(issued: &[Issued], issuer: &str) -> Option<u64> {
    let of = issued.iter().filter(|i| i.issuer == issuer);
    of.map(|i| i.not_after).max()
}

pub fn rotate(dir: &Path, step: &Step, force: bool) -> Result<Rotated, Error> {
    let store = Store::known(dir)?;
    let _lock = store.lock()?;
    let now = SystemTime::now();
    let mut file = authority_file(&store)?;
    let mut live = store.lines::<Issued>(ISSUED)?;
    live.retain(|i| i.not_after > seconds(now));
    let (blocking, done) = match step {
        Step::Prepare(given) => {
            let new = prepare(&mut file, given.as_ref(), now)?;
            (
                None,
                format!("authority {new} is known: workloads trust it from their next renewal on"),
            )
        }
        Step::Activate => {
            let [_, new] = &file.authorities[..] else {
                return Err(Error::Stage("nothing is prepared"));
            };
            if file.signing == new.id {
                return Err(Error::Stage("the new root signs already"));
            }
            // Who got a certificate before the new root was known may not know it yet.
            let (before, new) = (new.added, new.id.clone());
            file.signing.clone_from(&new);
            (unaware(&live, before), format!("authority {new} signs now"))
        }
        Step::Retire => {
            let [old, new] = &file.authorities[..] else {
                return Err(Error::Stage("there is only one root"));
            };
            if file.signing != new.id {
                return Err(Error::Stage("the new root does not sign yet"));
            }
            let old = old.id.clone();
            file.authorities.retain(|a| a.id != old);
            let done =
                format!("authority {old} is forgotten: nothing that it signed is trusted any more");
            (of_issuer(&live, &old), done)
        }
    };
    if let Some(until) = blocking.filter(|_| !force) {
        return Err(Error::TooEarly(time(until)));
    }
    store.write(AUTHORITY, &file)?;
    let audited = audited(&store, "rotated", &format!("{step:?}"));
    follows(&done, published(&store, now), UNPUBLISHED)?;
    follows(&done, audited, UNWRITTEN)?;
    let next = next(&file, &live);
    Ok(Rotated { done, next })
}

fn prepare(
    file: &mut AuthorityFile,
    given: Option<&(PathBuf, PathBuf)>,
    now: SystemTime,
) -> Result<String, Error> {
    if file.authorities.len() != 1 {
        return Err(Error::Stage("a rotation is under way already"));
    }
    let domain = TrustDomain::new(&file.trust_domain)
        .map_err(|_| Error::OtherTrustDomain(file.trust_domain.clone()))?;
    let record = match given {
        Some((chain, key)) => import(chain, key, now)?,
        None => Record::generate(&domain, now)?,
    };
    let id = record.id.clone();
    file.authorities.push(record);
    Ok(id)
}

/// Where the revocation list is.
pub fn revoke(dir: &Path, serial: &str, force: bool, out: Option<&Path>) -> Result<PathBuf, Error> {
    let store = Store::known(dir)?;
    let _lock = store.lock()?;
    let (now, serial) = (SystemTime::now(), serial.replace(':', "").to_lowercase());
    unhex(&serial).ok_or_else(|| Error::NotASerial(serial.clone()))?;
    let issued = store.lines::<Issued>(ISSUED)?;
    let known = issued
        .iter()
        .find(|i| i.serial == serial && i.not_after > seconds(now));
    let until = match known {
        Some(issued) => issued.not_after,
        None if force => seconds(now) + UNKNOWN_LIFETIME,
        None => return Err(Error::UnknownSerial(serial)),
    };
    let mut file = store.read::<RevokedFile>(REVOKED)?.unwrap_or_default();
    if !file.revoked.iter().any(|r| r.serial == serial) {
        let at = seconds(now);
        let revoked = Revoked {
            serial: serial.clone(),
            at,
            until,
        };
        file.revoked.push(revoked);
    }
    store.write(REVOKED, &file)?;
    let done = format!("{serial} is revoked");
    let audited = audited(&store, "revoked", &serial);
    follows(&done, published(&store, now), REVOKE_AGAIN)?;
    let path = store.path(CRL);
    if let Some(out) = out {
        let copied = replace(&path, out);
        let failed = |e| format!("the list is not copied to {}: {e}", out.display());
        follows(&done, copied.map_err(failed), REVOKE_AGAIN)?;
    }
    follows(&done, audited, UNWRITTEN)?;
    Ok(out.map_or(path, Path::to_owned))
}

/// Whole or not at all: an agent may look at any moment.
fn replace(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut draft = to.as_os_str().to_owned();
    draft.push(".new");
    std::fs::copy(from, &draft)?;
    std::fs::File::open(&draft)?.sync_all()?;
    std::fs::rename(&draft, to)
}
