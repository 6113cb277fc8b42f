//! The condition that says on how many nodes an object is in force, beside what a judge
//! says of it.
//!
//! It is counted until all nodes have it, once for each generation: what was in force
//! everywhere stays said, however nodes come, go or fall silent afterwards. An agent
//! that starts is not ready before it has all that there is. So a node that goes costs no
//! write of every object.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;

use super::conditions::{Condition, Holds, OURS, seen};
use super::nodes::{Count, Nodes, PENDING, PROGRAMMED, SILENT, Tally};
use super::object::{Slim, Verdict};
use super::parents::{ANCESTORS, CONTROLLER, Kept, PARENTS, Parent};

/// After the prefix.
const KIND: &str = "Programmed";
/// In a route's list, where nothing is prefixed.
const WHOLE: &str = "mesh-agent.io/Programmed";
const ACCEPTED: &str = "Accepted";

/// What is counted is as old as this at most.
const FRESH: Duration = Duration::from_millis(200);

/// The count of now, made once for many objects.
#[derive(Default)]
pub(super) struct Counting {
    nodes: Option<Arc<Nodes>>,
    made: Mutex<Option<(Instant, Arc<Tally>)>>,
}

impl Counting {
    pub(super) fn new(nodes: Option<Arc<Nodes>>) -> Self {
        Self {
            nodes,
            made: Mutex::default(),
        }
    }

    pub(super) fn tally(&self) -> Option<Arc<Tally>> {
        let (nodes, now) = (self.nodes.as_ref()?, Instant::now());
        let mut made = self.made.lock();
        if let Some((at, tally)) = &*made
            && now.saturating_duration_since(*at) < FRESH
        {
            return Some(tally.clone());
        }
        let tally = nodes.tally(now).map(Arc::new);
        *made = tally.clone().map(|tally| (now, tally));
        tally
    }

    pub(super) fn hold(&self, is_held: bool, now: Instant) {
        if let Some(nodes) = &self.nodes {
            nodes.hold(is_held, now);
        }
    }

    /// Until a node has said something new. For ever where none is counted.
    pub(super) async fn changed(&self) {
        match &self.nodes {
            Some(nodes) => nodes.changed.notified().await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn counts(&self) -> bool {
        self.nodes.is_some()
    }
}

/// Which version of an object was seen first with what it says now.
#[derive(Default)]
pub(super) struct Firsts(HashMap<String, First>);

struct First {
    uid: String,
    generation: i64,
    version: u64,
}

impl Firsts {
    /// None where versions are no numbers: nothing can be counted.
    pub(super) fn version(&self, path: &str, object: &Slim) -> Option<u64> {
        let metadata = &object.metadata;
        let first = self
            .0
            .get(path)
            .filter(|first| first.generation == metadata.generation && first.uid == metadata.uid);
        let own = || metadata.resource_version.parse().ok();
        first.map(|first| first.version).or_else(own)
    }

    pub(super) fn note(&mut self, path: &str, object: &Slim) {
        let Some(version) = self.version(path, object) else {
            return;
        };
        let first = First {
            uid: object.metadata.uid.clone(),
            generation: object.metadata.generation,
            version,
        };
        self.0.insert(path.to_owned(), first);
    }

    pub(super) fn forget(&mut self, path: &str) {
        self.0.remove(path);
    }
}

/// Of an object that is not in force everywhere yet, as far as is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) kind: String,
    /// As `NAMESPACE/NAME`.
    pub(super) object: String,
    pub(super) version: u64,
    /// The last that was said of it.
    pub(super) said: Option<String>,
}

/// When a count that is not of all nodes is said.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Say {
    Now,
    /// Only where nothing was said yet: a write for each node that comes would be as
    /// many events for all of them.
    WhenEverywhere,
}

/// A list's path as agents name the kind.
pub(super) fn kind(list: &str) -> Option<String> {
    let mut parts = list.rsplit('/');
    let (plural, _version, group) = (parts.next()?, parts.next()?, parts.next()?);
    Some(format!("{plural}.{group}"))
}

