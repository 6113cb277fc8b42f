//! Agents that get their certificates: from an authority that runs, or from files.

use super::*;

#[tokio::test]
async fn an_agent_knows_when_its_token_ends_and_tries_another_one_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = start(config(dir.path())).await;
    token_for(dir.path(), 20);
    let n1 = agent(dir.path(), ca.address, "n1");
    assert!(n1.status().token.is_none(), "nobody has told");
    get(&n1, "web", 5).await.expect("credentials");
    let token = || n1.status().token.expect("it was told");
    assert!((10..=20).contains(&token().expires_in_seconds));
    assert!(!token().is_ending && token().remedy.contains("--node n1"));
    let mut registry = prometheus_client::registry::Registry::default();
    n1.register(&mut registry);
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &registry).expect("a page");
    let family = "mesh_agent_token_expiry_timestamp_seconds ";
    assert!(page.lines().any(|l| l.starts_with(family)), "{page}");
    // Half of the certificate's life, 10 s, is not waited for.
    token_for(dir.path(), 6_000);
    let renewed = async {
        while token().expires_in_seconds < 5_000 {
            tokio::task::yield_now().await;
        }
    };
    let renewed = tokio::time::timeout(Duration::from_secs(5), renewed).await;
    assert!(renewed.is_ok(), "{:?}", token());
    n1.stop().await;
    ca.cancel.cancel();
    ca.task.await.expect("ended").expect("well");
}

#[tokio::test]
async fn an_agent_gets_the_identities_of_its_node_and_no_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = start(config(dir.path())).await;
    token(dir.path());
    let n1 = agent(dir.path(), ca.address, "n1");
    let got = get(&n1, "web", 10).await.expect("credentials");
    assert_eq!(got.id(), &id("web"));
    let handle = n1.handle(&id("web"));
    let refused = get(&n1, "db", 1).await.map(|c| c.id().clone());
    assert!(
        matches!(&refused, Err(IdentityError::Unavailable(why)) if why.contains("PermissionDenied")),
        "{refused:?}"
    );
    assert!(handle.current().is_none(), "its last pod left");
    let n2 = agent(dir.path(), ca.address, "n2");
    let refused = get(&n2, "web", 1).await.map(|c| c.id().clone());
    assert!(
        matches!(&refused, Err(IdentityError::Unavailable(why)) if why.contains("Unauthenticated")),
        "{refused:?}"
    );
    n1.stop().await;
    n2.stop().await;
    ca.cancel.cancel();
    ca.task.await.expect("ended").expect("well");
    let read = |name| std::fs::read_to_string(dir.path().join("ca").join(name)).expect("a log");
    assert!(read(AUDIT).contains("\"issued\""));
    for word in ["identity_not_allowed", "other_node"] {
        assert!(read(REFUSED).contains(word), "{word} in {}", read(REFUSED));
        assert!(!read(AUDIT).contains(word), "refusals are not in the trail");
    }
}

#[tokio::test]
async fn roots_and_revocations_change_while_everything_runs() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = start(config(dir.path())).await;
    let state = dir.path().join("ca");
    token(dir.path());
    let n1 = agent(dir.path(), ca.address, "n1");
    let mut changes = n1.trust_changes();
    let first = get(&n1, "web", 10).await.expect("credentials");
    changes.mark_unchanged();
    revoke(&state, &hex(first.serial()), false, None).expect("revoked");
    tokio::time::timeout(Duration::from_secs(3), changes.changed())
        .await
        .expect("in time")
        .expect("it runs");
    let now = n1.handle(&id("web")).current().expect("credentials");
    if now.serial() == first.serial() {
        assert!(now.is_trusted().is_err());
    }
    for step in [Step::Prepare(None), Step::Activate, Step::Retire] {
        rotate(&state, &step, true).expect("rotated");
        n1.want(&BTreeSet::new());
        let got = get(&n1, "web", 10).await.expect("credentials");
        got.is_trusted().expect("trusted");
    }
    n1.stop().await;
    ca.cancel.cancel();
    ca.task.await.expect("ended").expect("well");
}

