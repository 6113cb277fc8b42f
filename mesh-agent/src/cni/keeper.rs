//! Keeps the plugin in the node's chain while the agent runs.
//!
//! The programs that own the chain write it anew when they start, move it into place,
//! or take foreign entries out. What is missing is added again, at once at first and
//! then ever slower: with a program that takes it out each time nobody wins.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::chain::{self, Looked, May, Standing};
use super::metrics::Metrics;
use super::server;
use super::settings::Settings;

/// A program that writes a file is given this long to end it.
const SETTLE: Duration = Duration::from_millis(100);
/// A folder that was itself replaced is not told by its watch.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// By then a runtime has read what was written.
const READ_BY_THEN: Duration = Duration::from_secs(10);
/// Until the agent has heard itself where the plugin asks.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Writes within `SPAN` that are not slowed down, and the longest pause after that.
const FREE: usize = 3;
const SPAN: Duration = Duration::from_secs(600);
const LONGEST: Duration = Duration::from_secs(300);

/// How it stands, for whoever asks.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) standing: Standing,
    pub(crate) broken: Vec<String>,
    /// Why what is outside the mesh is not left on the node.
    pub(crate) unwritten: Option<String>,
    /// It was in the chain once, and the agent answered where the plugin asks. Who takes
    /// it out afterwards takes nothing of that back.
    pub(crate) was_whole: bool,
    /// Why the agent does not hear the plugin that is in the chain.
    pub(crate) unheard: Option<String>,
    /// Since when it is in this file's chain, unchanged.
    pub(crate) in_since: Option<Instant>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            standing: Standing::Unknown,
            broken: Vec::new(),
            unwritten: None,
            was_whole: false,
            unheard: None,
            in_since: None,
        }
    }
}

impl Report {
    /// Of pods that no runtime told of, by a time at which they were not there yet: those
    /// that the plugin was in the chain for, so that the runtime uses another one.
    pub(crate) fn passed_over<'p>(&self, untold: &'p [(String, Instant)]) -> Vec<&'p str> {
        let Some(since) = self.in_since else {
            return Vec::new();
        };
        let is_passed = |(_, not_before): &&(String, Instant)| *not_before >= since + READ_BY_THEN;
        let passed = untold.iter().filter(is_passed);
        passed.map(|(pod, _)| pod.as_str()).collect()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    settings: Arc<Settings>,
    metrics: Metrics,
    report: Arc<Mutex<Report>>,
}

impl Keeper {
    pub(crate) fn new(settings: Settings, metrics: Metrics) -> Self {
        Self {
            settings: Arc::new(settings),
            metrics,
            report: Arc::default(),
        }
    }

    pub(crate) fn report(&self) -> Report {
        self.report.lock().clone()
    }

    /// Its pods start without a word of the plugin's.
    pub(crate) fn is_own(&self, namespace: &str) -> bool {
        self.settings.entry.mesh_namespace == namespace
    }

    pub(crate) fn tell_unwritten(&self, why: Option<String>) {
        self.report.lock().unwritten = why;
    }

    /// Until cancelled. The entry stays when it ends: for the next agent.
    pub(crate) async fn keep(self, cancel: CancellationToken) {
        let changed = Arc::new(Notify::new());
        let mut watch = Watch::new(&changed);
        let mut pace = Pace::default();
        let mut is_first = true;
        loop {
            let pause = pace.pause(Instant::now());
            let may = match (is_first, pause.is_zero()) {
                (true, _) => May::Update,
                (false, true) => May::Add,
                (false, false) => May::Look,
            };
            let settings = self.settings.clone();
            // A disk may not answer: the agent does not wait for it.
            let look = tokio::task::spawn_blocking(move || chain::look(&settings, may));
            let looked = tokio::select! {
                () = cancel.cancelled() => return,
                looked = look => looked,
            };
            let Ok(looked) = looked else {
                tracing::error!("a look at the node's CNI configuration failed");
                return;
            };
            // What changed before the watch began is seen by one more look.
            let is_watched = watch.follow(&looked.folders);
            is_first &= !matches!(looked.standing, Standing::In(_));
            let is_in = matches!(looked.standing, Standing::In(_));
            self.take(looked, &mut pace);
            let is_unheard = is_in
                && tokio::select! {
                    () = cancel.cancelled() => return,
                    is_heard = self.hears_itself() => !is_heard,
                };
            if !is_watched {
                continue;
            }
            let again = match pace.pause(Instant::now()) {
                _ if is_unheard => ASK_AGAIN,
                Duration::ZERO => LOOK_AGAIN,
                pause => pause.min(LOOK_AGAIN),
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(again) => {}
                () = changed.notified() => tokio::time::sleep(SETTLE).await,
            }
        }
    }

