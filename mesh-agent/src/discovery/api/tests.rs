//! The API as the source, before an API server that misbehaves.

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
    let optional = ["authorizationpolicies", "peerauthentications", "httproutes"];
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
    agent
        .until("in force", |update| {
            update.policy.status().len() == 1 && update.snapshot.routes.len() == 1
        })
        .await;
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
}

#[tokio::test]
async fn an_agent_that_starts_while_the_api_server_is_away_works_from_disk() {
    let mut server = server().await;
    server.put("pods", pod("a", "10.0.0.1"));
    server.put("pods", pod("b", "10.0.0.2"));
    server.put("authorizationpolicies", policy("deny", "DENY"));
    let dir = tempfile::tempdir().expect("a directory");
    let state_dir = dir.path().join("state");
    let mut agent = Agent::start(server.kubeconfig(), &state_dir).await;
    agent
        .until("known", |update| knows(update, &["a", "b"]))
        .await;
    server.put("pods", pod("c", "10.0.0.3"));
    let before = agent
        .until("known", |update| knows(update, &["a", "b", "c"]))
        .await;
    assert!(agent.watched.state().copy.is_none());
    agent.end().await;
    assert_written(&state_dir, "/api/v1/namespaces/shop/pods/c");

    server.stop().await;
    let mut agent = Agent::start(server.kubeconfig(), &state_dir).await;
    let update = agent
        .until("from disk", |update| knows(update, &["a", "b", "c"]))
        .await;
    assert_eq!(content(&update.snapshot), content(&before.snapshot));
    assert_eq!(update.policy.status().len(), 1);
    assert!(update.snapshot.is_dated && !before.snapshot.is_dated);
    let state = agent.watched.state();
    assert!(
        state.from_disk_age_seconds.is_some() && state.away.is_some(),
        "{state:?}"
    );

    // What was deleted meanwhile is gone when it is back.
    server.delete("pods", "shop", "a");
    server.delete("authorizationpolicies", "shop", "deny");
    server.forget();
    server.start_again().await;
    let back = Instant::now();
    let update = agent
        .until("back", |update| {
            knows(update, &["b", "c"]) && update.policy.status().is_empty()
        })
        .await;
    assert!(
        back.elapsed() < Duration::from_secs(2),
        "{:?}",
        back.elapsed()
    );
    assert_eq!(content(&update.snapshot), in_a_directory(&server));
    agent
        .until_state("not from disk", |state| {
            state.from_disk_age_seconds.is_none()
        })
        .await;
    agent
        .until("of now", |update| !update.snapshot.is_dated)
        .await;
}

/// The end of an agent leaves nothing unwritten.
#[tokio::test]
async fn how_new_what_is_in_force_is_is_told_by_the_api_server_and_not_by_the_disk() {
    const PLURAL: &str = "authorizationpolicies";
    let mut server = server().await;
    server.put(PLURAL, policy("p", "ALLOW"));
    let dir = tempfile::tempdir().expect("a directory");
    let state_dir = dir.path().join("state");
    let newest = |server: &Scripted| {
        let served = resources::served();
        let resource = served.iter().find(|r| r.plural == PLURAL).expect("it");
        let versions = server.objects(resource).into_values();
        versions
            .filter_map(|version| version.parse::<u64>().ok())
            .max()
    };
    let in_force = |agent: &Agent| {
        let all = agent.watched.in_force().into_iter();
        let mut of = all.filter(|(kind, _)| kind == "authorizationpolicies.security.istio.io");
        of.next().map(|(_, version)| version)
    };
    let agent = Agent::start(server.kubeconfig(), &state_dir).await;
    let is_in_force = |server: &Scripted, agent: &Agent| in_force(agent) >= newest(server);
    agent
        .until_state("listed", |state| {
            state.is_known && is_in_force(&server, &agent)
        })
        .await;
    server.put(PLURAL, policy("p", "DENY"));
    agent
        .until_state("changed", |_| is_in_force(&server, &agent))
        .await;
    let policies = agent.updates.borrow().snapshot.policies.clone();
    let action = policies.iter().next().expect("one").action;
    assert_eq!(
        action,
        crate::model::policy::Action::Deny,
        "told when it is so"
    );
    agent.end().await;
    server.stop().await;
    let mut agent = Agent::start(server.kubeconfig(), &state_dir).await;
    agent.until("from disk", Update::is_known).await;
    assert_eq!(in_force(&agent), None);
}

