//! What the kernel must offer at run time: bpffs and cgroup2.

use std::fs;
use std::process::Command;

use super::Finding;
use super::packages::is_root;
use crate::command::run;

const BPFFS: &str = "/sys/fs/bpf";

pub(super) fn findings() -> Vec<Finding> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    vec![
        Finding {
            what: "bpffs",
            state: mount_point(&mounts, "bpf", Some(BPFFS)).ok_or_else(|| {
                format!("as root: mount -t bpf bpf {BPFFS} (programs and maps are pinned there)")
            }),
        },
        Finding {
            what: "cgroup2",
            state: mount_point(&mounts, "cgroup2", None).ok_or_else(|| {
                "as root: mount -t cgroup2 none /sys/fs/cgroup/unified (the connect hooks attach there)".to_owned()
            }),
        },
    ]
}

/// Mounts bpffs where that is possible; [`findings`] tells where it was not.
pub(super) fn ensure_bpffs() {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    if mount_point(&mounts, "bpf", Some(BPFFS)).is_some() || !is_root() {
        return;
    }
    let mounted = run(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]));
    if let Err(error) = mounted {
        eprintln!("setup: {error:#}");
    }
}

/// The mount point of the first file system of `kind` (at `place`, if given).
fn mount_point(mounts: &str, kind: &str, place: Option<&str>) -> Option<String> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, fs_type) = (fields.next()?, fields.next()?);
        (fs_type == kind && place.is_none_or(|p| p == point)).then(|| point.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "proc /proc proc rw 0 0\n\
        cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
        bpf /run/other bpf rw 0 0\n";

    #[test]
    fn cgroup2_is_found_wherever_it_is_mounted() {
        let found = mount_point(MOUNTS, "cgroup2", None);
        assert_eq!(found.as_deref(), Some("/sys/fs/cgroup/unified"));
    }

    #[test]
    fn a_bpffs_elsewhere_does_not_count() {
        assert_eq!(mount_point(MOUNTS, "bpf", Some("/sys/fs/bpf")), None);
    }
}
