//! The writer before an API server in the test's hands.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::conditions::Condition;
use super::*;
use crate::cluster::fake::Fake;

const LIST: &str = "/apis/security.istio.io/v1/authorizationpolicies";
const A: &str = "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/a";
const B: &str = "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/b";

/// What the object itself says is right.
struct ByTheBook;

impl Judge for ByTheBook {
    fn judge(&self, _path: &str, json: &str) -> Verdict {
        let object: Value = serde_json::from_str(json).expect("JSON");
        let holds = object["spec"]["good"] == true;
        Verdict::Conditions(vec![Condition {
            kind: "Accepted",
            holds: holds.into(),
            reason: if holds { "Valid" } else { "Invalid" },
            message: "by the book".to_owned(),
        }])
    }
}

fn policy(name: &str, generation: i64, good: bool) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "shop", "uid": name, "generation": generation},
        "spec": {"good": good},
    })
}

struct Running {
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn start(fake: &Fake, me: &str) -> Running {
    start_with(fake, me, None)
}

fn start_with(fake: &Fake, me: &str, nodes: Option<Arc<Nodes>>) -> Running {
    start_by(fake, me, (Arc::new(ByTheBook), nodes))
}

fn start_by(
    fake: &Fake,
    me: &str,
    (judge, nodes): (Arc<dyn Judge>, Option<Arc<Nodes>>),
) -> Running {
    let config = Config {
        namespace: "mesh-system".to_owned(),
        me: me.to_owned(),
        lists: vec![LIST],
        by_others: Vec::new(),
        beside: Vec::new(),
        nodes,
        events: Arc::default(),
    };
    let cancel = CancellationToken::new();
    let api = Arc::new(fake.clone());
    let task = tokio::spawn(run(api, judge, config, cancel.clone()));
    Running { cancel, task }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

fn said(fake: &Fake, path: &str) -> Option<(String, i64)> {
    let object = fake.get(path)?;
    let conditions = object["status"]["conditions"].as_array()?.clone();
    let ours = conditions
        .iter()
        .find(|c| c["type"] == "mesh-agent.io/Accepted")?;
    Some((
        ours["status"].as_str()?.to_owned(),
        ours["observedGeneration"].as_i64()?,
    ))
}

fn writes(fake: &Fake) -> usize {
    fake.calls("PUT /apis/security.istio.io/")
}

/// As one that an admission webhook does not let pass, and a namespace that ends.
#[tokio::test]
async fn what_is_refused_of_one_object_keeps_no_other_from_being_told() {
    let fake = Fake::default();
    fake.refuse(&format!("{A}/status"), 422);
    fake.refuse("/api/v1/namespaces/shop/events", 403);
    fake.put(A, policy("a", 1, false));
    fake.put(B, policy("b", 1, false));
    let elsewhere = "/apis/security.istio.io/v1/namespaces/zoo/authorizationpolicies/z";
    let mut of_zoo = policy("z", 1, false);
    of_zoo["metadata"]["namespace"] = json!("zoo");
    fake.put(elsewhere, of_zoo);
    let writer = start(&fake, "x");
    let events = || fake.calls("POST /api/v1/namespaces/zoo/events");
    until("the others", || {
        said(&fake, B).is_some() && said(&fake, elsewhere).is_some() && events() == 1
    })
    .await;
    assert_eq!(said(&fake, A), None);
    assert!(fake.calls("POST /api/v1/namespaces/shop/events") <= 1);
    writer.cancel.cancel();
    writer.task.await.expect("ended");
}

#[tokio::test]
async fn each_object_is_told_what_becomes_of_it_once_and_foreign_entries_stay() {
    let fake = Fake::default();
    let mut first = policy("a", 1, true);
    let foreign = json!({"type": "Reconciled", "status": "True"});
    first["status"]["conditions"] = json!([foreign]);
    fake.put(A, first);
    fake.put(B, policy("b", 3, false));
    let writer = start(&fake, "x");
    until("both", || {
        said(&fake, A).is_some() && said(&fake, B).is_some()
    })
    .await;
    assert_eq!(said(&fake, A), Some(("True".to_owned(), 1)));
    assert_eq!(said(&fake, B), Some(("False".to_owned(), 3)));
    assert_eq!(fake.get(A).expect("it")["status"]["conditions"][0], foreign);
    // Its own writes come back to it, and somebody else's change of status.
    let mut touched = fake.get(B).expect("it");
    touched["status"]["conditions"]
        .as_array_mut()
        .expect("a list")
        .push(json!({"type": "Other", "status": "True"}));
    fake.put(B, touched);
    fake.put(
        "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/c",
        policy("c", 1, true),
    );
    until("the third", || writes(&fake) == 3).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(writes(&fake), 3, "nothing is written twice");
    writer.cancel.cancel();
    writer.task.await.expect("ended");
}

#[tokio::test]
async fn a_change_that_was_faster_is_judged_anew_and_not_overwritten() {
    let fake = Fake::default();
    fake.put(A, policy("a", 1, true));
    fake.is_faster_with(
        "/apis/coordination.k8s.io/v1/namespaces/x/leases/y",
        json!({}),
    );
    let writer = start(&fake, "x");
    until("the Lease", || fake.calls("POST /apis/coordination") == 1).await;
    until("it says so", || {
        said(&fake, A) == Some(("True".to_owned(), 1))
    })
    .await;
    // The next write of ours meets somebody's newer spec.
    let mut newer = fake.get(B).unwrap_or_else(|| policy("b", 1, true));
    fake.put(B, newer.clone());
    newer["metadata"]["generation"] = json!(2);
    newer["spec"]["good"] = json!(false);
    fake.is_faster_with(B, newer);
    until("it says what is now", || {
        said(&fake, B) == Some(("False".to_owned(), 2))
    })
    .await;
    writer.cancel.cancel();
    writer.task.await.expect("ended");
}

#[tokio::test]
async fn one_of_two_writes_and_the_other_goes_on_where_it_ends() {
    let fake = Fake::default();
    fake.put(A, policy("a", 1, true));
    let first = start(&fake, "x");
    until("A", || said(&fake, A).is_some()).await;
    let second = start(&fake, "y");
    until("it looked", || fake.calls("GET /apis/coordination") >= 3).await;
    fake.put(B, policy("b", 1, true));
    until("B", || said(&fake, B).is_some()).await;
    assert_eq!(writes(&fake), 2);
    first.cancel.cancel();
    first.task.await.expect("ended");
    fake.put(A, policy("a", 2, false));
    until("A again", || {
        said(&fake, A) == Some(("False".to_owned(), 2))
    })
    .await;
    second.cancel.cancel();
    second.task.await.expect("ended");
}

/// A policy that is made anew has the generation of the one before, and an
/// annotation counts none.
#[tokio::test]
async fn what_is_said_is_of_all_that_the_object_says_and_not_of_its_generation() {
    let fake = Fake::default();
    fake.put(A, policy("a", 1, true));
    let writer = start(&fake, "x");
    until("it is said", || {
        said(&fake, A) == Some(("True".to_owned(), 1))
    })
    .await;
    let mut other = fake.get(A).expect("it");
    other["spec"]["good"] = json!(false);
    fake.put(A, other);
    until("it is said anew", || {
        said(&fake, A) == Some(("False".to_owned(), 1))
    })
    .await;
    writer.cancel.cancel();
    writer.task.await.expect("ended");
}

/// Other controllers have taken all places.
struct Crowded;

impl Judge for Crowded {
    fn judge(&self, _path: &str, _json: &str) -> Verdict {
        Verdict::Parents(vec![Parent {
            reference: json!({"group": "", "kind": "Service", "name": "web"}),
            conditions: Vec::new(),
        }])
    }
}

#[tokio::test]
async fn a_status_without_room_is_told_beside_the_object() {
    let fake = Fake::default();
    let entry = |n: usize| json!({"controllerName": "o/c", "parentRef": {"name": n.to_string()}});
    let mut full = policy("a", 1, true);
    full["status"]["parents"] = (0..32).map(entry).collect();
    fake.put(A, full.clone());
    let writer = start_by(&fake, "x", (Arc::new(Crowded), None));
    let events = || fake.calls("POST /api/v1/namespaces/shop/events");
    until("it is told", || events() == 1).await;
    assert_eq!(fake.get(A).expect("it")["status"], full["status"]);
    writer.cancel.cancel();
    writer.task.await.expect("ended");
}

#[tokio::test]
async fn an_object_that_is_too_large_to_be_judged_holds_up_no_other() {
    let fake = Fake::default();
    let mut large = policy("a", 1, true);
    large["spec"]["text"] = json!("x".repeat(300 << 10));
    fake.put(A, large);
    fake.put(B, policy("b", 1, true));
    let writer = start(&fake, "x");
    until("the other", || said(&fake, B).is_some()).await;
    assert_eq!(said(&fake, A), None);
    writer.cancel.cancel();
    writer.task.await.expect("ended");
}

fn programmed(fake: &Fake) -> Option<(String, String, i64)> {
    let object = fake.get(A)?;
    let conditions = object["status"]["conditions"].as_array()?.clone();
    let of = |c: &&Value| c["type"] == "mesh-agent.io/Programmed";
    let one = conditions.iter().find(of)?;
    Some((
        one["status"].as_str()?.to_owned(),
        one["message"].as_str()?.to_owned(),
        one["observedGeneration"].as_i64()?,
    ))
}

/// Each node says what it has of the policies.
fn report(nodes: &Nodes, fake: &Fake, (node, held_back): (&str, &[&str])) {
    let object = fake.get(A).expect("it");
    let version = object["metadata"]["resourceVersion"].as_str().expect("one");
    let version = version.parse().expect("a number");
    let kind = "authorizationpolicies.security.istio.io".to_owned();
    let now = std::time::Instant::now();
    let said = Said {
        kind,
        version,
        held_back: held_back.iter().map(ToString::to_string).collect(),
    };
    assert!(nodes.take(node, [said], now).is_some());
}

#[tokio::test]
async fn an_object_is_said_to_be_in_force_when_all_nodes_have_it_and_is_not_counted_again() {
    let fake = Fake::default();
    let nodes = Arc::new(Nodes::default());
    let there = || Some(["n1", "n2"].map(Into::into).to_vec());
    nodes.set_agents(Box::new(there));
    fake.put(A, policy("a", 1, true));
    let writer = start_with(&fake, "x", Some(nodes.clone()));
    let said = |holds: &str, on: &str, generation| {
        let message = format!("in force on {on} nodes");
        Some((holds.to_owned(), message, generation))
    };
    until("none has it", || {
        programmed(&fake) == said("False", "0 of 2", 1)
    })
    .await;
    report(&nodes, &fake, ("n1", &[]));
    // It keeps what the policy said before, as an older agent does.
    report(&nodes, &fake, ("n2", &["shop/a"]));
    let tally = || nodes.tally(std::time::Instant::now()).expect("known");
    let count = tally().count(("authorizationpolicies.security.istio.io", "shop/a"), 1);
    assert_eq!((count.have, count.nodes), (1, 2));
    report(&nodes, &fake, ("n2", &["shop/b"]));
    until("both have it", || {
        programmed(&fake) == said("True", "2 of 2", 1)
    })
    .await;
    assert_eq!(
        writes(&fake),
        2,
        "with the first word, and when all have it"
    );
    // What comes and goes afterwards costs no write.
    let mut labelled = fake.get(A).expect("it");
    labelled["metadata"]["labels"] = json!({"a": "b"});
    fake.put(A, labelled);
    nodes.take("n2", [], std::time::Instant::now());
    let mut next = fake.get(A).expect("it");
    next["metadata"]["generation"] = json!(2);
    fake.put(A, next);
    until("nobody has the next one", || {
        programmed(&fake) == said("False", "0 of 2", 2)
    })
    .await;
    assert_eq!(writes(&fake), 3);
    // What is not accepted is not in force as it is written.
    let mut bad = fake.get(A).expect("it");
    bad["metadata"]["generation"] = json!(3);
    bad["spec"]["good"] = json!(false);
    fake.put(A, bad);
    until("it is refused", || programmed(&fake).is_none()).await;
    let event = || fake.calls("POST /api/v1/namespaces/shop/events");
    until("and an event tells so", || event() == 1).await;
    writer.cancel.cancel();
    writer.task.await.expect("ended");
}

/// A report that was taken, of a writer that has the Lease.
async fn held_with_a_report(fake: &Fake) -> (Running, Arc<Nodes>) {
    let nodes = Arc::new(Nodes::default());
    nodes.set_agents(Box::new(|| Some(vec!["n1".into()])));
    let writer = start_with(fake, "x", Some(nodes.clone()));
    until("it has the Lease", || is_taken(&nodes, 7)).await;
    (writer, nodes)
}

const POLICIES: &str = "authorizationpolicies.security.istio.io";

fn is_taken(nodes: &Nodes, version: u64) -> bool {
    let said = Said {
        kind: POLICIES.to_owned(),
        version,
        held_back: Vec::new(),
    };
    let now = tokio::time::Instant::now().into_std();
    nodes.take("n1", [said], now).is_some()
}

/// Nodes that are known to have this version; None while nothing is counted.
fn have(nodes: &Nodes, version: u64) -> Option<usize> {
    let now = tokio::time::Instant::now().into_std();
    let tally = nodes.tally(now)?;
    Some(tally.count((POLICIES, "shop/a"), version).have)
}

/// Of an API server that is busy: both calls of a renewal together are longer than it is
/// from one look to the next.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_slow_does_not_lose_the_lease() {
    let fake = Fake::default();
    let (writer, nodes) = held_with_a_report(&fake).await;
    // The second renewal is at 5 s, the third at 10 s.
    tokio::time::sleep(Duration::from_secs(7)).await;
    fake.delay("/apis/coordination.k8s.io", Duration::from_secs(3));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(fake.calls("PUT /apis/coordination"), 2, "at 5 and at 10 s");
    assert!(is_taken(&nodes, 7), "it takes no reports any more");
    assert_eq!(have(&nodes, 7), Some(1));
    writer.cancel.cancel();
    writer.task.await.expect("ended");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_lost_for_a_moment_forgets_no_nodes_report() {
    let fake = Fake::default();
    let (writer, nodes) = held_with_a_report(&fake).await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    fake.set_away(true);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!is_taken(&nodes, 8), "another one may have it by now");
    assert_eq!(have(&nodes, 7), None);
    fake.set_away(false);
    until("it has it again", || have(&nodes, 7).is_some()).await;
    assert_eq!(have(&nodes, 7), Some(1));
    writer.cancel.cancel();
    writer.task.await.expect("ended");
}

const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/httproutes";
const ROUTE: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/r";
const SERVICES: &str = "/api/v1/services";
const SERVICE: &str = "/api/v1/namespaces/shop/services/web";

/// A route is accepted while there is a Service.
#[derive(Default)]
struct ByServices(std::sync::atomic::AtomicBool);

impl Judge for ByServices {
    fn judge(&self, _path: &str, _json: &str) -> Verdict {
        let holds = self.0.load(std::sync::atomic::Ordering::Relaxed);
        Verdict::Parents(vec![Parent {
            reference: json!({"group": "", "kind": "Service", "name": "web"}),
            conditions: vec![Condition {
                kind: "Accepted",
                holds: holds.into(),
                reason: if holds {
                    "Accepted"
                } else {
                    "NoMatchingParent"
                },
                message: "by Services".to_owned(),
            }],
        }])
    }

