//! What can be seen and tried on the wire between the nodes: handshakes of
//! agents, of openssl, and of clients that never finish theirs.

#[path = "wire/unfinished.rs"]
mod unfinished;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use mesh_tests::hello::{EARLY_DATA, Hello, PRE_SHARED_KEY, SERVER_NAME, TLS13, X25519_MLKEM768};
use mesh_tests::pki::{Pair, Root, uri};
use mesh_tests::{APP_PORT, Agent, Authority, Pod, World, all_fine, eventually, mesh_mode};
use rcgen::ExtendedKeyUsagePurpose;

const SOON: Duration = Duration::from_secs(10);
const MODE: &str = "mode";

/// Client a on n1, server c on n2, both enrolled; plain (n1) is not. The test
/// has the root's key, so it can make any certificate.
struct Wire {
    world: World,
    a: Pod,
    c: Pod,
    plain: Pod,
    root: Root,
    authority: Authority,
}

impl Wire {
    fn new() -> Self {
        let mut world = World::new(2).expect("a world");
        let [a, c] = [("n1", "a"), ("n2", "c")]
            .map(|(node, name)| world.add_pod(node, name, Some("closed")).expect("a pod"));
        let plain = world.add_pod("n1", "plain", None).expect("a pod");
        let root = Root::new(world.dir(), "root").expect("a root");
        let args = root.args().expect("files");
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let authority = world.authority(&args).expect("an authority");
        Self {
            world,
            a,
            c,
            plain,
            root,
            authority,
        }
    }

    fn strict(self) -> Self {
        self.world
            .write_config(MODE, &mesh_mode("STRICT"))
            .expect("a file");
        self
    }

    fn agent(&self, node: &str, args: &[&str]) -> Agent {
        let agent = self.world.secure_agent(node, &self.authority, args);
        agent.expect("an agent")
    }

    fn target(&self) -> String {
        format!("{}:{APP_PORT}", self.c.v4())
    }

