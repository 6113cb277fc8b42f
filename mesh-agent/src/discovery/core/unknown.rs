//! What is left of something that cannot be read: enough to keep it closed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::served::near;
use crate::discovery::kinds::Unknown;
use crate::model::WorkloadKey;

/// Most names that are kept of one document.
const MAX_NAMES: usize = 100;

/// Of a value that does not say what it is, or of which object.
pub(in crate::discovery) fn of_value(value: &Value) -> Unknown {
    let (spec, status) = (&value["spec"], &value["status"]);
    let mut texts: Vec<&Value> = vec![&spec["clusterIP"], &status["podIP"]];
    texts.extend(spec["clusterIPs"].as_array().into_iter().flatten());
    let ips = status["podIPs"].as_array().into_iter().flatten();
    texts.extend(ips.map(|entry| &entry["ip"]));
    let endpoints = value["endpoints"].as_array().into_iter().flatten();
    texts.extend(endpoints.flat_map(|e| e["addresses"].as_array().into_iter().flatten()));
    let texts = texts.into_iter().filter_map(Value::as_str);
    let kind = value["kind"].as_str().unwrap_or_default();
    let looks = !spec["containers"].is_null() || !status["podIP"].is_null();
    let is_pod = looks || near(kind, "Pod", 1);
    let meta = &value["metadata"];
    let name = meta["name"].as_str().filter(|n| !n.is_empty());
    let is_namespace = near(kind, "Namespace", 2);
    let namespace = match &meta["namespace"] {
        Value::Null => Some("default"),
        other => other.as_str(),
    };
    let pod = namespace.zip(name).filter(|_| is_pod);
    Unknown {
        addresses: texts.filter_map(address).collect(),
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
        "addresses",
    ];
    let values = pairs
        .iter()
        .filter(|(key, _)| wanted.contains(&key.as_str()));
    Some(Unknown {
        addresses: values.filter_map(|(_, value)| address(value)).collect(),
        pods: keys.filter(|_| is_pod).take(MAX_NAMES).collect(),
        hides_pods: is_pod,
        namespaces: names.iter().filter(|_| is_namespace).cloned().collect(),
        hides_namespaces: is_namespace && (names.is_empty() || of("name").count() > MAX_NAMES),
    })
}

fn key((namespace, name): (&str, &str)) -> WorkloadKey {
    WorkloadKey {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
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
