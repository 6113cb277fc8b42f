//! What a place said last, where it cannot be understood now.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::documents::Parsed;
use super::kinds::KindId;
use super::objects::{Kind, Object};
use super::{core, policies};

/// Of a guess.
const STANDS: &str =
    "which policy this is cannot be told: until it can, what it may be about is refused";

/// Adds to the objects that parse now the former version of those that do not;
/// of policies what restricts, never a grant. To be asked where a place has a
/// mistake: where it has none, what it does not name is gone.
pub(super) fn keep_last_good(now: &mut Parsed, before: &[Arc<Object>]) {
    // A guess has no name of its own.
    let names = now
        .objects
        .iter()
        .enumerate()
        .filter(|(_, o)| !o.is_guess());
    let names: BTreeMap<String, usize> = names.map(|(at, o)| (o.name(), at)).collect();
    let mut missing = Vec::new();
    for object in before {
        let is_policy = object.kind.is_policy();
        let mut object = object.clone();
        if is_policy {
            policies::fail_closed(Arc::make_mut(&mut object));
        }
        match names.get(&object.name()) {
            _ if matches!(&object.kind, Kind::Unknown(_)) => {}
            // What was guessed before is guessed anew, or known; else see below.
            _ if object.is_guess() => {}
            // Of a policy even a mistake elsewhere may be a slip of its name.
            None if is_policy => missing.push(object),
            None if now.hides => now.objects.push(object),
            None => {}
            Some(&at) if object.kind.is_better_than(&now.objects[at].kind) => {
                now.objects[at] = object;
            }
            Some(_) if is_policy => {}
            Some(&at) => core::fill(&mut now.objects[at], &object),
        }
    }
    for kind in KindId::policies() {
        settle_guesses(kind, now, before, &missing);
    }
    let guesses = now.objects.iter().filter(|object| object.is_guess());
    let problems = guesses.map(|guess| guess.problem("", STANDS.to_owned()));
    now.problems.extend(problems);
    now.objects.extend(missing);
}

/// A policy that is named no more, and one that nobody knows which it is, are one where both
/// are so since this version: its last good one says better what it denies than a guess. A
/// guess that stood beside it before is of another one, and so may one be where a policy of
/// another name has come. Where something hides, what was guessed before holds on.
fn settle_guesses(kind: KindId, now: &mut Parsed, before: &[Arc<Object>], missing: &[Arc<Object>]) {
    let is_guess = |object: &&Arc<Object>| object.is_guess() && object.kind.id() == Some(kind);
    let is_known = |object: &&Arc<Object>| !object.is_guess() && object.kind.id() == Some(kind);
    let guessed = before.iter().filter(is_guess);
    let new = now.objects.iter().filter(is_guess).count();
    match new.checked_sub(guessed.clone().count()) {
        Some(new) => {
            let was_known = |name: &str| before.iter().any(|object| object.name() == name);
            let come = now.objects.iter().filter(is_known);
            let come = come.filter(|object| !was_known(&object.name())).count();
            let restricting = missing.iter().filter(is_known);
            let restricting = restricting.filter(|object| object.kind.restricts()).count();
            let mut same = new.min(restricting.saturating_sub(come));
            now.objects.retain(|object| {
                let is_same = same > 0 && is_guess(&object);
                same -= usize::from(is_same);
                !is_same
            });
        }
        None if now.hides => now.objects.extend(guessed.skip(new).cloned()),
        None => {}
    }
}
