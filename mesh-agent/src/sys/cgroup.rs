//! Finding and joining cgroup2 directories.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use super::sock_diag;

/// Groups that a search looks at, at most.
const MAX_GROUPS: usize = 65_536;

/// Where the node's whole cgroup2 tree is mounted: `/sys/fs/cgroup`, `…/unified` on
/// hybrid systems, in a container wherever its pod mounts it. Of several mounts the
/// one that shows most: a container's own shows its own group alone.
pub(crate) fn cgroup2_mount() -> io::Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mut mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
    mounts.sort_by_key(|mount| (!is_whole_tree(&mount.at), std::cmp::Reverse(mount.above)));
    let best = mounts.into_iter().next();
    best.map(|mount| mount.at).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "no cgroup2 file system is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup",
        )
    })
}

/// A mount of a cgroup2 file system.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    at: PathBuf,
    /// Levels by which its root is above that of the process's cgroup namespace.
    above: usize,
}

impl Mount {
    /// A line of `/proc/self/mountinfo`.
    fn parse(line: &str) -> Option<Self> {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        (kind.split(' ').next()? == "cgroup2").then(|| Self {
            at: PathBuf::from(at.replace("\\040", " ")),
            above: root.split('/').filter(|part| *part == "..").count(),
        })
    }
}

/// Is it the kernel's root of all groups? That one has a number of its own.
#[must_use]
pub(crate) fn is_whole_tree(dir: &Path) -> bool {
    const ROOT: u64 = 1;
    is_cgroup2(dir) && id(dir).is_ok_and(|id| id == ROOT)
}

/// Is it a directory of a cgroup2 file system?
#[must_use]
pub(crate) fn is_cgroup2(dir: &Path) -> bool {
    use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
    statfs(dir).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// The calling process's own group, by the kernel's word, as far as `tree` shows it:
/// `/proc/self/cgroup` says `/` to whom has a cgroup namespace of its own.
pub(crate) fn own_cgroup(tree: &Path) -> io::Result<PathBuf> {
    let own = sock_diag::own_cgroup_id()?;
    find(tree, own)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

/// The cgroup2 group that a text of `/proc/PID/cgroup` names.
pub(crate) fn named(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// What `/` in `/proc/PID/cgroup` is for this process, whose own group is `own`: with a
/// cgroup namespace of its own it is shown paths as they are from the root of that.
pub(crate) fn shown_root(own: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    above(own, named(&text)?)
}

fn above(own: &Path, shown: &str) -> Option<PathBuf> {
    let shown = Path::new(shown.trim_start_matches('/'));
    let is_below = shown
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let levels = shown.components().count();
    let is_it = is_below && own.ends_with(shown);
    is_it.then(|| own.ancestors().nth(levels).map(Path::to_owned))?
}

/// The directory of a group by its path as it is shown there.
pub(crate) fn at(shown_root: &Path, shown: &str) -> PathBuf {
    let mut dir = shown_root.to_owned();
    for part in Path::new(shown).components() {
        match part {
            Component::ParentDir => drop(dir.pop()),
            Component::Normal(name) => dir.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    dir
}

/// The group with that id, in `tree` or below.
pub(crate) fn find(tree: &Path, wanted: u64) -> io::Result<Option<PathBuf>> {
    search(tree, |dir| id(dir).is_ok_and(|id| id == wanted), |_| true)
}

/// The first group for which `is_it`, the shallowest first. `enter`: may it be below
/// that one? Groups that go meanwhile are passed over.
pub(crate) fn search(
    tree: &Path,
    is_it: impl Fn(&Path) -> bool,
    enter: impl Fn(&Path) -> bool,
) -> io::Result<Option<PathBuf>> {
    let mut waiting = VecDeque::from([tree.to_owned()]);
    for _ in 0..MAX_GROUPS {
        let Some(dir) = waiting.pop_front() else {
            return Ok(None);
        };
        if is_it(&dir) {
            return Ok(Some(dir));
        }
        if !enter(&dir) {
            continue;
        }
        match below(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && dir != tree => {}
            dirs => waiting.extend(dirs?),
        }
    }
    Err(io::Error::other("more than 65536 cgroups are there"))
}

/// The groups right below one, in the order of their names.
pub(crate) fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            dirs.push(entry.path());
        }
    }
    dirs.sort_unstable();
    Ok(dirs)
}

/// Is there a process in the group or below it?
pub(crate) fn is_populated(dir: &Path) -> io::Result<bool> {
    let events = std::fs::read_to_string(dir.join("cgroup.events"))?;
    Ok(events.lines().any(|line| line == "populated 1"))
}

/// The id that `bpf_get_current_cgroup_id` gives for processes in `dir`: its inode number.
pub(crate) fn id(dir: &Path) -> io::Result<u64> {
    Ok(std::fs::metadata(dir)?.ino())
}

/// Levels between `dir` and the root of its mount, whose own is 0. That root is
/// the kernel's where the agent sees the node's cgroups, as it must.
pub(crate) fn depth(dir: &Path) -> io::Result<usize> {
    let dir = dir.canonicalize()?;
    let above = dir.ancestors().take_while(|dir| is_cgroup2(dir)).count();
    above
        .checked_sub(1)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Processes in `dir` and below (a pod's are in its containers' groups), at most `limit`.
pub(crate) fn processes(dir: &Path, limit: usize) -> io::Result<Vec<u32>> {
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
pub(crate) fn enter(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("cgroup.procs"), std::process::id().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_what_a_container_is_shown_of_it() {
        let root = |own: &str, shown: &str| above(Path::new(own), shown);
        let host = || Some(PathBuf::from("/cg"));
        assert_eq!(
            root(
                "/cg/system.slice/agent.service",
                "/system.slice/agent.service"
            ),
            host()
        );
        let own = "/cg/kubepods/podx/c1";
        assert_eq!(
            root(own, "/"),
            Some(own.into()),
            "a cgroup namespace of its own"
        );
        assert_eq!(root(own, "/c1"), Some("/cg/kubepods/podx".into()));
        assert_eq!(root(own, "/../c2"), None, "it left its namespace's root");
        assert_eq!(root(own, "/elsewhere"), None);
        for (root, shown, dir) in [
            ("/cg", "/kubepods/pody/c2", "/cg/kubepods/pody/c2"),
            (own, "/../../pody/c2", "/cg/kubepods/pody/c2"),
            (own, "/../../../system.slice/a", "/cg/system.slice/a"),
        ] {
            assert_eq!(at(Path::new(root), shown), Path::new(dir));
        }
        assert_eq!(named("12:cpu:/x\n0::/a b\n"), Some("/a b"));
    }

    #[test]
    fn of_several_mounts_the_roots_tell_which_shows_more() {
        let own = "520 503 0:30 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate";
        let host = "530 503 0:30 /../../.. /host/a\\040b rw shared:1 - cgroup2 cgroup rw";
        let other = "21 1 0:20 / /proc rw - proc proc rw";
        let parsed = |line| Mount::parse(line).map(|m| (m.at.display().to_string(), m.above));
        assert_eq!(parsed(own), Some(("/sys/fs/cgroup".to_owned(), 0)));
        assert_eq!(parsed(host), Some(("/host/a b".to_owned(), 3)));
        assert_eq!(parsed(other), None);
    }
}
