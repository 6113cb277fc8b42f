//! Which kinds are ours, which are somebody else's, and which are misspelt.

use crate::discovery::tree::Node;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::discovery) enum Class {
    Namespace,
    ServiceAccount,
    Service,
    EndpointSlice,
    Pod,
    /// Of no meaning for the mesh: passed over and counted.
    Foreign,
    /// Of one of our groups, and not served (yet); the reason.
    Unserved(String),
    /// May be meant as one of ours; the reason.
    Wrong(String),
}

const SERVED: &str = "served are Namespace, ServiceAccount, Service, Pod (v1), EndpointSlice (discovery.k8s.io/v1), AuthorizationPolicy and PeerAuthentication (security.istio.io/v1)";
const OURS: [&str; 7] = [
    "Namespace",
    "ServiceAccount",
    "Service",
    "EndpointSlice",
    "Pod",
    "AuthorizationPolicy",
    "PeerAuthentication",
];
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
/// Groups of which every kind is ours to understand.
const GROUPS: [&str; 3] = ["discovery.k8s.io", "security.istio.io", "mesh-agent.io"];

pub(in crate::discovery) fn classify(value: &Node<'_>) -> Class {
    let api = value["apiVersion"].as_text().unwrap_or_default();
    let kind = value["kind"].as_text().unwrap_or_default();
    match (api, kind) {
        ("v1", "Namespace") => Class::Namespace,
        ("v1", "ServiceAccount") => Class::ServiceAccount,
        ("v1", "Service") => Class::Service,
        ("v1", "Pod") => Class::Pod,
        ("discovery.k8s.io/v1", "EndpointSlice") => Class::EndpointSlice,
        ("v1", kind) if CORE.contains(&kind) => Class::Foreign,
        (api, kind) if is_foreign(api, kind) => Class::Foreign,
        ("security.istio.io/v1" | "security.istio.io/v1beta1", "RequestAuthentication")
        | ("mesh-agent.io/v1alpha1", "TrafficPolicy") => {
            Class::Unserved(format!("{kind} is not served: it has no effect"))
        }
        _ => Class::Wrong(format!("kind {kind:?} of {api:?} is not served; {SERVED}")),
    }
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
    let sounds_ours = is_builtin && OURS.iter().any(|own| near(own, kind, 0));
    let group_is_near = GROUPS.iter().any(|own| near(own, group, 2));
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
