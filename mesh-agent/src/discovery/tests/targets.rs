//! Policies for a Service are about the ports that it leads to.

use super::istio::{compile, may, named};

/// One pod, `foo/httpbin`, and two Services that lead to different ports of it,
/// one of them by name.
const SERVICES: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: both, namespace: two, labels: {app: both}}
spec: {containers: [{ports: [{name: admin, containerPort: 9090}]}]}
status: {podIP: 10.0.0.7}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: two, labels: {app: both}}
spec: {containers: [{ports: [{name: admin, containerPort: 9191}]}]}
status: {podIP: 10.0.0.8}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: two}
spec: {selector: {app: both}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: admin, namespace: two}
spec: {selector: {app: both}, ports: [{name: a, port: 443, targetPort: admin}, {name: b, port: 80, targetPort: 7070}]}
---
"#;

fn of(service: &str, name: &str, more: &str) -> String {
    let target = format!("targetRefs: [{{kind: Service, name: {service}}}]");
    named(name, "two", &format!("{{{target}, {more}}}"))
}

fn from(namespace: &str) -> String {
    format!("rules: [{{from: [{{source: {{namespaces: [{namespace}]}}}}]}}]")
}

const BOTH: &str = "two/both";

/// Of those who may connect to the port: namespaces foo and bar, and nobody.
fn verdicts(text: &str, pod: &str, port: u16) -> [bool; 3] {
    let compiled = compile(&format!("{SERVICES}{text}"));
    assert_eq!(compiled.2, Vec::<String>::new(), "{text}");
    ["foo/a", "bar/a", "nobody"].map(|source| may(&compiled, source, (pod, port)))
}

#[test]
fn an_allow_for_one_service_opens_no_other_and_closes_no_port_beside_it() {
    let both = of("web", "w", &from("foo")) + &of("admin", "a", &from("bar"));
    assert_eq!(verdicts(&both, BOTH, 8080), [true, false, false], "web");
    assert_eq!(verdicts(&both, BOTH, 9090), [false, true, false], "admin");
    assert_eq!(
        verdicts(&both, BOTH, 7070),
        [false, true, false],
        "admin, too"
    );
    assert_eq!(verdicts(&both, BOTH, 5000), [true; 3], "of neither");
    // A port's name is each pod's own.
    assert_eq!(verdicts(&both, "two/other", 9191), [false, true, false]);
    assert_eq!(verdicts(&both, "two/other", 9090), [true; 3]);
}

#[test]
fn a_deny_for_a_service_denies_where_it_leads_and_nowhere_else() {
    let deny = of("admin", "d", &format!("action: DENY, {}", from("bar")));
    assert_eq!(verdicts(&deny, BOTH, 9090), [true, false, true]);
    assert_eq!(verdicts(&deny, BOTH, 8080), [true; 3]);
    assert_eq!(verdicts(&deny, "two/other", 9191), [true, false, true]);
}

#[test]
fn ports_of_a_policy_for_a_service_are_the_services() {
    let ports = |port: u16| format!("rules: [{{to: [{{operation: {{ports: [\"{port}\"]}}}}]}}]");
    let allow = of("admin", "a", &ports(443));
    assert_eq!(verdicts(&allow, BOTH, 9090), [true; 3]);
    assert_eq!(verdicts(&allow, BOTH, 7070), [false; 3]);
    assert_eq!(verdicts(&allow, "two/other", 9191), [true; 3]);
    let deny = of("admin", "d", &format!("action: DENY, {}", ports(80)));
    assert_eq!(verdicts(&deny, BOTH, 7070), [false; 3]);
    assert_eq!(verdicts(&deny, BOTH, 9090), [true; 3]);
    // The pod's port is none of the Service's.
    let own = of("web", "o", &ports(8080));
    assert_eq!(verdicts(&own, BOTH, 8080), [false; 3]);
    let when = "rules: [{when: [{key: destination.port, values: [\"80\"]}]}]";
    assert_eq!(verdicts(&of("web", "w", when), BOTH, 8080), [true; 3]);
}

#[test]
fn what_two_ports_of_a_service_share_is_read_the_way_that_allows_less() {
    let shared = SERVICES.replace("targetPort: 7070", "targetPort: admin");
    let ports = "rules: [{to: [{operation: {ports: [\"443\"]}}]}]";
    for spec in [ports.to_owned(), format!("action: DENY, {ports}")] {
        let text = format!("{shared}{}", of("admin", "p", &spec));
        let compiled = compile(&text);
        assert!(!may(&compiled, "foo/a", (BOTH, 9090)), "{spec}");
    }
    let all = ports.replace("\"443\"", "\"443\", \"80\"");
    let compiled = compile(&format!("{shared}{}", of("admin", "p", &all)));
    assert!(may(&compiled, "foo/a", (BOTH, 9090)));
}

#[test]
fn whom_the_workload_lets_in_comes_to_its_services_and_not_the_other_way_round() {
    let workload = named("all", "two", &format!("{{{}}}", from("foo")));
    let both = workload + &of("web", "w", &from("bar"));
    assert_eq!(verdicts(&both, BOTH, 8080), [true, true, false]);
    assert_eq!(verdicts(&both, BOTH, 9090), [true, false, false]);
    // The usual pair: nothing, but what a Service lets in.
    let none = named("none", "two", "{}") + &of("web", "w", &from("bar"));
    assert_eq!(verdicts(&none, BOTH, 8080), [false, true, false]);
    assert_eq!(verdicts(&none, BOTH, 9090), [false; 3]);
}

