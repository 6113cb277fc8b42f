//! TrafficPolicies from their documents to what holds for a Service.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::super::documents::parse_file;
use super::super::last_good::keep_last_good;
use super::super::store::{Said, Store};
use super::super::{Code, build, check, parse};
use crate::model::policy::MeshSettings;
use crate::model::traffic::Traffic;
use crate::model::traffic_policy::COMPARED;
use crate::model::{AppProtocol, ServiceKey, Snapshot};
use crate::traffic::{status, words};

const WEB: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}, {name: db, port: 5432}]}
"#;

fn policy(name: &str, target: &str, spec: &str) -> String {
    format!(
        "apiVersion: mesh-agent.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{targetRefs: [{{group: \"\", kind: Service, name: web{target}}}], {spec}}}\n"
    )
}

fn load(policies: &[String]) -> (Snapshot, Vec<String>) {
    let text = format!("{WEB}---\n{}", policies.join("---\n"));
    let (objects, mut problems) = parse(Path::new("t.yaml"), text.as_bytes());
    let (snapshot, more) = build(objects.iter());
    problems.extend(more);
    let problems = problems.iter().filter(|problem| problem.is_mistake());
    let told = problems.map(|problem| format!("{}: {}", problem.field, problem.message));
    (snapshot, told.collect())
}

/// Before the faults of the examples are over.
fn now() -> SystemTime {
    humantime::parse_rfc3339("2026-01-01T00:00:00Z").expect("a time")
}

fn words_of(snapshot: &Snapshot, port: &str) -> Vec<String> {
    let service = snapshot.services.get(&ServiceKey::new("shop", "web"));
    let service = service.expect("the Service");
    let mut ports = service.ports.iter();
    let port = ports.find(|one| one.name == port).expect("the port");
    words(service.traffic(port), now())
}

#[test]
fn each_port_has_what_is_said_of_it_and_else_what_is_said_of_its_service() {
    let (snapshot, mistakes) = load(&[
        policy(
            "all",
            "",
            "limits: {maxConnections: 7}, timeouts: {idle: 1h}",
        ),
        policy(
            "db",
            ", sectionName: db",
            "protocol: TCP, limits: {maxConnections: 3}",
        ),
    ]);
    assert_eq!(mistakes, [] as [&str; 0]);
    assert_eq!(
        words_of(&snapshot, "http"),
        ["at most 7 connections", "ends when idle for 3600s"]
    );
    assert_eq!(
        words_of(&snapshot, "db"),
        ["at most 3 connections", "ends when idle for 3600s"]
    );
    let service = &snapshot.services[&ServiceKey::new("shop", "web")];
    let protocols: Vec<_> = service.ports.iter().map(|port| port.protocol).collect();
    assert_eq!(protocols, [AppProtocol::Http1, AppProtocol::Tcp]);
}

