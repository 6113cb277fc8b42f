//! The commands that change the state, also of a running authority.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::authority::{Record, unhex};
use super::store::Store;
use super::{
    AUDIT, AUTHORITY, Allowed, AuthorityFile, BUNDLE, CRL, Error, ISSUED, Issued, REVOKED, Revoked,
    RevokedFile, TOKENS, Token, TokensFile, authority_file, import, load, seconds, time,
};
use crate::model::TrustDomain;

const MAX_TOKENS: usize = 10_000;
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

#[derive(Serialize)]
struct Command<'a> {
    time: String,
    event: &'a str,
    what: &'a str,
}

fn audit(store: &Store, event: &str, what: &str) -> Result<(), Error> {
    let time = time(seconds(SystemTime::now()));
    store.append(AUDIT, &Command { time, event, what })
}

/// The token's text, which is kept nowhere.
pub fn create_token(
    dir: &Path,
    node: &str,
    allowed: Vec<Allowed>,
    lifetime: Duration,
) -> Result<String, Error> {
    let store = Store::open(dir)?;
    let _lock = store.lock()?;
    let now = seconds(SystemTime::now());
    let mut file = store.read::<TokensFile>(TOKENS)?.unwrap_or_default();
    file.tokens.retain(|t| t.expires > now);
    if file.tokens.len() >= MAX_TOKENS {
        return Err(Error::TooManyTokens);
    }
    let (token, text) = Token::new(node.to_owned(), allowed, now, lifetime.as_secs());
    audit(&store, "token_created", &token.id)?;
    file.tokens.push(token);
    store.write(TOKENS, &file)?;
    Ok(text)
}

pub fn list_tokens(dir: &Path) -> Result<Vec<Token>, Error> {
    let file = Store::open(dir)?.read::<TokensFile>(TOKENS)?;
    Ok(file.unwrap_or_default().tokens)
}

pub fn revoke_token(dir: &Path, id: &str) -> Result<(), Error> {
    let store = Store::open(dir)?;
    let _lock = store.lock()?;
    let mut file = store.read::<TokensFile>(TOKENS)?.unwrap_or_default();
    let token = file.tokens.iter_mut().find(|t| t.id == id);
    token.ok_or_else(|| Error::NoToken(id.to_owned()))?.revoked = true;
    store.write(TOKENS, &file)?;
    audit(&store, "token_revoked", id)
}

/// State without secrets.
pub fn show(dir: &Path) -> Result<serde_json::Value, Error> {
    let store = Store::open(dir)?;
    let file = authority_file(&store)?;
    let now = seconds(SystemTime::now());
    let mut issued = store.lines::<Issued>(ISSUED)?;
    issued.retain(|i| i.not_after > now);
    let revoked = store.read::<RevokedFile>(REVOKED)?.unwrap_or_default();
    let authorities: Vec<_> = file
        .authorities
        .iter()
        .map(|a| {
            let live = issued.iter().filter(|i| i.issuer == a.id);
            serde_json::json!({
                "id": a.id,
                "signing": a.id == file.signing,
                "added": time(a.added),
                "live_certificates": live.clone().count(),
                "last_expires": live.map(|i| i.not_after).max().map(time),
            })
        })
        .collect();
    Ok(serde_json::json!({
        "trust_domain": file.trust_domain,
        "authorities": authorities,
        "revoked": revoked.revoked.iter().map(|r| &r.serial).collect::<Vec<_>>(),
        "bundle": store.path(BUNDLE),
        "crl": store.path(CRL),
    }))
}

pub fn rotate(dir: &Path, step: &Step, force: bool) -> Result<(), Error> {
    let store = Store::open(dir)?;
    let _lock = store.lock()?;
    let now = SystemTime::now();
    let mut file = authority_file(&store)?;
    let issued = store.lines::<Issued>(ISSUED)?;
    let live = issued.iter().filter(|i| i.not_after > seconds(now));
    let blocking: Option<u64> = match step {
        Step::Prepare(given) => {
            prepare(&mut file, given.as_ref(), now)?;
            None
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
            file.signing = new;
            live.filter(|i| i.issued <= before)
                .map(|i| i.not_after)
                .max()
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
            live.filter(|i| i.issuer == old).map(|i| i.not_after).max()
        }
    };
    if let Some(until) = blocking.filter(|_| !force) {
        return Err(Error::TooEarly(time(until)));
    }
    store.write(AUTHORITY, &file)?;
    publish(&store, now)?;
    audit(&store, "rotated", &format!("{step:?}"))
}

fn prepare(
    file: &mut AuthorityFile,
    given: Option<&(PathBuf, PathBuf)>,
    now: SystemTime,
) -> Result<(), Error> {
    if file.authorities.len() != 1 {
        return Err(Error::Stage("a rotation is under way already"));
    }
    let domain = TrustDomain::new(&file.trust_domain)
        .map_err(|_| Error::OtherTrustDomain(file.trust_domain.clone()))?;
    file.authorities.push(match given {
        Some((chain, key)) => import(chain, key, now)?,
        None => Record::generate(&domain, now)?,
    });
    Ok(())
}

/// Where the revocation list is.
pub fn revoke(dir: &Path, serial: &str, force: bool, out: Option<&Path>) -> Result<PathBuf, Error> {
    let store = Store::open(dir)?;
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
    publish(&store, now)?;
    audit(&store, "revoked", &serial)?;
    let path = store.path(CRL);
    if let Some(out) = out {
        std::fs::copy(&path, out).map_err(|error| Error::Io {
            path: out.to_owned(),
            error,
        })?;
        return Ok(out.to_owned());
    }
    Ok(path)
}

/// Writes the bundle and the revocation lists anew. The lock is held.
pub(super) fn publish(store: &Store, now: SystemTime) -> Result<(), Error> {
    let loaded = load(store)?;
    let mut file = store.read::<RevokedFile>(REVOKED)?.unwrap_or_default();
    file.number += 1;
    // A little longer than the certificate, as clocks differ.
    file.revoked.retain(|r| r.until + 3600 > seconds(now));
    let revoked: Vec<_> = file
        .revoked
        .iter()
        .map(|r| (r.serial.clone(), r.at))
        .collect();
    let lists: Vec<String> = loaded
        .authorities
        .iter()
        .map(|a| a.sign_crl(&revoked, file.number, now))
        .collect::<Result<_, _>>()?;
    store.write(REVOKED, &file)?;
    store.write_bytes(CRL, lists.concat().as_bytes())?;
    store.write_bytes(BUNDLE, loaded.bundle().as_bytes())
}
