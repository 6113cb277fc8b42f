//! Replicas, agents and commands before an API server in the test's hands.

mod review;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::ca::errors::Refusal;
use crate::ca::records::AUTHORITY;
use crate::ca::server::{open_in, serve};
use crate::ca::token::Proof;
use crate::ca::units::seconds;
use crate::ca::{Step, rotate, show};
use crate::cluster::Verb;
use crate::cluster::fake::{Fake, encode};
use crate::identity::report;
use crate::identity::{self, CaConfig, Identities, IdentityError, SourceConfig};
use crate::kube::Access;
use crate::model::{SpiffeId, TrustDomain};

const SECRET: &str = "/api/v1/namespaces/mesh-system/secrets/mesh-agent-ca";
const ROOTS: &str = "/api/v1/namespaces/mesh-system/configmaps/mesh-agent-ca-root";

pub(super) fn cluster() -> Cluster {
    Cluster {
        access: Access::InCluster,
        namespace: "mesh-system".to_owned(),
        secret: "mesh-agent-ca".to_owned(),
        configmap: "mesh-agent-ca-root".to_owned(),
        audience: "mesh-agent-ca".to_owned(),
        accounts: vec!["mesh-system/mesh-agent".parse().expect("an account")],
        stale: STALE,
    }
}

fn config() -> crate::ca::Config {
    crate::ca::Config {
        state_dir: "/nowhere".into(),
        cluster: Some(cluster()),
        max_connections: 64,
        ..crate::ca::tests::config("/nowhere".as_ref())
    }
}

fn pod(fake: &Fake, (namespace, name): (&str, &str), account: &str, node: &str) -> String {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    fake.put(
        &path,
        json!({
            "metadata": {"namespace": namespace, "name": name, "uid": format!("uid-{name}")},
            "spec": {"nodeName": node, "serviceAccountName": account},
            "status": {"phase": "Running"},
        }),
    );
    path
}

/// As a kubelet gets one; nobody checks the signature here.
fn jwt(audience: &str, ends_in: u64, salt: &str) -> String {
    let ends = seconds(SystemTime::now()) + ends_in;
    let claims = json!({"aud": [audience], "exp": ends, "jti": salt}).to_string();
    format!(
        "e30.{}.c2ln",
        encode(claims.as_bytes()).trim_end_matches('=')
    )
}

fn reviewed(node: &str, pod: &str) -> Value {
    json!({
        "authenticated": true,
        "audiences": ["mesh-agent-ca"],
        "user": {
            "username": "system:serviceaccount:mesh-system:mesh-agent",
            "extra": {
                "authentication.kubernetes.io/pod-name": [pod],
                "authentication.kubernetes.io/pod-uid": [format!("uid-{pod}")],
                "authentication.kubernetes.io/node-name": [node],
            },
        },
    })
}

/// An agent's pod on that node, and a good token of it.
fn agent_of(fake: &Fake, node: &str) -> String {
    let name = format!("agent-{node}");
    pod(fake, ("mesh-system", &name), "mesh-agent", node);
    let token = jwt("mesh-agent-ca", 3600, node);
    fake.review(&token, reviewed(node, &name));
    token
}

pub(super) struct Replica {
    pub(super) ca: Arc<Ca>,
    pub(super) address: SocketAddr,
    handle: crate::ca::Handle,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), Error>>,
}

impl Replica {
    async fn start(fake: &Fake) -> Self {
        Self::start_with(fake, cluster()).await
    }

    async fn start_with(fake: &Fake, cluster: Cluster) -> Self {
        Self::at(Arc::new(fake.clone()), cluster).await
    }

    pub(super) async fn at(api: Arc<dyn Api>, cluster: Cluster) -> Self {
        Self::with(api, cluster, config()).await
    }

