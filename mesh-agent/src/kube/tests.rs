//! A follower before an API server that misbehaves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::scripted::{Odd, Scripted};
use super::*;

const PODS: Resource = Resource::PODS;
const WIDGETS: Resource = Resource {
    group: "example.io",
    versions: &["v1", "v1beta1"],
    kind: "Widget",
    plural: "widgets",
    optional: true,
    dispensable: false,
    cut: Cut::NOTHING,
};
/// Longer than any of it takes, also on a busy machine.
const LONG: Duration = Duration::from_secs(20);

fn impatient() -> Patience {
    let ms = Duration::from_millis;
    Patience {
        head: ms(500),
        more: ms(500),
        list: ms(5_000),
        watch: 2,
        grace: ms(300),
        away: ms(50),
        refused: ms(100),
        absent: ms(50),
        gone: ms(150),
        ..Patience::default()
    }
}

fn pod(name: &str) -> Value {
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "n"}})
}

/// What a taker of the events knows: paths with versions, and whether it knows all.
#[derive(Default)]
struct Mirror {
    known: BTreeMap<String, String>,
    uids: BTreeMap<String, Option<String>>,
    staged: BTreeMap<String, String>,
    ends: usize,
    abandoned: usize,
    absent: usize,
}

impl Mirror {
    fn take(&mut self, resource: &Resource, event: Event) {
        let path = |head: &Head| resource.path(head.namespace.as_deref(), &head.name);
        match event {
            Event::Begin => self.staged.clear(),
            Event::Listed(item) => {
                self.uids.insert(path(&item.head), item.head.uid);
                self.staged.insert(
                    path(&Item::read(resource, &item.json).head),
                    item.head.version,
                );
            }
            Event::End(_) => {
                self.known = std::mem::take(&mut self.staged);
                self.ends += 1;
            }
            Event::Abandoned => {
                self.staged.clear();
                self.abandoned += 1;
            }
            Event::Changed(item) => {
                self.known.insert(path(&item.head), item.head.version);
            }
            Event::Deleted(head) => {
                self.known.remove(&path(&head));
            }
            Event::Bookmark(_) => {}
            Event::Absent => {
                self.known.clear();
                self.absent += 1;
            }
        }
    }
}

struct Following {
    resource: Resource,
    mirror: Mirror,
    events: mpsc::Receiver<(usize, Event)>,
    progress: Arc<Progress>,
    gate: Arc<Gate>,
}

impl Following {
    async fn start(server: &Scripted, resource: Resource, patience: Patience) -> Self {
        let access = Access::Kubeconfig(server.kubeconfig());
        let client = Client::new(&access, patience).await.expect("a client");
        let (sender, events) = mpsc::channel(4);
        let (gate, progress) = (Arc::default(), Arc::default());
        let follower = Follower::new(
            client,
            resource,
            Arc::clone(&gate),
            Arc::clone(&progress),
            (7, sender),
        );
        tokio::spawn(follower.run());
        Self {
            resource,
            mirror: Mirror::default(),
            events,
            progress,
            gate,
        }
    }

    /// Takes events until it is so.
    async fn until(&mut self, what: &str, is_so: impl Fn(&Mirror) -> bool) {
        let end = Instant::now() + LONG;
        while !is_so(&self.mirror) {
            let left = end.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.events.recv()).await {
                Ok(Some((7, event))) => self.mirror.take(&self.resource, event),
                other => panic!("{what}: {other:?} after {:?}", self.progress.seen()),
            }
        }
    }

    /// The same of what no event tells.
    async fn until_so(&mut self, what: &str, is_so: impl Fn(&Mirror) -> bool) {
        let end = Instant::now() + LONG;
        while !is_so(&self.mirror) {
            assert!(Instant::now() < end, "{what}: {:?}", self.progress.seen());
            let soon = Duration::from_millis(10);
            if let Ok(Some((7, event))) = tokio::time::timeout(soon, self.events.recv()).await {
                self.mirror.take(&self.resource, event);
            }
        }
    }

    async fn until_it_knows(&mut self, server: &Scripted) {
        let all = server.objects(&self.resource);
        let what = format!("{all:?}");
        self.until(&what, |mirror| mirror.ends > 0 && mirror.known == all)
            .await;
    }
}

