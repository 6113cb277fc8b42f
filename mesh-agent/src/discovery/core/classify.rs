//! Which kinds are ours, which are somebody else's, and which are misspelt.

use crate::discovery::kinds::{self, FOREIGN, KindId, ROUTES};
use crate::discovery::tree::Node;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::discovery) enum Class {
    Served(KindId),
    /// Of no meaning for the mesh: passed over and counted.
    Foreign,
    /// Of one of our groups, and not served (yet); the reason.
    Unserved(String),
    /// May be meant as one of ours; the reason.
    Wrong(String),
}

/// The other kinds of the API's core.
const CORE: [&str; 14] = [
    "Binding",
    "ComponentStatus",
    "ConfigMap",
    "Endpoints",
    "Event",
    "LimitRange",
    "List",
    "Node",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodTemplate",
    "ReplicationController",
    "ResourceQuota",
    "Secret",
];
/// Kinds of our groups that are known, and not served (yet).
const UNSERVED: [(&str, &str); 3] = [
    ("gateway.networking.x-k8s.io/v1alpha1", "XMesh"),
    ("security.istio.io/v1", "RequestAuthentication"),
    ("security.istio.io/v1beta1", "RequestAuthentication"),
];
/// Nearly the group of routes: of its kinds few are ours.
const EXPERIMENTS: &str = "gateway.networking.x-k8s.io";

pub(in crate::discovery) fn classify(value: &Node<'_>) -> Class {
    let api = value["apiVersion"].as_text().unwrap_or_default();
    let kind = value["kind"].as_text().unwrap_or_default();
    let mut all = KindId::ALL.iter();
    let served = all.find(|id| id.about().name == kind && id.about().is_served_as(api));
    match served {
        Some(id) => Class::Served(*id),
        None if api == "v1" && CORE.contains(&kind) => Class::Foreign,
        None if is_unserved(api, kind) => {
            Class::Unserved(format!("{kind} is not served: it has no effect"))
        }
        None if is_of_gateways(api, kind) => Class::Foreign,
        None if is_foreign(api, kind) => Class::Foreign,
        None => Class::Wrong(format!(
            "kind {kind:?} of {api:?} is not served; {}",
            served_are()
        )),
    }
}

/// Of the Gateway API: of its gateways, or of its experiments.
fn is_of_gateways(api: &str, kind: &str) -> bool {
    match api.split_once('/') {
        Some((ROUTES, _)) => FOREIGN.contains(&kind),
        // In another version, one of ours is a mistake.
        Some((EXPERIMENTS, _)) => KindId::ALL.iter().all(|id| id.about().name != kind),
        Some(_) | None => false,
    }
}

fn is_unserved(api: &str, kind: &str) -> bool {
    let is_of_routes = api
        .split_once('/')
        .is_some_and(|(group, _)| group == ROUTES);
    UNSERVED.contains(&(api, kind)) || (is_of_routes && kinds::UNSERVED.contains(&kind))
}

/// All of them, each version once.
fn served_are() -> String {
    let mut by_version: Vec<(String, Vec<&str>)> = Vec::new();
    for about in KindId::ALL.iter().map(|id| id.about()) {
        for version in about.api_versions().take(1) {
            match by_version.iter_mut().find(|(known, _)| *known == version) {
                Some((_, names)) => names.push(about.name),
                None => by_version.push((version, vec![about.name])),
            }
        }
    }
    let of_version =
        |(version, names): (String, Vec<&str>)| format!("{} ({version})", names.join(", "));
    let all: Vec<String> = by_version.into_iter().map(of_version).collect();
    format!("served are {}", all.join(", "))
}

/// Groups of which every kind is ours to understand.
fn groups() -> impl Iterator<Item = &'static str> {
    let served = KindId::ALL.iter().map(|id| id.about().group);
    served.filter(|group| !group.is_empty())
}

/// A whole name of a kind, in a group that is neither ours nor nearly so.
fn is_foreign(api: &str, kind: &str) -> bool {
    let Some((group, version)) = api.split_once('/') else {
        return false;
    };
    let is_name = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b))
    };
    let digits = version.strip_prefix('v').unwrap_or_default();
    let is_version = is_name(version) && digits.starts_with(|c: char| c.is_ascii_digit());
    let is_kind = kind.starts_with(|c: char| c.is_ascii_uppercase())
        && kind.bytes().all(|b| b.is_ascii_alphanumeric());
    // Others may have a Service of their own, Kubernetes' other groups do not.
    let is_builtin = !group.contains('.') || group.ends_with(".k8s.io");
    let sounds_ours = is_builtin
        && KindId::ALL
            .iter()
            .any(|own| near(own.about().name, kind, 0));
    let group_is_near = groups().any(|own| near(own, group, 2));
    is_name(group) && is_version && is_kind && !sounds_ours && !group_is_near
}

/// At most `most` letters are added, left out or changed; case is none.
pub(super) fn near(a: &str, b: &str, most: usize) -> bool {
    if a.len().abs_diff(b.len()) > most {
        return false;
    }
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()] <= most
}
