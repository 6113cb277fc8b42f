//! What a place said last, where it cannot be understood now.
//!
//! A guess stands for a policy of which it cannot be told which one it is. It ends where
//! it is known what it stands for, and for nothing else: guesses are told apart by kind,
//! name and how much they refuse, never by their number. One whose ALLOW can be read
//! grants nothing to anybody, which is the most that this ALLOW could refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use smallvec::SmallVec;

use super::documents::Parsed;
use super::kinds::{Contradiction, KindId, Part, Parts};
use super::objects::{Kind, Object};
use super::{core, policies};
use crate::model::policy::Action;

/// Of a guess.
const STANDS: &str =
    "which policy this is cannot be told: until it can, what it may be about is refused";
/// How many policies of one name are searched for the same one.
const MOST_OF_A_NAME: usize = 100;

/// Which objects of a list have a name, in their order.
type ByName = BTreeMap<String, SmallVec<[usize; 1]>>;

/// Adds to the objects that parse now the former version of those that do not;
/// of policies what restricts, never a grant. To be asked where a place has a
/// mistake: where it has none, what it does not name is gone.
pub(super) fn keep_last_good(now: &mut Parsed, before: &[Arc<Object>]) {
    let said = by_name(&now.objects);
    let mut missing = Vec::new();
    for (name, former) in by_name(before) {
        let former: Vec<&Arc<Object>> = former.iter().map(|at| &before[*at]).collect();
        let is_policy = former[0].kind.is_policy();
        match said.get(&name) {
            // Of a policy even a mistake elsewhere may be a slip of its name.
            None if is_policy => missing.extend(former.into_iter().map(closed)),
            None if now.hides => now.objects.extend(former.into_iter().cloned()),
            None => {}
            Some(said) if is_policy => missing.extend(hold(&mut now.objects, said, former)),
            Some(said) => {
                for (nth, at) in said.iter().enumerate() {
                    let former = former[nth.min(former.len() - 1)];
                    core::fill(&mut now.objects[*at], former);
                }
            }
        }
    }
    for kind in KindId::policies() {
        settle_guesses(kind, now, before, &mut missing);
    }
    let guesses = now.objects.iter().filter(|object| object.is_guess());
    let problems = guesses.map(|guess| guess.problem("", STANDS.to_owned()));
    now.problems.extend(problems);
    now.objects.extend(missing);
}

/// Has something that was said before no object of its name now? What is the very same memory,
/// at the beginning and at the end, is not looked at.
pub(super) fn says_less(now: &[Arc<Object>], before: &[Arc<Object>]) -> bool {
    let same = |(a, b): &(&Arc<Object>, &Arc<Object>)| Arc::ptr_eq(a, b);
    let begin = now.iter().zip(before).take_while(same).count();
    let (now, before) = (&now[begin..], &before[begin..]);
    let ends = now.iter().rev().zip(before.iter().rev());
    let end = ends.take_while(same).count();
    let (now, before) = (&now[..now.len() - end], &before[..before.len() - end]);
    let said = by_name(now);
    by_name(before).keys().any(|name| !said.contains_key(name))
}

/// A guess has no name of its own, nor has what may be anything.
fn by_name(objects: &[Arc<Object>]) -> ByName {
    let mut names = ByName::new();
    for (at, object) in objects.iter().enumerate() {
        if !object.is_guess() && object.kind.id().is_some() {
            names.entry(object.name()).or_default().push(at);
        }
    }
    names
}

/// As it stands where nobody can say that it is meant.
fn closed(object: &Arc<Object>) -> Arc<Object> {
    let mut object = object.clone();
    policies::fail_closed(Arc::make_mut(&mut object));
    object
}

/// Policies of one name: what has a mistake now is as it was, where that is better and not of
/// one that went before. Where the name stands more than once, those that are as they were
/// are the same ones; of others it cannot be told which is which, and a mistake of them
/// stays. Gives those of which some are missing.
fn hold(now: &mut [Arc<Object>], said: &[usize], former: Vec<&Arc<Object>>) -> Vec<Arc<Object>> {
    let is_alone = said.len() == 1 && former.len() == 1;
    let mut said = said.to_vec();
    let mut others: Vec<&Arc<Object>> = Vec::new();
    for object in former {
        let is_it = |at: &usize| is_same(&now[*at], object);
        match said.iter().take(MOST_OF_A_NAME).position(is_it) {
            Some(nth) => {
                said.remove(nth);
            }
            None => others.push(object),
        }
    }
    if let ([at], [object]) = (&*said, &*others) {
        let has = |part| object.unread.contains(part);
        let is_it = !has(Part::Gone) && (is_alone || !has(Part::Hidden));
        let mut object = closed(object);
        if is_it && object.kind.is_better_than(&now[*at].kind) {
            // It is said, whatever was known of it before.
            Arc::make_mut(&mut object).unread = Parts::default();
            now[*at] = object;
        }
        return Vec::new();
    }
    match others.len() > said.len() {
        true => others.into_iter().map(closed).collect(),
        false => Vec::new(),
    }
}

fn is_same(one: &Object, other: &Object) -> bool {
    let (one, other) = ((&one.meta, &one.kind), (&other.meta, &other.kind));
    Kind::contradiction(one, other) == Contradiction::None
}

