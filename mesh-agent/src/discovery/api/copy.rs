//! What is known, kept on disk by a thread of its own.
//!
//! The disk never holds up who follows the API server: what it does not take is
//! left out, and the kind is listed anew when it takes it again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, sleep_until, timeout};

use super::file::{self, Of, Unusable, Whole, Writer};
use super::status::Watched;
use crate::kube::{Event, Head, Item, Resource};
use crate::sys::heap;

/// What waits to be written.
const QUEUE: usize = 1_024;
/// How long a full queue is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// A file is written at most as often as comes to this rate, in bytes a second.
const RATE: u64 = 256 << 10;
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(600);
/// Where nothing changes for so long, what changed before is written sooner than that, and
/// waits in memory no longer:
const QUIET: Duration = Duration::from_secs(3);
/// as much ahead of the rate as comes to this time.
const AHEAD: Duration = Duration::from_secs(600);
/// Of what changed, and is not written yet: this part of the file, within bounds. So a
/// byte that changes is written as one of eight at most, and memory is little.
const CHANGES: u64 = 8;
const MIN_CHANGES: u64 = 1 << 20;
const MAX_CHANGES: u64 = 8 << 20;
/// How often it is noted that nothing changed.
const TOUCH: Duration = Duration::from_secs(30);
/// How long the end waits for the disk; less than who ends the agent does.
const LAST: Duration = Duration::from_millis(1_500);
/// How often what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// What becomes of a kind's copy.
pub(super) enum Told {
    /// A list begins.
    Begin,
    Listed(String, Vec<u8>),
    /// What was listed is all, as of a version.
    End(String),
    Abandoned,
    /// `None`: it is gone.
    Changed(String, Option<Vec<u8>>),
    /// Nothing else has changed up to this version.
    Version(String),
}

impl Told {
    /// What an event is to the copy.
    pub(super) fn of(resource: &Resource, event: Event) -> Vec<Self> {
        let path = |head: &Head| resource.path(head.namespace.as_deref(), &head.name);
        match event {
            Event::Begin => vec![Self::Begin],
            Event::Listed(item) => vec![Self::Listed(path(&item.head), item.json)],
            Event::End(version) => vec![Self::End(version)],
            Event::Abandoned => vec![Self::Abandoned],
            Event::Changed(item) => {
                let changed = Self::Changed(path(&item.head), Some(item.json));
                vec![changed, Self::Version(item.head.version)]
            }
            Event::Deleted(head) => {
                let gone = Self::Changed(path(&head), None);
                vec![gone, Self::Version(head.version)]
            }
            Event::Bookmark(version) => vec![Self::Version(version)],
            Event::Absent => vec![Self::Begin, Self::End(String::new())],
        }
    }
}

/// The end of who follows.
pub(super) struct Copy {
    queue: mpsc::Sender<(usize, Told)>,
    watched: Arc<Watched>,
    /// Kinds of which something was left out.
    lost: Vec<bool>,
    files: Vec<Of>,
    thread: Option<JoinHandle<()>>,
}

/// What the files say at a start.
pub(super) type Found = Result<Disk, (String, Unusable)>;

pub(super) struct Disk {
    /// Of each kind.
    pub(super) wholes: Vec<Whole>,
    /// UID of the namespace kube-system: no other cluster has it.
    pub(super) system: Option<String>,
}

/// Of which each cluster has its own.
pub(super) const SYSTEM: &str = "kube-system";

