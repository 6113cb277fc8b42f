//! Who is taken for an agent, and for how long.

use super::*;

#[tokio::test]
async fn only_a_reviewed_token_of_an_agent_that_lives_is_good() {
    let fake = Fake::default();
    let replica = Replica::start(&fake).await;
    let good = agent_of(&fake, "n1");
    assert_eq!(replica.denies(&good, Some("n1")).await, None);
    assert_eq!(
        replica.denies(&good, None).await,
        None,
        "its node is in the token"
    );
    assert_eq!(
        replica.denies(&good, Some("n2")).await,
        Some(Refusal::OtherNode)
    );

    let changed = |salt: &str, change: &dyn Fn(&mut Value)| {
        let token = jwt("mesh-agent-ca", 3600, salt);
        let mut status = reviewed("n1", "agent-n1");
        change(&mut status);
        fake.review(&token, status);
        token
    };
    let extra = |name: &str| format!("authentication.kubernetes.io/{name}");
    let remove = |status: &mut Value, name: &str| {
        let extras = status["user"]["extra"].as_object_mut().expect("extras");
        extras.remove(&extra(name));
    };
    for (token, why) in [
        (
            changed("no", &|s| s["authenticated"] = json!(false)),
            Refusal::UnknownToken,
        ),
        (
            changed("error", &|s| s["error"] = json!("odd")),
            Refusal::UnknownToken,
        ),
        // Who does not look at audiences answers without any.
        (
            changed("unaware", &|s| s["audiences"] = json!([])),
            Refusal::Audience,
        ),
        (
            changed("account", &|s| {
                s["user"]["username"] = json!("system:serviceaccount:shop:web");
            }),
            Refusal::Account,
        ),
        (
            changed("user", &|s| {
                s["user"]["username"] = json!("mesh-system/mesh-agent");
            }),
            Refusal::Account,
        ),
        (
            changed("pod", &|s| remove(s, "pod-uid")),
            Refusal::NoNodeClaim,
        ),
        (
            changed("node", &|s| remove(s, "node-name")),
            Refusal::NoNodeClaim,
        ),
        (
            changed("two", &|s| {
                s["user"]["extra"][extra("node-name")] = json!(["n1", "n2"]);
            }),
            Refusal::NoNodeClaim,
        ),
        (
            changed("gone", &|s| {
                s["user"]["extra"][extra("pod-uid")] = json!(["uid-before"]);
            }),
            Refusal::NoSuchPod,
        ),
        (
            changed("moved", &|s| {
                s["user"]["extra"][extra("node-name")] = json!(["n2"]);
            }),
            Refusal::NoSuchPod,
        ),
        (jwt("mesh-agent-ca", 3600, "unknown"), Refusal::UnknownToken),
    ] {
        assert_eq!(replica.denies(&token, None).await, Some(why));
    }
    // For these nobody is asked.
    let asked = fake.calls("POST /apis/authentication");
    for (token, why) in [
        (
            jwt("https://kubernetes.default.svc", 3600, ""),
            Refusal::Audience,
        ),
        (jwt("mesh-agent-ca", 0, ""), Refusal::ExpiredToken),
        ("noise".to_owned(), Refusal::UnknownToken),
    ] {
        assert_eq!(replica.denies(&token, None).await, Some(why));
    }
    assert_eq!(fake.calls("POST /apis/authentication"), asked);
    replica.end().await;
}

