//! What only the node asks for that a pod is on.
//!
//! Nothing here is a mistake: what cannot be understood of a probe is a port that no
//! probe reaches.

use std::sync::{Arc, LazyLock};

use crate::discovery::tree::{Node, View};
use crate::model::{Name, OnNode, Unfit};

/// Written by the kubelet into a static pod's mirror, beside a Node that owns it:
/// annotations anybody may write.
const MIRROR: &str = "kubernetes.io/config.mirror";
const MANIFEST_HASH: &str = "kubernetes.io/config.hash";
/// Signs of another mesh: its proxy's container, or what it notes of the pod. Containers
/// are what they are for a pod's life; annotations may be written at any time.
const PROXIES: [&str; 2] = ["istio-proxy", "linkerd-proxy"];
const SIDECAR: &str = "sidecar.istio.io/status";
const REDIRECTED: &str = "ambient.istio.io/redirection";

pub(super) fn on_node(pod: &Node<'_>) -> Arc<OnNode> {
    static NOTHING: LazyLock<Arc<OnNode>> = LazyLock::new(Arc::default);
    let of_pod = OnNode {
        runtime_uid: manifest_hash(pod),
        probe_ports: probe_ports(&pod["spec"]),
        unfit: unfit(pod),
        // Annotations, some of which its namespace may have, and what its runtime class
        // comes to: what is made of it has them.
        ..OnNode::default()
    };
    match of_pod == **NOTHING {
        true => NOTHING.clone(),
        false => Arc::new(of_pod),
    }
}

/// Of a static pod's mirror. It is still no more than a claim (anybody who may make pods
/// can write all of it): the pod's address has to be found where it leads to.
fn manifest_hash(pod: &Node<'_>) -> Option<Name> {
    let meta = &pod["metadata"];
    let node = text(&pod["spec"]["nodeName"]).filter(|node| !node.is_empty())?;
    let annotations = &meta["annotations"];
    let is_mirror = text(&annotations[MIRROR]).is_some_and(|text| !text.is_empty());
    let owners = list(&meta["ownerReferences"]);
    let is_nodes = owners.iter().any(|owner| {
        text(&owner["kind"]) == Some("Node")
            && text(&owner["apiVersion"]) == Some("v1")
            && text(&owner["name"]) == Some(node)
    });
    let hash = text(&annotations[MANIFEST_HASH]).filter(|hash| !hash.is_empty())?;
    // Of other pods' UIDs, which have dashes, it can be none.
    let is_hash = hash.chars().all(|c| c.is_ascii_hexdigit());
    (is_mirror && is_nodes && is_hash).then(|| hash.into())
}

fn unfit(pod: &Node<'_>) -> Option<Unfit> {
    let annotations = &pod["metadata"]["annotations"];
    let proxies = containers(&pod["spec"]).filter_map(|container| text(&container["name"]));
    let proxy = proxies.into_iter().find(|name| PROXIES.contains(name));
    if let Some(name) = proxy {
        return Some(Unfit::AnotherMesh(format!("container {name}").into()));
    }
    let sidecar = text(&annotations[SIDECAR]).is_some_and(|text| !text.is_empty());
    let redirected = text(&annotations[REDIRECTED]) == Some("enabled");
    for (is_there, name) in [(sidecar, SIDECAR), (redirected, REDIRECTED)] {
        if is_there {
            return Some(Unfit::Claimed(name.into()));
        }
    }
    None
}

