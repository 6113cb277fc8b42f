//! An API server in a test's hands: objects with versions, watches, and the ways
//! in which a real one is away.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use super::{Answer, Api, ApiError, Page, TakeItem, Verb};

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    version: u64,
    /// By path.
    objects: BTreeMap<String, Value>,
    /// Version, kind of event, path, object.
    events: Vec<(u64, &'static str, String, Value)>,
    is_away: bool,
    reviews: HashMap<String, Value>,
    /// Instead of any answer about a token.
    unreviewed: Option<ApiError>,
    /// Answers come so late whose paths begin with this.
    late: HashMap<String, Duration>,
    /// Each list is too old.
    lists_are_gone: bool,
    calls: Vec<String>,
    /// Paths of changes that are refused, and how.
    refused: Vec<(String, u16)>,
    /// Changes that somebody else makes right before the next ones here.
    faster: Vec<(String, Value)>,
}

impl State {
    fn put(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let kind = match self.objects.contains_key(path) {
            true => "MODIFIED",
            false => "ADDED",
        };
        self.objects.insert(path.to_owned(), object.clone());
        let event = (self.version, kind, path.to_owned(), object.clone());
        self.events.push(event);
        object
    }

    fn replace(&mut self, path: &str, object: Value) -> Result<Value, ApiError> {
        let (at, only_status) = match path.strip_suffix("/status") {
            Some(at) => (at, true),
            None => (path, false),
        };
        let there = self.objects.get(at).cloned();
        let mut there = there.ok_or_else(|| ApiError::NotFound(at.to_owned()))?;
        let asked = &object["metadata"]["resourceVersion"];
        if !asked.is_null() && *asked != there["metadata"]["resourceVersion"] {
            return Err(ApiError::Conflict(at.to_owned()));
        }
        if only_status {
            there["status"] = object["status"].clone();
            return Ok(self.put(at, there));
        }
        Ok(self.put(at, encoded(object)))
    }
}

/// As a Secret's `stringData` is taken in.
fn encoded(mut object: Value) -> Value {
    let plain = object.as_object_mut().and_then(|o| o.remove("stringData"));
    for (name, value) in plain
        .as_ref()
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let text = value.as_str().unwrap_or_default();
        object["data"][name] = json!(encode(text.as_bytes()));
    }
    object
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let all =
            part.iter().fold(0_u32, |all, b| all << 8 | u32::from(*b)) << (8 * (3 - part.len()));
        for n in 0..4 {
            text.push(match n <= part.len() {
                true => char::from(LETTERS[(all >> (18 - 6 * n) & 63) as usize]),
                false => '=',
            });
        }
    }
    text
}

/// Is the object at this path in the collection?
fn is_in(path: &str, collection: &str) -> bool {
    let Some((of, _)) = path.rsplit_once('/') else {
        return false;
    };
    let all = |of: &str| {
        let (root, rest) = of.split_once("/namespaces/")?;
        let (_, plural) = rest.split_once('/')?;
        Some(format!("{root}/{plural}"))
    };
    of == collection || all(of).as_deref() == Some(collection)
}

impl Fake {
    pub(crate) fn put(&self, path: &str, object: Value) -> Value {
        let put = self.0.state.lock().put(path, object);
        self.0.changed.notify_waiters();
        put
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.state.lock().objects.get(path).cloned()
    }

    pub(crate) fn delete(&self, path: &str) {
        let mut state = self.0.state.lock();
        if let Some(mut object) = state.objects.remove(path) {
            state.version += 1;
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            let event = (state.version, "DELETED", path.to_owned(), object);
            state.events.push(event);
        }
        drop(state);
        self.0.changed.notify_waiters();
    }

    /// Watches break, and nothing is answered.
    pub(crate) fn set_away(&self, is_away: bool) {
        self.0.state.lock().is_away = is_away;
        self.0.changed.notify_waiters();
    }

    /// Its answer for a token; without one it is not authenticated.
    pub(crate) fn review(&self, token: &str, status: Value) {
        let mut state = self.0.state.lock();
        state.reviews.insert(token.to_owned(), status);
    }

    /// Questions about tokens alone are answered so.
    pub(crate) fn fail_reviews(&self, error: Option<ApiError>) {
        self.0.state.lock().unreviewed = error;
    }

    /// Answers about tokens are as late as that.
    pub(crate) fn delay_reviews(&self, by: Duration) {
        self.delay(REVIEWS, by);
    }

    /// Each answer is as late as that whose path begins with this.
    pub(crate) fn delay(&self, begin: &str, by: Duration) {
        let mut state = self.0.state.lock();
        state.late.insert(begin.to_owned(), by);
    }

    fn late(&self, path: &str) -> Duration {
        let state = self.0.state.lock();
        let late = state
            .late
            .iter()
            .filter(|(begin, _)| path.starts_with(begin.as_str()));
        late.map(|(_, by)| *by).max().unwrap_or_default()
    }

    pub(crate) fn say_gone_to_lists(&self) {
        self.0.state.lock().lists_are_gone = true;
    }

    /// Right before the next change here, somebody else makes this one.
    pub(crate) fn is_faster_with(&self, path: &str, object: Value) {
        let mut state = self.0.state.lock();
        state.faster.push((path.to_owned(), object));
    }

    /// Changes are refused whose paths begin with this.
    pub(crate) fn refuse(&self, begin: &str, code: u16) {
        self.0.state.lock().refused.push((begin.to_owned(), code));
    }