#[tokio::test]
async fn an_agent_gets_the_identities_of_the_pods_that_live_on_its_node() {
    let (fake, dir) = (Fake::default(), tempfile::tempdir().expect("a directory"));
    let replica = Replica::start(&fake).await;
    std::fs::write(dir.path().join("token"), agent_of(&fake, "n1")).expect("write");
    pod(&fake, ("shop", "web-0"), "web", "n1");
    pod(&fake, ("shop", "db-0"), "db", "n2");
    until("it is published", || fake.get(ROOTS).is_some()).await;
    let n1 = agent(&fake, dir.path(), replica.address, "n1");
    get(&n1, "web", 10).await.expect("a certificate");
    let refused = why(get(&n1, "db", 1).await);
    assert!(refused.contains("no valid certificate"), "{refused}");
    // It is new here, and found out about while the agent waits.
    pod(&fake, ("shop", "db-1"), "db", "n1");
    get(&n1, "db", 10).await.expect("a certificate");
    let path = pod(&fake, ("shop", "job-0"), "job", "n1");
    let of = Of {
        node: "n1",
        namespace: "shop",
        account: "job",
    };
    let (_, pods) = replica.ca.cluster.clone().expect("a cluster");
    until("it is there", || pods.has(of)).await;
    let mut ended = fake.get(&path).expect("a pod");
    ended["status"]["phase"] = json!("Succeeded");
    fake.put(&path, ended);
    until("it ended", || !pods.has(of)).await;
    let refused = why(get(&n1, "job", 4).await);
    assert!(refused.contains("PermissionDenied"), "{refused}");
    // Its own pod is gone: the token is good no more, whoever shows it.
    fake.delete("/api/v1/namespaces/mesh-system/pods/agent-n1");
    until("it is gone", || {
        !pods.is(
            "uid-agent-n1",
            Of {
                node: "n1",
                namespace: "mesh-system",
                account: "mesh-agent",
            },
        )
    })
    .await;
    let token = std::fs::read_to_string(dir.path().join("token")).expect("a token");
    assert_eq!(replica.denies(&token, None).await, Some(Refusal::NoSuchPod));
    n1.stop().await;
    replica.end().await;
}

#[tokio::test]
async fn while_the_api_server_is_away_a_token_that_was_good_is_good_for_a_while() {
    let fake = Fake::default();
    let soon = Cluster {
        stale: Duration::from_secs(2),
        ..cluster()
    };
    let replica = Replica::start_with(&fake, soon).await;
    let (shown, other) = (agent_of(&fake, "n1"), agent_of(&fake, "n2"));
    assert_eq!(replica.denies(&shown, None).await, None);
    let (_, pods) = replica.ca.cluster.clone().expect("a cluster");
    let there = Of {
        node: "n2",
        namespace: "mesh-system",
        account: "mesh-agent",
    };
    until("the pods are known", || pods.is("uid-agent-n2", there)).await;
    fake.set_away(true);
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(replica.denies(&shown, None).await, None);
    assert_eq!(
        replica.denies(&other, None).await,
        Some(Refusal::Unreviewed),
        "no answer is no yes"
    );
    until("it is too long", || !pods.is_known()).await;
    assert_eq!(
        replica.denies(&shown, None).await,
        Some(Refusal::Unreviewed)
    );
    assert!(replica.ca.fresh().is_err(), "nothing is signed any more");
    fake.set_away(false);
    until("it is back", || pods.is_known()).await;
    assert_eq!(replica.denies(&other, None).await, None);
    replica.end().await;
}