/// The state of an authority whose root ended a day ago, after so many steps.
pub(super) fn after_its_root_ended(dir: &Path, steps: &[Step]) {
    let ca = Ca::open(config(dir)).expect("an authority");
    let domain = TrustDomain::new("cluster.local").expect("a domain");
    let long_ago = SystemTime::now() - authority::ROOT_LIFETIME - Duration::from_secs(86_400);
    let ended = authority::Record::generate(&domain, long_ago).expect("a root");
    let change = ca.store.change(&mut |documents| {
        let mut file = state::authority_file(documents)?;
        file.signing.clone_from(&ended.id);
        file.authorities = vec![ended.clone()];
        documents.put(records::AUTHORITY, &file)
    });
    change.expect("changed");
    let state = ca.config.state_dir.clone();
    drop(ca);
    for step in steps {
        rotate(&state, step, false).expect("nothing lives that could break");
    }
}

#[tokio::test]
async fn an_authority_whose_old_root_has_ended_serves_by_the_new_one_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    after_its_root_ended(dir.path(), &[Step::Prepare(None), Step::Activate]);
    let ca = start(config(dir.path())).await;
    token(dir.path());
    let n1 = agent(dir.path(), ca.address, "n1");
    let got = get(&n1, "web", 10).await.expect("credentials");
    got.is_trusted().expect("trusted");
    n1.stop().await;
    ca.cancel.cancel();
    ca.task.await.expect("ended").expect("well");
}

#[tokio::test]
async fn an_authority_whose_only_root_has_ended_runs_until_another_one_is_there() {
    let dir = tempfile::tempdir().expect("a directory");
    after_its_root_ended(dir.path(), &[]);
    let ca = start(config(dir.path())).await;
    token(dir.path());
    let n1 = agent(dir.path(), ca.address, "n1");
    get(&n1, "web", 1).await.expect_err("nothing signs");
    for step in [Step::Prepare(None), Step::Activate] {
        rotate(&dir.path().join("ca"), &step, false).expect("nothing lives that could break");
    }
    get(&n1, "web", 10).await.expect("credentials");
    n1.stop().await;
    ca.cancel.cancel();
    ca.task.await.expect("ended").expect("well");
}

#[tokio::test]
async fn a_certificate_of_the_authority_that_has_ended_or_is_of_an_unknown_root_is_told_as_that() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(Ca::open(config(dir.path())).expect("an authority"));
    token(dir.path());
    let (now, day) = (SystemTime::now(), Duration::from_secs(86_400));
    let stranger = tempfile::tempdir().expect("a directory");
    let stranger = stranger.path();
    for (of, made, parts) in [
        (
            dir.path(),
            now - 2 * day,
            ["has expired", "ca rotate prepare", "clock"],
        ),
        (dir.path(), now + 2 * day, ["not valid yet", "clocks", ""]),
        (
            stranger,
            now,
            ["no root that this node knows", "bundle.pem", "--ca-root"],
        ),
    ] {
        let ca = Ca::open(config(of)).expect("an authority");
        let loaded = ca.fresh().expect("a state");
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = ["mesh-ca".to_owned()];
        let signed = loaded.authorities[0].sign_server(&names, &key, day, made);
        let own = PrivateKey::from_pem(key.serialize_pem().as_bytes()).expect("a key");
        let server = crate::tls::CaServer::new(&signed.expect("signed").pem, &own);
        let server = server.expect("a server");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address");
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _refused = server.accept(stream).await;
            }
        });
        let n1 = agent(dir.path(), address, "n1");
        get(&n1, "web", 1).await.expect_err("it is not believed");
        let told = n1.status().identities.remove(0);
        let told = [told.last_error, told.remedy].map(Option::unwrap_or_default);
        let told = told.join("; ");
        assert!(parts.iter().all(|part| told.contains(part)), "{told}");
        assert!(!told.contains("can be reached from"), "{told}");
        n1.stop().await;
        serving.abort();
    }
}

