//! AuthorizationPolicy: who may connect to whom.

use std::sync::Arc;

use super::about::{About, Followed, Policy};
use super::meta::Meta;
use super::rules::rule;
use super::scope::scope;
use crate::discovery::fields::{Mistake, reason, unknown};
use crate::discovery::tree::{Node, View};
use crate::model::policy::{Action, AuthorizationPolicy, Scope};
use crate::model::{ByNamespace, Snapshot};

impl Policy for AuthorizationPolicy {
    const ABOUT: About = About {
        name: "AuthorizationPolicy",
        group: "security.istio.io",
        versions: &["v1", "v1beta1"],
        plural: "authorizationpolicies",
        namespaced: true,
        followed: Followed::Whole,
        meaning: "who may connect to whom: ALLOW and DENY, for a namespace, labels or Services",
    };

    fn read(value: &Node<'_>, meta: &Meta, is_trusted: bool, mistakes: &mut Vec<Mistake>) -> Self {
        policy(value, meta, is_trusted, mistakes)
    }

    fn is_in(spec: &Node<'_>) -> bool {
        let acts = matches!(
            spec["action"].as_text(),
            Some("ALLOW" | "DENY" | "AUDIT" | "CUSTOM")
        );
        let rules = spec["rules"].items().iter();
        let mut parts = rules.flat_map(|r| ["from", "to", "when"].map(|part| !r[part].is_null()));
        acts || parts.any(|is_there| is_there)
    }

    fn is_spoken_of(text: &str) -> bool {
        let says = |fields: &[&str]| fields.iter().all(|field| text.contains(field));
        let rules = says(&["rules:", "source:"]) || says(&["rules:", "operation:"]);
        let acts = says(&["action:", "ALLOW"]) || says(&["action:", "DENY"]);
        text.contains(Self::ABOUT.name) || rules || acts
    }

    fn anything(namespace: &str, name: &str, why: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            action: Action::Deny,
            dry_run: false,
            scope: Scope::Mesh,
            rules: Vec::new(),
            broken: Some(why.to_owned()),
        }
    }

    /// A DENY stays as it is.
    fn fail_closed(&mut self, why: &str) {
        if self.action == Action::Allow {
            self.rules.clear();
            self.broken.get_or_insert_with(|| why.to_owned());
        }
    }

    fn restricts(&self) -> bool {
        !self.dry_run
    }

    /// Not the DENY of everything that stands for what is not understood: what
    /// it denied before is known.
    fn is_better_than(&self, now: &Self) -> bool {
        let is_whole = self.broken.is_none() && !self.dry_run;
        now.broken.is_some() && is_whole && self.action == Action::Deny
    }

    fn of(snapshot: &mut Snapshot) -> &mut ByNamespace<Arc<Self>> {
        &mut snapshot.policies
    }
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
