//! Follows the objects, judges each version, and writes where it says something else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::events::{Events, full, warnings};
use super::lease::{LIFE, Lease};
use super::nodes::Nodes;
use super::object::{Slim, Verdict, after, left_out};
use super::programmed::{self, Counting, Firsts, Pending, Say};
use super::rotation::Rotation;
use crate::cluster::{Api, ApiError, Metadata, Seen, Verb, escape, follow, read};

/// The Lease of who writes.
const LEASE: &str = "mesh-agent-status";
/// Between two writes of any objects.
const PAUSE: Duration = Duration::from_millis(50);
/// After a write that nobody answered.
const AWAY: Duration = Duration::from_secs(2);
/// Of one that was refused, until it is tried again; and at most after several in a row.
const REFUSED: Duration = Duration::from_secs(30);
/// How often the Lease is looked at.
const LOOK: Duration = Duration::from_secs(LIFE.as_secs() / 3);

/// How often it is counted where objects are in force, when nodes say something new.
const COUNT: Duration = Duration::from_millis(250);
/// And how often what is not in force everywhere for so long is said anew.
const COUNT_ALL: Duration = Duration::from_secs(15);

/// Larger ones are not judged: read as a whole they take many times of it.
const MAX_JUDGED: usize = 256 << 10;

/// Says of an object, as the API server has it, how it fares.
pub(crate) trait Judge: Send + Sync + 'static {
    fn judge(&self, path: &str, json: &str) -> Verdict;

    /// An object of any list says this now, or is gone (or too large). Gives the
    /// paths of others that may be judged differently by it.
    fn hear(&self, _path: &str, _json: Option<&str>) -> Vec<String> {
        Vec::new()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) namespace: String,
    /// Another one for each replica, and each of its lives.
    pub(crate) me: String,
    /// Lists of what is judged, as `/apis/GROUP/VERSION/PLURAL`.
    pub(crate) lists: Vec<&'static str>,
    /// Lists of what is judged by what is beside: when that is known.
    pub(crate) by_others: Vec<&'static str>,
    /// Lists that are only heard.
    pub(crate) beside: Vec<&'static str>,
    /// Where it is counted on how many nodes an object is in force.
    pub(crate) nodes: Option<Arc<Nodes>>,
    /// Where it is told of each that is refused.
    pub(crate) events: Arc<Events>,
}

/// What is kept of an object that was judged.
struct Judged {
    path: String,
    /// Without what it said.
    object: Slim,
    /// Its status says something else.
    is_due: bool,
    /// Its status has no room for all of it, which is told.
    is_full: bool,
    pending: Option<Pending>,
    /// Other objects that are to be looked at again.
    others: Vec<String>,
}

/// Of objects no more is held than where they are and whether it is their turn:
/// anybody may write large ones. A verdict is not held either, for it is about all
/// that an object says, and by which code: each one is judged when it is seen, and
/// again as it is then when it is written.
#[derive(Default)]
struct Writer {
    /// Path, and number of the list.
    known: HashMap<String, usize>,
    rotation: Rotation,
    firsts: Firsts,
    /// What is not in force everywhere.
    pending: HashMap<String, Pending>,
    /// Of which an event was left out, or is due without a write.
    untold: HashSet<String>,
    /// Writes in a row that were refused.
    refused: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Judged,
    ByOthers,
    Beside,
}

/// Is it known of the list what there is? Of a kind that is not installed there
/// is none.
fn is_whole<T>(seen: &Seen<'_, T>) -> bool {
    matches!(seen, Seen::All(_) | Seen::Failed(ApiError::NotFound(_)))
}