/// Each mistake is told with its field, and none of what the policy says holds.
#[test]
fn what_is_not_understood_is_told_with_its_field_and_changes_nothing() {
    let (connections, key) = ("name: a, connections: 1", "spec.rateLimits[0].key");
    for (spec, field) in [
        ("loadBalancing: {}", "spec.loadBalancing"),
        ("loadBalancer: {type: LEAST}", "spec.loadBalancer.type"),
        ("loadBalancer: {type: ConsistentHash}", "spec.loadBalancer"),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true}}",
            "spec.loadBalancer",
        ),
        (
            "loadBalancer: {type: ConsistentHash, consistentHash: {}}",
            "spec.loadBalancer.consistentHash",
        ),
        (
            "loadBalancer: {type: ConsistentHash, consistentHash: {useSourceIp: false}}",
            "spec.loadBalancer.consistentHash.useSourceIp",
        ),
        (
            "loadBalancer: {locality: {prefer: Region}}",
            "spec.loadBalancer.locality.prefer",
        ),
        ("loadBalancer: {warmup: {}}", "spec.loadBalancer.warmup"),
        (
            "outlierDetection: {enabled: maybe}",
            "spec.outlierDetection.enabled",
        ),
        (
            "outlierDetection: {maxEjectionPercent: 0}",
            "spec.outlierDetection.maxEjectionPercent",
        ),
        (
            "outlierDetection: {baseEjectionTime: 2m}",
            "spec.outlierDetection",
        ),
        ("limits: {maxConnections: 0}", "spec.limits.maxConnections"),
        ("limits: {maxConnection: 1}", "spec.limits.maxConnection"),
        ("limits: [1]", "spec.limits"),
        ("limits: ", "spec.limits"),
        ("retryBudget: {percent: 101}", "spec.retryBudget.percent"),
        (
            "retryBudget: {minRetryRate: {}}",
            "spec.retryBudget.minRetryRate",
        ),
        ("hedging: {}", "spec.hedging"),
        ("hedging: {delay: 0s}", "spec.hedging.delay"),
        ("hedging: {delay: 2m}", "spec.hedging.delay"),
        (
            "hedging: {delay: 50ms, attempts: 2}",
            "spec.hedging.attempts",
        ),
        (
            "hedging: {delay: 50ms, methods: [CONNECT]}",
            "spec.hedging.methods[0]",
        ),
        (
            "hedging: {delay: 50ms, methods: [PUT, PUT]}",
            "spec.hedging.methods",
        ),
        (
            "hedging: {delay: 50ms, grpcMethods: [\"/shop.Cart/Get\"]}",
            "spec.hedging.grpcMethods[0]",
        ),
        ("timeouts: {request: 5}", "spec.timeouts.request"),
        ("timeouts: {request: 0s}", "spec.timeouts.request"),
        ("protocol: HTTP", "spec.protocol"),
        ("rateLimits: {}", "spec.rateLimits"),
        ("rateLimits: [{requests: 1}]", "spec.rateLimits[0]"),
        ("rateLimits: [{name: a}]", "spec.rateLimits[0]"),
        (
            "rateLimits: [{name: a, requests: 1, connections: 1}]",
            "spec.rateLimits[0]",
        ),
        (
            "rateLimits: [{name: a, requests: 1, burst: 0}]",
            "spec.rateLimits[0].burst",
        ),
        (
            "rateLimits: [{name: a, requests: 1, key: {type: Header}}]",
            key,
        ),
        (
            "rateLimits: [{name: a, requests: 1, key: {type: Service, header: x}}]",
            key,
        ),
        (
            &format!("rateLimits: [{{{connections}, key: {{type: Header, header: x}}}}]"),
            key,
        ),
    ] {
        let (snapshot, mistakes) = load(&[policy("p", "", spec)]);
        let told = mistakes.first().map(String::as_str).unwrap_or_default();
        let (at, _) = told.split_once(": ").unwrap_or_default();
        assert_eq!(at, field, "{spec}: {mistakes:?}");
        assert_eq!(words_of(&snapshot, "http"), [] as [&str; 0], "{spec}");
        let all: Vec<_> = snapshot.traffic_policies.iter().collect();
        let status = status(&snapshot, all[0], now());
        assert_eq!(status[0].reason, "Invalid", "{spec}");
    }
    let fault = "name: a, from: {namespaces: [x]}, until: \"2026-12-31T17:30:00Z\"";
    for (said, at) in [
        ("name: a, until: \"2026-12-31T17:30:00Z\", delay: 1s", ""),
        ("name: a, from: {namespaces: [x]}, delay: 1s", ""),
        (fault, ""),
        (
            "name: a, from: {}, until: \"2026-12-31T17:30:00Z\", delay: 1s",
            ".from",
        ),
        (
            "name: a, from: {principals: [\"*\"]}, until: \"2026-12-31T17:30:00Z\", delay: 1s",
            ".from.principals",
        ),
        (
            "name: a, from: {namespaces: [x]}, until: 1h, delay: 1s",
            ".until",
        ),
        (&format!("{fault}, delay: 2m"), ".delay"),
        (&format!("{fault}, delay: 1s, percent: 0"), ".percent"),
        (&format!("{fault}, abort: {{}}"), ".abort"),
        (
            &format!("{fault}, abort: {{httpStatus: 200}}"),
            ".abort.httpStatus",
        ),
        (
            &format!("{fault}, abort: {{grpcStatus: OK}}"),
            ".abort.grpcStatus",
        ),
    ] {
        let (snapshot, mistakes) = load(&[policy("p", "", &format!("faults: [{{{said}}}]"))]);
        let told = mistakes.first().map(String::as_str).unwrap_or_default();
        let field = format!("spec.faults[0]{at}");
        assert!(told.starts_with(&field), "{said}: {mistakes:?}");
        assert_eq!(words_of(&snapshot, "http"), [] as [&str; 0], "{said}");
    }
    let twice = policy(
        "p",
        "",
        "rateLimits: [{name: a, requests: 1}, {name: a, requests: 2}]",
    );
    assert_eq!(
        load(&[twice]).1,
        ["spec.rateLimits[1].name: is another limit's name"]
    );
}

