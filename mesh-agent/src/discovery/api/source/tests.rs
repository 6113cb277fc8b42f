use std::path::Path;

use serde_json::json;

use super::*;
use crate::discovery::Update;
use crate::discovery::api::resources;
use crate::kube::scripted::Scripted;
use crate::model::policy::MeshSettings;
use crate::policy::Here;

async fn source(
    server: &Scripted,
    state_dir: &Path,
) -> (ApiSource, Access, tokio::sync::watch::Receiver<Update>) {
    let access = Access::Kubeconfig(server.kubeconfig());
    let client = Client::new(&access, Patience::default()).await;
    let cluster = client.expect("a client").cluster().clone();
    let watched = Arc::new(Watched::new(cluster, &resources::served()));
    let (publisher, updates) = Publisher::new(MeshSettings::default(), Here::default());
    let source = ApiSource::new(publisher, watched, state_dir.to_owned());
    (source, access, updates)
}

/// One that hears from the disk when `late` is over.
async fn start(
    server: &Scripted,
    state_dir: &Path,
    late: Duration,
) -> (tokio::sync::watch::Receiver<Update>, CancellationToken) {
    let (mut source, access, updates) = source(server, state_dir).await;
    let (tell, told) = oneshot::channel();
    let look = source.look.replace(told).expect("it looks");
    let cancel = CancellationToken::new();
    let ends = cancel.clone();
    tokio::spawn(async move { source.run(&access, &Patience::default(), &ends).await });
    tokio::spawn(async move {
        let found = look.await.expect("a disk");
        sleep(late).await;
        assert!(
            tell.send(found).is_ok(),
            "nobody waits for the disk any more"
        );
    });
    (updates, cancel)
}

/// The disk has seen more than what an API server tells from its memory.
#[tokio::test]
async fn what_a_slow_disk_has_seen_is_not_taken_back_by_an_older_list() {
    let server = Scripted::start(&resources::served()).await;
    let service = |name: &str, ip: &str| {
        let metadata = json!({"name": name, "namespace": name});
        json!({"kind": "Service", "apiVersion": "v1", "metadata": metadata, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}})
    };
    server.put("services", service("web", "10.96.0.1"));
    let memory = server.memory();
    server.put("services", service("db", "10.96.0.2"));
    let seen = server.version();
    let dir = tempfile::tempdir().expect("a directory");
    let within = Duration::from_secs(20);
    let knows = |names: &'static [&'static str]| {
        move |update: &Update| {
            let there = update.snapshot.namespaces();
            update.is_known() && there.iter().map(|name| &**name).eq(names.iter().copied())
        }
    };
    let (mut updates, cancel) = start(&server, dir.path(), Duration::ZERO).await;
    let told = timeout(within, updates.wait_for(knows(&["db", "web"]))).await;
    told.expect("in time").expect("it runs");
    cancel.cancel();
    let ended = timeout(within, updates.wait_for(|_| false)).await;
    assert!(ended.expect("in time").is_err());
    // Another replica, which has not heard of everything.
    server.lag(memory);
    let (mut updates, cancel) = start(&server, dir.path(), LOOK * 2).await;
    let told = timeout(within, updates.wait_for(knows(&["web"]))).await;
    told.expect("in time").expect("nobody knows better yet");
    let told = timeout(within, updates.wait_for(knows(&["db", "web"]))).await;
    told.expect("in time").expect("the disk knows better");
    let services = "/api/v1/services?resourceVersion=";
    let guarded = format!("{services}{seen}&resourceVersionMatch=NotOlderThan");
    assert!(server.requests().contains(&guarded));
    cancel.cancel();
    let ended = timeout(within, updates.wait_for(|_| false)).await;
    assert!(ended.expect("in time").is_err());
    let kept = std::fs::read(dir.path().join("services.core")).expect("a file");
    assert!(String::from_utf8_lossy(&kept).contains("10.96.0.2"));
}

/// As that of a large cluster, after the node was without power.
#[tokio::test]
async fn a_disk_that_is_slow_is_used_when_it_has_answered() {
    let mut server = Scripted::start(&resources::served()).await;
    let metadata = json!({"name": "web", "namespace": "shop"});
    server.put("services", json!({"kind": "Service", "apiVersion": "v1", "metadata": metadata, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}}));
    let dir = tempfile::tempdir().expect("a directory");
    let known = |update: &Update| update.is_known() && !update.snapshot.namespaces().is_empty();
    let within = Duration::from_secs(20);
    let (mut updates, cancel) = start(&server, dir.path(), Duration::ZERO).await;
    let told = timeout(within, updates.wait_for(known)).await;
    told.expect("in time").expect("it runs");
    cancel.cancel();
    // It ends when what is known is on disk.
    let ended = timeout(within, updates.wait_for(|_| false)).await;
    assert!(ended.expect("in time").is_err());
    server.stop().await;
    let (mut updates, cancel) = start(&server, dir.path(), LOOK * 2).await;
    let told = timeout(within, updates.wait_for(known)).await;
    assert!(told.is_ok(), "from disk, though late");
    cancel.cancel();
}

#[tokio::test]
async fn what_restricts_nothing_is_not_waited_for_until_a_disk_that_hangs_has_told_it() {
    let server = Scripted::start(&resources::served()).await;
    server.forbid("xbackendtrafficpolicies", true);
    let dir = tempfile::tempdir().expect("a directory");
    let (mut source, access, mut updates) = source(&server, dir.path()).await;
    let (_tells_nothing, events) = mpsc::channel(1);
    // Most of the time is over.
    let since = Instant::now() + PATIENCE - LOAD;
    source.load = Some(Load { events, since });
    let cancel = CancellationToken::new();
    let ends = cancel.clone();
    tokio::spawn(async move { source.run(&access, &Patience::default(), &ends).await });
    let known = timeout(Duration::from_secs(20), updates.wait_for(Update::is_known)).await;
    assert!(known.is_ok(), "it waits for the disk");
    cancel.cancel();
}