    async fn with(api: Arc<dyn Api>, cluster: Cluster, config: crate::ca::Config) -> Self {
        let config = crate::ca::Config {
            cluster: Some(cluster.clone()),
            ..config
        };
        let opened = open_in(api, cluster, config).await;
        let (ca, connected) = opened.expect("an authority");
        let cancel = CancellationToken::new();
        let (sender, started) = tokio::sync::oneshot::channel();
        let ready = |address, handle| {
            let sent = sender.send((address, handle));
            assert!(sent.is_ok(), "somebody waits");
        };
        let serving = serve((ca.clone(), connected), cancel.clone(), ready);
        let task = tokio::spawn(serving);
        let (address, handle) = started.await.expect("it listens");
        Self {
            ca,
            address,
            handle,
            cancel,
            task,
        }
    }

    pub(super) async fn end(self) {
        self.cancel.cancel();
        self.task.await.expect("ended").expect("well");
    }

    pub(super) async fn denies(&self, token: &str, node: Option<&str>) -> Option<Refusal> {
        let (reviews, _) = self.ca.cluster.as_ref().expect("a cluster");
        let proof = Proof {
            token: Some(token),
            node,
            source: IpAddr::from([127, 0, 0, 1]),
            now: seconds(SystemTime::now()),
        };
        reviews.check(&proof).await.err().map(|denied| denied.why)
    }

    fn roots(&self) -> usize {
        self.ca.fresh().expect("state").authorities.len()
    }
}

/// Waits for what a watch brings.
pub(super) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{account}")).expect("an identity")
}

fn roots_of(fake: &Fake) -> String {
    let roots = fake.get(ROOTS).expect("a ConfigMap");
    roots["data"]["root.pem"]
        .as_str()
        .expect("roots")
        .to_owned()
}

/// Of a node, at one replica.
fn agent(fake: &Fake, dir: &Path, address: SocketAddr, node: &str) -> Identities {
    std::fs::write(dir.join("root.pem"), roots_of(fake)).expect("write");
    agent_with_roots(dir, address, node)
}

pub(super) fn agent_with_roots(dir: &Path, address: SocketAddr, node: &str) -> Identities {
    Identities::start(identity::Config {
        trust_domain: TrustDomain::new("cluster.local").expect("a domain"),
        trust_domain_aliases: vec![],
        source: SourceConfig::Ca(Box::new(CaConfig {
            address: address.to_string(),
            server_name: "mesh-agent-ca.mesh-system.svc".to_owned(),
            roots: identity::Roots::File(dir.join("root.pem")),
            cluster_id: None,
            token: dir.join("token"),
            node: node.to_owned(),
            lifetime: Some(Duration::from_secs(20)),
        })),
        crl_file: None,
        crl_kept: None,
    })
}

pub(super) async fn get(
    agent: &Identities,
    account: &str,
    within: u64,
) -> Result<(), IdentityError> {
    agent.want(&BTreeSet::new());
    agent.want(&BTreeSet::from([id(account)]));
    let deadline = Instant::now() + Duration::from_secs(within);
    agent.handle(&id(account)).wait(deadline).await.map(drop)
}

pub(super) fn why(got: Result<(), IdentityError>) -> String {
    got.expect_err("refused").to_string()
}

/// Takes what it is told after some calls that it leaves to another replica.
#[derive(Debug, Default)]
struct Taker {
    not_taken: std::sync::atomic::AtomicUsize,
    taken: parking_lot::Mutex<Vec<(String, report::Report)>>,
}

impl crate::ca::Reports for Taker {
    fn take(&self, node: &str, report: report::Report) -> report::Answer {
        let order = std::sync::atomic::Ordering::Relaxed;
        let left = self
            .not_taken
            .fetch_update(order, order, |n| n.checked_sub(1));
        if left.is_err() {
            self.taken.lock().push((node.to_owned(), report));
        }
        report::Answer {
            is_taken: left.is_err(),
            ..report::Answer::default()
        }
    }
}

fn said_of(kind: &str, version: u64, pods: &[(&str, &str)]) -> report::Report {
    let trouble = |(namespace, name): &(&str, &str)| report::PodTrouble {
        namespace: (*namespace).to_owned(),
        name: (*name).to_owned(),
        uid: format!("uid-{name}"),
        reason: "AnotherMesh".to_owned(),
        message: "it is a pod of another mesh".to_owned(),
    };
    report::Report {
        in_force: vec![report::InForce {
            kind: kind.to_owned(),
            version,
            held_back: vec!["shop/one".to_owned()],
        }],
        pods: pods.iter().map(trouble).collect(),
        left_out: 0,
    }
}