/// What the API server says of a token counts for a while, and not for as long as
/// everything else of it answers.
#[tokio::test]
async fn what_was_said_of_a_token_has_an_end_whatever_else_answers() {
    let fake = Fake::default();
    let soon = Cluster {
        stale: Duration::from_secs(1),
        ..cluster()
    };
    let replica = Replica::start_with(&fake, soon).await;
    let shown = agent_of(&fake, "n1");
    assert_eq!(replica.denies(&shown, None).await, None);
    let said = Instant::now();
    fake.fail_reviews(Some(ApiError::Away("reviews alone".to_owned())));
    let (_, pods) = replica.ca.cluster.clone().expect("a cluster");
    while said.elapsed() < Duration::from_millis(1_100) {
        // The pods are heard of all the time.
        pod(&fake, ("shop", "web-0"), "web", "n1");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(pods.is_known());
    assert_eq!(
        replica.denies(&shown, None).await,
        Some(Refusal::Unreviewed)
    );
    replica.end().await;
}

/// As over connections to an API server that fell silent: each holds up a call for as
/// long as it may take, and an agent that starts waits no longer.
#[tokio::test]
async fn an_api_server_that_is_silent_keeps_no_known_agent_from_its_certificate() {
    let fake = Fake::default();
    let soon = Cluster {
        // An answer is asked for again after 330 ms.
        stale: Duration::from_secs(30),
        ..cluster()
    };
    let replica = Replica::start_with(&fake, soon).await;
    let shown = agent_of(&fake, "n1");
    assert_eq!(replica.denies(&shown, None).await, None);
    fake.delay_reviews(Duration::from_millis(4_500));
    fake.review(&shown, json!({"authenticated": false}));
    tokio::time::sleep(Duration::from_millis(400)).await;
    let asked = Instant::now();
    assert_eq!(replica.denies(&shown, None).await, None, "it was good");
    assert!(
        asked.elapsed() < Duration::from_secs(4),
        "{:?}",
        asked.elapsed()
    );
    // Nobody waits for what it says, and it counts.
    let reviews = || fake.calls("POST /apis/authentication.k8s.io/v1/tokenreviews");
    until("it was answered", || reviews() == 2).await;
    fake.delay_reviews(Duration::ZERO);
    // A question that is under way takes as long as it began.
    let told = async {
        loop {
            match replica.denies(&shown, None).await {
                Some(Refusal::UnknownToken) => return,
                why => assert!(why.is_some(), "it is not known to be good any more"),
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(20), told).await;
    told.expect("what was said of it counts");
    replica.end().await;
}

/// A Service leads an agent that starts again to any of them.
#[tokio::test]
async fn a_replica_that_does_not_know_the_token_holds_up_no_agent_that_another_one_knows() {
    let (fake, dir) = (Fake::default(), tempfile::tempdir().expect("a directory"));
    let soon = Cluster {
        // An answer is asked for again after 330 ms.
        stale: Duration::from_secs(30),
        ..cluster()
    };
    let other = Replica::start_with(&fake, soon.clone()).await;
    let knows = Replica::start_with(&fake, soon).await;
    let token = agent_of(&fake, "n1");
    pod(&fake, ("shop", "web-0"), "web", "n1");
    std::fs::write(dir.path().join("token"), &token).expect("write");
    until("roots are published", || fake.get(ROOTS).is_some()).await;
    let before = agent(&fake, dir.path(), knows.address, "n1");
    get(&before, "web", 10).await.expect("a certificate");
    before.stop().await;
    fake.delay_reviews(Duration::from_secs(60));
    tokio::time::sleep(Duration::from_millis(400)).await;
    let replicas = vec![other.address, other.address, knows.address];
    let (address, serving) = in_turn(replicas).await;
    let again = agent(&fake, dir.path(), address, "n1");
    let asked = Instant::now();
    get(&again, "web", 20).await.expect("a certificate");
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    again.stop().await;
    serving.abort();
    other.end().await;
    knows.end().await;
}

#[tokio::test]
async fn a_token_that_is_refused_once_is_not_good_again_while_nobody_answers() {
    let fake = Fake::default();
    let soon = Cluster {
        // An answer is asked for again after 50 ms.
        stale: Duration::from_millis(4_500),
        ..cluster()
    };
    let replica = Replica::start_with(&fake, soon).await;
    let shown = agent_of(&fake, "n1");
    assert_eq!(replica.denies(&shown, None).await, None);
    let again = || tokio::time::sleep(Duration::from_millis(60));
    // The question is refused: that is no answer that is not there.
    let refused = ApiError::Refused {
        path: "tokenreviews".to_owned(),
        code: 403,
        message: "you may not".to_owned(),
    };
    fake.fail_reviews(Some(refused));
    again().await;
    assert_eq!(
        replica.denies(&shown, None).await,
        Some(Refusal::Unreviewed)
    );
    // The token is refused, and then nobody answers.
    fake.fail_reviews(None);
    fake.review(&shown, json!({"authenticated": false}));
    assert_eq!(
        replica.denies(&shown, None).await,
        Some(Refusal::UnknownToken)
    );
    fake.fail_reviews(Some(ApiError::Away("all".to_owned())));
    assert_eq!(
        replica.denies(&shown, None).await,
        Some(Refusal::Unreviewed)
    );
    replica.end().await;
}

/// An API server that takes its time over each token.
struct Slow {
    fake: Fake,
    free: tokio::sync::Semaphore,
}

impl Slow {
    /// It answers about so many, until it is told otherwise.
    fn new(free: usize) -> Arc<Self> {
        Arc::new(Self {
            fake: Fake::default(),
            free: tokio::sync::Semaphore::new(free),
        })
    }
}

/// Shown now from the address.
fn proof(token: &str, source: [u8; 4]) -> Proof<'_> {
    Proof {
        token: Some(token),
        node: None,
        source: source.into(),
        now: seconds(SystemTime::now()),
    }
}

impl Api for Slow {
    fn call<'a>(&'a self, path: &'a str, verb: Verb) -> crate::cluster::Answer<'a, String> {
        let answer = self.fake.call(path, verb);
        Box::pin(async move {
            let answer = answer.await;
            if path.contains("tokenreviews") {
                let _one = self.free.acquire().await;
            }
            answer
        })
    }

    fn list<'a>(
        &'a self,
        path: &'a str,
        take: &'a mut crate::cluster::TakeItem<'_>,
    ) -> crate::cluster::Answer<'a, crate::cluster::Page> {
        self.fake.list(path, take)
    }

    fn watch<'a>(
        &'a self,
        path: &'a str,
    ) -> crate::cluster::Answer<'a, tokio::sync::mpsc::Receiver<Result<String, ApiError>>> {
        self.fake.watch(path)
    }
}

