//! The Gateway API conformance suite, with the mesh.

use mesh_tests::kube::mesh;

const CLAIMED: &str = include_str!("../../kube/conformance/claimed");
/// Where the suite's workloads are.
const NAMESPACE: &str = "gateway-conformance-mesh";

#[test]
fn the_cases_of_the_gateway_api_suite_that_are_claimed_pass_through_the_mesh() {
    let Some(mesh) = mesh() else { return };
    let before = through_the_mesh(mesh.cluster);
    let out = mesh.cluster.script("conformance.sh", &[]).output();
    let out = out.expect("the suite runs");
    let said = String::from_utf8_lossy(&out.stdout);
    let claimed = CLAIMED.lines().filter(|line| !line.starts_with('#'));
    // One that asks for a feature which is not among the claimed ones does not run.
    let has_not = |case: &&str| !said.contains(&format!("--- PASS: TestConformance/{case} "));
    let missing: Vec<&str> = claimed.filter(has_not).collect();
    assert!(
        out.status.success() && missing.is_empty(),
        "{missing:?}: {said}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let after = through_the_mesh(mesh.cluster);
    assert!(
        after > before,
        "{before} connections of it before, {after} after"
    );
}

/// Connections of the suite's workloads that the agents carried, on both nodes.
fn through_the_mesh(cluster: &mesh_tests::kube::Cluster) -> u64 {
    let pages = [1, 2].map(|node| cluster.agent_metrics(node).expect("metrics"));
    let lines = pages.iter().flat_map(|page| page.lines());
    let of_suite = lines.filter(|line| {
        line.starts_with("istio_tcp_connections_opened_total{") && line.contains(NAMESPACE)
    });
    let count = |line: &str| line.rsplit(' ').next()?.parse::<u64>().ok();
    of_suite.filter_map(count).sum()
}
