mod agents;
mod flood;
mod istiod;
mod roots;
mod still;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::files::Files;
use super::records::{AUDIT, BUNDLE, CRL, ISSUED, Issued, REFUSED, TOKENS};
use super::signer::{Ca, Call};
use super::units::{hex, seconds};
use super::*;
use crate::identity::grpc::CertificateRequest;
use crate::identity::{self, CaConfig, Identities, IdentityError, SourceConfig};
use crate::model::{SpiffeId, TrustDomain};
use crate::tls::PrivateKey;

pub(super) fn config(dir: &Path) -> Config {
    Config {
        state_dir: dir.join("ca"),
        cluster: None,
        listen: ([127, 0, 0, 1], 0).into(),
        names: vec![],
        trust_domain: TrustDomain::new("cluster.local").expect("a domain"),
        given: None,
        default_lifetime: Duration::from_secs(3600),
        max_lifetime: Duration::from_secs(7200),
        rate: 100,
        burst: 100,
        max_connections: 8,
        reports: None,
    }
}

fn files(dir: &Path) -> Files {
    Files::open(&dir.join("ca")).expect("a directory")
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{account}")).expect("an identity")
}

fn caller() -> Caller {
    Caller {
        name: "t".to_owned(),
        node: "n1".to_owned(),
        entitled: token::Entitled::Named(vec!["shop/*".parse().expect("a pattern")]),
        token: None,
    }
}

fn ask(ca: &Ca, csr: String, seconds: i64, named: &str) -> Result<Vec<String>, Refusal> {
    let request = CertificateRequest::new(csr, seconds, named);
    let caller = caller();
    ca.issue(&Call {
        caller: &caller,
        peer: "test",
        request: &request,
    })
}

fn csr(id: &SpiffeId) -> String {
    PrivateKey::generate()
        .and_then(|key| key.csr(id))
        .expect("a request")
}

#[test]
fn only_good_requests_for_identities_of_the_node_are_signed() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Ca::open(config(dir.path())).expect("an authority");
    let web = id("web");
    assert_eq!(ask(&ca, csr(&web), 0, web.as_str()).map(|c| c.len()), Ok(2));
    let refused = |csr: String, seconds, named: &str| ask(&ca, csr, seconds, named).map(|_| ());
    let foreign = SpiffeId::parse("spiffe://other/ns/shop/sa/web").expect("an identity");
    let bank = SpiffeId::parse("spiffe://cluster.local/ns/bank/sa/web").expect("an identity");
    assert_eq!(
        refused(csr(&foreign), 0, foreign.as_str()),
        Err(Refusal::ForeignTrustDomain)
    );
    assert_eq!(
        refused(csr(&bank), 0, bank.as_str()),
        Err(Refusal::NotAllowed)
    );
    assert_eq!(
        refused(csr(&web), 0, bank.as_str()),
        Err(Refusal::IdentityMismatch)
    );
    assert_eq!(refused(csr(&web), -1, web.as_str()), Err(Refusal::Lifetime));
    assert_eq!(refused("x".to_owned(), 0, web.as_str()), Err(Refusal::Csr));
    assert_eq!(
        refused(csr(&web).repeat(2), 0, web.as_str()),
        Err(Refusal::Csr)
    );
    assert_eq!(
        refused(csr(&web) + &" ".repeat(9000), 0, web.as_str()),
        Err(Refusal::Csr)
    );
}

fn request(names: &[&str], algorithm: &'static rcgen::SignatureAlgorithm) -> String {
    let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
    let mut params = rcgen::CertificateParams::default();
    let uri = |name: &&str| rcgen::SanType::URI((*name).try_into().expect("a name"));
    params.subject_alt_names = names.iter().map(uri).collect();
    params
        .serialize_request(&key)
        .and_then(|r| r.pem())
        .expect("a request")
}

