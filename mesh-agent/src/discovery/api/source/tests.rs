use std::path::Path;

use serde_json::json;

use super::*;
use crate::discovery::Update;
use crate::discovery::api::resources;
use crate::kube::Item;
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

fn at(source: &ApiSource, plural: &str) -> usize {
    let mut kinds = source.kinds.iter();
    let at = kinds.position(|kind| kind.places.resource.plural == plural);
    at.expect("it is served")
}

fn listed(source: &ApiSource, at: usize, name: &str) -> Event {
    let metadata = json!({"name": name, "namespace": "shop", "resourceVersion": "7"});
    let object = json!({ "metadata": metadata, "spec": {} }).to_string();
    let resource = &source.kinds[at].places.resource;
    Event::Listed(Item::read(resource, object.as_bytes()))
}

/// It would be held for the agent's life, each object a second time.
#[tokio::test]
async fn what_the_disk_has_told_in_part_goes_when_the_api_server_has_told_all() {
    let server = Scripted::start(&resources::served()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let (mut source, _access, _updates) = source(&server, dir.path()).await;
    let pods = at(&source, "pods");
    for (from, names) in [(From::Disk, &["web"][..]), (From::Api, &["web", "db"])] {
        source.take(from, pods, Event::Begin).await;
        for name in names {
            let one = listed(&source, pods, name);
            source.take(from, pods, one).await;
        }
    }
    assert!(source.kinds[pods].loading.is_some(), "it may be needed");
    source.take(From::Api, pods, Event::End("7".into())).await;
    assert!(source.kinds[pods].loading.is_none());
    assert_eq!(source.kinds[pods].places.len(), 2);
}

#[tokio::test]
async fn the_disk_is_read_no_further_when_the_api_server_has_told_all() {
    let server = Scripted::start(&resources::served()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let (mut source, access, _updates) = source(&server, dir.path()).await;
    let (disk, events) = mpsc::channel(4);
    let pods = at(&source, "pods");
    let told = [Event::Begin, listed(&source, pods, "web")];
    for event in told {
        disk.send((pods, event)).await.expect("room");
    }
    let since = Instant::now();
    source.load = Some(Load { events, since });
    let patience = Patience::default();
    let ended = tokio::select! {
        () = source.follow(&access, &patience) => false,
        ended = timeout(Duration::from_secs(20), disk.closed()) => ended.is_ok(),
    };
    assert!(ended, "it is read on");
    assert!(source.is_whole() && source.load.is_none());
    assert!(source.kinds.iter().all(|kind| kind.loading.is_none()));
}

/// An agent that did not know the kind has left no file of it.
#[tokio::test]
async fn a_list_that_is_under_way_is_not_lost_to_a_disk_that_knows_nothing_of_the_kind() {
    let server = Scripted::start(&resources::served()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let (mut source, _access, _updates) = source(&server, dir.path()).await;
    let budgets = at(&source, "xbackendtrafficpolicies");
    let one = listed(&source, budgets, "web");
    source.take(From::Api, budgets, Event::Begin).await;
    source.take(From::Api, budgets, one).await;
    source.take(From::Disk, budgets, Event::Absent).await;
    let end = Event::End("7".into());
    source.take(From::Api, budgets, end).await;
    assert_eq!(source.kinds[budgets].places.len(), 1);
}
