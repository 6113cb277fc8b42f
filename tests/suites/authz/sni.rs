//! `connection.sni`: the name that the application's own TLS asks for.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use mesh_tests::{Agents, OnAgentDown, Pod, PodSpec, Port, Target, World, parse};

const SCRIPT: &str = include_str!("sni.py");
const PYTHON: &str = "/usr/bin/python3";
const PORT: u16 = 7443;
/// A client that stays within its hello is refused by then.
const WAIT: &str = "2s";

/// Client a and server b on n1, server c on n2, all enrolled; plain (n1) is not.
struct Mesh {
    world: World,
    clients: [Pod; 2],
    servers: [Pod; 2],
    agents: Agents,
}

impl Mesh {
    fn new() -> Self {
        let (mut world, [a, b, c]) = World::of_three().expect("a world");
        let plain = world.add_pod("n1", "plain", None).expect("a pod");
        let certificate = world.dir().join("server.pem");
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-nodes",
                "-days",
                "1",
                "-subj",
                "/CN=a.example",
            ])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .arg("-keyout")
            .arg(&certificate)
            .arg("-out")
            .arg(world.dir().join("only.pem"))
            .output()
            .expect("openssl");
        assert!(made.status.success(), "{made:?}");
        let only = std::fs::read(world.dir().join("only.pem")).expect("a certificate");
        let key = std::fs::read(&certificate).expect("a key");
        std::fs::write(&certificate, [only, key].concat()).expect("both in one");
        for pod in [&b, &c] {
            let mut server = world.in_pod(pod, PYTHON);
            let log = world.dir().join(format!("{}.log", pod.name));
            std::fs::write(&log, "").expect("a log");
            server
                .args(["-c", SCRIPT, "serve", &PORT.to_string()])
                .arg(&certificate)
                .arg(log);
            world.start_server(pod, PORT, server).expect("a server");
        }
        let agents = Agents::start(&world, &["--handshake-timeout", WAIT]).expect("agents");
        Self {
            world,
            clients: [a, plain],
            servers: [b, c],
            agents,
        }
    }

    fn policy(&self, yaml: &str) {
        let read = self.agents.read_file(&self.world, "sni", yaml);
        read.expect("in force");
    }

    /// Each client, each server.
    fn pairs(&self) -> impl Iterator<Item = (&Pod, &Pod)> {
        let of = |from| self.servers.iter().map(move |to| (from, to));
        self.clients.iter().flat_map(of)
    }

    /// What came of each way to begin, and what the server saw of all.
    fn cases(&self, from: &Pod, to: &Pod) -> (BTreeMap<String, String>, Vec<String>) {
        let log = self.world.dir().join(format!("{}.log", to.name));
        let before = std::fs::read_to_string(&log).expect("a log").len();
        let mut client = self.world.in_pod(from, PYTHON);
        client.args(["-c", SCRIPT, "cases", &format!("{}:{PORT}", to.v4())]);
        let output = client.output().expect("python runs");
        let told = parse(&output).unwrap_or_else(|problem| panic!("{problem:#}"));
        let seen = std::fs::read_to_string(&log).expect("a log");
        let seen = seen[before..].lines().map(str::to_owned).collect();
        (serde_json::from_value(told).expect("words"), seen)
    }

    fn hold(&self, from: &Pod, to: &Pod, name: &str) -> Held {
        let mut client = self.world.in_pod(from, PYTHON);
        client.args(["-c", SCRIPT, "hold", &format!("{}:{PORT}", to.v4()), name]);
        client.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = client.spawn().expect("python runs");
        let to = client.stdin.take().expect("a pipe");
        let from = BufReader::new(client.stdout.take().expect("a pipe"));
        let mut held = Held { client, to, from };
        assert_eq!(held.line(), "open", "{name}");
        held
    }
}

/// A connection that says what it is told to.
struct Held {
    client: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Held {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }

    fn lives(&mut self) -> bool {
        writeln!(self.to, "there").expect("told");
        self.line() == "there"
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ended_by_itself = self.client.kill();
        let _status = self.client.wait();
    }
}

fn policy(action: &str, when: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: sni, namespace: shop}}
spec:
  action: {action}
  rules: [{{when: [{{key: connection.sni, {when}}}]}}]
"
    )
}

const RESET: &str = "ConnectionResetError";

/// As the cases of the script are called.
const CASES: [&str; 14] = [
    "asked",
    "capitals",
    "other",
    "beneath",
    "none",
    "split",
    "other split",
    "odd",
    "newer",
    "half",
    "late",
    "other late",
    "bytes",
    "http",
];

/// What comes of what is let through.
fn through(case: &str) -> &'static str {
    match case {
        "capitals" => "A.Example",
        "other" | "other split" | "other late" => "b.example",
        "beneath" => "x.a.example",
        "none" => "None",
        "bytes" => "plain",
        "http" => "HTTP/1.1 200 OK",
        _ => "a.example",
    }
}