#[tokio::test]
async fn what_an_agent_has_in_force_reaches_the_replica_that_takes_it() {
    let (fake, dir) = (Fake::default(), tempfile::tempdir().expect("a directory"));
    let taker = Arc::new(Taker {
        not_taken: 3.into(),
        ..Taker::default()
    });
    let token = agent_of(&fake, "n1");
    pod(&fake, ("shop", "web-0"), "web", "n1");
    pod(&fake, ("shop", "db-0"), "db", "n2");
    let mut with = config();
    with.reports = Some(taker.clone());
    let replica = Replica::with(Arc::new(fake.clone()), cluster(), with).await;
    until("roots are published", || fake.get(ROOTS).is_some()).await;
    std::fs::write(dir.path().join("token"), &token).expect("write");
    let n1 = agent(&fake, dir.path(), replica.address, "n1");
    let pods = [
        ("shop", "web-0"),
        ("shop", "db-0"),
        ("mesh-system", "web-0"),
    ];
    let (sender, reports) = tokio::sync::watch::channel(said_of("a.x", 7, &pods));
    n1.report(reports);
    let taken = |n: usize| taker.taken.lock().get(n).cloned();
    until("the first", || taken(0).is_some()).await;
    // Of other nodes' pods it cannot speak, nor by another namespace's name.
    let first = taken(0).expect("taken");
    let own = said_of("a.x", 7, &[("shop", "web-0")]);
    assert_eq!(first, ("n1".to_owned(), own));
    sender.send_replace(said_of("a.x", 9, &[]));
    until("the next", || taken(1).is_some()).await;
    assert_eq!(taken(1).expect("taken").1, said_of("a.x", 9, &[]));
    let nodes = replica.handle.nodes().expect("they are known");
    assert_eq!(nodes.iter().map(|n| &**n).collect::<Vec<_>>(), ["n1"]);
    n1.stop().await;
    replica.end().await;
}

/// As a Service does: each connection to the next one.
async fn in_turn(to: Vec<SocketAddr>) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let serving = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        for to in to.into_iter().cycle() {
            let Ok((mut from, _)) = listener.accept().await else {
                return;
            };
            let Ok(mut to) = tokio::net::TcpStream::connect(to).await else {
                return;
            };
            connections
                .spawn(async move { tokio::io::copy_bidirectional(&mut from, &mut to).await });
        }
    });
    (address, serving)
}

/// As in the middle of an upgrade, and before it.
#[tokio::test]
async fn an_older_authority_that_takes_no_reports_is_passed_over_for_a_newer_one() {
    let (fake, dir) = (Fake::default(), tempfile::tempdir().expect("a directory"));
    let token = agent_of(&fake, "n1");
    std::fs::write(dir.path().join("token"), &token).expect("write");
    let old = Replica::start(&fake).await;
    until("roots are published", || fake.get(ROOTS).is_some()).await;
    let taker = Arc::new(Taker::default());
    let mut with = config();
    with.reports = Some(taker.clone());
    let new = Replica::with(Arc::new(fake.clone()), cluster(), with).await;
    let said = said_of("a.x", 7, &[]);
    for (to, is_taken) in [
        (vec![old.address], false),
        (vec![old.address, old.address, new.address], true),
    ] {
        let (address, serving) = in_turn(to).await;
        let n1 = agent(&fake, dir.path(), address, "n1");
        let known = async {
            loop {
                match n1.report_once(&said).await {
                    // The roots are not known yet.
                    Err(error) if error.contains("root") => {}
                    sent => return sent,
                }
                tokio::task::yield_now().await;
            }
        };
        let known = tokio::time::timeout(Duration::from_secs(20), known).await;
        let sent = known.expect("in time").expect("no error");
        match is_taken {
            true => assert!(matches!(sent, report::Sent::Taken(_)), "{sent:?}"),
            false => assert_eq!(sent, report::Sent::NotServed),
        }
        n1.stop().await;
        serving.abort();
    }
    assert_eq!(*taker.taken.lock(), [("n1".to_owned(), said)]);
    old.end().await;
    new.end().await;
}

