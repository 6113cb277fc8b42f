//! Configuration from a directory of Kubernetes YAML.
//!
//! `files` reads the directory, `documents` takes it apart, `core` reads what
//! Kubernetes writes, `policies` parses strictly, `build` makes the snapshot, this file watches and publishes. Invariants: every mistake is reported in one pass
//! with file, line and field; a file that does not parse leaves what it said
//! before in force; what is not understood never makes a pod "not enrolled".

mod build;
mod check;
mod core;
mod documents;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod kinds;
mod lint;
mod locate;
mod objects;
mod policies;
mod problem;
#[cfg(test)]
mod tests;
mod tree;
mod watcher;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::model::Snapshot;
use crate::model::policy::MeshSettings;
use crate::plan::InForce;
use crate::policy;
pub use build::build;
pub use check::{Checked, check};
pub use documents::parse;
pub use files::Error;
use files::Files;
use lint::lint;
pub use objects::Object;
pub use problem::{Code, Problem, Severity};

/// Editors write a file in several steps.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Looks again without an event: inotify instances may be used up.
const POLL: Duration = Duration::from_secs(10);

/// A new state of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Update {
    pub snapshot: Arc<Snapshot>,
    pub policy: Arc<policy::Engine>,
    /// Errors and warnings.
    pub problems: Arc<[Problem]>,
    /// Objects of kinds that are not ours: passed over.
    pub skipped: usize,
}

impl Update {
    /// What policies do not do, where no mistake of theirs says so.
    pub fn policy_problems(&self) -> impl Iterator<Item = String> {
        let told = |name: &str| {
            let object = format!("AuthorizationPolicy {name}");
            self.mistakes().any(|mistake| mistake.object == object)
        };
        let all = self.policy.status().iter();
        all.filter_map(move |status| status.problem().filter(|_| !told(&status.policy)))
    }

    pub fn mistakes(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|p| p.is_mistake())
    }
}

/// A watched directory.
pub struct Directory {
    dir: PathBuf,
    files: Files,
    settings: MeshSettings,
    pub published: Arc<ArcSwap<InForce>>,
    sender: watch::Sender<Update>,
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
            files: Files::default(),
            settings,
            published: Arc::default(),
            sender,
        };
        directory.files.load(&directory.dir, Instant::now())?;
        directory.publish();
        Ok((directory, updates))
    }

    /// Follows changes until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        let (changed, mut changes) = mpsc::channel(1);
        let watcher = watcher::start(&self.dir, move || {
            // Full means that a look is due already.
            let _due = changed.try_send(());
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "cannot watch the configuration directory; looking every {POLL:?}");
        }
        loop {
            let poll = Instant::now() + POLL;
            let due = self.files.due().map_or(poll, |due| due.min(poll));
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(()) = changes.recv() => tokio::time::sleep(DEBOUNCE).await,
                () = tokio::time::sleep_until(due.into()) => {}
            }
            self.load(Instant::now());
        }
    }

    fn load(&mut self, now: Instant) {
        match self.files.load(&self.dir, now) {
            Ok(()) => self.publish(),
            Err(error) => self.keep(&error),
        }
    }

    /// The last configuration stays, and the page says why.
    fn keep(&self, error: &Error) {
        let problem = Problem {
            code: Code::UnreadableFile,
            file: self.dir.clone(),
            message: format!("{error}; the last configuration stays"),
            ..Problem::default()
        };
        self.sender.send_if_modified(|update| {
            let changed = *update.problems != *std::slice::from_ref(&problem);
            update.problems = [problem].into();
            changed
        });
    }

    fn publish(&self) {
        let mut problems: Vec<Problem> = self.files.problems().cloned().collect();
        let before = self.published.load_full();
        let (mut snapshot, mut found) = build(self.files.objects());
        problems.append(&mut found);
        snapshot.settings = self.settings.clone();
        snapshot.generation = before.snapshot.generation;
        let changed = snapshot.generation == 0 || !snapshot.same_content(&before.snapshot);
        let published = if changed {
            snapshot.generation += 1;
            snapshot.withhold_departed(&before.snapshot, Instant::now());
            let policy = Arc::new(policy::Engine::compile(&snapshot));
            let snapshot = Arc::new(snapshot);
            Arc::new(InForce { snapshot, policy })
        } else {
            before
        };
        let objects = self.files.objects();
        problems.extend(lint(objects, &published.snapshot, &published.policy));
        self.published.store(published.clone());
        self.sender.send_if_modified(|update| {
            let changed = changed || *update.problems != *problems;
            *update = Update {
                snapshot: published.snapshot.clone(),
                policy: published.policy.clone(),
                problems: problems.into(),
                skipped: self.files.skipped(),
            };
            changed
        });
    }
}
