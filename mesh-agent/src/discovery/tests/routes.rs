//! Routes from their documents to what is decided by them.

use std::path::Path;
use std::time::Instant;

use super::super::documents::parse_file;
use super::super::last_good::keep_last_good;
use super::super::store::{Said, Store};
use super::super::{Problem, build, check, parse};
use super::Changing;
use crate::model::policy::MeshSettings;
use crate::model::route::{RouteKind, Rules};
use crate::model::{ServiceKey, Snapshot};
use crate::route::{LOOKED, Routes, status};

const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}, {name: admin, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-v2, namespace: shop}
spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: shop}
spec: {clusterIP: None, ports: [{port: 80}]}
"#;

/// An HTTPRoute of `shop/web`, with these rules.
fn route(name: &str, rules: &str) -> String {
    of_kind(
        "HTTPRoute",
        name,
        "{group: \"\", kind: Service, name: web}",
        rules,
    )
}

fn of_kind(kind: &str, name: &str, parent: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  parentRefs: [{parent}]\n  rules: {rules}\n"
    )
}

const TO_V2: &str = "[{backendRefs: [{name: web-v2, port: 80}]}]";

fn load(text: &str) -> (Snapshot, Vec<String>) {
    let text = format!("{SERVICES}---\n{text}");
    let (objects, mut problems) = parse(Path::new("r.yaml"), text.as_bytes());
    let (snapshot, more) = build(objects.iter());
    problems.extend(more);
    let problems = problems.iter().filter(|problem| problem.is_mistake());
    let told = problems.map(|problem| format!("{}: {}", problem.field, problem.message));
    (snapshot, told.collect())
}

/// `Accepted`, `ResolvedRefs` and what else is said, of its first parent.
fn told(snapshot: &Snapshot, name: &str) -> Vec<String> {
    let route = snapshot
        .routes
        .iter()
        .find(|route| &*route.key.name == name);
    let all = status(snapshot, route.expect("the route"));
    let parent = all.first().expect("a parent");
    let one = parent.conditions.iter();
    one.map(|c| format!("{}={} {}", c.kind, c.holds, c.reason))
        .collect()
}

