//! What stands for policies that cannot be read as they are.

use std::collections::{BTreeMap, BTreeSet};

use crate::discovery::kinds::{KindId, Meta, Part, Parts};
use crate::discovery::objects::Object;
use crate::discovery::origin::Origin;
use crate::discovery::tree::Node;
use crate::model::kubernetes_name::is_label;

/// In place of a namespace, or of a name; none is called so.
const UNREADABLE: &str = "(unreadable)";

/// A name that cannot be told.
pub(in crate::discovery) const NAMELESS: &str = "?";
/// Keys that each object has once.
const OF_OBJECT: [&str; 4] = ["apiVersion", "kind", "metadata", "spec"];

/// A document that is not YAML but speaks of policy: something to deny by.
/// It may be a list, or several that a separator is missing between.
pub(in crate::discovery) fn recover(text: &str) -> Vec<Node<'static>> {
    let is_json = text.trim_start().starts_with(['{', '[']);
    // What only all of it together speaks of, none of its objects has to itself.
    let mut left = kinds(text);
    let mut all = Vec::new();
    for (piece, is_one) in pieces(text) {
        let kinds = kinds(piece);
        left.retain(|kind| !kinds.contains(kind));
        let is_one = is_one && names(piece, is_json) <= 1;
        all.extend(of_piece(piece, is_one, kinds));
    }
    all.extend(of_piece(text, false, left));
    all
}

/// Which policies a text speaks of.
fn kinds(text: &str) -> Vec<KindId> {
    let spoken_of = KindId::policies().filter(|kind| kind.is_spoken_of(text));
    let mut kinds: Vec<KindId> = spoken_of.collect();
    let of_group = |kind: KindId| text.contains(&format!("{}/", kind.about().group));
    // Of one of the group, whichever: one that denies.
    if kinds.is_empty() && KindId::policies().any(of_group) {
        kinds.push(KindId::AuthorizationPolicy);
    }
    kinds
}

/// Parts of a text that is no document, each of an object as far as lines tell; false with
/// what is of several all the same. A new one begins with a key that the one before has
/// already beside its metadata, or with one that is farther out.
fn pieces(text: &str) -> Vec<(&str, bool)> {
    let mut pieces = Vec::new();
    let (mut start, mut end) = (0, 0);
    let mut seen: BTreeMap<(usize, &str), usize> = BTreeMap::new();
    let mut metadata = None;
    for line in text.split_inclusive('\n') {
        if let Some((column, key)) = key(line) {
            let is_next = metadata.is_some_and(|beside| {
                column < beside || (column == beside && seen.contains_key(&(column, key)))
            });
            if is_next {
                pieces.push((&text[start..end], is_one(&seen, metadata)));
                start = end;
                (seen, metadata) = (BTreeMap::new(), None);
            }
            *seen.entry((column, key)).or_default() += 1;
            if key == "metadata" {
                metadata.get_or_insert(column);
            }
        }
        end += line.len();
    }
    pieces.push((&text[start..], is_one(&seen, metadata)));
    pieces
}

fn is_one(seen: &BTreeMap<(usize, &str), usize>, metadata: Option<usize>) -> bool {
    let twice = seen.iter().filter(|(_, times)| **times > 1);
    let mut twice = twice.map(|((column, _), _)| *column);
    metadata.is_none_or(|beside| twice.all(|column| column != beside))
}

/// Where a line begins with a key that each object has once.
fn key(line: &str) -> Option<(usize, &'static str)> {
    let rest = line.trim_start_matches([' ', '\t', '-']);
    let bare = rest.trim_start_matches(['"', '\'']);
    let is_key = |key: &&str| {
        let behind = bare.strip_prefix(key);
        let behind = behind.map(|text| text.trim_start_matches(['"', '\'', ' ']));
        behind.is_some_and(|text| text.starts_with(':'))
    };
    let key = OF_OBJECT.into_iter().find(is_key)?;
    Some((line.len() - rest.len(), key))
}

/// How many metadata a text has; JSON within YAML is a text, as kubectl writes what it has
/// applied.
fn names(text: &str, is_json: bool) -> usize {
    let said = text.lines().filter(|l| !l.trim_start().starts_with('#'));
    let count = |line: &str| match is_json {
        true => line.matches("metadata:").count() + line.matches("\"metadata\"").count(),
        false => line.matches("metadata:").count(),
    };
    said.map(count).sum()
}

/// One of each kind. What is of several is about any, and nobody's former
/// version says what all of them deny.
fn of_piece(text: &str, is_one: bool, kinds: Vec<KindId>) -> Vec<Node<'static>> {
    let find = |key: &'static str| {
        let parts = text.lines().flat_map(|l| l.split([',', '{', '}']));
        parts
            .filter_map(move |part| part.trim().strip_prefix(key))
            .map(|value| unquoted(value.trim()).to_owned())
    };
    let namespaces: BTreeSet<String> = find("namespace: ").collect();
    // Without one namespace to go by, the metadata is not trusted.
    let namespace = match namespaces.first() {
        Some(one) if is_one && namespaces.len() == 1 && is_label(one) => Node::text(one.clone()),
        _ => Node::bool(false),
    };
    let name = match is_one {
        true => find("name: ").next().unwrap_or_else(|| NAMELESS.into()),
        false => UNREADABLE.to_owned(),
    };
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
    kinds.into_iter().map(value).collect()
}

fn unquoted(text: &str) -> &str {
    let bare = ['"', '\''].into_iter().find_map(|mark| {
        let text = text.strip_prefix(mark)?;
        text.strip_suffix(mark)
    });
    bare.unwrap_or(text)
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
