//! What is kept, by name.

use serde::{Deserialize, Serialize};

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
