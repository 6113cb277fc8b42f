//! How a TrafficPolicy fares with each Service that it names, in the API's words.

use std::time::SystemTime;

use super::{Holders, words};
use crate::model::Snapshot;
use crate::model::traffic_policy::{PolicyKind, PolicyTarget, TrafficPolicy};

/// Of one of its targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TargetStatus {
    pub(crate) target: PolicyTarget,
    /// It holds there.
    pub(crate) is_accepted: bool,
    /// One of the API's words.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Holders {
    /// Of what a policy of their namespace says now, beside all that the snapshot has. In the
    /// order of names.
    #[must_use]
    pub(crate) fn status(
        &self,
        snapshot: &Snapshot,
        policy: &TrafficPolicy,
        now: SystemTime,
    ) -> Vec<TargetStatus> {
        let targets = policy.targets.iter();
        let of_target = |target: &PolicyTarget| {
            let (reason, message) = accepted((snapshot, self, now), policy, target);
            TargetStatus {
                target: target.clone(),
                is_accepted: reason == "Accepted",
                reason,
                message,
            }
        };
        targets.map(of_target).collect()
    }
}

/// Of one policy alone.
#[cfg(test)]
pub(crate) fn status(
    snapshot: &Snapshot,
    policy: &TrafficPolicy,
    now: SystemTime,
) -> Vec<TargetStatus> {
    Holders::new(snapshot, &policy.namespace).status(snapshot, policy, now)
}

fn accepted(
    (snapshot, holders, now): (&Snapshot, &Holders, SystemTime),
    policy: &TrafficPolicy,
    target: &PolicyTarget,
) -> (&'static str, String) {
    if let Some(fault) = &policy.fault {
        let instead = match (policy.is_known, policy.kind) {
            (true, _) => "its last good version holds",
            (false, PolicyKind::XBackendTrafficPolicy) => {
                "it has no effect where no last good version is known"
            }
            (false, PolicyKind::TrafficPolicy) => {
                "but for the rate limits that can be read it has no effect where no last good version is known"
            }
        };
        return ("Invalid", format!("{fault}; {instead}"));
    }
    let key = policy.target(target);
    let Some(service) = snapshot.services.get(&key) else {
        return ("TargetNotFound", format!("there is no Service {key}"));
    };
    let section = target.section.as_deref();
    if let Some(name) = section
        && !service.ports.iter().any(|port| port.name == name)
    {
        let message = format!("Service {key} has no port {name:?}");
        return ("TargetNotFound", message);
    }
    let holds = holders.of(&key.name, (policy.kind, section));
    if let Some(other) = holds.filter(|other| !other.is(policy)) {
        let message = format!("{} is older, and holds for the same", other.title());
        return ("Conflicted", message);
    }
    let own = holders.of(&key.name, (PolicyKind::TrafficPolicy, None));
    if policy.kind == PolicyKind::XBackendTrafficPolicy
        && let Some(own) = own.filter(|own| own.says.retry_budget.is_some())
    {
        let message = format!(
            "{} says a retryBudget for the same, which goes first",
            own.title()
        );
        return ("Conflicted", message);
    }
    let mut message = match section {
        Some(name) => format!("it holds for port {name:?} of Service {key}"),
        None => format!("it holds for Service {key}"),
    };
    let ports = service.ports.iter().filter(|port| !port.name.is_empty());
    for port in ports.filter(|_| section.is_none()) {
        let own = (PolicyKind::TrafficPolicy, Some(&*port.name));
        let other = holders.of(&key.name, own);
        let other = other.filter(|other| match policy.kind {
            PolicyKind::TrafficPolicy => true,
            PolicyKind::XBackendTrafficPolicy => other.says.retry_budget.is_some(),
        });
        if let Some(other) = other {
            message.push_str(&format!(
                "; what {} says of its port {:?} goes first there",
                other.title(),
                port.name
            ));
        }
    }
    for fault in policy.says.faults.iter().flat_map(|all| all.iter()) {
        message.push_str(&format!("; {}", words::fault(fault, now)));
    }
    if !policy.without_effect.is_empty() {
        let fields = policy.without_effect.join(", ");
        message.push_str(&format!("; read, but without effect yet: {fields}"));
    }
    ("Accepted", message)
}
