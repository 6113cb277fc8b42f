//! Leaves on the node, for the time when the agent is away, what is certainly not in
//! the mesh: the plugin lets that start.
//!
//! It is written in the background: a disk that does not answer holds up this file, and
//! nothing else of the agent.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use mesh_cni::Outside;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::model::Snapshot;

/// Most names that are left.
const MAX_NAMESPACES: usize = 100_000;
/// After this long it is told that a write has not ended.
const STALLED: Duration = Duration::from_secs(10);
/// What could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// How it comes to the disk.
trait Leave: Fn(&Path, &Outside, &Weak<()>) -> io::Result<()> + Clone + Send + Sync + 'static {}

impl<L: Fn(&Path, &Outside, &Weak<()>) -> io::Result<()> + Clone + Send + Sync + 'static> Leave
    for L
{
}

/// What the file is to say. Nobody waits for the disk here.
#[derive(Debug)]
pub(crate) struct Known(watch::Sender<Option<Arc<Outside>>>);

/// Writes it: one at a time, and of all that was said meanwhile only the newest.
#[derive(Debug)]
pub(crate) struct Writer {
    path: Arc<Path>,
    wanted: watch::Receiver<Option<Arc<Outside>>>,
    /// A write that nobody waits for any more changes nothing.
    is_wanted: Arc<()>,
}

impl Known {
    pub(crate) fn new(path: &Path) -> (Self, Writer) {
        let (sender, wanted) = watch::channel(None);
        let writer = Writer {
            path: path.into(),
            wanted,
            is_wanted: Arc::default(),
        };
        (Self(sender), writer)
    }

    /// What the configuration says now is to be on the disk, where that has changed.
    pub(crate) fn keep(&self, snapshot: &Snapshot, node: &str) {
        let outside = Some(Arc::new(outside(snapshot, node)));
        self.0.send_if_modified(|said| {
            let is_news = *said != outside;
            if is_news {
                *said = outside;
            }
            is_news
        });
    }
}

impl Writer {
    /// Until nobody can say anything any more and what was said last is written, or has
    /// failed. `told`: why it is not on the disk, and `None` when it is.
    pub(crate) async fn run(self, told: impl Fn(Option<String>)) {
        self.run_by(leave, told).await;
    }

    async fn run_by(mut self, leave: impl Leave, told: impl Fn(Option<String>)) {
        let mut has_failed = false;
        loop {
            // What has failed is not waited with for news.
            let news = self.wanted.changed();
            let news = match has_failed {
                false => Ok(news.await),
                true => tokio::time::timeout(AGAIN, news).await,
            };
            if let Ok(Err(_)) = news {
                return;
            }
            let Some(outside) = self.wanted.borrow_and_update().clone() else {
                continue;
            };
            let failed = self.write(outside, &leave, &told).await.err();
            has_failed = failed.is_some();
            told(failed.map(|why| format!("{}: {why}", self.path.display())));
        }
    }

    async fn write(
        &self,
        outside: Arc<Outside>,
        leave: &impl Leave,
        told: &impl Fn(Option<String>),
    ) -> Result<(), String> {
        let (path, is_wanted) = (self.path.clone(), Arc::downgrade(&self.is_wanted));
        let leave = leave.clone();
        let mut writing = spawn_blocking(move || leave(&path, &outside, &is_wanted));
        let ended = match tokio::time::timeout(STALLED, &mut writing).await {
            Ok(ended) => ended,
            Err(_) => {
                let seconds = STALLED.as_secs();
                told(Some(format!(
                    "{}: the disk has not taken it for {seconds} s",
                    self.path.display()
                )));
                writing.await
            }
        };
        let written = ended.unwrap_or_else(|error| Err(io::Error::other(error)));
        written.map_err(|error| error.to_string())
    }
}

/// What stands there may let start what is enrolled by now: where the new words cannot be
/// written, the old ones go.
fn leave(path: &Path, outside: &Outside, is_wanted: &Weak<()>) -> io::Result<()> {
    let written = write(path, outside, is_wanted);
    if written.is_err() && is_wanted.strong_count() > 0 {
        let _tried = fs::write(path, "");
    }
    written
}

