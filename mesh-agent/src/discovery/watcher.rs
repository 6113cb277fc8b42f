//! Told by the kernel of what may have changed the directory.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};

/// Names that are told by themselves; where there are more, all is looked at.
const MAX_NAMES: usize = 64;

/// What of the directory may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Everything,
    /// What has one of these names, and what is a link to elsewhere.
    Names(BTreeSet<OsString>),
}

impl Default for Told {
    fn default() -> Self {
        Self::Names(BTreeSet::new())
    }
}

impl Told {
    pub(super) fn merge(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Names(all), Self::Names(names)) if all.len() < MAX_NAMES => all.extend(names),
            (_, Self::Names(_) | Self::Everything) => *self = Self::Everything,
        }
    }

    /// Only what is in the directory itself has a name there. A ConfigMap's links lead
    /// through one whose name begins with two dots.
    fn of(event: &Event, dir: &Path) -> Self {
        let name = |path: &std::path::PathBuf| {
            let name = path.file_name().filter(|_| path.parent() == Some(dir))?;
            let is_whole = name.as_encoded_bytes().starts_with(b"..");
            (!is_whole).then(|| name.to_owned())
        };
        let names: Option<BTreeSet<OsString>> = event.paths.iter().map(name).collect();
        match names.filter(|names| !event.need_rescan() && !names.is_empty()) {
            Some(names) => Self::Names(names),
            None => Self::Everything,
        }
    }
}

/// Calls `changed` until it is dropped.
pub(super) fn start(
    dir: &Path,
    changed: impl Fn(Told) + Send + 'static,
) -> notify::Result<RecommendedWatcher> {
    let watched = dir.to_owned();
    let mut watcher =
        notify::recommended_watcher(move |event: notify::Result<Event>| match event {
            Ok(event) if !may_change(event.kind) && !event.need_rescan() => {}
            Ok(event) => changed(Told::of(&event, &watched)),
            // It may stand for any event.
            Err(_) => changed(Told::Everything),
        })?;
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Reading is told, too: taken for a change, each look at the directory would
/// be the reason for the next one.
fn may_change(kind: EventKind) -> bool {
    !matches!(
        kind,
        EventKind::Access(
            AccessKind::Open(_) | AccessKind::Read | AccessKind::Close(AccessMode::Read)
        )
    )
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_told_of_one_name_is_about_that_file_and_all_else_about_all() {
        let dir = Path::new("/etc/mesh");
        let told = |paths: &[&str]| {
            let event = Event::new(EventKind::Any);
            let add = |event: Event, path: &&str| event.add_path(path.into());
            Told::of(&paths.iter().fold(event, add), dir)
        };
        let names = |all: &[&str]| Told::Names(all.iter().map(OsString::from).collect());
        assert_eq!(
            told(&["/etc/mesh/new", "/etc/mesh/a.yaml"]),
            names(&["a.yaml", "new"])
        );
        let of_all: [&[&str]; 4] = [
            &[],
            &["/etc/mesh"],
            &["/etc/mesh/..data", "/etc/mesh/..data_tmp"],
            &["/etc/mesh/a.yaml", "/etc/mesh/b/c.yaml"],
        ];
        for paths in of_all {
            assert_eq!(told(paths), Told::Everything, "{paths:?}");
        }
        let mut all = names(&["a"]);
        all.merge(names(&["b"]));
        assert_eq!(all, names(&["a", "b"]));
        all.merge(Told::Everything);
        all.merge(names(&["c"]));
        assert_eq!(all, Told::Everything);
        let mut many = Told::default();
        (0..100).for_each(|n| many.merge(names(&[&n.to_string()])));
        assert_eq!(many, Told::Everything);
    }

    #[test]
    fn reading_the_directory_is_no_change_of_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("a.yaml");
        std::fs::write(&file, "a").expect("write");
        let (told, events) = mpsc::channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // Nobody listens any more when the test is over.
            let _over = told.send(event.expect("an event").kind);
        })
        .expect("a watcher");
        watcher
            .watch(dir.path(), RecursiveMode::NonRecursive)
            .expect("watch");
        std::fs::read(&file).expect("read");
        std::fs::read_dir(dir.path()).expect("list").count();
        std::fs::write(&file, "b").expect("write");
        std::fs::remove_file(&file).expect("remove");
        let mut changes = Vec::new();
        loop {
            let kind = events.recv_timeout(Duration::from_secs(10)).expect("told");
            changes.extend(may_change(kind).then_some(kind));
            if kind.is_remove() {
                break;
            }
        }
        let first = changes.first().expect("a change");
        assert!(first.is_modify(), "of reading alone: {changes:?}");
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert!(changes.contains(&closed), "{changes:?}");
    }
}
