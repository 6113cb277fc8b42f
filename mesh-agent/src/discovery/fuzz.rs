//! Any bytes as a configuration file beside good ones.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::documents::{documents, parse_file};
use super::last_good::keep_last_good;
use super::tree::agree;
use super::{Object, Problem, build};
use crate::model::policy::PeerMode;
use crate::model::{Snapshot, SpiffeId, Workload};
use crate::policy::{Authorizer, Request};

/// One mistake more than are told says that there are more.
const MAX_PROBLEMS: usize = 1_001;

/// A pod, and what must stay refused to it whatever else is written.
const GOOD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: httpbin, namespace: foo, labels: {app: httpbin}}
status: {podIP: 10.0.0.5}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: fuzz-deny, namespace: foo}
spec:
  action: DENY
  selector: {matchLabels: {app: httpbin}}
  rules:
  - from: [{source: {notPrincipals: ["cluster.local/ns/foo/sa/*"]}}]
    to: [{operation: {ports: ["80"]}}]
"#;

/// One of each kind of routes.
#[cfg(test)]
const ROUTES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: foo}
spec:
  parentRefs: [{group: "", kind: Service, name: httpbin, port: 80}]
  rules:
  - name: canary
    matches: [{path: {type: PathPrefix, value: /v2}, headers: [{name: x-canary, value: "yes"}]}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], remove: [c]}}
    - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
    backendRefs: [{name: httpbin, port: 80, weight: 9}, {name: other, port: 80, weight: 1}]
    timeouts: {request: 10s, backendRequest: 2s}
    retry: {codes: [503], attempts: 2, backoff: 100ms}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls, namespace: foo}
