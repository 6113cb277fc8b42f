//! AuthorizationPolicy and PeerAuthentication.
//!
//! What is not understood is reported and stays in force in its safe form: an
//! ALLOW grants nothing, a DENY denies all that it selects, a
//! PeerAuthentication is STRICT. Where the action cannot be told it is DENY,
//! where the selection cannot be told it is the namespace, and where the
//! metadata cannot be trusted the whole mesh.

mod peer;
mod rules;
mod safe;
mod scope;

use std::collections::BTreeSet;

use super::Problem;
use super::fields::{Mistake, nulls, reason, typed, unknown};
use super::kinds::Meta;
use super::objects::{Kind, Object};
use super::origin::Origin;
use super::tree::{Node, View};
use crate::model::policy::{Action, AuthorizationPolicy};
use peer::peer_authentication;
use rules::rule;
pub(super) use safe::{restrict, salvage, unreadable};
use scope::scope;

const GROUP: &str = "security.istio.io/";
const KINDS: [&str; 2] = ["AuthorizationPolicy", "PeerAuthentication"];
const METADATA: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "labels",
    "annotations",
    "deletionTimestamp",
    "creationTimestamp",
    "resourceVersion",
    "generation",
    "generateName",
    "managedFields",
    "ownerReferences",
    "finalizers",
    "selfLink",
];

/// Also what only looks like a policy: it must not vanish by a misspelling.
pub(super) fn is_policy(value: &Node<'_>) -> bool {
    let kind = value["kind"].as_text().unwrap_or_default();
    let api = value["apiVersion"].as_text().unwrap_or_default();
    KINDS.iter().any(|k| k.eq_ignore_ascii_case(kind))
        || (api.starts_with(GROUP) && kind != "RequestAuthentication")
        || (!is_foreign(api, kind) && says_policy(&value["spec"]))
}

/// Named as something else that is known.
fn is_foreign(api: &str, kind: &str) -> bool {
    let core = ["Namespace", "ServiceAccount", "Service", "Pod"];
    (api == "v1" && core.contains(&kind)) || kind == "EndpointSlice"
}

/// Has fields that only these kinds have.
fn says_policy(spec: &Node<'_>) -> bool {
    let acts = matches!(
        spec["action"].as_text(),
        Some("ALLOW" | "DENY" | "AUDIT" | "CUSTOM")
    );
    let rules = spec["rules"].items().iter();
    let mut parts = rules.flat_map(|r| ["from", "to", "when"].map(|part| !r[part].is_null()));
    acts || parts.any(|is_there| is_there)
        || !spec["mtls"].is_null()
        || !spec["portLevelMtls"].is_null()
}

pub(super) fn parse(origin: &Origin, value: &Node<'_>, problems: &mut Vec<Problem>) -> Object {
    let mut mistakes = Vec::new();
    let peer = value["kind"] == "PeerAuthentication";
    if !peer && value["kind"] != "AuthorizationPolicy" {
        mistakes.push((
            "kind".to_owned(),
            format!("{} is not served", value["kind"]),
        ));
    }
    let api = value["apiVersion"].as_text().unwrap_or_default();
    if !matches!(api, "security.istio.io/v1" | "security.istio.io/v1beta1") {
        mistakes.push((
            "apiVersion".to_owned(),
            format!("{api:?} is not security.istio.io/v1 or v1beta1"),
        ));
    }
    let top = ["apiVersion", "kind", "metadata", "spec", "status"];
    let before = mistakes.len();
    unknown(value, &top, "", &mut mistakes);
    if value.get("spec").is_some() {
        nulls(&value["spec"], "spec", &mut mistakes);
    }
    // A field too little indented has slipped out of the metadata or the spec.
    let whole = mistakes.len() == before;
    let (meta, trusted) = metadata(value, &mut mistakes);
    let trusted = trusted && whole;
    let kind = if peer {
        Kind::Peer(Box::new(peer_authentication(
            value,
            &meta,
            trusted,
            &mut mistakes,
        )))
    } else {
        Kind::Policy(Box::new(policy(value, &meta, trusted, &mut mistakes)))
    };
    let object = Object {
        origin: origin.clone(),
        meta,
        kind,
        unread: BTreeSet::new(),
    };
    problems.extend(mistakes.into_iter().map(|(f, m)| object.problem(&f, m)));
    object
}

fn metadata(value: &Node<'_>, mistakes: &mut Vec<Mistake>) -> (Meta, bool) {
    let before = mistakes.len();
    unknown(&value["metadata"], METADATA, "metadata", mistakes);
    match typed::<Meta>(&value["metadata"], "metadata") {
        Ok(meta) => {
            // It selects by its namespace.
            if !is_label(meta.namespace()) {
                let message = format!("{:?} is no name of a namespace", meta.namespace());
                mistakes.push(("metadata.namespace".to_owned(), message));
            }
            (meta, mistakes.len() == before)
        }
        Err(mistake) => {
            mistakes.push(mistake);
            let text = |f: &str| value["metadata"][f].as_text();
            (
                Meta::salvaged(text("namespace"), text("name").unwrap_or("?")),
                false,
            )
        }
    }
}

/// A DNS label.
fn is_label(text: &str) -> bool {
    let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let inner = !text.starts_with('-') && !text.ends_with('-');
    (1..=63).contains(&text.len()) && inner && text.bytes().all(allowed)
}

fn policy(
    value: &Node<'_>,
    meta: &Meta,
    trusted: bool,
    mistakes: &mut Vec<Mistake>,
) -> AuthorizationPolicy {
    let spec = &value["spec"];
    let fields = [
        "selector",
        "targetRefs",
        "targetRef",
        "rules",
        "action",
        "provider",
    ];
    unknown(spec, &fields, "spec", mistakes);
    let misspelt = !mistakes.is_empty();
    let action = match spec["action"].view() {
        // What says "DENY" may be misspelt.
        View::Null if misspelt => Action::Deny,
        View::Null => Action::Allow,
        View::Text("ALLOW") => Action::Allow,
        View::Text("DENY") => Action::Deny,
        _ => {
            let other = &spec["action"];
            mistakes.push((
                "spec.action".to_owned(),
                format!(
                    "{other} is not served, only ALLOW and DENY; taken as a DENY of everything"
                ),
            ));
            Action::Deny
        }
    };
    if !spec["provider"].is_null() {
        mistakes.push(("spec.provider".to_owned(), "is not served".to_owned()));
    }
    let dry_run = match meta.annotations.get("istio.io/dry-run").map(String::as_str) {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            mistakes.push((
                "metadata.annotations".to_owned(),
                format!("istio.io/dry-run is {other:?}, expected \"true\" or \"false\""),
            ));
            false
        }
    };
    let scope = scope(spec, meta, trusted, mistakes);
    let mut rules = Vec::new();
    match spec["rules"].view() {
        View::Null => {}
        View::List(list) => {
            for (i, raw) in list.iter().enumerate() {
                match rule(raw, &format!("spec.rules[{i}]"), meta) {
                    Ok(rule) => rules.push(rule),
                    Err(mistake) => mistakes.push(mistake),
                }
            }
        }
        _ => mistakes.push(("spec.rules".to_owned(), "expected a list".to_owned())),
    }
    let broken = reason(mistakes);
    AuthorizationPolicy {
        namespace: meta.namespace().to_owned(),
        name: meta.name.to_string(),
        action,
        dry_run,
        scope,
        rules: if broken.is_some() { Vec::new() } else { rules },
        broken,
    }
}
