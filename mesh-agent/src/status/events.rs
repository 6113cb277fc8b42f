//! Events: what went wrong with an object, told beside it, for `kubectl describe`.
//!
//! Conditions carry the truth; an event is a hint that the API server forgets after an
//! hour. So none is worth waiting for: of one object and one reason there is one in ten
//! minutes, by its name, whichever replica and whichever node speaks, and of few reasons;
//! few are written in a second, in turn by who speaks. What finds no room, or is refused
//! in its namespace, is left out for now: of a pod it comes again with the node's next
//! report, of an object that is judged when its turn comes again.

use std::collections::{BTreeSet, HashMap};
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
use super::parents::{CONTROLLER, Kept};
use super::told::{EACH, Told};
use super::waiting::Waiting;
use crate::cluster::{Api, ApiError, Verb};

/// Objects that were left out and are looked at again.
const MAX_LEFT_OUT: usize = 16_384;
/// Namespaces in which nothing may be written for now.
const MAX_BARRED: usize = 1_024;
/// Between two writes.
const PAUSE: Duration = Duration::from_millis(200);
const AWAY: Duration = Duration::from_secs(5);
/// In a namespace where one was refused: another one would be as well. And at most after
/// several in a row, wherever they were.
const REFUSED: Duration = Duration::from_secs(60);
const MAX_NAME: usize = 200;
const MAX_OBJECT: usize = 253;
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
    /// Where the object is, if it is judged here.
    pub(crate) path: String,
}

impl Warning {
    /// Who says it may say anything.
    fn cut(&mut self) {
        let reason = self.reason.chars().filter(char::is_ascii_alphanumeric);
        self.reason = reason.take(MAX_REASON).collect();
        self.message = self.message.chars().take(MAX_MESSAGE).collect();
        // As long as one of the API may be.
        self.about.name = self.about.name.chars().take(MAX_OBJECT).collect();
    }

    /// Whose turn it is: nodes speak for their pods, namespaces for what is in them.
    fn speaker(&self) -> String {
        match self.node.is_empty() {
            true => format!("/{}", self.about.namespace),
            false => self.node.clone(),
        }
    }
}

/// Some of what is to be said of it finds no room in its status.
pub(super) fn full(path: &str, object: &Value, (count, kept): (usize, Kept)) -> Warning {
    Warning {
        about: about(object),
        reason: "StatusListFull".to_owned(),
        message: format!(
            "of {count} of its {} nothing is said: the list in its status has {} places at most, and entries of other controllers count; what is in force does not depend on it (name fewer in one object, or remove entries of controllers that are gone)",
            kept.list, kept.most
        ),
        node: String::new(),
        path: path.to_owned(),
    }
}

fn about(object: &Value) -> About {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    About {
        api_version: text(&object["apiVersion"]),
        kind: text(&object["kind"]),
        namespace: text(&metadata["namespace"]),
        name: text(&metadata["name"]),
        uid: text(&metadata["uid"]),
    }
}

/// Of an object of which something else is said than that it is as it should be; not
/// that it is not in force yet.
pub(super) fn warnings(path: &str, object: &Value, verdict: &Verdict) -> Vec<Warning> {
    let about = about(object);
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
        path: path.to_owned(),
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
    waiting: Waiting<(String, Warning)>,
    told: Told,
    /// By namespace, until when.
    barred: HashMap<String, Instant>,
    /// Paths of what is judged here.
    left_out: BTreeSet<String>,
}

impl Inner {
    fn is_barred(&self, namespace: &str, now: Instant) -> bool {
        self.barred.get(namespace).is_some_and(|until| *until > now)
    }

    fn bar(&mut self, namespace: &str, now: Instant) {
        if self.barred.len() >= MAX_BARRED {
            self.barred.retain(|_, until| *until > now);
        }
        if self.barred.len() < MAX_BARRED {
            self.barred.insert(namespace.to_owned(), now + REFUSED);
        }
    }

