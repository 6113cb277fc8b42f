//! What a world leaves, and its end.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cgroup;
use crate::net::ip;
use crate::wait::eventually;

/// Everything of a world that outlives its process, found by name.
#[derive(Clone, Debug)]
pub struct Remains {
    pub(crate) id: String,
    pub(crate) cgroup: PathBuf,
    pub(crate) dir: PathBuf,
}

impl Remains {
    /// Ends all processes and removes all namespaces, pins, cgroups, files.
    pub fn clear(&self) {
        // Everything is tried; what fails is not there.
        cgroup::kill(&self.cgroup);
        for netns in names_in("/run/netns", &self.prefix()) {
            let _ = ip(&format!("netns del {netns}"));
        }
        for netns in names_in("/sys/fs/bpf", &self.prefix()) {
            let _ = fs::remove_dir_all(pins(&netns));
        }
        // A killed process leaves its cgroup a moment later.
        let _ = eventually(Duration::from_secs(5), || cgroup::remove(&self.cgroup));
        let _ = fs::remove_dir_all(&self.dir);
    }

    fn prefix(&self) -> String {
        format!("{}-", self.id)
    }
}

pub(crate) fn pins(netns: &str) -> PathBuf {
    Path::new("/sys/fs/bpf").join(netns)
}

fn names_in(dir: &str, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).collect()
}
