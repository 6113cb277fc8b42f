//! What differs between two configurations, for those who follow them.

use std::collections::BTreeSet;

use crate::model::{Snapshot, WorkloadKey};

/// Of this node's pods: of which ones connections may be judged differently,
/// and whether it is to be enrolled differently.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// It may be any: nobody knows what was missed.
    all: bool,
    pods: BTreeSet<WorkloadKey>,
    enrolment: bool,
}

impl Changes {
    /// Of whoever begins to follow, or has missed one.
    #[must_use]
    pub(crate) fn everything() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }

    /// `is_hidden`: which pods there are cannot be told as before.
    #[must_use]
    pub(crate) fn of(pods: BTreeSet<WorkloadKey>, is_hidden: bool) -> Self {
        Self {
            all: false,
            enrolment: is_hidden || !pods.is_empty(),
            pods,
        }
    }

    /// One after the other, told together.
    pub(crate) fn merge(&mut self, later: Self) {
        self.all |= later.all;
        self.enrolment |= later.enrolment;
        self.pods.extend(later.pods);
    }

    /// May a connection to it be judged differently now?
    #[must_use]
    pub(crate) fn concern(&self, destination: &WorkloadKey) -> bool {
        self.all || self.pods.contains(destination)
    }

    /// Is a connection to it judged as before? Changes name pods of this node: of one
    /// that is elsewhere now, or nowhere, none tells, and its connections may live.
    #[must_use]
    pub(crate) fn leave(&self, destination: &WorkloadKey, snapshot: &Snapshot, node: &str) -> bool {
        let known = snapshot.workloads.get(destination);
        known.is_some_and(|workload| workload.node == node) && !self.concern(destination)
    }

    /// Is another pod to be enrolled, or one to be let go or changed?
    #[must_use]
    pub(crate) fn concern_enrolment(&self) -> bool {
        self.all || self.enrolment
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::Workload;

    #[test]
    fn a_pod_that_is_not_here_any_more_is_asked_for_at_each_change() {
        let mut web = Workload::for_test("shop", "web");
        web.node = "n2".into();
        let mut snapshot = Snapshot::default();
        let key = web.key.clone();
        snapshot.workloads.insert(Arc::new(web));
        let none = Changes::default();
        assert!(none.leave(&key, &snapshot, "n2"));
        assert!(!none.leave(&key, &snapshot, "n1"), "it moved");
        assert!(!none.leave(&key, &Snapshot::default(), "n1"), "it is gone");
        let named = Changes::of([key.clone()].into(), false);
        assert!(!named.leave(&key, &snapshot, "n2"));
    }

    #[test]
    fn what_was_missed_or_came_together_concerns_all_that_it_is_about() {
        let [web, db] = ["web", "db"].map(|name| WorkloadKey::new("shop", name));
        let of = |key: &WorkloadKey| Changes::of([key.clone()].into(), false);
        let mut both = Changes::default();
        assert!(!both.concern(&web) && !both.concern_enrolment());
        both.merge(of(&web));
        assert!(both.concern(&web) && !both.concern(&db));
        both.merge(of(&db));
        both.merge(Changes::default());
        assert!(both.concern(&web) && both.concern(&db));
        let mut missed = Changes::of(BTreeSet::new(), true);
        assert!(!missed.concern(&web) && missed.concern_enrolment());
        missed.merge(Changes::everything());
        assert!(missed.concern(&web) && missed.concern_enrolment());
    }
}