#[test]
fn a_route_is_read_with_all_that_it_says() {
    let rules = r#"
  - name: canary
    matches:
    - path: {type: Exact, value: /v2}
      method: POST
      headers: [{name: x, value: "1"}, {type: RegularExpression, name: other, value: "a.*"}]
      queryParams: [{name: q, value: "1"}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: c, value: d}], remove: [e]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: a, value: b}]}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: web-v2, port: 80}, percent: 10}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: web-v2, port: 80}, fraction: {numerator: 1, denominator: 1000}}}
    - {type: CORS, cors: {allowOrigins: ["https://*.a.example"], allowMethods: [PUT], allowCredentials: true, maxAge: 60}}
    backendRefs:
    - {name: web, port: 80, weight: 9}
    - {name: web-v2, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [f]}}]}
    timeouts: {request: 10s, backendRequest: 2s}
    retry: {codes: [500, 503], attempts: 2, backoff: 100ms}
    sessionPersistence: {type: Cookie, absoluteTimeout: 1h, idleTimeout: 10m, cookieConfig: {lifetimeType: Permanent}, cookie: {name: at, path: /shop}}
  - matches: [{path: {type: PathPrefix, value: /old}}]
    filters:
    - {type: RequestRedirect, requestRedirect: {scheme: https, hostname: a.example, port: 8443, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
  - filters:
    - {type: URLRewrite, urlRewrite: {hostname: b.example, path: {type: ReplaceFullPath, replaceFullPath: /x}}}
    backendRefs: [{name: web, port: 80}]
"#;
    let (snapshot, told) = load(&route("all", rules));
    assert_eq!(told, [] as [&str; 0]);
    let route = snapshot.routes.iter().next().expect("it");
    let Rules::Http(rules) = &route.rules else {
        panic!("{route:?}");
    };
    assert_eq!(rules.len(), 3);
    assert_eq!((rules[0].filters.len(), rules[0].backends.len()), (5, 2));
    assert_eq!(
        (rules[0].backends[0].weight, rules[0].backends[1].weight),
        (9, 1)
    );
    assert_eq!(
        rules[0].retry.as_ref().map(|retry| retry.attempts),
        Some(Some(2))
    );
    assert!(route.is_known && route.fault.is_none());
    let routes = Routes::compile(&snapshot);
    for port in [80, 8080] {
        let of_port = routes.of(&ServiceKey::new("shop", "web"), port);
        let kind = of_port.and_then(|routes| routes.kind("anywhere"));
        assert_eq!(kind, Some(RouteKind::Http), "{port}");
    }
}

#[test]
fn each_fault_is_named_with_its_field() {
    let backend = "backendRefs: [{name: web, port: 80}]";
    for (rules, expected) in [
        (
            "[{backendRef: []}]",
            "spec.rules[0].backendRef: unknown field",
        ),
        (
            "[{backendRefs: [{name: web}]}]",
            "spec.rules[0].backendRefs[0].port: is missing",
        ),
        (
            "[{backendRefs: [{name: web, port: 80, weight: -1}]}]",
            "spec.rules[0].backendRefs[0].weight: -1 is not",
        ),
        (
            "[{matches: [{path: {type: Glob, value: /a}}]}]",
            "spec.rules[0].matches[0].path.type: \"Glob\" is none of",
        ),
        (
            "[{matches: [{path: {value: a}}]}]",
            "spec.rules[0].matches[0].path.value: \"a\" does not begin",
        ),
        (
            "[{matches: [{path: {value: /a//b}}]}]",
            "spec.rules[0].matches[0].path.value: no path in normal form",
        ),
        (
            "[{matches: [{path: {type: RegularExpression, value: '('}}]}]",
            "spec.rules[0].matches[0].path.value: \"(\" is no",
        ),
        (
            "[{matches: [{method: get}]}]",
            "spec.rules[0].matches[0].method: \"get\" is none of",
        ),
        (
            "[{matches: [{headers: [{name: 'a b', value: x}]}]}]",
            "spec.rules[0].matches[0].headers[0].name: \"a b\" is no name",
        ),
        (
            "[{filters: [{type: Odd}]}]",
            "spec.rules[0].filters[0].type: \"Odd\" is none of",
        ),
        (
            "[{filters: [{type: CORS}]}]",
            "spec.rules[0].filters[0].cors: is missing",
        ),
        (
            "[{timeouts: {request: 1}}]",
            "spec.rules[0].timeouts.request: expected a text",
        ),
        (
            "[{timeouts: {request: 1s, backendRequest: 2s}}]",
            "spec.rules[0].timeouts.backendRequest: is longer",
        ),
        (
            "[{retry: {codes: [200]}}]",
            "spec.rules[0].retry.codes[0]: 200 is not",
        ),
        (
            "[{name: a}, {name: a}]",
            "spec.rules[1].name: \"a\" is another",
        ),
        (
            "[{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 302}}], backendRefs: [{name: web, port: 80}]}]",
            "spec.rules[0].filters: RequestRedirect does not go together with backends",
        ),
        (
            "[{filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}], matches: [{path: {type: Exact, value: /a}}]}]",
            "spec.rules[0].filters: ReplacePrefixMatch needs",
        ),
        (
            "[{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], remove: [A]}}]}]",
            "spec.rules[0].filters[0].requestHeaderModifier.remove[0]: \"a\" stands there twice",
        ),
        (
            "[{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [Content-Length]}}]}]",
            "spec.rules[0].filters[0].requestHeaderModifier.remove[0]: \"content-length\": where",
        ),
        (
            "[{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: Transfer-Encoding, value: chunked}]}}]}]",
            "spec.rules[0].filters[0].responseHeaderModifier.add[0]: \"transfer-encoding\": where",
        ),
        (
            "[{backendRefs: [{name: web, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X_Forwarded_Client_Cert, value: x}]}}]}]}]",
            "spec.rules[0].backendRefs[0].filters[0].requestHeaderModifier: \"X_Forwarded_Client_Cert\": only",
        ),
        (
            "[{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: Host, value: x}]}}]}]",
            "spec.rules[0].filters[0].requestHeaderModifier.add: a request has one Host",
        ),
        (
            "[{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: host, value: 'a, b'}]}}]}]",
            "spec.rules[0].filters[0].requestHeaderModifier.set: \"a, b\" is no host",
        ),
        (
            "[{filters: [{type: URLRewrite, urlRewrite: {hostname: \"a.example\\r\\nx: y\"}}]}]",
            "spec.rules[0].filters[0].urlRewrite.hostname: \"a.example",
        ),
        (
            "[{filters: [{type: RequestRedirect, requestRedirect: {hostname: evil.example/..}}]}]",
            "spec.rules[0].filters[0].requestRedirect.hostname: \"evil.example/..\" is no host",
        ),
        (
            "[{sessionPersistence: {type: Header, sessionName: Content-Length}}]",
            "spec.rules[0].sessionPersistence.sessionName: \"Content-Length\" is not",
        ),
        (
            "[{sessionPersistence: {type: Header, header: {name: x-forwarded-client-cert}}}]",
            "spec.rules[0].sessionPersistence.header.name: \"x-forwarded-client-cert\" is not",
        ),
        (
            "[{sessionPersistence: {cookie: {name: \"a=b\"}}}]",
            "spec.rules[0].sessionPersistence.cookie.name: \"a=b\" is no name",
        ),
        (
            "[{sessionPersistence: {cookie: {name: a, path: /; Domain=x}}}]",
            "spec.rules[0].sessionPersistence.cookie.path: is no path",
        ),
        (
            "[{sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}}]",
            "spec.rules[0].sessionPersistence.cookieConfig.lifetimeType: Permanent needs",
        ),
    ] {
        let text = route("bad", rules);
        let good = route("good", &format!("[{{{backend}}}]"));
        let (snapshot, problems) = load(&format!("{text}---\n{good}"));
        assert!(
            problems.iter().any(|told| told.starts_with(expected)),
            "{rules}: {problems:?}"
        );
        assert_eq!(
            told(&snapshot, "bad")[0],
            "Accepted=false UnsupportedValue",
            "{rules}"
        );
        assert_eq!(
            told(&snapshot, "good")[0],
            "Accepted=true Accepted",
            "{rules}"
        );
    }
}

#[test]
fn a_route_with_a_fault_goes_on_as_it_was_last_understood() {
    let mut before = Vec::new();
    let mut store = Store::default();
    let mut say = |rules: &str| {
        let text = format!("{SERVICES}---\n{}", route("one", rules));
        let mut now = parse_file(Path::new("r.yaml"), text.as_bytes());
        if now.problems.iter().any(Problem::is_mistake) {
            keep_last_good(&mut now, &before);
        }
        store.replace(&Said::here(&before), &Said::here(&now.objects));
        before = now.objects;
        store.commit(Instant::now());
        store.snapshot().clone()
    };
    let decides = |snapshot: &Snapshot| {
        let routes = Routes::compile(snapshot);
        routes.of(&ServiceKey::new("shop", "web"), 80).is_some()
    };
    let faulty = "[{backendRefs: [{name: web-v2, port: 80}], odd: 1}]";
    let first = say(faulty);
    assert!(!decides(&first), "it was never understood");
    let good = say(TO_V2);
    assert!(decides(&good));
    let held = say(faulty);
    assert!(decides(&held), "its last good version holds");
    assert_eq!(told(&held, "one")[0], "Accepted=false UnsupportedValue");
    let again = say(TO_V2);
    assert_eq!(told(&again, "one")[0], "Accepted=true Accepted");
}

#[test]
fn what_a_route_cannot_be_for_and_cannot_lead_to_is_told_with_the_apis_words() {
    let parent = |text: &str| of_kind("HTTPRoute", "r", text, TO_V2);
    for (text, expected) in [
        (
            "{group: \"\", kind: Service, name: none}",
            "Accepted=false NoMatchingParent",
        ),
        (
            "{group: \"\", kind: Service, name: headless}",
            "Accepted=false NoMatchingParent",
        ),
        (
            "{group: \"\", kind: Service, name: web, port: 81}",
            "Accepted=false NoMatchingParent",
        ),
        (
            "{group: \"\", kind: Service, name: web, sectionName: admin}",
            "Accepted=true Accepted",
        ),
        (
            "{group: \"\", kind: Service, name: web, sectionName: admin, port: 80}",
            "Accepted=false NoMatchingParent",
        ),
    ] {
        let (snapshot, _) = load(&parent(text));
        assert_eq!(told(&snapshot, "r")[0], expected, "{text}");
    }
    for (to, expected) in [
        ("{name: web-v2, port: 80}", "ResolvedRefs=true ResolvedRefs"),
        (
            "{name: web-v2, port: 81}",
            "ResolvedRefs=false BackendNotFound",
        ),
        (
            "{name: none, port: 80}",
            "ResolvedRefs=false BackendNotFound",
        ),
        (
            "{group: apps, kind: Deployment, name: web}",
            "ResolvedRefs=false InvalidKind",
        ),
        (
            "{name: db, namespace: data, port: 80}",
            "ResolvedRefs=false RefNotPermitted",
        ),
    ] {
        let (snapshot, _) = load(&route("r", &format!("[{{backendRefs: [{to}]}}]")));
        assert_eq!(told(&snapshot, "r")[1], expected, "{to}");
    }
    // Gateways' own.
    let (snapshot, problems) = load(&parent("{name: gateway}"));
    let route = snapshot.routes.iter().next().expect("it");
    assert_eq!((status(&snapshot, route).len(), problems.len()), (0, 0));
}

#[test]
fn a_filter_that_is_not_served_is_told_of_its_rule_or_of_the_whole_route() {
    let extension = "{type: ExtensionRef, extensionRef: {group: x.y, kind: Z, name: n}}";
    let odd = format!("{{filters: [{extension}], matches: [{{path: {{value: /x}}}}]}}");
    let (snapshot, problems) = load(&route(
        "r",
        &format!("[{odd}, {{backendRefs: [{{name: web, port: 80}}]}}]"),
    ));
    assert_eq!(problems, [] as [&str; 0]);
    assert_eq!(
        told(&snapshot, "r"),
        [
            "Accepted=true Accepted",
            "ResolvedRefs=true ResolvedRefs",
            "PartiallyInvalid=true UnsupportedValue"
        ]
    );
    let (snapshot, _) = load(&route("r", &format!("[{odd}]")));
    assert_eq!(told(&snapshot, "r")[0], "Accepted=false UnsupportedValue");
}

#[test]
fn on_one_port_the_losing_kind_is_told() {
    let grpc = of_kind(
        "GRPCRoute",
        "g",
        "{group: \"\", kind: Service, name: web}",
        TO_V2,
    );
    let (snapshot, _) = load(&format!("{}---\n{grpc}", route("h", TO_V2)));
    assert_eq!(told(&snapshot, "h")[0], "Accepted=false Conflicted");
    assert_eq!(told(&snapshot, "g")[0], "Accepted=true Accepted");
    // On another port both hold.
    let one = of_kind(
        "GRPCRoute",
        "g",
        "{group: \"\", kind: Service, name: web, port: 8080}",
        TO_V2,
    );
    let (snapshot, _) = load(&format!("{}---\n{one}", route("h", TO_V2)));
    assert_eq!(told(&snapshot, "h")[0], "Accepted=true Accepted");
}

#[test]
fn kinds_of_gateways_are_passed_over_and_those_not_served_are_told() {
    let of_version = |kind: &str, version: &str| {
        let text =
            format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{}}\n");
        load(&text).1.len()
    };
    let of = |kind: &str, group: &str| of_version(kind, &format!("{group}/v1"));
    let group = "gateway.networking.k8s.io";
    assert_eq!(
        ["Gateway", "GatewayClass"].map(|kind| of(kind, group)),
        [0, 0]
    );
    assert_eq!(
        ["BackendTLSPolicy", "UDPRoute", "HTTPRout"].map(|kind| of(kind, group)),
        [1, 1, 1]
    );
    let of = |kind| of_version(kind, "gateway.networking.x-k8s.io/v1alpha1");
    assert_eq!(["XMesh", "XListenerSet"].map(of), [1, 0]);
}

