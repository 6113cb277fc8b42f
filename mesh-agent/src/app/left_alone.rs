//! The node's pods that are outside of the mesh, and why.

use crate::admin::LeftAlone;
use crate::model::{Enrolment, Outside, Snapshot, Unfit, Workload, WorkloadKey};

/// Rows that are shown.
const MAX_ROWS: usize = 1_000;

/// Those that somebody may look for first, and of how many these are.
pub(super) fn list(snapshot: &Snapshot, node: &str) -> (Vec<LeftAlone>, usize) {
    let of_node = snapshot.workloads.values().filter(|pod| pod.node == node);
    let outside = of_node.filter_map(|pod| match pod.enrolment {
        Enrolment::No(why) => Some((why, &pod.key, message(why, Some(pod)))),
        Enrolment::Yes(_) => None,
    });
    let on_host = snapshot.asked_on_host.iter().filter(|(_, on)| **on == node);
    let why = Outside::HostNetwork;
    let on_host = on_host.map(|(key, _)| (why, key, message(why, None)));
    let mut all: Vec<(Outside, &WorkloadKey, String)> = outside.chain(on_host).collect();
    all.sort_by(|(a, a_key, _), (b, b_key, _)| (b, a_key).cmp(&(a, b_key)));
    let total = all.len();
    let rows = all.into_iter().take(MAX_ROWS);
    let rows = rows.map(|(why, key, message)| LeftAlone {
        pod: key.to_string(),
        reason: why.reason().to_owned(),
        message,
    });
    (rows.collect(), total)
}

fn message(why: Outside, pod: Option<&Workload>) -> String {
    match why {
        Outside::NotAsked => {
            "neither it nor its namespace has the label mesh-agent.io/enrolled=true".to_owned()
        }
        Outside::OptedOut => {
            "its label, or its namespace's, is mesh-agent.io/enrolled=false".to_owned()
        }
        Outside::AnotherMesh => match pod.and_then(|pod| pod.on_node.unfit.as_ref()) {
            Some(unfit @ Unfit::AnotherMesh(_)) => unfit.to_string(),
            _ => "it is a pod of another mesh".to_owned(),
        },
        Outside::HostNetwork => "it is in its node's network (hostNetwork): its traffic is the node's, without mutual TLS and without an identity".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::model::OnAgentDown;

    #[test]
    fn what_is_left_alone_is_told_with_the_reason_and_what_is_odd_first() {
        let mut snapshot = Snapshot::default();
        let mut pod = |name: &str, node: &str, enrolment| {
            let mut pod = Workload::for_test("shop", name);
            pod.node = node.into();
            pod.enrolment = enrolment;
            snapshot.workloads.insert(Arc::new(pod));
        };
        pod("plain", "n1", Enrolment::No(Outside::NotAsked));
        pod("out", "n1", Enrolment::No(Outside::OptedOut));
        pod("other", "n1", Enrolment::No(Outside::AnotherMesh));
        pod("in", "n1", Enrolment::Yes(OnAgentDown::Closed));
        pod("away", "n2", Enrolment::No(Outside::OptedOut));
        let key = WorkloadKey::new("shop", "proxy");
        let on_host = [
            (key, "n1".into()),
            (WorkloadKey::new("shop", "far"), "n2".into()),
        ];
        snapshot.asked_on_host = Arc::new(BTreeMap::from(on_host));
        let (rows, total) = list(&snapshot, "n1");
        let told: Vec<_> = rows.iter().map(|row| (&*row.pod, &*row.reason)).collect();
        assert_eq!(
            told,
            [
                ("shop/proxy", "HostNetwork"),
                ("shop/other", "AnotherMesh"),
                ("shop/out", "OptedOut"),
                ("shop/plain", "NotAsked"),
            ]
        );
        assert_eq!(total, 4);
    }
}