/// Every node hears each minute that nothing changed, and each would report that.
#[tokio::test]
async fn that_nothing_changed_is_no_other_version_in_force() {
    let (server, dir) = (server().await, tempfile::tempdir().expect("a directory"));
    server.put("authorizationpolicies", policy("p", "DENY"));
    let version = server.version();
    let mut agent = Agent::start(server.kubeconfig(), dir.path()).await;
    agent.until("it is known", |update| update.is_known()).await;
    let of_policies = |agent: &Agent| {
        let all = agent.watched.in_force().into_iter();
        let mut of = all.filter(|(kind, _)| kind == "authorizationpolicies.security.istio.io");
        of.next().map(|(_, version)| version)
    };
    agent
        .until_state("it is in force", |_| of_policies(&agent) == Some(version))
        .await;
    // Of another kind; the watches come to their ends, each with a bookmark.
    server.put("pods", pod("web", "10.0.0.1"));
    let now = format!("resourceVersion={}&", server.version());
    let is_of_policies = |path: &&String| {
        path.contains("authorizationpolicies?watch") && path.contains(now.as_str())
    };
    agent
        .until_state("it goes on from there", |_| {
            server.requests().iter().any(|path| is_of_policies(&path))
        })
        .await;
    agent
        .until("the pod", |update| knows(update, &["web"]))
        .await;
    assert_eq!(of_policies(&agent), Some(version));
    server.put("authorizationpolicies", policy("p", "ALLOW"));
    let changed = server.version();
    agent
        .until_state("the change is", |_| of_policies(&agent) == Some(changed))
        .await;
    agent.end().await;
}

fn assert_written(state_dir: &Path, path: &str) {
    let bytes = std::fs::read(state_dir.join("pods.core")).expect("a copy");
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains(path), "{path} is not written");
    // Secrets of applications are not kept.
    assert!(!text.contains("SECRET") && !text.contains("managedFields"));
}

#[tokio::test]
async fn without_the_api_server_and_without_a_copy_nothing_is_known() {
    let mut server = server().await;
    server.put("pods", pod("a", "10.0.0.1"));
    let dir = tempfile::tempdir().expect("a directory");
    let state_dir = dir.path().join("state");
    let mut agent = Agent::start(server.kubeconfig(), &state_dir).await;
    agent.until("known", |update| knows(update, &["a"])).await;
    agent.end().await;
    assert_written(&state_dir, "/api/v1/namespaces/shop/pods/a");
    // One of the copies is damaged: none counts.
    let file = state_dir.join("services.core");
    let mut bytes = std::fs::read(&file).expect("read");
    bytes[20] ^= 1;
    std::fs::write(&file, bytes).expect("written");
    server.stop().await;
    let mut agent = Agent::start(server.kubeconfig(), &state_dir).await;
    begins_without_copy(&mut agent, &mut server, "services.core is damaged").await;
    agent
        .until_state("written anew", |state| state.copy.is_none())
        .await;
}

/// Nothing is known, and it is told why, until the API server is there.
async fn begins_without_copy(agent: &mut Agent, server: &mut Scripted, why: &str) {
    let state = agent
        .until_state("told", |state| state.copy.is_some() && state.away.is_some())
        .await;
    let told = state.copy.expect("told");
    assert!(told.contains(why), "{told}");
    assert!(!agent.updates.borrow().is_known());
    server.start_again().await;
    agent.until("known", |update| knows(update, &["a"])).await;
}

/// All of them are at 10.96.0.1.
#[tokio::test]
async fn a_copy_of_another_cluster_at_the_same_address_is_not_used() {
    let mut server = server().await;
    server.put("pods", pod("a", "10.0.0.1"));
    let dir = tempfile::tempdir().expect("a directory");
    let state_dir = dir.path().join("state");
    let root = |name: &str| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        here.join("src/discovery/api/clusters").join(name)
    };
    let mut agent = Agent::start(server.kubeconfig_with(Some(&root("one.pem"))), &state_dir).await;
    agent.until("known", |update| knows(update, &["a"])).await;
    agent.end().await;
    server.stop().await;
    let mut agent =
        Agent::start(server.kubeconfig_with(Some(&root("other.pem"))), &state_dir).await;
    begins_without_copy(&mut agent, &mut server, "another cluster").await;
}

#[tokio::test]
async fn a_copy_of_a_cluster_with_another_kube_system_is_not_used() {
    let server = server().await;
    let system =
        || json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "kube-system"}});
    server.put("namespaces", system());
    server.put("pods", pod("a", "10.0.0.1"));
    let dir = tempfile::tempdir().expect("a directory");
    let state_dir = dir.path().join("state");
    let mut agent = Agent::start(server.kubeconfig(), &state_dir).await;
    agent.until("known", |update| knows(update, &["a"])).await;
    agent.end().await;
    // Made anew at the same address; of its pods it tells nothing yet.
    server.delete("namespaces", "", "kube-system");
    server.put("namespaces", system());
    server.forbid("pods", true);
    let mut agent = Agent::start(server.kubeconfig(), &state_dir).await;
    let told = |state: &ApiState| {
        let copy = state.copy.as_ref();
        copy.is_some_and(|why| why.contains("another cluster"))
    };
    agent.until_state("told", told).await;
    // Longer than it takes to go by the disk.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(!agent.updates.borrow().is_known());
    server.forbid("pods", false);
    agent.until("known", |update| knows(update, &["a"])).await;
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
