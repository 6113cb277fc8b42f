use super::*;
use crate::observe::explanation::{Rule, Share};

fn shown() -> Status {
    Status {
        node: "n1".to_owned(),
        ready: true,
        configuration: "0123456789ab".to_owned(),
        problems: vec![Problem {
            since: 1_000,
            ..Problem::new("x", "no certificates", "calls fail", "start the authority")
        }],
        pods: serde_json::json!([{"pod": "a/b", "enrolled": true, "addresses": ["10.0.0.1"], "identity": "spiffe://d/ns/a/sa/b"}]),
        identities: serde_json::json!({"identities": [
            {"identity": "spiffe://d/ns/a/sa/b", "state": "valid", "serial": "0a1b", "expires_in_seconds": 1390},
            {"identity": "spiffe://d/ns/a/sa/c", "state": "expired", "serial": "0c", "expires_in_seconds": -7500},
        ]}),
        policies: vec![super::super::PolicyRow {
            policy: "shop/callers".to_owned(),
            action: "ALLOW".to_owned(),
            workloads: 3,
            ..Default::default()
        }],
        policies_total: 1,
        kernel: serde_json::json!({"connect_captured": 3}),
        source: serde_json::json!({"server": "https://10.96.0.1/", "from_disk_age_seconds": 90, "away": {"seconds": 4000}, "kinds": [
            {"kind": "Pod", "state": "watching", "objects": 7, "since": "1970-01-01T00:16:40Z", "last_event": null},
        ]}),
        ..Status::default()
    }
}

#[test]
fn status_shows_each_problem_once_and_before_everything_else() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_150);
    let text = status(&shown(), false, now);
    assert_eq!(text.matches("no certificates").count(), 1, "{text}");
    let order = [
        "ready, degraded",
        "no certificates",
        "calls fail",
        "start the authority",
        "2m 30s",
        "0123456789ab",
        "https://10.96.0.1/, which has not answered for 1h 6m; from disk, 1m 30s old",
        "watching",
        "a/b",
        "in 23m 10s",
        "0a1b",
        "2h 5m ago",
        "shop/callers",
    ];
    let places: Vec<_> = order.iter().map(|part| text.find(part)).collect();
    assert!(places.iter().all(Option::is_some), "{places:?} in {text}");
    assert!(places.is_sorted(), "{places:?} in {text}");
}

#[test]
fn counters_and_what_they_mean_are_shown_to_who_asks() {
    let now = SystemTime::UNIX_EPOCH;
    assert!(!status(&shown(), false, now).contains("connect_captured"));
    let wide = status(&shown(), true, now);
    assert!(
        wide.contains("A pod's connect was marked for capture."),
        "{wide}"
    );
}

#[test]
fn an_explanation_says_who_how_and_by_which_rule() {
    let text = explanation(&Explanation {
        verdict: Verdict::Refused,
        node: "n1".to_owned(),
        generation: 7,
        from: Side {
            kind: "pod".to_owned(),
            name: Some("shop/web".to_owned()),
            address: Some("10.0.0.1".to_owned()),
            node: Some("n1".to_owned()),
            in_mesh: false,
            identity: None,
        },
        to: Side {
            kind: "address".to_owned(),
            address: Some("10.0.0.2".to_owned()),
            ..Side::default()
        },
        port: 80,
        route: Some(Routed {
            route: Some("HTTPRoute/shop/api".to_owned()),
            rule: Some("canary".to_owned()),
            shares: vec![Share {
                weight: 9,
                of: 10,
                backend: Some("shop/api:80".to_owned()),
                changes: vec!["answer: set x-by: canary".to_owned()],
                copies: vec!["shop/api-v2:80, 10 of 100".to_owned()],
                ..Share::default()
            }],
        }),
        ways: vec![EndpointPath {
            destination: Some("10.0.0.2:80".to_owned()),
            workload: Some("shop/api".to_owned()),
            node: Some("n2".to_owned()),
            refused: Some("denied".to_owned()),
            rule: Some(Rule {
                policy: "shop/callers".to_owned(),
                rule: None,
                generation: 7,
            }),
            policies: vec![Policy {
                needs_request: false,
                policy: "shop/callers".to_owned(),
                action: "ALLOW".to_owned(),
                matches: false,
                rule: None,
                dry_run: None,
                problem: None,
            }],
            policies_total: 3,
            ..EndpointPath::default()
        }],
        ways_total: 2,
        notes: vec![],
    });
    for line in [
        "verdict             REFUSED",
        "from                pod shop/web (10.0.0.1) on n1 outside of the mesh",
        "to                  10.0.0.2, port 80",
        "route               HTTPRoute/shop/api, rule canary",
        "  share             9 of 10: Service shop/api:80",
        "    changes         answer: set x-by: canary",
        "    copy to         Service shop/api-v2:80, 10 of 100",
        "endpoint            pod shop/api (10.0.0.2:80) on n2",
        "  verdict           refused: denied, by AuthorizationPolicy shop/callers, as no rule allows it",
        "  policy            ALLOW shop/callers: no rule matches",
        "  not shown         2 more policies",
        "not shown           1 more endpoints",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
}
