//! The API as the source, before an API server that misbehaves.

mod classes;
mod disk;
mod memory;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::discovery::parse;
use crate::discovery::store::build;
use crate::kube::scripted::{Odd, Scripted};
use crate::model::Snapshot;
use crate::policy::Here;

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
        away: ms(20),
        refused: ms(50),
        absent: ms(50),
        gone: ms(150),
        ..Patience::default()
    }
}

/// An agent's discovery; ends with it.
struct Agent {
    updates: watch::Receiver<Update>,
    watched: Arc<Watched>,
    cancel: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    async fn start(kubeconfig: PathBuf, state_dir: &Path) -> Self {
        Self::start_with(kubeconfig, state_dir, impatient()).await
    }

    async fn start_with(kubeconfig: PathBuf, state_dir: &Path, patience: Patience) -> Self {
        let config = ApiConfig {
            access: Access::Kubeconfig(kubeconfig),
            state_dir: state_dir.to_owned(),
        };
        let settings = MeshSettings::default();
        let started = Api::start_with(config, settings, Here::default(), patience).await;
        let (api, updates) = started.expect("started");
        let cancel = CancellationToken::new();
        Self {
            updates,
            watched: api.watched(),
            thread: Some(api.follow(cancel.clone()).expect("a thread")),
            cancel,
        }
    }

    async fn until(&mut self, what: &str, mut is_so: impl FnMut(&Update) -> bool) -> Update {
        let waited = tokio::time::timeout(LONG, self.updates.wait_for(|update| is_so(update)));
        match waited.await {
            Ok(Ok(update)) => update.clone(),
            _ => panic!("{what}: {:?}", self.watched.state()),
        }
    }

