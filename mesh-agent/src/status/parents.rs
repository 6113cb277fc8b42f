//! One route's list of parents, or one policy's of ancestors, of which some entries
//! are ours. Pure.

use serde_json::{Value, json};

use super::conditions::{Condition, Leave, seen};

/// Who says it.
pub(crate) const CONTROLLER: &str = "mesh-agent.io/mesh";
/// How the API calls the list of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) list: &'static str,
    /// In an entry, whom it is about.
    pub(super) reference: &'static str,
    pub(super) most: usize,
}

pub(super) const PARENTS: Kept = Kept {
    list: "parents",
    reference: "parentRef",
    most: 32,
};
pub(super) const ANCESTORS: Kept = Kept {
    list: "ancestors",
    reference: "ancestorRef",
    most: 16,
};

/// What is to be said of a route with one of its parents, or of a policy with one of
/// its targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    /// As the object names it.
    pub(crate) reference: Value,
    pub(crate) conditions: Vec<Condition>,
}

/// The whole list as it is to be. Foreign entries stay as and where they are;
/// ours of parents that are named no more go.
pub(super) fn merge(
    kept: Kept,
    before: &[Value],
    wanted: &[Parent],
    generation: i64,
    now: &str,
) -> Result<Vec<Value>, Leave> {
    let is_ours = |entry: &&Value| entry["controllerName"] == CONTROLLER;
    let ours = before.iter().filter(is_ours);
    let mut told = ours.flat_map(conditions);
    if told.any(|condition| seen(condition) > Some(generation)) {
        return Err(Leave::Newer);
    }
    let mut after: Vec<Value> = Vec::with_capacity(before.len() + wanted.len());
    let mut missing: Vec<&Parent> = wanted.iter().collect();
    for entry in before {
        if !is_ours(&entry) {
            after.push(entry.clone());
            continue;
        }
        let of_parent = |parent: &&Parent| entry[kept.reference] == parent.reference;
        if let Some(at) = missing.iter().position(of_parent) {
            after.push(said(
                kept,
                (missing.remove(at), Some(entry)),
                generation,
                now,
            ));
        }
    }
    let new = missing
        .iter()
        .map(|parent| said(kept, (parent, None), generation, now));
    // Of more there is no room beside the others': [`left_out`] says so.
    let room = kept.most.saturating_sub(after.len());
    after.extend(new.take(room));
    match is_same(kept, before, &after) {
        true => Err(Leave::Same),
        false => Ok(after),
    }
}

/// For how many of them there is no room beside the others' entries.
pub(super) fn left_out(kept: Kept, before: &[Value], wanted: &[Parent]) -> usize {
    let others = before
        .iter()
        .filter(|entry| entry["controllerName"] != CONTROLLER);
    let room = kept.most.saturating_sub(others.count());
    wanted.len().saturating_sub(room)
}

fn conditions(entry: &Value) -> &[Value] {
    entry["conditions"].as_array().map_or(&[], |all| all)
}

fn said(
    kept: Kept,
    (parent, before): (&Parent, Option<&Value>),
    generation: i64,
    now: &str,
) -> Value {
    let told = before.map_or(&[][..], conditions);
    let one = |condition: &Condition| {
        let before = told.iter().find(|entry| entry["type"] == condition.kind);
        condition.entry(condition.kind, before, generation, now)
    };
    let conditions: Vec<Value> = parent.conditions.iter().map(one).collect();
    json!({
        kept.reference: parent.reference,
        "controllerName": CONTROLLER,
        "conditions": conditions,
    })
}

fn is_same(kept: Kept, before: &[Value], after: &[Value]) -> bool {
    let same = |(before, after): (&Value, &Value)| {
        let (was, is) = (conditions(before), conditions(after));
        ["controllerName", kept.reference]
            .iter()
            .all(|name| before[*name] == after[*name])
            && was.len() == is.len()
            && was.iter().zip(is).all(super::conditions::is_same)
    };
    before.len() == after.len() && before.iter().zip(after).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02T00:00:00Z";
    const BEFORE: &str = "2026-01-01T00:00:00Z";

    fn parent(name: &str, holds: bool) -> Parent {
        Parent {
            reference: json!({"group": "", "kind": "Service", "name": name}),
            conditions: vec![Condition {
                kind: "Accepted",
                holds: holds.into(),
                reason: "Accepted",
                message: "it is".to_owned(),
            }],
        }
    }

    fn entry(controller: &str, name: &str, status: &str, generation: i64) -> Value {
        json!({
            "controllerName": controller,
            "parentRef": {"group": "", "kind": "Service", "name": name},
            "conditions": [{
                "type": "Accepted", "status": status, "reason": "Accepted", "message": "it is",
                "observedGeneration": generation, "lastTransitionTime": BEFORE,
            }],
        })
    }

    #[test]
    fn others_entries_stay_ours_change_in_place_and_stale_ones_go() {
        let foreign = entry("other.example/gateway", "web", "False", 9);
        let before = [
            entry(CONTROLLER, "gone", "True", 1),
            foreign.clone(),
            entry(CONTROLLER, "web", "True", 1),
        ];
        let wanted = [parent("db", true), parent("web", false)];
        let after = merge(PARENTS, &before, &wanted, 2, NOW).expect("a change");
        let names: Vec<_> = after.iter().map(|e| &e["parentRef"]["name"]).collect();
        assert_eq!(names, ["web", "web", "db"]);
        assert_eq!(after[0], foreign);
        let condition = &after[1]["conditions"][0];
        assert_eq!(
            (&condition["status"], &condition["observedGeneration"]),
            (&json!("False"), &json!(2))
        );
        assert_eq!(condition["lastTransitionTime"], NOW);
        assert_eq!(merge(PARENTS, &after, &wanted, 2, NOW), Err(Leave::Same));
        assert_eq!(merge(PARENTS, &after, &wanted, 1, NOW), Err(Leave::Newer));
    }

    #[test]
    fn a_time_of_change_is_kept_where_only_the_generation_is_another() {
        let before = [entry(CONTROLLER, "web", "True", 1)];
        let after = merge(PARENTS, &before, &[parent("web", true)], 2, NOW).expect("a change");
        assert_eq!(after[0]["conditions"][0]["lastTransitionTime"], BEFORE);
    }

    #[test]
    fn there_is_never_more_than_the_api_has_room_for() {
        let before: Vec<Value> = (0..31)
            .map(|n| entry("o/c", &n.to_string(), "True", 1))
            .collect();
        let wanted: Vec<Parent> = (0..5).map(|n| parent(&n.to_string(), true)).collect();
        let after = merge(PARENTS, &before, &wanted, 1, NOW).expect("a change");
        assert_eq!(after.len(), 32);
        assert_eq!(left_out(PARENTS, &before, &wanted), 4);
        // Its own places are taken anew.
        assert_eq!(left_out(PARENTS, &after, &wanted), 4);
        assert_eq!(left_out(PARENTS, &before[4..], &wanted), 0);
        assert_eq!(left_out(ANCESTORS, &before, &wanted), 5);
    }
}