#[tokio::test]
async fn two_replicas_that_start_at_once_have_one_root() {
    let fake = Fake::default();
    let (a, b) = tokio::join!(Replica::start(&fake), Replica::start(&fake));
    let roots = |replica: &Replica| replica.ca.fresh().expect("state").bundle();
    until("they agree", || roots(&a) == roots(&b)).await;
    until("it is published", || fake.get(ROOTS).is_some()).await;
    assert_eq!(roots_of(&fake), roots(&a));
    a.end().await;
    b.end().await;
}

#[tokio::test]
async fn who_is_slower_with_an_empty_cluster_takes_what_is_there() {
    let (fake, other) = (Fake::default(), Fake::default());
    let first = Replica::start(&other).await;
    // It appears between the look and the creation.
    fake.is_faster_with(SECRET, other.get(SECRET).expect("a Secret"));
    let second = Replica::start(&fake).await;
    assert_eq!(
        second.ca.fresh().expect("state").bundle(),
        first.ca.fresh().expect("state").bundle()
    );
    first.end().await;
    second.end().await;
}

#[tokio::test]
async fn a_rotation_goes_through_both_replicas_and_the_configmap_and_waits_for_the_longest_life() {
    let fake = Fake::default();
    let (a, b) = tokio::join!(Replica::start(&fake), Replica::start(&fake));
    let place = || {
        let api = Arc::new(fake.clone());
        let runtime = tokio::runtime::Handle::current();
        Place::open(Arc::new(Secret::new(api, &cluster(), runtime, false)))
    };
    let step = |step: Step, force| {
        let place = place();
        let taken = tokio::task::spawn_blocking(move || rotate(place, &step, force));
        async { taken.await.expect("it ran") }
    };
    let first = a.ca.fresh().expect("state").bundle();
    step(Step::Prepare(None), false).await.expect("prepared");
    until("A+B", || a.roots() == 2 && b.roots() == 2).await;
    until("A+B is published", || {
        roots_of(&fake).matches("BEGIN").count() == 2
    })
    .await;
    let early = step(Step::Activate, false).await.expect_err("too early");
    let until_when = early.to_string();
    let now = seconds(SystemTime::now());
    let after = |ahead: u64| crate::ca::units::time(now + ahead);
    // Two hours of life, a quarter of staleness; some seconds have passed.
    let bounds = after(7200 + 900 - 20)..=after(7200 + 900 + 20);
    let said = until_when.split("until ").nth(1).expect("a time");
    assert!(bounds.contains(&said[..20].to_owned()), "{until_when}");
    step(Step::Activate, true).await.expect("activated");
    let early = step(Step::Retire, false).await.expect_err("too early");
    assert!(matches!(early, Error::TooEarly(_)), "{early}");
    step(Step::Retire, true).await.expect("retired");
    until("B", || a.roots() == 1 && b.roots() == 1).await;
    let last = a.ca.fresh().expect("state").bundle();
    assert_ne!(last, first);
    until("B is published", || roots_of(&fake) == last).await;
    let place = place();
    let shown = tokio::task::spawn_blocking(move || show(place)).await;
    let shown = shown.expect("it ran").expect("shown");
    assert_eq!(shown.authorities[0].live_certificates, None);
    a.end().await;
    b.end().await;
}

