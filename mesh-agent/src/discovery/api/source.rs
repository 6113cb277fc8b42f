//! Takes what the followers tell, and lets it be in force.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::classes;
use super::copy::{Copy, Disk, Found, SYSTEM, Told, as_of};
use super::file::Unusable;
use super::places::{Places, Staging, To};
use super::status::Watched;
use super::taken::Taken;
use crate::discovery::Problem;
use crate::discovery::intern::Interner;
use crate::discovery::origin::Place;
use crate::discovery::publish::Publisher;
use crate::discovery::store::Listed;
use crate::kube::{Access, Client, Event, Follower, Patience, Resource};
use crate::sys::heap;

/// Events that wait; each follower waits when there are more.
const QUEUE: usize = 64;
/// Between two snapshots, but for the first change after some quiet.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// How long the API server is waited for before what is on disk is used, and before what
/// restricts nothing is done without.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long what restricts nothing is waited for while it is read from disk: one that
/// hangs keeps no node without configuration.
const LOAD: Duration = Duration::from_secs(10);
/// How long the disk is waited for before the API server is asked.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is looked whether something is to be listed for the disk, or
/// nobody answers.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Events that are taken before it is looked whether something else is due.
const AT_ONCE: usize = 256;

type Events = mpsc::Receiver<(usize, Event)>;
type Look = oneshot::Receiver<Found>;

/// Who tells of a kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Api,
    Disk,
}

pub(super) struct ApiSource {
    publisher: Publisher,
    names: Interner,
    problems: BTreeMap<Place, Box<[Problem]>>,
    kinds: Vec<Kind>,
    watched: Arc<Watched>,
    copy: Copy,
    /// What the disk had at the start, until it is not needed any more.
    found: Option<Disk>,
    /// UID of the namespace kube-system, of the cluster that the disk is of and of the
    /// one that is there.
    system: Option<String>,
    told_system: Option<String>,
    /// What is on disk turned out to be another cluster's.
    is_anothers: bool,
    /// Until it has answered.
    look: Option<Look>,
    /// What is being read from disk.
    load: Option<Load>,
    /// What restricts nothing is waited for no longer.
    does_without: bool,
    is_dirty: bool,
    published: Option<Instant>,
    taken: Taken,
}

/// What the disk tells.
struct Load {
    events: Events,
    since: Instant,
}

/// Those who tell of the kinds; they end with it.
struct Following {
    events: Events,
    _tasks: JoinSet<()>,
}

struct Kind {
    places: Places,
    listing: Option<Staging>,
    loading: Option<Staging>,
    /// What is known of it is from disk.
    from_disk: bool,
    /// The version up to which the API server has told it, and that was taken.
    told: u64,
    /// The version of the last that changed, or was listed. That nothing changed since
    /// is worth no report of every node.
    changed: u64,
}

impl Kind {
    fn is_dispensable(&self) -> bool {
        self.places.resource.dispensable
    }
}

impl ApiSource {
    pub(super) fn new(publisher: Publisher, watched: Arc<Watched>, state_dir: PathBuf) -> Self {
        let resources: Vec<Resource> = watched.kinds.iter().map(|kind| kind.resource).collect();
        let (copy, look) = Copy::start(&state_dir, &resources, &watched);
        let kind = |resource| Kind {
            places: Places::new(resource),
            listing: None,
            loading: None,
            from_disk: false,
            told: 0,
            changed: 0,
        };
        Self {
            publisher,
            names: Interner::default(),
            problems: BTreeMap::new(),
            kinds: resources.into_iter().map(kind).collect(),
            watched,
            copy,
            found: None,
            system: None,
            told_system: None,
            is_anothers: false,
            look: Some(look),
            load: None,
            does_without: false,
            is_dirty: true,
            published: None,
            taken: Taken::default(),
        }
    }