/// How much a guess refuses of those of its kind.
fn strictness(guess: &Object) -> u8 {
    match &guess.kind {
        Kind::AuthorizationPolicy(policy) if policy.dry_run => 0,
        Kind::AuthorizationPolicy(policy) if policy.action == Action::Allow => 1,
        _ => 2,
    }
}

/// Where something hides, what was guessed before holds on.
fn settle_guesses(
    kind: KindId,
    now: &mut Parsed,
    before: &[Arc<Object>],
    missing: &mut [Arc<Object>],
) {
    let (new, held) = unlike(kind, &now.objects, before);
    // One that was guessed before may be called by no name now.
    let other = if now.hides { 0 } else { held.len() };
    let name = |at: usize| (at, now.objects[at].meta.name.as_str());
    let guesses: Vec<(usize, &str)> = new.into_iter().map(name).collect();
    let come = come(kind, &now.objects, before);
    let known = same(kind, &guesses, (&come, other), missing);
    let found: BTreeSet<usize> = known.values().copied().collect();
    for (at, policy) in missing.iter_mut().enumerate() {
        if policy.kind.id() == Some(kind) {
            let is_gone = !now.hides || policy.unread.contains(Part::Gone);
            let part = match found.contains(&at) {
                true => None,
                false if is_gone => Some(Part::Gone),
                false => Some(Part::Hidden),
            };
            Arc::make_mut(policy).unread = part.into_iter().collect();
        }
    }
    let mut at = 0;
    now.objects.retain(|_| {
        at += 1;
        !known.contains_key(&(at - 1))
    });
    if now.hides {
        now.objects.extend(held.into_iter().cloned());
    }
}

fn is_guess(kind: KindId, object: &Object) -> bool {
    object.is_guess() && object.kind.id() == Some(kind)
}

fn is_known(kind: KindId, object: &Object) -> bool {
    !object.is_guess() && object.kind.id() == Some(kind)
}

/// The guesses that were not there before, and those that are no more: of one name, what is
/// stricter stands for what was weaker, too.
fn unlike<'b>(
    kind: KindId,
    now: &[Arc<Object>],
    before: &'b [Arc<Object>],
) -> (Vec<usize>, Vec<&'b Arc<Object>>) {
    let mut held: BTreeMap<(&str, u8), Vec<&Arc<Object>>> = BTreeMap::new();
    for guess in before.iter().filter(|object| is_guess(kind, object)) {
        let same = held.entry((guess.meta.name.as_str(), strictness(guess)));
        same.or_default().push(guess);
    }
    let mut new: Vec<usize> = (0..now.len())
        .filter(|at| is_guess(kind, &now[*at]))
        .collect();
    let mut take = |name, strictness| {
        let key: (&str, u8) = (name, strictness);
        held.get_mut(&key).and_then(Vec::pop).is_some()
    };
    new.retain(|at| !take(now[*at].meta.name.as_str(), strictness(&now[*at])));
    new.retain(|at| {
        let name = now[*at].meta.name.as_str();
        !(0..strictness(&now[*at])).any(|weaker| take(name, weaker))
    });
    (new, held.into_values().flatten().collect())
}

/// How many policies of a name the place did not have before.
fn come<'n>(
    kind: KindId,
    now: &'n [Arc<Object>],
    before: &[Arc<Object>],
) -> BTreeMap<&'n str, usize> {
    let before = before.iter().filter(|object| is_known(kind, object));
    let before: BTreeSet<String> = before.map(|object| object.name()).collect();
    let mut come = BTreeMap::new();
    for object in now.iter().filter(|object| is_known(kind, object)) {
        if !before.contains(&object.name()) {
            *come.entry(object.meta.name.as_str()).or_default() += 1;
        }
    }
    come
}

/// Which new guesses are policies that are missing: both have one name, or the guess has
/// none. The last good version of that policy says better what it denies, so it must be one
/// that may still be in the place ([`Part::Gone`]), and not what has come under that name; nor,
/// without a name, any that has come, or one of the `other` guesses.
fn same(
    kind: KindId,
    guesses: &[(usize, &str)],
    (come, other): (&BTreeMap<&str, usize>, usize),
    missing: &[Arc<Object>],
) -> BTreeMap<usize, usize> {
    let mut open: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, object) in missing.iter().enumerate() {
        let is_there = !object.unread.contains(Part::Gone);
        if is_known(kind, object) && is_there && object.kind.restricts() {
            open.entry(object.meta.name.as_str()).or_default().push(at);
        }
    }
    let mut known = BTreeMap::new();
    for (at, name) in guesses {
        let left = open.get_mut(name);
        let left = left.filter(|left| left.len() > come.get(name).copied().unwrap_or(0));
        known.extend(left.and_then(Vec::pop).map(|policy| (*at, policy)));
    }
    let is_sure = |at: &usize| !missing[*at].unread.contains(Part::Hidden);
    let left: Vec<usize> = open.into_values().flatten().filter(is_sure).collect();
    let spare = left
        .len()
        .saturating_sub(come.values().sum::<usize>() + other);
    let nameless = guesses
        .iter()
        .filter(|(_, name)| *name == policies::NAMELESS);
    let nameless = nameless.map(|(at, _)| *at);
    known.extend(nameless.zip(left.into_iter().take(spare)));
    known
}
