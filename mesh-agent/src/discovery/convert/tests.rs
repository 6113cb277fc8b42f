use std::path::Path;

use super::*;
use crate::discovery::parse;

/// A rule for Service `web` of namespace `shop`, with this below its `spec`.
fn rule(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1beta1\nkind: DestinationRule\n\
         metadata: {{name: web, namespace: shop}}\nspec: {{host: web, {spec}}}\n"
    )
}

fn notes(converted: &Converted) -> Vec<String> {
    converted.notes.iter().map(ToString::to_string).collect()
}

/// What stands below `spec`, but for the targets.
fn says(spec: &str) -> String {
    let converted = Converted::of(&rule(spec));
    assert_eq!(notes(&converted), [] as [&str; 0], "{spec}");
    let behind = converted
        .policies
        .split_once("targetRefs")
        .expect("targets")
        .1;
    behind.split_once('\n').expect("a line").1.to_owned()
}

/// The one note on it; the error is the same.
fn told(spec: &str) -> (String, bool) {
    let converted = Converted::of(&rule(spec));
    let [note] = &converted.notes[..] else {
        panic!("{spec}: {:?}", converted.notes);
    };
    if note.is_error {
        assert_eq!(
            converted.policies, "",
            "{spec}: nothing of a rule with an error"
        );
    }
    (note.field.clone(), note.is_error)
}

#[test]
fn the_example_of_the_page_is_translated_as_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/convert");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("an example");
    let converted = Converted::of(&read("destination-rule.yaml"));
    assert_eq!(converted.policies, read("traffic-policies.yaml"));
    let page = std::fs::read_to_string(folder.join("../../traffic-policy.md")).expect("a page");
    for note in notes(&converted) {
        assert!(page.contains(&note), "the page lacks {note}");
    }
    assert!(!converted.has_errors());
    let (objects, problems) = parse(Path::new("t"), converted.policies.as_bytes());
    let mistakes = problems.iter().filter(|problem| problem.is_mistake());
    assert_eq!((objects.len(), mistakes.count()), (2, 0));
}

#[test]
fn each_balancer_has_its_name_here() {
    for (istio, here) in [
        ("simple: ROUND_ROBIN", "type: RoundRobin"),
        ("simple: LEAST_CONN", "type: LeastRequest"),
        ("simple: RANDOM", "type: Random"),
    ] {
        let said = says(&format!("trafficPolicy: {{loadBalancer: {{{istio}}}}}"));
        assert_eq!(said, format!("  loadBalancer:\n    {here}\n"));
    }
    for (istio, here) in [
        ("{enabled: true}", "Zone"),
        (
            "{enabled: false, failoverPriority: [kubernetes.io/hostname]}",
            "None",
        ),
        ("{failoverPriority: [topology.kubernetes.io/zone]}", "Zone"),
        (
            "{enabled: true, failoverPriority: [kubernetes.io/hostname, topology.kubernetes.io/zone]}",
            "Node",
        ),
    ] {
        let said = says(&format!(
            "trafficPolicy: {{loadBalancer: {{localityLbSetting: {istio}}}}}"
        ));
        let here = format!("  loadBalancer:\n    locality:\n      prefer: {here}\n");
        assert_eq!(said, here, "{istio}");
    }
    let hash = "trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}";
    assert_eq!(
        says(hash),
        "  loadBalancer:\n    consistentHash:\n      httpHeaderName: x-user\n    type: ConsistentHash\n"
    );
}

#[test]
fn pools_and_ejection_are_limits_timeouts_and_a_breaker() {
    let said = says(
        "trafficPolicy: {connectionPool: {tcp: {maxConnections: 2147483647, connectTimeout: 1.5s}, \
         http: {http2MaxRequests: 2147483647, idleTimeout: 1h30m}}, \
         outlierDetection: {consecutive5xxErrors: 0, maxEjectionPercent: 0, baseEjectionTime: 3m}}",
    );
    assert_eq!(
        said,
        "  limits:\n    maxRequests: 1000000\n  outlierDetection:\n    baseEjectionTime: \"3m\"\n    \
         consecutiveErrors: 0\n    maxEjectionPercent: 1\n    maxEjectionTime: \"5m\"\n  timeouts:\n    \
         connect: \"1s500ms\"\n    idle: \"1h30m\"\n"
    );
}

#[test]
fn what_would_loosen_security_is_an_error_and_nothing_of_its_rule_is_translated() {
    let limits = "connectionPool: {tcp: {maxConnections: 5}}";
    for (tls, field) in [
        ("mode: SIMPLE", "mode"),
        ("mode: MUTUAL", "mode"),
        ("mode: SURPRISE", "mode"),
        (
            "mode: ISTIO_MUTUAL, subjectAltNames: [a]",
            "subjectAltNames",
        ),
        ("mode: ISTIO_MUTUAL, sni: a", "sni"),
        (
            "mode: ISTIO_MUTUAL, caCertificates: /ca.pem",
            "caCertificates",
        ),
    ] {
        let at = format!("spec.trafficPolicy.tls.{field}");
        let spec = format!("trafficPolicy: {{{limits}, tls: {{{tls}}}}}");
        assert_eq!(told(&spec), (at, true), "{tls}");
    }
    let (port, subset) = (
        "trafficPolicy: {portLevelSettings: [{port: {number: 443}, tls: {mode: SIMPLE}}]}",
        "subsets: [{name: v1, trafficPolicy: {tls: {mode: SIMPLE}}}]",
    );
    for (spec, error) in [
        (port, "spec.trafficPolicy.portLevelSettings[0].tls.mode"),
        (subset, "spec.subsets[0].trafficPolicy.tls.mode"),
        (
            "trafficPolicy: {tunnel: {targetHost: a}}",
            "spec.trafficPolicy.tunnel",
        ),
        (
            "workloadSelector: {matchLabels: {a: b}}",
            "spec.workloadSelector",
        ),
    ] {
        let converted = Converted::of(&rule(spec));
        let errors = converted.notes.iter().filter(|note| note.is_error);
        let errors: Vec<&str> = errors.map(|note| note.field.as_str()).collect();
        assert_eq!(errors, [error]);
        assert_eq!(converted.policies, "");
    }
}

