//! Endpoints that are near come first, and others take over.

use std::time::Duration;

use mesh_tests::eventually;
use serde_json::Value;

use super::{RETURNS, Shop, service};

const POLICY: &str = "apiVersion: mesh-agent.io/v1alpha1\nkind: TrafficPolicy\n\
     metadata: {name: s, namespace: shop}\n\
     spec:\n  targetRefs: [{group: \"\", kind: Service, name: s}]\n  \
     loadBalancer: {locality: {prefer: Node}}\n";

/// What `status endpoints` says of the endpoint of a pod.
fn row(shop: &Shop, pod: &str) -> Value {
    let list = shop.agents[0].ask("/endpoints").expect("a page");
    let rows = list["endpoints"].as_array().expect("rows").clone();
    let name = format!("shop/{pod}");
    // Each pod has a Service of its own, too.
    let is_it = |row: &Value| row["pod"] == *name && row["service"] == "shop/s:80";
    let row = rows.into_iter().find(is_it);
    row.unwrap_or_else(|| panic!("{pod}: {list}"))
}

fn why(shop: &Shop, pod: &str) -> String {
    let row = row(shop, pod);
    row["place_why"].as_str().unwrap_or_default().to_owned()
}

/// On a machine with other work some look whether farther ones are faster, and where it was
/// late once most do, until it is looked at again.
fn is_preferred(shop: &Shop, kind: &str) {
    let mut last = None;
    let preferred = eventually(RETURNS, || {
        let calls = shop.calls(kind, 200);
        assert_eq!(calls.failed(), 0, "{calls:?}");
        let count = calls.of("b");
        last = Some(calls);
        count >= 160
    });
    assert!(preferred, "{last:?} {}", row(shop, "b"));
}

/// Server b is on the client's node.
fn comes_first(shop: &Shop) {
    for kind in ["http", "tcp"] {
        is_preferred(shop, kind);
    }
    assert_eq!(why(shop, "b"), "preferred");
    assert_eq!(row(shop, "b")["place"], "node");
    assert_eq!(why(shop, "c"), "nearer ones are enough");
    let (_, answer) = shop.agents[0]
        .explain("shop/a", "service/shop/s", 80)
        .expect("an answer");
    let ways = answer["ways"].as_array().expect("ways");
    assert_eq!(ways.len(), 1, "{answer}");
    let notes = answer["notes"].to_string();
    assert!(notes.contains("prefer the client's node (n1)"), "{answer}");
    assert!(notes.contains("2 farther are used"), "{answer}");
}

fn dies_and_returns(shop: &Shop) {
    comes_first(shop);
    let load = shop.load(&["kept", "http"]);
    for mode in ["refuse", "reset"] {
        shop.mode("b", mode);
        let is_left = || {
            let calls = shop.calls("http", 30);
            assert_eq!(calls.failed(), 0, "{calls:?}\n{}", shop.agents[0].log());
            row(shop, "b")["state"] != "used" && calls.of("b") == 0
        };
        assert!(eventually(RETURNS, is_left), "{}", shop.agents[0].log());
        assert_eq!(why(shop, "c"), "no nearer one works");
        let calls = shop.calls("http", 200);
        // All but a probe now and then; how they share is the balancing's.
        assert!(calls.of("c") + calls.of("d") >= 195, "{calls:?}");
        shop.mode("b", "ok");
        let is_back = || shop.calls("http", 30).of("b") >= 29;
        assert!(eventually(RETURNS, is_back), "{}", shop.agents[0].log());
    }
    shop.all_fine(&shop.asked_by(load), &["kept", "http"]);
}

#[test]
fn by_traffic_distribution_a_local_endpoint_dies_and_returns_and_nobody_notices() {
    let shop = Shop::new();
    shop.write("s", &service("trafficDistribution: PreferSameNode"));
    dies_and_returns(&shop);
}

#[test]
fn by_a_policy_a_local_endpoint_dies_and_returns_and_nobody_notices() {
    let shop = Shop::new();
    shop.write("policy", POLICY);
    dies_and_returns(&shop);
}

#[test]
fn a_local_endpoint_that_is_clearly_slower_is_not_waited_for() {
    let shop = Shop::new();
    shop.write("policy", POLICY);
    comes_first(&shop);
    shop.mode("b", "slow");
    let calls = shop.calls("http", 600);
    println!("slow: {calls:?}");
    assert_eq!(calls.failed(), 0, "{calls:?}\n{}", shop.agents[0].log());
    assert!(calls.of("b") < 200, "{calls:?}\n{}", row(&shop, "b"));
    assert_eq!(shop.ejections(), 0, "what is slow does not fail");
    shop.mode("b", "ok");
    let is_back = || shop.calls("http", 60).of("b") >= 55;
    let back = eventually(Duration::from_secs(60), is_back);
    assert!(back, "{}", row(&shop, "b"));
}

/// A node without one, and a zone that nobody is in: all are used.
#[test]
fn where_none_is_near_all_are_used() {
    let shop = Shop::new();
    shop.write("policy", POLICY);
    shop.serves(0, false);
    let are_used = || {
        let calls = shop.calls("http", 2_000);
        assert_eq!(calls.failed(), 0, "{calls:?}");
        calls.of("c") > 500 && calls.of("d") > 500
    };
    assert!(eventually(RETURNS, are_used), "{}", row(&shop, "c"));
    shop.serves(0, true);
    is_preferred(&shop, "http");
}