#[tokio::test]
async fn an_agent_starts_without_its_authority_and_recovers_when_it_comes() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = start(config(dir.path())).await;
    token(dir.path());
    first.cancel.cancel();
    first.task.await.expect("ended").expect("well");
    let n1 = agent(dir.path(), first.address, "n1");
    let away = get(&n1, "web", 1).await.map(|c| c.id().clone());
    assert!(
        matches!(away, Err(IdentityError::Unavailable(_))),
        "{away:?}"
    );
    let status = n1.status();
    assert_eq!(status.identities[0].state, "missing");
    assert!(status.identities[0].remedy.is_some(), "{status:?}");
    let again = start(Config {
        listen: first.address,
        ..config(dir.path())
    })
    .await;
    get(&n1, "web", 5).await.expect("credentials");
    n1.stop().await;
    again.cancel.cancel();
    again.task.await.expect("ended").expect("well");
}

/// Certificate and key as files of a static source.
fn put(ca: &Ca, dir: &Path, account: &str) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    let id = id(account);
    params.subject_alt_names = vec![rcgen::SanType::URI(id.as_str().try_into().expect("a name"))];
    let csr = params
        .serialize_request(&key)
        .and_then(|r| r.pem())
        .expect("a request");
    let chain = ask(ca, csr, 600, id.as_str()).expect("a certificate");
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).expect("write");
    write(&format!("shop.{account}.key"), &key.serialize_pem());
    write(&format!("shop.{account}.crt"), &chain[0]);
    write("ca.crt", &chain[1]);
}

#[tokio::test]
async fn certificates_from_files_follow_them_and_a_broken_pair_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = dir.path().join("files");
    std::fs::create_dir(&files).expect("a directory");
    let ca = Ca::open(config(dir.path())).expect("an authority");
    put(&ca, &files, "web");
    let agent = Identities::start(identity::Config {
        trust_domain: TrustDomain::new("cluster.local").expect("a domain"),
        trust_domain_aliases: vec![],
        source: SourceConfig::Files(files.clone()),
        crl_file: None,
        crl_kept: None,
    });
    let first = get(&agent, "web", 5).await.expect("credentials");
    let handle = agent.handle(&id("web"));
    let current = || handle.current().expect("credentials").serial().to_vec();
    std::fs::write(files.join("shop.web.crt"), "broken").expect("write");
    let deadline = Instant::now() + Duration::from_secs(5);
    while agent.status().identities.iter().all(|i| i.failures == 0) {
        assert!(Instant::now() < deadline, "the broken file is seen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(current(), first.serial());
    put(&ca, &files, "web");
    while current() == first.serial() {
        assert!(Instant::now() < deadline, "the new pair is seen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    agent.want(&BTreeSet::new());
    assert!(handle.current().is_none());
    agent.stop().await;
}

#[tokio::test]
async fn without_a_source_or_a_readable_revocation_list_there_is_no_certificate() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Ca::open(config(dir.path())).expect("an authority");
    put(&ca, dir.path(), "web");
    let start = |source, crl_file| {
        Identities::start(identity::Config {
            trust_domain_aliases: vec![],
            trust_domain: TrustDomain::new("cluster.local").expect("a domain"),
            source,
            crl_file,
            crl_kept: None,
        })
    };
    let none = start(SourceConfig::None, None);
    assert!(matches!(
        get(&none, "web", 1).await,
        Err(IdentityError::NoSource)
    ));
    let files = SourceConfig::Files(dir.path().to_owned());
    let no_crl = start(files, Some(dir.path().join("absent.pem")));
    assert!(matches!(
        get(&no_crl, "web", 1).await,
        Err(IdentityError::Unavailable(_))
    ));
    assert!(no_crl.trust().is_none());
    std::fs::copy(ca.store.path(CRL), dir.path().join("absent.pem")).expect("copy");
    get(&no_crl, "web", 5).await.expect("credentials");
    no_crl.stop().await;
}

#[tokio::test]
async fn a_revocation_list_that_says_nothing_or_less_leaves_the_last_one_in_force() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Ca::open(config(dir.path())).expect("an authority");
    put(&ca, dir.path(), "web");
    let state = dir.path().join("ca");
    let first = std::fs::read(ca.store.path(CRL)).expect("a list");
    let file = dir.path().join("crl.pem");
    let place = |bytes: &[u8]| {
        std::fs::write(dir.path().join("draft"), bytes).expect("write");
        std::fs::rename(dir.path().join("draft"), &file).expect("rename");
    };
    place(&first);
    let start = || {
        Identities::start(identity::Config {
            trust_domain: TrustDomain::new("cluster.local").expect("a domain"),
            trust_domain_aliases: vec![],
            source: SourceConfig::Files(dir.path().to_owned()),
            crl_file: Some(file.clone()),
            crl_kept: Some(dir.path().join("kept")),
        })
    };
    let agent = start();
    let credentials = get(&agent, "web", 5).await.expect("credentials");
    let serial = hex(credentials.serial());
    revoke(&state, &serial, true, Some(&file)).expect("revoked");
    let revoked = || {
        let current = agent.handle(&id("web")).current();
        current.is_none_or(|c| c.is_trusted().is_err())
    };
    let until = async |what: &dyn Fn() -> bool| {
        let wait = async {
            while !what() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), wait)
            .await
            .expect("in time");
    };
    until(&revoked).await;
    let root = std::fs::read(state.join(BUNDLE)).expect("roots");
    let elsewhere = tempfile::tempdir().expect("a directory");
    let stranger = Ca::open(config(elsewhere.path())).expect("an authority");
    let strangers = std::fs::read(stranger.store.path(CRL)).expect("a list");
    for (bytes, told) in [
        (&b""[..], "no revocation list"),
        (b"<html>", "no revocation list"),
        (&root, "no revocation list"),
        (&strangers, "has no list of O=cluster.local"),
        (&first, "lower CRL number"),
    ] {
        place(bytes);
        let problem = || {
            let why = agent.status().revocations;
            why.is_some_and(|why| why.contains(told))
        };
        until(&problem).await;
        assert!(revoked(), "{told}");
    }
    agent.stop().await;
    // Nor over a restart, whatever was put there meanwhile.
    let agent = start();
    let why = agent.status().revocations;
    assert!(why.is_some_and(|why| why.contains("lower CRL number")));
    assert!(get(&agent, "web", 1).await.is_err(), "it is revoked");
    agent.stop().await;
    place(&strangers);
    let agent = start();
    assert!(get(&agent, "web", 1).await.is_err(), "it is still revoked");
    agent.stop().await;
}

