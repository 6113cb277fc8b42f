//! What a route is for.

use super::reading::{GROUP, Reading};
use crate::discovery::tree::Node;
use crate::model::Name;
use crate::model::route::{ParentRef, RouteKind};

const MAX_PARENTS: usize = 32;
const MAX_HOSTNAMES: usize = 16;

pub(super) fn parents(reading: &mut Reading<'_>, spec: &Node<'_>) -> Box<[ParentRef]> {
    let at = "spec.parentRefs";
    let mut parents = Vec::new();
    let list = reading.list(&spec["parentRefs"], at, MAX_PARENTS);
    for (i, value) in list.iter().enumerate() {
        parents.extend(parent(reading, value, &format!("{at}[{i}]")));
    }
    parents.into()
}

fn parent(reading: &mut Reading<'_>, value: &Node<'_>, at: &str) -> Option<ParentRef> {
    let fields = ["group", "kind", "namespace", "name", "sectionName", "port"];
    reading.known(value, at, &fields);
    let mut text = |field: &str| {
        let text = reading.text(&value[field], &format!("{at}.{field}"));
        text.map(Name::from)
    };
    let group = text("group").unwrap_or_else(|| GROUP.into());
    let kind = text("kind").unwrap_or_else(|| "Gateway".into());
    // The API server writes "" for absent.
    let namespace = text("namespace").filter(|name| !name.is_empty());
    let section = text("sectionName").filter(|name| !name.is_empty());
    let name = reading.some(&value["name"], &format!("{at}.name"))?;
    let port = reading.port(&value["port"], &format!("{at}.port"));
    let group = if &*group == "core" { "".into() } else { group };
    Some(ParentRef {
        group,
        kind,
        namespace,
        name: name.into(),
        section,
        port,
    })
}

pub(super) fn hostnames(
    reading: &mut Reading<'_>,
    spec: &Node<'_>,
    kind: RouteKind,
) -> Box<[Box<str>]> {
    let at = "spec.hostnames";
    if kind == RouteKind::Tcp {
        return Box::default();
    }
    let list = reading.list(&spec["hostnames"], at, MAX_HOSTNAMES);
    let mut names: Vec<Box<str>> = Vec::new();
    for (i, value) in list.iter().enumerate() {
        let at = format!("{at}[{i}]");
        let Some(name) = reading.some(value, &at) else {
            continue;
        };
        if !is_hostname(name) {
            reading.wrong(&at, format!("{name:?} is no name of a host"));
        }
        names.push(name.to_ascii_lowercase().into());
    }
    if kind.is_http() && !names.is_empty() {
        let message = "has no effect for a Service, which is called by its address: match the header Host instead";
        reading.advise(at, message);
    }
    names.into()
}

/// Labels of a domain, of which the first may be `*`.
fn is_hostname(name: &str) -> bool {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(is_word)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && rest.split('.').all(is_label)
}
