//! Endpoints: of slices, and of pods where there are none.

use std::time::Instant;

use super::{SHOP, load};
use crate::model::{RefuseReason, Snapshot};

fn slice(name: &str, endpoints: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\n\
         addressType: IPv4\nendpoints: {endpoints}\nports: [{{name: http, port: 8080, protocol: TCP}}]\n"
    )
}

/// Addresses behind the Service's port 80.
fn endpoints(snapshot: &Snapshot) -> Vec<String> {
    let service = snapshot.services.values().next().expect("the Service");
    let port = service.port(80).expect("the port");
    port.endpoints.iter().map(|e| e.addr.to_string()).collect()
}

#[test]
fn an_endpoint_of_a_pod_that_is_not_known_is_refused_until_it_is() {
    let to = |target: &str| slice("a", &format!("[{{addresses: [10.0.0.6]{target}}}]"));
    let ip = "10.0.0.6".parse().expect("an address");
    let why = |target: &str| {
        load(&format!("{SHOP}{}", to(target)))
            .0
            .withholds(ip, Instant::now())
    };
    let unknown = Some(RefuseReason::UnknownPod);
    assert_eq!(
        why(", targetRef: {kind: Pod, name: new, namespace: shop}"),
        unknown
    );
    assert_eq!(why(", targetRef: {kind: Pod, name: new}"), unknown);
    assert_eq!(why(", targetRef: {kind: Pod}"), unknown, "which pod?");
    assert_eq!(why(", targetRef: x"), unknown);
    assert_eq!(
        why(", targetRef: {kind: Pod, name: web-0}"),
        unknown,
        "it has another address"
    );
    assert_eq!(why(", targetRef: {kind: Machine, name: vm}"), None);
    assert_eq!(why(""), None, "given by hand");
    // Whether its Service is known does not matter.
    let orphan =
        to(", targetRef: {kind: Pod, name: new}").replace("service-name: web", "service-name: x");
    let (snapshot, _) = load(&format!("{SHOP}{orphan}"));
    assert_eq!(snapshot.withholds(ip, Instant::now()), unknown);
    // With the pod it is an endpoint, and none while others are known.
    let pod = SHOP
        .replace("web-0", "new")
        .replace("10.0.0.5", "10.0.0.6")
        .replace("::5", "::6");
    let pod = pod
        .replace("kind: Namespace", "kind: ServiceAccount")
        .replace("kind: Service\n", "kind: ConfigMap\n");
    let (snapshot, problems) = load(&format!(
        "{SHOP}{}---\n{pod}",
        to(", targetRef: {kind: Pod, name: new}")
    ));
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(endpoints(&snapshot), ["10.0.0.6:8080"]);
    let both = slice(
        "a",
        "[{addresses: [10.0.0.6], targetRef: {kind: Pod, name: new}}, {addresses: [10.0.0.5], targetRef: {kind: Pod, name: web-0}}]",
    );
    assert_eq!(
        endpoints(&load(&format!("{SHOP}{both}")).0),
        ["10.0.0.5:8080"]
    );
    // The address of one pod under the name of another is neither's.
    let wrong = slice(
        "a",
        "[{addresses: [10.0.0.5], targetRef: {kind: Pod, name: other}}]",
    );
    assert_eq!(
        endpoints(&load(&format!("{SHOP}{wrong}")).0),
        Vec::<String>::new()
    );
}

/// Who may write slices in one namespace must not take the addresses of others
/// out of everybody's reach.
#[test]
fn a_slice_names_pods_of_its_own_namespace_alone() {
    let ip = "10.0.0.6".parse().expect("an address");
    let foreign = slice(
        "a",
        "[{addresses: [10.0.0.6], targetRef: {kind: Pod, name: new, namespace: bank}}, {addresses: [10.0.0.5], targetRef: {kind: Pod, name: web-0, namespace: shop}}]",
    );
    let (snapshot, problems) = load(&format!("{SHOP}{foreign}"));
    assert_eq!(snapshot.withholds(ip, Instant::now()), None);
    assert_eq!(endpoints(&snapshot), ["10.0.0.5:8080"], "it is no endpoint");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("bank/new"), "{problems:?}");
}

#[test]
fn a_pod_on_the_host_network_is_outside_by_its_name() {
    let host = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: host, namespace: shop}\n\
        spec: {hostNetwork: true}\nstatus: {podIP: 10.0.0.6}\n";
    let to = slice(
        "a",
        "[{addresses: [10.0.0.6], targetRef: {kind: Pod, name: host}}]",
    );
    let (snapshot, problems) = load(&format!("{SHOP}{host}{to}"));
    assert_eq!(problems, Vec::<String>::new());
    assert!(snapshot.withheld.is_empty());
    assert_eq!(endpoints(&snapshot), ["10.0.0.6:8080"]);
}