/// Until cancelled.
pub(crate) async fn run(
    api: Arc<dyn Api>,
    judge: Arc<dyn Judge>,
    config: Config,
    cancel: CancellationToken,
) {
    let writer = Arc::new(Mutex::new(Writer::default()));
    if let Some(nodes) = &config.nodes {
        let lists = config.lists.iter().chain(&config.by_others);
        nodes.set_kinds(lists.filter_map(|list| programmed::kind(list)));
    }
    let counting = Arc::new(Counting::new(config.nodes));
    let changed = Arc::new(Notify::new());
    let tasks = TaskTracker::new();
    let (heard, waits) = watch::channel(config.beside.len());
    let heard = Arc::new(heard);
    let of = |lists: &[&'static str], role: Role| {
        let all = lists.iter().map(|list| (*list, role));
        all.collect::<Vec<_>>()
    };
    let lists = [
        of(&config.lists, Role::Judged),
        of(&config.by_others, Role::ByOthers),
        of(&config.beside, Role::Beside),
    ];
    for (number, (list, role)) in lists.concat().into_iter().enumerate() {
        let (api, writer, changed) = (api.clone(), writer.clone(), changed.clone());
        let (judge, cancel) = (judge.clone(), cancel.clone());
        let (heard, mut waits) = (heard.clone(), waits.clone());
        let counting = counting.clone();
        tasks.spawn(async move {
            let read = |object: &str| {
                let counted = (&*counting, &*writer);
                judged(&*judge, counted, (list, role), object)
            };
            let mut is_new = role == Role::Beside;
            let following = async {
                if role == Role::ByOthers {
                    // The sender is held by this task, too: it cannot be gone.
                    let _known = waits.wait_for(|unheard| *unheard == 0).await;
                }
                follow(&*api, (list, ""), read, |seen| {
                    if is_new && is_whole(&seen) {
                        is_new = false;
                        heard.send_modify(|unheard| *unheard -= 1);
                    }
                    writer.lock().see((number, list), seen, &*judge);
                    changed.notify_one();
                })
                .await;
            };
            tokio::select! {
                () = cancel.cancelled() => {}
                () = following => {}
            }
        });
    }
    let (writes, events, cancelled) = (api.clone(), config.events.clone(), cancel.clone());
    tasks.spawn(async move { events.write(writes, cancelled).await });
    tasks.close();
    let judging = Judging {
        judge: &*judge,
        counting: &counting,
        events: &config.events,
    };
    let mut lease = Lease::new(&config.namespace, LEASE, &config.me);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count = tokio::time::interval(COUNT);
    count.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count_all = tokio::time::interval(COUNT_ALL);
    let mut free = clock();
    let mut is_reported = false;
    loop {
        let now = clock();
        let due = match lease.is_held(now) {
            true => writer.lock().rotation.due(now).map(|due| due.max(free)),
            false => None,
        };
        let wake = due.unwrap_or(now + LIFE);
        tokio::select! {
            () = cancel.cancelled() => break,
            () = changed.notified() => {}
            // Many reports of one moment are counted once.
            _ = count.tick(), if is_reported => {
                is_reported = false;
                writer.lock().count(&counting, false);
            }
            () = counting.changed(), if !is_reported => is_reported = true,
            _ = count_all.tick() => {
                let mut writer = writer.lock();
                if counting.counts() {
                    writer.count(&counting, true);
                }
                writer.tell_again(config.events.left_out(clock()));
            }
            _ = look.tick() => {
                // Of this moment: what is renewed now is good for as long as from now on.
                if let Err(error) = lease.look(&*api, clock()).await {
                    tracing::debug!(%error, "who writes status is not known");
                }
                let now = clock();
                counting.hold(lease.is_held(now), now);
            }
            () = tokio::time::sleep_until(wake.into()), if due.is_some() => {
                let pause = write_one(&*api, &judging, &writer).await;
                free = clock() + pause;
            }
        }
    }
    tasks.wait().await;
    lease.give_up(&*api).await;
}

/// The time that waits go by.
fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// By what it is decided what is said.
struct Judging<'r> {
    judge: &'r dyn Judge,
    counting: &'r Counting,
    events: &'r Events,
}

/// Gives how long to wait before the next one.
async fn write_one(api: &dyn Api, judging: &Judging<'_>, writer: &Mutex<Writer>) -> Duration {
    let now = clock();
    let Some(path) = writer.lock().rotation.next(now) else {
        return Duration::ZERO;
    };
    let written = write(api, judging, writer, &path).await;
    let mut writer = writer.lock();
    match written {
        Ok(true) => {
            writer.rotation.wrote(&path, now);
            writer.refused = 0;
        }
        Ok(false) => {}
        // Somebody changed it: the watch brings that, and its turn comes then.
        Err(ApiError::Conflict(_) | ApiError::NotFound(_)) => {}
        Err(ApiError::Away(why)) => {
            tracing::debug!(why, path, "a status is not written");
            writer.rotation.add(&path);
            return AWAY;
        }
        Err(error) => {
            tracing::warn!(%error, path, "a status is not written");
            writer.rotation.refused(&path, now + REFUSED);
            writer.rotation.add(&path);
            // It may be this one alone, or all of them.
            let pause = PAUSE.saturating_mul(1 << writer.refused.min(16));
            writer.refused = writer.refused.saturating_add(1);
            return pause.min(REFUSED);
        }
    }
    PAUSE
}

/// As the object is now. False where nothing is to be written.
async fn write(
    api: &dyn Api,
    judging: &Judging<'_>,
    writer: &Mutex<Writer>,
    path: &str,
) -> Result<bool, ApiError> {
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
    let slim: Slim = read(&json)?;
    let mut verdict = judging.judge.judge(path, &json);
    if judging.counting.counts() {
        let list = list_of(path);
        let version = writer.lock().firsts.version(path, &slim);
        let tally = judging.counting.tally();
        let of = (&*list, version);
        programmed::add(of, &slim, (tally.as_deref(), Say::Now), &mut verdict);
    }
    let said = after(&slim, &verdict);
    let is_untold = writer.lock().untold.remove(path);
    if said.is_none() && !is_untold {
        return Ok(false);
    }
    let mut object: Value = serde_json::from_str(&json)?;
    let mut told = warnings(path, &object, &verdict);
    told.extend(left_out(&slim, &verdict).map(|left_out| full(path, &object, left_out)));
    let is_due = said.is_some();
    if let Some((field, said)) = said {
        object["status"][field] = Value::Array(said);
        let status = format!("{path}/status");
        api.call(&status, Verb::Replace(object)).await?;
    }
    told.into_iter()
        .for_each(|warning| judging.events.note(warning));
    Ok(is_due)
}

