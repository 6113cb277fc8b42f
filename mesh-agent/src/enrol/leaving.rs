//! What becomes of pods that are not wanted any more: whose word lets one go.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::model::{Name, Snapshot, Workload, WorkloadKey};

/// A sandbox that ends takes its namespace with it within this time.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// Whose namespace it is that is closed.
#[derive(Clone, Debug)]
pub(super) struct Closed {
    pub(super) key: WorkloadKey,
    pub(super) uid: Name,
    since: Instant,
    /// It was told that it lingers.
    pub(super) is_told: bool,
}

impl Closed {
    pub(super) fn of(workload: &Workload) -> Self {
        Self {
            key: workload.key.clone(),
            uid: workload.uid.clone(),
            since: Instant::now(),
            is_told: false,
        }
    }

    /// Is it there for longer than a pod takes to end?
    pub(super) fn lingers(&self) -> bool {
        self.since.elapsed() >= ENDS_WITHIN
    }
}

/// What is to become of an enrolled pod that is not wanted on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    Released,
    /// Its document is there and cannot be read.
    Kept,
    /// Its document may be there, or its containers may outlive it. It is not
    /// served, so that nothing of it is held, and not released either.
    Closed,
}

/// Who says that a pod is to be let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Its document's absence, too: who wrote the configuration took it out.
    Absence,
    /// Only a Pod that is there and not enrolled: on a kubelet's node an object that is
    /// gone, has ended or is another one of that name does not end a container.
    LivePod,
}

pub(super) fn leaving(
    (key, uid): (&WorkloadKey, &Name),
    snapshot: &Snapshot,
    word: Word,
) -> Leaving {
    if snapshot.unreadable_pods.contains(key) {
        return Leaving::Kept;
    }
    let now = snapshot.workloads.get(key);
    let released = match word {
        Word::Absence => now.is_some() || !(snapshot.hides_pods || snapshot.is_dated),
        Word::LivePod => now.is_some_and(|now| now.uid == *uid && !now.is_enrolled()),
    };
    match released {
        true => Leaving::Released,
        false => Leaving::Closed,
    }
}

/// The pods of the node that are known to be outside of the mesh, as the runtime knows
/// them. One that another object says to be in it is not.
pub(super) fn outside<'s>(snapshot: &'s Snapshot, node: &str) -> BTreeSet<&'s str> {
    let (mut outside, mut inside) = (BTreeSet::new(), BTreeSet::new());
    for workload in snapshot.workloads.values().filter(|w| w.node == node) {
        let is_outside =
            !workload.is_enrolled() && !snapshot.unreadable_pods.contains(&workload.key);
        let side = match is_outside {
            true => &mut outside,
            false => &mut inside,
        };
        side.insert(workload.runtime_uid().as_str());
    }
    outside.retain(|uid| !inside.contains(uid));
    outside
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Enrolment, OnAgentDown};

    fn key(name: &str) -> WorkloadKey {
        WorkloadKey::new("shop", name)
    }

    fn of(name: &str, snapshot: &Snapshot, word: Word) -> Leaving {
        leaving((&key(name), &name.into()), snapshot, word)
    }

    #[test]
    fn only_a_configuration_that_could_be_read_lets_a_pod_go() {
        let absence = Word::Absence;
        let mut snapshot = Snapshot::default();
        assert_eq!(of("web", &snapshot, absence), Leaving::Released);
        assert!(!snapshot.may_hide_pods());
        Arc::make_mut(&mut snapshot.unreadable_pods).insert(key("web"));
        assert_eq!(of("web", &snapshot, absence), Leaving::Kept);
        assert_eq!(of("db", &snapshot, absence), Leaving::Released);
        assert!(snapshot.may_hide_pods(), "an earlier agent's may be web's");
        snapshot.hides_pods = true;
        assert_eq!(of("web", &snapshot, absence), Leaving::Kept);
        assert_eq!(of("db", &snapshot, absence), Leaving::Closed);
    }

    #[test]
    fn what_the_disk_does_not_tell_of_is_not_let_go() {
        let mut snapshot = Snapshot::default();
        assert!(!snapshot.may_lack_pods());
        snapshot.is_dated = true;
        assert!(snapshot.may_lack_pods(), "strangers stay");
        assert_eq!(of("web", &snapshot, Word::Absence), Leaving::Closed);
    }

    #[test]
    fn on_a_kubelets_node_only_a_live_pods_own_label_lets_it_go() {
        let live = Word::LivePod;
        let mut snapshot = Snapshot::default();
        assert_eq!(of("web", &snapshot, live), Leaving::Closed, "no object");
        let mut put = |uid: &str, enrolment| {
            let mut web = Workload::for_test("shop", "web");
            (web.uid, web.enrolment) = (uid.into(), enrolment);
            snapshot.workloads.insert(Arc::new(web));
            (
                of("web", &snapshot, live),
                outside(&snapshot, "n1").contains(uid),
            )
        };
        assert_eq!(
            put("web", Enrolment::No(crate::model::Outside::NotAsked)),
            (Leaving::Released, true)
        );
        let another = put("another", Enrolment::No(crate::model::Outside::NotAsked));
        assert_eq!(another, (Leaving::Closed, true), "of the same name");
        let enrolled = put("web", Enrolment::Yes(OnAgentDown::Closed));
        assert_eq!(enrolled, (Leaving::Closed, false));
    }
}