#[test]
fn a_fault_is_for_named_callers_and_its_status_says_when_it_is_over() {
    let said = "faults: [{name: slow, from: {namespaces: [test]}, percent: 10, until: \"2026-06-01T00:00:00Z\", delay: 200ms}, \
                {name: down, from: {principals: [cluster.local/ns/shop/sa/cart]}, until: \"2026-06-01T00:00:00Z\", abort: {grpcStatus: UNAVAILABLE}}]";
    let (snapshot, mistakes) = load(&[policy("p", "", said)]);
    assert_eq!(mistakes, [] as [&str; 0]);
    assert_eq!(
        words_of(&snapshot, "http"),
        [
            "fault slow until 2026-06-01T00:00:00Z: a delay of 200ms into 10% of the requests of namespace test",
            "fault down until 2026-06-01T00:00:00Z: an answer 503 (gRPC: 14) into 100% of the requests of cluster.local/ns/shop/sa/cart",
        ]
    );
    let all: Vec<_> = snapshot.traffic_policies.iter().collect();
    let over = now() + Duration::from_secs(365 * 86_400);
    let told = |now| status(&snapshot, all[0], now)[0].message.clone();
    assert!(told(now()).contains("fault slow until"), "{}", told(now()));
    assert!(
        told(over).contains("fault slow is over since 2026-06-01T00:00:00Z"),
        "{}",
        told(over)
    );
}

#[test]
fn a_target_is_a_service_of_the_policys_namespace_named_once() {
    for target in [
        "{group: \"\", kind: Pod, name: web}",
        "{group: apps, kind: Service, name: web}",
        "{group: \"\", kind: Service, name: web, namespace: other}",
        "{group: \"\", kind: Service, name: \"\"}",
        "{group: \"\", kind: Service, name: web}, {group: \"\", kind: Service, name: web}",
        "",
    ] {
        let text = policy("p", "", "limits: {maxRequests: 3}");
        let one = "{group: \"\", kind: Service, name: web}";
        let (_, mistakes) = load(&[text.replace(one, target)]);
        assert_eq!(mistakes.len(), 1, "{target}: {mistakes:?}");
        assert!(mistakes[0].starts_with("spec.targetRefs"), "{mistakes:?}");
    }
}

/// Replaces what the file says, as a directory does.
fn next(store: &mut Store, before: &mut super::super::documents::Parsed, text: &str) {
    let mut now = parse_file(Path::new("t.yaml"), text.as_bytes());
    if now.problems.iter().any(|problem| problem.is_mistake()) {
        keep_last_good(&mut now, &before.objects);
    }
    store.replace(&Said::here(&before.objects), &Said::here(&now.objects));
    store.commit(Instant::now());
    *before = now;
}

#[test]
fn a_version_with_a_mistake_leaves_the_last_good_one_in_force() {
    let (mut store, mut said) = (Store::default(), Default::default());
    let both = |spec: &str| format!("{WEB}---\n{}", policy("p", "", spec));
    next(&mut store, &mut said, &both("limits: {maxRequests: 3}"));
    next(
        &mut store,
        &mut said,
        &both("limits: {maxRequests: 4, maxPods: 1}"),
    );
    let snapshot = store.snapshot();
    assert_eq!(words_of(snapshot, "http"), ["at most 3 requests in flight"]);
    let all: Vec<_> = snapshot.traffic_policies.iter().collect();
    let told = &status(snapshot, all[0], now())[0];
    assert!(
        !told.is_accepted && told.message.contains("last good"),
        "{told:?}"
    );
    next(&mut store, &mut said, WEB);
    assert_eq!(words_of(store.snapshot(), "http"), [] as [&str; 0]);
}