impl Copy {
    /// Looks at what there is, and then takes what is told.
    pub(super) fn start(
        dir: &Path,
        resources: &[Resource],
        watched: &Arc<Watched>,
    ) -> (Self, oneshot::Receiver<Found>) {
        let file = |resource: &Resource| {
            let group = if resource.group.is_empty() {
                "core"
            } else {
                resource.group
            };
            Of {
                path: dir.join(format!("{}.{group}", resource.plural)),
                cluster: watched.cluster().clone(),
            }
        };
        let files: Vec<Of> = resources.iter().map(file).collect();
        let kinds = files.iter().cloned().zip(resources);
        let (queue, told) = mpsc::channel(QUEUE);
        let (found, look) = oneshot::channel();
        let keeper = Keeper {
            kinds: kinds
                .map(|(of, resource)| Kind::new(of, resource))
                .collect(),
            watched: watched.clone(),
        };
        let dir = dir.to_owned();
        let spawned = std::thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || keeper.keep(&dir, told, found));
        if let Err(error) = &spawned {
            watched.copy_failed(format!(
                "the thread that writes it cannot be started: {error}"
            ));
        }
        let copy = Self {
            queue,
            watched: watched.clone(),
            lost: vec![false; files.len()],
            files,
            thread: spawned.ok(),
        };
        (copy, look)
    }

    pub(super) async fn tell(&mut self, kind: usize, told: Told) {
        let begins = matches!(told, Told::Begin);
        let has_room = self.queue.capacity() > QUEUE / 2;
        if self.lost[kind] && !(begins && has_room) {
            return;
        }
        let was_lost = self.lost.contains(&true);
        self.lost[kind] = false;
        let told = match self.queue.try_send((kind, told)) {
            Ok(()) | Err(TrySendError::Closed(_)) => return,
            Err(TrySendError::Full(told)) => told,
        };
        // Waited for once, and not for each kind again.
        if was_lost || timeout(PATIENCE, self.queue.send(told)).await.is_err() {
            self.lost[kind] = true;
            self.watched
                .copy_failed("the disk does not keep up".to_owned());
        }
    }

    /// It is to be listed for it, as what could not be told is.
    pub(super) fn leave_out(&mut self, kind: usize) {
        self.lost[kind] = true;
    }

    /// Waits, for a while, until what was told is on disk.
    pub(super) async fn end(self) {
        drop(self.queue);
        let until = Instant::now() + LAST;
        let runs = |thread: &JoinHandle<()>| !thread.is_finished() && Instant::now() < until;
        while self.thread.as_ref().is_some_and(runs) {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Kinds that are to be listed for it.
    pub(super) fn wants(&self) -> impl Iterator<Item = usize> {
        let has_room = self.queue.capacity() > QUEUE / 2;
        let lost = self.lost.iter().enumerate();
        lost.filter(move |(_, lost)| **lost && has_room)
            .map(|(kind, _)| kind)
    }

    /// Tells what is on disk as lists of its own.
    pub(super) fn load(&self, resources: &[Resource]) -> mpsc::Receiver<(usize, Event)> {
        let (events, load) = mpsc::channel(64);
        let (files, resources) = (self.files.clone(), resources.to_vec());
        let watched = self.watched.clone();
        let thread = std::thread::Builder::new().name("state-load".to_owned());
        let spawned = thread.spawn(move || {
            for (kind, (of, resource)) in files.iter().zip(&resources).enumerate() {
                // Nobody waits for it any more.
                let Ok(()) = events.blocking_send((kind, Event::Begin)) else {
                    return;
                };
                let read = file::read(of, |_, json| {
                    let item = Item::read(resource, &json);
                    let sent = events.blocking_send((kind, Event::Listed(item)));
                    sent.map_err(|_| std::io::ErrorKind::BrokenPipe.into())
                });
                let event = match read {
                    Ok(whole) => Event::End(whole.version),
                    Err(Unusable::None) if resource.dispensable => Event::Absent,
                    Err(error) => {
                        watched.copy_failed(format!("{} {error}", of.path.display()));
                        Event::Abandoned
                    }
                };
                let Ok(()) = events.blocking_send((kind, event)) else {
                    return;
                };
            }
        });
        if let Err(error) = spawned {
            self.watched.copy_failed(format!(
                "the thread that reads it cannot be started: {error}"
            ));
        }
        load
    }
}

/// The end of the disk.
struct Keeper {
    kinds: Vec<Kind>,
    watched: Arc<Watched>,
}

/// The file of a kind, and what is to become of it.
struct Kind {
    of: Of,
    /// It restricts nothing, and an agent that did not know it has written none.
    is_dispensable: bool,
    /// Of a list that has not come to its end.
    list: Option<Writer>,
    changes: BTreeMap<String, Option<Vec<u8>>>,
    bytes: usize,
    version: String,
    size: u64,
    written: Instant,
    /// When the last of `changes` came.
    changed: Instant,
    /// When what was written is made up for, at the rate that is allowed.
    owed: Instant,
    touched: Instant,
    /// The file and the changes together are what is known.
    is_current: bool,
    /// It could not be written.
    failed: Option<Instant>,
}

impl Keeper {
    fn keep(
        mut self,
        dir: &Path,
        told: mpsc::Receiver<(usize, Told)>,
        found: oneshot::Sender<Found>,
    ) {
        let look = self.look(dir);
        // Nobody waits for it any more.
        let _late = found.send(look);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        match runtime {
            Ok(runtime) => runtime.block_on(self.run(told)),
            Err(error) => self.watched.copy_failed(error.to_string()),
        }
    }

    /// All files, or why not. Of what restricts nothing one that is no good is as none: the
    /// others tell all that has to be known.
    fn look(&self, dir: &Path) -> Found {
        file::directory(dir).map_err(|error| (dir.display().to_string(), error))?;
        let mut system = None;
        let look = |kind: &Kind| {
            let read = file::read(&kind.of, |path, json| {
                if path == format!("/api/v1/namespaces/{SYSTEM}") {
                    system = uid(&json);
                }
                Ok(())
            });
            let path = kind.of.path.display();
            match read {
                Err(Unusable::None) if kind.is_dispensable => Ok(Whole::none()),
                Err(error) if kind.is_dispensable => {
                    tracing::warn!(
                        "a part of the copy of the configuration on disk is not used: {path} {error}"
                    );
                    self.watched.copy_failed(format!("{path} {error}"));
                    Ok(Whole::none())
                }
                read => read.map_err(|error| (path.to_string(), error)),
            }
        };
        let wholes: Result<Vec<Whole>, _> = self.kinds.iter().map(look).collect();
        Ok(Disk {
            wholes: wholes?,
            system,
        })
    }

    async fn run(&mut self, mut told: mpsc::Receiver<(usize, Told)>) {
        loop {
            let due = self.kinds.iter().filter_map(Kind::due).min();
            let due = due.unwrap_or_else(|| Instant::now() + TOUCH);
            tokio::select! {
                next = told.recv() => match next {
                    Some((kind, next)) => self.take(kind, next),
                    // The end: what is small first, for the end may be short.
                    None => break,
                },
                () = sleep_until(due.into()) => self.write(false),
            }
        }
        self.kinds.sort_by_key(|kind| kind.size);
        self.write(true);
    }

    fn take(&mut self, kind: usize, told: Told) {
        let Some(kind) = self.kinds.get_mut(kind) else {
            return;
        };
        if let Err(error) = kind.take(told) {
            let message = format!("{}: {error}", kind.of.path.display());
            self.watched.copy_failed(message);
        }
        self.note();
    }

    /// What is due, or all of it.
    fn write(&mut self, all: bool) {
        let now = Instant::now();
        for kind in &mut self.kinds {
            if let Err(error) = kind.write(now, all) {
                let message = format!("{}: {error}", kind.of.path.display());
                self.watched.copy_failed(message);
            }
        }
        self.note();
    }

    fn note(&mut self) {
        if self.kinds.iter().all(|kind| kind.is_current) {
            self.watched.copy_works();
        }
        for (at, kind) in self.kinds.iter_mut().enumerate() {
            let is_due = |failed: &mut Instant| failed.elapsed() >= RETRY;
            if kind.list.is_none() && kind.failed.take_if(is_due).is_some() {
                kind.failed = Some(Instant::now());
                self.watched.list_again(at);
            }
        }
    }
}

impl Kind {
    fn new(of: Of, resource: &Resource) -> Self {
        Self {
            of,
            is_dispensable: resource.dispensable,
            list: None,
            changes: BTreeMap::new(),
            bytes: 0,
            version: String::new(),
            size: 0,
            written: Instant::now(),
            changed: Instant::now(),
            owed: Instant::now(),
            touched: Instant::now(),
            is_current: false,
            failed: None,
        }
    }

    fn take(&mut self, told: Told) -> Result<(), Unusable> {
        let taken = self.take_in(told);
        if taken.is_err() {
            self.fail();
        }
        taken
    }

    fn take_in(&mut self, told: Told) -> Result<(), Unusable> {
        match told {
            Told::Begin => self.list = Some(Writer::create(&self.of)?),
            Told::Listed(path, json) => {
                if let Some(list) = &mut self.list {
                    list.object(&path, &json)?;
                }
            }
            Told::End(version) => {
                if let Some(list) = self.list.take() {
                    self.size = list.finish(&version)?;
                    self.is_written(version);
                    self.is_current = true;
                    self.failed = None;
                    if self.size >= MIN_CHANGES {
                        heap::give_back();
                    }
                }
            }
            Told::Abandoned => self.list = None,
            Told::Changed(path, json) if self.is_current => {
                self.bytes += path.len() + json.as_ref().map_or(0, Vec::len);
                self.changed = Instant::now();
                let (path, json) = copied(&path, json.as_deref());
                self.changes.insert(path, json);
                if self.bytes > room(self.size) {
                    self.merge()?;
                }
            }
            Told::Version(version) => self.version = version,
            Told::Changed(..) => {}
        }
        Ok(())
    }

    /// What it lacks is not known any more.
    fn fail(&mut self) {
        self.list = None;
        self.changes = BTreeMap::new();
        self.bytes = 0;
        self.is_current = false;
        self.failed = Some(Instant::now());
    }

    fn is_written(&mut self, version: String) {
        self.version = version;
        self.changes = BTreeMap::new();
        self.bytes = 0;
        self.written = Instant::now();
        self.touched = self.written;
    }

    /// When it is to be written next.
    fn due(&self) -> Option<Instant> {
        if self.list.is_some() {
            return None;
        }
        let next = || (self.written + self.pause()).min(self.when_quiet());
        let changed = (!self.changes.is_empty()).then(next);
        // With changes that wait it is not as new as now.
        let is_newest = self.is_current && self.changes.is_empty();
        let touch = is_newest.then(|| self.touched + TOUCH);
        let retry = self.failed.map(|failed| failed + RETRY);
        [changed, touch, retry].into_iter().flatten().min()
    }

    /// Between two writes, at the rate that is allowed.
    fn pause(&self) -> Duration {
        Duration::from_secs(self.size / RATE).clamp(SOONEST, LATEST)
    }

    /// When what changed may be written sooner, if nothing more does.
    fn when_quiet(&self) -> Instant {
        let quiet = self.changed + QUIET;
        let owed = self.owed.saturating_duration_since(quiet);
        quiet + owed.saturating_sub(AHEAD)
    }

    fn write(&mut self, now: Instant, all: bool) -> Result<(), Unusable> {
        if all {
            // It will not come to its end.
            self.list = None;
        }
        if !self.is_current || !(all || self.due().is_some_and(|due| due <= now)) {
            return Ok(());
        }
        let written = match self.changes.is_empty() {
            true => file::touch(&self.of).map_err(Unusable::from),
            false => {
                self.owed = self.owed.max(now) + self.pause();
                self.merge()
            }
        };
        self.touched = Instant::now();
        if written.is_err() {
            self.fail();
        }
        written
    }

    fn merge(&mut self) -> Result<(), Unusable> {
        let changes = std::mem::take(&mut self.changes);
        let is_much = self.bytes as u64 >= MIN_CHANGES;
        self.size = file::merge(&self.of, changes, &self.version)?;
        self.is_written(self.version.clone());
        if is_much {
            heap::give_back();
        }
        Ok(())
    }
}

/// What waits is in the memory of the thread that keeps it, apart from the objects that are
/// held for long and with nothing to spare: when it is written it leaves no holes there.
fn copied(path: &str, json: Option<&[u8]>) -> (String, Option<Vec<u8>>) {
    (path.to_owned(), json.map(<[u8]>::to_vec))
}

/// For changes of a file of that size.
fn room(size: u64) -> usize {
    let room = (size / CHANGES).clamp(MIN_CHANGES, MAX_CHANGES);
    usize::try_from(room).unwrap_or(usize::MAX)
}

fn uid(json: &[u8]) -> Option<String> {
    let object: serde_json::Value = serde_json::from_slice(json).ok()?;
    Some(object["metadata"]["uid"].as_str()?.to_owned())
}

/// How old what was found is: as old as the oldest of it.
pub(super) fn as_of(found: &[Whole]) -> Option<SystemTime> {
    found.iter().map(|whole| whole.as_of).min()
}

#[cfg(test)]
mod tests;
