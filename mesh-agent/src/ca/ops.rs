//! The commands that change the state, also of a running authority.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::audit::command as audit;
use super::authority::{Record, import, unhex};
use super::errors::Error;
use super::place::Place;
use super::publish::publish;
use super::records::{AUTHORITY, CRL, REVOKED, Revoked, RevokedFile, TOKENS};
use super::state::{AuthorityFile, TokensFile, authority_file, next};
use super::store::{Documents, LiveCertificates, Store};
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
pub(crate) enum Step {
    /// Adds a new root (given, or made) to what workloads trust.
    Prepare(Option<(PathBuf, PathBuf)>),
    /// Signs with the new root.
    Activate,
    /// Drops the old root.
    Retire,
}

/// A token that was made.
#[derive(Debug)]
pub(crate) struct NewToken {
    pub(crate) id: String,
    /// For the node; it is kept nowhere.
    pub(crate) text: String,
}

pub(crate) fn create_token(
    place: impl Into<Place>,
    node: &str,
    allowed: Vec<Allowed>,
    lifetime: Duration,
) -> Result<NewToken, Error> {
    let store = place.into().known()?;
    let now = seconds(SystemTime::now());
    let mut tokens = tokens_of(&store.read()?)?;
    forget(&mut tokens, now);
    if tokens.len() >= MAX_TOKENS {
        return Err(Error::TooManyTokens);
    }
    let (token, text) = Token::new(node.to_owned(), allowed, now, lifetime.as_secs());
    let id = token.id.clone();
    // Before it is: none is made that the trail does not know.
    audit(&*store, "token_created", &id)?;
    store.change(&mut |documents| {
        let mut tokens = tokens_of(documents)?;
        forget(&mut tokens, now);
        tokens.push(token.clone());
        documents.put(TOKENS, &TokensFile { tokens })
    })?;
    Ok(NewToken { id, text })
}

fn tokens_of(documents: &Documents) -> Result<Vec<Token>, Error> {
    let file = documents.get::<TokensFile>(TOKENS)?;
    Ok(file.unwrap_or_default().tokens)
}

/// Expired ones are known for a while, so that who shows one is told so; they
/// make room for new ones.
fn forget(tokens: &mut Vec<Token>, now: u64) {
    tokens.retain(|t| t.expires.saturating_add(KNOWN_EXPIRED) > now);
    if tokens.len() >= MAX_TOKENS {
        tokens.retain(|t| t.expires > now);
    }
}

pub(crate) fn list_tokens(place: impl Into<Place>) -> Result<Vec<Token>, Error> {
    tokens_of(&place.into().known()?.read()?)
}

pub(crate) fn revoke_token(place: impl Into<Place>, id: &str) -> Result<(), Error> {
    let store = place.into().known()?;
    store.change(&mut |documents| {
        let mut tokens = tokens_of(documents)?;
        let token = tokens.iter_mut().find(|t| t.id == id);
        token.ok_or_else(|| Error::NoToken(id.to_owned()))?.revoked = true;
        documents.put(TOKENS, &TokensFile { tokens })
    })?;
    let done = format!("token {id} is revoked");
    follows(&done, audited(&*store, "token_revoked", id), UNWRITTEN)
}

/// Nothing that the command is for.
const UNWRITTEN: &str = "mend what the message names; what was done stays done";
const UNPUBLISHED: &str = "mend what the message names, then start `mesh-agent ca run` again: it publishes at its start; `mesh-agent ca show` says what is next";
const REVOKE_AGAIN: &str =
    "mend what the message names, then run this command again: it publishes again";

/// What follows a change that is made. Where it fails, the change is made all
/// the same: the error says so.
fn follows<T>(done: &str, following: Result<T, String>, remedy: &'static str) -> Result<T, Error> {
    following.map_err(|failed| Error::Half {
        done: done.to_owned(),
        failed,
        remedy,
    })
}

fn published(store: &dyn Store, now: SystemTime) -> Result<String, String> {
    let failed = |e| format!("bundle.pem and crl.pem are not published anew: {e}");
    publish(store, now).map_err(failed)
}

fn audited(store: &dyn Store, event: &str, what: &str) -> Result<(), String> {
    let failed = |e| format!("the audit trail does not say so: {e}");
    audit(store, event, what).map_err(failed)
}

/// What a step of a rotation did, and what comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rotated {
    pub(crate) done: String,
    pub(crate) next: String,
}

