//! `mesh-agent status traffic`: how each TrafficPolicy fares with each of its Services.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::routes::ConditionRow;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficList {
    pub generation: u64,
    pub policies: Vec<TrafficRow>,
    /// Of how many these are.
    pub total: usize,
}

/// One policy with one of its targets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficRow {
    /// `namespace/name`.
    pub policy: String,
    /// `namespace/name`, with the port where one is named.
    pub service: String,
    /// `Accepted`.
    pub condition: ConditionRow,
    /// What differs from the defaults on that Service or port now, a sentence each.
    pub in_force: Vec<String>,
}

/// A line for each policy and target, and below it what it says.
#[must_use]
pub fn text(list: &TrafficList) -> String {
    let mut text = String::new();
    if list.policies.is_empty() {
        text.push_str("no TrafficPolicy names a Service\n");
    }
    for row in &list.policies {
        let _never = writeln!(
            text,
            "TrafficPolicy {}  for Service {}  {}\n    {}",
            row.policy, row.service, row.condition.reason, row.condition.message
        );
        for one in &row.in_force {
            let _never = writeln!(text, "    {one}");
        }
    }
    let left = list.total.saturating_sub(list.policies.len());
    if left > 0 {
        let _never = writeln!(text, "{left} more are not shown");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_told_with_what_becomes_of_it_below() {
        let list = TrafficList {
            generation: 1,
            policies: vec![TrafficRow {
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
