//! Where the node's container runtime has its CNI configuration and programs.

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
    known.filter(|dir| settings.seen(dir).is_dir()).collect()
}

/// Every folder that may have our program.
pub(super) fn bin_dirs(settings: &Settings) -> Vec<PathBuf> {
    let known = KNOWN.iter().flat_map(|(_, bins)| *bins).map(PathBuf::from);
    match &settings.bin_dir {
        Some(dir) => vec![dir.clone()],
        None => known.collect(),
    }
}

/// The folder that has the programs of the other plugins of a network: there the
/// runtime looks.
pub(super) fn bin_dir<'k>(
    settings: &Settings,
    conf_dir: &Path,
    kinds: impl Iterator<Item = &'k str>,
) -> Result<PathBuf, String> {
    let kinds: Vec<&str> = kinds.collect();
    let candidates: Vec<PathBuf> = match &settings.bin_dir {
        Some(dir) => return Ok(dir.clone()),
        None => {
            let of_conf = KNOWN.iter().filter(|(conf, _)| Path::new(conf) == conf_dir);
            let mut all: Vec<_> = of_conf.flat_map(|(_, bins)| *bins).collect();
            if all.is_empty() {
                all = KNOWN.iter().flat_map(|(_, bins)| *bins).collect();
            }
            all.into_iter().map(PathBuf::from).collect()
        }
    };
    let has = |dir: &PathBuf| {
        let dir = settings.seen(dir);
        let mut kinds = kinds.iter();
        // A name with a path in it is none of a plugin's.
        kinds.all(|kind| !kind.contains('/') && dir.join(kind).is_file())
    };
    candidates
        .iter()
        .find(|dir| has(dir))
        .cloned()
        .ok_or_else(|| {
            let places: Vec<_> = candidates
                .iter()
                .map(|dir| dir.display().to_string())
                .collect();
            format!(
                "the programs of its plugins ({}) are not in {}",
                kinds.join(", "),
                places.join(" or ")
            )
        })
}
