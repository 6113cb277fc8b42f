//! The kernel's word that a pod's cgroup has been made: sooner than the next look, and
//! before the kubelet starts anything in it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// Told of groups that are made right below those that are followed.
pub(crate) struct Appearing {
    watcher: Option<RecommendedWatcher>,
    followed: BTreeSet<PathBuf>,
    told: mpsc::Receiver<()>,
}

impl Appearing {
    /// Where the kernel gives no watch (`fs.inotify.max_user_instances` may be used up)
    /// nothing is ever told, and pods are found by the looks alone.
    pub(crate) fn start() -> Self {
        let (tell, told) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.map_or(true, |event| is_new(&event)) {
                // Full means that a look is due already.
                let _due = tell.try_send(());
            }
        });
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!(%error, "cannot be told of new pods' cgroups: they are found by a look each half second");
        });
        Self {
            watcher: watcher.ok(),
            followed: BTreeSet::new(),
            told,
        }
    }

    /// From now on these, and no others. To be said again with each look: a group that went
    /// took its watch along, and its end may be heard of when one of the same path is there.
    pub(crate) fn follow(&mut self, groups: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let gone = self
            .followed
            .extract_if(.., |group| !groups.contains(group));
        for group in gone {
            // The kernel ends the watch of what is not there.
            let _gone = watcher.unwatch(&group);
        }
        for group in groups {
            match watcher.watch(group, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.followed.insert(group.clone())),
                // It may go at any time.
                Err(error) => {
                    tracing::debug!(%error, group = %group.display(), "cannot be told of its pods");
                }
            }
        }
    }

    /// `None` where nothing is ever told. Can be dropped at any time.
    pub(crate) async fn next(&mut self) -> Option<()> {
        self.told.recv().await
    }
}

/// Settings of a group are written all the time: they are no news.
fn is_new(event: &Event) -> bool {
    event.need_rescan() || matches!(event.kind, EventKind::Create(_))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn is_told(appearing: &mut Appearing) -> bool {
        let told = timeout(Duration::from_secs(10), appearing.next()).await;
        told == Ok(Some(()))
    }

    #[tokio::test]
    async fn a_group_that_is_made_is_told_and_a_setting_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let pods = dir.path().join("kubepods");
        fs::create_dir(&pods).expect("made");
        let mut appearing = Appearing::start();
        appearing.follow(std::slice::from_ref(&pods));
        fs::create_dir(pods.join("pod1")).expect("made");
        assert!(is_told(&mut appearing).await);
        fs::write(pods.join("pod1/cpu.weight"), "1").expect("written");
        fs::remove_dir_all(pods.join("pod1")).expect("removed");
        // Made anew under its path, as by a kubelet that starts again.
        fs::remove_dir(&pods).expect("removed");
        fs::create_dir(&pods).expect("made");
        let mut told = Err(());
        for n in 0..100 {
            appearing.follow(std::slice::from_ref(&pods));
            fs::create_dir(pods.join(format!("pod{n}"))).expect("made");
            told = timeout(Duration::from_millis(100), appearing.next())
                .await
                .map_err(drop);
            if told.is_ok() {
                break;
            }
        }
        assert_eq!(told, Ok(Some(())));
    }

    #[test]
    fn what_is_written_to_a_group_is_no_new_one() {
        use notify::event::{AccessKind, CreateKind, ModifyKind, RemoveKind};
        assert!(is_new(&Event::new(EventKind::Create(CreateKind::Folder))));
        for kind in [
            EventKind::Modify(ModifyKind::Any),
            EventKind::Remove(RemoveKind::Folder),
            EventKind::Access(AccessKind::Any),
        ] {
            assert!(!is_new(&Event::new(kind)), "{kind:?}");
        }
    }
}
