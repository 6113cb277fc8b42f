//! Told by the kernel of what may have changed the directory.

use std::path::Path;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};

/// Calls `changed` until it is dropped.
pub(super) fn start(
    dir: &Path,
    changed: impl Fn() + Send + 'static,
) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error may stand for any event.
        if event.map_or(true, |event| may_change(event.kind)) {
            changed();
        }
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
