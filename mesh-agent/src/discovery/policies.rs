//! Objects that restrict: AuthorizationPolicy and PeerAuthentication.
//!
//! What is not understood is reported and stays in force in its safe form: an
//! ALLOW grants nothing, a DENY denies all that it selects, a
//! PeerAuthentication is STRICT. Where the action cannot be told it is DENY,
//! where the selection cannot be told it is the namespace, and where the
//! metadata cannot be trusted the whole mesh.

mod recover;

use super::Problem;
use super::fields::{Mistake, nulls, typed, unknown};
use super::kinds::{KindId, Meta, OBJECT_META, Part, Parts};
use super::objects::Object;
use super::origin::Origin;
use super::tree::Node;
use crate::model::kubernetes_name::is_label;
pub(super) use recover::{NAMELESS, fail_closed, recover, unreadable};

/// Kinds of a group of policies that is no policy, and not served.
const NO_POLICY: &str = "RequestAuthentication";

/// Also what only looks like a policy: it must not vanish by a misspelling.
pub(super) fn is_policy(value: &Node<'_>) -> bool {
    let kind = value["kind"].as_text().unwrap_or_default();
    let api = value["apiVersion"].as_text().unwrap_or_default();
    let group = api.split_once('/').map_or("", |(group, _)| group);
    KindId::policies().any(|id| {
        let about = id.about();
        about.name.eq_ignore_ascii_case(kind)
            || (about.group == group && kind != NO_POLICY)
            || (!is_fact(api, kind) && id.is_in(&value["spec"]))
    })
}

/// Named as something else that is known: of the core in its version, else by a
/// name that nobody else has.
fn is_fact(api: &str, kind: &str) -> bool {
    let mut facts = KindId::ALL.iter().filter(|id| !id.is_policy());
    facts.any(|id| {
        let about = id.about();
        about.name == kind && (!about.group.is_empty() || about.is_served_as(api))
    })
}

pub(super) fn parse(
    origin: &Origin,
    value: &Node<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Object> {
    let mut mistakes = Vec::new();
    let named = KindId::policies().find(|id| value["kind"] == id.about().name);
    if named.is_none() {
        let message = format!("{} is not served", value["kind"]);
        mistakes.push(("kind".to_owned(), message));
    }
    // What only looks like a policy may be the one that denies.
    let id = named.unwrap_or(KindId::AuthorizationPolicy);
    let api = value["apiVersion"].as_text().unwrap_or_default();
    if !id.about().is_served_as(api) {
        let (group, versions) = (id.about().group, id.about().versions.join(" or "));
        let message = format!("{api:?} is not {group}/{versions}");
        mistakes.push(("apiVersion".to_owned(), message));
    }
    let top = ["apiVersion", "kind", "metadata", "spec", "status"];
    let before = mistakes.len();
    unknown(value, &top, "", &mut mistakes);
    if value.get("spec").is_some() {
        nulls(&value["spec"], "spec", &mut mistakes);
    }
    // A field too little indented has slipped out of the metadata or the spec.
    let whole = mistakes.len() == before;
    let before = mistakes.len();
    let (meta, unread) = metadata(value, &mut mistakes);
    let trusted = mistakes.len() == before && whole;
    let kind = id.read_policy(value, (&meta, trusted), &mut mistakes)?;
    let object = Object {
        origin: origin.clone(),
        meta,
        kind,
        unread,
    };
    problems.extend(mistakes.into_iter().map(|(f, m)| object.problem(&f, m)));
    Some(object)
}

/// With what of it is not known: which policy it is, or nothing.
fn metadata(value: &Node<'_>, mistakes: &mut Vec<Mistake>) -> (Meta, Parts) {
    let unnamed = || Parts::from_iter([Part::Name]);
    unknown(&value["metadata"], OBJECT_META, "metadata", mistakes);
    match typed::<Meta>(&value["metadata"], "metadata") {
        Ok(meta) => {
            // It selects by its namespace.
            if is_label(meta.namespace()) {
                return (meta, Parts::default());
            }
            let message = format!("{:?} is no name of a namespace", meta.namespace());
            mistakes.push(("metadata.namespace".to_owned(), message));
            (meta, unnamed())
        }
        Err(mistake) => {
            mistakes.push(mistake);
            let text = |f: &str| value["metadata"][f].as_text();
            (
                Meta::recovered(text("namespace"), text("name").unwrap_or(NAMELESS)),
                unnamed(),
            )
        }
    }
}