#[test]
fn a_connection_goes_by_the_name_in_its_hello_on_every_way() {
    let mesh = Mesh::new();
    let a = ["asked", "capitals", "split", "late"];
    let others = [
        "other",
        "beneath",
        "none",
        "other split",
        "other late",
        "bytes",
        "http",
    ];
    for (action, when, passes) in [
        ("ALLOW", "values: [A.example]", &a[..]),
        ("ALLOW", "values: [\"*.a.EXAMPLE\"]", &["beneath"]),
        ("ALLOW", "notValues: [a.example]", &others),
        ("DENY", "values: [A.example]", &others),
        ("DENY", "notValues: [a.example]", &a),
        ("DENY", "values: [\"*\"]", &["none", "bytes", "http"]),
    ] {
        mesh.policy(&policy(action, when));
        for (from, to) in mesh.pairs() {
            let context = format!("{action} {when} of {} to {}", from.name, to.name);
            let (told, seen) = mesh.cases(from, to);
            for case in CASES {
                let expected = match (passes.contains(&case), case) {
                    (true, _) => through(case),
                    (false, "http") => "HTTP/1.1 403 Forbidden",
                    (false, _) => RESET,
                };
                assert_eq!(told[case], expected, "{case}: {context}: {told:?}");
            }
            assert_eq!(seen.len(), passes.len(), "{context}: {seen:?}");
        }
    }
    let denied = mesh.agents[1].metric("mesh_agent_authz_denied_total", "shop/sni");
    assert!(denied.expect("a metric") > 10.0);
}

#[test]
fn what_is_open_goes_on_by_the_name_that_it_came_with() {
    let mesh = Mesh::new();
    mesh.policy(&policy("ALLOW", "values: [a.example, b.example]"));
    let mut held: Vec<_> = mesh
        .pairs()
        .flat_map(|(from, to)| ["a.example", "b.example"].map(|name| mesh.hold(from, to, name)))
        .collect();
    assert!(held.iter_mut().all(Held::lives));
    mesh.policy(&policy("ALLOW", "values: [a.example]"));
    for (at, held) in held.iter_mut().enumerate() {
        assert_eq!(held.lives(), at.is_multiple_of(2), "{at}");
    }
    // Of what came before there was such a rule no name is known.
    mesh.policy("apiVersion: v1\nkind: List\nitems: []\n");
    let mut unnamed: Vec<_> = mesh
        .pairs()
        .map(|(from, to)| mesh.hold(from, to, "b.example"))
        .collect();
    mesh.policy(&policy("DENY", "values: [a.example]"));
    assert!(!unnamed.iter_mut().any(Held::lives));
}

#[test]
fn what_is_refused_by_its_name_has_no_part_in_a_limit() {
    let mesh = Mesh::new();
    mesh.policy(&policy("DENY", "values: [b.example]"));
    for pod in &mesh.servers {
        let port = Port::new("tls", 443, Target::Number(PORT));
        let spec = PodSpec::new(&pod.node, &pod.name).ports([port]);
        let spec = spec.enrolled(OnAgentDown::Closed);
        mesh.world.configure(&spec, pod).expect("written");
    }
    let limits = "apiVersion: mesh-agent.io/v1alpha1
kind: TrafficPolicy
metadata: {name: few, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: b}, {group: '', kind: Service, name: c}]
  rateLimits: [{name: few, connections: 1, interval: 1h, burst: 2}]
";
    let read = mesh.agents.read_file(&mesh.world, "limits", limits);
    read.expect("in force");
    // Those without an identity share one.
    for (from, to) in mesh.pairs() {
        let [a, b] = ["a.example", "b.example"];
        let mut client = mesh.world.in_pod(from, PYTHON);
        client.args(["-c", SCRIPT, "names", &format!("{}:{PORT}", to.v4())]);
        client.args([b, b, b, a, a, a]);
        let output = client.output().expect("python runs");
        let told = parse(&output).unwrap_or_else(|problem| panic!("{problem:#}"));
        let expected = serde_json::json!([RESET, RESET, RESET, a, a, RESET]);
        assert_eq!(told, expected, "{} to {}", from.name, to.name);
    }
}

#[test]
fn openssl_is_let_in_by_name() {
    let mesh = Mesh::new();
    mesh.policy(&policy("ALLOW", "values: [a.example]"));
    for (from, to) in mesh.pairs() {
        for (arguments, passes) in [
            (&["-servername", "a.example"][..], true),
            (&["-servername", "a.example", "-tls1_2"], true),
            (&["-servername", "A.EXAMPLE", "-max_send_frag", "512"], true),
            (&["-servername", "b.example"], false),
            (&["-servername", "b.example", "-tls1_2"], false),
            (&["-noservername"], false),
        ] {
            let to = format!("{}:{PORT}", to.v4());
            let mut client = mesh.world.in_pod(from, "timeout");
            client.args(["10", "openssl", "s_client", "-brief", "-connect", &to]);
            client.args(arguments).stdin(Stdio::null());
            let output = client.output().expect("openssl");
            let said = String::from_utf8_lossy(&output.stderr);
            let context = format!("{arguments:?} of {}: {said}", from.name);
            assert_eq!(said.contains("CONNECTION ESTABLISHED"), passes, "{context}");
        }
    }
}

#[test]
fn a_server_is_called_when_its_client_has_spoken_however_late_that_is() {
    let mesh = Mesh::new();
    mesh.policy(&policy("DENY", "values: [a.example]"));
    let server = &mesh.servers[1];
    let mut far = mesh.world.peer(server).expect("a peer");
    assert_eq!(far.ask("listen 7001").expect("an answer"), "listening");
    let mut silent = mesh.world.peer(&mesh.clients[0]).expect("a peer");
    let connect = format!("connect {}:7001", server.v4());
    assert_eq!(silent.ask(&connect).expect("an answer"), "connected");
    // It may still say what it is, and then the server is called.
    silent.tell("send 10").expect("told");
    let started = Instant::now();
    assert_eq!(far.ask("accept").expect("an answer"), "accepted");
    assert!(started.elapsed() < Duration::from_secs(5));
    let named = mesh.agents[1].counter(
        "mesh_agent_connections_ended_total",
        &["undecided_protocol"],
    );
    assert_eq!(named.expect("a page"), 0);
}
