//! The files of the state directory, and what they mean together.

use serde::{Deserialize, Serialize};

use super::authority::{Authority, Record};
use super::errors::Error;
use super::store::{Stamp, Store};
use super::token::Token;
use crate::model::TrustDomain;

pub(super) const AUTHORITY: &str = "authority.json";
pub(super) const TOKENS: &str = "tokens.json";
pub(super) const REVOKED: &str = "revoked.json";
pub(super) const ISSUED: &str = "issued.jsonl";
/// What was signed, and what the commands did.
pub(super) const AUDIT: &str = "audit.jsonl";
/// What was refused: anybody can cause a line, so it is not in the trail above.
pub(super) const REFUSED: &str = "refused.jsonl";
/// Roots that workloads trust, for agents to pin.
pub(super) const BUNDLE: &str = "bundle.pem";
pub(super) const CRL: &str = "crl.pem";

#[derive(Serialize, Deserialize)]
pub(super) struct AuthorityFile {
    pub(super) trust_domain: String,
    /// Oldest first; two while they rotate.
    pub(super) authorities: Vec<Record>,
    pub(super) signing: String,
}

#[derive(Default, Serialize, Deserialize)]
pub(super) struct TokensFile {
    pub(super) tokens: Vec<Token>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Revoked {
    pub(super) serial: String,
    pub(super) at: u64,
    /// The certificate's end, after which it may be forgotten.
    pub(super) until: u64,
}

#[derive(Default, Serialize, Deserialize)]
pub(super) struct RevokedFile {
    pub(super) number: u64,
    pub(super) revoked: Vec<Revoked>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Issued {
    /// The token; empty where an earlier version wrote it.
    #[serde(default)]
    pub(super) caller: String,
    pub(super) serial: String,
    pub(super) identity: String,
    pub(super) node: String,
    pub(super) issuer: String,
    pub(super) issued: u64,
    pub(super) not_after: u64,
}

/// What one state of the files means.
pub(super) struct Loaded {
    pub(super) stamps: [Stamp; 2],
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

    pub(super) fn bundle(&self) -> String {
        self.authorities.iter().map(|a| a.root.as_str()).collect()
    }
}

pub(super) fn stamps(store: &Store) -> [Stamp; 2] {
    [AUTHORITY, TOKENS].map(|name| store.stamp(name))
}

pub(super) fn load(store: &Store) -> Result<Loaded, Error> {
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

pub(super) fn authority_file(store: &Store) -> Result<AuthorityFile, Error> {
    let file = store.read::<AuthorityFile>(AUTHORITY)?;
    file.ok_or_else(|| Error::Empty(store.path("")))
}