    /// `openssl s_client` from outside the mesh; all that it says until it or
    /// the agent ends the connection.
    fn openssl(&self, args: &[&str], keep_open: bool) -> String {
        let mut child = self
            .world
            .in_pod(&self.plain, "timeout")
            .args(["20", "openssl", "s_client", "-connect", &self.target()])
            .args(["-alpn", "mesh/1"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl");
        let input = child.stdin.take().filter(|_| keep_open);
        let out = child.wait_with_output().expect("its output");
        drop(input);
        let text = [out.stdout, out.stderr].concat();
        String::from_utf8_lossy(&text).into_owned()
    }

    fn log_has(&self, node: &str, parts: &[&str]) {
        let file = self.world.access_log(node);
        let mut log = String::new();
        let found = eventually(SOON, || {
            log = std::fs::read_to_string(&file).unwrap_or_default();
            log.lines()
                .any(|l| parts.iter().all(|part| l.contains(part)))
        });
        assert!(found, "{parts:?} in {log}");
    }
}

fn shown(pair: &Pair) -> [&str; 5] {
    ["-tls1_3", "-cert", &pair.certificate, "-key", &pair.key]
}

/// Connections that ended for the reason.
fn ended(agent: &Agent, direction: &str, reason: &str) -> f64 {
    let labels = format!("direction=\"{direction}\",reason=\"{reason}\"");
    agent
        .metric("mesh_agent_connections_ended_total", &labels)
        .expect("a metric")
}

/// Its client knows of each before it is counted.
#[track_caller]
fn come_to(agent: &Agent, direction: &str, reason: &str, count: f64) {
    let all = eventually(SOON, || ended(agent, direction, reason) >= count);
    let now = ended(agent, direction, reason);
    assert!(
        all && (now - count).abs() < 0.5,
        "{reason}: {now} of {count}"
    );
}

fn handshakes(agent: &Agent, labels: &str) -> f64 {
    agent
        .metric("mesh_agent_tls_handshakes_total", labels)
        .expect("a metric")
}

#[test]
fn agents_offer_only_tls_1_3_and_agree_on_the_hybrid_key_exchange() {
    let mut wire = Wire::new();
    wire.world.serve(&wire.c).expect("a server");
    let agents = ["n1", "n2"].map(|node| wire.agent(node, &[]));
    let wired = wire.world.wire("n1");
    let capture = wire.world.capture_packets("n1", wired, "tcp");
    let capture = capture.expect("a capture");
    let targets = &wire.c.targets()[2..];
    let report = wire.world.storm(&wire.a, targets, &["--count", "40"]);
    all_fine(&report.expect("a report"), 40);
    let captured = capture.stop().expect("packets");

    let mut seen = 0;
    for ((from, to), flow) in &captured.flows {
        if to.port() != APP_PORT {
            continue;
        }
        // One that was made ahead may have no answer yet.
        let chosen = captured.flows.get(&(*to, *from));
        let Some(chosen) = chosen.filter(|answer| !answer.is_empty()) else {
            continue;
        };
        let offer = Hello::parse(flow).expect("a ClientHello");
        let chosen = Hello::parse(chosen).expect("a ServerHello");
        assert_eq!(offer.versions, [TLS13]);
        assert_eq!(chosen.versions, [TLS13]);
        assert_eq!(offer.key_shares[0], (X25519_MLKEM768, 1184 + 32));
        assert_eq!(chosen.key_shares, [(X25519_MLKEM768, 1088 + 32)]);
        // Suites of TLS 1.3 have numbers of their own.
        assert!(offer.ciphers.iter().all(|c| c >> 8 == 0x13), "{offer:x?}");
        for never in [SERVER_NAME, PRE_SHARED_KEY, EARLY_DATA] {
            assert!(!offer.extensions.contains(&never), "{never}");
        }
        seen += 1;
    }
    assert!(seen > 0, "connections between the agents");
    println!("{seen} handshakes on the wire, all TLS 1.3 with X25519MLKEM768");
    let tls = "\"tls\":{\"version\":\"1.3\",\"group\":\"X25519MLKEM768\",\"cipher\":\"TLS_";
    for (agent, (node, role)) in agents.iter().zip([("n1", "client"), ("n2", "server")]) {
        for event in ["\"open\"", "\"close\""] {
            wire.log_has(node, &[tls, event, "\"mutual_tls\""]);
        }
        let labels = format!("role=\"{role}\",version=\"1.3\",group=\"X25519MLKEM768\"");
        let finished = || handshakes(agent, &labels) >= f64::from(seen);
        assert!(eventually(SOON, finished), "{}", handshakes(agent, &labels));
        assert_eq!(handshakes(agent, "group=\"X25519\""), 0.0);
    }
}

#[test]
fn openssl_gets_in_with_tls_1_3_and_a_certificate_of_the_mesh_only() {
    let wire = Wire::new().strict();
    let far = wire.agent("n2", &[]);
    let old = wire.openssl(&["-tls1_2"], true);
    assert!(old.contains("alert protocol version"), "{old}");
    come_to(&far, "inbound", "tls_no_common_protocol", 1.0);
    let nobody = wire.openssl(&["-tls1_3"], true);
    assert!(nobody.contains("alert certificate required"), "{nobody}");
    come_to(&far, "inbound", "tls_no_certificate", 1.0);

    let good = wire.root.issue("web", "good", |_| {}).expect("a pair");
    let said = wire.openssl(&shown(&good), false);
    assert!(said.contains("New, TLSv1.3, Cipher is TLS_"), "{said}");
    assert!(said.contains("ALPN protocol: mesh/1"), "{said}");
    // Only a server that asks for a certificate names what it takes.
    let asked = said.lines().find(|l| l.starts_with("Requested Signature"));
    assert!(asked.is_some_and(|l| l.contains("ECDSA+SHA256")), "{said}");
    let served = eventually(SOON, || handshakes(&far, "role=\"server\"") >= 1.0);
    assert!(served, "{said}");
}

/// Wrong certificates, and the reason for which each side refuses them.
struct Wrong {
    pair: Pair,
    from_client: Option<(&'static str, &'static str)>,
    from_server: &'static str,
}

/// Of the service account c, which is what a server at c's address must have.
fn wrong_ones(wire: &Wire) -> Vec<Wrong> {
    let root = &wire.root;
    let other = Root::new(wire.world.dir(), "other").expect("a root");
    let server_only = |p: &mut rcgen::CertificateParams| {
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    let name = |text: &str| uri(text).expect("a name");
    let foreign = name("spiffe://other.local/ns/shop/sa/c");
    let second = name("spiffe://cluster.local/ns/shop/sa/a");
    let wrong = |pair: anyhow::Result<Pair>, alert, reason| Wrong {
        pair: pair.expect("a pair"),
        from_client: Some((alert, reason)),
        from_server: reason,
    };
    let past = rcgen::date_time_ymd(2020, 1, 1);
    let mut all = vec![
        wrong(
            root.self_signed("c", "self"),
            "unknown ca",
            "tls_unknown_issuer",
        ),
        wrong(
            other.issue("c", "c", |_| {}),
            "unknown ca",
            "tls_unknown_issuer",
        ),
        wrong(
            root.issue("c", "old", |p| p.not_after = past),
            "certificate expired",
            "tls_expired",
        ),
        wrong(
            root.issue("c", "foreign", |p| p.subject_alt_names = vec![foreign]),
            "certificate unknown",
            "tls_foreign_trust_domain",
        ),
        wrong(
            root.issue("c", "two", |p| p.subject_alt_names.push(second)),
            "certificate unknown",
            "tls_several_identities",
        ),
        wrong(
            root.issue("c", "code", |p| {
                p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
            }),
            "unsupported certificate",
            "tls_wrong_usage",
        ),
        wrong(
            root.issue("c", "none", |p| p.subject_alt_names.clear()),
            "certificate unknown",
            "tls_no_identity",
        ),
    ];
    let client_only = |p: &mut rcgen::CertificateParams| {
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    };
    // Good ones of clients.
    for (pair, reason) in [
        (root.issue("c", "client", client_only), "tls_wrong_usage"),
        (root.issue("a", "other", |_| {}), "tls_unexpected_identity"),
    ] {
        all.push(Wrong {
            pair: pair.expect("a pair"),
            from_client: None,
            from_server: reason,
        });
    }
    all.push(wrong(
        root.issue("c", "server", server_only),
        "unsupported certificate",
        "tls_wrong_usage",
    ));
    // The last one is a good one of a server.
    all
}

#[test]
fn a_pod_takes_no_client_with_a_wrong_certificate_and_says_why() {
    let wire = Wire::new().strict();
    let far = wire.agent("n2", &[]);
    let mut counted = std::collections::HashMap::<_, f64>::new();
    for wrong in wrong_ones(&wire) {
        let Some((alert, reason)) = wrong.from_client else {
            continue;
        };
        let said = wire.openssl(&shown(&wrong.pair), true);
        assert!(said.contains(&format!("alert {alert}")), "{reason}: {said}");
        let count = counted.entry(reason).or_default();
        *count += 1.0;
        come_to(&far, "inbound", reason, *count);
        let reason = format!("\"reason\":\"{reason}\"");
        wire.log_has("n2", &[&reason, "\"refused\"", &wire.plain.v4()]);
    }
    assert_eq!(handshakes(&far, ""), 0.0);
}

#[test]
fn an_agent_talks_to_no_server_with_a_wrong_certificate_and_says_why() {
    let mut wire = Wire::new();
    // In c's place there is no agent but openssl.
    let near = wire.agent("n1", &[]);
    let mut counted = std::collections::HashMap::<_, f64>::new();
    let mut wrong_ones = wrong_ones(&wire);
    // A good one of a server.
    wrong_ones.pop();
    for (port, wrong) in (9000_u16..).zip(wrong_ones) {
        let mut server = wire.world.in_pod(&wire.c, "openssl");
        server
            .args(["s_server", "-accept", &port.to_string()])
            .args(["-quiet", "-alpn", "mesh/1", "-Verify", "4"])
            .args(shown(&wrong.pair));
        wire.world
            .start_server(&wire.c, port, server)
            .expect("a server");
        let target = format!("{0}:{port}={0}:{port}", wire.c.v4());
        let report = wire.world.storm(&wire.a, &[target], &["--count", "1"]);
        assert_eq!(report.expect("a report")["ok"], 0);
        let reason = wrong.from_server;
        let count = counted.entry(reason).or_default();
        *count += 1.0;
        come_to(&near, "outbound", reason, *count);
        let reason = format!("\"reason\":\"{reason}\"");
        wire.log_has("n1", &[&reason, "\"refused\"", &format!(":{port}\"")]);
    }
    assert_eq!(handshakes(&near, ""), 0.0);
}

impl std::fmt::Debug for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.pair.certificate)
    }
}

