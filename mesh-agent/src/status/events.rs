//! Events: what went wrong with an object, told beside it, for `kubectl describe`.
//!
//! Conditions carry the truth; an event is a hint that the API server forgets after an
//! hour. So none is worth waiting for: of one object and one reason there is one in ten
//! minutes, by its name, whichever replica and whichever node speaks; what finds no room
//! is left out and comes again with the next report; and few are written in a second.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::conditions::Condition;
use super::object::Verdict;
use super::parents::CONTROLLER;
use crate::cluster::{Api, ApiError, Verb};

/// One event of an object and a reason.
const EACH: Duration = Duration::from_secs(600);
/// Those that wait.
const MAX_WAITING: usize = 256;
/// Those that are known to be written.
const MAX_KNOWN: usize = 4_096;
/// Between two writes.
const PAUSE: Duration = Duration::from_millis(200);
const AWAY: Duration = Duration::from_secs(5);
/// After one that was refused: another one would be as well.
const REFUSED: Duration = Duration::from_secs(60);
const MAX_NAME: usize = 200;
const MAX_REASON: usize = 64;
const MAX_MESSAGE: usize = 1_000;

/// What it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Warning {
    pub(crate) about: About,
    /// In one word that stays the same.
    pub(crate) reason: String,
    /// Cause first, then what to do.
    pub(crate) message: String,
    /// The node that says so, where one does.
    pub(crate) node: String,
}

/// Of an object of which something else is said than that it is as it should be; not
/// that it is not in force yet.
pub(super) fn warnings(object: &Value, verdict: &Verdict) -> Vec<Warning> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    let about = About {
        api_version: text(&object["apiVersion"]),
        kind: text(&object["kind"]),
        namespace: text(&metadata["namespace"]),
        name: text(&metadata["name"]),
        uid: text(&metadata["uid"]),
    };
    let all: Vec<&Condition> = match verdict {
        Verdict::Conditions(all) => all.iter().collect(),
        Verdict::Parents(all) | Verdict::Ancestors(all) => {
            all.iter().flat_map(|parent| &parent.conditions).collect()
        }
    };
    let wrong = all.into_iter().filter(|one| one.is_wrong());
    let warnings = wrong.map(|one| Warning {
        about: about.clone(),
        reason: one.reason.to_owned(),
        message: one.message.clone(),
        node: String::new(),
    });
    warnings.collect()
}

/// Those that are to be written.
#[derive(Default)]
pub(crate) struct Events {
    inner: Mutex<Inner>,
    more: Notify,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<(String, Warning)>,
    /// By name, when each was taken.
    known: HashMap<String, Instant>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    pub(crate) fn note(&self, warning: Warning) {
        let About { name, uid, .. } = &warning.about;
        if name.is_empty() || uid.is_empty() || warning.about.namespace.is_empty() {
            return;
        }
        let (name, now) = (name_of(&warning, SystemTime::now()), Instant::now());
        let mut inner = self.inner.lock();
        if inner.known.contains_key(&name) || inner.waiting.len() >= MAX_WAITING {
            return;
        }
        if inner.known.len() >= MAX_KNOWN {
            inner.known.retain(|_, at| at.elapsed() < EACH);
        }
        if inner.known.len() >= MAX_KNOWN {
            return;
        }
        inner.known.insert(name.clone(), now);
        inner.waiting.push_back((name, warning));
        drop(inner);
        self.more.notify_one();
    }

    fn next(&self) -> Option<(String, Warning)> {
        self.inner.lock().waiting.pop_front()
    }

    /// Until cancelled.
    pub(super) async fn write(&self, api: Arc<dyn Api>, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.write_all(&*api) => {}
        }
    }

    async fn write_all(&self, api: &dyn Api) {
        loop {
            let more = self.more.notified();
            let Some((name, warning)) = self.next() else {
                more.await;
                continue;
            };
            let list = format!("/api/v1/namespaces/{}/events", warning.about.namespace);
            let created = Verb::Create(object(&name, &warning, SystemTime::now()));
            let pause = match api.call(&list, created).await {
                Ok(_) => PAUSE,
                // Said already; or its namespace is gone, or ends.
                Err(ApiError::Exists(_) | ApiError::NotFound(_)) => PAUSE,
                Err(ApiError::Away(_)) => AWAY,
                Err(error) => {
                    tracing::warn!(%error, list, "an event is not written");
                    REFUSED
                }
            };
            sleep(pause).await;
        }
    }
}

