//! Odd shapes: nothing vanishes by them, and nothing is taken for outside.

use std::time::Instant;

use super::istio::{HTTPBIN, compile, may, named};
use super::{SHOP, load};
use crate::model::{Enrolment, OnAgentDown, OrigDst, Snapshot};
use crate::route::{self, RouteDecision};

const DENY: &str = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, \
    metadata: {name: d, namespace: foo}, spec: {action: DENY, rules: [{}]}}";
const POD: &str = "{apiVersion: v1, kind: Pod, \
    metadata: {name: p, labels: {mesh-agent.io/enrolled: \"true\"}}, status: {podIP: 10.0.0.7}}";

/// Would a connection to the address be made in plaintext?
fn plaintext(snapshot: &Snapshot, to: &str) -> bool {
    let to: std::net::SocketAddr = to.parse().expect("an address");
    let withheld = snapshot.withholds(to.ip(), Instant::now()).is_some();
    match route::resolve(snapshot, OrigDst::new(to)) {
        RouteDecision::External => !withheld,
        RouteDecision::Workload(pod) => !pod.is_enrolled() && !withheld,
        RouteDecision::Service { .. } | RouteDecision::Refused(_) => false,
    }
}

#[test]
fn a_document_on_the_line_of_its_mark_is_read() {
    for text in [
        format!("--- {DENY}\n"),
        format!("---\t{DENY}\n"),
        format!("... {DENY}\n"),
        format!("# first\n--- # second\n{DENY}\n--- # third\n"),
        format!("--- {POD}\n--- {DENY}\n---\n"),
        format!("--- !!map\n{DENY}\n"),
    ] {
        let compiled = compile(&format!("a: 1\n{text}"));
        assert!(!may(&compiled, "foo/web", (HTTPBIN, 80)), "{text}");
    }
    let (snapshot, problems) = load(&format!("--- {POD}\n"));
    assert_eq!((problems, snapshot.by_ip.len()), (vec![], 1));
    let (_, problems) = load("---\n---  {apiVersion: v1, kind: Pod}\n");
    assert!(problems[0].starts_with("shop.yaml:2:"), "{problems:?}");
}

#[test]
fn objects_in_a_bare_list_count_and_are_a_mistake() {
    let (snapshot, problems) = load(&format!("- {POD}\n- [{DENY}]\n- x\n"));
    assert!(problems[0].contains("is a List with items"), "{problems:?}");
    assert!(snapshot.by_ip.values().all(|w| w.is_enrolled()));
    assert_eq!((snapshot.by_ip.len(), snapshot.policies.len()), (1, 1));
}

#[test]
fn an_object_beside_items_counts_also_without_a_spec() {
    let allow_nothing = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
        metadata: {name: a, namespace: foo}\nitems: []\n";
    assert!(!may(&compile(allow_nothing), "foo/web", (HTTPBIN, 80)));
    let (snapshot, problems) = load(&POD.replace("status:", "items: [], status:"));
    assert!(!problems.is_empty() && snapshot.by_ip.len() == 1);
}

#[test]
fn an_object_that_does_not_say_its_kind_may_be_a_namespace_or_a_pod() {
    for kind in ["Kind: Namespace", "kind: [Namespace]", "kind: "] {
        let (snapshot, problems) = load(&SHOP.replacen("kind: Namespace", kind, 1));
        assert!(!problems.is_empty());
        let pod = snapshot.workloads.values().next().expect("the pod");
        let closed = Enrolment::Yes(OnAgentDown::Closed);
        assert_eq!(pod.enrolment, closed, "{kind}");
    }
    let (snapshot, _) = load(&POD.replace("kind: Pod", "Kind: Pod").replace("status", "x"));
    assert_eq!(snapshot.unreadable_pods.len(), 1);
}

#[test]
fn a_list_of_a_large_cluster_is_read() {
    let item = "- {apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: a}, spec: {x: [1, 2, 3, 4, 5, 6]}}\n";
    let text = format!(
        "apiVersion: v1\nkind: List\nitems:\n{}- {POD}\n",
        item.repeat(14_000)
    );
    let (snapshot, problems) = load(&text);
    assert_eq!((problems, snapshot.by_ip.len()), (vec![], 1));
}

#[test]
fn a_number_of_warnings_is_no_mistake_and_hides_none() {
    let odd = POD.replace("status:", "statuses: 1, status:");
    let file = |text: String| super::super::parse("a".as_ref(), text.as_bytes()).1;
    let warnings = format!("---\n{odd}\n").repeat(2_000);
    let problems = file(warnings.clone());
    assert_eq!(problems.len(), 1_001);
    assert!(!problems.iter().any(|p| p.is_mistake()));
    let problems = file(format!("{warnings}---\nkind: X\n"));
    assert!(problems.iter().any(|p| p.is_mistake()));
}

#[test]
fn of_two_objects_in_one_broken_document_each_says_its_namespace() {
    let joined = "kind: Pod\nmetadata: {namespace: shop, name: p}\nkind: AuthorizationPolicy\n\
        metadata:\n  name: x\nspec: {action: DENY}\n";
    assert!(
        !may(&compile(joined), "foo/web", (HTTPBIN, 80)),
        "default, or any"
    );
}

/// With a load balancer and an external address.
const SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: s}, \
    spec: {clusterIP: 10.96.0.9, externalIPs: [203.0.113.1], selector: {app: a}, ports: [{port: 80}]}, \
    status: {loadBalancer: {ingress: [{ip: 203.0.113.2}]}}}";