    pub(super) async fn run(
        mut self,
        access: &Access,
        patience: &Patience,
        cancel: &CancellationToken,
    ) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.follow(access, patience) => {}
        }
        self.copy.end().await;
    }

    async fn follow(&mut self, access: &Access, patience: &Patience) {
        self.look_at_disk().await;
        let client = self.client(access, patience).await;
        let mut following = self.followers(&client);
        let begun = Instant::now();
        loop {
            let wake = self.wake(begun);
            tokio::select! {
                event = following.events.recv() => {
                    let Some((kind, event)) = event else { return };
                    self.take(From::Api, kind, event).await;
                    // What is told already is not told later.
                    for _ in 0..AT_ONCE {
                        let Ok((kind, event)) = following.events.try_recv() else { break };
                        self.take(From::Api, kind, event).await;
                    }
                }
                event = next(&mut self.load) => match event {
                    Some((kind, event)) => {
                        self.take(From::Disk, kind, event).await;
                        for _ in 0..AT_ONCE {
                            let load = self.load.as_mut();
                            let next = load.and_then(|load| load.events.try_recv().ok());
                            let Some((kind, event)) = next else { break };
                            self.take(From::Disk, kind, event).await;
                        }
                    }
                    None => self.end_load(),
                },
                found = next_found(&mut self.look) => if self.take_late(found) {
                    // What those before had to tell is left with them.
                    following = self.followers(&client);
                },
                () = sleep_until(wake.into()) => {}
            }
            if self.load.is_some() && (self.is_anothers || self.is_whole()) {
                self.end_load();
            }
            if self.load.is_none() && self.needs_disk(begun) {
                self.load = self.load();
            }
            self.does_without = self.found.is_none() && self.waits_until(begun) <= Instant::now();
            // A disk that has not answered yet takes nothing.
            let wants = self.copy.wants().filter(|_| self.look.is_none());
            for kind in wants {
                self.watched.list_again(kind);
            }
            let now = Instant::now();
            self.publish(now);
            self.note_in_force();
            if self.taken.gives_back().is_some_and(|due| due <= now) {
                self.taken = Taken::default();
                heap::give_back();
            }
        }
    }

    /// Tried again: what it needs may be there later.
    async fn client(&self, access: &Access, patience: &Patience) -> Client {
        loop {
            match Client::new(access, patience.clone()).await {
                Ok(client) => return client,
                Err(error) => tracing::warn!(%error, "cannot ask the API server"),
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// What an agent before this one knew. A disk that does not answer is not waited
    /// for: what it says then comes late.
    async fn look_at_disk(&mut self) {
        let Some(look) = &mut self.look else { return };
        match timeout(LOOK, look).await {
            Ok(found) => {
                self.look = None;
                self.take_found(found.ok());
            }
            Err(_) => self
                .watched
                .copy_failed("the disk does not answer".to_owned()),
        }
    }

    /// True where what was listed meanwhile may be older than what an agent here has
    /// seen: all is to be listed again, and what is older does not count as known.
    fn take_late(&mut self, found: Option<Found>) -> bool {
        self.take_found(found);
        let seen: Vec<Option<String>> = (0..self.kinds.len()).map(|at| self.seen(at)).collect();
        let mut is_behind = false;
        for (at, (kind, seen)) in self.kinds.iter_mut().zip(seen).enumerate() {
            let told = kind.told.to_string();
            if seen.is_none_or(|seen| seen == told) {
                continue;
            }
            is_behind = true;
            (kind.told, kind.changed) = (0, 0);
            kind.places.is_whole = false;
            let watched = &self.watched.kinds[at];
            watched.is_whole.store(false, Ordering::Relaxed);
        }
        is_behind
    }

    /// The newest version of a kind that an agent here has seen, where the disk knows of
    /// any.
    fn seen(&self, at: usize) -> Option<String> {
        let whole = self.found.as_ref()?.wholes.get(at)?;
        let told = self.kinds.get(at)?.told;
        let is_newer = whole.version.parse().is_ok_and(|seen: u64| told > seen);
        let version = match is_newer {
            true => told.to_string(),
            false => whole.version.clone(),
        };
        (!version.is_empty()).then_some(version)
    }

    fn take_found(&mut self, found: Option<Found>) {
        match found {
            Some(Ok(found)) => {
                self.system.clone_from(&found.system);
                self.found = Some(found);
                self.compare_systems();
            }
            Some(Err((_, Unusable::None))) | None => {}
            Some(Err((what, why))) => {
                tracing::warn!("the copy of the configuration on disk is not used: {what} {why}");
                self.watched.copy_failed(format!("{what} {why}"));
            }
        }
    }

    fn look_at_system(&mut self, at: usize, event: &Event) {
        let (Event::Listed(item) | Event::Changed(item)) = event else {
            return;
        };
        let is_system = self.kinds[at].places.resource.plural == "namespaces"
            && item.head.namespace.is_none()
            && item.head.name == SYSTEM;
        if is_system && item.head.uid.is_some() {
            self.told_system.clone_from(&item.head.uid);
            self.compare_systems();
        }
    }

    /// Each cluster has its own kube-system: one with another UID is not the one that
    /// the disk is of, whatever has the same roots and the same address.
    fn compare_systems(&mut self) {
        let (Some(known), Some(now)) = (&self.system, &self.told_system) else {
            return;
        };
        if known == now {
            return;
        }
        let why = "it is of another cluster: its namespace kube-system has another UID";
        tracing::warn!("the copy of the configuration on disk is not used: {why}");
        self.watched.copy_failed(why.to_owned());
        self.watched.note_from_disk(None);
        self.system = None;
        self.found = None;
        self.is_anothers = true;
        // Nothing more of it is put in force: each kind is listed first.
        for kind in &mut self.kinds {
            kind.places.is_whole &= !kind.from_disk;
            if kind.from_disk && classes::are(&kind.places.resource) {
                self.publisher.note_classes(Listed::Not);
            }
        }
    }

    fn followers(&self, client: &Client) -> Following {
        let (sender, events) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        for (at, kind) in self.watched.kinds.iter().enumerate() {
            let follower = Follower::new(
                client.clone(),
                kind.resource,
                self.watched.gate.clone(),
                kind.progress.clone(),
                (at, sender.clone()),
            );
            // Not back to before what an agent here has seen.
            let follower = match self.seen(at) {
                Some(version) => follower.since(version),
                None => follower,
            };
            tasks.spawn(follower.run());
        }
        Following {
            events,
            _tasks: tasks,
        }
    }

    fn is_whole(&self) -> bool {
        self.kinds.iter().all(|kind| kind.places.is_whole)
    }

    /// What is known is enough to be in force.
    fn is_enough(&self) -> bool {
        let is_enough =
            |kind: &Kind| kind.places.is_whole || (self.does_without && kind.is_dispensable());
        self.kinds.iter().all(is_enough)
    }

    /// Does nobody tell what there is?
    fn needs_disk(&self, begun: Instant) -> bool {
        let waits = || self.watched.gate.away().is_some() || begun.elapsed() >= PATIENCE;
        self.found.is_some() && !self.is_whole() && waits()
    }

    /// For what restricts nothing.
    fn waits_until(&self, begun: Instant) -> Instant {
        let heard = begun + PATIENCE;
        let load = self.load.as_ref();
        load.map_or(heard, |load| heard.max(load.since + LOAD))
    }

    fn load(&mut self) -> Option<Load> {
        let found = self.found.take()?;
        let resources: Vec<Resource> = self.kinds.iter().map(|kind| kind.places.resource).collect();
        let as_of = as_of(&found.wholes);
        let age = as_of.and_then(|as_of| as_of.elapsed().ok());
        let age_seconds = age.unwrap_or_default().as_secs();
        tracing::warn!(
            age_seconds,
            "the API server does not tell everything: what it does not tell is taken from disk, as old as that"
        );
        self.watched.note_from_disk(as_of);
        // Whether anything that is in force is from there is told with the next.
        self.is_dirty = true;
        Some(Load {
            events: self.copy.load(&resources),
            since: Instant::now(),
        })
    }

    /// Nobody needs it any more, or it tells no more: what it told in part is nothing.
    fn end_load(&mut self) {
        self.load = None;
        for kind in &mut self.kinds {
            kind.loading = None;
        }
    }

    /// When there is something to do without an event.
    fn wake(&self, begun: Instant) -> Instant {
        let now = Instant::now();
        let look = match self.found.is_some() && self.load.is_none() && !self.is_whole() {
            // Whether nobody answers is noticed as soon as that.
            true => (begun + PATIENCE).min(now + DEBOUNCE),
            false => now + LOOK_AGAIN,
        };
        // Then some of it is not waited for any more.
        let patient = self.waits_until(begun);
        let look = match self.is_dirty && !self.does_without && now < patient {
            true => look.min(patient),
            false => look,
        };
        let publish = match (self.is_dirty && self.is_enough(), self.published) {
            (true, Some(published)) => published + DEBOUNCE,
            (true, None) => now,
            (false, _) => look,
        };
        let wake = look.min(publish);
        self.taken.gives_back().map_or(wake, |due| due.min(wake))
    }

    fn publish(&mut self, now: Instant) {
        let is_soon = self
            .published
            .is_some_and(|published| now < published + DEBOUNCE);
        if !self.is_dirty || !self.is_enough() || is_soon {
            return;
        }
        self.is_dirty = false;
        // Of what restricts nothing that is told by its own fault.
        let is_dated = |kind: &Kind| kind.from_disk && !kind.is_dispensable();
        let is_dated = self.kinds.iter().any(is_dated);
        self.publisher.note_dated(is_dated);
        let problems = self.problems.values().flat_map(|problems| &**problems);
        self.publisher.publish(problems, 0, now);
        self.published = Some(Instant::now());
        self.watched.note_known();
        if !is_dated {
            self.watched.note_from_disk(None);
        }
    }

    /// What was told and changed nothing is in force, too.
    fn note_in_force(&mut self) {
        if !self.is_dirty && self.is_enough() {
            let kinds = self.kinds.iter_mut();
            let in_force = kinds.map(|kind| kind.places.held_back.in_force(kind.changed));
            self.watched.note_in_force(in_force);
        }
    }

    async fn take(&mut self, from: From, at: usize, event: Event) {
        self.taken.add(Instant::now());
        let Some(kind) = self.kinds.get(at) else {
            return;
        };
        if from == From::Api {
            self.look_at_system(at, &event);
            let version = event.version();
            let is_change = !matches!(event, Event::Bookmark(_));
            let is_taken = self.apply(from, at, &event);
            if let Some(version) = version.filter(|_| is_taken) {
                self.kinds[at].told = version;
                if is_change {
                    self.kinds[at].changed = version;
                }
            }
            let resource = &self.kinds[at].places.resource;
            let told = is_taken.then(|| Told::of(resource, event));
            for told in told.into_iter().flatten() {
                // It may be older than what the disk has.
                match self.look {
                    Some(_) => self.copy.leave_out(at),
                    None => self.copy.tell(at, told).await,
                }
            }
        } else if !kind.places.is_whole && !self.is_anothers {
            // What was listed meanwhile would be newer.
            self.apply(from, at, &event);
        }
        let kind = &self.kinds[at];
        let watched = &self.watched.kinds[at];
        watched.objects.store(kind.places.len(), Ordering::Relaxed);
        let is_whole = kind.places.is_whole;
        watched.is_whole.store(is_whole, Ordering::Relaxed);
    }

    /// False where the copy on disk is not to have it.
    fn apply(&mut self, from: From, at: usize, event: &Event) -> bool {
        let Self {
            kinds,
            names,
            publisher,
            problems,
            ..
        } = self;
        let kind = &mut kinds[at];
        // Until its file is whole the disk is not believed: what the API server tells is
        // never taken from there.
        let (staging, listed) = match from {
            From::Api => (&mut kind.listing, None),
            From::Disk => (&mut kind.loading, kind.listing.as_ref()),
        };
        let mut to = To {
            publisher,
            names,
            problems,
        };
        match event {
            Event::Begin => *staging = Some(Staging::default()),
            Event::Listed(item) => {
                if let Some(staging) = staging {
                    kind.places.stage(item, (staging, listed), to.names);
                }
                return true;
            }
            Event::End(_) => {
                if let Some(staging) = staging.take() {
                    let is_taken = kind.places.take(staging, &mut to);
                    self.settled(at, (from, event), is_taken);
                    return is_taken;
                }
            }
            Event::Absent => {
                *staging = None;
                let is_taken = kind.places.take(Staging::default(), &mut to);
                self.settled(at, (from, event), is_taken);
            }
            Event::Abandoned => *staging = None,
            Event::Changed(item) => {
                kind.places.change(item, &mut to);
                self.is_dirty = true;
            }
            Event::Deleted(head) => {
                let is_taken = kind.places.delete(head, &mut to);
                self.is_dirty |= is_taken;
                return is_taken;
            }
            Event::Bookmark(_) => {}
        }
        true
    }

    /// A list has come to its end.
    fn settled(&mut self, at: usize, (from, event): (From, &Event), is_taken: bool) {
        self.is_dirty = true;
        if is_taken {
            let kind = &mut self.kinds[at];
            kind.from_disk = from == From::Disk;
            // The disk tells no more of it, nor would an end.
            kind.loading = None;
            if classes::are(&self.kinds[at].places.resource) {
                let listed = classes::listed(event, from == From::Disk);
                self.publisher.note_classes(listed);
            }
        }
        let mut kinds = self.kinds.iter();
        let too_large = kinds.find(|kind| kind.places.is_too_large);
        let too_large = too_large.map(|kind| kind.places.resource.kind);
        self.watched.note_too_large(too_large);
    }
}

async fn next(load: &mut Option<Load>) -> Option<(usize, Event)> {
    match load {
        Some(load) => load.events.recv().await,
        None => std::future::pending().await,
    }
}

/// `None`: it cannot be looked at. Once.
async fn next_found(late: &mut Option<Look>) -> Option<Found> {
    let Some(look) = late else {
        return std::future::pending().await;
    };
    let found = look.await.ok();
    *late = None;
    found
}

#[cfg(test)]
mod tests;