/// The same for all who say the same within a while.
fn name_of(warning: &Warning, now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let while_ = since.as_secs() / EACH.as_secs();
    let said = format!("{}\0{}\0{while_}", warning.about.uid, warning.reason);
    let digest = Sha256::digest(said.as_bytes());
    let digits: String = digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    // Names of objects are ASCII.
    let name: String = warning.about.name.chars().take(MAX_NAME).collect();
    format!("{}.{digits}", name.trim_end_matches(['.', '-']))
}

fn object(name: &str, warning: &Warning, now: SystemTime) -> Value {
    let now = humantime::format_rfc3339_seconds(now).to_string();
    let About {
        api_version,
        kind,
        namespace,
        name: of,
        uid,
    } = &warning.about;
    let reason = warning.reason.chars().filter(char::is_ascii_alphanumeric);
    let reason: String = reason.take(MAX_REASON).collect();
    let message: String = warning.message.chars().take(MAX_MESSAGE).collect();
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": {
            "apiVersion": api_version, "kind": kind, "namespace": namespace, "name": of, "uid": uid,
        },
        "type": "Warning", "reason": reason, "message": message, "count": 1,
        "firstTimestamp": now, "lastTimestamp": now,
        "source": {"component": "mesh-agent", "host": warning.node},
        "reportingComponent": CONTROLLER, "reportingInstance": warning.node,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fake::Fake;

    fn warning(pod: &str, reason: &str, node: &str) -> Warning {
        Warning {
            about: About {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                namespace: "shop".to_owned(),
                name: pod.to_owned(),
                uid: format!("uid-{pod}"),
            },
            reason: reason.to_owned(),
            message: "its runtime class is a sandbox".to_owned(),
            node: node.to_owned(),
        }
    }

    #[test]
    fn what_is_said_again_is_one_event_and_a_while_later_another() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let name = |of: &Warning, seconds| name_of(of, at(seconds));
        let first = warning("web", "SandboxedRuntime", "n1");
        let mut other = warning("web", "SandboxedRuntime", "n2");
        other.message.push_str(" by now");
        assert_eq!(name(&first, 1_200), name(&other, 1_799));
        assert_ne!(name(&first, 1_200), name(&first, 1_800));
        assert_ne!(
            name(&first, 0),
            name(&warning("web", "AnotherMesh", "n1"), 0)
        );
        let long = warning(&"a.".repeat(126), "SandboxedRuntime", "n1");
        assert!(name(&long, 0).len() <= 253 && !name(&long, 0).contains(".."));
        let one = object("n", &warning("web", "Bad word\n", "n1"), at(0));
        assert_eq!(one["reason"], "Badword");
    }

    #[test]
    fn more_than_there_is_room_for_are_left_out() {
        let events = Events::default();
        for n in 0..10_000 {
            events.note(warning(&format!("p{n}"), "AnotherMesh", "n1"));
        }
        let inner = events.inner.lock();
        assert_eq!(inner.waiting.len(), MAX_WAITING);
        assert!(inner.known.len() <= MAX_KNOWN);
    }

    #[tokio::test]
    async fn an_event_is_written_beside_its_object_once() {
        let (fake, events) = (Fake::default(), Arc::new(Events::default()));
        for _ in 0..3 {
            events.note(warning("web", "AnotherMesh", "n1"));
        }
        events.note(warning("db", "AnotherMesh", "n1"));
        let cancel = CancellationToken::new();
        let (api, writing) = (Arc::new(fake.clone()), events.clone());
        let ends = cancel.clone();
        let task = tokio::spawn(async move { writing.write(api, ends).await });
        let all = || fake.calls("POST /api/v1/namespaces/shop/events");
        let both = tokio::time::timeout(Duration::from_secs(20), async {
            while all() < 2 {
                tokio::task::yield_now().await;
            }
        });
        assert!(both.await.is_ok());
        cancel.cancel();
        task.await.expect("ended");
        assert_eq!(all(), 2);
        let name = name_of(&warning("web", "AnotherMesh", "n1"), SystemTime::now());
        let event = fake.get(&format!("/api/v1/namespaces/shop/events/{name}"));
        let event = event.expect("written");
        assert_eq!(event["involvedObject"]["uid"], "uid-web");
        assert_eq!(event["reason"], "AnotherMesh");
    }
}
