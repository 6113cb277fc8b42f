//! A namespace's label, put on and taken off, under pods that run.

use std::time::Duration;

use mesh_tests::kube::{AppPod, Cluster, Mesh, Namespace, mesh};

const LONG: Duration = Duration::from_secs(30);

/// Connections in mutual TLS that the server's agent has taken from that client.
fn secure(cluster: &Cluster, principal: &str) -> f64 {
    let metrics = cluster.agent_metrics(2).expect("a page");
    let counted = metrics.lines().filter(|line| {
        line.starts_with("istio_tcp_connections_opened_total")
            && line.contains("connection_security_policy=\"mutual_tls\"")
            && line.contains(principal)
    });
    let value = |line: &str| line.rsplit(' ').next().and_then(|v| v.parse::<f64>().ok());
    counted.map(|line| value(line).expect("a number")).sum()
}

/// How many of ten connections were in mutual TLS; all have to be answered.
fn of_ten(mesh: &Mesh, ns: &Namespace<'_>, api: &AppPod) -> f64 {
    let principal = format!("ns/{}/sa/web", ns.name);
    let before = secure(mesh.cluster, &principal);
    let target = [format!("{}:8080", api.v4())];
    let report = ns.storm("web", &target, 10).expect("a report");
    assert_eq!(report["ok"], 10, "{report}");
    secure(mesh.cluster, &principal) - before
}

#[test]
fn pods_that_run_come_into_the_mesh_with_their_namespaces_label_and_leave_with_it() {
    let Some(mesh) = mesh() else { return };
    let ns = Namespace::new(mesh.cluster, "later", false).expect("a namespace");
    ns.add_app("web", 1).expect("a pod");
    ns.add_app("api", 2).expect("a pod");
    let api = ns.app("api").expect("a pod");
    ns.app("web").expect("a pod");
    let label = |words: &str| {
        let words = format!("label namespace later {words} --overwrite");
        mesh.cluster.kubectl(&words).expect("labelled");
    };
    let in_time = |what: &str, count: f64| {
        let waited = mesh.cluster.wait_until(what, LONG, || {
            // Not in between: a connection for each, or for none.
            (of_ten(&mesh, &ns, &api) - count).abs() < 0.5
        });
        waited.unwrap_or_else(|error| panic!("{error:#}"));
    };
    assert!(of_ten(&mesh, &ns, &api) < 0.5, "nobody asked for it");
    for _ in 0..2 {
        label("mesh-agent.io/enrolled=true");
        in_time("the namespace is in the mesh", 10.0);
        label("mesh-agent.io/enrolled-");
        in_time("the namespace is out of the mesh", 0.0);
    }
    for name in ["web", "api"] {
        let pod = ns.get(&format!("pod {name}")).expect("a pod");
        let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
        assert_eq!(restarts, 0, "{name}");
    }
}
