//! What `mesh-agent status traffic` shows.

use std::time::SystemTime;

use crate::admin::MAX_ROWS;
use crate::admin::routes::ConditionRow;
use crate::admin::traffic::{TrafficList, TrafficRow};
use crate::model::traffic_policy::{PolicyTarget, TrafficPolicy};
use crate::model::{ServicePort, Snapshot};
use crate::traffic::{self, Holders, TargetStatus};

pub(super) fn list(snapshot: &Snapshot) -> TrafficList {
    let policies = || snapshot.traffic_policies.iter();
    let total = policies().map(|policy| policy.targets.len()).sum();
    let now = SystemTime::now();
    let mut holders = Holders::default();
    let rows = policies().flat_map(|policy| {
        holders.follow(snapshot, &policy.namespace);
        let all = holders.status(snapshot, policy, now).into_iter();
        all.map(|status| row(snapshot, policy, status))
    });
    TrafficList {
        generation: snapshot.generation,
        policies: rows.take(MAX_ROWS).collect(),
        total,
    }
}

fn row(snapshot: &Snapshot, policy: &TrafficPolicy, status: TargetStatus) -> TrafficRow {
    let mut service = policy.target(&status.target).to_string();
    if let Some(section) = &status.target.section {
        service.push_str(&format!(" port {section:?}"));
    }
    let in_force = in_force(snapshot, policy, &status.target);
    TrafficRow {
        kind: policy.kind.name().to_owned(),
        policy: format!("{}/{}", policy.namespace, policy.name),
        service,
        condition: ConditionRow {
            kind: "Accepted".to_owned(),
            holds: status.is_accepted,
            reason: status.reason.to_owned(),
            message: status.message,
        },
        in_force,
    }
}

fn in_force(snapshot: &Snapshot, policy: &TrafficPolicy, target: &PolicyTarget) -> Vec<String> {
    let Some(service) = snapshot.services.get(&policy.target(target)) else {
        return Vec::new();
    };
    let now = SystemTime::now();
    let named = |port: &&ServicePort| target.section.as_deref() == Some(&*port.name);
    match (&target.section, service.ports.iter().find(named)) {
        (None, _) => traffic::words(&service.traffic, now),
        (Some(_), Some(port)) => traffic::words(service.traffic(port), now),
        (Some(_), None) => Vec::new(),
    }
}