    /// Does the agent answer where the plugin asks? Once is enough.
    async fn hears_itself(&self) -> bool {
        if self.report.lock().was_whole {
            return true;
        }
        let socket = &self.settings.entry.socket;
        let heard = server::hears_itself(socket).await;
        let why = heard.err();
        let mut report = self.report.lock();
        report.was_whole = why.is_none();
        report.unheard = why.map(|why| format!("{}: {why}", socket.display()));
        report.was_whole
    }

    fn take(&self, looked: Looked, pace: &mut Pace) {
        if looked.is_changed {
            pace.wrote(Instant::now());
            self.metrics.wrote();
        }
        let mut last = self.report.lock();
        if last.standing != looked.standing || looked.is_changed {
            let is_in = matches!(looked.standing, Standing::In(_));
            last.in_since = is_in.then(Instant::now);
            match &looked.standing {
                Standing::In(file) => {
                    tracing::info!(file = %file.display(), added = looked.is_changed, "the CNI plugin is in the node's chain");
                }
                // Told as a problem.
                other => {
                    tracing::debug!(standing = %other, "the CNI plugin is not in the node's chain");
                }
            }
        }
        last.standing = looked.standing;
        last.broken = looked.broken;
    }
}

/// One watcher for all folders: a node has few of them.
struct Watch {
    watcher: Option<RecommendedWatcher>,
    /// With the inode: another folder of the same name is not watched.
    watched: Vec<(PathBuf, u64)>,
}

impl Watch {
    fn new(changed: &Arc<Notify>) -> Self {
        let changed = changed.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading is told, too; an error may stand for any event.
            if event.map_or(true, |event| !event.kind.is_access() || is_written(&event)) {
                changed.notify_one();
            }
        });
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(%error, "changes of the node's CNI configuration are seen every 10 s only");
            })
            .ok();
        Self {
            watcher,
            watched: Vec::new(),
        }
    }

    /// False: something is watched from now on, and has to be looked at once more.
    fn follow(&mut self, folders: &[PathBuf]) -> bool {
        let Some(watcher) = &mut self.watcher else {
            return true;
        };
        let mut now: Vec<(PathBuf, u64)> = Vec::new();
        for folder in folders {
            let Some(inode) = inode(folder) else { continue };
            let one = (folder.clone(), inode);
            if !now.contains(&one) {
                now.push(one);
            }
        }
        for (gone, _) in self.watched.iter().filter(|one| !now.contains(one)) {
            // One that is not there any more is not watched any more.
            let _gone = watcher.unwatch(gone);
        }
        let mut is_new = false;
        for (folder, _) in now.iter().filter(|one| !self.watched.contains(one)) {
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => is_new = true,
                Err(error) => {
                    tracing::warn!(%error, folder = %folder.display(), "cannot be watched: it is looked at every 10 s");
                }
            }
        }
        self.watched = now;
        !is_new
    }
}

fn is_written(event: &notify::Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    matches!(
        event.kind,
        EventKind::Access(AccessKind::Close(AccessMode::Write))
    )
}

fn inode(folder: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(folder).ok().map(|meta| meta.ino())
}

/// When the chain was written to, lately.
#[derive(Debug, Default)]
struct Pace(VecDeque<Instant>);

impl Pace {
    fn wrote(&mut self, now: Instant) {
        self.0.push_back(now);
        if self.0.len() > 64 {
            self.0.pop_front();
        }
    }

    /// How long to wait before the next one.
    fn pause(&mut self, now: Instant) -> Duration {
        self.0
            .retain(|at| now.saturating_duration_since(*at) < SPAN);
        let (Some(last), Some(beyond)) = (self.0.back(), self.0.len().checked_sub(FREE)) else {
            return Duration::ZERO;
        };
        let beyond = u32::try_from(beyond).unwrap_or(u32::MAX);
        let pause = Duration::from_secs(1_u64.checked_shl(beyond).unwrap_or(u64::MAX));
        let pause = pause.min(LONGEST);
        pause.saturating_sub(now.saturating_duration_since(*last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_passed_over_where_it_came_when_the_chain_had_long_been_read() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut report = Report::default();
        let pods = [
            ("shop/old".to_owned(), at(9)),
            ("shop/new".to_owned(), at(10)),
        ];
        assert!(report.passed_over(&pods).is_empty(), "it is in no chain");
        report.in_since = Some(begun);
        assert_eq!(report.passed_over(&pods), ["shop/new"]);
    }

    #[test]
    fn who_is_taken_out_again_and_again_comes_back_ever_slower_and_never_gives_up() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..20 {
            let pause = pace.pause(now);
            pauses.push(pause.as_secs());
            now += pause;
            assert_eq!(pace.pause(now), Duration::ZERO);
            pace.wrote(now);
        }
        assert_eq!(pauses[..7], [0, 0, 0, 1, 2, 4, 8]);
        assert!(pauses.iter().all(|pause| *pause <= 300), "{pauses:?}");
        // A quiet time makes it quick again.
        assert_eq!(pace.pause(now + SPAN), Duration::ZERO);
    }
}