#[test]
fn a_field_that_is_not_known_or_not_understood_is_an_error() {
    for (spec, field) in [
        ("trafficPolicy: {novel: {a: 1}}", "spec.trafficPolicy.novel"),
        ("novel: 1", "spec.novel"),
        ("trafficPolicy: 5", "spec.trafficPolicy"),
        (
            "trafficPolicy: {outlierDetection: {novel: 1}}",
            "spec.trafficPolicy.outlierDetection.novel",
        ),
        (
            "trafficPolicy: {connectionPool: {tcp: {maxConnections: -1}}}",
            "spec.trafficPolicy.connectionPool.tcp.maxConnections",
        ),
        (
            "trafficPolicy: {connectionPool: {tcp: {connectTimeout: soon}}}",
            "spec.trafficPolicy.connectionPool.tcp.connectTimeout",
        ),
        (
            "trafficPolicy: {connectionPool: {tcp: {connectTimeout: 2m}}}",
            "TrafficPolicy's spec.timeouts.connect",
        ),
        (
            "trafficPolicy: {loadBalancer: {simple: BEST}}",
            "spec.trafficPolicy.loadBalancer.simple",
        ),
    ] {
        assert_eq!(told(spec), (field.to_owned(), true), "{spec}");
    }
}

/// Beside those of the example.
#[test]
fn what_has_no_counterpart_is_told() {
    for (policy, field) in [
        ("loadBalancer: {simple: PASSTHROUGH}", "loadBalancer.simple"),
        (
            "loadBalancer: {localityLbSetting: {distribute: [{from: a/*, to: {a/*: 100}}]}}",
            "loadBalancer.localityLbSetting.distribute",
        ),
        (
            "loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}",
            "loadBalancer.localityLbSetting.failover",
        ),
        (
            "loadBalancer: {localityLbSetting: {failoverPriority: [topology.kubernetes.io/region, kubernetes.io/hostname]}}",
            "loadBalancer.localityLbSetting.failoverPriority",
        ),
        (
            "loadBalancer: {consistentHash: {httpQueryParameterName: a}}",
            "loadBalancer.consistentHash.httpQueryParameterName",
        ),
        (
            "connectionPool: {http: {maxRetries: 3}}",
            "connectionPool.http.maxRetries",
        ),
        (
            "connectionPool: {tcp: {idleTimeout: 1h}, http: {idleTimeout: 5m}}",
            "connectionPool.tcp.idleTimeout",
        ),
        (
            "outlierDetection: {consecutiveGatewayErrors: 5}",
            "outlierDetection.consecutiveGatewayErrors",
        ),
        ("tls: {mode: DISABLE}", "tls.mode"),
        ("proxyProtocol: {version: V2}", "proxyProtocol"),
    ] {
        let field = format!("spec.trafficPolicy.{field}");
        assert_eq!(
            told(&format!("trafficPolicy: {{{policy}}}")),
            (field, false)
        );
    }
    let field = "spec.exportTo".to_owned();
    assert_eq!(told("exportTo: [\".\"]"), (field, false));
}

#[test]
fn a_port_of_which_the_name_is_not_known_has_no_policy_and_is_told() {
    let spec = "trafficPolicy: {portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]}";
    let at = "spec.trafficPolicy.portLevelSettings[0]".to_owned();
    assert_eq!(told(spec), (at, false));
}

#[test]
fn a_policy_is_for_a_service_of_its_own_namespace() {
    let with_host = |host: &str| {
        rule("").replace(
            "host: web",
            &format!("trafficPolicy: {{loadBalancer: {{simple: RANDOM}}}}, host: {host}"),
        )
    };
    let moved = Converted::of(&with_host("api.other.svc.cluster.local"));
    assert!(
        moved.policies.contains("namespace: other") && moved.policies.contains("\"name\":\"api\""),
        "{}",
        moved.policies
    );
    assert_eq!(moved.notes.len(), 1, "that it moved is told");
    for wrong in [
        "\"*.shop.svc.cluster.local\"",
        "example.com",
        "\"\"",
        "\"a: b\"",
    ] {
        let converted = Converted::of(&with_host(wrong));
        assert!(
            converted.has_errors() && converted.policies.is_empty(),
            "{wrong}"
        );
    }
}

#[test]
fn two_rules_for_one_service_and_files_without_any_are_errors() {
    let one = rule("trafficPolicy: {loadBalancer: {simple: RANDOM}}");
    let two = Converted::of(&format!("{one}---\n{one}"));
    assert!(two.has_errors());
    assert_eq!(two.policies.matches("kind: TrafficPolicy").count(), 1);
    assert!(Converted::of("").has_errors());
    assert!(Converted::of("kind: Gateway\nmetadata: {name: a}\n").has_errors());
    assert!(Converted::of(&format!("{one}---\n{{a: [\n")).has_errors());
}
