//! Follows the objects, judges each version, and writes where it says something else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::conditions::{Condition, merge};
use super::lease::{LIFE, Lease};
use super::turns::Turns;
use crate::cluster::{Api, ApiError, Metadata, Seen, Verb, escape, follow, read};

/// The Lease of who writes.
const LEASE: &str = "mesh-agent-status";
/// Between two writes of any objects.
const PAUSE: Duration = Duration::from_millis(50);
/// After a write that nobody answered.
const AWAY: Duration = Duration::from_secs(2);
/// After one that was refused: another one would be as well.
const REFUSED: Duration = Duration::from_secs(30);
/// How often the Lease is looked at.
const LOOK: Duration = Duration::from_secs(LIFE.as_secs() / 3);

/// Larger ones are not judged: read as a whole they take many times of it.
const MAX_JUDGED: usize = 256 << 10;

/// What is to be said of one version of an object.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) conditions: Vec<Condition>,
}

/// Says of an object, as the API server has it, how it fares.
pub(crate) trait Judge: Send + Sync + 'static {
    fn judge(&self, json: &str) -> Verdict;
}

#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) namespace: String,
    /// Another one for each replica, and each of its lives.
    pub(crate) me: String,
    /// Lists of what is judged, as `/apis/GROUP/VERSION/PLURAL`.
    pub(crate) lists: Vec<&'static str>,
}

/// What is kept of an object that was judged.
struct Judged {
    path: String,
    /// Its status says something else.
    is_due: bool,
}

/// What an object says that decides about its status.
#[derive(Deserialize)]
struct Slim {
    metadata: Metadata,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Option<Vec<Value>>,
}

/// Of objects no more is held than where they are and whether it is their turn:
/// anybody may write large ones. A verdict is not held either, for it is about all
/// that an object says, and by which code: each one is judged when it is seen, and
/// again as it is then when it is written.
#[derive(Default)]
struct Writer {
    /// Path, and number of the list.
    known: HashMap<String, usize>,
    turns: Turns,
}

/// Until cancelled.
pub(crate) async fn run(
    api: Arc<dyn Api>,
    judge: Arc<dyn Judge>,
    config: Config,
    cancel: CancellationToken,
) {
    let writer = Arc::new(Mutex::new(Writer::default()));
    let changed = Arc::new(Notify::new());
    let tasks = TaskTracker::new();
    for (number, list) in config.lists.iter().copied().enumerate() {
        let (api, writer, changed) = (api.clone(), writer.clone(), changed.clone());
        let (judge, cancel) = (judge.clone(), cancel.clone());
        tasks.spawn(async move {
            let read = |object: &str| judged(&*judge, list, object);
            let following = follow(&*api, (list, ""), read, |seen| {
                writer.lock().see((number, list), seen);
                changed.notify_one();
            });
            tokio::select! {
                () = cancel.cancelled() => {}
                () = following => {}
            }
        });
    }
    tasks.close();
    let mut lease = Lease::new(&config.namespace, LEASE, &config.me);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut free = Instant::now();
    loop {
        let now = Instant::now();
        let due = match lease.is_held(now) {
            true => writer.lock().turns.due(now).map(|due| due.max(free)),
            false => None,
        };
        let wake = due.unwrap_or(now + LIFE);
        tokio::select! {
            () = cancel.cancelled() => break,
            () = changed.notified() => {}
            _ = look.tick() => {
                if let Err(error) = lease.look(&*api, now).await {
                    tracing::debug!(%error, "who writes status is not known");
                }
            }
            () = tokio::time::sleep_until(wake.into()), if due.is_some() => {
                free = Instant::now() + write_one(&*api, &*judge, &writer).await;
            }
        }
    }
    tasks.wait().await;
    lease.give_up(&*api).await;
}