/// Requests of all kinds, in PEM and as DER.
pub(crate) fn request_seeds() -> Vec<(String, Vec<u8>)> {
    let (web, db) = (id("web"), id("db"));
    let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
    let requests = [
        ("good", request(&[web.as_str()], p256)),
        ("two-names", request(&[web.as_str(), db.as_str()], p256)),
        ("no-name", request(&[], p256)),
        ("web-address", request(&["https://x/"], p256)),
        (
            "p384",
            request(&[web.as_str()], &rcgen::PKCS_ECDSA_P384_SHA384),
        ),
        ("ed25519", request(&[web.as_str()], &rcgen::PKCS_ED25519)),
    ];
    let both = |(name, pem): (&str, String)| {
        let der = x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("PEM");
        let der = der.1.contents;
        [
            (format!("{name}-pem"), pem.into_bytes()),
            (format!("{name}-der"), der),
        ]
    };
    requests.into_iter().flat_map(both).collect()
}

#[test]
fn requests_with_other_keys_names_or_signatures_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Ca::open(config(dir.path())).expect("an authority");
    let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
    let (web, db) = (id("web"), id("db"));
    let refused = |csr: String| ask(&ca, csr, 0, web.as_str()).map(|_| ());
    assert_eq!(
        refused(request(&[web.as_str(), db.as_str()], p256)),
        Err(Refusal::Names)
    );
    assert_eq!(refused(request(&[], p256)), Err(Refusal::Names));
    assert_eq!(refused(request(&["https://x/"], p256)), Err(Refusal::Names));
    assert_eq!(
        refused(request(&[web.as_str()], &rcgen::PKCS_ECDSA_P384_SHA384)),
        Err(Refusal::KeyType)
    );
    assert_eq!(
        refused(request(&[web.as_str()], &rcgen::PKCS_ED25519)),
        Err(Refusal::KeyType)
    );
    let pem = request(&[web.as_str()], p256);
    let other = pem.replacen("MII", "MIJ", 1);
    assert!(refused(other).is_err());
}

#[test]
fn state_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    drop(Ca::open(config(dir.path())).expect("an authority"));
    let chmod = |path: &str, mode| {
        let path = dir.path().join(path);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    };
    for (path, wrong, right) in [("ca/authority.json", 0o640, 0o600), ("ca", 0o755, 0o700)] {
        chmod(path, wrong);
        assert!(
            matches!(Ca::open(config(dir.path())), Err(Error::Permissions { .. })),
            "{path}"
        );
        chmod(path, right);
    }
    Ca::open(config(dir.path())).expect("an authority");
}

/// Nothing can take the place of a directory that is not empty.
fn is_in_the_way_of(ca: &Ca, name: &str) -> std::path::PathBuf {
    let path = ca.store.path(name);
    std::fs::remove_file(&path).expect("removed");
    std::fs::create_dir_all(path.join("x")).expect("made");
    path
}

#[test]
fn a_step_that_is_done_and_not_published_says_both() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Ca::open(config(dir.path())).expect("an authority");
    let state = ca.config.state_dir.clone();
    let way = is_in_the_way_of(&ca, BUNDLE);
    let half = rotate(&state, &Step::Prepare(None), false).expect_err("not published");
    assert!(half.is_done(), "{half}");
    let said = half.to_string();
    let parts = ["done: authority", "not published", "bundle.pem", "ca run"];
    assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    let prepared = show(&state).expect("shown").authorities.len();
    assert_eq!(prepared, 2, "it is done");
    let trail = std::fs::read_to_string(ca.store.path(AUDIT)).expect("a trail");
    assert!(trail.contains("rotated"), "{trail}");
    // As it says.
    std::fs::remove_dir_all(way).expect("mended");
    drop(ca);
    let ca = Ca::open(config(dir.path())).expect("an authority");
    let bundle = std::fs::read_to_string(ca.store.path(BUNDLE)).expect("a bundle");
    assert_eq!(bundle.matches("BEGIN").count(), 2);
}

#[test]
fn a_revocation_whose_list_cannot_be_written_or_copied_is_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Ca::open(config(dir.path())).expect("an authority");
    let state = ca.config.state_dir.clone();
    let serial = |n: u8| format!("0{n}");
    let nowhere = dir.path().join("absent/crl.pem");
    let half = revoke(&state, &serial(1), true, Some(&nowhere)).expect_err("not copied");
    assert!(
        half.is_done() && half.to_string().contains("not copied"),
        "{half}"
    );
    let way = is_in_the_way_of(&ca, CRL);
    let half = revoke(&state, &serial(2), true, None).expect_err("not published");
    assert!(
        half.is_done() && half.to_string().contains("again"),
        "{half}"
    );
    assert_eq!(show(&state).expect("shown").revoked.len(), 2);
    std::fs::remove_dir_all(way).expect("mended");
    revoke(&state, &serial(2), true, None).expect("as it says");
}

