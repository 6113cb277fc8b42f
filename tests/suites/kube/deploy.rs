//! What deploy/ renders to, as an API server takes it.

use mesh_tests::kube::mesh;

use crate::scrape::prometheus_operator;

#[test]
fn every_overlay_is_accepted_by_the_api_server() {
    let Some(mesh) = mesh() else { return };
    let _operator = prometheus_operator(&mesh);
    let overlays = [
        "",
        "overlays/strict",
        "overlays/external-ca",
        "overlays/no-cni",
        "overlays/prometheus",
        "uninstall",
    ];
    for overlay in overlays {
        let path = mesh.cluster.file(&format!("deploy/{overlay}"));
        let apply = ["apply", "--dry-run=server", "-k", &path];
        let said = mesh.cluster.kubectl_args(&apply);
        let said = said.unwrap_or_else(|error| panic!("{overlay}: {error:#}"));
        assert!(said.contains("daemonset.apps/mesh-agent "), "{said}");
    }
}
