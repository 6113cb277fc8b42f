//! The route's part of an answer.

use std::path::{Path, PathBuf};

use super::super::*;
use crate::discovery;
use crate::model::policy::MeshSettings;
use crate::observe::explanation::Share;
use crate::route::Routes;

const ROUTE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: api-v2, namespace: shop}
spec: {clusterIP: 10.96.0.11, selector: {app: ops}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: api, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api, port: 80}]
  rules:
  - name: canary
    matches: [{path: {value: /v2}}]
    filters:
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-by, value: canary}]}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: api-v2, port: 80}, percent: 10}}
    backendRefs: [{name: api, port: 80, weight: 9}, {name: api-v2, port: 80}, {name: data, namespace: data, port: 80, weight: 90}]
  - matches: [{path: {value: /public}}]
    filters:
    - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /admin}}}
    backendRefs: [{name: api, port: 80}]
  - matches: [{path: {value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: new.example}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: own, namespace: admin}
spec:
  parentRefs: [{group: "", kind: Service, name: api, namespace: shop}]
  rules: [{backendRefs: [{name: api, namespace: shop, port: 80}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {paths: ["/admin/*"]}}]}]}
"#;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples")
}

fn in_force(texts: &[&str]) -> InForce {
    let dir = tempfile::tempdir().expect("a directory");
    let services = examples().join("authorization/services.yaml");
    std::fs::copy(services, dir.path().join("services.yaml")).expect("a copy");
    for (number, text) in texts.iter().enumerate() {
        let file = dir.path().join(format!("{number}.yaml"));
        std::fs::write(file, text).expect("written");
    }
    let update = discovery::check(dir.path(), MeshSettings::default()).expect("a directory");
    let mistakes: Vec<String> = update.mistakes().map(ToString::to_string).collect();
    assert_eq!(mistakes, [] as [&str; 0]);
    InForce {
        routes: Arc::new(Routes::compile(&update.snapshot)),
        snapshot: update.snapshot,
        policy: update.policy,
        ..InForce::default()
    }
}

/// `from`: asks the Service `shop/api`; with a URL: for that.
fn ask(published: &InForce, from: &str, url: Option<&str>) -> Explanation {
    let trust_domain = TrustDomain::new("cluster.local").expect("a trust domain");
    let request = url.map(|url| RequestWords {
        method: "GET",
        url,
        headers: "",
    });
    let words = Words {
        from,
        to: "service/shop/api",
        port: 80,
        request,
        sni: None,
    };
    offline(published, &trust_domain, words).expect("an answer")
}

fn backends(shares: &[Share]) -> Vec<(u64, Option<&str>)> {
    let one = |share: &'_ Share| (share.weight, share.backend.is_some());
    assert!(shares.iter().all(|share| one(share).0 > 0));
    shares
        .iter()
        .map(|share| (share.weight, share.backend.as_deref()))
        .collect()
}

#[test]
fn a_request_has_its_rule_its_shares_and_what_changes() {
    let published = in_force(&[ROUTE]);
    let answer = ask(&published, "shop/web-0", Some("/v2/x"));
    let routed = answer.route.as_ref().expect("a route");
    assert_eq!(routed.route.as_deref(), Some("HTTPRoute/shop/api"));
    assert_eq!(routed.rule.as_deref(), Some("canary"));
    assert!(routed.shares.iter().all(|share| share.of == 100));
    assert_eq!(
        backends(&routed.shares),
        [
            (9, Some("shop/api:80")),
            (1, Some("shop/api-v2:80")),
            (90, None)
        ]
    );
    let first = &routed.shares[0];
    assert_eq!(first.changes, ["answer: set x-by: canary"]);
    assert_eq!(first.copies, ["shop/api-v2:80, 10 of 100"]);
    // What needs a leave that it has not is answered here.
    let last = &routed.shares[2];
    assert_eq!(last.status, Some(500));
    assert!(
        last.why
            .as_deref()
            .is_some_and(|why| why.contains("cannot be used"))
    );
    // One way for each: an endpoint, a Service without one, an answer.
    let ways: Vec<_> = answer
        .ways
        .iter()
        .map(|way| (way.backend.as_deref(), way.refused.as_deref()))
        .collect();
    assert_eq!(
        ways,
        [
            (Some("shop/api:80"), None),
            (Some("shop/api-v2:80"), Some("no_endpoint")),
            (None, Some("no_backend")),
        ]
    );
    assert_eq!(answer.verdict, Verdict::Mixed);
}

