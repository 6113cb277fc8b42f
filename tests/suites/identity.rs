//! Connections between nodes are mutual TLS, by the right identities only.

use mesh_tests::{Pod, World};

/// Client a and server b on n1, server c on n2.
fn world() -> (World, [Pod; 3]) {
    let mut world = World::new(2).expect("a world");
    let pods = [("n1", "a"), ("n1", "b"), ("n2", "c")]
        .map(|(node, name)| world.add_pod(node, name, Some("closed")).expect("a pod"));
    for pod in &pods[1..] {
        world.serve(pod).expect("a server");
    }
    (world, pods)
}

fn all_fine(report: &serde_json::Value, count: u64) {
    assert_eq!(report["ok"], count, "{report}");
    assert_eq!(report["wrong"], 0, "{report}");
    assert_eq!(report["lost"], 0, "{report}");
}

#[test]
fn many_connections_between_nodes_arrive_whole_with_true_addresses_over_mutual_tls() {
    let (world, [a, b, c]) = world();
    let authority = world.authority(&[]).expect("an authority");
    let agents = ["n1", "n2"].map(|n| world.secure_agent(n, &authority, &[]).expect("an agent"));
    let targets = [b.targets(), c.targets()].concat();
    let args = ["--count", "5000", "--inflight", "32"];
    all_fine(&world.storm(&a, &targets, &args).expect("a report"), 5000);
    for (agent, reporter) in agents.iter().zip(["source", "destination"]) {
        let secured = agent
            .metric(
                "istio_tcp_connections_opened_total",
                "connection_security_policy=\"mutual_tls\"",
            )
            .expect("a metric");
        assert!(secured > 2000.0, "{reporter}: {secured}");
    }
    let large = ["--count", "2", "--inflight", "1", "--bytes", "134217728"];
    let report = world.storm(&a, &c.targets()[..1], &large);
    all_fine(&report.expect("a report"), 2);
}
