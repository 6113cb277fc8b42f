//! The state in a Secret. What it was when it was last seen is held here; every
//! change is made to the newest version, or made again.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::Cluster;
use super::history::History;
use super::kept::Kept;
use super::published::Published;
use crate::ca::errors::Error;
use crate::ca::records::{AUTHORITY, BUNDLE, CRL, Issued, REVOKED, TOKENS};
use crate::ca::state::authority_file;
use crate::ca::store::{Change, Documents, LiveCertificates, Log, Stamp, Store};
use crate::cluster::{Api, ApiError, Metadata, Seen, Verb, decode, follow, read};

const DOCUMENTS: [&str; 6] = [
    AUTHORITY,
    TOKENS,
    REVOKED,
    CRL,
    BUNDLE,
    super::history::HISTORY,
];
/// How often a change is made again because somebody else was faster.
const TRIES: usize = 16;

type Held = BTreeMap<String, Zeroizing<Vec<u8>>>;

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

/// One state, as it was seen.
#[derive(Clone)]
struct Version {
    uid: Arc<str>,
    name: Arc<str>,
    held: Held,
}

pub(super) struct Secret {
    api: Arc<dyn Api>,
    runtime: Handle,
    secrets: String,
    name: String,
    stale: Duration,
    /// Counts what was seen.
    changes: watch::Sender<u64>,
    seen: Mutex<Option<Version>>,
    /// When the API server was last there.
    contact: Mutex<Instant>,
    kept: Kept,
    /// The last line of the history that was written down; None for a command,
    /// which leaves its lines to those that run.
    told: Option<Mutex<Option<u64>>>,
}

impl Secret {
    pub(super) fn new(
        api: Arc<dyn Api>,
        cluster: &Cluster,
        runtime: Handle,
        is_running: bool,
    ) -> Self {
        Self {
            api,
            runtime,
            secrets: cluster.secrets(),
            name: cluster.secret.clone(),
            stale: cluster.stale,
            changes: watch::Sender::new(0),
            seen: Mutex::default(),
            contact: Mutex::new(Instant::now()),
            kept: Kept::default(),
            told: is_running.then(Mutex::default),
        }
    }

