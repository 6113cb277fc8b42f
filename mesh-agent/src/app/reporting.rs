//! What the authority is told of this node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::discovery::{Update, Watched};
use crate::enrol::PodStatus;
use crate::identity::report::{InForce, PodTrouble, Report};
use crate::model::WorkloadKey;

/// What goes by in this time is a start, and no trouble.
const LASTS: Duration = Duration::from_secs(10);
/// Pods of a node of which it is told, some at a time.
const MAX_TROUBLES: usize = 1_024;
/// Longest text that is told of a pod.
const MAX_MESSAGE: usize = 500;

pub(super) struct Reporting {
    watched: Arc<Watched>,
    /// None: another agent of this node speaks now.
    reports: Mutex<Option<watch::Sender<Report>>>,
    /// Since when, by pod.
    troubles: Mutex<BTreeMap<WorkloadKey, (Instant, PodTrouble)>>,
}

impl Reporting {
    pub(super) fn new(watched: Arc<Watched>) -> (Self, watch::Receiver<Report>) {
        let (sender, reports) = watch::channel(Report::default());
        let reporting = Self {
            watched,
            reports: Mutex::new(Some(sender)),
            troubles: Mutex::default(),
        };
        (reporting, reports)
    }

    /// As they are now, all of them.
    pub(super) fn note(&self, update: &Update, pods: &[PodStatus], now: Instant) {
        let mut troubles = self.troubles.lock();
        let mut before = std::mem::take(&mut *troubles);
        for trouble in pods.iter().filter_map(|pod| trouble(update, pod)) {
            let key = WorkloadKey::new(trouble.namespace.as_str(), trouble.name.as_str());
            let same = before.remove(&key);
            let same = same.filter(|(_, known)| {
                (&known.uid, &known.reason) == (&trouble.uid, &trouble.reason)
            });
            let since = same.map_or(now, |(since, _)| since);
            troubles.insert(key, (since, trouble));
        }
    }

    /// Tells what changed.
    pub(super) fn look(&self, now: Instant) {
        let Some(reports) = &*self.reports.lock() else {
            return;
        };
        let in_force = self.watched.in_force().into_iter();
        let troubles = self.troubles.lock();
        let lasting = troubles
            .values()
            .filter(|(since, _)| now.saturating_duration_since(*since) >= LASTS);
        let report = Report {
            in_force: in_force
                .map(|one| InForce {
                    kind: one.kind,
                    version: one.version,
                    held_back: one.held_back,
                })
                .collect(),
            pods: lasting
                .take(MAX_TROUBLES)
                .map(|(_, pod)| pod.clone())
                .collect(),
            left_out: 0,
        };
        reports.send_if_modified(|told| {
            let is_other = *told != report;
            *told = report;
            is_other
        });
    }

    pub(super) fn hand_over(&self) {
        *self.reports.lock() = None;
    }
}

/// Of one that is to be in the mesh and cannot be, for a reason of its own.
fn trouble(update: &Update, pod: &PodStatus) -> Option<PodTrouble> {
    let reason = pod.reason.filter(|_| !pod.enrolled && !pod.is_starting())?;
    let (namespace, name) = pod.pod.split_once('/')?;
    let workload = update
        .snapshot
        .workloads
        .get(&WorkloadKey::new(namespace, name))?;
    let message = pod.message.as_deref().unwrap_or_default();
    Some(PodTrouble {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: workload.uid.to_string(),
        reason: reason.to_owned(),
        message: message.chars().take(MAX_MESSAGE).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Snapshot, Workload};

    fn status(reason: Option<&'static str>) -> PodStatus {
        PodStatus {
            pod: "shop/web".to_owned(),
            reason,
            message: Some("it is a pod of another mesh".to_owned()),
            ..PodStatus::default()
        }
    }

    #[test]
    fn a_pod_that_cannot_be_enrolled_is_told_of_when_that_lasts() {
        let (reporting, mut reports) = Reporting::new(Arc::new(Watched::for_test()));
        let mut snapshot = Snapshot::default();
        snapshot
            .workloads
            .insert(Arc::new(Workload::for_test("shop", "web")));
        let mut update = Update::default();
        update.snapshot = Arc::new(snapshot);
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let note = |reason, at| reporting.note(&update, &[status(reason)], at);
        let mut told = |at| {
            reporting.look(at);
            let pods = reports.borrow_and_update().pods.clone();
            pods.iter()
                .map(|pod| pod.reason.clone())
                .collect::<Vec<_>>()
        };
        note(Some("AnotherMesh"), begun);
        assert!(told(after(9)).is_empty(), "it may be a start");
        note(Some("AnotherMesh"), after(9));
        assert_eq!(told(after(10)), ["AnotherMesh"]);
        note(Some("RoutesFailed"), after(10));
        assert!(told(after(11)).is_empty(), "another trouble begins anew");
        note(None, after(12));
        assert!(told(after(99)).is_empty());
        note(Some("AnotherMesh"), after(99));
        reporting.hand_over();
        assert!(told(after(200)).is_empty(), "another agent speaks");
    }
}
