//! An object, as far as its status goes.

use std::time::SystemTime;

use serde::Deserialize;
use serde_json::Value;

use super::conditions::{Condition, merge};
use super::parents::{self, ANCESTORS, Kept, PARENTS, Parent};
use crate::cluster::Metadata;

/// What an object says that decides about its status.
#[derive(Deserialize)]
pub(super) struct Slim {
    pub(super) metadata: Metadata,
    #[serde(default)]
    pub(super) status: Option<Status>,
}

#[derive(Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    pub(super) conditions: Option<Vec<Value>>,
    #[serde(default)]
    pub(super) parents: Option<Vec<Value>>,
    #[serde(default)]
    pub(super) ancestors: Option<Vec<Value>>,
}

/// What is to be said of one version of an object.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    Conditions(Vec<Condition>),
    /// Of a route: by its parents.
    Parents(Vec<Parent>),
    /// Of a policy for Services: by its targets.
    Ancestors(Vec<Parent>),
}

/// The list in its status as it is to be; None where nothing is to be written.
pub(super) fn after(object: &Slim, wanted: &Verdict) -> Option<(&'static str, Vec<Value>)> {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let generation = object.metadata.generation;
    let status = object.status.as_ref();
    match wanted {
        Verdict::Conditions(wanted) => {
            let before = status.and_then(|s| s.conditions.as_deref());
            let said = merge(before.unwrap_or_default(), wanted, generation, &now);
            Some(("conditions", said.ok()?))
        }
        Verdict::Parents(wanted) => {
            let before = status.and_then(|s| s.parents.as_deref());
            of_list(PARENTS, before, wanted, (generation, &now))
        }
        Verdict::Ancestors(wanted) => {
            let before = status.and_then(|s| s.ancestors.as_deref());
            of_list(ANCESTORS, before, wanted, (generation, &now))
        }
    }
}

/// Of those that are to be said of how many nothing is, and how long the list may be.
pub(super) fn left_out(object: &Slim, wanted: &Verdict) -> Option<(usize, Kept)> {
    let status = object.status.as_ref();
    let (kept, before, wanted) = match wanted {
        Verdict::Conditions(_) => return None,
        Verdict::Parents(wanted) => (PARENTS, status.and_then(|s| s.parents.as_deref()), wanted),
        Verdict::Ancestors(wanted) => {
            let before = status.and_then(|s| s.ancestors.as_deref());
            (ANCESTORS, before, wanted)
        }
    };
    let count = parents::left_out(kept, before.unwrap_or_default(), wanted);
    (count > 0).then_some((count, kept))
}

fn of_list(
    kept: Kept,
    before: Option<&[Value]>,
    wanted: &[Parent],
    (generation, now): (i64, &str),
) -> Option<(&'static str, Vec<Value>)> {
    let said = parents::merge(kept, before.unwrap_or_default(), wanted, generation, now);
    Some((kept.list, said.ok()?))
}
