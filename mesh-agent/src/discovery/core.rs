//! Objects that say what there is, as Kubernetes writes them.
//!
//! One object is read from one value, wherever that comes from. Null is
//! absent; fields of v1 that are not served are passed over, others are told.
//! Each field is read by itself: what cannot be understood is a mistake and a
//! [`Part`] of the object that is not known, which its last good version
//! fills, and without one means the closed of two possibilities. It never
//! means "outside the mesh".

mod classify;
mod unknown;

use std::sync::Arc;

use super::kinds::{Found, KindId, Meta, Part, Parts};
use super::objects::Object;
use super::origin::Origin;
use super::tree::Node;
use super::{Code, Problem};
use crate::model::Labels;
pub(super) use classify::{Class, classify};
pub(super) use unknown::{of_text, of_unread, of_value};

/// Reads an object; `None` where it does not say which it is.
pub(super) fn object(
    origin: &Origin,
    kind: KindId,
    value: &Node<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Object> {
    let mut found = Found::default();
    let meta = Meta::read(&value["metadata"], &mut found);
    let named = meta.is_some();
    let object = Object {
        origin: origin.clone(),
        meta: meta.unwrap_or_else(|| Meta::recovered(None, "?")),
        kind: kind.read_fact(value, &mut found)?,
        unread: found.unread,
    };
    problems.extend(
        found
            .mistakes
            .into_iter()
            .map(|(f, m)| object.problem(&f, m)),
    );
    let advisories = found.advisories.into_iter();
    problems.extend(advisories.map(|(f, m)| object.problem_of(Code::Advisory, &f, m)));
    named.then_some(object)
}

/// What `object` does not say so that it can be understood is as `before` said it.
pub(super) fn fill(object: &mut Arc<Object>, before: &Object) {
    if object.unread.is_empty() {
        return;
    }
    let object = Arc::make_mut(object);
    let unread = std::mem::take(&mut object.unread);
    let open = unread.iter().filter(|part| !filled(object, before, *part));
    let open: Parts = open.collect();
    object.unread = open;
}

/// False where the last version does not know it either.
fn filled(object: &mut Object, before: &Object, part: Part) -> bool {
    if before.unread.contains(part) {
        return false;
    }
    let under = |now: &mut Labels, before: &Labels| {
        now.change(|now| {
            for (key, value) in before.iter() {
                now.entry(key.clone()).or_insert_with(|| value.clone());
            }
        });
    };
    match part {
        Part::Labels => under(&mut object.meta.labels, &before.meta.labels),
        Part::Annotations => under(&mut object.meta.annotations, &before.meta.annotations),
        _ => return object.kind.fill(&before.kind, part),
    }
    true
}