/// Says it with what is accepted. Some where it is to be counted again.
pub(super) fn add(
    (list, version): (&str, Option<u64>),
    object: &Slim,
    (tally, say): (Option<&Tally>, Say),
    verdict: &mut Verdict,
) -> Option<Pending> {
    let (kind, version) = (kind(list)?, version?);
    let name = format!("{}/{}", object.metadata.namespace, object.metadata.name);
    let count = tally.map(|tally| tally.count((&kind, &name), version));
    // Without an agent anywhere it is in force nowhere, and everywhere.
    let count = count.filter(|count| count.nodes > 0);
    let mut pending = Pending {
        kind,
        object: name,
        version,
        said: None,
    };
    let generation = object.metadata.generation;
    let mut is_pending = false;
    let mut add = |conditions: &mut Vec<Condition>, name, before: &[Value], whole: &str| {
        let accepted = |one: &Condition| one.kind == ACCEPTED && one.holds == Holds::True;
        if !conditions.iter().any(accepted) {
            return;
        }
        let before = before.iter().find(|entry| entry["type"] == whole);
        let before = before.filter(|entry| seen(entry) == Some(generation));
        let before = before.and_then(|entry| kept(name, entry));
        let is_done = |one: &Condition| one.holds == Holds::True;
        let may_wait = |count: Count| say == Say::WhenEverywhere && !count.is_everywhere();
        let said = match (before, count) {
            (Some(before), _) if is_done(&before) => Some(before),
            (Some(before), Some(count)) if may_wait(count) => Some(before),
            (_, Some(count)) => Some(count.condition(name)),
            (before, None) => before,
        };
        if said.as_ref().is_none_or(|said| !is_done(said)) {
            is_pending = true;
            pending.said = said.as_ref().map(|said| said.message.clone());
        }
        conditions.extend(said);
    };
    let before = object.status.as_ref();
    match verdict {
        Verdict::Conditions(conditions) => {
            let before = before.and_then(|s| s.conditions.as_deref());
            let whole = format!("{OURS}{KIND}");
            add(conditions, KIND, before.unwrap_or_default(), &whole);
        }
        Verdict::Parents(parents) => {
            let before = before.and_then(|s| s.parents.as_deref());
            let before = (PARENTS, before.unwrap_or_default());
            each(before, parents, |conditions, told| {
                add(conditions, WHOLE, told, WHOLE);
            });
        }
        Verdict::Ancestors(targets) => {
            let before = before.and_then(|s| s.ancestors.as_deref());
            let before = (ANCESTORS, before.unwrap_or_default());
            each(before, targets, |conditions, told| {
                add(conditions, WHOLE, told, WHOLE);
            });
        }
    }
    is_pending.then_some(pending)
}

/// With what was said before of the same.
fn each(
    (kept, before): (Kept, &[Value]),
    wanted: &mut [Parent],
    mut add: impl FnMut(&mut Vec<Condition>, &[Value]),
) {
    for parent in wanted {
        let is_it = |entry: &&Value| {
            entry["controllerName"] == CONTROLLER && entry[kept.reference] == parent.reference
        };
        let entry = before.iter().find(is_it);
        let told = entry.and_then(|entry| entry["conditions"].as_array());
        add(&mut parent.conditions, told.map_or(&[][..], |told| told));
    }
}

/// As it was said before.
fn kept(name: &'static str, entry: &Value) -> Option<Condition> {
    let known = [
        ("True", Holds::True, PROGRAMMED),
        ("False", Holds::False, PENDING),
        ("Unknown", Holds::Unknown, SILENT),
    ];
    let of = known
        .iter()
        .find(|(status, _, reason)| entry["status"] == *status && entry["reason"] == *reason);
    let (_, holds, reason) = of?;
    Some(Condition {
        kind: name,
        holds: *holds,
        reason,
        message: entry["message"].as_str()?.to_owned(),
    })
}
