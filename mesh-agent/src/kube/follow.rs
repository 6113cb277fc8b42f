//! One kind: listed, then watched, for as long as anybody takes what is told.
//!
//! Why not `kube::runtime::watcher`: it parses each object as a type, has no
//! deadline for a list, waits 295 s for a dead connection, and repeats a watch
//! that starts with 410 for ever (`docs/decisions.md`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::backoff::{Backoff, jittered};
use super::client::Client;
use super::fault::{Fault, Reason};
use super::gate::Gate;
use super::item::{Head, Item};
use super::lines::{Lines, Told};
use super::list::{ListReader, Page};
use super::presence::{Doubt, Look, Presence};
use super::progress::{Phase, Progress};
use super::resource::Resource;

/// Objects of a page, where a list comes in pages.
const PAGE: usize = 500;
/// A watch that ends sooner has not worked.
const WORKED: Duration = Duration::from_secs(1);
/// After so many that did not, all is listed anew.
const TRIES: u32 = 5;
/// The API server may ask for any time.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What becomes of a kind's objects.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A list begins; one that had begun before counts no more.
    Begin,
    Listed(Item),
    /// What was listed since `Begin` is all that there is, as of a version.
    End(String),
    /// What was listed since `Begin` is not all.
    Abandoned,
    Changed(Item),
    Deleted(Head),
    /// Nothing has changed up to this version.
    Bookmark(String),
    /// The kind is not installed: there is none of it.
    Absent,
}

impl Event {
    /// Up to which the kind is told with it. 0 for one that is no number: it is compared
    /// with none.
    pub(crate) fn version(&self) -> Option<u64> {
        let version = match self {
            Self::End(version) | Self::Bookmark(version) => version,
            Self::Changed(item) => &item.head.version,
            Self::Deleted(head) => &head.version,
            Self::Begin | Self::Listed(_) | Self::Abandoned | Self::Absent => return None,
        };
        Some(version.parse().unwrap_or(0))
    }
}

/// How new a list must be. Chosen as client-go does: what is asked for by its
/// version comes from the API server's memory, whatever is asked for in pages,
/// or without a version, from etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Version {
    /// What the API server has in memory.
    Any,
    NotOlderThan(String),
    /// Of now. In pages.
    Newest,
}

impl Version {
    fn query(&self) -> String {
        match self {
            Self::Any => format!("limit={PAGE}&resourceVersion=0"),
            Self::NotOlderThan(version) => {
                let version = encoded(version);
                format!("resourceVersion={version}&resourceVersionMatch=NotOlderThan")
            }
            Self::Newest => format!("limit={PAGE}"),
        }
    }
}

/// Why a step came to its end.
enum Stop {
    /// Nobody takes what is told.
    Closed,
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

pub(crate) struct Follower {
    client: Client,
    resource: Resource,
    gate: Arc<Gate>,
    progress: Arc<Progress>,
    /// Which one it is, for who takes the events of several.
    index: usize,
    events: mpsc::Sender<(usize, Event)>,
    /// In which it is asked for.
    version: &'static str,
    newer_than: Version,
    /// It was listed, here or by an agent before this one.
    was_there: bool,
    backoff: Backoff,
}

impl Follower {
    pub(crate) fn new(
        client: Client,
        resource: Resource,
        gate: Arc<Gate>,
        progress: Arc<Progress>,
        (index, events): (usize, mpsc::Sender<(usize, Event)>),
    ) -> Self {
        let most = client.patience().refused;
        Self {
            version: resource.version(),
            client,
            resource,
            gate,
            progress,
            index,
            events,
            newer_than: Version::Any,
            was_there: false,
            backoff: Backoff::new(most / 50, most),
        }
    }

    /// Of a kind that was there at this version.
    pub(crate) fn since(mut self, version: String) -> Self {
        self.newer_than = Version::NotOlderThan(version);
        self.was_there = true;
        self
    }

    /// Ends when nobody takes the events any more.
    pub(crate) async fn run(mut self) {
        while let Ok(()) | Err(Stop::Fault(_)) = self.round().await {}
    }

