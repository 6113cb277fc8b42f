//! By what a file is known not to have changed since it was read.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A file that was written this shortly before it was looked at may be written
/// again without another time of it: file systems count in ticks.
const TICK: Duration = Duration::from_secs(2);

/// What any write to it, and any other file in its place, changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// That of the inode, which nobody can set back.
    changed: (i64, i64),
}

/// Which file it is, whatever is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inode(u64, u64);

pub(super) fn inode(path: &Path) -> Option<Inode> {
    let meta = std::fs::metadata(path).ok()?;
    Some(Inode(meta.dev(), meta.ino()))
}

/// `None` where it does not say so for sure: it must be read.
pub(super) fn of(path: &Path, now: SystemTime) -> Option<Stat> {
    let meta = std::fs::metadata(path).ok().filter(|meta| meta.is_file())?;
    let stat = Stat {
        device: meta.dev(),
        inode: meta.ino(),
        size: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    };
    let settled = now
        .checked_sub(TICK)?
        .duration_since(SystemTime::UNIX_EPOCH);
    let settled = i64::try_from(settled.ok()?.as_secs()).ok()?;
    let is_settled = stat.modified.0 < settled && stat.changed.0 < settled;
    is_settled.then_some(stat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_stat_only_when_its_last_write_is_some_time_ago() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.yaml");
        std::fs::write(&path, "a: 1").expect("write");
        let now = SystemTime::now();
        let later = now + Duration::from_secs(10);
        assert_eq!(of(&path, now), None, "it may be written in the same tick");
        let first = of(&path, later).expect("settled");
        assert_eq!(of(&path, later), Some(first));
        // As long, and as old, in its place: another file all the same.
        let other = dir.path().join("b");
        std::fs::write(&other, "a: 2").expect("write");
        let time = std::fs::metadata(&path)
            .expect("it")
            .modified()
            .expect("its time");
        let file = std::fs::File::options()
            .write(true)
            .open(&other)
            .expect("open");
        file.set_modified(time).expect("set");
        std::fs::rename(&other, &path).expect("rename");
        assert_ne!(of(&path, later), Some(first));
        assert_eq!(of(&dir.path().join("c"), later), None);
        assert_eq!(of(dir.path(), later), None, "no file");
    }
}
