//! How the kubelet names the cgroups of pods.
//!
//! A pod's group is searched for and never computed: drivers, classes of service and
//! the kubelet's own root make its path, and only its UID is in all of them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::cgroup;

/// The group that all pods of the node are below, where there is one: `kubepods`,
/// `kubepods.slice`, or below a root of the kubelet's own.
pub(crate) fn root(tree: &Path) -> io::Result<Option<PathBuf>> {
    // What is below a pod is not the node's.
    cgroup::search(tree, is_root, |dir| uid(dir).is_none())
}

#[must_use]
pub(crate) fn is_root(dir: &Path) -> bool {
    let name = name(dir);
    let name = name.strip_suffix(".slice").unwrap_or(name);
    name == "kubepods" || name.ends_with("-kubepods")
}

/// The groups of all pods, by UID; of a runtime that makes some of its own beside
/// the kubelet's, several for one.
pub(crate) fn pods(root: &Path) -> io::Result<BTreeMap<String, Vec<PathBuf>>> {
    let mut pods = BTreeMap::<_, Vec<_>>::new();
    // Right below, or below a class of service.
    for dir in cgroup::below(root)? {
        if let Some(uid) = uid(&dir) {
            pods.entry(uid).or_default().push(dir);
            continue;
        }
        match cgroup::below(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            dirs => {
                for dir in dirs? {
                    if let Some(uid) = uid(&dir) {
                        pods.entry(uid).or_default().push(dir);
                    }
                }
            }
        }
    }
    Ok(pods)
}

/// A pod's group with processes that is not below the group of all pods: as containerd makes
/// them with the cgroup driver `cgroupfs` where the kubelet's is `systemd`.
pub(crate) fn elsewhere(tree: &Path) -> io::Result<Option<PathBuf>> {
    if root(tree)?.is_none() {
        return Ok(None);
    }
    let is_in_use = |dir: &Path| uid(dir).is_some() && cgroup::is_populated(dir).unwrap_or(false);
    // What is below a pod is not the node's.
    cgroup::search(tree, is_in_use, |dir| !is_root(dir) && uid(dir).is_none())
}

/// The groups that those of pods are made in: `root`, and each class of service.
pub(crate) fn above_pods(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut groups = cgroup::below(root)?;
    groups.retain(|dir| uid(dir).is_none());
    groups.push(root.to_owned());
    Ok(groups)
}

/// Of whose pod the group is: `podUID`, `kubepods-burstable-podUID_WITH_.slice`, or
/// the same before a colon.
fn uid(dir: &Path) -> Option<String> {
    uid_in(name(dir))
}

/// The UIDs of the pods whose groups a path leads through, the outermost first.
pub(crate) fn uids(path: &str) -> impl Iterator<Item = String> {
    path.split('/').filter_map(uid_in)
}

fn uid_in(name: &str) -> Option<String> {
    let name = name.split(':').next().unwrap_or_default();
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let (before, uid) = name.rsplit_once("pod")?;
    let is_uid = uid
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    let begins = before.is_empty() || before.ends_with('-');
    (begins && is_uid && !uid.is_empty()).then(|| uid.replace('_', "-"))
}

fn name(dir: &Path) -> &str {
    dir.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_group_is_told_in_every_spelling() {
        let uid = "0f5e3a6c-91d2-4f4e-8a57-1c2d3e4f5a6b";
        let slice = "kubepods-burstable-pod0f5e3a6c_91d2_4f4e_8a57_1c2d3e4f5a6b.slice";
        for name in [
            &format!("pod{uid}"),
            slice,
            "kubepods-pod0f5e3a6c_91d2_4f4e_8a57_1c2d3e4f5a6b.slice",
            "kubelet-kubepods-besteffort-pod0f5e3a6c_91d2_4f4e_8a57_1c2d3e4f5a6b.slice",
            &format!("{slice}:cri-containerd:8c1f"),
        ] {
            assert_eq!(uid_in(name).as_deref(), Some(uid), "{name}");
        }
        let of_a_manifest = "pod2f1e0d9c8b7a69584736251403f2e1d0";
        assert_eq!(uid_in(of_a_manifest), Some(of_a_manifest[3..].to_owned()));
        for name in [
            "kubepods",
            "kubepods.slice",
            "kubepods-besteffort.slice",
            "besteffort",
            "pod",
            "tripod7",
            "system.slice",
            "cri-containerd-8c1f.scope",
        ] {
            assert_eq!(uid_in(name), None, "{name}");
        }
    }

    #[test]
    fn a_pods_group_beside_the_group_of_all_pods_is_found_where_it_has_processes() {
        let tree = tempfile::tempdir().expect("a directory");
        let make = |path: &str, populated: u8| {
            let dir = tree.path().join(path);
            std::fs::create_dir_all(&dir).expect("made");
            let events = format!("populated {populated}\nfrozen 0\n");
            std::fs::write(dir.join("cgroup.events"), events).expect("written");
            dir
        };
        let found = || elsewhere(tree.path()).expect("looked at");
        let astray = "system.slice/containerd.service/kubepods-podab_1.slice:cri-containerd:c1";
        make(astray, 1);
        assert_eq!(found(), None, "no kubelet has made its group");
        make("kubepods.slice/kubepods-podab_1.slice", 0);
        make("kubepods.slice/kubepods-podcd_2.slice/kubepods/podef-3", 1);
        assert_eq!(found(), Some(tree.path().join(astray)));
        make(astray, 0);
        assert_eq!(found(), None);
    }

    #[test]
    fn the_group_of_all_pods_is_told_below_any_root() {
        for name in ["kubepods", "kubepods.slice", "kubelet-kubepods.slice"] {
            assert!(is_root(&Path::new("/x").join(name)), "{name}");
        }
        for name in ["kubepods-burstable.slice", "mykubepods", "kubelet.slice"] {
            assert!(!is_root(&Path::new("/x").join(name)), "{name}");
        }
    }

    #[test]
    fn a_path_names_the_pods_that_it_leads_through() {
        let path = "/../../burstable/podab-1/kubepods/podcd-2/c1";
        assert_eq!(uids(path).collect::<Vec<_>>(), ["ab-1", "cd-2"]);
    }
}