/// A namespace that enrols nobody and has nobody who is enrolled; of others the pods
/// of this node that are not.
fn outside(snapshot: &Snapshot, node: &str) -> Outside {
    let may_be_enrolled: BTreeSet<&str> = snapshot
        .workloads
        .values()
        .filter(|workload| workload.is_enrolled())
        .map(|workload| workload.key.namespace.as_str())
        .chain(
            snapshot
                .unreadable_pods
                .iter()
                .map(|key| key.namespace.as_str()),
        )
        .collect();
    let namespaces = snapshot.open_namespaces.iter();
    let namespaces: BTreeSet<String> = namespaces
        .filter(|name| !may_be_enrolled.contains(name.as_str()))
        .take(MAX_NAMESPACES)
        .map(ToString::to_string)
        .collect();
    let pods = snapshot
        .workloads
        .values()
        .filter(|workload| workload.node == node && !workload.is_enrolled())
        .filter(|workload| !namespaces.contains(workload.key.namespace.as_str()))
        .filter(|workload| !snapshot.unreadable_pods.contains(&workload.key))
        .map(|workload| workload.uid.to_string());
    let pods = pods.collect();
    Outside::new(namespaces, pods)
}

/// Whole, or not at all; it must be there after a reboot.
fn write(path: &Path, outside: &Outside, is_wanted: &Weak<()>) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    super::binary::gone(Path::new(&unfinished))?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&unfinished)?;
    file.write_all(&serde_json::to_vec(outside)?)?;
    file.sync_all()?;
    // Meanwhile another agent may have written what holds by now.
    if is_wanted.strong_count() == 0 {
        return Err(io::ErrorKind::Interrupted.into());
    }
    fs::rename(&unfinished, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::model::{Enrolment, Workload, WorkloadKey};

    fn pod(namespace: &str, name: &str, is_enrolled: bool) -> Arc<Workload> {
        let mut pod = Workload::for_test(namespace, name);
        if !is_enrolled {
            pod.enrolment = Enrolment::No(crate::model::Outside::NotAsked);
        }
        Arc::new(pod)
    }

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::default();
        let open = ["kube-system", "default", "mixed", "odd"];
        snapshot.open_namespaces = Arc::new(open.into_iter().map(Into::into).collect());
        for pod in [
            pod("kube-system", "dns", false),
            pod("shop", "web", true),
            pod("shop", "out", false),
            pod("mixed", "in", true),
            pod("mixed", "other", false),
            pod("odd", "unread", false),
        ] {
            snapshot.workloads.insert(pod);
        }
        let unread = WorkloadKey::new("odd", "unread");
        snapshot.unreadable_pods = Arc::new([unread].into_iter().collect());
        snapshot
    }

    #[test]
    fn only_what_is_certainly_not_in_the_mesh_is_left_on_the_node() {
        let said = outside(&snapshot(), "n1");
        let names: Vec<&str> = said.namespaces.iter().map(String::as_str).collect();
        assert_eq!(names, ["default", "kube-system"]);
        let pods: Vec<&str> = said.pods.iter().map(String::as_str).collect();
        assert_eq!(pods, ["other", "out"]);
        assert!(outside(&snapshot(), "n2").pods.is_empty());
        assert_eq!(
            outside(&Snapshot::default(), "n1"),
            Outside::new(BTreeSet::new(), BTreeSet::new())
        );
    }

    /// What a writer told.
    struct Told(mpsc::Receiver<Option<String>>);

    impl Told {
        async fn next(&mut self) -> Option<String> {
            self.0.recv().await.expect("it runs")
        }
    }

    fn start(path: &Path, leave: impl Leave) -> (Known, Told, JoinHandle<()>) {
        let (known, writer) = Known::new(path);
        let (tell, told) = mpsc::channel(16);
        let tell = move |why| tell.try_send(why).expect("it is read");
        (known, Told(told), tokio::spawn(writer.run_by(leave, tell)))
    }

    /// A disk that answers when the test has it answer.
    struct Disk {
        begun: mpsc::Receiver<Outside>,
        answer: std::sync::mpsc::Sender<io::Result<()>>,
    }

    impl Disk {
        fn new() -> (Self, impl Leave) {
            let (begin, begun) = mpsc::channel(1);
            let (answer, answers) = std::sync::mpsc::channel();
            let answers = Arc::new(parking_lot::Mutex::new(answers));
            let leave = move |_: &Path, outside: &Outside, _: &Weak<()>| {
                let _taken = begin.blocking_send(outside.clone());
                answers.lock().recv().expect("an answer")
            };
            (Self { begun, answer }, leave)
        }

        fn answers(&self, answer: io::Result<()>) {
            self.answer.send(answer).expect("it waits");
        }
    }

    fn full() -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }

    #[tokio::test]
    async fn what_is_left_is_whole_and_written_where_something_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state/outside.json");
        let (known, mut told, _task) = start(&path, leave);
        known.keep(&snapshot(), "n1");
        assert_eq!(told.next().await, None);
        let read = mesh_cni::read_outside(&path);
        assert_eq!(read, mesh_cni::Read::Known(outside(&snapshot(), "n1")));
        known.keep(&snapshot(), "n1");
        known.keep(&Snapshot::default(), "n1");
        assert_eq!(told.next().await, None);
        assert_eq!(
            mesh_cni::read_outside(&path),
            mesh_cni::Read::Known(outside(&Snapshot::default(), "n1"))
        );
        // A folder in its place: it says so, and lets nothing start by an old word.
        fs::remove_file(&path).expect("removed");
        fs::create_dir_all(path.join("x")).expect("made");
        known.keep(&snapshot(), "n1");
        assert!(told.next().await.is_some());
        assert!(matches!(
            mesh_cni::read_outside(&path),
            mesh_cni::Read::Unreadable(_)
        ));
    }

    #[tokio::test]
    async fn of_what_is_said_while_the_disk_does_not_answer_only_the_newest_is_written() {
        let (mut disk, leave) = Disk::new();
        let (known, mut told, task) = start(Path::new("/x"), leave);
        known.keep(&snapshot(), "n1");
        let first = disk.begun.recv().await;
        assert_eq!(first, Some(outside(&snapshot(), "n1")));
        known.keep(&snapshot(), "n2");
        known.keep(&Snapshot::default(), "n1");
        disk.answers(Ok(()));
        assert_eq!(told.next().await, None);
        let second = disk.begun.recv().await;
        assert_eq!(second, Some(outside(&Snapshot::default(), "n1")));
        // It is the last one, and the same again is no news.
        known.keep(&Snapshot::default(), "n1");
        drop(known);
        disk.answers(full());
        task.await.expect("it ends");
        assert!(told.next().await.is_some());
        assert_eq!(disk.begun.recv().await, None, "nothing else was written");
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_does_not_end_is_told_and_what_failed_is_tried_again() {
        let (mut disk, leave) = Disk::new();
        let (known, mut told, _task) = start(Path::new("/x"), leave);
        known.keep(&snapshot(), "n1");
        let first = disk.begun.recv().await.expect("begun");
        tokio::time::advance(STALLED).await;
        let why = told.next().await.expect("why");
        assert!(why.contains("/x: the disk has not taken it"), "{why}");
        disk.answers(full());
        assert!(told.next().await.is_some());
        assert_eq!(disk.begun.recv().await, Some(first), "the same again");
        disk.answers(Ok(()));
        assert_eq!(told.next().await, None);
    }

    #[test]
    fn a_write_that_nobody_waits_for_any_more_leaves_the_file_to_the_next_agent() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("outside.json");
        fs::write(&path, "another agent's").expect("written");
        let left = leave(&path, &outside(&snapshot(), "n1"), &Weak::new());
        assert!(left.is_err());
        assert_eq!(fs::read_to_string(&path).expect("read"), "another agent's");
    }
}
