//! A directory as the source: read at the start, watched, and read again.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::files::{Error, Files};
use super::held::Held;
use super::looked::Looked;
use super::origin::{Origin, Place};
use super::publish::{Publisher, Update};
use super::watcher::Told;
use super::{Code, Problem, watcher};
use crate::model::policy::MeshSettings;
use crate::plan::InForce;
use crate::policy;

/// Editors write a file in several steps.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Looks again without an event: inotify instances may be used up.
const POLL: Duration = Duration::from_secs(10);

/// A watched directory.
pub(crate) struct Directory {
    dir: PathBuf,
    pub(super) files: Files,
    publisher: Publisher,
    /// The last look came to nothing.
    failed: bool,
    looked: Arc<Looked>,
}

impl Directory {
    /// Loads once; mistakes in files are problems of the update, not errors.
    pub(crate) fn start(
        dir: PathBuf,
        settings: MeshSettings,
        here: policy::Here,
    ) -> Result<(Self, watch::Receiver<Update>), Error> {
        let (publisher, updates) = Publisher::new(settings, here);
        let mut directory = Self {
            dir,
            files: Files::default(),
            publisher,
            failed: false,
            looked: Arc::new(Looked::new(Instant::now())),
        };
        directory.take(&Told::Everything, Instant::now())?;
        Ok((directory, updates))
    }

    /// No object is in it, and nothing that may be one.
    pub(super) fn is_empty(&self) -> bool {
        self.publisher.is_empty()
    }

    #[must_use]
    pub(crate) fn published(&self) -> Arc<ArcSwap<InForce>> {
        self.publisher.published()
    }

    #[must_use]
    pub(crate) fn held(&self) -> Held {
        self.publisher.held()
    }

    #[must_use]
    pub(crate) fn looked(&self) -> Arc<Looked> {
        self.looked.clone()
    }

    /// Follows changes until cancelled, on a thread of its own: however much is
    /// to be read, readiness and enrolment do not wait for it.
    pub(crate) fn follow(self, cancel: CancellationToken) -> std::io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let thread = std::thread::Builder::new().name("discovery".to_owned());
        thread.spawn(move || runtime.block_on(self.run(cancel)))
    }

    async fn run(mut self, cancel: CancellationToken) {
        let (changed, mut changes) = mpsc::channel(1);
        let told = Arc::<Mutex<Told>>::default();
        let noting = told.clone();
        let watcher = watcher::start(&self.dir, move |what| {
            noting.lock().merge(what);
            // Full means that a look is due already.
            let _due = changed.try_send(());
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "cannot watch the configuration directory; looking every {POLL:?}");
        }
        // What was written before the watch stood was told to nobody.
        self.look(&Told::Everything, Instant::now());
        self.looked.note(Instant::now());
        loop {
            let poll = Instant::now() + POLL;
            let due = self.files.due().map_or(poll, |due| due.min(poll));
            // Also where the directory that it waits for is away.
            let due = due.max(Instant::now() + DEBOUNCE);
            let what = tokio::select! {
                () = cancel.cancelled() => return,
                Some(()) = changes.recv() => {
                    tokio::time::sleep(DEBOUNCE).await;
                    // What was told meanwhile is looked at now, and not once more.
                    while changes.try_recv().is_ok() {}
                    std::mem::take(&mut *told.lock())
                }
                () = tokio::time::sleep_until(due.into()) => Told::Everything,
            };
            self.look(&what, Instant::now());
            self.looked.note(Instant::now());
        }
    }

    /// Looks at everything.
    #[cfg(test)]
    pub(super) fn load(&mut self, now: Instant) {
        self.look(&Told::Everything, now);
    }

    /// Looks at what was told; after an error at everything, for it may have been of that.
    pub(super) fn look(&mut self, told: &Told, now: Instant) {
        let told = if self.failed { &Told::Everything } else { told };
        let taken = self.take(told, now);
        self.failed = taken.is_err();
        if let Err(error) = taken {
            self.keep(&error);
        }
    }

    /// Takes over what has changed; after an error nothing is taken over.
    fn take(&mut self, told: &Told, now: Instant) -> Result<(), Error> {
        for change in &self.files.load(&self.dir, told, now)? {
            self.publisher.replace(&change.before(), &change.now());
        }
        let skipped = self.files.skipped();
        self.publisher.publish(self.files.problems(), skipped, now);
        Ok(())
    }

    /// The last configuration stays, and the page says why.
    fn keep(&mut self, error: &Error) {
        let origin = Origin::whole(Place::file(&self.dir));
        let message = format!("{error}; the last configuration stays");
        let problem = Problem::new(Code::UnreadableFile, origin, message);
        self.publisher.keep(problem);
    }
}