    /// It may be told when it is said again.
    fn leave_out(&mut self, warning: Warning) {
        self.told.forget(&warning.about.uid, &warning.reason);
        if !warning.path.is_empty() && self.left_out.len() < MAX_LEFT_OUT {
            self.left_out.insert(warning.path);
        }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    pub(crate) fn note(&self, mut warning: Warning) {
        warning.cut();
        let About {
            name,
            uid,
            namespace,
            ..
        } = &warning.about;
        if name.is_empty() || uid.is_empty() || namespace.is_empty() {
            return;
        }
        let (name, now) = (name_of(&warning, SystemTime::now()), Instant::now());
        let mut inner = self.inner.lock();
        if inner.is_barred(namespace, now) {
            return inner.leave_out(warning);
        }
        if !inner.told.is_new(uid, &warning.reason, &name, now) {
            return;
        }
        let speaker = warning.speaker();
        if let Some((_, dropped)) = inner.waiting.push(speaker, (name, warning)) {
            inner.leave_out(dropped);
        }
        drop(inner);
        self.more.notify_one();
    }

    /// Those of which something was left out and finds room now. Once.
    pub(super) fn left_out(&self, now: Instant) -> Vec<String> {
        let mut inner = self.inner.lock();
        let namespace = |path: &str| {
            let behind = path.split_once("/namespaces/").map(|(_, behind)| behind);
            let namespace = behind.and_then(|behind| behind.split('/').next());
            namespace.unwrap_or_default().to_owned()
        };
        let open = |path: &&String| !inner.is_barred(&namespace(path), now);
        let again = inner.left_out.iter().filter(open);
        let again: Vec<String> = again.take(inner.waiting.room()).cloned().collect();
        for path in &again {
            inner.left_out.remove(path);
        }
        again
    }

    /// The next one that may be written.
    fn next(&self) -> Option<(String, Warning)> {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        loop {
            let (name, warning) = inner.waiting.next()?;
            if !inner.is_barred(&warning.about.namespace, now) {
                return Some((name, warning));
            }
            inner.leave_out(warning);
        }
    }

    /// Until cancelled.
    pub(super) async fn write(&self, api: Arc<dyn Api>, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.write_all(&*api) => {}
        }
    }

    async fn write_all(&self, api: &dyn Api) {
        let mut refused = 0;
        loop {
            let more = self.more.notified();
            let Some((name, warning)) = self.next() else {
                more.await;
                continue;
            };
            let list = format!("/api/v1/namespaces/{}/events", warning.about.namespace);
            let created = Verb::Create(object(&name, &warning, SystemTime::now()));
            let written = api.call(&list, created).await;
            let pause = self.note_written(written, (name, warning), &mut refused);
            sleep(pause).await;
        }
    }

    /// Gives how long to wait before the next one. `refused`: how many in a row.
    fn note_written(
        &self,
        written: Result<String, ApiError>,
        (name, warning): (String, Warning),
        refused: &mut u32,
    ) -> Duration {
        let mut inner = self.inner.lock();
        match written {
            // Said already; or its namespace is gone.
            Ok(_) | Err(ApiError::Exists(_) | ApiError::NotFound(_)) => *refused = 0,
            Err(ApiError::Away(_)) => {
                let speaker = warning.speaker();
                if let Some((_, dropped)) = inner.waiting.put_back(speaker, (name, warning)) {
                    inner.leave_out(dropped);
                }
                return AWAY;
            }
            // This one alone is not to be had.
            Err(error @ ApiError::Refused { code: 422, .. }) => {
                tracing::warn!(%error, name, "an event is not written");
            }
            // Where the namespace ends, or has its quota of them, or none may be written.
            Err(error) => {
                let namespace = warning.about.namespace.clone();
                tracing::warn!(%error, namespace, "no event is written there for a while");
                inner.bar(&namespace, Instant::now());
                inner.leave_out(warning);
                let pause = PAUSE.saturating_mul(1 << (*refused).min(16));
                *refused = refused.saturating_add(1);
                return pause.min(REFUSED);
            }
        }
        PAUSE
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
    let (reason, message) = (&warning.reason, &warning.message);
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
    use crate::status::told::{MAX_REASONS, MAX_TOLD};
    use crate::status::waiting::{MAX_OF_ONE, MAX_WAITING};

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
            path: String::new(),
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
        let mut odd = warning("web", "Bad word\n", "n1");
        odd.about.name = "ä".repeat(1_000);
        odd.cut();
        let one = object("n", &odd, at(0));
        assert_eq!(one["reason"], "Badword");
    }

