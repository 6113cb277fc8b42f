//! From `kubectl apply -k` to traffic, and back to a cluster without a mesh.

use std::time::Duration;

use mesh_tests::kube::{Namespace, mesh};

/// Half a minute of a busy machine's time is for the cluster's own part.
const AIM: Duration = Duration::from_secs(60);

#[test]
fn the_first_mutual_tls_request_between_nodes_comes_within_a_minute_of_the_install() {
    let Some(mut mesh) = mesh() else { return };
    mesh.uninstall().expect("without a mesh");
    mesh.install().expect("applied");
    let shop = Namespace::new(mesh.cluster, "first", true).expect("a namespace");
    shop.add_app("web", 1).expect("a pod");
    shop.add_app("api", 2).expect("a pod");
    let api = shop.app("api").expect("a pod");
    shop.app("web").expect("a pod");
    let vip = shop.vip("api").expect("an address");
    let target = [format!("{vip}:80={}:8080", api.v4())];
    let carried = || {
        let report = shop.storm("web", &target, 1);
        let is_known = || {
            let metrics = mesh.cluster.agent_metrics(2).unwrap_or_default();
            metrics.lines().any(|line| {
                line.starts_with("istio_tcp_connections_opened_total")
                    && line.contains("connection_security_policy=\"mutual_tls\"")
                    && line.contains("ns/first/sa/web")
            })
        };
        report.is_ok_and(|report| report["ok"] == 1) && is_known()
    };
    let first = mesh.cluster.wait_until("web reaches api", AIM, carried);
    first.expect("a first request");
    let took = mesh.applied.elapsed();
    println!("from `kubectl apply -k` to the first request in mutual TLS: {took:.1?}");
    assert!(took < AIM, "{took:?}");
    mesh.wait_rolled_out().expect("ready");
}

#[test]
fn uninstalled_the_mesh_leaves_nodes_and_pods_as_they_were() {
    let Some(mesh) = mesh() else { return };
    let shop = Namespace::new(mesh.cluster, "leaving", true).expect("a namespace");
    shop.add_app("web", 1).expect("a pod");
    shop.add_app("api", 2).expect("a pod");
    let api = shop.app("api").expect("a pod");
    shop.app("web").expect("a pod");
    let target = [format!("{}:8080", api.v4())];
    let meshed = shop.storm("web", &target, 5).expect("a report");
    assert_eq!(meshed["ok"], 5, "{meshed}");
    mesh.uninstall().expect("uninstalled");
    // Running pods go on without it.
    let plain = shop.storm("web", &target, 5).expect("a report");
    assert_eq!(plain["ok"], 5, "{plain}");
    shop.delete().expect("deleted");
    let left = mesh.left_behind().expect("a look");
    assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
}
