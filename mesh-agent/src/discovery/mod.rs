//! Configuration from a directory of Kubernetes YAML.
//!
//! `files` reads the directory, `documents` takes it apart, `core` reads what
//! Kubernetes writes, `policies` parses strictly, `store` makes the snapshot of
//! what changed, this file watches and publishes. Invariants: every mistake is
//! reported in one pass with file, line and field; a file that does not parse
//! leaves what it said before in force; what is not understood never makes a
//! pod "not enrolled"; a change costs what it touches.

mod check;
mod core;
mod documents;
mod fields;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod intern;
mod kinds;
mod lint;
mod locate;
mod looked;
mod objects;
mod policies;
mod problem;
mod stat;
mod store;
#[cfg(test)]
mod tests;
mod tree;
mod watcher;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::model::Snapshot;
use crate::model::policy::MeshSettings;
use crate::plan::{Changes, InForce};
use crate::policy;
pub use check::Checked;
#[cfg(test)]
pub(crate) use check::check;
#[cfg(test)]
pub(crate) use documents::parse;
pub use files::Error;
use files::Files;
use lint::Lint;
pub use looked::Looked;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use objects::Object;
pub use problem::{Code, Problem, Severity};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use store::build;
use store::{Store, Touched};

/// Editors write a file in several steps.
const DEBOUNCE: Duration = Duration::from_millis(50);
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
    pending: Pending,
}

/// What has changed since it was last taken, of however many updates.
#[derive(Clone, Debug)]
struct Pending(Arc<Mutex<Changes>>);

impl Default for Pending {
    /// Of whom nobody has told anything yet.
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Changes::everything())))
    }
}

impl Update {
    /// For the one who follows: an update may stand for several. To be taken
    /// while the update is borrowed, so that none is taken with an older one.
    #[must_use]
    pub fn take_changes(&self) -> Changes {
        std::mem::take(&mut *self.pending.0.lock())
    }

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
    store: Store,
    lint: Lint,
    /// Which pods connections are let in to.
    here: policy::Here,
    /// The last look at the directory came to nothing, and that is told.
    failed: bool,
    looked: Arc<Looked>,
    pub published: Arc<ArcSwap<InForce>>,
    pending: Pending,
    sender: watch::Sender<Update>,
}

impl Directory {
    /// Loads once; mistakes in files are problems of the update, not errors.
    pub fn start(
        dir: PathBuf,
        settings: MeshSettings,
        here: policy::Here,
    ) -> Result<(Self, watch::Receiver<Update>), Error> {
        let (sender, updates) = watch::channel(Update::default());
        let mut directory = Self {
            dir,
            files: Files::default(),
            store: Store::new(settings),
            lint: Lint::default(),
            here,
            failed: false,
            looked: Arc::new(Looked::new(Instant::now())),
            published: Arc::default(),
            pending: Pending::default(),
            sender,
        };
        directory.take(Instant::now())?;
        Ok((directory, updates))
    }

    #[must_use]
    pub fn looked(&self) -> Arc<Looked> {
        self.looked.clone()
    }

    /// Follows changes until cancelled, on a thread of its own: however much is
    /// to be read, readiness and enrolment do not wait for it.
    pub fn follow(self, cancel: CancellationToken) -> std::io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let thread = std::thread::Builder::new().name("discovery".to_owned());
        thread.spawn(move || runtime.block_on(self.run(cancel)))
    }

    async fn run(mut self, cancel: CancellationToken) {
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
            // Also where the directory that it waits for is away.
            let due = due.max(Instant::now() + DEBOUNCE);
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(()) = changes.recv() => {
                    tokio::time::sleep(DEBOUNCE).await;
                    // What was told meanwhile is looked at now, and not once more.
                    while changes.try_recv().is_ok() {}
                }
                () = tokio::time::sleep_until(due.into()) => {}
            }
            self.load(Instant::now());
            self.looked.note(Instant::now());
        }
    }

    fn load(&mut self, now: Instant) {
        if let Err(error) = self.take(now) {
            self.keep(&error);
        }
    }

    /// Takes over what has changed; after an error nothing is taken over.
    fn take(&mut self, now: Instant) -> Result<(), Error> {
        let changes = self.files.load(&self.dir, now)?;
        for change in &changes {
            self.store.replace(&change.before(), &change.now());
        }
        let is_first = self.published.load().snapshot.generation == 0;
        if is_first || !changes.is_empty() || std::mem::take(&mut self.failed) {
            // From when it is in force: reading may have taken its time.
            self.publish(now.max(Instant::now()));
        }
        Ok(())
    }

    /// The last configuration stays, and the page says why.
    fn keep(&mut self, error: &Error) {
        self.failed = true;
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

    fn publish(&mut self, now: Instant) {
        let mut touched = self.store.commit(now);
        let before = self.published.load_full();
        let is_first = before.snapshot.generation == 0;
        touched.all |= is_first;
        touched.snapshot |= is_first;
        let (published, changes) = match touched.snapshot {
            true => self.next(&before, &touched),
            false => (before, Changes::default()),
        };
        let judged = (&*published.snapshot, &*published.policy);
        self.lint.update(&self.store, judged, &touched);
        let problems = self.files.problems().chain(self.store.problems());
        let problems: Vec<Problem> = problems.chain(self.lint.problems()).cloned().collect();
        // First: whoever is told looks at what is in force by then.
        self.published.store(published.clone());
        self.sender.send_if_modified(|update| {
            let changed = touched.snapshot || *update.problems != *problems;
            // Under the lock by which the update is read: both or none.
            self.pending.0.lock().merge(changes);
            *update = Update {
                snapshot: published.snapshot.clone(),
                policy: published.policy.clone(),
                problems: problems.into(),
                skipped: self.files.skipped(),
                pending: self.pending.clone(),
            };
            changed
        });
    }

    fn next(&self, before: &InForce, touched: &Touched) -> (Arc<InForce>, Changes) {
        let mut snapshot = self.store.snapshot().clone();
        snapshot.generation = before.snapshot.generation + 1;
        let changed = match touched.all {
            true => policy::Where::Anywhere,
            false => policy::Where::Namespaces(&touched.namespaces),
        };
        let (policy, rejudged) = before.policy.update(&snapshot, changed, &self.here);
        let is_hidden = snapshot.hides_pods != before.snapshot.hides_pods
            || snapshot.unreadable_pods != before.snapshot.unreadable_pods;
        let changes = Changes::of(rejudged.0, is_hidden);
        let published = Arc::new(InForce {
            snapshot: Arc::new(snapshot),
            policy: Arc::new(policy),
        });
        (published, changes)
    }
}
