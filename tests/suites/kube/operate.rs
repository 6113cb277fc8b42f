//! What a person asks an agent in its pod.

use mesh_tests::kube::{SYSTEM, mesh};

use crate::traffic::shop;

#[test]
fn the_commands_of_the_agent_work_in_its_pod_without_flags() {
    let Some(mesh) = mesh() else { return };
    let (shop, [_, api]) = shop(mesh.cluster, "ask");
    let report = shop.storm("web", &[format!("{}:8080", api.v4())], 5);
    assert_eq!(report.expect("a report")["ok"], 5);
    let exec = |words: &str| {
        let line = format!("-n {SYSTEM} exec daemonset/mesh-agent -- mesh-agent {words}");
        mesh.cluster.kubectl(&line)
    };
    let status = exec("status").expect("exit code 0: ready, and nothing is wrong");
    assert!(status.contains("state               ready\n"), "{status}");
    exec("connections").expect("a list");
    for node in [1, 2] {
        let (code, said) = mesh
            .cluster
            .ask_agent(node, "explain pod/ask/web service/ask/api 80")
            .expect("an answer");
        assert_eq!(code, 0, "{said}");
        let (code, said) = mesh
            .cluster
            .ask_agent(node, "probe ready")
            .expect("an answer");
        assert_eq!((code, said.as_str()), (0, "ready\n"));
    }
}