    fn waiting(events: &Events) -> usize {
        events.inner.lock().waiting.len()
    }

    #[test]
    fn more_than_there_is_room_for_are_left_out() {
        let events = Events::default();
        for n in 0..10_000 {
            let node = format!("n{}", n % 100);
            events.note(warning(&format!("p{n}"), "AnotherMesh", &node));
        }
        assert_eq!(waiting(&events), MAX_WAITING);
        assert!(events.inner.lock().told.len() <= MAX_TOLD);
    }

    #[test]
    fn one_node_fills_neither_the_queue_nor_what_is_said_of_one_pod() {
        let events = Events::default();
        for n in 0..1_000 {
            events.note(warning("web", &format!("BecauseOf{n}"), "n1"));
        }
        assert_eq!(waiting(&events), MAX_REASONS, "whatever words it finds");
        for n in 0..1_000 {
            events.note(warning(&format!("p{n}"), "AnotherMesh", "n1"));
        }
        assert_eq!(waiting(&events), MAX_OF_ONE);
        events.note(warning("other", "AnotherMesh", "n2"));
        let first: Vec<String> = (0..2)
            .filter_map(|_| events.next())
            .map(|(_, one)| one.node)
            .collect();
        assert_eq!(first, ["n1", "n2"], "in turn");
    }

    #[test]
    fn what_was_left_out_is_told_when_it_is_said_again() {
        let events = Events::default();
        let bad = |n: usize| Warning {
            path: format!("/apis/x/v1/namespaces/shop/policies/p{n}"),
            ..warning(&format!("p{n}"), "Invalid", "")
        };
        for n in 0..MAX_OF_ONE + 1 {
            events.note(bad(n));
        }
        while events.next().is_some() {}
        let again = events.left_out(Instant::now());
        assert_eq!(again.len(), 1);
        assert_eq!(again[0], bad(MAX_OF_ONE).path);
        events.note(bad(MAX_OF_ONE));
        assert_eq!(waiting(&events), 1);
        assert!(events.left_out(Instant::now()).is_empty(), "once");
    }

    #[test]
    fn an_event_that_is_refused_holds_up_its_namespace_or_itself_and_no_other() {
        let events = Events::default();
        let refused = |code| {
            Err(ApiError::Refused {
                path: "events".to_owned(),
                code,
                message: "as told".to_owned(),
            })
        };
        let mut of_ending = warning("web", "AnotherMesh", "n1");
        of_ending.path = "/apis/x/v1/namespaces/shop/policies/web".to_owned();
        let mut other = warning("db", "AnotherMesh", "n1");
        other.about.namespace = "bank".to_owned();
        let mut in_a_row = 0;
        for one in [
            of_ending.clone(),
            warning("too", "AnotherMesh", "n1"),
            other,
        ] {
            events.note(one);
        }
        let first = events.next().expect("one");
        let pause = events.note_written(refused(403), first, &mut in_a_row);
        assert_eq!(pause, PAUSE);
        let next = events.next().expect("the other namespace's");
        assert_eq!(next.1.about.namespace, "bank");
        // One that the API server finds no event at all.
        let pause = events.note_written(refused(422), next, &mut in_a_row);
        assert_eq!(pause, PAUSE);
        events.note(of_ending.clone());
        assert_eq!(waiting(&events), 0, "not for a while");
        assert!(events.left_out(Instant::now()).is_empty());
        let later = Instant::now() + REFUSED;
        assert_eq!(events.left_out(later), [of_ending.path]);
        // Where none may be written at all, few are tried.
        let mut pause = PAUSE;
        for n in 0..20 {
            let mut one = warning("web", "AnotherMesh", "n1");
            one.about.namespace = format!("ns{n}");
            pause = events.note_written(refused(403), (String::new(), one), &mut in_a_row);
        }
        assert_eq!(pause, REFUSED);
    }

    #[test]
    fn an_event_that_nobody_answered_is_written_later() {
        let events = Events::default();
        events.note(warning("web", "AnotherMesh", "n1"));
        let one = events.next().expect("it");
        let away = Err(ApiError::Away("as told".to_owned()));
        assert_eq!(events.note_written(away, one.clone(), &mut 0), AWAY);
        assert_eq!(events.next(), Some(one));
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
