//! Follows the objects, judges each version, and writes where it says something else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::conditions::{Condition, merge};
use super::lease::{LIFE, Lease};
use super::turns::Turns;
use crate::cluster::{Api, ApiError, Seen, Verb, follow};

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

/// What is to be said of one version of an object.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) conditions: Vec<Condition>,
}

/// Says of an object, as the API server has it, how it fares.
pub(crate) trait Judge: Send + Sync + 'static {
    fn judge(&self, object: &Value) -> Verdict;
}

#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) namespace: String,
    /// Another one for each replica, and each of its lives.
    pub(crate) me: String,
    /// Lists of what is judged, as `/apis/GROUP/VERSION/PLURAL`.
    pub(crate) lists: Vec<&'static str>,
}

struct Known {
    list: usize,
    object: Value,
    conditions: Vec<Condition>,
}

struct Writer {
    judge: Arc<dyn Judge>,
    lists: Vec<&'static str>,
    /// By path.
    known: HashMap<String, Known>,
    turns: Turns,
}

/// One write.
struct Write {
    path: String,
    object: Value,
}

/// Until cancelled.
pub(crate) async fn run(
    api: Arc<dyn Api>,
    judge: Arc<dyn Judge>,
    config: Config,
    cancel: CancellationToken,
) {
    let writer = Arc::new(Mutex::new(Writer {
        judge,
        lists: config.lists.clone(),
        known: HashMap::new(),
        turns: Turns::default(),
    }));
    let changed = Arc::new(Notify::new());
    let tasks = TaskTracker::new();
    for (number, list) in config.lists.iter().copied().enumerate() {
        let (api, writer, changed) = (api.clone(), writer.clone(), changed.clone());
        let cancel = cancel.clone();
        tasks.spawn(async move {
            let following = follow::<Value>(&*api, list, "", |seen| {
                writer.lock().see(number, seen);
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
                free = Instant::now() + write_one(&*api, &writer).await;
            }
        }
    }
    tasks.wait().await;
    lease.give_up(&*api).await;
}

/// Gives how long to wait before the next one.
async fn write_one(api: &dyn Api, writer: &Mutex<Writer>) -> Duration {
    let now = Instant::now();
    let Some(Write { path, object }) = writer.lock().next(now) else {
        return Duration::ZERO;
    };
    let status = format!("{path}/status");
    let written = api.call(&status, Verb::Replace(object)).await;
    let mut writer = writer.lock();
    match written {
        Ok(_) => writer.turns.wrote(&path, now),
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

impl Writer {
    fn path(&self, list: usize, object: &Value) -> Option<String> {
        let (root, plural) = self.lists[list].rsplit_once('/')?;
        let meta = |name: &str| object["metadata"][name].as_str();
        let (namespace, name) = (meta("namespace")?, meta("name")?);
        Some(format!("{root}/namespaces/{namespace}/{plural}/{name}"))
    }

    fn see(&mut self, list: usize, seen: Seen<'_, Value>) {
        match seen {
            Seen::All(all) => {
                let now: HashSet<String> = all.iter().filter_map(|o| self.path(list, o)).collect();
                let is_gone =
                    |(path, known): &(&String, &Known)| known.list == list && !now.contains(*path);
                let gone: Vec<String> = self
                    .known
                    .iter()
                    .filter(is_gone)
                    .map(|(path, _)| path.clone())
                    .collect();
                gone.iter().for_each(|path| self.forget(path));
                all.into_iter().for_each(|object| self.put(list, object));
            }
            Seen::Is(object) => self.put(list, object),
            Seen::IsGone(object) => {
                if let Some(path) = self.path(list, &object) {
                    self.forget(&path);
                }
            }
            Seen::Same => {}
            Seen::Failed(error) => {
                tracing::debug!(%error, list = self.lists[list], "objects are not followed");
            }
        }
    }

    fn forget(&mut self, path: &str) {
        self.known.remove(path);
        self.turns.forget(path);
    }

    fn put(&mut self, list: usize, object: Value) {
        let Some(path) = self.path(list, &object) else {
            return;
        };
        // Its status is no part of what is judged: what it said is not judged anew.
        let known = self.known.get(&path);
        let same = known
            .filter(|k| generation(&k.object) == generation(&object) && generation(&object) > 0);
        let conditions = match same {
            Some(known) => known.conditions.clone(),
            None => self.judge.judge(&object).conditions,
        };
        match after(&object, &conditions) {
            Some(_) => self.turns.add(&path),
            None => self.turns.leave(&path),
        }
        let known = Known {
            list,
            object,
            conditions,
        };
        self.known.insert(path, known);
    }

    fn next(&mut self, now: Instant) -> Option<Write> {
        let path = self.turns.next(now)?;
        let known = self.known.get(&path)?;
        let conditions = after(&known.object, &known.conditions)?;
        let mut object = known.object.clone();
        object["status"]["conditions"] = Value::Array(conditions);
        Some(Write { path, object })
    }
}

fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap_or(0)
}

/// The conditions as they are to be; None where nothing is to be written.
fn after(object: &Value, wanted: &[Condition]) -> Option<Vec<Value>> {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let none = Vec::new();
    let before = object["status"]["conditions"].as_array().unwrap_or(&none);
    merge(before, wanted, generation(object), &now).ok()
}
