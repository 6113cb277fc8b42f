//! What a source has read, made the configuration that is in force.
//!
//! Each source owns a publisher: it tells what its places say now and said
//! before, and then lets it be in force. Invariants: whoever is told of a change
//! finds what it led to in force; a change that nobody has taken yet is never
//! lost, for an update may stand for several; what a source cannot read leaves
//! in force what was.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Problem;
use super::held::Held;
use super::lint::Lint;
use super::store::{Listed, Said, Store, Touched};
use crate::model::Snapshot;
use crate::model::policy::MeshSettings;
use crate::plan::{Changes, InForce};
use crate::policy;

/// A new state of the configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Update {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) policy: Arc<policy::Authorizer>,
    /// Errors and warnings.
    pub(crate) problems: Arc<[Problem]>,
    /// Objects of kinds that are not ours: passed over.
    pub(crate) skipped: usize,
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
    /// The source has said all that there is.
    #[must_use]
    pub(crate) fn is_known(&self) -> bool {
        self.snapshot.generation > 0
    }

    /// For the one who follows: an update may stand for several. To be taken
    /// while the update is borrowed, so that none is taken with an older one.
    #[must_use]
    pub(crate) fn take_changes(&self) -> Changes {
        std::mem::take(&mut *self.pending.0.lock())
    }

    /// What policies do not do, where no mistake of theirs says so.
    pub(crate) fn policy_problems(&self) -> impl Iterator<Item = String> {
        let told = |name: &str| {
            let object = format!("AuthorizationPolicy {name}");
            self.mistakes().any(|mistake| mistake.object == object)
        };
        let all = self.policy.status().iter();
        all.filter_map(move |status| status.problem().filter(|_| !told(&status.policy)))
    }

    pub(crate) fn mistakes(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|p| p.is_mistake())
    }
}

/// Of one source.
pub(super) struct Publisher {
    store: Store,
    lint: Lint,
    /// Which pods connections are let in to.
    here: policy::Here,
    /// Something was told that is not in force yet, or not told any more.
    due: bool,
    /// Some of it is from before this agent ran.
    is_dated: bool,
    published: Arc<ArcSwap<InForce>>,
    held: Held,
    pending: Pending,
    sender: watch::Sender<Update>,
}

impl Publisher {
    /// Of a source that has said nothing yet.
    pub(super) fn new(
        settings: MeshSettings,
        here: policy::Here,
    ) -> (Self, watch::Receiver<Update>) {
        let (sender, updates) = watch::channel(Update::default());
        let publisher = Self {
            store: Store::new(settings),
            lint: Lint::default(),
            here,
            due: true,
            is_dated: false,
            published: Arc::default(),
            held: Held::default(),
            pending: Pending::default(),
            sender,
        };
        (publisher, updates)
    }

    /// The source has an object of each namespace: what it says of a pod whose
    /// namespace it has not told is not all.
    pub(super) fn expect_namespaces(&mut self) {
        self.store.expect_namespaces();
    }

    /// What the source has told of runtime classes as a whole.
    pub(super) fn note_classes(&mut self, listed: Listed) {
        self.store.note_classes(listed);
        self.due = true;
    }

    /// What is in force, for those who look at it.
    pub(super) fn published(&self) -> Arc<ArcSwap<InForce>> {
        self.published.clone()
    }

    /// That, and what was in force before and is still used.
    pub(super) fn held(&self) -> Held {
        self.held.clone()
    }

    /// No place says anything.
    pub(super) fn is_empty(&self) -> bool {
        self.store.is_empty()
    }

    /// A place says `now`, and does not say `before` any more.
    pub(super) fn replace(&mut self, before: &Said<'_>, now: &Said<'_>) {
        self.store.replace(before, now);
        self.due = true;
    }

    /// Is some of it what the source said before this agent ran?
    pub(super) fn note_dated(&mut self, is_dated: bool) {
        self.due |= self.is_dated != is_dated;
        self.is_dated = is_dated;
    }

    /// The source cannot be read: the last configuration stays, and the page
    /// says why, until something is published again.
    pub(super) fn keep(&mut self, problem: Problem) {
        self.due = true;
        self.sender.send_if_modified(|update| {
            let changed = *update.problems != *std::slice::from_ref(&problem);
            update.problems = [problem].into();
            changed
        });
    }

    /// Puts in force what was told, if anything was since the last time. The
    /// source gives all problems of its places, and how many of their objects
    /// are of kinds that are not ours.
    pub(super) fn publish<'p>(
        &mut self,
        of_places: impl Iterator<Item = &'p Problem>,
        skipped: usize,
        now: Instant,
    ) {
        if !std::mem::take(&mut self.due) {
            return;
        }
        // From when it is in force: reading may have taken its time.
        let mut touched = self.store.commit(now.max(Instant::now()));
        let before = self.published.load_full();
        let is_first = before.snapshot.generation == 0;
        touched.all |= is_first;
        touched.snapshot |= is_first || before.snapshot.is_dated != self.is_dated;
        let (published, changes) = match touched.snapshot {
            true => self.next(&before, &touched),
            false => (before, Changes::default()),
        };
        let judged = (&*published.snapshot, &*published.policy);
        self.lint.update(&self.store, judged, &touched);
        let mut problems: Vec<Problem> = of_places.cloned().collect();
        let of_objects = self.store.problems().chain(self.lint.problems());
        problems.extend(of_objects.cloned());
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
                skipped,
                pending: self.pending.clone(),
            };
            changed
        });
    }

    fn next(&self, before: &InForce, touched: &Touched) -> (Arc<InForce>, Changes) {
        let mut snapshot = self.store.snapshot().clone();
        snapshot.generation = before.snapshot.generation + 1;
        snapshot.is_dated = self.is_dated;
        let changed = match touched.all {
            true => policy::Where::Anywhere,
            false => policy::Where::Namespaces(&touched.namespaces),
        };
        let (policy, rejudged) = before.policy.update(&snapshot, changed, &self.here);
        let routes = before.routes.update(&snapshot, &touched.routed);
        let namespaces = (!touched.all).then_some(&touched.namespaces);
        let rates = before.rates.update(&snapshot, namespaces, Instant::now());
        let is_hidden = snapshot.hides_pods != before.snapshot.hides_pods
            || snapshot.unreadable_pods != before.snapshot.unreadable_pods;
        let changes = Changes::of(rejudged.0, is_hidden);
        let snapshot = Arc::new(snapshot);
        self.held.note(&snapshot);
        let published = Arc::new(InForce {
            snapshot,
            policy: Arc::new(policy),
            routes: Arc::new(routes),
            rates: Arc::new(rates),
        });
        (published, changes)
    }
}