/// Counted in what is looked at.
#[test]
fn one_route_of_many_costs_what_it_touches() {
    let changed = |count: usize| {
        let mut config = Changing::default();
        let now = Instant::now();
        for number in 0..count {
            let parent = format!("{{group: \"\", kind: Service, name: web-{number}}}");
            let text = of_kind("HTTPRoute", &format!("r{number}"), &parent, TO_V2);
            let service = format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: web-{number}, namespace: shop}}\nspec: {{clusterIP: 10.97.{}.{}, ports: [{{port: 80}}]}}\n",
                number / 250,
                number % 250 + 1
            );
            config.say(
                &format!("{number}.yaml"),
                &format!("{text}---\n{service}"),
                now,
            );
        }
        let (before, work) = (config.store.snapshot().clone(), config.store.work());
        let parent = "{group: \"\", kind: Service, name: web-1}";
        let other = of_kind(
            "HTTPRoute",
            "r1",
            parent,
            "[{backendRefs: [{name: web, port: 80}]}]",
        );
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web-1, namespace: shop}\nspec: {clusterIP: 10.97.0.2, ports: [{port: 80}]}\n";
        let after = config.say("1.yaml", &format!("{other}---\n{service}"), now);
        let shared = before.attached.iter().filter(|(key, routes)| {
            let now = after.attached.get(key);
            now.is_some_and(|now| std::sync::Arc::ptr_eq(now, routes))
        });
        assert_eq!(shared.count(), count - 1);
        config.store.work() - work
    };
    assert_eq!(changed(10), changed(200));
}

