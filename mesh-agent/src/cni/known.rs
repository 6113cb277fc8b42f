//! Leaves on the node, for the time when the agent is away, what is certainly not in
//! the mesh: the plugin lets that start.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use mesh_cni::Outside;

use crate::model::Snapshot;

/// Most names that are left.
const MAX_NAMESPACES: usize = 100_000;

/// The file, and what it says.
#[derive(Debug)]
pub(crate) struct Known {
    path: PathBuf,
    written: Option<Outside>,
    /// Why it could not be written.
    pub(crate) failed: Option<String>,
}

impl Known {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            written: None,
            failed: None,
        }
    }

    /// What the configuration says now, on the disk where that has changed.
    pub(crate) fn keep(&mut self, snapshot: &Snapshot, node: &str) {
        let outside = outside(snapshot, node);
        if self.written.as_ref() == Some(&outside) {
            return;
        }
        match write(&self.path, &outside) {
            Ok(()) => {
                self.written = Some(outside);
                self.failed = None;
            }
            // What stands there may let start what is enrolled by now.
            Err(error) => {
                let _tried = fs::write(&self.path, "");
                self.written = None;
                self.failed = Some(format!("{}: {error}", self.path.display()));
            }
        }
    }
}

/// A namespace that enrols nobody and has nobody who is enrolled; of others the pods
/// of this node that are not.
fn outside(snapshot: &Snapshot, node: &str) -> Outside {
    let may_be_enrolled: BTreeSet<&str> = snapshot
        .workloads
        .values()
        .filter(|workload| workload.is_enrolled())
        .map(|workload| workload.key.namespace.as_str())
        .chain(
            snapshot
                .unreadable_pods
                .iter()
                .map(|key| key.namespace.as_str()),
        )
        .collect();
    let namespaces = snapshot.open_namespaces.iter();
    let namespaces: BTreeSet<String> = namespaces
        .filter(|name| !may_be_enrolled.contains(name.as_str()))
        .take(MAX_NAMESPACES)
        .map(ToString::to_string)
        .collect();
    let pods = snapshot
        .workloads
        .values()
        .filter(|workload| workload.node == node && !workload.is_enrolled())
        .filter(|workload| !namespaces.contains(workload.key.namespace.as_str()))
        .filter(|workload| !snapshot.unreadable_pods.contains(&workload.key))
        .map(|workload| workload.uid.to_string());
    let pods = pods.collect();
    Outside::new(namespaces, pods)
}

/// Whole, or not at all; it must be there after a reboot.
fn write(path: &Path, outside: &Outside) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    super::binary::gone(Path::new(&unfinished))?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&unfinished)?;
    file.write_all(&serde_json::to_vec(outside)?)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Enrolment, Workload, WorkloadKey};

    fn pod(namespace: &str, name: &str, is_enrolled: bool) -> Arc<Workload> {
        let mut pod = Workload::for_test(namespace, name);
        if !is_enrolled {
            pod.enrolment = Enrolment::No(crate::model::Outside::NotAsked);
        }
        Arc::new(pod)
    }

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::default();
        let open = ["kube-system", "default", "mixed", "odd"];
        snapshot.open_namespaces = Arc::new(open.into_iter().map(Into::into).collect());
        for pod in [
            pod("kube-system", "dns", false),
            pod("shop", "web", true),
            pod("shop", "out", false),
            pod("mixed", "in", true),
            pod("mixed", "other", false),
            pod("odd", "unread", false),
        ] {
            snapshot.workloads.insert(pod);
        }
        let unread = WorkloadKey::new("odd", "unread");
        snapshot.unreadable_pods = Arc::new([unread].into_iter().collect());
        snapshot
    }

    #[test]
    fn only_what_is_certainly_not_in_the_mesh_is_left_on_the_node() {
        let said = outside(&snapshot(), "n1");
        let names: Vec<&str> = said.namespaces.iter().map(String::as_str).collect();
        assert_eq!(names, ["default", "kube-system"]);
        let pods: Vec<&str> = said.pods.iter().map(String::as_str).collect();
        assert_eq!(pods, ["other", "out"]);
        assert!(outside(&snapshot(), "n2").pods.is_empty());
        assert_eq!(
            outside(&Snapshot::default(), "n1"),
            Outside::new(BTreeSet::new(), BTreeSet::new())
        );
    }

    #[test]
    fn what_is_left_is_whole_and_written_where_something_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state/outside.json");
        let mut known = Known::new(path.clone());
        known.keep(&snapshot(), "n1");
        assert_eq!(known.failed, None);
        let read = mesh_cni::read_outside(&path);
        assert_eq!(read, mesh_cni::Read::Known(outside(&snapshot(), "n1")));
        fs::remove_file(&path).expect("removed");
        known.keep(&snapshot(), "n1");
        assert!(!path.exists(), "nothing changed");
        known.keep(&Snapshot::default(), "n1");
        assert!(path.exists());
        // A folder in its place: it says so, and lets nothing start by an old word.
        fs::remove_file(&path).expect("removed");
        fs::create_dir_all(path.join("x")).expect("made");
        known.keep(&snapshot(), "n1");
        assert!(known.failed.is_some());
        assert!(matches!(
            mesh_cni::read_outside(&path),
            mesh_cni::Read::Unreadable(_)
        ));
    }
}