    /// One list, and watches from there on.
    async fn round(&mut self) -> Result<(), Stop> {
        let most = self.client.patience().list;
        let listed = match timeout(most, self.list()).await {
            Ok(listed) => listed,
            Err(_) => Err(Fault::Silent(most).into()),
        };
        match listed {
            Ok(version) => {
                self.progress.listed();
                self.was_there = true;
                self.tell(Event::End(version.clone())).await?;
                self.watch_from(version).await
            }
            Err(Stop::Closed) => Err(Stop::Closed),
            Err(Stop::Fault(fault)) => {
                self.tell(Event::Abandoned).await?;
                // What was asked for by its version is not to be had by it.
                if fault.is_expired() {
                    self.newer_than = Version::Newest;
                }
                self.cope(fault).await.map(|_| ())
            }
        }
    }

    async fn tell(&self, event: Event) -> Result<(), Stop> {
        let sent = self.events.send((self.index, event)).await;
        sent.map_err(|_| Stop::Closed)
    }

    /// Gives the version of the list, which has been told but for its end.
    async fn list(&mut self) -> Result<String, Stop> {
        if self.progress.seen().phase != Phase::Failing {
            self.progress.phase(Phase::Listing);
        }
        self.tell(Event::Begin).await?;
        let mut query = self.newer_than.query();
        loop {
            let page = self.page(&query).await?;
            let Some(next) = page.next else {
                return Ok(page.version);
            };
            query = format!("limit={PAGE}&continue={}", encoded(&next));
        }
    }

    async fn page(&self, query: &str) -> Result<Page, Stop> {
        let collection = self.resource.collection(self.version);
        let mut answer = self.client.open(&format!("{collection}?{query}")).await?;
        self.gate.note_there();
        let garbled = |error: super::list::Malformed| Fault::Garbled(error.to_string());
        let mut reader = ListReader::default();
        let mut items = Vec::new();
        while let Some(bytes) = answer.more(self.client.patience().more).await? {
            reader.feed(&bytes, &mut items).map_err(garbled)?;
            for item in items.drain(..) {
                let item = Item::read(&self.resource, &item);
                self.tell(Event::Listed(item)).await?;
            }
        }
        Ok(reader.end().map_err(garbled)?)
    }

    /// Until all is to be listed anew.
    async fn watch_from(&mut self, mut version: String) -> Result<(), Stop> {
        let mut failed = 0;
        loop {
            let begun = Instant::now();
            let ended = self.watch(&mut version).await;
            self.newer_than = Version::NotOlderThan(version.clone());
            let worked = begun.elapsed() >= WORKED;
            let fault = match ended {
                Err(Stop::Closed) => return Err(Stop::Closed),
                Err(Stop::Fault(fault)) => Some(fault),
                Ok(()) => None,
            };
            if worked {
                failed = 0;
                self.backoff.reset();
            } else {
                failed += 1;
            }
            match fault {
                // In time, or by a connection that was lost: that is no fault
                // of it, only of one that cannot be had again.
                None if worked => {}
                None => sleep(self.backoff.pause()).await,
                Some(fault) if fault.is_expired() => {
                    self.progress.count(&fault);
                    // It was set back: it does not get there.
                    if fault.reason() != Reason::Expired {
                        self.newer_than = Version::Newest;
                    }
                    if !worked {
                        sleep(self.backoff.pause()).await;
                    }
                    return Ok(());
                }
                // An event was lost.
                Some(fault @ Fault::Garbled(_)) => {
                    self.cope(fault).await?;
                    return Ok(());
                }
                Some(fault) => {
                    if fault.is_away() {
                        // However long it is: nothing was lost by that.
                        failed = 0;
                    }
                    if self.cope(fault).await? {
                        return Ok(());
                    }
                }
            }
            if failed >= TRIES || self.progress.take_asked() {
                return Ok(());
            }
        }
    }