#[test]
fn policies_judge_what_the_route_makes_of_the_request() {
    let published = in_force(&[ROUTE]);
    let answer = ask(&published, "shop/web-0", Some("/public/x"));
    let shares = &answer.route.as_ref().expect("a route").shares;
    assert_eq!(shares[0].changes, ["request: path /admin/x"]);
    assert_eq!(answer.verdict, Verdict::Refused, "{answer:#?}");
    assert_eq!(answer.ways[0].refused.as_deref(), Some("denied"));
    let rule = answer.ways[0].rule.as_ref().expect("a rule");
    assert_eq!(rule.policy, "shop/no-admin");
}

#[test]
fn what_the_agent_answers_itself_is_told_with_its_status() {
    let published = in_force(&[ROUTE]);
    let moved = ask(&published, "shop/web-0", Some("/moved"));
    let share = &moved.route.as_ref().expect("a route").shares[0];
    assert_eq!(share.status, Some(302));
    assert_eq!(share.changes, ["location: http://new.example/moved"]);
    assert_eq!(
        moved.verdict,
        Verdict::Allowed,
        "it is what the route is for"
    );
    let none = ask(&published, "shop/web-0", Some("/else"));
    let routed = none.route.as_ref().expect("routes");
    assert_eq!(
        (routed.route.as_deref(), routed.shares[0].status),
        (None, Some(404))
    );
    assert_eq!(none.ways[0].refused.as_deref(), Some("no_route"));
    assert_eq!(none.verdict, Verdict::Refused);
}

#[test]
fn callers_of_another_namespace_have_their_own_route_and_those_outside_have_none() {
    let published = in_force(&[ROUTE]);
    let answer = ask(&published, "admin/ops-0", Some("/else"));
    let routed = answer.route.as_ref().expect("a route");
    assert_eq!(routed.route.as_deref(), Some("HTTPRoute/admin/own"));
    assert_eq!(answer.verdict, Verdict::Allowed);
    let outside = ask(&published, "192.0.2.9", Some("/else"));
    assert_eq!(outside.route, None, "no agent sees what it sends out");
    let identity = "spiffe://cluster.local/ns/admin/sa/soon";
    let answer = ask(&published, identity, Some("/else"));
    let route = answer
        .route
        .as_ref()
        .and_then(|routed| routed.route.as_deref());
    assert_eq!(route, Some("HTTPRoute/admin/own"));
}

#[test]
fn a_connection_is_told_that_requests_are_routed_or_where_its_own_route_leads() {
    let published = in_force(&[ROUTE]);
    let answer = ask(&published, "shop/web-0", None);
    assert_eq!(answer.route, None);
    let says_so =
        |note: &String| note.contains("add METHOD URL") && note.contains("undecided_protocol");
    assert!(answer.notes.iter().any(says_so), "{:?}", answer.notes);
    let tcp = ROUTE.split("---").next().expect("the Service").to_owned()
        + r#"---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: bytes, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api}]
  rules: [{backendRefs: [{name: api, port: 80, weight: 3}, {name: api-v2, port: 80, weight: 1}]}]
"#;
    let published = in_force(&[&tcp]);
    for url in [None, Some("/any")] {
        let answer = ask(&published, "shop/web-0", url);
        let routed = answer.route.as_ref().expect("a route");
        assert_eq!(routed.route.as_deref(), Some("TCPRoute/shop/bytes"));
        assert_eq!(
            backends(&routed.shares),
            [(3, Some("shop/api:80")), (1, Some("shop/api-v2:80"))]
        );
    }
}

const NAMED: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: named, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api, port: 80}]
  hostnames: [a.example]
  rules: [{backendRefs: [{name: api, port: 80}]}]
"#;

#[test]
fn a_connection_goes_by_the_route_of_the_name_that_it_asks_for() {
    let published = in_force(&[NAMED]);
    let trust_domain = TrustDomain::new("cluster.local").expect("a trust domain");
    let of = |sni| {
        let words = Words {
            from: "shop/web-0",
            to: "service/shop/api",
            port: 80,
            request: None,
            sni,
        };
        offline(&published, &trust_domain, words).expect("an answer")
    };
    let leads = |answer: &Explanation| {
        let routed = answer.route.as_ref().expect("a route");
        backends(&routed.shares)[0].1.map(str::to_owned)
    };
    assert_eq!(
        leads(&of(Some("A.example"))).as_deref(),
        Some("shop/api:80")
    );
    for unknown in [None, Some(""), Some("b.example")] {
        let answer = of(unknown);
        assert_eq!(leads(&answer), None, "{unknown:?}");
        assert_eq!(answer.ways[0].refused.as_deref(), Some("no_route"));
    }
}
