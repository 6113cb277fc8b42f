//! The certificate authority as a program; the client is curl, the requests
//! and the checks of what comes back are openssl's.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use mesh_tests::program;

const PATH: &str = "istio.v1.auth.IstioCertificateService/CreateCertificate";
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// A directory with an authority's state, and the authority if it runs.
struct Ca {
    dir: tempfile::TempDir,
    running: Option<(Child, u16)>,
}

struct Answer {
    grpc_status: String,
    /// The elements of the chain.
    chain: Vec<String>,
}

impl Ca {
    fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut ca = Self { dir, running: None };
        ca.run(args);
        ca
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn spawn(&self, args: &[&str]) -> Child {
        let mut command = program();
        command
            .args(["ca", "run", "--listen", "127.0.0.1:0"])
            .args(["--metrics-addr", "127.0.0.1:0"])
            .args(args);
        command.arg("--state-dir").arg(self.state());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().expect("an authority")
    }

    fn run(&mut self, args: &[&str]) {
        let mut child = self.spawn(args);
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let port = line.trim().rsplit(':').next().and_then(|p| p.parse().ok());
        self.running = Some((child, port.expect("a port")));
    }

    fn kill9(&mut self) {
        if let Some((mut child, _)) = self.running.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    fn command(&self, args: &[&str]) -> Output {
        let mut command = program();
        command
            .arg("ca")
            .args(args)
            .arg("--state-dir")
            .arg(self.state());
        command.output().expect("it runs")
    }

    fn ok(&self, args: &[&str]) -> String {
        let out = self.command(args);
        assert!(
            out.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8(out.stdout)
            .expect("text")
            .trim()
            .to_owned()
    }

    fn refused(&self, args: &[&str]) -> String {
        let out = self.command(args);
        assert!(!out.status.success(), "{args:?}");
        String::from_utf8(out.stderr).expect("text")
    }

    fn token(&self) -> String {
        self.ok(&["token", "create", "--node", "n1", "--allow", "shop/web"])
    }

    fn audit(&self) -> String {
        fs::read_to_string(self.state().join("audit.jsonl")).expect("an audit log")
    }

    fn refusals(&self) -> String {
        fs::read_to_string(self.state().join("refused.jsonl")).expect("a log")
    }

    /// A request over HTTP/2 that pins the authority's bundle.
    fn ask(&self, token: &str, identity: &str, seconds: u8) -> Answer {
        self.ask_as("n1", token, identity, seconds)
    }

    /// Without a word about the node where it is empty.
    fn ask_as(&self, node: &str, token: &str, identity: &str, seconds: u8) -> Answer {
        let csr = csr(self.dir.path(), identity);
        let mut message = vec![0x0a];
        varint(&mut message, csr.len());
        message.extend(csr.as_bytes());
        message.extend([0x18, seconds]);
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.len()).expect("short").to_be_bytes());
        frame.extend(message);
        let (body, heads) = (self.dir.path().join("body"), self.dir.path().join("heads"));
        let port = self.running.as_ref().expect("it runs").1;
        let mut curl = Command::new("curl")
            .args(["-s", "--http2", "--max-time", "10", "--cacert"])
            .arg(self.state().join("bundle.pem"))
            .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
            .args(["-H", &format!("authorization: Bearer {token}")])
            .args(["-H", &format!("mesh-node: {node}")])
            .args(["--data-binary", "@-", "-D"])
            .arg(&heads)
            .arg("-o")
            .arg(&body)
            .args(["--resolve", &format!("mesh-ca:{port}:127.0.0.1")])
            .arg(format!("https://mesh-ca:{port}/{PATH}"))
            .stdin(Stdio::piped())
            .spawn()
            .expect("curl");
        curl.stdin
            .take()
            .expect("input")
            .write_all(&frame)
            .expect("sent");
        assert!(
            curl.wait().expect("curl").success(),
            "curl reaches the authority"
        );
        let heads = fs::read_to_string(heads).expect("headers");
        let status = heads.lines().find_map(|l| l.strip_prefix("grpc-status: "));
        Answer {
            grpc_status: status.expect("a status").trim().to_owned(),
            chain: chain(&fs::read(body).unwrap_or_default()),
        }
    }
}