/// Gives how long to wait before the next one.
async fn write_one(api: &dyn Api, judge: &dyn Judge, writer: &Mutex<Writer>) -> Duration {
    let now = Instant::now();
    let Some(path) = writer.lock().turns.next(now) else {
        return Duration::ZERO;
    };
    let written = write(api, judge, &path).await;
    let mut writer = writer.lock();
    match written {
        Ok(true) => writer.turns.wrote(&path, now),
        Ok(false) => {}
        // Somebody changed it: the watch brings that, and its turn comes then.
        Err(ApiError::Conflict(_) | ApiError::NotFound(_)) => {}
        Err(ApiError::Away(why)) => {
            tracing::debug!(why, path, "a status is not written");
            writer.turns.add(&path);
            return AWAY;
        }
        Err(error) => {
            tracing::warn!(%error, path, "a status is not written");
            writer.turns.wrote(&path, now);
            writer.turns.add(&path);
            return REFUSED;
        }
    }
    PAUSE
}

/// As the object is now. False where nothing is to be written.
async fn write(api: &dyn Api, judge: &dyn Judge, path: &str) -> Result<bool, ApiError> {
    let Some((collection, name)) = path.rsplit_once('/') else {
        return Ok(false);
    };
    // A list of one, which needs no permission of its own.
    let named = format!(
        "{collection}?limit=1&fieldSelector=metadata.name%3D{}",
        escape(name)
    );
    let mut found: Option<String> = None;
    let mut take = |item: &str| {
        let is_it = read::<Slim>(item)?.metadata.name == name;
        if is_it && item.len() <= MAX_JUDGED {
            found = Some(item.to_owned());
        }
        Ok(())
    };
    api.list(&named, &mut take).await?;
    let Some(json) = found else { return Ok(false) };
    let Some(conditions) = after(&read(&json)?, &judge.judge(&json).conditions) else {
        return Ok(false);
    };
    let mut object: Value = serde_json::from_str(&json)?;
    object["status"]["conditions"] = Value::Array(conditions);
    let status = format!("{path}/status");
    api.call(&status, Verb::Replace(object)).await?;
    Ok(true)
}

/// `None` for one that has no place.
fn judged(judge: &dyn Judge, list: &str, json: &str) -> Result<Option<Judged>, ApiError> {
    let slim: Slim = read(json)?;
    let Some(path) = path(list, &slim.metadata) else {
        return Ok(None);
    };
    // Agents judge it for themselves; it has no status.
    let is_judged = json.len() <= MAX_JUDGED;
    let is_due = is_judged && after(&slim, &judge.judge(json).conditions).is_some();
    Ok(Some(Judged { path, is_due }))
}

fn path(list: &str, metadata: &Metadata) -> Option<String> {
    let (root, plural) = list.rsplit_once('/')?;
    let (namespace, name) = (&metadata.namespace, &metadata.name);
    let is_there = !namespace.is_empty() && !name.is_empty();
    is_there.then(|| format!("{root}/namespaces/{namespace}/{plural}/{name}"))
}

impl Writer {
    fn see(&mut self, (list, at): (usize, &str), seen: Seen<'_, Option<Judged>>) {
        match seen {
            Seen::All(all) => {
                let now: HashSet<&str> = all.iter().flatten().map(|one| &*one.path).collect();
                let is_gone =
                    |(path, of): &(&String, &usize)| **of == list && !now.contains(path.as_str());
                let gone = self.known.iter().filter(is_gone);
                let gone: Vec<String> = gone.map(|(path, _)| path.clone()).collect();
                gone.iter().for_each(|path| self.forget(path));
                all.into_iter()
                    .flatten()
                    .for_each(|one| self.put(list, one));
            }
            Seen::Is(one) => one.into_iter().for_each(|one| self.put(list, one)),
            Seen::IsGone(one) => one.iter().for_each(|one| self.forget(&one.path)),
            Seen::Same => {}
            Seen::Failed(error) => {
                tracing::debug!(%error, list = at, "objects are not followed");
            }
        }
    }

    fn forget(&mut self, path: &str) {
        self.known.remove(path);
        self.turns.forget(path);
    }

    fn put(&mut self, list: usize, one: Judged) {
        match one.is_due {
            true => self.turns.add(&one.path),
            false => self.turns.leave(&one.path),
        }
        self.known.insert(one.path, list);
    }
}

/// The conditions as they are to be; None where nothing is to be written.
fn after(object: &Slim, wanted: &[Condition]) -> Option<Vec<Value>> {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let conditions = object.status.as_ref().and_then(|s| s.conditions.as_deref());
    let before = conditions.unwrap_or_default();
    merge(before, wanted, object.metadata.generation, &now).ok()
}