    async fn until_state(&self, what: &str, is_so: impl Fn(&ApiState) -> bool) -> ApiState {
        let end = Instant::now() + LONG;
        loop {
            let state = self.watched.state();
            if is_so(&state) {
                return state;
            }
            assert!(Instant::now() < end, "{what}: {state:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What is known is on disk.
    async fn end(mut self) {
        self.cancel.cancel();
        let thread = self.thread.take().expect("it runs");
        tokio::task::spawn_blocking(move || thread.join().expect("no panic"))
            .await
            .expect("joined");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn server() -> Scripted {
    Scripted::start(&resources::served()).await
}

fn pod(name: &str, address: &str) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name, "mesh-agent.io/enrolled": "true"},
            "managedFields": [{"manager": "kubelet"}]},
        "spec": {"nodeName": "n1", "serviceAccountName": name, "volumes": [{"name": "v"}],
            "containers": [{"name": "c", "env": [{"name": "SECRET", "value": "x"}], "ports": [{"containerPort": 80, "name": "http"}]}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn policy(name: &str, action: &str) -> Value {
    json!({
        "kind": "AuthorizationPolicy", "apiVersion": "security.istio.io/v1",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"action": action, "rules": [{"from": [{"source": {"namespaces": ["web"]}}]}]},
    })
}

fn names(update: &Update) -> Vec<String> {
    let mut names: Vec<String> = update
        .snapshot
        .workloads
        .values()
        .map(|w| w.key.name.to_string())
        .collect();
    names.sort();
    names
}

fn knows(update: &Update, pods: &[&str]) -> bool {
    update.is_known() && names(update) == pods
}

/// What all of the API server's objects come to in a directory.
fn in_a_directory(server: &Scripted) -> String {
    let list = json!({"kind": "List", "apiVersion": "v1", "items": server.all()}).to_string();
    let (objects, problems) = parse(Path::new("all.json"), list.as_bytes());
    let mistake = problems.iter().find(|problem| problem.is_mistake());
    assert_eq!(mistake, None);
    content(&build(objects.iter()).0)
}

/// But for what time alone changes.
fn content(snapshot: &Snapshot) -> String {
    let namespaces = snapshot.namespaces();
    let parts = namespaces.iter().map(|name| (name, snapshot.part(name)));
    format!("{:?} {:?}", snapshot.common(), parts.collect::<Vec<_>>())
}

#[tokio::test]
async fn nothing_is_in_force_before_every_kind_is_listed() {
    let server = server().await;
    server.put("pods", pod("a", "10.0.0.1"));
    server.forbid("services", true);
    let dir = tempfile::tempdir().expect("a directory");
    let mut agent = Agent::start(server.kubeconfig(), dir.path()).await;
    let state = agent
        .until_state("all others", |state| {
            state.kinds.iter().filter(|kind| kind.is_whole).count() == state.kinds.len() - 1
                && state.kinds.iter().any(|kind| kind.fault.is_some())
        })
        .await;
    assert!(!state.is_known && !agent.updates.borrow().is_known());
    server.forbid("services", false);
    let update = agent.until("known", |update| knows(update, &["a"])).await;
    assert_eq!(update.snapshot.generation, 1);
    assert_eq!(content(&update.snapshot), in_a_directory(&server));
}

#[tokio::test]
async fn policies_that_are_forbidden_are_not_policies_that_are_not_there() {
    let server = server().await;
    server.put("authorizationpolicies", policy("deny", "DENY"));
    server.forbid("authorizationpolicies", true);
    let dir = tempfile::tempdir().expect("a directory");
    let mut agent = Agent::start(server.kubeconfig(), dir.path()).await;
    agent
        .until_state("told", |state| {
            state.kinds.iter().any(|kind| kind.fault.is_some())
        })
        .await;
    assert!(!agent.watched.state().is_known);
    server.forbid("authorizationpolicies", false);
    let update = agent.until("known", Update::is_known).await;
    assert_eq!(update.policy.status().len(), 1);
}

#[tokio::test]
async fn kinds_that_are_not_installed_are_none_and_are_noticed_when_they_are() {
    let server = server().await;
    let optional = [
        "authorizationpolicies",
        "peerauthentications",
        "httproutes",
        "xbackendtrafficpolicies",
    ];
    for plural in optional {
        server.install(plural, false);
    }
    server.put("pods", pod("a", "10.0.0.1"));
    let dir = tempfile::tempdir().expect("a directory");
    let mut agent = Agent::start(server.kubeconfig(), dir.path()).await;
    let update = agent.until("known", |update| knows(update, &["a"])).await;
    assert_eq!(update.problems.len(), 0, "{:?}", update.problems);
    let state = agent.watched.state();
    assert!(
        state.kinds.iter().all(|kind| kind.fault.is_none()),
        "{state:?}"
    );
    for plural in optional {
        server.install(plural, true);
    }
    server.put("authorizationpolicies", policy("deny", "DENY"));
    server.put("httproutes", route("canary"));
    server.put("xbackendtrafficpolicies", budget("web"));
    agent
        .until("in force", |update| {
            update.policy.status().len() == 1
                && update.snapshot.routes.len() == 1
                && update.snapshot.traffic_policies.len() == 1
        })
        .await;
}

#[tokio::test]
async fn what_restricts_nothing_keeps_no_node_without_configuration() {
    let server = server().await;
    server.forbid("xbackendtrafficpolicies", true);
    server.put("xbackendtrafficpolicies", budget("web"));
    server.put("pods", pod("a", "10.0.0.1"));
    let dir = tempfile::tempdir().expect("a directory");
    let mut agent = Agent::start(server.kubeconfig(), dir.path()).await;
    let update = agent.until("known", |update| knows(update, &["a"])).await;
    assert_eq!(update.snapshot.traffic_policies.len(), 0);
    let state = agent.watched.state();
    assert!(
        state.kinds.iter().any(|kind| kind.fault.is_some()),
        "it is told: {state:?}"
    );
    server.forbid("xbackendtrafficpolicies", false);
    agent
        .until("in force", |update| {
            update.snapshot.traffic_policies.len() == 1
        })
        .await;
}

/// Whatever is the matter with it.
#[tokio::test]
async fn what_restricts_nothing_and_cannot_be_listed_keeps_no_node_without_configuration() {
    let server = server().await;
    server.refuse("xbackendtrafficpolicies", Some(500));
    server.put("pods", pod("a", "10.0.0.1"));
    let dir = tempfile::tempdir().expect("a directory");
    let mut agent = Agent::start(server.kubeconfig(), dir.path()).await;
    let update = agent.until("known", |update| knows(update, &["a"])).await;
    assert!(!update.snapshot.is_dated);
    server.refuse("xbackendtrafficpolicies", None);
    server.put("xbackendtrafficpolicies", budget("web"));
    agent
        .until("in force", |update| {
            update.snapshot.traffic_policies.len() == 1
        })
        .await;
}

/// What was known of it stays, and nothing else is as old as that.
#[tokio::test]
async fn what_restricts_nothing_and_is_from_disk_makes_nothing_else_dated() {
    let server = server().await;
    server.put("pods", pod("a", "10.0.0.1"));
    server.put("xbackendtrafficpolicies", budget("web"));
    let dir = tempfile::tempdir().expect("a directory");
    let state_dir = dir.path().join("state");
    let has_both =
        |update: &Update| knows(update, &["a"]) && update.snapshot.traffic_policies.len() == 1;
    let mut agent = Agent::start(server.kubeconfig(), &state_dir).await;
    agent.until("known", has_both).await;
    agent.end().await;

    server.forbid("xbackendtrafficpolicies", true);
    let mut agent = Agent::start(server.kubeconfig(), &state_dir).await;
    let update = agent.until("known again", has_both).await;
    assert!(!update.snapshot.is_dated);
    let is_told = |state: &ApiState| {
        state.from_disk_age_seconds.is_none() && state.kinds.iter().any(|kind| kind.fault.is_some())
    };
    agent.until_state("its fault alone is told", is_told).await;
    server.delete("xbackendtrafficpolicies", "shop", "web");
    server.forbid("xbackendtrafficpolicies", false);
    agent
        .until("it is heard again", |update| {
            update.snapshot.traffic_policies.is_empty()
        })
        .await;
}

fn budget(name: &str) -> Value {
    json!({
        "kind": "XBackendTrafficPolicy", "apiVersion": "gateway.networking.x-k8s.io/v1alpha1",
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": "2026-01-02T03:04:05Z"},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "retryConstraint": {"budget": {"percent": 10, "interval": "10s"}},
        },
    })
}

fn route(name: &str) -> Value {
    json!({
        "kind": "HTTPRoute", "apiVersion": "gateway.networking.k8s.io/v1",
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": "2026-01-02T03:04:05Z"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80, "weight": 1}]}],
        },
        "status": {"parents": []},
    })
}

/// Of an API server that has just started: what was known of the group stays in
/// force and on disk, also where an agent has just started as well.
#[tokio::test]
async fn a_group_that_is_not_named_for_a_while_takes_no_policy_away() {
    let server = server().await;
    server.put("pods", pod("a", "10.0.0.1"));
    server.put("authorizationpolicies", policy("deny", "DENY"));
    let dir = tempfile::tempdir().expect("a directory");
    let state_dir = dir.path().join("state");
    let start = || {
        let patience = Patience {
            gone: LONG,
            ..impatient()
        };
        Agent::start_with(server.kubeconfig(), &state_dir, patience)
    };
    let in_force = |update: &Update| knows(update, &["a"]) && update.policy.status().len() == 1;
    let doubted = |state: &ApiState| {
        let of = |kind: &&KindRow| kind.kind == "AuthorizationPolicy";
        let kind = state.kinds.iter().find(of).expect("the kind");
        kind.fault.as_ref().is_some_and(|f| f.contains("no such"))
    };
    let mut agent = start().await;
    agent.until("known", in_force).await;
    for plural in ["authorizationpolicies", "peerauthentications"] {
        server.install(plural, false);
    }
    server.cut();
    agent.until_state("doubted", doubted).await;
    server.put("pods", pod("a", "10.0.0.7"));
    let moved = |update: &Update| {
        let mut pods = update.snapshot.workloads.values();
        in_force(update) && pods.any(|pod| pod.ips.contains([10, 0, 0, 7].into()))
    };
    agent.until("others change", moved).await;
    agent.end().await;

    let mut agent = start().await;
    agent.until("from disk", moved).await;
    agent.until_state("doubted again", doubted).await;
    agent.end().await;
    let bytes = std::fs::read(state_dir.join("authorizationpolicies.security.istio.io"));
    let copy = String::from_utf8_lossy(&bytes.expect("a copy")).into_owned();
    assert!(copy.contains("shop/authorizationpolicies/deny"));
}

#[tokio::test]
async fn one_object_that_is_not_understood_keeps_its_last_version_and_is_told() {
    let server = server().await;
    server.put("pods", pod("a", "10.0.0.1"));
    server.put("pods", pod("b", "10.0.0.2"));
    server.put("authorizationpolicies", policy("deny", "DENY"));
    let dir = tempfile::tempdir().expect("a directory");
    let mut agent = Agent::start(server.kubeconfig(), dir.path()).await;
    agent
        .until("known", |update| knows(update, &["a", "b"]))
        .await;
    let mut broken = pod("a", "10.0.0.1");
    broken["metadata"]["labels"] = json!([]);
    server.put("pods", broken.clone());
    let mut odd = policy("deny", "DENY");
    odd["spec"]["rules"][0]["from"][0]["source"] = json!({"nobody": ["knows"]});
    server.put("authorizationpolicies", odd);
    let told = agent
        .until("told", |update| update.mistakes().count() == 2)
        .await;
    let texts: Vec<String> = told.mistakes().map(ToString::to_string).collect();
    assert!(
        texts
            .iter()
            .any(|t| t.contains("/api/v1/namespaces/shop/pods/a (version")),
        "{texts:?}"
    );
    assert!(
        told.snapshot
            .workloads
            .values()
            .all(|w| w.app.as_str() == w.key.name.as_str())
    );
    assert_eq!(told.policy.status().len(), 1);
    let held_back = |agent: &Agent| {
        let in_force = agent.watched.in_force().into_iter();
        let mut policies = in_force.filter(|one| one.kind.starts_with("authorizationpolicies."));
        policies.next().expect("policies").held_back
    };
    let is_told = |_: &ApiState| held_back(&agent) == ["shop/deny"];
    agent.until_state("its older version is", is_told).await;
    // Also in a list, of which the others count.
    server.put("pods", pod("c", "10.0.0.3"));
    server.forget();
    server.cut();
    let lists = |state: &ApiState| state.kinds.iter().all(|kind| kind.lists >= 2);
    agent.until_state("listed again", lists).await;
    let update = agent
        .until("all", |update| knows(update, &["a", "b", "c"]))
        .await;
    assert_eq!(update.mistakes().count(), 2);
    server.put("pods", pod("a", "10.0.0.1"));
    server.put("authorizationpolicies", policy("deny", "DENY"));
    agent
        .until("mended", |update| update.mistakes().count() == 0)
        .await;
    let is_told = |_: &ApiState| held_back(&agent).is_empty();
    agent.until_state("the newest of all is", is_told).await;
}

#[tokio::test]
async fn many_changes_are_few_snapshots_and_the_first_comes_at_once() {
    let server = server().await;
    server.put("pods", pod("a", "10.0.0.1"));
    let dir = tempfile::tempdir().expect("a directory");
    let mut agent = Agent::start(server.kubeconfig(), dir.path()).await;
    let first = agent.until("known", |update| knows(update, &["a"])).await;
    let begun = Instant::now();
    for n in 0..200 {
        server.put("pods", pod("b", &format!("10.0.1.{n}")));
        tokio::task::yield_now().await;
    }
    let last: std::net::IpAddr = "10.0.1.199".parse().expect("an address");
    let update = agent
        .until("the last", |update| {
            update
                .snapshot
                .workloads
                .values()
                .any(|w| w.ips.contains(last))
        })
        .await;
    let most = 2 + begun.elapsed().as_millis() / 100;
    let count = update.snapshot.generation - first.snapshot.generation;
    assert!(
        u128::from(count) <= most,
        "{count} snapshots, at most {most}"
    );
}

#[derive(Clone, Debug)]
enum Op {
    Pod(u8, u8),
    DeletePod(u8),
    Policy(u8, bool),
    DeletePolicy(u8),
    Odd(Odd),
    Forget,
    Cut,
    Restart,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let odd = proptest::sample::select(Odd::PASSING.to_vec());
    let op = prop_oneof![
        4 => (0_u8..4, 0_u8..3).prop_map(|(name, address)| Op::Pod(name, address)),
        2 => (0_u8..4).prop_map(Op::DeletePod),
        2 => (0_u8..3, any::<bool>()).prop_map(|(name, deny)| Op::Policy(name, deny)),
        1 => (0_u8..3).prop_map(Op::DeletePolicy),
        3 => odd.prop_map(Op::Odd),
        1 => Just(Op::Forget),
        1 => Just(Op::Cut),
        1 => Just(Op::Restart),
    ];
    proptest::collection::vec(op, 1..16)
}

async fn chaos(ops: Vec<Op>) {
    let mut server = server().await;
    let dir = tempfile::tempdir().expect("a directory");
    let mut agent = Agent::start(server.kubeconfig(), dir.path()).await;
    for op in ops {
        match op {
            Op::Pod(name, address) => {
                server.put(
                    "pods",
                    pod(&format!("p{name}"), &format!("10.0.0.{address}")),
                );
            }
            Op::DeletePod(name) => server.delete("pods", "shop", &format!("p{name}")),
            Op::Policy(name, deny) => {
                let action = if deny { "DENY" } else { "ALLOW" };
                server.put("authorizationpolicies", policy(&format!("a{name}"), action));
            }
            Op::DeletePolicy(name) => {
                server.delete("authorizationpolicies", "shop", &format!("a{name}"));
            }
            Op::Odd(odd) => server.odd(odd),
            Op::Forget => server.forget(),
            Op::Cut => server.cut(),
            Op::Restart => {
                server.stop().await;
                server.start_again().await;
            }
        }
        tokio::task::yield_now().await;
    }
    let expected = in_a_directory(&server);
    agent
        .until(&expected, |update| {
            update.is_known() && content(&update.snapshot) == expected
        })
        .await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever comes between, what is in force in the end is what the same
    /// objects in a directory come to.
    #[test]
    fn after_any_chaos_the_snapshot_is_that_of_the_listed_objects(ops in ops()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(chaos(ops));
    }
}