/// `None` for one that has no place.
fn judged(
    judge: &dyn Judge,
    (counting, writer): (&Counting, &Mutex<Writer>),
    (list, role): (&str, Role),
    json: &str,
) -> Result<Option<Judged>, ApiError> {
    let slim: Slim = read(json)?;
    let Some(path) = path(list, &slim.metadata) else {
        return Ok(None);
    };
    // Agents judge it for themselves; it has no status.
    let is_judged = json.len() <= MAX_JUDGED;
    let others = judge.hear(&path, is_judged.then_some(json));
    let mut one = Judged {
        path,
        object: slim,
        is_due: false,
        is_full: false,
        pending: None,
        others,
    };
    if is_judged && role != Role::Beside {
        let mut verdict = judge.judge(&one.path, json);
        if counting.counts() {
            let version = writer.lock().firsts.version(&one.path, &one.object);
            let tally = counting.tally();
            let of = (list, version);
            let tally = (tally.as_deref(), Say::WhenEverywhere);
            one.pending = programmed::add(of, &one.object, tally, &mut verdict);
        }
        one.is_due = after(&one.object, &verdict).is_some();
        one.is_full = left_out(&one.object, &verdict).is_some();
    }
    one.object.status = None;
    Ok(Some(one))
}

/// Of an object of a namespace.
fn list_of(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').collect();
    match &parts[..] {
        [root @ .., "namespaces", _, plural, _] => format!("{}/{plural}", root.join("/")),
        _ => String::new(),
    }
}

fn path(list: &str, metadata: &Metadata) -> Option<String> {
    let (root, plural) = list.rsplit_once('/')?;
    let (namespace, name) = (&metadata.namespace, &metadata.name);
    let is_there = !namespace.is_empty() && !name.is_empty();
    is_there.then(|| format!("{root}/namespaces/{namespace}/{plural}/{name}"))
}

impl Writer {
    fn see(
        &mut self,
        (list, at): (usize, &str),
        seen: Seen<'_, Option<Judged>>,
        judge: &dyn Judge,
    ) {
        match seen {
            Seen::All(all) => {
                let now: HashSet<&str> = all.iter().flatten().map(|one| &*one.path).collect();
                let is_gone =
                    |(path, of): &(&String, &usize)| **of == list && !now.contains(path.as_str());
                let gone = self.known.iter().filter(is_gone);
                let gone: Vec<String> = gone.map(|(path, _)| path.clone()).collect();
                gone.iter().for_each(|path| self.forget(path, judge));
                all.into_iter()
                    .flatten()
                    .for_each(|one| self.put(list, one));
            }
            Seen::Is(one) => one.into_iter().for_each(|one| self.put(list, one)),
            Seen::IsGone(one) => one.iter().for_each(|one| self.forget(&one.path, judge)),
            Seen::Same => {}
            Seen::Failed(error) => {
                tracing::debug!(%error, list = at, "objects are not followed");
            }
        }
    }

    fn forget(&mut self, path: &str, judge: &dyn Judge) {
        self.known.remove(path);
        self.rotation.forget(path);
        self.firsts.forget(path);
        self.pending.remove(path);
        self.untold.remove(path);
        self.look_again(&judge.hear(path, None));
    }

    /// Each is judged when its turn comes, and not written where it says so already.
    fn look_again(&mut self, others: &[String]) {
        for path in others {
            if self.known.contains_key(path) {
                self.rotation.add(path);
            }
        }
    }

    /// They are judged again for the events of theirs that were left out.
    fn tell_again(&mut self, left_out: Vec<String>) {
        for path in left_out {
            if self.known.contains_key(&path) {
                self.rotation.add(&path);
                self.untold.insert(path);
            }
        }
    }

    fn put(&mut self, list: usize, one: Judged) {
        let others = one.others.iter().filter(|other| **other != one.path);
        self.look_again(&others.cloned().collect::<Vec<_>>());
        match one.is_due || one.is_full {
            true => self.rotation.add(&one.path),
            false => self.rotation.leave(&one.path),
        }
        if one.is_full {
            self.untold.insert(one.path.clone());
        }
        self.firsts.note(&one.path, &one.object);
        match one.pending {
            Some(pending) => self.pending.insert(one.path.clone(), pending),
            None => self.pending.remove(&one.path),
        };
        self.known.insert(one.path, list);
    }

    /// Looks at what is not in force everywhere: at once, what is now; else, all of
    /// which something else is to be said.
    fn count(&mut self, counting: &Counting, all: bool) {
        if self.pending.is_empty() {
            return;
        }
        let Some(tally) = counting.tally() else {
            return;
        };
        for (path, pending) in &mut self.pending {
            let count = tally.count((&pending.kind, &pending.object), pending.version);
            let is_other = || pending.said.as_deref() != Some(&*count.message());
            if count.nodes > 0 && (count.is_everywhere() || all && is_other()) {
                pending.said = Some(count.message());
                self.rotation.add(path);
            }
        }
    }
}