    fn hear(&self, path: &str, json: Option<&str>) -> Vec<String> {
        let order = std::sync::atomic::Ordering::Relaxed;
        let is_other = path == SERVICE && self.0.swap(json.is_some(), order) != json.is_some();
        is_other.then(|| ROUTE.to_owned()).into_iter().collect()
    }
}

fn accepted(fake: &Fake) -> Option<String> {
    let object = fake.get(ROUTE)?;
    let parents = object["status"]["parents"].as_array()?.clone();
    let is_ours = |parent: &&Value| parent["controllerName"] == "mesh-agent.io/mesh";
    let ours = parents.iter().find(is_ours)?;
    Some(ours["conditions"][0]["status"].as_str()?.to_owned())
}

#[tokio::test]
async fn a_route_is_told_anew_when_what_is_beside_it_changes_and_not_before_that_is_known() {
    let fake = Fake::default();
    let foreign = json!({
        "controllerName": "other.example/gateway", "parentRef": {"name": "edge"}, "conditions": [],
    });
    fake.put(
        ROUTE,
        json!({
            "metadata": {"name": "r", "namespace": "shop", "generation": 1},
            "spec": {}, "status": {"parents": [foreign]},
        }),
    );
    let service = json!({"metadata": {"name": "web", "namespace": "shop"}});
    fake.put(SERVICE, service);
    let config = Config {
        namespace: "mesh-system".to_owned(),
        me: "x".to_owned(),
        lists: Vec::new(),
        by_others: vec![ROUTES],
        beside: vec![SERVICES],
        nodes: None,
        events: Arc::default(),
    };
    let cancel = CancellationToken::new();
    let judge = Arc::new(ByServices::default());
    let task = tokio::spawn(run(Arc::new(fake.clone()), judge, config, cancel.clone()));
    until("accepted", || accepted(&fake).as_deref() == Some("True")).await;
    assert_eq!(
        fake.calls("PUT /apis/gateway"),
        1,
        "nothing was said before"
    );
    assert_eq!(
        fake.get(ROUTE).expect("it")["status"]["parents"][0],
        foreign
    );
    fake.delete(SERVICE);
    until("gone", || accepted(&fake).as_deref() == Some("False")).await;
    cancel.cancel();
    task.await.expect("ended");
}

/// With Istio's kinds installed.
#[tokio::test]
#[ignore = "needs a control plane: MESH_TEST_KUBECONFIG"]
async fn conditions_and_events_are_taken_by_a_real_api_server() {
    use crate::cluster::{Access, Api as _, Client, Verb};
    let admin = std::env::var_os("MESH_TEST_KUBECONFIG").expect("it is set");
    let api = Client::start(&Access::Kubeconfig(admin.into())).await;
    let api = Arc::new(api.expect("a client"));
    // What stays of an earlier run is taken as it is.
    let make = async |list: &str, object: Value| {
        let made = api.call(list, Verb::Create(object)).await;
        assert!(
            matches!(made, Ok(_) | Err(crate::cluster::ApiError::Exists(_))),
            "{made:?}"
        );
    };
    for name in ["shop", "mesh-system"] {
        make("/api/v1/namespaces", json!({"metadata": {"name": name}})).await;
    }
    let list = "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies";
    make(list, policy("a", 1, true)).await;
    make(list, policy("b", 1, false)).await;
    let get = async |path: &str| {
        let text = api.call(path, Verb::Get).await.expect("an answer");
        serde_json::from_str::<Value>(&text).expect("JSON")
    };
    let nodes = Arc::new(Nodes::default());
    nodes.set_agents(Box::new(|| Some(vec!["n1".into()])));
    let config = Config {
        namespace: "mesh-system".to_owned(),
        me: "x".to_owned(),
        lists: vec![LIST],
        by_others: Vec::new(),
        beside: Vec::new(),
        nodes: Some(nodes.clone()),
        events: Arc::default(),
    };
    let cancel = CancellationToken::new();
    let task = tokio::spawn(run(
        api.clone(),
        Arc::new(ByTheBook),
        config,
        cancel.clone(),
    ));
    let within = Duration::from_secs(40);
    let all = tokio::time::timeout(within, async {
        loop {
            let a = get(A).await;
            let version = a["metadata"]["resourceVersion"].as_str().expect("one");
            let version = version.parse().expect("versions are numbers");
            let kind = "authorizationpolicies.security.istio.io".to_owned();
            let said = Said {
                kind,
                version,
                held_back: Vec::new(),
            };
            nodes.take("n1", [said], std::time::Instant::now());
            let conditions = a["status"]["conditions"].to_string();
            let events = get("/api/v1/namespaces/shop/events").await.to_string();
            let is_told = events.contains("\"reason\":\"Invalid\"");
            if is_told && conditions.contains("in force on 1 of 1 nodes") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    assert!(all.await.is_ok(), "{}", get(A).await);
    cancel.cancel();
    task.await.expect("ended");
}
