//! What stands for policies that cannot be read as they are.

use std::collections::{BTreeMap, BTreeSet};

use super::{GROUP, KINDS};
use crate::discovery::kinds::Meta;
use crate::discovery::objects::{Kind, Object};
use crate::discovery::origin::Origin;
use crate::discovery::tree::Node;
use crate::model::policy::{Action, AuthorizationPolicy, PeerAuthentication, Scope};

/// In place of a namespace; none is called so.
const UNREADABLE: &str = "(unreadable)";

/// A document that is not YAML but speaks of policy: something to deny by.
/// One of each kind that it names, for a lost separator may have joined two.
pub(in crate::discovery) fn salvage(text: &str) -> Vec<Node<'static>> {
    let find = |key: &'static str| {
        let parts = text.lines().flat_map(|l| l.split([',', '{', '}']));
        parts
            .filter_map(move |part| part.trim().strip_prefix(key))
            .map(|value| unquoted(value.trim()).to_owned())
    };
    let says = |fields: &[&str]| fields.iter().all(|field| text.contains(field));
    let peer = text.contains(KINDS[1]) || says(&["mtls:"]) || says(&["portLevelMtls:"]);
    let rules = says(&["rules:", "source:"]) || says(&["rules:", "operation:"]);
    let acts = says(&["action:", "ALLOW"]) || says(&["action:", "DENY"]);
    let policy = text.contains(KINDS[0]) || rules || acts || (!peer && text.contains(GROUP));
    let said: Vec<String> = find("namespace: ").collect();
    let namespaces: BTreeSet<&String> = said.iter().collect();
    // Of two objects in one document each has to say it.
    let is_one = namespaces.len() == 1 && said.len() >= text.matches("metadata:").count();
    // Without one namespace to go by, the metadata is not trusted.
    let namespace = match said.first() {
        Some(one) if is_one && is_label(one) => Node::text(one.clone()),
        _ => Node::bool(false),
    };
    let name = find("name: ").next().unwrap_or_else(|| "?".into());
    let value = |kind: &'static str| {
        let metadata = [
            ("name", Node::text(name.clone())),
            ("namespace", namespace.clone()),
        ];
        Node::mapping([
            ("apiVersion", Node::text("security.istio.io/v1")),
            ("kind", Node::text(kind)),
            ("metadata", Node::mapping(metadata)),
            ("spec", Node::text("is not YAML")),
        ])
    };
    let kinds = KINDS.iter().zip([policy, peer]);
    kinds.filter(|(_, is)| *is).map(|(k, _)| value(k)).collect()
}

fn unquoted(text: &str) -> &str {
    let bare = ['"', '\''].into_iter().find_map(|mark| {
        let text = text.strip_prefix(mark)?;
        text.strip_suffix(mark)
    });
    bare.unwrap_or(text)
}

/// A DNS label, as every namespace is called.
fn is_label(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| is_word(b) || b == b'-')
        && [text.bytes().next(), text.bytes().last()]
            .into_iter()
            .all(|b| b.is_some_and(is_word))
}

/// Stands for a file of which nothing is known: denies all, and asks for TLS.
pub(in crate::discovery) fn unreadable(origin: &Origin) -> Vec<Object> {
    let meta = Meta::salvaged(Some(UNREADABLE), &origin.place.name());
    let broken =
        || Some("the file cannot be read, and nothing is known of what it says".to_owned());
    let policy = AuthorizationPolicy {
        namespace: UNREADABLE.to_owned(),
        name: meta.name.to_string(),
        action: Action::Deny,
        dry_run: false,
        scope: Scope::Mesh,
        rules: Vec::new(),
        broken: broken(),
    };
    let peer = PeerAuthentication {
        namespace: UNREADABLE.to_owned(),
        name: meta.name.to_string(),
        created: None,
        scope: Scope::Mesh,
        mode: None,
        ports: BTreeMap::new(),
        broken: broken(),
    };
    let object = |kind| Object {
        origin: origin.clone(),
        meta: meta.clone(),
        kind,
        unread: BTreeSet::new(),
    };
    vec![
        object(Kind::Policy(Box::new(policy))),
        object(Kind::Peer(Box::new(peer))),
    ]
}

/// What stays of a policy when its file no longer parses: DENY as it was, no grant.
pub(in crate::discovery) fn restrict(object: &mut Object) {
    let reason = || Some("its file has mistakes".to_owned());
    match &mut object.kind {
        Kind::Policy(policy) if policy.action == Action::Allow => {
            policy.rules.clear();
            policy.broken = reason();
        }
        Kind::Peer(peer) => peer.broken = reason(),
        _ => {}
    }
}
