//! What deploy/ renders to, as an API server takes it.

use std::path::Path;

use mesh_tests::kube::{Mesh, mesh};

use crate::scrape::prometheus_operator;

#[test]
fn every_overlay_is_accepted_by_the_api_server() {
    let Some(mesh) = mesh() else { return };
    let _operator = prometheus_operator(&mesh);
    let all = std::fs::read_dir(mesh.cluster.file("deploy/overlays")).expect("a directory");
    let names = all.map(|one| one.expect("an entry").file_name());
    let overlays = names.map(|name| format!("overlays/{}", name.to_string_lossy()));
    let overlays: Vec<_> = overlays.collect();
    assert!(overlays.len() >= 8, "{overlays:?}");
    let others = ["", "uninstall"].map(str::to_owned);
    for overlay in overlays.into_iter().chain(others) {
        let folder = mesh.cluster.file(&format!("deploy/{overlay}"));
        let said = dry_run(&mesh, Path::new(&folder));
        assert!(said.contains("daemonset.apps/mesh-agent "), "{said}");
    }
}

/// Its kustomizations, in order; in the page they stand in a folder beside deploy/.
#[test]
fn what_the_documentation_has_to_be_written_is_accepted_by_the_api_server() {
    let Some(mesh) = mesh() else { return };
    let page = std::fs::read_to_string(mesh.cluster.file("docs/kubernetes.md"));
    let page = page.expect("the page");
    let blocks = page.split("```yaml\n").skip(1);
    let blocks = blocks.filter_map(|block| block.split("```").next());
    let whole: Vec<_> = blocks
        .filter(|block| block.contains("kind: Kustomization\n"))
        .collect();
    assert_eq!(whole.len(), 2, "the install's and the uninstall's");
    let folder = tempfile::tempdir_in(mesh.cluster.file("tests/kube")).expect("a folder");
    for block in whole {
        let text = block.replace("../deploy/", "../../../deploy/");
        std::fs::write(folder.path().join("kustomization.yaml"), text).expect("written");
        let said = dry_run(&mesh, folder.path());
        assert!(said.contains("daemonset.apps/mesh-agent "), "{said}");
    }
}

fn dry_run(mesh: &Mesh, folder: &Path) -> String {
    let path = folder.display().to_string();
    let apply = ["apply", "--dry-run=server", "-k", &path];
    let said = mesh.cluster.kubectl_args(&apply);
    said.unwrap_or_else(|error| panic!("{path}: {error:#}"))
}