#[test]
fn without_a_good_version_the_rate_limits_that_can_be_read_hold() {
    let text = policy(
        "p",
        "",
        "limits: {maxRequests: many}, timeouts: {idle: 1s}, rateLimits: [{name: a, requests: 5, burst: 1}, {name: b, request: 7}]",
    );
    let (snapshot, mistakes) = load(&[text]);
    assert_eq!(mistakes.len(), 2, "{mistakes:?}");
    assert_eq!(
        words_of(&snapshot, "http"),
        ["limit a: 5 requests in 1s, 1 at once, for each identity"]
    );
}

/// Of what a limit is for: where nobody can say that, it is for all of it.
#[test]
fn a_rate_limit_whose_match_is_not_understood_leaves_no_request_out() {
    let all = "limit a: 1 requests in 1s, 1 at once, for each identity";
    let of_get = "limit a: 1 requests of GET in 1s, 1 at once, for each identity";
    for (said, at, expected) in [
        ("{}", "", all),
        ("{paths: []}", ".paths", all),
        ("{paths: [a]}", ".paths[0]", all),
        ("{paths: [/a, /a/../b]}", ".paths[1]", all),
        ("{paths: [/a*b]}", ".paths[0]", all),
        ("{paths: [/a, /a]}", ".paths", all),
        ("{methods: [get]}", ".methods[0]", all),
        ("{methods: [GET], paths: [/%zz]}", ".paths[0]", of_get),
        ("{methods: [GET], hosts: [a]}", ".hosts", all),
        ("[]", "", all),
    ] {
        let spec = format!("rateLimits: [{{name: a, requests: 1, match: {said}}}]");
        let (snapshot, mistakes) = load(&[policy("p", "", &spec)]);
        let told = mistakes.first().map(String::as_str).unwrap_or_default();
        let field = format!("spec.rateLimits[0].match{at}: ");
        assert!(told.starts_with(&field), "{said}: {mistakes:?}");
        assert_eq!(words_of(&snapshot, "http"), [expected], "{said}");
    }
    let spec = "rateLimits: [{name: a, connections: 1, match: {paths: [/a]}}]";
    let (snapshot, mistakes) = load(&[policy("p", "", spec)]);
    assert!(
        mistakes[0].starts_with("spec.rateLimits[0].match: "),
        "{mistakes:?}"
    );
    assert_eq!(
        words_of(&snapshot, "http"),
        ["limit a: 1 connections in 1s, 1 at once, for each identity"]
    );
}

#[test]
fn of_two_for_one_service_the_older_holds_and_the_other_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let created = |text: String, at: &str| {
        text.replace(
            "namespace: shop}",
            &format!("namespace: shop, creationTimestamp: \"{at}\"}}"),
        )
    };
    let text = [
        WEB.to_owned(),
        created(
            policy("a", "", "limits: {maxRequests: 1}"),
            "2026-02-01T00:00:00Z",
        ),
        created(
            policy("b", "", "limits: {maxRequests: 2}"),
            "2026-01-01T00:00:00Z",
        ),
        policy("c", ", sectionName: none", "limits: {maxRequests: 3}"),
    ];
    std::fs::write(dir.path().join("t.yaml"), text.join("---\n")).expect("written");
    let update = check(dir.path(), MeshSettings::default()).expect("a directory");
    assert_eq!(
        words_of(&update.snapshot, "http"),
        ["at most 2 requests in flight"]
    );
    let problems = update.problems.iter();
    let told = problems.filter(|p| matches!(p.code, Code::Shadowed | Code::Ignored));
    let told: Vec<_> = told.map(|p| (&*p.object, p.code)).collect();
    assert_eq!(
        told,
        [
            ("TrafficPolicy shop/a", Code::Shadowed),
            ("TrafficPolicy shop/c", Code::Ignored)
        ]
    );
}

#[test]
fn a_service_that_no_policy_names_shares_the_defaults() {
    let (snapshot, _) = load(&[]);
    let service = &snapshot.services[&ServiceKey::new("shop", "web")];
    assert!(std::sync::Arc::ptr_eq(&service.traffic, &Traffic::unset()));
}