impl Drop for Ca {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn varint(out: &mut Vec<u8>, mut n: usize) {
    while n > 127 {
        out.push(u8::try_from(n & 127).expect("7 bits") | 128);
        n >>= 7;
    }
    out.push(u8::try_from(n).expect("7 bits"));
}

/// The strings of field 1.
fn chain(body: &[u8]) -> Vec<String> {
    let (mut rest, mut found) = (body.get(5..).unwrap_or_default(), Vec::new());
    while let [0x0a, tail @ ..] = rest {
        let bytes = tail.iter().take_while(|b| **b > 127).count() + 1;
        let length = tail[..bytes]
            .iter()
            .rev()
            .fold(0, |n, b| n << 7 | usize::from(b & 127));
        let text = &tail[bytes..bytes + length];
        found.push(String::from_utf8(text.to_vec()).expect("text"));
        rest = &tail[bytes + length..];
    }
    found
}

fn openssl(args: &[&str], dir: &Path) -> String {
    let out = Command::new("openssl")
        .args(args)
        .current_dir(dir)
        .output()
        .expect("openssl");
    assert!(
        out.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn csr(dir: &Path, identity: &str) -> String {
    let san = format!("subjectAltName=critical,URI:{identity}");
    let key = "ec_paramgen_curve:P-256";
    openssl(
        &[
            "req", "-new", "-newkey", "ec", "-pkeyopt", key, "-nodes", "-keyout", "key.pem",
            "-subj", "/", "-addext", &san,
        ],
        dir,
    )
}

#[test]
fn openssl_accepts_what_is_issued_and_shows_one_critical_name() {
    let ca = Ca::start(&[]);
    let answer = ca.ask(&ca.token(), WEB, 100);
    assert_eq!(answer.grpc_status, "0");
    let [leaf, roots] = &answer.chain[..] else {
        panic!("{:?}", answer.chain);
    };
    fs::write(ca.dir.path().join("leaf.pem"), leaf).expect("write");
    fs::write(ca.dir.path().join("roots.pem"), roots).expect("write");
    for purpose in ["sslclient", "sslserver"] {
        openssl(
            &[
                "verify",
                "-x509_strict",
                "-purpose",
                purpose,
                "-CAfile",
                "roots.pem",
                "leaf.pem",
            ],
            ca.dir.path(),
        );
    }
    let text = openssl(
        &["x509", "-in", "leaf.pem", "-noout", "-text"],
        ca.dir.path(),
    );
    assert!(
        text.contains("X509v3 Subject Alternative Name: critical"),
        "{text}"
    );
    assert!(text.contains(&format!("URI:{WEB}\n")), "{text}");
    assert!(
        text.contains("Subject: \n") || text.contains("Subject:\n"),
        "{text}"
    );
    assert!(ca.audit().contains("\"issued\""));
}

#[test]
fn a_token_is_good_until_it_is_revoked_and_for_its_identities_only() {
    let ca = Ca::start(&[]);
    let token = ca.token();
    assert_eq!(ca.ask(&token, WEB, 100).grpc_status, "0");
    let denied = "7";
    assert_eq!(
        ca.ask(&token, "spiffe://cluster.local/ns/shop/sa/db", 100)
            .grpc_status,
        denied
    );
    assert_eq!(
        ca.ask(&token, "spiffe://other/ns/shop/sa/web", 100)
            .grpc_status,
        denied
    );
    let unauthenticated = "16";
    assert_eq!(ca.ask("mesh1.x.y", WEB, 100).grpc_status, unauthenticated);
    assert_eq!(ca.ask_as("", &token, WEB, 100).grpc_status, unauthenticated);
    assert_eq!(
        ca.ask_as("n2", &token, WEB, 100).grpc_status,
        unauthenticated
    );
    let list = ca.ok(&["token", "list"]);
    let line = list.lines().nth(1).expect("a line below the head");
    assert!(line.contains("valid"), "{list}");
    let id = line.split_whitespace().next().expect("an id");
    ca.ok(&["token", "revoke", id]);
    assert!(ca.ok(&["token", "list"]).contains("REVOKED"));
    assert_eq!(ca.ask(&token, WEB, 100).grpc_status, unauthenticated);
    let (audit, refusals) = (ca.audit(), ca.refusals());
    for reason in [
        "other_node",
        "identity_not_allowed",
        "foreign_trust_domain",
        "unknown_token",
        "revoked_token",
    ] {
        assert!(refusals.contains(reason), "{reason} in {refusals}");
    }
    for log in [&audit, &refusals] {
        assert!(log.ends_with("}\n"), "the last line ends: {log}");
    }
    let secret = token.rsplit('.').next().expect("a secret");
    let tokens = fs::read_to_string(ca.state().join("tokens.json")).expect("tokens");
    assert!(!audit.contains(secret) && !tokens.contains(secret));
}

#[test]
fn one_token_cannot_ask_without_end() {
    let ca = Ca::start(&["--rate", "1", "--burst", "2"]);
    let token = ca.token();
    let answers: Vec<_> = (0..6)
        .map(|_| ca.ask(&token, WEB, 100).grpc_status)
        .collect();
    assert_eq!(answers[..2], ["0", "0"]);
    assert!(answers.contains(&"8".to_owned()), "{answers:?}");
    assert_eq!(
        ca.ask(&ca.token(), WEB, 100).grpc_status,
        "0",
        "others are not held up"
    );
}

#[test]
fn state_outlives_kills_at_any_moment() {
    let mut ca = Ca::start(&[]);
    let token = ca.token();
    let bundle = fs::read(ca.state().join("bundle.pem")).expect("a bundle");
    for ms in (0..40).step_by(4) {
        ca.kill9();
        let mut child = ca.spawn(&[]);
        let mut revoking = program()
            .args([
                "ca",
                "revoke",
                &format!("{ms:04x}"),
                "--force",
                "--state-dir",
            ])
            .arg(ca.state())
            .stdout(Stdio::null())
            .spawn()
            .expect("a command");
        // Not synchronisation: the moment of death is what varies.
        std::thread::sleep(std::time::Duration::from_millis(ms));
        for dying in [&mut child, &mut revoking] {
            dying.kill().expect("kill");
            dying.wait().expect("wait");
        }
    }
    ca.run(&[]);
    assert_eq!(
        fs::read(ca.state().join("bundle.pem")).expect("a bundle"),
        bundle
    );
    assert_eq!(ca.ask(&token, WEB, 100).grpc_status, "0");
}

#[test]
fn state_that_others_can_read_is_refused_and_two_authorities_as_well() {
    let mut ca = Ca::start(&[]);
    assert!(
        !ca.spawn(&[]).wait().expect("it ends").success(),
        "one runs already"
    );
    ca.kill9();
    let key = ca.state().join("authority.json");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("chmod");
    assert!(!ca.spawn(&[]).wait().expect("it ends").success());
    assert!(ca.refused(&["show"]).contains("closed to others"));
}

#[test]
fn the_root_rotates_and_serials_are_revoked_while_it_runs() {
    let ca = Ca::start(&[]);
    let token = ca.token();
    let first = ca.ask(&token, WEB, 100);
    fs::write(ca.dir.path().join("leaf.pem"), &first.chain[0]).expect("write");
    let roots = |answer: &Answer| answer.chain[1].matches("BEGIN").count();
    let said = ca.ok(&["rotate", "prepare"]);
    assert!(
        said.contains("done: ") && said.contains("next: `mesh-agent ca rotate activate`, from"),
        "{said}"
    );
    assert_eq!(roots(&ca.ask(&token, WEB, 100)), 2);
    assert!(ca.refused(&["rotate", "activate"]).contains("too early"));
    let said = ca.ok(&["rotate", "activate", "--force"]);
    assert!(said.contains("rotate retire"), "{said}");
    assert_eq!(roots(&ca.ask(&token, WEB, 100)), 2);
    assert!(ca.refused(&["rotate", "retire"]).contains("too early"));

    let serial = openssl(
        &["x509", "-in", "leaf.pem", "-noout", "-serial"],
        ca.dir.path(),
    );
    let serial = serial.trim().trim_start_matches("serial=");
    let list = ca.ok(&["revoke", serial]);
    fs::write(ca.dir.path().join("roots.pem"), &first.chain[1]).expect("write");
    let mut verify = Command::new("openssl");
    verify.args([
        "verify",
        "-crl_check",
        "-CAfile",
        "roots.pem",
        "-CRLfile",
        &list,
        "leaf.pem",
    ]);
    let out = verify.current_dir(ca.dir.path()).output().expect("openssl");
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(text.contains("certificate revoked"), "{text}");
    assert!(
        ca.refused(&["revoke", "abcdef"])
            .contains("no live certificate")
    );

    ca.ok(&["rotate", "retire", "--force"]);
    assert_eq!(roots(&ca.ask(&token, WEB, 100)), 1);
    let shown = ca.ok(&["show"]);
    for part in ["signing", "days)", "1 valid, 0 expired", "next: nothing"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

#[test]
fn what_cannot_be_asked_has_an_exit_code_of_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let nowhere = dir.path().join("nowhere");
    let code = |args: &[&str]| {
        let mut command = program();
        command.args(args).arg(&nowhere);
        command.output().expect("it runs").status.code()
    };
    assert_eq!(code(&["ca", "show", "--state-dir"]), Some(3));
    assert_eq!(code(&["ca", "token", "list", "--state-dir"]), Some(3));
    assert_eq!(code(&["status", "--run-dir"]), Some(3));
    assert_eq!(code(&["connections", "--run-dir"]), Some(3));
    assert_eq!(code(&["explain", "a/b", "a/c", "80", "--run-dir"]), Some(3));
    assert_eq!(code(&["check-config"]), Some(3));
    assert_eq!(code(&["status", "--no-such-flag"]), Some(2));
    assert!(!nowhere.exists(), "asking made it");
}

#[test]
fn a_token_that_could_not_be_printed_is_revoked_again() {
    let ca = Ca::start(&[]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let out = program()
        .args([
            "ca", "token", "create", "--node", "n1", "--allow", "shop/web",
        ])
        .arg("--state-dir")
        .arg(ca.state())
        .stdout(full.expect("/dev/full"))
        .output()
        .expect("it runs");
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("revoked again"), "{said}");
    let list = ca.ok(&["token", "list"]);
    assert!(
        list.contains("REVOKED") && !list.contains("valid"),
        "{list}"
    );
}
