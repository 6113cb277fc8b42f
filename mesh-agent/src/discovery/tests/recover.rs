//! What is not understood of a core object never means "outside the mesh".

use std::time::Instant;

use super::{SHOP, load};
use crate::model::{Enrolment, OnAgentDown, RefuseReason, Snapshot};
use crate::policy::{Authorizer, Request};

/// Could a connection to the pod of SHOP be made in plaintext?
fn plaintext(snapshot: &Snapshot) -> bool {
    let ips = ["10.0.0.5", "fd00::5"].map(|ip| ip.parse().expect("an address"));
    ips.iter().any(|ip| {
        let workload = snapshot.by_ip.get(ip);
        !workload.is_some_and(|w| w.is_enrolled())
            && snapshot.withholds(*ip, Instant::now()).is_none()
    })
}

#[test]
fn scalars_without_quotes_are_the_text_that_is_written() {
    let bare = SHOP
        .replace("\"true\"", "true")
        .replace(
            "labels: {app: web}",
            "labels: {app: web, v: 1.10, n: 0x10, y: yes, e: 1e3, none: , d: 2026-01-01}",
        )
        .replace("annotations: {", "annotations: {example.org/n: 1, ");
    let (snapshot, problems) = load(&bare);
    assert_eq!(problems, Vec::<String>::new());
    let pod = snapshot.workloads.values().next().expect("the pod");
    assert_eq!(pod.enrolment, Enrolment::Yes(OnAgentDown::Closed));
    let labels = ["v", "n", "y", "e", "none", "d"].map(|l| pod.labels[l].as_str());
    assert_eq!(labels, ["1.10", "0x10", "yes", "1e3", "", "2026-01-01"]);
    // In a list, too; and the value of the pod itself counts.
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  \
        metadata: {name: a, labels: {mesh-agent.io/enrolled: true, v: 1.0}}\n  status: {podIP: 10.0.0.9}\n";
    let (snapshot, problems) = load(list);
    assert_eq!(problems, Vec::<String>::new());
    let pod = snapshot.workloads.values().next().expect("the pod");
    assert!(pod.is_enrolled() && pod.labels["v"] == "1.0");
}

#[test]
fn nothing_behind_a_field_is_no_field() {
    for (from, to) in [
        (
            "annotations: {mesh-agent.io/netns: /run/netns/web-0}",
            "annotations: ",
        ),
        ("labels: {app: web}", "labels: null"),
        (
            "containers: [{ports: [{name: http, containerPort: 8080}]}]",
            "containers: ",
        ),
        ("containerPort: 8080", "containerPort: \"8080\""),
        (
            "ports: [{name: http, port: 80, targetPort: http}]",
            "ports: ",
        ),
        ("selector: {app: web}", "selector: "),
        ("clusterIPs: [10.96.0.1, \"fd96::1\"]", "clusterIPs: ~"),
        ("nodeName: n1", "nodeName: "),
    ] {
        assert!(SHOP.contains(from), "{from}");
        let (snapshot, problems) = load(&SHOP.replace(from, to));
        let about_ports = problems
            .iter()
            .filter(|p| p.contains("no port of this name"))
            .count();
        assert_eq!(problems.len(), about_ports, "{to}: {problems:?}");
        assert!(!plaintext(&snapshot), "{to}");
        assert_eq!(snapshot.services.len(), 1, "{to}");
    }
}

#[test]
fn a_pod_of_the_mesh_stays_in_it_whatever_part_is_not_understood() {
    let parts = [
        ("labels: {app: web}", "labels: [app]"),
        ("labels: {app: web}", "labels: {app: [web]}"),
        ("annotations: {", "annotations: {x: {}, "),
        ("spec: {nodeName: n1", "spec: {nodeName: [n1]"),
        (
            "spec: {nodeName: n1",
            "spec: {hostNetwork: maybe, nodeName: n1",
        ),
        (
            "spec: {nodeName: n1",
            "spec: {serviceAccountName: {}, nodeName: n1",
        ),
        ("containers: [", "containers: [x, "),
        ("phase: Running", "phase: [Running]"),
        ("podIPs: [{ip: 10.0.0.5}, ", "podIPs: [{ip: nowhere}, "),
        ("podIP: 10.0.0.5", "podIP: [10.0.0.5]"),
        ("name: web-0", "name: [web-0]"),
        ("namespace: shop, labels", "namespace: [shop], labels"),
        ("kind: Pod", "kind: Pood"),
        ("containers: [{", "containers: [[{"),
    ];
    for (from, to) in parts {
        assert!(SHOP.contains(from), "{from}");
        let (snapshot, problems) = load(&SHOP.replace(from, to));
        assert!(
            problems.iter().any(|p| !p.contains("warning")),
            "{to}: {problems:?}"
        );
        assert!(!plaintext(&snapshot), "{to}");
        let key = crate::model::WorkloadKey::new("shop", "web-0");
        let wanted = snapshot
            .workloads
            .get(&key)
            .is_some_and(|w| w.is_enrolled())
            || snapshot.unreadable_pods.contains(&key)
            || snapshot.hides_pods;
        assert!(wanted, "{to}: it could be released");
    }
}