spec:
  parentRefs: [{group: "", kind: Service, name: httpbin}]
  rules: [{matches: [{method: {service: pkg.Echo, method: Echo}}], backendRefs: [{name: httpbin, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: tls, namespace: foo}
spec:
  parentRefs: [{group: "", kind: Service, name: httpbin}]
  hostnames: ["*.example.com"]
  rules: [{backendRefs: [{name: httpbin, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: tcp, namespace: foo}
spec:
  parentRefs: [{group: "", kind: Service, name: httpbin}]
  rules: [{backendRefs: [{name: httpbin, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: grant, namespace: bar}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: foo}]
  to: [{group: "", kind: Service}]
---
apiVersion: mesh-agent.io/v1alpha1
kind: TrafficPolicy
metadata: {name: traffic, namespace: foo}
spec:
  targetRefs: [{group: "", kind: Service, name: httpbin, sectionName: http}]
  protocol: HTTP
  loadBalancer: {type: ConsistentHash, consistentHash: {httpCookie: {name: a, ttl: 1h}}}
  outlierDetection: {consecutiveErrors: 3, successRate: {thresholdPercent: 90}}
  limits: {maxConnections: 10}
  retryBudget: {percent: 10, minRetryRate: {count: 1}}
  hedging: {delay: 50ms, methods: [PUT], grpcMethods: [a.B/C]}
  timeouts: {connect: 1s500ms}
  rateLimits: [{name: a, requests: 10, key: {type: Header, header: x-user}, match: {methods: [P*], paths: [/a*, "/b/{*}/c"]}}]
---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: budget, namespace: foo}
spec:
  targetRefs: [{group: "", kind: Service, name: httpbin}]
  retryConstraint: {budget: {percent: 10, interval: 1m}, minRetryRate: {count: 3, interval: 1s}}
"#;

/// Of a file without a mistake.
pub(crate) fn snapshot(text: &str) -> Snapshot {
    let file = parse_file(Path::new("good.yaml"), text.as_bytes());
    assert_eq!(file.problems, []);
    build(file.objects.iter()).0
}

/// One file: every mistake told within bounds, no DENY lifted, and read in one
/// way whoever reads it.
pub(crate) fn config(bytes: &[u8]) {
    static GOOD_OBJECTS: OnceLock<(Vec<Arc<Object>>, Arc<Workload>)> = OnceLock::new();
    let (good, pod) = GOOD_OBJECTS.get_or_init(|| {
        let parsed = parse_file(Path::new("good.yaml"), GOOD.as_bytes());
        assert_eq!(parsed.problems, []);
        let (snapshot, _) = build(parsed.objects.iter());
        let pod = snapshot.workloads.values().next().expect("the pod");
        (parsed.objects, pod.clone())
    });
    let text = String::from_utf8_lossy(bytes);
    for (_, document) in documents(&text) {
        assert_eq!(agree(&document), Ok(()));
    }
    let file = parse_file(Path::new("any.yaml"), bytes);
    let lines = bytes.iter().filter(|b| **b == b'\n').count() + 2;
    let line = |problem: &Problem| problem.origin.first_line() as usize;
    assert!(file.problems.len() <= MAX_PROBLEMS);
    assert!(file.problems.iter().all(|p| line(p) <= lines));
    assert!(file.objects.len() <= bytes.len());

    // Beside the good file.
    let (authorizer, problems) = compile(good.iter().chain(&file.objects));
    assert!(problems.iter().all(|p| line(p) <= lines.max(20)));
    refuses(&authorizer, pod, "beside a DENY");

    // Behind it, in the same file.
    let joined = [GOOD.as_bytes(), b"\n---\n", bytes].concat();
    let both = parse_file(Path::new("joined.yaml"), &joined);
    let (authorizer, _) = compile(both.objects.iter());
    refuses(&authorizer, pod, "behind a DENY in its file");

    // Instead of it: what has a mistake takes nothing back that it does not name.
    let names_it = |o: &Arc<Object>| matches!(o.meta.name.as_str(), "fuzz-deny" | "httpbin");
    let has_mistake = file.problems.iter().any(Problem::is_mistake);
    if has_mistake && !file.objects.iter().any(names_it) {
        let mut file = file;
        keep_last_good(&mut file, good);
        let (authorizer, _) = compile(file.objects.iter());
        refuses(&authorizer, pod, "instead of a DENY");
    }
}

fn compile<'o>(objects: impl Iterator<Item = &'o Arc<Object>>) -> (Authorizer, Vec<Problem>) {
    let (snapshot, problems) = build(objects);
    let authorizer = Authorizer::compile(&snapshot);
    for workload in snapshot.workloads.values() {
        // None of it may fail, whatever it says.
        let _mode: PeerMode = authorizer.peer_mode(workload, 80);
        let _may = authorizer.check(&request(workload, None));
        let _why = authorizer.explain(&request(workload, None));
    }
    (authorizer, problems)
}

fn request<'a>(destination: &'a Workload, source: Option<&'a SpiffeId>) -> Request<'a> {
    let address = std::net::Ipv4Addr::new(10, 0, 0, 9).into();
    Request {
        source,
        source_ip: address,
        destination,
        destination_ip: address,
        destination_port: 80,
        sni: None,
        http: None,
    }
}

fn refuses(authorizer: &Authorizer, pod: &Workload, what: &str) {
    let other = SpiffeId::parse("spiffe://cluster.local/ns/bar/sa/sleep").expect("an identity");
    for source in [None, Some(&other)] {
        let verdict = authorizer.check(&request(pod, source));
        assert!(!verdict.is_permit(), "{what}: {source:?} is let through");
    }
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let bomb = {
        let level = |n: usize| {
            format!(
                "a{n}: &a{n} [{}]\n",
                vec![format!("*a{}", n - 1); 9].join(",")
            )
        };
        let levels: String = (1..9).map(level).collect();
        format!("a0: &a0 [lol]\n{levels}")
    };
    let policy = GOOD.replace("fuzz-deny", "other");
    let list = r#"{"apiVersion": "v1", "kind": "List", "items": [{"kind": "List", "items": [
        {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
         "metadata": {"name": "fuzz-deny", "namespace": "foo"}, "spec": {}}]}]}"#;
    let texts = [
        ("sample", include_str!("../../../deploy/vm/config.d/shop.yaml").to_owned()),
        ("policy", policy.clone()),
        ("policy-again", GOOD.to_owned()),
        ("policy-unknown-field", policy.replace("rules", "rulez")),
        ("policy-not-yaml", policy.replace("rules:", "rules: [")),
        ("policy-joined", policy.replace("---\n", "")),
        ("list-in-list", list.to_owned()),
        (
            "peer",
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: foo}\n\
             spec: {selector: {matchLabels: {app: httpbin}}, mtls: {mode: STRICT}, portLevelMtls: {80: {mode: DISABLE}}}\n"
                .to_owned(),
        ),
        (
            "everything-in-a-rule",
            policy.replace(
                "ports: [\"80\"]",
                "notPorts: [\"1\"], hosts: [a], methods: [GET], paths: [/]",
            ) + "    when: [{key: source.ip, values: [10.0.0.0/8]}, {key: connection.sni, notValues: [\"*.x\"]}]\n",
        ),
        (
            "slice",
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {name: s, namespace: foo, labels: {kubernetes.io/service-name: httpbin}}\n\
             endpoints: [{addresses: [10.0.0.5], conditions: {ready: true}}]\nports: [{port: 80}]\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {name: httpbin, namespace: foo}\n\
             spec: {clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: 8080}]}\n"
                .to_owned(),
        ),
        (
            "service-account",
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: web, namespace: foo}\nautomountServiceAccountToken: false\n"
                .to_owned(),
        ),
        (
            "runtime-class",
            "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: secure}\nhandler: runsc\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: foo}\nspec: {runtimeClassName: secure}\n"
                .to_owned(),
        ),
        ("routes", ROUTES.to_owned()),
        ("bomb", bomb),
        ("deep", format!("{}1{}", "[".repeat(3_000), "]".repeat(3_000))),
        ("deep-mapping", "a: {".repeat(500)),
        ("separators", "---\n".repeat(50)),
        ("tags", "!!binary aGk=\n--- !x &a\n*a : *b\n? [a]\n: |2-\n   x\n%YAML 9.9\n".to_owned()),
        ("anchor-of-itself", "a: &a [*a]\n".to_owned()),
        ("two-keys", "kind: Pod\nkind: AuthorizationPolicy\n<<: {a: 1}\n".to_owned()),
        ("numbers", "a: [0x7fffffffffffffffff, .inf, -.nan, 1e999, 0o8, 12:30:45]\n".to_owned()),
    ];
    let mut seeds: Vec<(&str, Vec<u8>)> = Vec::new();
    seeds.extend(texts.map(|(name, text)| (name, text.into_bytes())));
    seeds.push(("not-utf8", [policy.as_bytes(), &[0xff, 0xfe]].concat()));
    seeds.push((
        "nul-and-bom",
        [b"\xef\xbb\xbf\0a: 1\r\n", GOOD.as_bytes()].concat(),
    ));
    seeds
}
