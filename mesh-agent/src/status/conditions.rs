//! One object's list of conditions, of which some entries are ours. Pure.

use serde_json::{Value, json};

/// Begins the type of each condition that is ours.
pub(super) const OURS: &str = "mesh-agent.io/";

/// What is to be said of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// After the prefix; of a route the whole name, which is the API's own.
    pub(crate) kind: &'static str,
    pub(crate) holds: Holds,
    /// One word in CamelCase, stable.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    True,
    False,
    Unknown,
}

impl From<bool> for Holds {
    fn from(holds: bool) -> Self {
        match holds {
            true => Self::True,
            false => Self::False,
        }
    }
}

/// Longest text in a condition.
const MAX_MESSAGE: usize = 1_024;

impl Condition {
    /// To be told, beside being said.
    pub(super) fn is_wrong(&self) -> bool {
        self.holds == Holds::False && !self.kind.ends_with("Programmed")
    }

    fn name(&self) -> String {
        format!("{OURS}{}", self.kind)
    }

    fn status(&self) -> &'static str {
        match self.holds {
            Holds::True => "True",
            Holds::False => "False",
            Holds::Unknown => "Unknown",
        }
    }

    fn text(&self) -> String {
        let all = &self.message;
        match all.char_indices().nth(MAX_MESSAGE) {
            Some((end, _)) => format!("{}…", &all[..end]),
            None => all.clone(),
        }
    }

    /// `now`: as the API writes times. A time of change is kept until it changes.
    pub(super) fn entry(
        &self,
        name: &str,
        before: Option<&Value>,
        generation: i64,
        now: &str,
    ) -> Value {
        let since = before.filter(|b| b["status"] == self.status());
        let since = since.and_then(|b| b["lastTransitionTime"].as_str());
        json!({
            "type": name,
            "status": self.status(),
            "reason": self.reason,
            "message": self.text(),
            "observedGeneration": generation,
            "lastTransitionTime": since.unwrap_or(now),
        })
    }
}

/// Why nothing is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// It says so already.
    Same,
    /// Somebody has judged a newer object than this one.
    Newer,
}

/// The whole list as it is to be. Foreign entries stay as and where they are; ours
/// of kinds that are said no more go.
pub(super) fn merge(
    before: &[Value],
    wanted: &[Condition],
    generation: i64,
    now: &str,
) -> Result<Vec<Value>, Leave> {
    let is_ours = |entry: &Value| {
        let kind = entry["type"].as_str();
        kind.is_some_and(|kind| kind.starts_with(OURS))
    };
    if before
        .iter()
        .any(|e| is_ours(e) && seen(e) > Some(generation))
    {
        return Err(Leave::Newer);
    }
    let mut after = Vec::with_capacity(before.len() + wanted.len());
    let mut missing: Vec<&Condition> = wanted.iter().collect();
    for entry in before {
        if !is_ours(entry) {
            after.push(entry.clone());
            continue;
        }
        // Of two with one type the first is it.
        let of_kind = |c: &&Condition| entry["type"] == c.name();
        if let Some(at) = missing.iter().position(of_kind) {
            let condition = missing.remove(at);
            after.push(condition.entry(&condition.name(), Some(entry), generation, now));
        }
    }
    let new = missing.iter();
    after.extend(new.map(|c| c.entry(&c.name(), None, generation, now)));
    let same = before.len() == after.len() && before.iter().zip(&after).all(is_same);
    match same {
        true => Err(Leave::Same),
        false => Ok(after),
    }
}

/// None where the API server does not keep it.
pub(super) fn seen(entry: &Value) -> Option<i64> {
    let generation = &entry["observedGeneration"];
    let text = || generation.as_str()?.parse().ok();
    generation.as_i64().or_else(text)
}

/// Fields that the API server adds or leaves out are no difference.
pub(super) fn is_same((before, after): (&Value, &Value)) -> bool {
    let same = |name: &str| before[name] == after[name];
    let generation = seen(before).is_none() || seen(before) == seen(after);
    ["type", "status", "reason", "message"]
        .iter()
        .all(|n| same(n))
        && generation
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02T00:00:00Z";
    const BEFORE: &str = "2026-01-01T00:00:00Z";

    fn accepted(holds: bool) -> Condition {
        Condition {
            kind: "Accepted",
            holds: holds.into(),
            reason: "Valid",
            message: "it is in force".to_owned(),
        }
    }

    fn entry(kind: &str, status: &str, generation: i64) -> Value {
        json!({
            "type": kind, "status": status, "reason": "Valid", "message": "it is in force",
            "observedGeneration": generation, "lastTransitionTime": BEFORE,
        })
    }

    #[test]
    fn foreign_entries_stay_as_and_where_they_are() {
        let foreign = json!({"type": "Reconciled", "status": "True", "odd": [1]});
        let last = json!({"type": "WaypointAccepted", "status": "False"});
        let before = [
            foreign.clone(),
            entry("mesh-agent.io/Accepted", "False", 1),
            entry("mesh-agent.io/Former", "True", 1),
            last.clone(),
        ];
        let after = merge(&before, &[accepted(true)], 2, NOW).expect("a change");
        assert_eq!(after.len(), 3);
        assert_eq!((&after[0], &after[2]), (&foreign, &last));
        assert_eq!(after[1]["status"], "True");
        assert_eq!(after[1]["lastTransitionTime"], NOW);
        assert_eq!(after[1]["observedGeneration"], 2);
    }

    #[test]
    fn a_time_of_change_is_kept_and_what_is_said_already_is_not_written() {
        let before = [entry("mesh-agent.io/Accepted", "True", 1)];
        let newer = merge(&before, &[accepted(true)], 2, NOW).expect("another generation");
        assert_eq!(newer[0]["lastTransitionTime"], BEFORE);
        assert_eq!(merge(&newer, &[accepted(true)], 2, NOW), Err(Leave::Same));
        let mut other = accepted(true);
        other.message = "else".to_owned();
        let told = merge(&newer, &[other], 2, NOW).expect("another message");
        assert_eq!(told[0]["lastTransitionTime"], BEFORE);
    }

    #[test]
    fn what_a_newer_judge_wrote_is_left() {
        let before = [entry("mesh-agent.io/Accepted", "False", 5)];
        assert_eq!(merge(&before, &[accepted(true)], 4, NOW), Err(Leave::Newer));
        let mut text = before.clone();
        text[0]["observedGeneration"] = json!("5");
        assert_eq!(merge(&text, &[accepted(true)], 4, NOW), Err(Leave::Newer));
        // A foreign entry says nothing about ours.
        let foreign = [entry("Reconciled", "True", 9)];
        assert!(merge(&foreign, &[accepted(true)], 4, NOW).is_ok());
    }

    #[test]
    fn a_server_that_drops_the_generation_is_not_written_to_for_ever() {
        let mut before = [entry("mesh-agent.io/Accepted", "True", 1)];
        before[0]
            .as_object_mut()
            .expect("it")
            .remove("observedGeneration");
        assert_eq!(merge(&before, &[accepted(true)], 7, NOW), Err(Leave::Same));
    }

    #[test]
    fn a_long_message_is_cut() {
        let mut long = accepted(true);
        long.message = "ä".repeat(5_000);
        let after = merge(&[], &[long], 1, NOW).expect("a change");
        let text = after[0]["message"].as_str().expect("text");
        assert_eq!(text.chars().count(), MAX_MESSAGE + 1);
    }
}
