//! From `kubectl apply -k` to traffic, and back to a cluster without a mesh.

use std::time::Duration;

use mesh_tests::kube::{Namespace, mesh};

/// Half a minute of a busy machine's time is for the cluster's own part.
const AIM: Duration = Duration::from_secs(60);

#[test]
fn the_first_mutual_tls_request_between_nodes_comes_within_a_minute_of_the_install() {
    let Some(mut mesh) = mesh() else { return };
    mesh.uninstall().expect("without a mesh");
    mesh.remove_kinds().expect("without kinds");
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

/// Of kinds that Istio has, too.
const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: somebodys, namespace: @NS@}
spec:
  selector: {matchLabels: {app: nobody}}
  rules: [{}]
";

/// Also in the pods, which are there before it and after it.
#[test]
fn uninstalled_the_mesh_leaves_nodes_and_pods_as_they_were_and_policies_where_they_are() {
    let Some(mut mesh) = mesh() else { return };
    mesh.uninstall().expect("uninstalled");
    mesh.remove_kinds().expect("removed");
    // Namespaces of tests before this one may still be going.
    let is_clean = || mesh.left_behind().is_ok_and(|left| left.is_empty());
    let clean = mesh.cluster.wait_until("as before the mesh", AIM, is_clean);
    clean.unwrap_or_else(|error| panic!("{error:#}: {:?}", mesh.left_behind()));
    let shop = Namespace::new(mesh.cluster, "leaving", true).expect("a namespace");
    shop.add_app("web", 1).expect("a pod");
    shop.add_app("api", 2).expect("a pod");
    let api = shop.app("api").expect("a pod");
    shop.app("web").expect("a pod");
    let target = [format!("{}:8080", api.v4())];
    let storm = || {
        let report = shop.storm("web", &target, 5).expect("a report");
        assert_eq!(report["ok"], 5, "{report}");
    };
    storm();
    // Until the kernel has looked whether others have them, addresses have no routes.
    let is_settled = || {
        [1, 2].iter().all(|node| {
            let words = ["ip", "-6", "address", "show", "tentative"];
            let pending = mesh.cluster.on_node(*node, &words);
            pending.is_ok_and(|pending| pending.trim().is_empty())
        })
    };
    let settled = mesh.cluster.wait_until("addresses", AIM, is_settled);
    settled.expect("the pods' addresses are theirs");
    mesh.remember().expect("a look");
    mesh.install().expect("installed");
    mesh.wait_rolled_out().expect("ready");
    let is_enrolled = || {
        storm();
        let metrics = mesh.cluster.agent_metrics(2).unwrap_or_default();
        metrics.contains("ns/leaving/sa/web")
    };
    let enrolled = mesh.cluster.wait_until("enrolled", AIM, is_enrolled);
    enrolled.expect("pods that ran before it come into the mesh");
    shop.apply(POLICY).expect("a policy");
    mesh.uninstall().expect("uninstalled");
    let policy = "-n leaving get authorizationpolicies.security.istio.io -o name";
    let kept = mesh.cluster.kubectl(policy).expect("the kind is there");
    assert!(kept.contains("/somebodys"), "{kept}");
    // Running pods go on without it.
    storm();
    let left = mesh.left_behind().expect("a look");
    assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    mesh.remove_kinds().expect("removed");
    let kinds = mesh.cluster.kubectl("get crds -o name").expect("a list");
    assert!(!kinds.contains(".security.istio.io"), "{kinds}");
    shop.delete().expect("deleted");
}