    /// Changes after each change of the state.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn at(&self) -> String {
        format!("{}/{}", self.secrets, self.name)
    }

    fn documents(&self, held: Held) -> Documents {
        Documents::new(PathBuf::from(format!("Secret {}", self.name)), held)
    }

    /// Does not end.
    pub(super) async fn follow(&self, api: &dyn Api) {
        let named = format!("fieldSelector=metadata.name%3D{}", self.name);
        follow(
            api,
            (&self.secrets, &named),
            read::<Object>,
            |seen| match seen {
                Seen::All(all) => {
                    self.is_there();
                    match all.into_iter().next() {
                        Some(object) => self.see(object, true),
                        None => self.is_gone(),
                    }
                }
                Seen::Is(object) => {
                    self.is_there();
                    self.see(object, false);
                }
                Seen::IsGone(_) => self.is_gone(),
                Seen::Same => self.is_there(),
                Seen::Failed(error) => tracing::debug!(%error, "the state is not followed"),
            },
        )
        .await;
    }

    fn is_there(&self) {
        *self.contact.lock() = Instant::now();
    }

    fn check_age(&self) -> Result<(), Error> {
        match self.contact.lock().elapsed() < self.stale {
            true => Ok(()),
            false => Err(Error::Stale(self.stale.as_secs() / 60)),
        }
    }

    /// What was seen last stays: who deletes the Secret to make another root
    /// starts the authority anew.
    fn is_gone(&self) {
        tracing::error!(secret = %self.name, "the Secret with the authority's state is gone: restart the authority to make another root, or put the Secret back");
    }

    /// `listed`: it is what is there, whatever was seen before.
    fn see(&self, object: Object, listed: bool) {
        if object.metadata.name != self.name {
            return;
        }
        match version(object) {
            Ok(version) => self.take(version, listed),
            Err(error) => tracing::error!(secret = %self.name, %error, "the state is not taken"),
        }
    }

    fn take(&self, version: Version, listed: bool) {
        let mut seen = self.seen.lock();
        let is_known = |old: &Version| {
            let number = |name: &str| name.parse::<u64>().ok();
            let is_older = number(&version.name) < number(&old.name);
            version.name == old.name || (is_older && !listed)
        };
        if seen.as_ref().is_some_and(is_known) {
            return;
        }
        self.tell(&version.held);
        *seen = Some(version);
        drop(seen);
        self.changes.send_modify(|n| *n += 1);
    }

    /// What commands did since is in the trail from here on.
    fn tell(&self, held: &Held) {
        let Some(told) = &self.told else { return };
        let Ok(history) = History::of(&self.documents(held.clone())) else {
            return;
        };
        let mut told = told.lock();
        if let Some(before) = *told {
            for line in history.since(before) {
                if let Err(error) = print(line.as_bytes()) {
                    tracing::error!(%error, "cannot write to the audit trail");
                }
            }
        }
        *told = Some(history.number);
    }

    /// Of the state that was seen last.
    pub(super) fn published(&self) -> Option<Published> {
        self.seen.lock().as_ref()?.published()
    }

    /// Of the state as it is now.
    pub(super) async fn published_now(&self) -> Result<Option<Published>, ApiError> {
        let Some(now) = self.get().await? else {
            return Ok(None);
        };
        self.is_there();
        let published = now.published();
        self.take(now, false);
        Ok(published)
    }

    async fn get(&self) -> Result<Option<Version>, ApiError> {
        let path = self.at();
        let got = match self.api.call(&path, Verb::Get).await {
            Ok(text) => Zeroizing::new(text),
            Err(ApiError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        version(serde_json::from_str(&got)?).map(Some)
    }

    /// Of that version, or of none yet.
    async fn put(&self, documents: &Documents, version: Option<&str>) -> Result<Version, ApiError> {
        let changes = documents.changes(&DOCUMENTS);
        let mut data = serde_json::Map::new();
        for (name, bytes) in changes {
            let text = std::str::from_utf8(bytes).map_err(|_| ApiError::Odd(name.to_owned()))?;
            data.insert(name.to_owned(), text.into());
        }
        let metadata = json!({
            "name": self.name,
            "labels": {"app.kubernetes.io/part-of": "mesh-agent"},
        });
        let mut object = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": metadata, "stringData": data,
        });
        let answer = match version {
            None => self.api.call(&self.secrets, Verb::Create(object)).await,
            Some(version) => {
                object["metadata"]["resourceVersion"] = version.into();
                // A replacement says all: what did not change as well.
                for (name, bytes) in documents.rest() {
                    let text = std::str::from_utf8(bytes);
                    let text = text.map_err(|_| ApiError::Odd(name.to_owned()))?;
                    object["stringData"][name] = text.into();
                }
                self.api.call(&self.at(), Verb::Replace(object)).await
            }
        };
        self::version(serde_json::from_str(&Zeroizing::new(answer?))?)
    }

    async fn change_it(&self, change: &mut Change<'_>) -> Result<(), Error> {
        for _ in 0..TRIES {
            let before = self.get().await?;
            self.is_there();
            let held = before.as_ref().map(|v| v.held.clone()).unwrap_or_default();
            let mut documents = self.documents(held);
            change(&mut documents)?;
            if !documents.is_changed() {
                before.into_iter().for_each(|now| self.take(now, false));
                return Ok(());
            }
            let of = before.as_ref().map(|v| &*v.name);
            match self.put(&documents, of).await {
                Ok(now) => {
                    self.take(now, false);
                    return Ok(());
                }
                // Another replica, or a command, was faster.
                Err(ApiError::Exists(_) | ApiError::Conflict(_) | ApiError::NotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Busy)
    }
}

impl Version {
    fn text(&self, name: &str) -> Option<String> {
        String::from_utf8(self.held.get(name)?.to_vec()).ok()
    }

    fn published(&self) -> Option<Published> {
        let (roots, lists) = (self.text(BUNDLE)?, self.text(CRL)?);
        let (uid, version) = (self.uid.clone(), self.name.clone());
        Some(Published::of(uid, version, roots, lists))
    }
}

fn version(object: Object) -> Result<Version, ApiError> {
    let mut held = Held::new();
    for (name, text) in object.data {
        let text = Zeroizing::new(text);
        let bytes = decode(&text).ok_or_else(|| ApiError::Odd(format!("{name} is no base 64")))?;
        held.insert(name, Zeroizing::new(bytes));
    }
    Ok(Version {
        uid: object.metadata.uid.into(),
        name: object.metadata.resource_version.into(),
        held,
    })
}

/// The container's log is the trail.
fn print(line: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(&[line, b"\n"].concat())?;
    out.flush()
}

impl Store for Secret {
    fn stamp(&self) -> Result<Stamp, Error> {
        self.check_age()?;
        let seen = self.seen.lock();
        let name = seen.as_ref().map(|seen| seen.name.clone());
        Ok(Stamp::Version(name.unwrap_or_default()))
    }

    fn read(&self) -> Result<Documents, Error> {
        self.check_age()?;
        let seen = self.seen.lock().clone();
        let held = match seen {
            Some(seen) => seen.held,
            None => match self.runtime.block_on(self.get())? {
                Some(version) => version.held,
                None => Held::new(),
            },
        };
        Ok(self.documents(held))
    }

    fn change(&self, change: &mut Change<'_>) -> Result<(), Error> {
        self.runtime.block_on(self.change_it(change))
    }

    fn remember(&self, issued: &Issued) -> Result<(), Error> {
        self.kept.add(issued);
        Ok(())
    }

    fn forget_expired(&self, now: u64) -> Result<Vec<String>, Error> {
        Ok(self.kept.forget_expired(now))
    }

    fn callers(&self) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    fn live(&self, _now: u64) -> Result<LiveCertificates, Error> {
        Ok(LiveCertificates::Unlisted {
            longest: authority_file(&self.read()?)?.longest,
            stale: self.stale.as_secs(),
        })
    }

    fn write_down(&self, _: Log, line: &[u8]) -> Result<(), Error> {
        if self.told.is_some() {
            return print(line).map_err(|error| Error::Io {
                path: "standard output".into(),
                error,
            });
        }
        let line = String::from_utf8_lossy(line);
        self.change(&mut |documents| History::add(documents, &line))
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("Secret {}", self.name)).join(name)
    }

    fn begin_to_run(&self) -> Result<Box<dyn Send>, Error> {
        Ok(Box::new(()))
    }
}
