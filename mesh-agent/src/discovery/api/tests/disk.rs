//! What an agent before knew, while the API server is away.

use tempfile::TempDir;

use super::*;

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

    // An agent that did not know this kind has written nothing of it.
    let later = "xbackendtrafficpolicies.gateway.networking.x-k8s.io";
    std::fs::remove_file(state_dir.join(later)).expect("its file");

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
        let mut of = all.filter(|one| one.kind == "authorizationpolicies.security.istio.io");
        of.next().map(|one| one.version)
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
        let mut of = all.filter(|one| one.kind == "authorizationpolicies.security.istio.io");
        of.next().map(|one| one.version)
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

/// What an agent has left on its disk that knew pod a.
async fn has_known_a(server: &Scripted, kubeconfig: PathBuf) -> (TempDir, PathBuf) {
    server.put("pods", pod("a", "10.0.0.1"));
    let dir = tempfile::tempdir().expect("a directory");
    let state_dir = dir.path().join("state");
    let mut agent = Agent::start(kubeconfig, &state_dir).await;
    agent.until("known", |update| knows(update, &["a"])).await;
    agent.end().await;
    (dir, state_dir)
}

#[tokio::test]
async fn without_the_api_server_and_without_a_copy_nothing_is_known() {
    let mut server = server().await;
    let (_dir, state_dir) = has_known_a(&server, server.kubeconfig()).await;
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

#[tokio::test]
async fn a_damaged_copy_of_what_restricts_nothing_costs_that_alone_and_is_told() {
    let mut server = server().await;
    server.put("xbackendtrafficpolicies", budget("web"));
    let (_dir, state_dir) = has_known_a(&server, server.kubeconfig()).await;
    let name = "xbackendtrafficpolicies.gateway.networking.x-k8s.io";
    let file = state_dir.join(name);
    let mut bytes = std::fs::read(&file).expect("read");
    bytes[20] ^= 1;
    std::fs::write(&file, bytes).expect("written");
    server.stop().await;
    let mut agent = Agent::start(server.kubeconfig(), &state_dir).await;
    let update = agent
        .until("from disk", |update| knows(update, &["a"]))
        .await;
    assert_eq!(update.snapshot.traffic_policies.len(), 0);
    let told = agent.watched.state().copy.expect("told");
    assert!(told.contains(&format!("{name} is damaged")), "{told}");
    server.start_again().await;
    agent
        .until("back", |update| update.snapshot.traffic_policies.len() == 1)
        .await;
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
    let root = |name: &str| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        here.join("src/discovery/api/clusters").join(name)
    };
    let one = server.kubeconfig_with(Some(&root("one.pem")));
    let (_dir, state_dir) = has_known_a(&server, one).await;
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
    let (_dir, state_dir) = has_known_a(&server, server.kubeconfig()).await;
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
