//! `mesh-agent status traffic`: how each TrafficPolicy fares with each of its Services.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::listed;
use super::routes::ConditionRow;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TrafficList {
    pub(crate) generation: u64,
    pub(crate) policies: Vec<TrafficRow>,
    /// Of how many these are.
    pub(crate) total: usize,
}

/// One policy with one of its targets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TrafficRow {
    /// `TrafficPolicy`, `XBackendTrafficPolicy`. An agent of before knew the first alone, and
    /// does not say it.
    #[serde(default = "own_kind")]
    pub(crate) kind: String,
    /// `namespace/name`.
    pub(crate) policy: String,
    /// `namespace/name`, with the port where one is named.
    pub(crate) service: String,
    /// `Accepted`.
    pub(crate) condition: ConditionRow,
    /// What differs from the defaults on that Service or port now, a sentence each.
    pub(crate) in_force: Vec<String>,
}

fn own_kind() -> String {
    "TrafficPolicy".to_owned()
}

/// A line for each policy and target, and below it what it says.
#[must_use]
pub(crate) fn text(list: &TrafficList) -> String {
    let none = "no TrafficPolicy names a Service\n";
    listed::text(&list.policies, list.total, none, line)
}

fn line(text: &mut String, row: &TrafficRow) {
    let _never = writeln!(
        text,
        "{} {}  for Service {}  {}\n    {}",
        row.kind, row.policy, row.service, row.condition.reason, row.condition.message
    );
    for one in &row.in_force {
        let _never = writeln!(text, "    {one}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The command of a new agent is asked of one that runs already.
    #[test]
    fn what_an_agent_of_before_says_is_read() {
        let row = serde_json::json!({
            "policy": "shop/web", "service": "shop/web", "in_force": [],
            "condition": {"type": "Accepted", "holds": true, "reason": "Accepted", "message": ""},
        });
        let row: TrafficRow = serde_json::from_value(row).expect("a row");
        assert_eq!(row.kind, "TrafficPolicy");
    }

    #[test]
    fn a_policy_is_told_with_what_becomes_of_it_below() {
        let list = TrafficList {
            generation: 1,
            policies: vec![TrafficRow {
                kind: "TrafficPolicy".to_owned(),
                policy: "shop/web".to_owned(),
                service: "shop/web port \"http\"".to_owned(),
                condition: ConditionRow {
                    kind: "Accepted".to_owned(),
                    holds: false,
                    reason: "TargetNotFound".to_owned(),
                    message: "there is no Service shop/web".to_owned(),
                },
                in_force: vec!["at most 7 connections".to_owned()],
            }],
            total: 2,
        };
        assert_eq!(
            text(&list),
            "TrafficPolicy shop/web  for Service shop/web port \"http\"  TargetNotFound\n    there is no Service shop/web\n    at most 7 connections\n1 more are not shown\n"
        );
    }
}
