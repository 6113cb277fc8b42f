//! Core kinds as Kubernetes writes them.
//!
//! One object is read from one value, wherever that comes from. Null is
//! absent; fields of v1 that are not served are passed over, others are told.
//! Each field is read by itself: what cannot be understood is a mistake and a
//! [`Part`] of the object that is not known, which its last good version
//! fills, and without one means the closed of two possibilities. It never
//! means "outside the mesh".

mod fields;
mod pod;
mod read;
mod served;
mod service;
mod slice;
mod unknown;

use std::sync::Arc;

use super::kinds::{Meta, Part};
use super::objects::{Kind, Object};
use super::origin::Origin;
use super::tree::Node;
use super::{Code, Problem};
use crate::model::{Labels, Name};
use fields::{NAMESPACE, OBJECT_META, SERVICE_ACCOUNT};
use read::Found;
pub(super) use served::{Class, classify};
pub(super) use unknown::{of_text, of_unread, of_value};

/// Annotations and labels that mean something here begin so.
const OURS: &str = "mesh-agent.io/";

/// Reads an object of a core kind; `None` where it does not say which it is.
pub(super) fn object(
    origin: &Origin,
    class: Class,
    value: &Node<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Object> {
    let mut found = Found::default();
    let meta = meta(&value["metadata"], &mut found);
    let kind = match class {
        Class::Namespace => {
            found.names(value, "", NAMESPACE);
            Kind::Namespace
        }
        Class::ServiceAccount => {
            found.names(value, "", SERVICE_ACCOUNT);
            Kind::ServiceAccount
        }
        Class::Service => Kind::Service(Box::new(service::service(value, &mut found))),
        Class::EndpointSlice => {
            let slice = slice::slice(value, &mut found);
            Kind::EndpointSlice(Box::new(slice))
        }
        Class::Pod => Kind::Pod(Box::new(pod::pod(value, &mut found))),
        Class::Foreign | Class::Unserved(_) | Class::Wrong(_) => return None,
    };
    let named = meta.is_some();
    let object = Object {
        origin: origin.clone(),
        meta: meta.unwrap_or_else(|| Meta::salvaged(None, "?")),
        kind,
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

/// `None` without a name, or in a namespace that cannot be read.
fn meta(value: &Node<'_>, found: &mut Found) -> Option<Meta> {
    found.names(value, "metadata", OBJECT_META);
    let name = found.name(&value["name"], "metadata.name", Part::Nothing);
    let namespace = &value["namespace"];
    let namespace_text = found.name(namespace, "metadata.namespace", Part::Nothing);
    if name.is_none() && value["name"].is_null() {
        found.mistake("metadata.name", "is missing", Part::Nothing);
    }
    let is_whole = namespace.is_null() || namespace_text.is_some();
    let name = name.filter(|n| !n.is_empty() && is_whole)?;
    // The API server writes "" for absent.
    let namespace = namespace_text.filter(|n| !n.is_empty());
    let mut meta = Meta::salvaged(namespace.as_deref(), &name);
    let uid = found.text(&value["uid"], "metadata.uid", Part::Nothing);
    meta.uid = uid.map(Name::from);
    let labels = found.texts(&value["labels"], "metadata.labels", Part::Labels);
    meta.labels = labels.into();
    let annotations = &value["annotations"];
    let mut annotations = found.texts(annotations, "metadata.annotations", Part::Annotations);
    // The others can be large, and say nothing to the mesh.
    annotations.retain(|name, _| name.starts_with(OURS));
    meta.annotations = annotations.into();
    let deleted = &value["deletionTimestamp"];
    meta.deletion_timestamp = (!deleted.is_null()).then(|| deleted.to_string().into());
    Some(meta)
}

/// What `object` does not say so that it can be understood is as `before` said it.
pub(super) fn fill(object: &mut Arc<Object>, before: &Object) {
    if object.unread.is_empty() {
        return;
    }
    let object = Arc::make_mut(object);
    let unread = std::mem::take(&mut object.unread);
    let open = unread
        .into_iter()
        .filter(|part| !filled(object, before, *part));
    object.unread = open.collect();
}

/// False where the last version does not know it either.
fn filled(object: &mut Object, before: &Object, part: Part) -> bool {
    if before.unread.contains(&part) {
        return false;
    }
    let under = |now: &mut Labels, before: &Labels| {
        for (key, value) in before.iter() {
            let now = now.make_mut();
            now.entry(key.clone()).or_insert_with(|| value.clone());
        }
    };
    match part {
        Part::Labels => under(&mut object.meta.labels, &before.meta.labels),
        Part::Annotations => under(&mut object.meta.annotations, &before.meta.annotations),
        _ => match (&mut object.kind, &before.kind) {
            (Kind::Pod(now), Kind::Pod(before)) => now.fill(before, part),
            (Kind::Service(now), Kind::Service(before)) => now.fill(before, part),
            (Kind::EndpointSlice(now), Kind::EndpointSlice(before)) => now.fill(before),
            _ => return false,
        },
    }
    true
}
