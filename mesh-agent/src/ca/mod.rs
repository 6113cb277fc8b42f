//! The embedded certificate authority: signs the certificates of workloads for
//! agents that may have them. Speaks Istio's certificate service over TLS.
//!
//! State is a directory (`store`); commands change it while the authority
//! runs, and each request sees the newest. `authority` signs, `csr` reads
//! requests, `token` says who calls, `server` serves, `ops` are the commands.
//!
//! `audit` writes down what was done, `book` and `seats` keep one caller from
//! taking all of it, `metrics` and `show` tell how it is.
//!
//! Never: a certificate without a line in the audit log, for an identity that
//! the caller's node may not have, or from state with wrong permissions.

mod audit;
mod authority;
mod book;
mod calls;
mod cluster;
mod connection;
mod csr;
mod errors;
mod files;
mod handle;
mod limit;
mod metrics;
mod ops;
mod place;
mod publish;
mod records;
mod refusals;
mod report_calls;
mod reports;
mod seats;
mod served;
mod server;
mod show;
mod signer;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod token;
mod tokens;
mod units;

pub(crate) use cluster::{Account, Cluster, NotAnAccount, STALE, in_cluster};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use csr::fuzz as fuzz_request;
pub(crate) use errors::Error;
#[cfg(test)]
pub(crate) use errors::Refusal;
pub(crate) use handle::{Handle, Trouble};
pub(crate) use ops::{Step, create_token, list_tokens, revoke, revoke_token, rotate};
pub(crate) use place::Place;
pub(crate) use reports::Reports;
pub(crate) use server::run;
pub(crate) use show::{Shown, show};
pub(crate) use signer::Config;
#[cfg(test)]
pub(crate) use tests::{reference_page, refusals, request_seeds};
#[cfg(test)]
pub(crate) use token::Caller;
pub(crate) use token::{Allowed, NotAllowed, Token, TokenState};