#[tokio::test]
async fn what_is_there_is_listed_and_what_changes_is_told() {
    let server = Scripted::start(&[PODS]).await;
    server.put("pods", pod("a"));
    let mut pods = Following::start(&server, PODS, impatient()).await;
    pods.until_it_knows(&server).await;
    server.put("pods", pod("b"));
    server.put("pods", pod("a"));
    pods.until_it_knows(&server).await;
    server.delete("pods", "n", "a");
    pods.until_it_knows(&server).await;
    assert_eq!(pods.mirror.ends, 1, "by watching alone");
    assert_eq!(pods.progress.seen().phase, Phase::Watching);
    let first = &server.requests()[0];
    assert!(first.contains("resourceVersion=0"), "{first}");
}

#[tokio::test]
async fn a_list_in_pages_is_one_list() {
    let server = Scripted::start(&[PODS]).await;
    server.page(2);
    for name in ["a", "b", "c", "d", "e"] {
        server.put("pods", pod(name));
    }
    let mut pods = Following::start(&server, PODS, impatient()).await;
    pods.until_it_knows(&server).await;
    // Asked for as of a version that it does not have: of now, and in pages.
    server.set_back(3);
    server.cut();
    pods.until("listed again", |mirror| mirror.ends == 2).await;
    pods.until_it_knows(&server).await;
    let requests = server.requests();
    assert!(
        requests.iter().any(|r| r.contains("continue=4")),
        "{requests:?}"
    );
}

#[tokio::test]
async fn what_is_too_old_is_listed_anew_however_that_is_said() {
    for odd in [Odd::GoneByCode, Odd::GoneByEvent] {
        let server = Scripted::start(&[PODS]).await;
        server.put("pods", pod("a"));
        server.odd(odd);
        let mut pods = Following::start(&server, PODS, impatient()).await;
        pods.until("listed twice", |mirror| mirror.ends == 2).await;
        server.put("pods", pod("b"));
        pods.until_it_knows(&server).await;
        let lists: Vec<String> = server
            .requests()
            .into_iter()
            .filter(|r| !r.contains("watch="))
            .collect();
        // From the API server's memory, and not from before what was seen.
        assert!(lists[1].contains("NotOlderThan"), "{lists:?}");
    }
}

#[tokio::test]
async fn half_a_list_is_abandoned() {
    let server = Scripted::start(&[PODS]).await;
    for name in ["a", "b", "c", "d"] {
        server.put("pods", pod(name));
    }
    server.odd(Odd::HalfList);
    let mut pods = Following::start(&server, PODS, impatient()).await;
    pods.until_it_knows(&server).await;
    assert_eq!((pods.mirror.abandoned, pods.mirror.ends), (1, 1));
}

#[tokio::test]
async fn a_deletion_while_nobody_answers_is_seen_when_somebody_does() {
    let mut server = Scripted::start(&[PODS]).await;
    server.put("pods", pod("a"));
    server.put("pods", pod("b"));
    let mut pods = Following::start(&server, PODS, impatient()).await;
    pods.until_it_knows(&server).await;
    server.stop().await;
    server.delete("pods", "n", "a");
    server.forget();
    while pods.gate.away().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(pods.progress.seen().phase, Phase::Failing);
    server.start_again().await;
    let back = Instant::now();
    pods.until_it_knows(&server).await;
    assert!(
        back.elapsed() < Duration::from_secs(2),
        "{:?}",
        back.elapsed()
    );
    assert!(pods.gate.away().is_none());
}

#[tokio::test]
async fn while_nobody_answers_only_one_asks_and_not_without_pause() {
    let mut server = Scripted::start(&[PODS, WIDGETS]).await;
    let patience = Patience {
        away: Duration::from_secs(30),
        ..impatient()
    };
    let mut pods = Following::start(&server, PODS, patience).await;
    pods.until_it_knows(&server).await;
    server.stop().await;
    while pods.gate.away().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = server.requests().len();
    server.start_again().await;
    pods.until_it_knows(&server).await;
    let probes = server.requests().split_off(before);
    let count = probes.iter().filter(|r| *r == "/readyz").count();
    assert!(count <= 1, "{probes:?}");
}

