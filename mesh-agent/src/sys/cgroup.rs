//! Finding and joining cgroup2 directories.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Where cgroup2 is mounted: `/sys/fs/cgroup`, or `…/unified` on hybrid systems.
pub fn cgroup2_mount() -> io::Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let path = fields.next()?;
            (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
        })
        .next()
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "no cgroup2 file system is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup",
            )
        })
}

/// Is it a directory of a cgroup2 file system?
#[must_use]
pub fn is_cgroup2(dir: &Path) -> bool {
    use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
    statfs(dir).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// The calling process's own cgroup2 directory.
pub fn own_cgroup() -> io::Result<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup")?;
    let path = text.lines().find_map(|l| l.strip_prefix("0::/"));
    let path = path.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    Ok(cgroup2_mount()?.join(path))
}

/// The id that `bpf_get_current_cgroup_id` gives for processes in `dir`: its inode number.
pub fn id(dir: &Path) -> io::Result<u64> {
    Ok(std::fs::metadata(dir)?.ino())
}

/// Levels between `dir` and the root of its mount, whose own is 0. That root is
/// the kernel's where the agent sees the node's cgroups, as it must.
pub fn depth(dir: &Path) -> io::Result<usize> {
    let dir = dir.canonicalize()?;
    let above = dir.ancestors().take_while(|dir| is_cgroup2(dir)).count();
    above
        .checked_sub(1)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Processes in `dir` and below (a pod's are in its containers' groups), at most `limit`.
pub fn processes(dir: &Path, limit: usize) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let pids = std::fs::read_to_string(dir.join("cgroup.procs"))?;
        found.extend(pids.lines().filter_map(|pid| pid.parse::<u32>().ok()));
        if found.len() >= limit {
            break;
        }
        for entry in std::fs::read_dir(&dir)?.filter_map(Result::ok) {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                dirs.push(entry.path());
            }
        }
    }
    found.truncate(limit);
    Ok(found)
}

/// Moves the calling process into `dir`, which is made if it is missing.
pub fn enter(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("cgroup.procs"), std::process::id().to_string())
}
