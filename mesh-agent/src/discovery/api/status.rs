//! What people see of the API as the source, and what it does to readiness.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::Serialize;

use super::held_back::Named;
use crate::kube::{Cluster, Fault, Gate, Phase, Progress, Reason, Resource, Seen};

/// Shared with who shows it.
#[derive(Debug)]
pub(crate) struct Watched {
    cluster: Arc<Cluster>,
    pub(super) gate: Arc<Gate>,
    pub(super) kinds: Vec<WatchedKind>,
    inner: Mutex<Inner>,
    /// Of each kind, the version up to which the API server's word is in force; 0
    /// where it has not said anything, or what it said is not in force yet. But for the
    /// objects that are named.
    in_force: Mutex<Vec<(u64, Named)>>,
    since: SystemTime,
}

#[derive(Debug)]
pub(super) struct WatchedKind {
    pub(super) resource: Resource,
    pub(super) progress: Arc<Progress>,
    pub(super) objects: AtomicUsize,
    pub(super) is_whole: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    /// Something is in force.
    is_known: bool,
    /// What is in force of some kinds is from disk, and so old.
    from_disk: Option<SystemTime>,
    /// Why the copy on disk is not what it should be.
    copy: Option<String>,
    /// Why a kind is not taken over.
    too_large: Option<&'static str>,
}

/// What of a kind is in force here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InForce {
    /// As `PLURAL.GROUP`.
    pub(crate) kind: String,
    /// Of the API server: all that it said up to there, but for those that are held back.
    pub(crate) version: u64,
    /// As `NAMESPACE/NAME`: what they say now is not understood.
    pub(crate) held_back: Vec<String>,
}

/// One kind, for people.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct KindRow {
    pub(crate) kind: &'static str,
    pub(crate) group: &'static str,
    pub(crate) state: Phase,
    /// All of them are known, as of some time.
    pub(crate) is_whole: bool,
    pub(crate) objects: usize,
    pub(crate) since: Option<String>,
    pub(crate) last_event: Option<String>,
    pub(crate) events: u64,
    pub(crate) lists: u64,
    pub(crate) fault: Option<String>,
    /// For how long it has not been told.
    pub(crate) failing_seconds: Option<u64>,
}

/// Nobody answers.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ApiAway {
    pub(crate) why: String,
    pub(crate) seconds: u64,
}

/// As of now.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ApiState {
    pub(crate) source: &'static str,
    pub(crate) server: String,
    /// Since it was first asked.
    pub(crate) age_seconds: u64,
    pub(crate) away: Option<ApiAway>,
    /// Something is in force.
    pub(crate) is_known: bool,
    pub(crate) from_disk_age_seconds: Option<u64>,
    pub(crate) copy: Option<String>,
    pub(crate) too_large: Option<&'static str>,
    pub(crate) kinds: Vec<KindRow>,
}

impl Watched {
    pub(super) fn new(cluster: Arc<Cluster>, resources: &[Resource]) -> Self {
        let kind = |resource: &Resource| WatchedKind {
            resource: *resource,
            progress: Arc::default(),
            objects: AtomicUsize::new(0),
            is_whole: AtomicBool::new(false),
        };
        Self {
            cluster,
            gate: Arc::default(),
            kinds: resources.iter().map(kind).collect(),
            inner: Mutex::default(),
            in_force: Mutex::default(),
            since: SystemTime::now(),
        }
    }

    /// Of a cluster that is never asked.
    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        Self::new(Arc::default(), &super::resources::served())
    }

    pub(super) fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    pub(super) fn note_known(&self) {
        self.inner.lock().is_known = true;
    }

    pub(super) fn note_from_disk(&self, as_of: Option<SystemTime>) {
        self.inner.lock().from_disk = as_of;
    }

    pub(super) fn note_too_large(&self, kind: Option<&'static str>) {
        self.inner.lock().too_large = kind;
    }

    pub(super) fn copy_failed(&self, why: String) {
        self.inner.lock().copy = Some(why);
    }

    pub(super) fn copy_works(&self) {
        self.inner.lock().copy = None;
    }

    pub(super) fn note_in_force(&self, in_force: impl Iterator<Item = (u64, Named)>) {
        let mut known = self.in_force.lock();
        known.clear();
        known.extend(in_force);
    }

    /// Of the kinds that come with a CRD.
    #[must_use]
    pub(crate) fn in_force(&self) -> Vec<InForce> {
        let known = self.in_force.lock();
        let all = self.kinds.iter().zip(known.iter());
        all.filter(|(kind, (version, _))| kind.resource.optional && *version > 0)
            .map(|(kind, (version, held_back))| {
                let Resource { plural, group, .. } = kind.resource;
                InForce {
                    kind: format!("{plural}.{group}"),
                    version: *version,
                    held_back: held_back.iter().map(ToString::to_string).collect(),
                }
            })
            .collect()
    }

    pub(super) fn list_again(&self, kind: usize) {
        if let Some(kind) = self.kinds.get(kind) {
            kind.progress.ask_for_list();
        }
    }

    #[must_use]
    pub(crate) fn state(&self) -> ApiState {
        let inner = self.inner.lock();
        let age = |as_of: SystemTime| as_of.elapsed().unwrap_or_default().as_secs();
        ApiState {
            source: "kubernetes",
            server: self.cluster.server.clone(),
            age_seconds: age(self.since),
            away: self.gate.away().map(|(since, fault)| ApiAway {
                why: fault.to_string(),
                seconds: since.elapsed().as_secs(),
            }),
            is_known: inner.is_known,
            from_disk_age_seconds: inner.from_disk.map(age),
            copy: inner.copy.clone(),
            too_large: inner.too_large,
            kinds: self.kinds.iter().map(WatchedKind::row).collect(),
        }
    }
}

impl WatchedKind {
    pub(super) fn row(&self) -> KindRow {
        let seen = self.progress.seen();
        let time = |at: SystemTime| humantime::format_rfc3339_seconds(at).to_string();
        KindRow {
            kind: self.resource.kind,
            group: self.resource.group,
            state: seen.phase,
            is_whole: self.is_whole.load(Ordering::Relaxed),
            objects: self.objects.load(Ordering::Relaxed),
            since: seen.since.map(time),
            last_event: seen.last_event.map(time),
            events: seen.events,
            lists: seen.lists,
            fault: seen.fault.as_ref().map(Fault::to_string),
            failing_seconds: seen
                .since
                .filter(|_| seen.phase == Phase::Failing)
                .map(|since| since.elapsed().unwrap_or_default().as_secs()),
        }
    }

    pub(super) fn faults(seen: &Seen) -> impl Iterator<Item = (&'static str, u64)> {
        let labels = Reason::ALL.iter().map(|reason| reason.label());
        labels.zip(seen.faults)
    }
}