#[test]
fn slices_are_read_as_the_api_says() {
    let ready = |conditions: &str| format!("{{addresses: [10.0.0.5], conditions: {conditions}}}");
    for (text, expected) in [
        (slice("a", "null"), 0),
        (slice("a", "[{addresses: null}]"), 0),
        (
            slice(
                "a",
                "[{addresses: [10.0.0.5], conditions: , deprecatedTopology: {a: b}, hints: {forZones: []}}]",
            ),
            1,
        ),
        (
            slice("a", "[{addresses: [10.0.0.5]}]").replace(
                "ports: [{name: http, port: 8080, protocol: TCP}]",
                "ports: null",
            ),
            0,
        ),
        (
            slice("a", "[{addresses: [10.0.0.5]}]").replace("port: 8080, ", ""),
            0,
        ),
        (
            slice("a", "[{addresses: [10.0.0.5]}]").replace("TCP", "UDP"),
            0,
        ),
        // A set; ready in any counts.
        (
            slice("a", &format!("[{}]", ready("{ready: false}")))
                + &slice("b", &format!("[{}]", ready("{ready: true}"))),
            1,
        ),
        (
            slice("a", &format!("[{}, {}]", ready("{}"), ready("null")))
                + &slice("b", &format!("[{}]", ready("{ready: true}"))),
            1,
        ),
        (
            slice(
                "a",
                &format!("[{}]", ready("{ready: false, serving: true}")),
            ),
            0,
        ),
        // The last that serve while they end.
        (
            slice(
                "a",
                &format!(
                    "[{}]",
                    ready("{ready: false, serving: true, terminating: true}")
                ),
            ),
            1,
        ),
        (
            slice(
                "a",
                &format!(
                    "[{}]",
                    ready("{ready: false, serving: false, terminating: true}")
                ),
            ),
            0,
        ),
        (
            slice(
                "a",
                &format!(
                    "[{}, {{addresses: [10.0.0.9]}}]",
                    ready("{ready: false, serving: true, terminating: true}")
                ),
            ),
            1,
        ),
    ] {
        let (snapshot, problems) = load(&format!("{SHOP}{text}"));
        assert!(
            problems.iter().all(|p| p.contains("warning: ")),
            "{text}: {problems:?}"
        );
        assert_eq!(endpoints(&snapshot).len(), expected, "{text}");
    }
    // Slices say the port; `targetPort` is for whoever writes them.
    let text = SHOP.replace("targetPort: http", "targetPort: 9999");
    let (snapshot, _) = load(&format!(
        "{text}{}",
        slice("a", "[{addresses: [10.0.0.5]}]")
    ));
    assert_eq!(endpoints(&snapshot), ["10.0.0.5:8080"]);
    // A Service without selector has those that are given by hand.
    let by_hand = slice("a", "[{addresses: [198.51.100.7]}]");
    let (snapshot, problems) = load(&format!(
        "{}{by_hand}",
        SHOP.replace("selector: {app: web}", "")
    ));
    assert_eq!(
        (problems, endpoints(&snapshot)),
        (vec![], vec!["198.51.100.7:8080".to_owned()])
    );
}

#[test]
fn without_slices_pods_are_endpoints_as_the_controller_would_say() {
    let with = |from: &str, to: &str| {
        assert!(SHOP.contains(from));
        endpoints(&load(&SHOP.replace(from, to)).0).len()
    };
    let condition = |status: &str| {
        format!("phase: Running, conditions: [{{type: Ready, status: \"{status}\"}}]")
    };
    assert_eq!(with("phase: Running", &condition("True")), 2);
    assert_eq!(with("phase: Running", &condition("False")), 0);
    assert_eq!(with("phase: Running", "phase: Succeeded"), 0);
    let published = SHOP.replace("phase: Running", &condition("False"));
    let published = published.replace("selector:", "publishNotReadyAddresses: true\n  selector:");
    assert_eq!(endpoints(&load(&published).0).len(), 2);
    // One that ends serves only while there is no other.
    let ends = "name: web-0, deletionTimestamp: \"2026-01-01T00:00:00Z\"";
    assert_eq!(with("name: web-0", ends), 2);
    let other = SHOP
        .replace("web-0", "web-1")
        .replace("10.0.0.5", "10.0.0.6")
        .replace("::5", "::6");
    let other = other
        .replace("kind: Namespace", "kind: ServiceAccount")
        .replace("kind: Service\n", "kind: ConfigMap\n");
    let both = format!("{}---\n{other}", SHOP.replace("name: web-0", ends));
    assert_eq!(
        endpoints(&load(&both).0),
        ["10.0.0.6:8080", "[fd00::6]:8080"]
    );
    // Named ports: TCP, and of what runs as long as the pod.
    let ports = "containers: [{ports: [{name: http, containerPort: 8080}]}]";
    let init = |policy: &str| {
        format!("initContainers: [{{{policy}ports: [{{name: http, containerPort: 8080}}]}}]")
    };
    assert_eq!(with(ports, &init("restartPolicy: Always, ")), 2);
    assert_eq!(with(ports, &init("")), 0);
    let udp = "containers: [{ports: [{name: http, containerPort: 53, protocol: UDP}, {name: http, containerPort: 8080}]}]";
    assert_eq!(with(ports, udp), 2);
}