#[test]
fn a_namespace_that_is_not_understood_keeps_its_pods_closed() {
    for (from, to) in [
        ("labels: {mesh-agent.io/enrolled: \"true\"}", "labels: [x]"),
        (
            "labels: {mesh-agent.io/enrolled: \"true\"}",
            "labels: {mesh-agent.io/enrolled: []}",
        ),
        ("kind: Namespace", "kind: Namespac"),
        (
            "metadata: {name: shop, labels",
            "metadata: {name: [shop], labels",
        ),
        ("kind: Namespace", "kind: Namespace: ["),
        (
            "metadata: {name: shop, labels",
            "metadata: {name: shop, lab: [els",
        ),
    ] {
        assert!(SHOP.contains(from), "{from}");
        let (snapshot, _) = load(&SHOP.replacen(from, to, 1));
        let pod = snapshot.workloads.values().next().expect("the pod");
        assert_eq!(pod.enrolment, Enrolment::Yes(OnAgentDown::Closed), "{to}");
    }
}

#[test]
fn a_document_that_is_not_yaml_leaves_nothing_open() {
    for (from, to) in [
        ("status: {phase: Running", "status: {phase: [Running"),
        ("spec: {nodeName", "spec: {{nodeName"),
        ("kind: Pod\n", "kind: Pod\n  x\n"),
    ] {
        let (snapshot, problems) = load(&SHOP.replace(from, to));
        assert!(!problems.is_empty(), "{to}");
        assert!(!plaintext(&snapshot), "{to}");
        let pods: Vec<_> = snapshot
            .unreadable_pods
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(pods.contains(&"shop/web-0".to_owned()), "{to}: {pods:?}");
    }
    let (snapshot, _) =
        load(&SHOP.replace("ports: [{name: http, port", "ports: {[{name: http, port"));
    for vip in ["10.96.0.1", "fd96::1"] {
        let vip = vip.parse().expect("an address");
        let why = snapshot.withholds(vip, Instant::now());
        assert_eq!(why, Some(RefuseReason::Unreadable), "{vip}");
    }
    // Behind much else, too.
    let item = "- kind: Deployment\n  metadata: {name: x}\n".repeat(300);
    let list = format!("items:\n{item}- kind: Namespace\n  metadata: {{name: shop\nkind: List\n");
    let (snapshot, _) = load(&format!(
        "{list}---{}",
        SHOP.replacen("kind: Namespace", "kind: ConfigMap", 1)
    ));
    assert!(snapshot.hides_pods && !plaintext(&snapshot));
    // What speaks of something else hides nothing.
    let (snapshot, _) = load("apiVersion: apps/v1\nkind: Deployment\nspec: {ip: 10.0.0.5, [}\n");
    assert!(snapshot.withheld.is_empty() && !snapshot.hides_pods);
}

#[test]
fn nobody_is_let_into_a_pod_whose_labels_cannot_be_read() {
    let (snapshot, _) = load(&SHOP.replace("labels: {app: web}", "labels: {app: [web]}"));
    let authorizer = Authorizer::compile(&snapshot);
    let pod = snapshot.workloads.values().next().expect("the pod");
    let id = crate::model::SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").expect("one");
    let request = Request {
        source: Some(&id),
        source_ip: "10.0.0.9".parse().expect("an address"),
        destination: pod,
        destination_ip: "10.0.0.5".parse().expect("an address"),
        destination_port: 8080,
        sni: None,
        http: None,
    };
    assert!(
        !authorizer.check(&request).is_permit(),
        "a policy may have selected it"
    );
}

