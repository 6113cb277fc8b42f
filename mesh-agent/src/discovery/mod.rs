//! Configuration from a directory of Kubernetes YAML.
//!
//! `objects` parses documents strictly, `build` makes the snapshot, this file
//! watches the directory. Invariants: every mistake is reported in one pass
//! with file, line and field; a file that does not parse leaves what it said
//! before in force; what is not understood never makes a pod "not enrolled".

mod build;
mod documents;
mod kinds;
mod objects;
mod policies;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use notify::Watcher as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::model::Snapshot;
use crate::model::policy::MeshSettings;
use crate::policy;
pub use build::build;
pub use documents::parse;
pub use objects::Object;

/// Editors write a file in several steps.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Looks again without an event: inotify instances may be used up.
const POLL: Duration = Duration::from_secs(10);

/// One mistake in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    pub file: PathBuf,
    /// First line of the document, or the line of a syntax error.
    pub line: u64,
    /// `Kind namespace/name`; empty where the document did not get that far.
    pub object: String,
    /// Path of the field, for example `spec.ports[0].port`.
    pub field: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file.display(), self.line)?;
        if !self.object.is_empty() {
            write!(f, "{}: ", self.object)?;
        }
        if !self.field.is_empty() && self.field != "." {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// What is in force: a snapshot and the policies compiled from it.
#[derive(Clone, Debug, Default)]
pub struct Published {
    pub snapshot: Arc<Snapshot>,
    pub policy: Arc<policy::Engine>,
}

/// A new state of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Update {
    pub snapshot: Arc<Snapshot>,
    pub policy: Arc<policy::Engine>,
    pub problems: Arc<[Problem]>,
}

/// What each file said when it last parsed.
type Files = BTreeMap<PathBuf, (Vec<u8>, Vec<Object>)>;

/// A watched directory.
pub struct Directory {
    dir: PathBuf,
    files: Files,
    settings: MeshSettings,
    pub published: Arc<ArcSwap<Published>>,
    sender: watch::Sender<Update>,
}

/// The directory cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the configuration directory {dir}: {source}")]
pub struct Error {
    dir: PathBuf,
    source: std::io::Error,
}

impl Directory {
    /// Loads once; mistakes in files are problems of the update, not errors.
    pub fn start(
        dir: PathBuf,
        settings: MeshSettings,
    ) -> Result<(Self, watch::Receiver<Update>), Error> {
        let (sender, updates) = watch::channel(Update::default());
        let mut directory = Self {
            dir,
            files: Files::new(),
            settings,
            published: Arc::default(),
            sender,
        };
        directory.load()?;
        Ok((directory, updates))
    }

    /// Follows changes until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        let (changed, mut changes) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |_| {
            // Full means that a look is due already.
            let _due = changed.try_send(());
        });
        let watcher = watcher.and_then(|mut w| {
            w.watch(&self.dir, notify::RecursiveMode::NonRecursive)?;
            Ok(w)
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "cannot watch the configuration directory; looking every {POLL:?}");
        }
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(()) = changes.recv() => tokio::time::sleep(DEBOUNCE).await,
                () = tokio::time::sleep(POLL) => {}
            }
            if let Err(error) = self.load() {
                tracing::error!(%error, "keeping the last configuration");
            }
        }
    }

    fn load(&mut self) -> Result<(), Error> {
        let found = read_files(&self.dir).map_err(|source| Error {
            dir: self.dir.clone(),
            source,
        })?;
        let mut problems = Vec::new();
        let mut files = Files::new();
        for (path, text) in found {
            let (objects, mut found) = parse(&path, &text);
            // A file with a mistake keeps each object's last good version.
            let objects = if found.is_empty() {
                objects
            } else {
                let before = self.files.remove(&path).map(|(_, objects)| objects);
                keep_last_good(objects, before.unwrap_or_default())
            };
            problems.append(&mut found);
            files.insert(path, (text, objects));
        }
        self.files = files;
        let objects = self.files.iter().flat_map(|(_, (_, objects))| objects);
        let before = self.published.load_full();
        let (mut snapshot, mut found) = build(objects);
        problems.append(&mut found);
        snapshot.settings = self.settings.clone();
        snapshot.generation = before.snapshot.generation;
        let changed = snapshot.generation == 0 || !snapshot.same_content(&before.snapshot);
        if changed {
            snapshot.generation += 1;
        }
        let policy = if changed {
            Arc::new(policy::Engine::compile(&snapshot))
        } else {
            before.policy.clone()
        };
        let published = Published {
            snapshot: Arc::new(snapshot),
            policy,
        };
        self.published.store(Arc::new(published.clone()));
        self.sender.send_replace(Update {
            snapshot: published.snapshot,
            policy: published.policy,
            problems: problems.into(),
        });
        Ok(())
    }
}

/// Objects that parse now, and the former version of those that do not;
/// of policies what restricts, never a grant.
fn keep_last_good(now: Vec<Object>, before: Vec<Object>) -> Vec<Object> {
    let mut kept = now;
    for mut object in before {
        policies::restrict(&mut object);
        if !kept.iter().any(|o| o.name() == object.name()) {
            kept.push(object);
        }
    }
    kept
}

/// Every mistake in `dir`, for `mesh-agent check-config`.
pub fn check(dir: &Path) -> Result<Vec<Problem>, Error> {
    let (_, updates) = Directory::start(dir.to_owned(), MeshSettings::default())?;
    Ok(updates.borrow().problems.to_vec())
}

fn read_files(dir: &Path) -> std::io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let yaml = path
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if yaml && path.is_file() {
            files.push((path.clone(), std::fs::read(&path)?));
        }
    }
    files.sort();
    Ok(files)
}
