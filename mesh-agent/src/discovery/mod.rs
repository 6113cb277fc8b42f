//! Configuration from Kubernetes objects, in a directory of YAML or the API.
//!
//! `directory` is one source: `files` reads it, `documents` takes it apart; `api`
//! is the other. What an object says is read the same way wherever it is from:
//! `core` reads what there is, `policies` parses strictly, each by the table of
//! `kinds`. `store` makes the snapshot of what changed, `publish` puts it in force. Invariants: every
//! mistake is reported in one pass with its origin and field; a place that does
//! not parse leaves what it said before in force; what is not understood never
//! makes a pod "not enrolled"; a change costs what it touches.

mod api;
mod book;
mod check;
mod convert;
mod core;
mod directory;
mod documents;
mod fields;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod held;
mod intern;
mod kinds;
mod last_good;
mod lint;
mod locate;
mod looked;
mod objects;
mod origin;
mod policies;
mod problem;
mod publish;
mod source;
mod stat;
mod store;
#[cfg(test)]
mod tests;
mod tree;
mod verdict;
mod watcher;

pub(crate) use api::{Api, ApiConfig, ApiState, KindRow, Watched, copies};
#[cfg(test)]
pub(crate) use api::{ApiAway, reference, role_rules};
pub(crate) use book::{Book, Closed};
pub(crate) use check::Checked;
pub(crate) use check::check;
pub(crate) use convert::Converted;
pub(crate) use directory::Directory;
#[cfg(test)]
pub(crate) use documents::parse;
pub(crate) use files::Error;
pub(crate) use held::Held;
#[cfg(test)]
pub(crate) use kinds::{KindId, definition, fields_page};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use objects::Object;
pub(crate) use problem::{Code, Problem, Severity};
pub(crate) use publish::Update;
pub(crate) use source::{ConfigSource, Heard};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use store::build;
pub(crate) use verdict::{mistakes, without_effect};