#[test]
fn what_a_route_names_and_is_not_there_is_told_with_its_place() {
    let told = |text: &str| -> Vec<String> {
        let dir = tempfile::tempdir().expect("a directory");
        let text = format!("{SERVICES}---\n{text}");
        std::fs::write(dir.path().join("r.yaml"), text).expect("written");
        let update = check(dir.path(), MeshSettings::default()).expect("a directory");
        let all = update.problems.iter().map(ToString::to_string);
        all.filter(|told| told.contains("Route")).collect()
    };
    let ends = |all: &[String], end: &str| all.len() == 1 && all[0].ends_with(end);
    let lost = told(&route("r", "[{backendRefs: [{name: none, port: 80}]}]"));
    assert!(
        ends(
            &lost,
            "warning: HTTPRoute shop/r: spec.rules: there is no Service shop/none"
        ),
        "{lost:?}"
    );
    let parent = "{group: \"\", kind: Service, name: none}, {group: \"\", kind: Service, name: none, port: 80}";
    let lost = told(&of_kind("HTTPRoute", "r", parent, TO_V2));
    assert!(
        ends(
            &lost,
            "HTTPRoute shop/r: spec.parentRefs: there is no Service shop/none"
        ),
        "{lost:?}"
    );
    assert_eq!(told(&route("r", TO_V2)), [] as [&str; 0]);
}

#[test]
fn each_route_of_one_service_is_looked_at_a_few_times_however_many_there_are() {
    const ROUTES: usize = 200;
    let all: Vec<String> = (0..ROUTES)
        .map(|at| route(&format!("r{at}"), TO_V2))
        .collect();
    let text = format!("{SERVICES}---\n{}", all.join("---\n"));
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("r.yaml"), text).expect("written");
    let looked = || LOOKED.with(std::cell::Cell::get);
    let before = looked();
    let update = check(dir.path(), MeshSettings::default()).expect("a directory");
    assert_eq!(update.snapshot.routes.len(), ROUTES);
    let each = (looked() - before) / ROUTES;
    assert!((1..20).contains(&each), "{each} times");
}
