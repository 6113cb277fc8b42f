//! What a place said last, where it cannot be understood now.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::documents::Parsed;
use super::objects::{Kind, Object};
use super::{core, policies};

/// Of a guess.
const STANDS: &str =
    "which policy this is cannot be told: until it can, what it may be about is refused";

/// Adds to the objects that parse now the former version of those that do not;
/// of policies what restricts, never a grant. To be asked where a place has a
/// mistake: where it has none, what it does not name is gone.
pub(super) fn keep_last_good(now: &mut Parsed, before: &[Arc<Object>]) {
    let names = now.objects.iter().enumerate().map(|(at, o)| (o.name(), at));
    let names: BTreeMap<String, usize> = names.collect();
    let mut missing = Vec::new();
    for object in before {
        let is_policy = object.kind.is_policy();
        let mut object = object.clone();
        if is_policy {
            policies::fail_closed(Arc::make_mut(&mut object));
        }
        match names.get(&object.name()) {
            _ if matches!(&object.kind, Kind::Unknown(_)) => {}
            // What was guessed before is guessed anew, or known.
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
    // Nothing is known of it yet, nor can be guessed now: what was guessed holds on.
    let guesses = |objects: &[Arc<Object>]| objects.iter().any(|object| object.is_guess());
    if now.hides && missing.is_empty() && !guesses(&now.objects) {
        let guesses = before.iter().filter(|object| object.is_guess());
        now.objects.extend(guesses.cloned());
    }
    for object in &missing {
        forget_guess(&mut now.objects, object);
    }
    let guesses = now.objects.iter().filter(|object| object.is_guess());
    let problems = guesses.map(|guess| guess.problem("", STANDS.to_owned()));
    now.problems.extend(problems);
    now.objects.extend(missing);
}

/// A policy that is named no more, beside one of which it is not known which it is: they are
/// one, and its last version says better what it denies than a guess.
fn forget_guess(objects: &mut Vec<Arc<Object>>, known: &Object) {
    let is_alike = |guess: &Object| guess.is_guess() && guess.kind.id() == known.kind.id();
    let alike = objects.iter().position(|object| is_alike(object));
    let any = || objects.iter().position(|object| object.is_guess());
    if let Some(at) = alike.or_else(any) {
        objects.remove(at);
    }
}