#[tokio::test]
async fn a_connection_that_died_without_a_word_is_noticed() {
    let server = Scripted::start(&[PODS]).await;
    let patience = Patience {
        watch: 1,
        ..impatient()
    };
    server.put("pods", pod("a"));
    // The first watch is taken, and nothing is ever said.
    server.odd(Odd::SlowList);
    server.odd(Odd::Stall);
    let mut pods = Following::start(&server, PODS, patience).await;
    pods.until_it_knows(&server).await;
    server.put("pods", pod("b"));
    pods.until_it_knows(&server).await;
    assert!(pods.progress.seen().faults[Reason::Silent as usize] > 0);
}

#[tokio::test]
async fn what_no_watch_says_is_a_reason_to_list_anew() {
    for odd in [Odd::Garbage, Odd::Reverse] {
        let server = Scripted::start(&[PODS]).await;
        server.put("pods", pod("a"));
        server.odd(odd);
        let mut pods = Following::start(&server, PODS, impatient()).await;
        pods.until_it_knows(&server).await;
        server.cut();
        server.put("pods", pod("b"));
        server.delete("pods", "n", "b");
        server.put("pods", pod("c"));
        pods.until("listed anew", |mirror| mirror.ends >= 2).await;
        pods.until_it_knows(&server).await;
        assert!(pods.progress.seen().faults[Reason::Invalid as usize] > 0);
    }
}

#[tokio::test]
async fn a_refusal_is_told_and_tried_again() {
    let server = Scripted::start(&[PODS]).await;
    server.forbid("pods", true);
    let mut pods = Following::start(&server, PODS, impatient()).await;
    pods.until("abandoned", |mirror| mirror.abandoned > 2).await;
    let seen = pods.progress.seen();
    assert_eq!(seen.phase, Phase::Failing);
    let fault = seen.fault.expect("a fault");
    assert_eq!(fault.to_string(), "it answers 403 Forbidden: you may not");
    assert_eq!(pods.mirror.ends, 0, "not an empty list");
    server.forbid("pods", false);
    pods.until_it_knows(&server).await;
    for code in [500, 503, 429] {
        server.odd(Odd::Refuse(code));
    }
    server.cut();
    server.put("pods", pod("a"));
    pods.until_it_knows(&server).await;
    assert_eq!(pods.progress.seen().fault, None);
}

#[tokio::test]
async fn a_kind_that_is_not_installed_is_absent_until_it_is() {
    let server = Scripted::start(&[PODS, WIDGETS]).await;
    server.install("widgets", false);
    let mut widgets = Following::start(&server, WIDGETS, impatient()).await;
    widgets.until("absent", |mirror| mirror.absent == 1).await;
    assert_eq!(widgets.progress.seen().fault, None, "it is no fault");
    server.install("widgets", true);
    server.put(
        "widgets",
        json!({"metadata": {"name": "w", "namespace": "n"}}),
    );
    widgets.until_it_knows(&server).await;
    assert_eq!(widgets.mirror.absent, 1, "told once");
    // And it may be taken away.
    server.delete("widgets", "n", "w");
    server.install("widgets", false);
    server.cut();
    widgets
        .until("absent again", |mirror| mirror.absent == 2)
        .await;
}

fn widget(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "n"}})
}

fn looks(server: &Scripted) -> usize {
    let requests = server.requests();
    requests
        .iter()
        .filter(|request| *request == "/apis")
        .count()
}

/// An API server that has just started lacks groups for a while.
#[tokio::test]
async fn a_kind_that_was_there_is_not_absent_for_not_being_named_for_a_while() {
    let server = Scripted::start(&[PODS, WIDGETS]).await;
    server.put("widgets", widget("w"));
    let patience = Patience {
        gone: LONG,
        ..impatient()
    };
    let mut widgets = Following::start(&server, WIDGETS, patience).await;
    widgets.until_it_knows(&server).await;
    server.install("widgets", false);
    server.cut();
    widgets
        .until_so("looked at often", |_| looks(&server) >= 8)
        .await;
    assert_eq!(widgets.mirror.absent, 0);
    assert_eq!(widgets.mirror.known.len(), 1);
    let seen = widgets.progress.seen();
    assert_eq!(seen.phase, Phase::Failing);
    let fault = seen.fault.expect("it is told").to_string();
    assert!(fault.contains("no such kind"), "{fault}");
    server.install("widgets", true);
    server.put("widgets", widget("x"));
    widgets
        .until("the other", |mirror| mirror.known.len() == 2)
        .await;
    assert_eq!(widgets.mirror.absent, 0);
}