#[test]
fn no_address_of_a_service_is_outside_whatever_is_not_understood() {
    for (from, to) in [
        ("selector: {app: a}", "selector: [a]"),
        ("selector: {app: a}", "selector: {app: 1.10}"),
        ("selector: {app: a}", "selector: {app: on}"),
        ("kind: Service", "kind: Servce"),
        ("kind: Service", "Kind: Service"),
        ("clusterIP: 10.96.0.9", "clusterIPs: 10.96.0.9"),
        ("clusterIP: 10.96.0.9", "clusterIP: [10.96.0.9]"),
        ("externalIPs: [203.0.113.1]", "externalIPs: 203.0.113.1"),
        ("[{ip: 203.0.113.2}]", "{ip: 203.0.113.2}"),
        ("[{port: 80}]", "80"),
    ] {
        assert!(SERVICE.contains(from), "{from}");
        let (snapshot, problems) = load(&SERVICE.replace(from, to));
        assert!(!problems.is_empty(), "{to}");
        for ip in ["10.96.0.9:80", "203.0.113.1:80", "203.0.113.2:80"] {
            assert!(!plaintext(&snapshot, ip), "{to}: {ip}");
        }
    }
    let broken = SERVICE.replace("kind: Service", "kind: Service, x: [");
    let twice = SERVICE
        .replace("10.96.0.9", "10.96.0.8")
        .replace("203.0.113", "192.0.2");
    let (broken, twice) = (load(&broken).0, load(&format!("{SERVICE}\n---\n{twice}")).0);
    for ip in ["10.96.0.9:80", "203.0.113.1:80", "203.0.113.2:80"] {
        assert!(!plaintext(&broken, ip), "broken: {ip}");
        assert!(!plaintext(&twice, ip), "twice: {ip}");
    }
    for ip in ["10.96.0.8:80", "192.0.2.1:80", "192.0.2.2:80"] {
        assert!(!plaintext(&twice, ip), "twice: {ip}");
    }
    let external = SERVICE.replace("spec: {", "spec: {type: ExternalName, ");
    assert!(!plaintext(&load(&external).0, "10.96.0.9:80"));
}

#[test]
fn no_address_of_an_endpoint_or_a_pod_is_outside_whatever_is_not_understood() {
    let slice = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e}, \
        addressType: IPv4, endpoints: [{addresses: [10.0.0.7], targetRef: {kind: Pod, name: p}}], ports: []}";
    for (from, to) in [
        ("addressType: IPv4", "addressType: ipv4"),
        ("addressType: IPv4", "addressType: IPv6"),
        ("addresses: [10.0.0.7]", "addresses: 10.0.0.7"),
        (
            "[{addresses: [10.0.0.7], targetRef: {kind: Pod, name: p}}]",
            "{addresses: [10.0.0.7]}",
        ),
    ] {
        assert!(slice.contains(from), "{from}");
        let (snapshot, problems) = load(&slice.replace(from, to));
        assert!(!problems.is_empty(), "{to}");
        assert!(!plaintext(&snapshot, "10.0.0.7:80"), "{to}");
    }
    for ips in [
        "podIP: [10.0.0.7]",
        "podIPs: 10.0.0.7",
        "podIPs: [10.0.0.7]",
    ] {
        let (snapshot, problems) = load(&POD.replace("podIP: 10.0.0.7", ips));
        assert!(!problems.is_empty(), "{ips}");
        assert!(!plaintext(&snapshot, "10.0.0.7:80"), "{ips}");
    }
}

#[test]
fn an_identity_is_never_a_number_that_yaml_makes_of_a_name() {
    for account in ["007", "0x10", "on", "1e3", "12"] {
        let to = format!("spec: {{serviceAccountName: {account}}}, status:");
        let (snapshot, problems) = load(&POD.replace("status:", &to));
        assert_eq!(problems.len(), 1, "{account}: {problems:?}");
        let pod = snapshot.workloads.values().next().expect("the pod");
        assert_eq!(pod.service_account, "", "{account} is nobody");
    }
    let (snapshot, _) = load(&POD.replace("name: p", "name: p, namespace: 010"));
    assert!(snapshot.workloads.is_empty() && snapshot.hides_pods);
    assert!(!plaintext(&snapshot, "10.0.0.7:80"));
}

#[test]
fn a_port_of_portlevelmtls_is_written_in_one_way() {
    let peer = |ports: &str| {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
             metadata: {{name: a, namespace: foo}}\n\
             spec: {{selector: {{matchLabels: {{app: httpbin}}}}, portLevelMtls: {{{ports}}}}}\n"
        );
        let compiled = compile(&text);
        (
            compiled.2.len(),
            compiled
                .0
                .peer_authentications
                .iter()
                .all(|p| p.broken.is_some()),
        )
    };
    assert_eq!(peer("8080: {mode: DISABLE}"), (0, false));
    for ports in [
        "\"08080\": {mode: DISABLE}, 8080: {mode: STRICT}",
        "\"+80\": {mode: DISABLE}",
        "\"0\": {}",
        "65536: {}",
    ] {
        assert!(peer(ports).1, "{ports}");
    }
    let deny = named(
        "d",
        "foo",
        "{action: DENY, rules: [{to: [{operation: {ports: [\"+81\"]}}]}]}",
    );
    assert!(
        !may(&compile(&deny), "foo/web", (HTTPBIN, 80)),
        "a mistake denies"
    );
}