#[test]
fn a_pod_that_is_not_ready_is_held_to_the_ports_of_its_slices() {
    let slices = |ready: bool| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: byhand, namespace: two}}\n\
             spec: {{ports: [{{port: 80}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: s, namespace: two, labels: {{kubernetes.io/service-name: byhand}}}}\n\
             endpoints: [{{addresses: [10.0.0.7], conditions: {{ready: {ready}}}}}]\nports: [{{port: 6000}}]\n---\n"
        )
    };
    for ready in [true, false] {
        let allow = slices(ready) + &of("byhand", "p", &from("foo"));
        assert_eq!(
            verdicts(&allow, BOTH, 6000),
            [true, false, false],
            "{ready}"
        );
        assert_eq!(verdicts(&allow, BOTH, 8080), [true; 3], "{ready}");
    }
}

#[test]
fn without_its_service_a_deny_by_port_denies_whatever_port_it_was() {
    let ports =
        "rules: [{from: [{source: {namespaces: [bar]}}], to: [{operation: {ports: [\"80\"]}}]}]";
    let deny = of("gone", "d", &format!("action: DENY, {ports}"));
    let compiled = compile(&format!("{SERVICES}{deny}"));
    let got = ["foo/a", "bar/a"].map(|source| may(&compiled, source, (BOTH, 8080)));
    assert_eq!(got, [true, false]);
}

const DENY_ALL: &str = "action: DENY, rules: [{}]";

#[test]
fn ports_that_are_not_known_are_all_ports() {
    let denied = |services: &str, port| {
        let compiled = compile(&format!("{services}{}", of("web", "w", DENY_ALL)));
        !may(&compiled, "foo/a", (BOTH, port))
    };
    assert!(denied(SERVICES, 8080) && !denied(SERVICES, 5000));
    // Headless and without ports: clients dial whatever port they like.
    let headless = SERVICES.replace(
        "{selector: {app: both}, ports: [{port: 80, targetPort: 8080}]}",
        "{clusterIP: None, selector: {app: both}}",
    );
    assert!(denied(&headless, 8080) && denied(&headless, 5000));
    // A pod whose ports cannot be read has the name at any of them.
    let named = SERVICES.replace("targetPort: 8080", "targetPort: main");
    let unread = named
        .replace(
            "labels: {app: both}",
            "labels: {app: both, mesh-agent.io/enrolled: \"true\"}",
        )
        .replace(
            "{name: admin, containerPort: 9090}",
            "{name: main, containerPort: 80o80}",
        );
    assert!(denied(&unread, 8080));
    for protocol in ["tcp", "Tcp", "[TCP]"] {
        let odd = SERVICES.replace(
            "targetPort: 8080",
            &format!("targetPort: 8080, protocol: {protocol}"),
        );
        assert!(denied(&odd, 8080), "{protocol}");
    }
}

#[test]
fn a_service_of_which_the_pods_are_not_known_is_about_all() {
    let by_hand = SERVICES.replacen("selector: {app: both}, ", "", 1);
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
        metadata: {name: s, namespace: two, labels: {kubernetes.io/service-name: web}}\n\
        endpoints: [{addresses: [10.0.0.7]}]\nports: [{port: 8080}]\n---\n";
    let denied = |text: &str, pod: &str| {
        let compiled = compile(&format!("{text}{}", of("web", "w", DENY_ALL)));
        !may(&compiled, "foo/a", (pod, 8080))
    };
    let whole = format!("{by_hand}{slice}");
    assert!(denied(&whole, BOTH) && !denied(&whole, "two/other"));
    for (from, to) in [
        ("[{addresses: [10.0.0.7]}]", "[{addresses: 10.0.0.x}]"),
        ("labels: {kubernetes.io/service-name: web}", "labels: [x]"),
        (
            "labels: {kubernetes.io/service-name: web}",
            "labels: {kubernetes.io/service-name: [web]}",
        ),
        ("kind: EndpointSlice", "kind: EndpointSlce"),
        ("kind: EndpointSlice", "kind: EndpointSlice\nx: ["),
    ] {
        assert!(slice.contains(from), "{from}");
        assert!(
            denied(&format!("{by_hand}{}", slice.replace(from, to)), BOTH),
            "{to}"
        );
    }
    // Given twice, and with other pods.
    let other = slice.replace("10.0.0.7", "10.0.0.9");
    for text in [
        format!("{whole}{other}"),
        format!("{by_hand}{other}{slice}"),
    ] {
        assert!(denied(&text, BOTH));
    }
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: two}\n\
        spec: {selector: {app: x}, ports: [{port: 80, targetPort: 8080}]}\n---\n";
    for text in [
        format!("{SERVICES}{service}"),
        format!("{service}---\n{SERVICES}"),
    ] {
        assert!(denied(&text, BOTH));
    }
    let same = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: two}\n\
        spec: {selector: {app: both}, ports: [{port: 80, targetPort: 8080}]}\n---\n";
    let compiled = compile(&format!("{SERVICES}{same}{}", of("web", "w", DENY_ALL)));
    assert!(
        may(&compiled, "foo/a", (BOTH, 5000)),
        "the same twice is known"
    );
}
