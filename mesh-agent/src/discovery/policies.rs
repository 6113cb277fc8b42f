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

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::Problem;
use super::documents::typed;
use super::kinds::Meta;
use super::objects::{Kind, Object, Origin};
use super::tree::{Node, View};
use crate::model::ServiceKey;
use crate::model::policy::{Action, AuthorizationPolicy, Scope};
use peer::peer_authentication;
use rules::rule;
pub(super) use safe::{restrict, salvage, unreadable};

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

/// A mistake: path of the field, and what is wrong.
type Mistake = (String, String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Selector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetRef {
    #[serde(default)]
    group: String,
    kind: String,
    name: String,
    namespace: Option<String>,
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

fn reason(mistakes: &[Mistake]) -> Option<String> {
    mistakes.first().map(|(f, m)| format!("{f}: {m}"))
}

fn unknown(value: &Node<'_>, known: &[&str], at: &str, mistakes: &mut Vec<Mistake>) {
    match value.view() {
        View::Null => {}
        View::Mapping(map) => {
            let unknown = map.keys().filter(|k| !known.contains(k));
            for key in unknown.take(10) {
                let field = format!("{at}.{key}").trim_start_matches('.').to_owned();
                mistakes.push((
                    field,
                    format!("unknown field; known are {}", known.join(", ")),
                ));
            }
        }
        _ => mistakes.push((at.to_owned(), "expected a mapping".to_owned())),
    }
}

/// A field with nothing behind it: an editing slip. Read as absent, as the API
/// server would, an empty `action` is ALLOW and an empty `from` is everybody.
fn nulls(value: &Node<'_>, at: &str, mistakes: &mut Vec<Mistake>) {
    if mistakes.len() >= 10 {
        return;
    }
    match value.view() {
        View::Null => mistakes.push((at.to_owned(), "must not be empty".to_owned())),
        View::Mapping(map) => {
            for (key, value) in map.iter() {
                nulls(value, &format!("{at}.{key}"), mistakes);
            }
        }
        View::List(list) => {
            for (i, value) in list.iter().enumerate() {
                nulls(value, &format!("{at}[{i}]"), mistakes);
            }
        }
        View::Bool(_) | View::Number(_) | View::Text(_) => {}
    }
}

fn scope(spec: &Node<'_>, meta: &Meta, trusted: bool, mistakes: &mut Vec<Mistake>) -> Scope {
    let read = || -> Result<Scope, Mistake> {
        let mut targets: Vec<TargetRef> = Vec::new();
        if !spec["targetRefs"].is_null() {
            targets = typed(&spec["targetRefs"], "spec.targetRefs")?;
        }
        if !spec["targetRef"].is_null() {
            targets.push(typed(&spec["targetRef"], "spec.targetRef")?);
        }
        if spec["selector"].is_null() {
            return services(&targets, meta);
        }
        let selector: Selector = typed(&spec["selector"], "spec.selector")?;
        let wrong = |m: &str| Err(("spec.selector".to_owned(), m.to_owned()));
        if !targets.is_empty() {
            return wrong("not together with targetRefs");
        }
        let labels = selector.match_labels;
        if labels
            .iter()
            .any(|(k, v)| k.is_empty() || k.contains('*') || v.contains('*'))
        {
            return wrong("labels are compared exactly: no \"*\", no empty key");
        }
        // An empty selector is no selector.
        Ok(match labels.is_empty() {
            true => Scope::Namespace,
            false => Scope::Labels(labels),
        })
    };
    let scope = read().unwrap_or_else(|mistake| {
        mistakes.push(mistake);
        Scope::Namespace
    });
    if trusted { scope } else { Scope::Mesh }
}

fn services(targets: &[TargetRef], meta: &Meta) -> Result<Scope, Mistake> {
    let mut services = Vec::new();
    for (i, target) in targets.iter().enumerate() {
        let at = format!("spec.targetRefs[{i}]");
        if target.kind != "Service" || !matches!(target.group.as_str(), "" | "core") {
            return Err((at, format!("{:?} is not served, only Service", target.kind)));
        }
        if target
            .namespace
            .as_deref()
            .is_some_and(|n| n != meta.namespace())
        {
            return Err((
                at,
                "the Service must be in the policy's namespace".to_owned(),
            ));
        }
        services.push(ServiceKey::new(meta.namespace(), &target.name));
    }
    Ok(if services.is_empty() {
        Scope::Namespace
    } else {
        Scope::Services(services)
    })
}
