//! Where the state is kept: a directory, or a Secret of the cluster. What is kept
//! there and what it means is said once, in `state`; here it is read and written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::errors::Error;
use super::records::Issued;

/// Of a file: each write makes a new inode.
pub(super) type FileStamp = Option<(u64, u64, i64, i64)>;

/// Another one after each change of what the authority needs to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stamp {
    Files([FileStamp; 2]),
    Version(Arc<str>),
}

/// Which log a line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Log {
    /// What was signed, and what the commands did.
    Audit,
    /// What was refused: anybody can cause a line, so it is not in the trail above.
    Refused,
}

/// What is known of the certificates that live.
pub(super) enum LiveCertificates {
    Listed(Vec<Issued>),
    /// Nobody lists those of all replicas. But none outlives its issue by
    /// `longest`, and none is signed by a state that is `stale` old; in seconds.
    Unlisted {
        longest: u64,
        stale: u64,
    },
}

/// From one state to the next. Made again where somebody else was faster.
pub(super) type Change<'a> = dyn FnMut(&mut Documents) -> Result<(), Error> + 'a;

/// All of it blocks: for threads that may.
pub(super) trait Store: Send + Sync {
    fn stamp(&self) -> Result<Stamp, Error>;

    fn read(&self) -> Result<Documents, Error>;

    /// Of the newest state, and without another change in between.
    fn change(&self, change: &mut Change<'_>) -> Result<(), Error>;

    /// One more certificate, which lives.
    fn remember(&self, issued: &Issued) -> Result<(), Error>;

    /// Forgets what has expired; the callers of what lives on, one for each.
    fn forget_expired(&self, now: u64) -> Result<Vec<String>, Error>;

    /// The callers of all that is remembered, one for each.
    fn callers(&self) -> Result<Vec<String>, Error>;

    fn live(&self, now: u64) -> Result<LiveCertificates, Error>;

    /// One line; it is kept when this returns.
    fn write_down(&self, log: Log, line: &[u8]) -> Result<(), Error>;

    /// For people.
    fn path(&self, name: &str) -> PathBuf;

    /// Held while an authority runs, where only one may.
    fn begin_to_run(&self) -> Result<Box<dyn Send>, Error>;
}

/// What is kept, by name, and what a change writes.
pub(super) struct Documents {
    place: PathBuf,
    held: BTreeMap<String, Zeroizing<Vec<u8>>>,
    changed: BTreeSet<String>,
}

impl Documents {
    pub(super) fn new(place: PathBuf, held: BTreeMap<String, Zeroizing<Vec<u8>>>) -> Self {
        Self {
            place,
            held,
            changed: BTreeSet::new(),
        }
    }

    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    /// None when it was never written.
    pub(super) fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let Some(text) = self.held.get(name) else {
            return Ok(None);
        };
        let parsed = serde_json::from_slice(text);
        parsed.map(Some).map_err(|error| Error::Broken {
            path: self.place.join(name),
            error,
        })
    }

    pub(super) fn put<T: Serialize>(&mut self, name: &str, value: &T) -> Result<(), Error> {
        let path = self.place.join(name);
        let text = serde_json::to_vec_pretty(value);
        let text = text.map_err(|error| Error::Broken { path, error })?;
        self.put_bytes(name, text);
        Ok(())
    }

    pub(super) fn put_bytes(&mut self, name: &str, bytes: Vec<u8>) {
        self.held.insert(name.to_owned(), Zeroizing::new(bytes));
        self.changed.insert(name.to_owned());
    }

    pub(super) fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// What was left as it is.
    pub(super) fn rest(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let rest = self
            .held
            .iter()
            .filter(|(name, _)| !self.changed.contains(*name));
        rest.map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    /// What is to be written, in the order of `names`.
    pub(super) fn changes<'a>(
        &'a self,
        names: &'a [&str],
    ) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let changed = names.iter().filter(|name| self.changed.contains(**name));
        changed.filter_map(|name| Some((*name, self.held.get(*name)?.as_slice())))
    }
}