#[test]
fn a_line_that_a_crash_cut_off_hurts_no_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Ca::open(config(dir.path())).expect("an authority");
    ask(&ca, csr(&id("a")), 0, id("a").as_str()).expect("a certificate");
    let path = ca.store.path(ISSUED);
    let text = std::fs::read_to_string(&path).expect("read");
    std::fs::write(&path, format!("{text}\n{{\"serial\":\"ab")).expect("write");
    ask(&ca, csr(&id("b")), 0, id("b").as_str()).expect("a certificate");
    let issued = files(dir.path()).lines::<Issued>(ISSUED).expect("lines");
    assert_eq!(issued.len(), 2);
}

#[test]
fn every_line_of_the_logs_ends_and_what_was_cut_off_hurts_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Ca::open(config(dir.path())).expect("an authority");
    ask(&ca, csr(&id("a")), 0, id("a").as_str()).expect("a certificate");
    let path = ca.store.path(AUDIT);
    let text = std::fs::read_to_string(&path).expect("read");
    assert!(text.ends_with("}\n") && !text.starts_with('\n'), "{text:?}");
    std::fs::write(&path, text + "{\"time\":\"20").expect("write");
    ask(&ca, csr(&id("b")), 0, id("b").as_str()).expect("a certificate");
    let text = std::fs::read_to_string(&path).expect("read");
    let whole = text
        .lines()
        .filter(|l| serde_json::from_str::<serde_json::Value>(l).is_ok());
    assert_eq!((whole.count(), text.lines().count()), (2, 3), "{text}");
}

#[test]
fn former_parts_of_a_log_are_kept_up_to_a_bound() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = files(dir.path());
    for n in 0..9 {
        let line = n.to_string();
        store.append("log", line.as_bytes()).expect("a line");
        store.rotate_log("log", 0, 3).expect("begun anew");
    }
    let read = |name: &str| std::fs::read_to_string(dir.path().join("ca").join(name)).ok();
    let parts = ["log", "log.1", "log.2", "log.3", "log.4"].map(read);
    let line = |n: u32| Some(format!("{n}\n"));
    assert_eq!(parts, [None, line(8), line(7), line(6), None]);
}

#[tokio::test]
async fn an_expired_token_is_named_with_its_file_and_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = start(config(dir.path())).await;
    let allowed = vec!["shop/web".parse().expect("a pattern")];
    let state = dir.path().join("ca");
    let text = create_token(&state, "n1", allowed, Duration::from_secs(1));
    let text = text.expect("a token").text;
    std::fs::write(dir.path().join("token"), &text).expect("write");
    let n1 = agent(dir.path(), ca.address, "n1");
    n1.want(&BTreeSet::from([id("web")]));
    let deadline = Instant::now() + Duration::from_secs(10);
    let failed = loop {
        let status = n1.status().identities.remove(0);
        match status.last_error {
            Some(error) => break (error, status.remedy.unwrap_or_default()),
            None => assert!(Instant::now() < deadline, "it fails"),
        }
        if status.state == "valid" {
            // It came within the token's second: ask again.
            n1.want(&BTreeSet::new());
            n1.want(&BTreeSet::from([id("web")]));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let file = dir.path().join("token").display().to_string();
    assert!(
        failed.0.contains("expired at") && failed.0.contains(&file),
        "{failed:?}"
    );
    assert!(failed.1.contains("ca token create --node n1"), "{failed:?}");
    assert!(failed.1.contains(&file), "{failed:?}");
    let tokens = list_tokens(&state).expect("tokens");
    let now = seconds(SystemTime::now());
    assert_eq!(tokens[0].state(now), TokenState::Expired);
    n1.stop().await;
    ca.cancel.cancel();
    ca.task.await.expect("ended").expect("well");
}

#[test]
fn one_token_that_asks_for_very_many_is_refused_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Ca::open(config(dir.path())).expect("an authority");
    let greedy = std::iter::repeat_n("t", book::MAX_OF_ONE);
    ca.book.lock().cleaned(greedy, ca.started.elapsed());
    let lines = || {
        files(dir.path())
            .lines::<Issued>(ISSUED)
            .expect("lines")
            .len()
    };
    let web = id("web");
    assert_eq!(ask(&ca, csr(&web), 0, web.as_str()), Err(Refusal::Full));
    assert_eq!(lines(), 0);
}