/// Those of probes and of HTTP hooks, whatever host they name; of what runs as long as
/// the pod, and of what runs before.
fn probe_ports(spec: &Node<'_>) -> Vec<u16> {
    let mut ports = Vec::new();
    for container in containers(spec) {
        let lifecycle = &container["lifecycle"];
        let handlers = [
            &container["livenessProbe"],
            &container["readinessProbe"],
            &container["startupProbe"],
            &lifecycle["postStart"],
            &lifecycle["preStop"],
        ];
        for handler in handlers {
            for way in ["httpGet", "tcpSocket", "grpc"] {
                ports.extend(port(&handler[way]["port"], container));
            }
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// A number, or the name of one of the container's own ports.
fn port(value: &Node<'_>, container: &Node<'_>) -> Option<u16> {
    let number = match value.view() {
        View::Number(number) => number.as_u64().and_then(|n| u16::try_from(n).ok()),
        View::Text(text) => match text.parse() {
            Ok(number) => Some(number),
            Err(_) => {
                let ports = list(&container["ports"]).iter();
                let named = ports.filter(|port| self::text(&port["name"]) == Some(text));
                let numbers = named.map(|port| match port["containerPort"].view() {
                    View::Number(number) => number.as_u64().and_then(|n| u16::try_from(n).ok()),
                    View::Text(text) => text.parse().ok(),
                    _ => None,
                });
                numbers.into_iter().next().flatten()
            }
        },
        _ => None,
    };
    number.filter(|port| *port != 0)
}

fn containers<'v, 't>(spec: &'v Node<'t>) -> impl Iterator<Item = &'v Node<'t>> {
    let fields = ["containers", "initContainers"].into_iter();
    fields.flat_map(|field| list(&spec[field]))
}

fn list<'v, 't>(value: &'v Node<'t>) -> &'v [Node<'t>] {
    match value.view() {
        View::List(list) => list,
        _ => &[],
    }
}

fn text<'v>(value: &'v Node<'_>) -> Option<&'v str> {
    match value.view() {
        View::Text(text) => Some(text),
        _ => value.written(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::tree::yaml;

    fn read(text: &str) -> OnNode {
        OnNode::clone(&on_node(&yaml(text).expect("YAML")))
    }

    #[test]
    fn the_ports_of_all_probes_and_hooks_are_the_pods_own() {
        let pod = "
metadata: {name: web}
spec:
  containers:
  - name: app
    ports: [{name: http, containerPort: 8080}, {name: health, containerPort: 8081}]
    readinessProbe: {httpGet: {port: http, host: 10.0.0.9}}
    livenessProbe: {tcpSocket: {port: 9000}}
    startupProbe: {grpc: {port: 50051}}
    lifecycle:
      postStart: {httpGet: {port: \"8085\"}}
      preStop: {exec: {command: [sleep, \"5\"]}}
  - name: other
    readinessProbe: {httpGet: {port: health}}
    livenessProbe: {httpGet: {port: 0}}
  initContainers:
  - {name: sidecar, restartPolicy: Always, startupProbe: {httpGet: {port: 7000}}}
";
        // `health` is no port of the container that names it.
        assert_eq!(read(pod).probe_ports, [7000, 8080, 8085, 9000, 50051]);
        assert_eq!(read("spec: {containers: [{name: app}]}"), OnNode::default());
        assert!(read("spec: {containers: 7}").probe_ports.is_empty());
    }

    #[test]
    fn only_a_true_mirror_is_known_by_its_manifest() {
        let of = |owner: &str, mirror: &str, hash: &str| {
            read(&format!(
                "metadata:\n  annotations: {{{mirror} kubernetes.io/config.hash: \"{hash}\"}}\n  ownerReferences: [{{{owner}}}]\nspec: {{nodeName: n1}}\n"
            ))
            .runtime_uid
        };
        let (mirror, node) = (
            "kubernetes.io/config.mirror: \"12ab\",",
            "apiVersion: v1, kind: Node, name: n1",
        );
        assert_eq!(of(node, mirror, "12ab").as_deref(), Some("12ab"));
        assert_eq!(of(node, "", "12ab"), None);
        for owner in [
            "apiVersion: apps/v1, kind: ReplicaSet, name: n1",
            "apiVersion: v1, kind: Node, name: n2",
            "apiVersion: example.com/v1, kind: Node, name: n1",
        ] {
            assert_eq!(of(owner, mirror, "12ab"), None, "{owner}");
        }
        // The UID of a pod that is no static one.
        let victim = "0f5e3a6c-91d2-4f4e-8a57-1c2d3e4f5a6b";
        assert_eq!(of(node, mirror, victim), None);
    }

    #[test]
    fn a_pod_of_another_mesh_is_told() {
        let unfit = |text: &str| read(text).unfit.map(|unfit| unfit.to_string());
        for (text, said) in [
            (
                "spec: {initContainers: [{name: istio-proxy}]}",
                "istio-proxy",
            ),
            (
                "spec: {containers: [{name: linkerd-proxy}]}",
                "linkerd-proxy",
            ),
            (
                "metadata: {annotations: {sidecar.istio.io/status: \"{}\"}}",
                SIDECAR,
            ),
            (
                "metadata: {annotations: {ambient.istio.io/redirection: enabled}}",
                REDIRECTED,
            ),
        ] {
            let told = unfit(text).unwrap_or_default();
            assert!(told.contains(said), "{text}: {told}");
        }
        assert_eq!(
            unfit("metadata: {annotations: {ambient.istio.io/redirection: disabled}}"),
            None
        );
    }
}
