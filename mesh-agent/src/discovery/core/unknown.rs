//! What is left of something that cannot be read: enough to keep it closed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::classify::near;
use crate::discovery::kinds::{Part, Unknown};
use crate::discovery::objects::Object;
use crate::discovery::tree::{Node, View};
use crate::model::WorkloadKey;

/// Most names that are kept of one document.
const MAX_NAMES: usize = 100;

/// Of a value that does not say what it is, or of which object.
pub(in crate::discovery) fn of_value(value: &Node<'_>) -> Unknown {
    let (spec, status) = (&value["spec"], &value["status"]);
    let kind = value["kind"].as_text().unwrap_or_default();
    // An object of which nobody says what it is may be any.
    let is_unsaid = kind.is_empty() && value["metadata"].is_mapping();
    let looks = !spec["containers"].is_null() || !status["podIP"].is_null();
    let is_pod = is_unsaid || looks || near(kind, "Pod", 1);
    let meta = &value["metadata"];
    let name = meta["name"].as_text().filter(|n| !n.is_empty());
    let is_namespace = is_unsaid || near(kind, "Namespace", 2);
    let namespace = match &meta["namespace"] {
        absent if absent.is_null() => Some("default"),
        other => other.as_text(),
    };
    let pod = namespace.zip(name).filter(|_| is_pod);
    Unknown {
        addresses: addresses(value),
        hides_addresses: false,
        hides_pods: is_pod && pod.is_none(),
        pods: pod.into_iter().map(key).collect(),
        namespaces: name
            .filter(|_| is_namespace)
            .map(str::to_owned)
            .into_iter()
            .collect(),
        hides_namespaces: is_namespace && name.is_none(),
    }
}

/// The addresses of an object of which not all can be understood, in whatever
/// shape they stand there.
pub(in crate::discovery) fn of_unread(object: &Object, value: &Node<'_>) -> Option<Unknown> {
    let parts = [Part::Addresses, Part::Endpoints];
    let is_lost = parts.iter().any(|part| object.unread.contains(*part));
    is_lost.then(|| Unknown {
        addresses: addresses(value),
        ..Unknown::default()
    })
}

/// Of pods, Services and endpoints; not of nodes.
fn addresses(value: &Node<'_>) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    for place in [
        ["spec", "clusterIP"],
        ["spec", "clusterIPs"],
        ["spec", "externalIPs"],
        ["status", "podIP"],
        ["status", "podIPs"],
        ["status", "loadBalancer"],
    ] {
        texts(value.at(&place), &mut found);
    }
    let endpoints = &value["endpoints"];
    for endpoint in endpoints.items().iter().chain([endpoints]) {
        texts(&endpoint["addresses"], &mut found);
    }
    found
}

/// Of all texts in `value`, whose depth is bounded.
fn texts(value: &Node<'_>, found: &mut BTreeSet<IpAddr>) {
    match value.view() {
        View::Text(text) => found.extend(address(text)),
        View::List(list) => list.iter().for_each(|v| texts(v, found)),
        View::Mapping(map) => map.iter().for_each(|(_, v)| texts(v, found)),
        View::Null | View::Bool(_) | View::Number(_) => {}
    }
}

/// Of a document that is not YAML; `None` where it speaks of nothing of ours.
pub(in crate::discovery) fn of_text(text: &str) -> Option<Unknown> {
    let pairs: Vec<(String, &str)> = pairs(text);
    let of = |wanted: &'static str| {
        let pairs = pairs.iter().filter(move |(key, _)| key == wanted);
        pairs.map(|(_, value)| *value)
    };
    let is = |kind: &str, most| of("kind").any(|k| near(k, kind, most));
    let list = of("kind").any(|k| k.ends_with("List")) || of("kind").next().is_none();
    let is_pod = list || is("Pod", 1);
    let is_namespace = list || is("Namespace", 2);
    if !(is_pod || is_namespace || is("Service", 2) || is("EndpointSlice", 2)) {
        return None;
    }
    let names: BTreeSet<String> = of("name").take(MAX_NAMES).map(str::to_owned).collect();
    let mut namespaces: BTreeSet<&str> = of("namespace").collect();
    if namespaces.is_empty() {
        namespaces.insert("default");
    }
    let keys = namespaces
        .iter()
        .flat_map(|ns| names.iter().map(|n| key((*ns, n))));
    let wanted = [
        "podIP",
        "ip",
        "clusterIP",
        "podIPs",
        "clusterIPs",
        "externalIPs",
        "addresses",
    ];
    let values = pairs
        .iter()
        .filter(|(key, _)| wanted.contains(&key.as_str()));
    Some(Unknown {
        addresses: values.filter_map(|(_, value)| address(value)).collect(),
        hides_addresses: false,
        pods: keys.filter(|_| is_pod).take(MAX_NAMES).collect(),
        hides_pods: is_pod,
        namespaces: names.iter().filter(|_| is_namespace).cloned().collect(),
        hides_namespaces: is_namespace && (names.is_empty() || of("name").count() > MAX_NAMES),
    })
}

fn key((namespace, name): (&str, &str)) -> WorkloadKey {
    WorkloadKey::new(namespace, name)
}

fn address(text: &str) -> Option<IpAddr> {
    let ip = text.parse::<IpAddr>().ok()?.to_canonical();
    (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
}

/// Keys with their values, those of a list with the key before it.
fn pairs(text: &str) -> Vec<(String, &str)> {
    let bare = |text: &str| -> std::ops::Range<usize> {
        let is_mark = |c: char| c.is_whitespace() || "\"'[]-".contains(c);
        let start = text.len() - text.trim_start_matches(is_mark).len();
        start..text.trim_end_matches(is_mark).len().max(start)
    };
    let mut pairs = Vec::new();
    let mut list = String::new();
    for part in text.lines().flat_map(|l| l.split([',', '{', '}'])) {
        let split = part.split_once(": ").or_else(|| part.split_once("\":"));
        let (key, value) = match split {
            Some((key, value)) => (Some(key), value),
            None => match part.trim_end().strip_suffix(':') {
                Some(key) => (Some(key), ""),
                None => (None, part),
            },
        };
        let value = &value[bare(value)];
        let key = key.map(|key| &key[bare(key)]);
        // Nodes' addresses are nobody's secret.
        let of_node = list == "hostIPs" && key == Some("ip");
        if let Some(key) = key.filter(|_| !of_node) {
            if key != "ip" {
                key.clone_into(&mut list);
            }
            pairs.push((key.to_owned(), value));
        } else if key.is_none() {
            pairs.push((list.clone(), value));
        }
    }
    pairs.retain(|(_, value)| !value.is_empty());
    pairs
}