fn handle(dir: &Path) -> Handle {
    let ca = Ca::open(config(dir)).expect("an authority");
    Handle {
        seats: seats::Seats::new(8),
        ca: Arc::new(ca),
    }
}

/// The page of a new authority with one token, for the reference of metrics.
pub(crate) fn reference_page() -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let handle = handle(dir.path());
    token(dir.path());
    handle.page()
}

/// Every reason to refuse, as the page has it.
pub(crate) fn refusals() -> impl Iterator<Item = &'static str> {
    Refusal::ALL.into_iter().map(Refusal::label)
}

#[test]
fn the_authority_tells_how_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let handle = handle(dir.path());
    assert_eq!(handle.troubles(), []);
    let page = handle.page();
    for line in [
        "mesh_ca_ready 1.0",
        "mesh_ca_requests_refused_total{reason=\"expired_token\"} 0",
        "mesh_ca_tokens{state=\"valid\"} 0",
        "mesh_ca_root_expiration_timestamp_seconds ",
    ] {
        assert!(page.contains(line), "{line} in {page}");
    }
    std::fs::write(handle.ca.store.path(TOKENS), "broken").expect("write");
    assert!(handle.troubles()[0].blocks, "{:?}", handle.troubles());
    assert!(handle.page().contains("mesh_ca_ready 0.0"));
}

#[test]
fn a_draft_that_a_crash_left_is_removed() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Ca::open(config(dir.path())).expect("an authority");
    let draft = ca.store.path(".authority.json.1");
    std::fs::write(&draft, "half a key").expect("write");
    drop(Ca::open(config(dir.path())).expect("an authority"));
    assert!(!draft.exists());
}

struct Running {
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), Error>>,
    address: SocketAddr,
}

async fn start(config: Config) -> Running {
    let (sender, address) = tokio::sync::oneshot::channel();
    let cancel = CancellationToken::new();
    let task = tokio::spawn(run(config, cancel.clone(), |a, _| {
        let _ = sender.send(a);
    }));
    let address = address.await.expect("it listens");
    Running {
        cancel,
        task,
        address,
    }
}

fn agent(dir: &Path, address: SocketAddr, node: &str) -> Identities {
    Identities::start(identity::Config {
        trust_domain: TrustDomain::new("cluster.local").expect("a domain"),
        trust_domain_aliases: vec![],
        source: SourceConfig::Ca(Box::new(CaConfig {
            address: address.to_string(),
            server_name: "mesh-ca".to_owned(),
            roots: identity::Roots::File(dir.join("ca").join(BUNDLE)),
            cluster_id: None,
            token: dir.join("token"),
            node: node.to_owned(),
            lifetime: Some(Duration::from_secs(20)),
        })),
        crl_file: Some(dir.join("ca").join(CRL)),
        crl_kept: None,
    })
}

async fn get(
    agent: &Identities,
    account: &str,
    seconds: u64,
) -> Result<Arc<crate::tls::Credentials>, IdentityError> {
    agent.want(&BTreeSet::from([id(account)]));
    let deadline = Instant::now() + Duration::from_secs(seconds);
    agent.handle(&id(account)).wait(deadline).await
}

fn token(dir: &Path) -> String {
    token_for(dir, 600)
}

fn token_for(dir: &Path, seconds: u64) -> String {
    let allowed = vec!["shop/web".parse().expect("a pattern")];
    let lifetime = Duration::from_secs(seconds);
    let made = create_token(&dir.join("ca"), "n1", allowed, lifetime).expect("a token");
    std::fs::write(dir.join("draft"), &made.text).expect("write");
    std::fs::rename(dir.join("draft"), dir.join("token")).expect("rename");
    made.text
}