#[tokio::test]
async fn a_change_that_was_overtaken_is_made_again_to_the_newer_state() {
    let fake = Fake::default();
    let replica = Replica::start(&fake).await;
    // Somebody else's change, after this one was read.
    let mut theirs = fake.get(SECRET).expect("a Secret");
    theirs["data"]["other"] = json!(encode(b"{}"));
    fake.is_faster_with(SECRET, theirs);
    let store = replica.ca.store.clone();
    let changed = tokio::task::spawn_blocking(move || {
        store.change(&mut |documents| {
            documents.put_bytes("revoked.json", b"{\"number\":7,\"revoked\":[]}".to_vec());
            Ok(())
        })
    });
    changed.await.expect("it ran").expect("changed");
    let data = &fake.get(SECRET).expect("a Secret")["data"];
    assert_eq!(
        data["other"],
        json!(encode(b"{}")),
        "nothing of theirs is lost"
    );
    assert_eq!(
        data["revoked.json"],
        json!(encode(b"{\"number\":7,\"revoked\":[]}"))
    );
    assert!(data[AUTHORITY].is_string(), "nor of what did not change");
    replica.end().await;
}

#[tokio::test]
async fn somebody_elses_roots_in_the_configmap_are_undone_and_an_equal_one_is_not_written() {
    let fake = Fake::default();
    let replica = Replica::start(&fake).await;
    until("it is published", || fake.get(ROOTS).is_some()).await;
    let (good, written) = (
        roots_of(&fake),
        fake.calls("PUT /api/v1/namespaces/mesh-system/configmaps"),
    );
    fake.put(
        ROOTS,
        json!({"metadata": {"name": "mesh-agent-ca-root"}, "data": {"root.pem": "mine"}}),
    );
    let secret = Secret::new(
        Arc::new(fake.clone()),
        &cluster(),
        tokio::runtime::Handle::current(),
        false,
    );
    let follow = tokio::time::timeout(Duration::from_millis(200), secret.follow(&fake));
    assert!(follow.await.is_err(), "it does not end");
    for expected in [true, false] {
        let changed = roots::write(&fake, &cluster(), &secret).await;
        assert_eq!(changed.expect("written"), expected);
    }
    assert_eq!(roots_of(&fake), good);
    assert_eq!(
        fake.calls("PUT /api/v1/namespaces/mesh-system/configmaps"),
        written + 1
    );
    replica.end().await;
}

/// One that is cut off from the changes, and not from the rest.
#[tokio::test]
async fn a_replica_that_saw_an_old_state_does_not_undo_a_rotation() {
    let fake = Fake::default();
    let replica = Replica::start(&fake).await;
    until("it is published", || fake.get(ROOTS).is_some()).await;
    let runtime = tokio::runtime::Handle::current();
    let slow = Secret::new(Arc::new(fake.clone()), &cluster(), runtime, false);
    let follow = tokio::time::timeout(Duration::from_millis(200), slow.follow(&fake));
    assert!(follow.await.is_err(), "it does not end");
    let place = Place::open(replica.ca.store.clone());
    let taken = tokio::task::spawn_blocking(move || rotate(place, &Step::Prepare(None), false));
    taken.await.expect("it ran").expect("prepared");
    let both = || roots_of(&fake).matches("BEGIN").count() == 2;
    until("A+B is published", both).await;
    let written = roots::write(&fake, &cluster(), &slow).await;
    assert!(!written.expect("looked at"));
    assert!(both(), "it stays");
    replica.end().await;
}

#[tokio::test]
async fn roots_do_not_go_back_to_before_what_is_published() {
    let fake = Fake::default();
    let replica = Replica::start(&fake).await;
    until("it is published", || fake.get(ROOTS).is_some()).await;
    let mut newer = fake.get(ROOTS).expect("a ConfigMap");
    replica.end().await;
    newer["data"]["root.pem"] = json!("newer");
    newer["metadata"]["annotations"]["mesh-agent.io/secret-version"] = json!("1000000");
    fake.put(ROOTS, newer);
    let runtime = tokio::runtime::Handle::current();
    let secret = Secret::new(Arc::new(fake.clone()), &cluster(), runtime, false);
    let follow = tokio::time::timeout(Duration::from_millis(200), secret.follow(&fake));
    assert!(follow.await.is_err(), "it does not end");
    let refused = roots::write(&fake, &cluster(), &secret).await;
    let why = refused.expect_err("refused").to_string();
    assert!(why.contains("1000000 is published already"), "{why}");
    assert_eq!(roots_of(&fake), "newer");
}