#[test]
fn an_object_that_is_given_twice_is_the_stricter_one() {
    let outside = SHOP
        .replace("\"true\"", "\"false\"")
        .replace("10.0.0.5", "10.0.0.7");
    let outside = outside.replace("10.96.0.1", "10.96.0.2");
    for text in [
        format!("{outside}---\n{SHOP}"),
        format!("{SHOP}---\n{outside}"),
    ] {
        let (snapshot, problems) = load(&text);
        let twice = problems.iter().filter(|p| p.contains("given twice"));
        assert_eq!(twice.count(), 3, "{problems:?}");
        let pod = snapshot.workloads.values().next().expect("the pod");
        assert!(pod.is_enrolled());
        for ip in ["10.0.0.5", "10.0.0.7", "10.96.0.1", "10.96.0.2"] {
            let ip = ip.parse().expect("an address");
            let known = snapshot.by_ip.contains_key(&ip) || snapshot.by_vip.contains_key(&ip);
            assert!(
                known || snapshot.withholds(ip, Instant::now()).is_some(),
                "{ip}"
            );
        }
    }
}

#[test]
fn every_way_to_write_a_file_of_documents_is_read() {
    let crs = SHOP.replace('\n', "\r");
    let crlf = SHOP.replace('\n', "\r\n");
    let boms = SHOP.replace("---\n", "\u{feff}---\n");
    let boms_behind = SHOP.replace("---\n", "---\n\u{feff}");
    let directive = format!("%YAML 1.2\n---{SHOP}");
    let directives = SHOP.replace("---\n", "...\n# more\n%YAML 1.2\n---\n");
    let ends = SHOP.replace("---\n", "...\n---\n");
    for text in [crs, crlf, boms, boms_behind, directive, directives, ends] {
        let (snapshot, problems) = load(&text);
        assert_eq!(problems, Vec::<String>::new(), "{text}");
        assert_eq!(
            (snapshot.by_ip.len(), snapshot.by_vip.len()),
            (2, 2),
            "{text}"
        );
    }
}

#[test]
fn a_pod_that_ends_loses_a_contested_address_and_a_foreign_kind_of_our_name_is_no_mistake() {
    let old = SHOP
        .replace(
            "name: web-0",
            "name: web-1, deletionTimestamp: \"2026-01-01T00:00:00Z\"",
        )
        .replace("kind: Namespace", "kind: ServiceAccount")
        .replace("kind: Service\n", "kind: ConfigMap\n");
    let (snapshot, problems) = load(&format!("{SHOP}---\n{old}"));
    assert_eq!(problems, Vec::<String>::new());
    let ip = "10.0.0.5".parse().expect("an address");
    assert_eq!(snapshot.by_ip[&ip].key.name, "web-0");
    let knative = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: x}\nspec: {template: {}}\n";
    assert_eq!(load(knative).1, Vec::<String>::new());
}

#[test]
fn a_pod_that_is_given_twice_and_differently_is_nobody_and_lets_nobody_in() {
    let other = SHOP
        .replace("labels: {app: web}", "labels: {app: db}")
        .replace("nodeName: n1", "nodeName: n1, serviceAccountName: admin");
    for text in [format!("{SHOP}---\n{other}"), format!("{other}---\n{SHOP}")] {
        let (snapshot, _) = load(&text);
        let pod = snapshot.workloads.values().next().expect("the pod");
        assert_eq!(pod.service_account, "");
        let authorizer = Authorizer::compile(&snapshot);
        let id = crate::model::SpiffeId::parse("spiffe://cluster.local/ns/a/sa/b");
        let request = Request {
            source: Some(&id.expect("an identity")),
            source_ip: "10.0.0.9".parse().expect("an address"),
            destination: pod,
            destination_ip: "10.0.0.5".parse().expect("an address"),
            destination_port: 8080,
            sni: None,
            http: None,
        };
        assert!(!authorizer.check(&request).is_permit());
    }
    let (snapshot, _) = load(&format!("{SHOP}---\n{SHOP}"));
    let pod = snapshot.workloads.values().next().expect("the pod");
    assert_eq!(pod.service_account, "default", "the same twice is known");
    assert!(snapshot.policies.is_empty());
}

#[test]
fn of_policies_that_are_given_twice_and_differently_none_is_called_ignored() {
    let policy = |action: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: p, namespace: shop}}\nspec: {{action: {action}, rules: [{{}}]}}\n"
        )
    };
    let said = |one: &str, other: &str| {
        let (_, problems) = load(&format!("{}---\n{}", policy(one), policy(other)));
        let twice = |p: &String| p.contains("given twice");
        problems.into_iter().find(twice).expect("a problem")
    };
    let differ = said("ALLOW", "DENY");
    assert!(!differ.contains("ignored"), "{differ}");
    assert!(
        differ.contains("each restricts and none grants"),
        "{differ}"
    );
    let same = said("DENY", "DENY");
    assert!(same.contains("this one is ignored"), "{same}");
}
