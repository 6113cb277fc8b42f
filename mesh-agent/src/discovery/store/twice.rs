//! Objects that are given twice: the stricter one counts.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::discovery::Problem;
use crate::discovery::kinds::{Contradiction, Parts};
use crate::discovery::objects::{Kind, Object};

/// One version of an object.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) object: Arc<Object>,
    /// Which one it is of its place.
    pub(super) nth: u32,
    /// Its place is not there at this moment.
    pub(super) away: bool,
}

/// What several versions of one object come to.
#[derive(Default)]
pub(super) struct Resolved {
    /// `None` where it is not given at all.
    pub(super) effective: Option<Arc<Object>>,
    pub(super) doubtful: bool,
    pub(super) contradicted: Parts,
    /// No address of a version that does not count is taken for outside.
    pub(super) left_out: BTreeSet<IpAddr>,
    pub(super) problems: Vec<Problem>,
}

/// That of places and documents never matters, but where all else is equal.
pub(super) fn order(a: &Given, b: &Given) -> Ordering {
    let rank = |given: &Given| {
        let strict = given.object.kind.strictness(&given.object.meta);
        (given.away, Reverse(strict), given.nth)
    };
    let (first, second) = (rank(a), rank(b));
    let places = || a.object.origin.place.cmp(&b.object.origin.place);
    let before = (first.0, first.1).cmp(&(second.0, second.1));
    before.then_with(places).then(first.2.cmp(&second.2))
}

/// Versions that count at all: what a file that is away said does only where
/// no other file says it now, for it may have been renamed.
fn counting(given: &[Given]) -> &[Given] {
    let here = given.iter().take_while(|given| !given.away).count();
    match here {
        0 => given,
        here => &given[..here],
    }
}

/// Versions that are in force: one, but of policies that differ each restricts.
pub(super) fn versions(given: &[Given]) -> impl Iterator<Item = &Arc<Object>> {
    let counting = counting(given);
    let first = counting.first();
    let in_force = move |given: &&Given| {
        first.is_some_and(|first| {
            std::ptr::eq(first, *given) || differs(&first.object, &given.object)
        })
    };
    counting.iter().filter(in_force).map(|given| &given.object)
}

pub(super) fn resolve(given: &[Given]) -> Resolved {
    let Some((first, others)) = counting(given).split_first() else {
        return Resolved::default();
    };
    let mut resolved = Resolved {
        effective: Some(first.object.clone()),
        ..Resolved::default()
    };
    for other in others {
        let object = &other.object;
        let contradiction = contradiction(&first.object, object);
        let message = said(object, &contradiction).to_owned();
        let problem = object.problem("metadata.name", message);
        resolved.problems.push(problem);
        match contradiction {
            Contradiction::None => {}
            Contradiction::Whole => resolved.doubtful = true,
            Contradiction::Parts(parts) => resolved.contradicted.extend(parts),
        }
        resolved.left_out.extend(object.kind.addresses());
    }
    resolved
}

/// What becomes of it.
fn said(object: &Object, contradiction: &Contradiction) -> &'static str {
    match (&object.kind, contradiction) {
        (Kind::RuntimeClass(_), Contradiction::Whole) => {
            "the object is given twice, and differently: none of them counts"
        }
        (kind, Contradiction::Whole) if kind.is_policy() => {
            "the object is given twice, and differently: each restricts and none grants"
        }
        _ => "the object is given twice; this one is ignored",
    }
}

fn contradiction(first: &Object, object: &Object) -> Contradiction {
    Kind::contradiction((&first.meta, &first.kind), (&object.meta, &object.kind))
}

/// Of policies.
fn differs(first: &Object, object: &Object) -> bool {
    first.kind.is_policy() && contradiction(first, object) != Contradiction::None
}

/// Why a policy grants nothing: nobody can say which of two is meant.
pub(super) fn doubt(doubtful: bool) -> Option<&'static str> {
    doubtful.then_some("the object is given twice, and differently")
}