/// Carries openssl's handshake to c, and holds back its second flight.
struct HeldBack {
    address: String,
    answered: Receiver<()>,
    release: Sender<()>,
}

impl HeldBack {
    fn new(wire: &Wire) -> Self {
        let to: SocketAddr = wire.target().parse().expect("an address");
        let connected = wire
            .world
            .inside(&wire.plain, || Ok(TcpStream::connect(to)?));
        let mut far = connected.expect("a connection");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("an address").to_string();
        let ((told, answered), (release, released)) = (channel(), channel::<()>());
        std::thread::spawn(move || -> std::io::Result<()> {
            let (mut near, _) = listener.accept()?;
            let (mut from, mut to) = (far.try_clone()?, near.try_clone()?);
            std::thread::spawn(move || -> std::io::Result<()> {
                let mut first = [0; 16 * 1024];
                let length = from.read(&mut first)?;
                to.write_all(&first[..length])?;
                let _nobody = told.send(());
                std::io::copy(&mut from, &mut to)?;
                to.shutdown(Shutdown::Write)
            });
            let mut first = [0; 16 * 1024];
            let length = near.read(&mut first)?;
            far.write_all(&first[..length])?;
            let _dropped = released.recv();
            std::io::copy(&mut near, &mut far)?;
            far.shutdown(Shutdown::Write)
        });
        Self {
            address,
            answered,
            release,
        }
    }