/// Each example has just what its lines `# > SERVICE PORT -> WHAT` say.
#[test]
fn each_example_does_what_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/traffic");
    let page = folder.join("../../traffic-policy.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let mut examples = 0;
    for entry in std::fs::read_dir(&folder).expect("the examples") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        if name == "services.yaml" {
            continue;
        }
        examples += 1;
        assert!(
            page.contains(&format!("docs/examples/traffic/{name}")),
            "{name}"
        );
        let dir = tempfile::tempdir().expect("a directory");
        for file in [&folder.join("services.yaml"), &path] {
            let to = dir.path().join(file.file_name().expect("a name"));
            std::fs::copy(file, to).expect("copied");
        }
        let update = check(dir.path(), MeshSettings::default()).expect("a directory");
        let mistakes: Vec<_> = update.mistakes().map(ToString::to_string).collect();
        assert_eq!(mistakes, [] as [&str; 0], "{name}");
        let snapshot = &update.snapshot;
        for policy in snapshot.traffic_policies.iter() {
            let fares = status(snapshot, policy, now());
            assert!(fares.iter().all(|one| one.is_accepted), "{name}: {fares:?}");
        }
        let text = std::fs::read_to_string(&path).expect("the example");
        let mut said: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# > ").map(str::to_owned))
            .collect();
        let mut done: Vec<String> = Vec::new();
        for service in snapshot.services.values() {
            for port in &service.ports {
                let all = words(service.traffic(port), now()).into_iter();
                let place = format!("{} {} -> ", service.key.name, port.name);
                // Where nothing is said of a port, it is as its Service's others.
                if said.iter().any(|line| line.starts_with(&place)) {
                    done.extend(all.map(|what| format!("{place}{what}")));
                }
            }
        }
        said.sort();
        done.sort();
        assert_eq!(done, said, "{name}");
    }
    assert!(examples >= 10, "{examples}");
}