    /// One watch, to its end. An error is of one that did not begin, or of what
    /// it told.
    async fn watch(&mut self, version: &mut String) -> Result<(), Stop> {
        let patience = self.client.patience();
        let stands = jittered(Duration::from_secs(patience.watch.into()));
        let query = format!(
            "watch=true&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={}",
            encoded(version),
            stands.as_secs().max(1)
        );
        let collection = self.resource.collection(self.version);
        let mut answer = self.client.open(&format!("{collection}?{query}")).await?;
        self.gate.note_there();
        self.progress.phase(Phase::Watching);
        let until = Instant::now() + stands + patience.grace;
        let mut reader = Lines::default();
        let mut lines = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let bytes = match answer.more(left).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return Ok(()),
                Err(fault) => {
                    self.progress.count(&fault);
                    return Ok(());
                }
            };
            reader.feed(&bytes, &mut lines)?;
            for line in lines.drain(..) {
                let told = Told::read(&self.resource, &line)?;
                self.take(told, version).await?;
            }
            if left.is_zero() {
                return Ok(());
            }
        }
    }

    async fn take(&self, told: Told, version: &mut String) -> Result<(), Stop> {
        let (event, now) = match told {
            Told::Error(refused) => return Err(Fault::Refused(refused).into()),
            Told::Bookmark(now) => (Event::Bookmark(now.clone()), now),
            Told::Changed(item) => {
                let now = item.head.version.clone();
                (Event::Changed(item), now)
            }
            Told::Deleted(head) => {
                let now = head.version.clone();
                (Event::Deleted(head), now)
            }
        };
        match event {
            Event::Bookmark(_) => self.progress.heard(),
            _ => self.progress.event(),
        }
        // In a watch versions only grow: somebody between repeats or reorders,
        // and nobody can say what is the last word.
        if is_older(&now, version) {
            let message = format!("version {now} after {version}");
            return Err(Fault::Garbled(message).into());
        }
        self.tell(event).await?;
        if !now.is_empty() {
            *version = now;
        }
        Ok(())
    }

    /// Tells the fault, and waits until it is worth another try. True: there was
    /// nothing of the kind meanwhile.
    async fn cope(&mut self, fault: Fault) -> Result<bool, Stop> {
        self.progress.count(&fault);
        self.progress.failing(&fault);
        if fault.is_away() {
            self.gate.note_away(&fault);
            self.gate.wait(&self.client).await;
            return Ok(false);
        }
        self.gate.note_there();
        // Who may not see a kind is not told that it is not there.
        let may_be_absent = matches!(fault.reason(), Reason::NotFound | Reason::Forbidden);
        if self.resource.optional && may_be_absent && self.look_for().await? {
            return Ok(true);
        }
        let asked = fault.retry_after().map(|after| after.min(LONGEST_PAUSE));
        let mut pause = self.backoff.pause();
        if fault.reason() == Reason::ServerError {
            // It may be about to start.
            pause = pause.min(WORKED);
        }
        sleep(asked.map_or(pause, |asked| asked.max(pause))).await;
        Ok(false)
    }

    /// Waits, where the kind is not installed, until it is; true where it was not.
    async fn look_for(&mut self) -> Result<bool, Stop> {
        let mut told = false;
        let mut doubt = Doubt::new(self.was_there);
        let mut last = Instant::now();
        loop {
            let look = match told {
                true => Look::Glance,
                false => Look::Since(last),
            };
            let found = self.gate.groups.find(&self.client, &self.resource, look);
            let found = found.await;
            // What others have asked for since then is another look.
            last = Instant::now();
            let patience = self.client.patience();
            match found {
                Ok(Presence::Installed(version)) => {
                    self.version = version;
                    if told {
                        self.newer_than = Version::Any;
                        self.backoff.reset();
                        self.progress.phase(Phase::Listing);
                    }
                    return Ok(told);
                }
                Ok(Presence::Foreign(version)) => {
                    let message = format!("it is served as {version} alone");
                    self.progress.failing(&Fault::Garbled(message));
                    return Ok(false);
                }
                Ok(Presence::Absent) if told => self.progress.phase(Phase::Absent),
                Ok(Presence::Absent) if doubt.is_over(patience.gone) => {
                    told = true;
                    self.was_there = false;
                    self.tell(Event::Absent).await?;
                    self.progress.phase(Phase::Absent);
                }
                Ok(Presence::Absent) => self.progress.failing(&Fault::Missing(patience.gone)),
                Err(fault) => {
                    self.progress.count(&fault);
                    doubt = Doubt::new(self.was_there);
                    if fault.is_away() {
                        self.gate.note_away(&fault);
                        self.gate.wait(&self.client).await;
                    } else if !told {
                        self.progress.failing(&fault);
                        return Ok(false);
                    }
                }
            }
            sleep(jittered(self.client.patience().absent)).await;
        }
    }
}

/// As far as they are numbers: as such they are compared within one watch.
fn is_older(now: &str, before: &str) -> bool {
    let number = |text: &str| text.parse::<u64>().ok();
    matches!((number(now), number(before)), (Some(now), Some(before)) if now < before)
}

/// For a query.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