    /// All calls so far that begin with this, as `GET /path`.
    pub(crate) fn calls(&self, begin: &str) -> usize {
        let state = self.0.state.lock();
        state.calls.iter().filter(|c| c.starts_with(begin)).count()
    }

    fn answer(&self, path: &str, verb: Verb) -> Result<String, ApiError> {
        let mut state = self.0.state.lock();
        if state.is_away {
            return Err(ApiError::Away("as the test wants".to_owned()));
        }
        let (at, query) = path.split_once('?').unwrap_or((path, ""));
        let word = match &verb {
            Verb::Get => "GET",
            Verb::Create(_) => "POST",
            Verb::Replace(_) => "PUT",
        };
        state.calls.push(format!("{word} {at}"));
        if let (Verb::Create(review), REVIEWS) = (&verb, at) {
            let token = review["spec"]["token"].as_str().unwrap_or_default();
            if let Some(error) = &state.unreviewed {
                return Err(error.clone());
            }
            let unknown = json!({"authenticated": false, "error": "unknown"});
            let status = state.reviews.get(token).cloned().unwrap_or(unknown);
            return Ok(json!({ "status": status }).to_string());
        }
        if state.lists_are_gone && query.contains("limit=") {
            return Err(ApiError::Gone);
        }
        let mut refused = state.refused.iter();
        if !matches!(verb, Verb::Get)
            && let Some((_, code)) = refused.find(|(begin, _)| at.starts_with(begin.as_str()))
        {
            return Err(ApiError::Refused {
                path: at.to_owned(),
                code: *code,
                message: "as the test wants".to_owned(),
            });
        }
        if !matches!(verb, Verb::Get) {
            for (path, object) in std::mem::take(&mut state.faster) {
                state.put(&path, encoded(object));
            }
        }
        let answer = match verb {
            Verb::Get => match state.objects.get(at) {
                Some(object) => object.clone(),
                None if query.contains("limit=") => {
                    let named = query.split_once("metadata.name%3D").map(|(_, name)| name);
                    let items: Vec<_> = state
                        .objects
                        .iter()
                        .filter(|(path, _)| is_in(path, at))
                        .filter(|(path, _)| named.is_none_or(|name| path.ends_with(name)))
                        .map(|(_, object)| object.clone())
                        .collect();
                    let version = state.version.to_string();
                    json!({"metadata": {"resourceVersion": version}, "items": items})
                }
                None => return Err(ApiError::NotFound(at.to_owned())),
            },
            Verb::Create(object) => {
                let name = object["metadata"]["name"].as_str().unwrap_or("generated");
                let path = format!("{at}/{name}");
                if state.objects.contains_key(&path) {
                    return Err(ApiError::Exists(path));
                }
                state.put(&path, encoded(object))
            }
            Verb::Replace(object) => state.replace(at, object)?,
        };
        drop(state);
        self.0.changed.notify_waiters();
        Ok(answer.to_string())
    }

    /// What is new since that version; an error where it is away.
    fn since(&self, collection: &str, version: u64) -> Option<(u64, Vec<String>)> {
        let state = self.0.state.lock();
        if state.is_away {
            return None;
        }
        let new = state.events.iter().filter(|(v, ..)| *v > version);
        let of = new.filter(|(_, _, path, _)| is_in(path, collection));
        let lines = of.map(|(_, kind, _, object)| json!({"type": kind, "object": object}));
        Some((state.version, lines.map(|line| line.to_string()).collect()))
    }
}

impl Api for Fake {
    fn call<'a>(&'a self, path: &'a str, verb: Verb) -> Answer<'a, String> {
        Box::pin(async move {
            let late = self.late(path);
            if !late.is_zero() {
                tokio::time::sleep(late).await;
            }
            self.answer(path, verb)
        })
    }

    fn list<'a>(&'a self, path: &'a str, take: &'a mut TakeItem<'_>) -> Answer<'a, Page> {
        Box::pin(async move {
            let list: Value = serde_json::from_str(&self.answer(path, Verb::Get)?)?;
            for item in list["items"].as_array().into_iter().flatten() {
                take(&item.to_string())?;
            }
            let version = list["metadata"]["resourceVersion"].as_str();
            Ok(Page {
                version: version.unwrap_or_default().to_owned(),
                next: None,
            })
        })
    }

    fn watch<'a>(&'a self, path: &'a str) -> Answer<'a, mpsc::Receiver<Result<String, ApiError>>> {
        Box::pin(async move {
            let (collection, query) = path.split_once('?').unwrap_or((path, ""));
            let version = query
                .split('&')
                .find_map(|part| part.strip_prefix("resourceVersion="));
            let mut version = version.and_then(|v| v.parse().ok()).unwrap_or(0);
            let (lines, followed) = mpsc::channel(16);
            let (fake, collection) = (self.clone(), collection.to_owned());
            if fake.since(&collection, version).is_none() {
                return Err(ApiError::Away("as the test wants".to_owned()));
            }
            tokio::spawn(async move {
                loop {
                    let changed = fake.0.changed.notified();
                    let Some((newest, new)) = fake.since(&collection, version) else {
                        let away = Err(ApiError::Away("as the test wants".to_owned()));
                        let _unheard = lines.send(away).await;
                        return;
                    };
                    version = newest;
                    for line in new {
                        if lines.send(Ok(line)).await.is_err() {
                            return;
                        }
                    }
                    tokio::select! {
                        () = changed => {}
                        () = lines.closed() => return,
                    }
                }
            });
            Ok(followed)
        })
    }
}