fn backend_policy(name: &str, created: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\n\
         metadata: {{name: {name}, namespace: shop, creationTimestamp: \"{created}\"}}\n\
         spec: {{targetRefs: [{{group: \"\", kind: Service, name: web}}, {{group: multicluster.x-k8s.io, kind: ServiceImport, name: far.example}}], {spec}}}\n"
    )
}

/// Reason and message of each, in the order of kinds and names.
fn fares(snapshot: &Snapshot) -> Vec<(String, &'static str, String)> {
    let all = snapshot.traffic_policies.iter();
    let one = |policy: &std::sync::Arc<crate::model::traffic_policy::TrafficPolicy>| {
        let mut status = status(snapshot, policy, now());
        assert_eq!(status.len(), 1, "what is no Service is somebody else's");
        let status = status.remove(0);
        (policy.title(), status.reason, status.message)
    };
    all.map(one).collect()
}

#[test]
fn a_budget_of_the_gateway_api_holds_where_no_traffic_policy_says_one() {
    let budget = "retryConstraint: {budget: {percent: 7}, minRetryRate: {count: 2}}";
    let older = backend_policy("x", "2026-01-01T00:00:00Z", budget);
    let younger = backend_policy("a", "2026-02-01T00:00:00Z", "retryConstraint: {}");
    let (snapshot, mistakes) = load(&[older.clone(), younger.clone()]);
    assert_eq!(mistakes, [] as [String; 0]);
    let said = "retries are at most 7% of 10s, or 2 in 1s";
    assert_eq!(words_of(&snapshot, "http"), [said]);
    let fare = fares(&snapshot);
    let told = [0, 1].map(|i: usize| (fare[i].0.as_str(), fare[i].1));
    let [x, a] = ["x", "a"].map(|name| format!("XBackendTrafficPolicy shop/{name}"));
    assert_eq!(told, [(a.as_str(), "Conflicted"), (x.as_str(), "Accepted")]);
    assert!(fare[0].2.contains(&x), "{}", fare[0].2);

    // A TrafficPolicy that says something else stands beside it, of the same name too.
    let limits = policy("x", "", "limits: {maxConnections: 7}");
    let (snapshot, mistakes) = load(&[older.clone(), limits]);
    assert_eq!(mistakes, [] as [String; 0]);
    assert_eq!(words_of(&snapshot, "http"), ["at most 7 connections", said]);
    assert!(
        fares(&snapshot)
            .iter()
            .all(|(_, reason, _)| *reason == "Accepted")
    );

    // For one port alone, one of its own goes first.
    let ports = policy("db", ", sectionName: db", "retryBudget: {percent: 1}");
    let (snapshot, _) = load(&[older.clone(), ports]);
    assert_eq!(words_of(&snapshot, "http"), [said]);
    assert_eq!(
        words_of(&snapshot, "db"),
        ["retries are at most 1% of 10s, or 10 in 1s"]
    );
    let fare = fares(&snapshot).pop().expect("the other kind's");
    let goes = "it holds for Service shop/web; what TrafficPolicy shop/db says of its port \"db\" goes first there";
    assert_eq!((fare.1, &*fare.2), ("Accepted", goes));

    let own = policy("own", "", "retryBudget: {percent: 90}");
    let (snapshot, _) = load(&[older, own]);
    assert_eq!(
        words_of(&snapshot, "http"),
        ["retries are at most 90% of 10s, or 10 in 1s"]
    );
    let fare = fares(&snapshot);
    assert_eq!((fare[0].1, fare[1].1), ("Accepted", "Conflicted"));
    assert!(
        fare[1].2.contains("TrafficPolicy shop/own"),
        "{}",
        fare[1].2
    );
}

#[test]
fn a_mistake_of_a_budget_of_the_gateway_api_is_told_and_it_has_no_effect() {
    let odd = backend_policy("x", "2026-01-01T00:00:00Z", "retryConstraint: {}");
    let (_, mistakes) = load(&[odd.replace("name: web", "name: web.example")]);
    assert!(
        mistakes[0].starts_with("spec.targetRefs[0].name"),
        "{mistakes:?}"
    );
    for (spec, field) in [
        (
            "retryConstraint: {budget: {percent: 101}}",
            "spec.retryConstraint.budget.percent",
        ),
        (
            "retryConstraint: {budget: {interval: 10ms}}",
            "spec.retryConstraint.budget.interval",
        ),
        (
            "retryConstraint: {minRetryRate: {count: 0}}",
            "spec.retryConstraint.minRetryRate.count",
        ),
        ("retryConstraint: {odd: 1}", "spec.retryConstraint"),
        ("odd: 1", "spec.odd"),
    ] {
        let one = backend_policy("x", "2026-01-01T00:00:00Z", spec);
        let (snapshot, mistakes) = load(&[one]);
        assert!(mistakes[0].starts_with(field), "{mistakes:?}");
        assert_eq!(words_of(&snapshot, "http"), [] as [&str; 0]);
        assert_eq!(fares(&snapshot)[0].1, "Invalid");
    }
}

#[test]
fn a_field_of_the_gateway_api_that_has_no_effect_yet_is_told_where_the_rest_holds() {
    let both = "retryConstraint: {}, sessionPersistence: {type: Cookie}";
    let policy = backend_policy("x", "2026-01-01T00:00:00Z", both);
    let (snapshot, mistakes) = load(&[policy]);
    assert_eq!(mistakes, [] as [String; 0]);
    let (_, reason, message) = &fares(&snapshot)[0];
    let told = "; read, but without effect yet: spec.sessionPersistence";
    assert!(
        *reason == "Accepted" && message.ends_with(told),
        "{message}"
    );
}

#[test]
fn each_policy_for_one_service_is_compared_a_few_times_however_many_there_are() {
    const POLICIES: usize = 300;
    let all = (0..POLICIES).map(|at| policy(&format!("p{at}"), "", "limits: {maxConnections: 7}"));
    let text = format!("{WEB}---\n{}", all.collect::<Vec<_>>().join("---\n"));
    let compared = || COMPARED.with(std::cell::Cell::get);
    let before = compared();
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("t.yaml"), text).expect("written");
    let update = check(dir.path(), MeshSettings::default()).expect("a directory");
    let problems = update.problems.iter();
    let shadowed = problems.filter(|problem| problem.code == Code::Shadowed);
    assert_eq!(shadowed.count(), POLICIES - 1);
    let each = (compared() - before) / POLICIES;
    assert!(each < 20, "{each} times");
}