    /// openssl in the middle of its handshake; ends when its input does.
    fn start(&self, pair: &Pair) -> std::process::Child {
        let child = Command::new("timeout")
            .args(["60", "openssl", "s_client", "-connect", &self.address])
            .args(["-alpn", "mesh/1"])
            .args(shown(pair))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl");
        self.answered
            .recv_timeout(Duration::from_secs(60))
            .expect("the server's flight");
        child
    }
}

#[test]
fn a_mesh_peer_in_its_handshake_is_not_cut_for_what_plaintext_may() {
    let mut wire = Wire::new();
    wire.world.serve(&wire.c).expect("a server");
    let args = ["--workers", "1", "--handshake-timeout", "60s"];
    let far = wire.agent("n2", &args);
    let mut plaintext = wire.world.peer(&wire.plain).expect("a peer");
    let connect = format!("connect {}", wire.target());
    assert_eq!(plaintext.ask(&connect).expect("an answer"), "connected");
    let good = wire.root.issue("web", "good", |_| {}).expect("a pair");
    let held = HeldBack::new(&wire);
    let mut client = held.start(&good);
    wire.world
        .write_config(MODE, &mesh_mode("STRICT"))
        .expect("a file");
    // What is plaintext is cut, so the change has been looked at.
    let said = plaintext.ask("drain").expect("an answer");
    assert!(said.contains("reset"), "{said}");
    assert_eq!(handshakes(&far, ""), 0.0);
    held.release.send(()).expect("released");
    let finished = eventually(SOON, || handshakes(&far, "role=\"server\"") >= 1.0);
    assert!(finished, "{}", far.metrics().expect("metrics"));
    drop(client.stdin.take());
    client.wait().expect("its end");
}

#[test]
fn a_revocation_during_a_handshake_is_seen_at_its_end() {
    let wire = Wire::new().strict();
    let crl = wire.authority.state().join("crl.pem").display().to_string();
    let far = wire.agent("n2", &["--crl-file", &crl, "--handshake-timeout", "60s"]);
    let serial = [0x5a, 0x17, 0x01].to_vec();
    let revoked = wire.root.issue("web", "revoked", |p| {
        p.serial_number = Some(serial.into());
    });
    let revoked = revoked.expect("a pair");
    let held = HeldBack::new(&wire);
    let mut client = held.start(&revoked);
    let revoke = ["revoke", "5a1701", "--force"];
    wire.authority.tell(&revoke).expect("revoked");
    // In force for others that come now.
    let in_force = eventually(2 * SOON, || {
        wire.openssl(&shown(&revoked), false);
        eventually(Duration::from_secs(1), || {
            ended(&far, "inbound", "tls_revoked") >= 1.0
        })
    });
    assert!(in_force, "the list is not read");
    let before = ended(&far, "inbound", "tls_revoked");
    held.release.send(()).expect("released");
    let refused = eventually(SOON, || {
        ended(&far, "inbound", "tls_revoked") >= before + 1.0
    });
    assert!(refused, "{}", far.metrics().expect("metrics"));
    drop(client.stdin.take());
    client.wait().expect("its end");
}
