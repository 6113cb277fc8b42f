//! What stands for policies that cannot be read as they are.

use std::collections::BTreeSet;

use crate::discovery::kinds::{KindId, Meta, Part, Parts};
use crate::discovery::objects::Object;
use crate::discovery::origin::Origin;
use crate::discovery::tree::Node;

/// In place of a namespace; none is called so.
const UNREADABLE: &str = "(unreadable)";

/// A document that is not YAML but speaks of policy: something to deny by.
/// One of each kind that it names, for a lost separator may have joined two.
pub(in crate::discovery) fn recover(text: &str) -> Vec<Node<'static>> {
    let find = |key: &'static str| {
        let parts = text.lines().flat_map(|l| l.split([',', '{', '}']));
        parts
            .filter_map(move |part| part.trim().strip_prefix(key))
            .map(|value| unquoted(value.trim()).to_owned())
    };
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
    let value = |kind: KindId| {
        let about = kind.about();
        let metadata = [
            ("name", Node::text(name.clone())),
            ("namespace", namespace.clone()),
        ];
        Node::mapping([
            (
                "apiVersion",
                Node::text(about.api_versions().next().unwrap_or_default()),
            ),
            ("kind", Node::text(about.name)),
            ("metadata", Node::mapping(metadata)),
            ("spec", Node::text("is not YAML")),
        ])
    };
    let spoken_of = KindId::policies().filter(|kind| kind.is_spoken_of(text));
    let mut kinds: Vec<KindId> = spoken_of.collect();
    let of_group = |kind: KindId| text.contains(&format!("{}/", kind.about().group));
    // Of one of the group, whichever: one that denies.
    if kinds.is_empty() && KindId::policies().any(of_group) {
        kinds.push(KindId::AuthorizationPolicy);
    }
    kinds.into_iter().map(value).collect()
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
    let meta = Meta::recovered(Some(UNREADABLE), &origin.place.name());
    let object = |kind| Object {
        origin: origin.clone(),
        meta: meta.clone(),
        kind,
        unread: Parts::from_iter([Part::Name]),
    };
    let why = "the file cannot be read, and nothing is known of what it says";
    let anything = KindId::policies().filter_map(|kind| kind.anything(UNREADABLE, &meta.name, why));
    anything.map(object).collect()
}

/// What stays of a policy when its file no longer parses: DENY as it was, no grant.
pub(in crate::discovery) fn fail_closed(object: &mut Object) {
    object.kind.fail_closed("its file has mistakes");
}