pub(crate) fn rotate(place: impl Into<Place>, step: &Step, force: bool) -> Result<Rotated, Error> {
    let store = place.into().known()?;
    let now = SystemTime::now();
    let live = store.live(seconds(now))?;
    let mut rotated = Err(Error::Stage("nothing was changed"));
    store.change(&mut |documents| {
        let mut file = authority_file(documents)?;
        let done = take(step, &mut file, &live, force, now)?;
        documents.put(AUTHORITY, &file)?;
        let next = next(&file, &live, seconds(now));
        rotated = Ok(Rotated { done, next });
        Ok(())
    })?;
    let rotated = rotated?;
    let audited = audited(&*store, "rotated", &format!("{step:?}"));
    follows(&rotated.done, published(&*store, now), UNPUBLISHED)?;
    follows(&rotated.done, audited, UNWRITTEN)?;
    Ok(rotated)
}

/// Takes the step, and says what it did.
fn take(
    step: &Step,
    file: &mut AuthorityFile,
    live: &LiveCertificates,
    force: bool,
    now: SystemTime,
) -> Result<String, Error> {
    let (blocking, done) = match step {
        Step::Prepare(given) => {
            let new = prepare(file, given.as_ref(), now)?;
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
            let blocking = file.unaware(live, seconds(now));
            let new = new.id.clone();
            file.signing.clone_from(&new);
            file.signing_since = seconds(now);
            (blocking, format!("authority {new} signs now"))
        }
        Step::Retire => {
            let [old, new] = &file.authorities[..] else {
                return Err(Error::Stage("there is only one root"));
            };
            if file.signing != new.id {
                return Err(Error::Stage("the new root does not sign yet"));
            }
            let blocking = file.of_old(live, seconds(now));
            let old = old.id.clone();
            file.authorities.retain(|a| a.id != old);
            let done =
                format!("authority {old} is forgotten: nothing that it signed is trusted any more");
            (blocking, done)
        }
    };
    match blocking.filter(|_| !force) {
        Some(until) => Err(Error::TooEarly(time(until))),
        None => Ok(done),
    }
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
pub(crate) fn revoke(
    place: impl Into<Place>,
    serial: &str,
    force: bool,
    out: Option<&Path>,
) -> Result<PathBuf, Error> {
    let store = place.into().known()?;
    let (now, serial) = (SystemTime::now(), serial.replace(':', "").to_lowercase());
    unhex(&serial).ok_or_else(|| Error::NotASerial(serial.clone()))?;
    let until = ends(&store.live(seconds(now))?, &serial, force, seconds(now))?;
    store.change(&mut |documents| {
        let mut file = documents.get::<RevokedFile>(REVOKED)?.unwrap_or_default();
        if !file.revoked.iter().any(|r| r.serial == serial) {
            file.revoked.push(Revoked {
                serial: serial.clone(),
                at: seconds(now),
                until,
            });
        }
        documents.put(REVOKED, &file)
    })?;
    let done = format!("{serial} is revoked");
    let audited = audited(&*store, "revoked", &serial);
    let lists = follows(&done, published(&*store, now), REVOKE_AGAIN)?;
    if let Some(out) = out {
        let failed = |e| format!("the list is not copied to {}: {e}", out.display());
        follows(&done, replace(&lists, out).map_err(failed), REVOKE_AGAIN)?;
    }
    follows(&done, audited, UNWRITTEN)?;
    Ok(out.map_or(store.path(CRL), Path::to_owned))
}

/// When the certificate ends that is to be revoked.
fn ends(live: &LiveCertificates, serial: &str, force: bool, now: u64) -> Result<u64, Error> {
    let issued = match live {
        LiveCertificates::Listed(issued) => issued,
        LiveCertificates::Unlisted { longest, stale } => return Ok(now + longest + stale),
    };
    match issued.iter().find(|i| i.serial == serial) {
        Some(issued) => Ok(issued.not_after),
        None if force => Ok(now + UNKNOWN_LIFETIME),
        None => Err(Error::UnknownSerial(serial.to_owned())),
    }
}

/// Whole or not at all: an agent may look at any moment.
fn replace(text: &str, to: &Path) -> std::io::Result<()> {
    let mut draft = to.as_os_str().to_owned();
    draft.push(".new");
    std::fs::write(&draft, text)?;
    std::fs::File::open(&draft)?.sync_all()?;
    std::fs::rename(&draft, to)
}
