//! The cgroup2 tree: where it is, its CPU time, its end.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// The cgroup2 mount, wherever it is.
pub(crate) fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let line = mounts
        .lines()
        .find(|l| l.split(' ').nth(2) == Some("cgroup2"));
    let path = line
        .and_then(|l| l.split(' ').nth(1))
        .context("find a cgroup2 mount")?;
    Ok(path.into())
}

/// CPU time of all processes that are or were in the group.
pub(crate) fn cpu(dir: &Path) -> Result<Duration> {
    let stat = fs::read_to_string(dir.join("cpu.stat"))?;
    let usec = stat
        .lines()
        .find_map(|l| l.strip_prefix("usage_usec "))
        .context("find usage_usec")?;
    Ok(Duration::from_micros(usec.parse()?))
}

/// Ends every process in the group and below.
pub(crate) fn kill(dir: &Path) {
    // No such group: nothing to end.
    let _ = fs::write(dir.join("cgroup.kill"), "1");
}

/// Removes the group and all below; false while a process is in it.
pub(crate) fn remove(dir: &Path) -> bool {
    if let Ok(entries) = fs::read_dir(dir) {
        for entry in entries.filter_map(Result::ok) {
            if entry.path().is_dir() {
                remove(&entry.path());
            }
        }
    }
    fs::remove_dir(dir).is_ok() || !dir.exists()
}