#[tokio::test]
async fn a_kind_that_was_there_is_absent_after_several_looks_of_its_own() {
    let server = Scripted::start(&[PODS, WIDGETS]).await;
    server.put("widgets", widget("w"));
    let mut widgets = Following::start(&server, WIDGETS, impatient()).await;
    widgets.until_it_knows(&server).await;
    server.install("widgets", false);
    server.cut();
    widgets.until("absent", |mirror| mirror.absent == 1).await;
    assert!(looks(&server) >= 5, "{}", looks(&server));
}

/// What it says is there may be less than what is.
#[tokio::test]
async fn a_server_that_is_not_ready_is_not_believed_what_it_lacks() {
    let server = Scripted::start(&[PODS, WIDGETS]).await;
    server.install("widgets", false);
    server.ready(false);
    let mut widgets = Following::start(&server, WIDGETS, impatient()).await;
    widgets
        .until("tried often", |mirror| mirror.abandoned > 4)
        .await;
    assert_eq!(widgets.mirror.absent, 0);
    server.ready(true);
    widgets.until("absent", |mirror| mirror.absent == 1).await;
}

/// Whoever may not see a kind must not take it for one that is not there.
#[tokio::test]
async fn a_kind_that_is_installed_and_forbidden_is_not_absent() {
    let server = Scripted::start(&[PODS, WIDGETS]).await;
    server.forbid("widgets", true);
    let mut widgets = Following::start(&server, WIDGETS, impatient()).await;
    widgets
        .until("abandoned", |mirror| mirror.abandoned > 2)
        .await;
    assert_eq!((widgets.mirror.absent, widgets.mirror.ends), (0, 0));
    // Not installed either, which the same refusal hides.
    server.install("widgets", false);
    widgets.until("absent", |mirror| mirror.absent == 1).await;
}

#[derive(Clone, Debug)]
enum Op {
    Put(u8),
    Delete(u8),
    /// Deleted and made again.
    Replace(u8),
    Odd(Odd),
    Forget,
    Cut,
    Restart,
    /// Lets the follower catch up.
    Settle,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let odd = [&Odd::PASSING[..], &[Odd::Refuse(500)]].concat();
    let odd = proptest::sample::select(odd);
    let op = prop_oneof![
        4 => (0_u8..5).prop_map(Op::Put),
        3 => (0_u8..5).prop_map(Op::Delete),
        2 => (0_u8..5).prop_map(Op::Replace),
        3 => odd.prop_map(Op::Odd),
        1 => Just(Op::Forget),
        1 => Just(Op::Cut),
        1 => Just(Op::Restart),
        2 => Just(Op::Settle),
    ];
    proptest::collection::vec(op, 1..24)
}

async fn chaos(ops: Vec<Op>) {
    let mut server = Scripted::start(&[PODS]).await;
    server.page(2);
    let patience = Patience {
        refused: Duration::from_millis(10),
        away: Duration::from_millis(10),
        ..impatient()
    };
    let mut pods = Following::start(&server, PODS, patience).await;
    let name = |n: u8| format!("p{n}");
    for op in ops {
        match op {
            Op::Put(n) => server.put("pods", pod(&name(n))),
            Op::Delete(n) => server.delete("pods", "n", &name(n)),
            Op::Replace(n) => {
                server.delete("pods", "n", &name(n));
                server.put("pods", pod(&name(n)));
            }
            Op::Odd(odd) => server.odd(odd),
            Op::Forget => server.forget(),
            Op::Cut => server.cut(),
            Op::Restart => {
                server.stop().await;
                server.start_again().await;
            }
            Op::Settle => pods.until_it_knows(&server).await,
        }
    }
    pods.until_it_knows(&server).await;
    // And it goes on.
    server.put("pods", pod("last"));
    pods.until_it_knows(&server).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever comes between, what is known in the end is what is listed.
    #[test]
    fn after_any_chaos_the_state_is_the_listed_one(ops in ops()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(chaos(ops));
    }
}
