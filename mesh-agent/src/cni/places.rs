//! Where the node's container runtime has its CNI configuration and programs.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::settings::Settings;

/// By distribution; the first folder that holds a network is the node's.
const KNOWN: &[(&str, &[&str])] = &[
    // kubeadm, kind, EKS, AKS, Talos, Bottlerocket, RKE2, k0s; GKE has other programs.
    (
        "/etc/cni/net.d",
        &[
            "/opt/cni/bin",
            "/home/kubernetes/bin",
            "/usr/lib/cni",
            "/usr/libexec/cni",
        ],
    ),
    // k3s, by its version.
    (
        "/var/lib/rancher/k3s/agent/etc/cni/net.d",
        &[
            "/var/lib/rancher/k3s/data/cni",
            "/var/lib/rancher/k3s/data/current/bin",
        ],
    ),
    // microk8s.
    (
        "/var/snap/microk8s/current/args/cni-network",
        &["/var/snap/microk8s/current/opt/cni/bin"],
    ),
];

/// The folders of configurations that there are, the likeliest first; on the host.
pub(super) fn conf_dirs(settings: &Settings) -> Vec<PathBuf> {
    if let Some(dir) = &settings.conf_dir {
        return vec![dir.clone()];
    }
    let known = KNOWN.iter().map(|(conf, _)| PathBuf::from(conf));
    known
        .filter(|dir| may_be_there(&settings.seen(dir)))
        .collect()
}

/// What cannot be looked at may be: who opens it says why not.
fn may_be_there(dir: &Path) -> bool {
    match fs::metadata(dir) {
        Ok(meta) => meta.is_dir(),
        Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    }
}

/// Every folder that may have our program.
pub(super) fn bin_dirs(settings: &Settings) -> Vec<PathBuf> {
    let known = KNOWN.iter().flat_map(|(_, bins)| *bins).map(PathBuf::from);
    match &settings.bin_dir {
        Some(dir) => vec![dir.clone()],
        None => known.collect(),
    }
}

/// The folders that have the programs of the other plugins of a network: in one of them
/// the runtime looks, and nobody says in which.
pub(super) fn programs_of<'k>(
    settings: &Settings,
    conf_dir: &Path,
    kinds: impl Iterator<Item = &'k str>,
) -> Result<Vec<PathBuf>, String> {
    if let Some(dir) = &settings.bin_dir {
        return Ok(vec![dir.clone()]);
    }
    let kinds: Vec<&str> = kinds.collect();
    let candidates = beside(conf_dir);
    let has = |dir: &&PathBuf| kinds.iter().all(|kind| has_program(settings, dir, kind));
    let found: Vec<PathBuf> = candidates.iter().filter(has).cloned().collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let places = candidates.iter().map(|dir| dir.display().to_string());
    Err(format!(
        "the programs of its plugins ({}) are not in {}: name their folder with --cni-bin-dir (MESH_CNI_BIN_DIR)",
        kinds.join(", "),
        places.collect::<Vec<_>>().join(" or ")
    ))
}

/// Where the programs of a configuration in this folder may be.
fn beside(conf_dir: &Path) -> Vec<PathBuf> {
    let of_conf = KNOWN.iter().filter(|(conf, _)| Path::new(conf) == conf_dir);
    let mut bins: Vec<_> = of_conf.flat_map(|(_, bins)| *bins).collect();
    if bins.is_empty() {
        bins = KNOWN.iter().flat_map(|(_, bins)| *bins).collect();
    }
    bins.into_iter().map(PathBuf::from).collect()
}

/// A link counts also where what it leads to is not mounted here: on the host it is there,
/// or the node had no network.
fn has_program(settings: &Settings, dir: &Path, kind: &str) -> bool {
    // A name with a path in it is none of a plugin's.
    if kind.contains('/') {
        return false;
    }
    match fs::symlink_metadata(settings.seen(&dir.join(kind))) {
        Ok(meta) => meta.is_file(),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            settings.seen(dir).join(kind).is_symlink()
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = include_str!("../../../deploy/base/agent.yaml");
    const GKE: &str = include_str!("../../../deploy/components/gke/kustomization.yaml");
    const K3S: &str = include_str!("../../../deploy/components/k3s/kustomization.yaml");
    const MICROK8S: &str = include_str!("../../../deploy/components/microk8s/kustomization.yaml");

    /// The host's path is seen below `/host`, at the same path.
    fn is_mounted(file: &str, folder: &str) -> bool {
        let after = |key: &str| -> Vec<String> {
            let ends = |c: char| c == ',' || c == '}' || c.is_whitespace();
            let rests = file.split(key).skip(1);
            let words = rests.filter_map(|rest| rest.split(ends).next());
            words.map(str::to_owned).collect()
        };
        let seen = after("mountPath: ");
        let of_host = after("hostPath: {path: ");
        of_host.iter().any(|path| {
            Path::new(folder).starts_with(path) && seen.contains(&format!("/host{path}"))
        })
    }

    #[test]
    fn the_folders_that_are_looked_for_are_mounted_by_the_base_or_a_platforms_component() {
        let files = [(BASE, 0, 0), (GKE, 0, 1), (K3S, 1, 0), (MICROK8S, 2, 0)];
        for (file, row, program) in files {
            let (conf, bins) = KNOWN[row];
            // A component adds to the base, and takes from it where its own are others.
            let is_base = file == BASE;
            let by_base = !is_base && is_mounted(BASE, conf);
            assert!(by_base || is_mounted(file, conf), "{conf}");
            assert!(is_mounted(file, bins[program]), "{}", bins[program]);
        }
        assert_eq!(KNOWN.len(), 3, "one more needs a component, too");
    }

    #[test]
    fn the_folders_that_a_component_names_are_known_ones() {
        let (conf, bins) = KNOWN[1];
        for (name, folder) in [("MESH_CNI_CONF_DIR", conf), ("MESH_CNI_BIN_DIR", bins[0])] {
            assert!(K3S.contains(&format!("- {name}={folder}\n")), "{name}");
        }
    }
}