#[tokio::test]
async fn the_metrics_page_shows_age_and_expiry_and_forgets_with_the_identity() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Ca::open(config(dir.path())).expect("an authority");
    put(&ca, dir.path(), "web");
    let agent = Identities::start(identity::Config {
        trust_domain: TrustDomain::new("cluster.local").expect("a domain"),
        trust_domain_aliases: vec![],
        source: SourceConfig::Files(dir.path().to_owned()),
        crl_file: None,
        crl_kept: None,
    });
    let mut registry = prometheus_client::registry::Registry::default();
    agent.register(&mut registry);
    let page = || {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).expect("a page");
        page
    };
    get(&agent, "web", 5).await.expect("credentials");
    let ends = |page: &str| -> Option<f64> {
        let line = "mesh_agent_certificate_expiry_timestamp_seconds{identity=\"spiffe://cluster.local/ns/shop/sa/web\"} ";
        page.lines()
            .find_map(|l| l.strip_prefix(line))?
            .parse()
            .ok()
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let left = ends(&page()).expect("an end") - now.expect("a clock").as_secs_f64();
    assert!(left > 0.0, "an absolute time, and not what is left: {left}");
    for family in [
        "mesh_agent_root_expiry_timestamp_seconds ",
        "mesh_agent_certificate_obtained_timestamp_seconds{",
        "mesh_agent_certificate_request_duration_seconds_count ",
    ] {
        assert!(page().lines().any(|l| l.starts_with(family)), "{}", page());
    }
    assert!(
        page().contains("mesh_agent_certificate_renewals_total{result=\"success\"} 1"),
        "{}",
        page()
    );
    agent.want(&BTreeSet::new());
    assert!(!page().contains("shop"), "{}", page());
    agent.stop().await;
}