#[tokio::test]
async fn one_address_with_noise_does_not_keep_an_agent_from_being_reviewed() {
    let slow = Slow::new(0);
    let pods = Arc::new(Pods::new(STALE));
    let reviews = Arc::new(Reviews::new(slow.clone(), &cluster(), pods));
    let show = |token: String, last: u8| {
        let reviews = reviews.clone();
        tokio::spawn(async move { reviews.check(&proof(&token, [10, 0, 0, last])).await.err() })
    };
    let noise: Vec<_> = (0..200)
        .map(|n| show(jwt("mesh-agent-ca", 3600, &format!("noise-{n}")), 1))
        .collect();
    let asked = || slow.fake.calls("POST /apis/authentication");
    until("the noise is asked about", || asked() > 0).await;
    until("most of it is refused", || {
        noise.iter().filter(|asking| asking.is_finished()).count() > 50
    })
    .await;
    let before = asked();
    let good = show(agent_of(&slow.fake, "n1"), 2);
    until("the agent's is asked about", || asked() == before + 1).await;
    slow.free.add_permits(1_000);
    for asking in noise {
        let denied = asking.await.expect("it ran").expect("denied");
        match denied.why {
            Refusal::UnknownToken => {}
            Refusal::Unreviewed => {
                assert!(denied.said.expect("told").contains("from this address"));
            }
            other => panic!("{other}"),
        }
    }
    good.abort();
}

/// An agent that hears nothing comes again, to each replica several times.
#[tokio::test]
async fn a_token_that_is_asked_about_is_not_asked_about_twice() {
    let slow = Slow::new(0);
    let pods = Arc::new(Pods::new(STALE));
    let reviews = Arc::new(Reviews::new(slow.clone(), &cluster(), pods));
    let token = jwt("mesh-agent-ca", 3600, "one");
    let proof = proof(&token, [10, 0, 0, 1]);
    let why = |checked: Result<_, crate::ca::token::Denied>| checked.err().map(|denied| denied.why);
    for _ in 0..3 {
        assert_eq!(why(reviews.check(&proof).await), Some(Refusal::Unreviewed));
    }
    assert_eq!(slow.fake.calls("POST /apis/authentication"), 1);
    slow.free.add_permits(100);
    assert_eq!(
        why(reviews.check(&proof).await),
        Some(Refusal::UnknownToken)
    );
}

/// The nodes of a cluster may share one IPv6 network, and noise comes from it as well.
#[tokio::test]
async fn a_known_agent_is_taken_where_its_network_asks_too_much() {
    let slow = Slow::new(1);
    let soon = Cluster {
        // An answer is asked for again after 330 ms.
        stale: Duration::from_secs(30),
        ..cluster()
    };
    let replica = Replica::at(slow.clone(), soon).await;
    let (shown, other) = (agent_of(&slow.fake, "n1"), agent_of(&slow.fake, "n2"));
    assert_eq!(replica.denies(&shown, None).await, None);
    assert_eq!(slow.free.forget_permits(1), 1);
    let (reviews, _) = replica.ca.cluster.clone().expect("a cluster");
    let noise: Vec<_> = (0..200)
        .map(|n| {
            let reviews = reviews.clone();
            let token = jwt("mesh-agent-ca", 3600, &format!("noise-{n}"));
            tokio::spawn(async move { reviews.check(&proof(&token, [127, 0, 0, 1])).await.err() })
        })
        .collect();
    until("no more of it is taken", || {
        noise.iter().any(tokio::task::JoinHandle::is_finished)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(replica.denies(&shown, None).await, None);
    assert_eq!(
        replica.denies(&other, None).await,
        Some(Refusal::Unreviewed),
        "nobody said anything of it"
    );
    slow.free.add_permits(1_000);
    for asking in noise {
        assert!(asking.await.expect("it ran").is_some());
    }
    replica.end().await;
}
