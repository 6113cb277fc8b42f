//! What an API server takes of policies and routes, and what is written on them.

use std::process::Command;
use std::time::Duration;

use mesh_tests::kube::{Cluster, Namespace, mesh};
use serde_json::Value;

const LONG: Duration = Duration::from_secs(60);
const OURS: &str = "mesh-agent.io/mesh";
const OTHERS: &str = "example.com/other";

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: mesh-agent.io/v1alpha1
kind: TrafficPolicy
metadata: {{name: {name}, namespace: @NS@}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: api}}]
  {spec}
"
    )
}

fn route(weight: u32) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: api, namespace: @NS@}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: api, port: 80}}]
  rules: [{{backendRefs: [{{name: api, port: 80, weight: {weight}}}]}}]
"
    )
}

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: api, namespace: @NS@}
spec: {selector: {app: api}, ports: [{name: http, port: 80}]}
";

/// The Gateway API's kinds, of the conformance suite's version.
fn gateway_api(cluster: &Cluster) {
    let library = cluster.file("tests/kube/lib.sh");
    let script = format!(". {library}; gateway_api");
    let out = Command::new("bash").args(["-euc", &script]).output();
    let out = out.expect("bash");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{said}");
}

/// What that controller says of the object under each of its parents, or ancestors.
fn entry(object: &Value, list: &str, controller: &str) -> Value {
    let entries = object["status"][list].as_array().cloned();
    let mut entries = entries.unwrap_or_default().into_iter();
    let found = entries.find(|entry| entry["controllerName"] == controller);
    found.unwrap_or_default()
}

fn condition(entry: &Value, kind: &str) -> Value {
    let conditions = entry["conditions"].as_array().cloned();
    let mut conditions = conditions.unwrap_or_default().into_iter();
    let found = conditions.find(|condition| condition["type"] == kind);
    found.unwrap_or_default()
}

#[test]
fn the_api_server_refuses_traffic_policies_that_cannot_be_and_good_ones_say_so() {
    let Some(mesh) = mesh() else { return };
    let ns = Namespace::new(mesh.cluster, "traffic-policies", true).expect("a namespace");
    ns.apply(SERVICE).expect("a Service");
    for (spec, why) in [
        (
            "protocol: HTTP",
            "protocol is of a port: each targetRef needs a sectionName",
        ),
        (
            "rateLimits: [{name: both, requests: 1, connections: 1}]",
            "exactly one of requests and connections",
        ),
        (
            "rateLimits: [{name: tenant, requests: 1, key: {type: Header}}]",
            "header and type Header need each other",
        ),
        (
            "loadBalancer: {type: ConsistentHash}",
            "consistentHash and type ConsistentHash need each other",
        ),
        (
            "outlierDetection: {baseEjectionTime: 60s, maxEjectionTime: 30s}",
            "baseEjectionTime is more than maxEjectionTime",
        ),
        ("timeouts: {connect: 2h}", "not from 1ms to"),
        ("limits: {maxConnections: many}", "must be of type integer"),
    ] {
        let refused = ns.try_apply(&policy("bad", spec)).expect_err(spec);
        let said = format!("{refused:#}");
        assert!(said.contains(why), "{spec}: {said}");
    }
    ns.apply(&policy("good", "loadBalancer: {type: LeastRequest}"))
        .expect("taken");
    let of = |name: &str| {
        let object = ns.get(&format!("trafficpolicy {name}")).unwrap_or_default();
        entry(&object, "ancestors", OURS)
    };
    let told = mesh.cluster.wait_until("in force", LONG, || {
        condition(&of("good"), "Accepted")["status"] == "True"
            && of("good").to_string().contains("in force on 2 of 2 nodes")
    });
    told.unwrap_or_else(|error| panic!("{error:#}: {}", of("good")));
}

#[test]
fn a_route_keeps_what_another_controller_says_and_ours_follows_its_generation() {
    let Some(mesh) = mesh() else { return };
    gateway_api(mesh.cluster);
    let ns = Namespace::new(mesh.cluster, "routes", true).expect("a namespace");
    ns.apply(SERVICE).expect("a Service");
    ns.apply(&route(1)).expect("a route");
    let get = || ns.get("httproute api").unwrap_or_default();
    let ours_is_of = |generation: u64| {
        let ours = entry(&get(), "parents", OURS);
        ["Accepted", "ResolvedRefs"].iter().all(|kind| {
            let condition = condition(&ours, kind);
            condition["status"] == "True" && condition["observedGeneration"] == generation
        })
    };
    let wait = |what: &str, condition: &dyn Fn() -> bool| {
        let waited = mesh.cluster.wait_until(what, LONG, condition);
        waited.unwrap_or_else(|error| panic!("{error:#}: {}", get()["status"]));
    };
    wait("accepted", &|| ours_is_of(1));
    // A merge replaces the list: ours is gone with it, and has to come back beside theirs.
    let theirs = serde_json::json!({
        "parentRef": {"group": "", "kind": "Service", "name": "api", "port": 80},
        "controllerName": OTHERS,
        "conditions": [{
            "type": "Accepted", "status": "False", "reason": "Elsewhere", "message": "not here",
            "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    });
    let patch = serde_json::json!({"status": {"parents": [theirs]}}).to_string();
    let words = [
        "-n",
        &ns.name,
        "patch",
        "httproute",
        "api",
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ];
    mesh.cluster.kubectl_args(&words).expect("patched");
    wait("accepted again", &|| ours_is_of(1));
    ns.apply(&route(2)).expect("changed");
    wait("accepted as it is now", &|| ours_is_of(2));
    let kept = entry(&get(), "parents", OTHERS);
    assert_eq!(kept["conditions"], theirs["conditions"], "{kept}");
}
