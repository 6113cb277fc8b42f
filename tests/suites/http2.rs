//! HTTP/2 and gRPC through the agents: what clients and servers of Go see of each other.

#[path = "http2/both.rs"]
mod both;
#[path = "http2/client_cert.rs"]
mod client_cert;
#[path = "http2/crowds.rs"]
mod crowds;
#[path = "http2/deadlines.rs"]
mod deadlines;
#[path = "http2/differs.rs"]
mod differs;
#[path = "http2/ejection.rs"]
mod ejection;
#[path = "http2/floods.rs"]
mod floods;
#[path = "http2/grpc.rs"]
mod grpc;
#[path = "http2/grpcio.rs"]
mod grpcio;
#[path = "http2/hedging.rs"]
mod hedging;
#[path = "http2/mirrors.rs"]
mod mirrors;
#[path = "http2/smuggled.rs"]
mod smuggled;
#[path = "http2/stalls.rs"]
mod stalls;
#[path = "http2/tunnels.rs"]
mod tunnels;
#[path = "http2/untaken.rs"]
mod untaken;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mesh_tests::{
    APP_PORT, Agent, Agents, Pod, World, eventually, figure, http2_peer, parse, traffic_policy,
};
use serde_json::{Value, json};

/// The servers and clients, built once.
fn peer() -> &'static str {
    static BUILT: OnceLock<String> = OnceLock::new();
    BUILT.get_or_init(|| http2_peer("http2-peer", ".", env!("CARGO_TARGET_TMPDIR")))
}

/// The conformance run, built once.
fn h2spec() -> &'static str {
    static BUILT: OnceLock<String> = OnceLock::new();
    let package = "github.com/summerwind/h2spec/cmd/h2spec";
    BUILT.get_or_init(|| http2_peer("h2spec", package, env!("CARGO_TARGET_TMPDIR")))
}

/// Client a and server b on n1, server c on n2, all in the mesh.
struct Mesh {
    world: World,
    a: Pod,
    servers: [Pod; 2],
    agents: Agents,
}

impl Mesh {
    fn of_http() -> Self {
        Self::of_http_with(&[])
    }

    /// Agents with these flags.
    fn of_http_with(flags: &[&str]) -> Self {
        let (world, pods) = Self::servers("serve-http", &[]);
        Self::over_with(world, pods, flags)
    }

    fn serving(verb: &str, how: &[&str]) -> Self {
        let (world, [a, b, c]) = Self::servers(verb, how);
        Self::over(world, a, [b, c])
    }

    fn servers(verb: &str, how: &[&str]) -> (World, [Pod; 3]) {
        let (mut world, [a, b, c]) = World::of_three().expect("a world");
        for pod in [&b, &c] {
            let mut server = world.in_pod(pod, peer());
            server
                .args([verb, &pod.name, &APP_PORT.to_string()])
                .args(how);
            world.start_server(pod, APP_PORT, server).expect("a server");
        }
        (world, [a, b, c])
    }

    fn over(world: World, a: Pod, [b, c]: [Pod; 2]) -> Self {
        Self::over_with(world, [a, b, c], &[])
    }

    fn over_with(world: World, [a, b, c]: [Pod; 3], flags: &[&str]) -> Self {
        let servers = [b, c];
        let agents = Agents::start(&world, flags).expect("agents");
        Self {
            world,
            a,
            servers,
            agents,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut client = self.world.in_pod(&self.a, peer());
        client.args(args).stdin(Stdio::null());
        client
    }

    /// A verb of the peer in the client's pod.
    fn client(&self, args: &[&str]) -> Value {
        let output = self.command(args).output().expect("the client runs");
        parse(&output).unwrap_or_else(|problem| panic!("{args:?}: {problem:#}"))
    }

    /// One that runs on; its first line has come.
    fn held(&self, args: &[&str]) -> Held {
        let mut client = self.command(args);
        let mut child = client.stdout(Stdio::piped()).spawn().expect("it runs");
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        out.read_line(&mut line).expect("a line");
        assert_eq!(line.trim(), "open", "{args:?}");
        Held { child, out }
    }

    fn policy(&self, name: &str, yaml: &str) {
        let read = self.agents.read_file(&self.world, name, yaml);
        read.expect("in force");
    }

    /// Each server, and an address of its Service.
    fn services(&self) -> Vec<(&Pod, String)> {
        let service = |pod: &Pod| pod.vips()[0].clone();
        self.servers.iter().map(|pod| (pod, service(pod))).collect()
    }
}

/// A client that goes on.
struct Held {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Held {
    /// What it says at its end.
    fn end(mut self) -> Value {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("a line");
        let _ended = self.child.wait();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }
}

const DENY_ADMIN: &str = r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {paths: ["/admin/*", "/test.Echo/Fail"]}}]}]}
"#;

fn route(kind: &str, rules: &str) -> String {
    let version = "gateway.networking.k8s.io/v1";
    format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: b, namespace: shop}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: b, port: 80}}]\n  \
         rules: {rules}\n"
    )
}

#[test]
fn requests_on_one_connection_arrive_as_they_were_sent() {
    let mesh = Mesh::of_http();
    for (pod, to) in mesh.services() {
        let answers = mesh.client(&["get", &to, "/a?b=%20", "/a/../c", "/x"]);
        for (path, answer) in ["/a?b=%20", "/a/../c", "/x"]
            .iter()
            .zip(answers.as_array().expect("answers"))
        {
            let told = &answer["told"];
            assert_eq!(answer["status"], 200, "{answer}");
            assert_eq!(told["name"], pod.name, "{answer}");
            assert_eq!(told["proto"], "HTTP/2.0");
            assert_eq!(told["path"], *path);
            assert_eq!(told["host"], to);
            assert_eq!(
                told["connection"], 1,
                "one connection to the application: {answers}"
            );
            assert_eq!(answer["trailer"]["X-End"], json!(["yes"]), "{answer}");
            let peer = told["peer"].as_str().expect("an address");
            assert!(
                peer.ends_with(&mesh.a.v4()),
                "the client's own address: {peer}"
            );
        }
        for agent in mesh.agents.iter() {
            assert!(agent.is_ready());
        }
        let uploaded = mesh.client(&["upload", &to, "/up", "5000000"]);
        assert_eq!(uploaded["told"]["body"], 5_000_000, "{uploaded}");
        assert_eq!(
            uploaded["told"]["trailer"]["X-Sum"],
            json!(["7"]),
            "{uploaded}"
        );
        assert_eq!(mesh.client(&["hints", &to]), json!([103, 200]));
        let told = mesh.client(&["hints", &to, "/hints/32"]);
        let statuses = told.as_array().expect("statuses");
        assert_eq!((statuses.len(), &statuses[32]), (33, &json!(200)), "{told}");
        // No more before the answer.
        let told = mesh.client(&["hints", &to, "/hints/33"]);
        let last = told.as_array().and_then(|all| all.last());
        assert_eq!(last, Some(&json!(502)), "{told}");
    }
}

#[test]
fn curl_and_nginx_understand_each_other() {
    let (mut world, [a, b, c]) = World::of_three().expect("a world");
    for pod in [&b, &c] {
        world.nginx_http2(pod, APP_PORT).expect("nginx");
    }
    let mesh = Mesh::over(world, a, [b, c]);
    let own = mesh.a.v4();
    for (pod, to) in mesh.services() {
        let url = format!("http://{to}/x");
        let answer = format!("{} {own} {}:{APP_PORT}\n", pod.name, pod.v4());
        for body in [&["-d", "a=b"][..], &[]] {
            let mut curl = mesh.world.in_pod(&mesh.a, "curl");
            curl.args(["-sS", "--max-time", "20", "--http2-prior-knowledge", &url]);
            let told = curl.args(body).output().expect("curl runs");
            let problem = String::from_utf8_lossy(&told.stderr);
            assert_eq!(String::from_utf8_lossy(&told.stdout), answer, "{problem}");
        }
    }
}

#[test]
fn resets_and_early_answers_are_what_the_server_made_of_them() {
    let mesh = Mesh::of_http();
    for (pod, to) in mesh.services() {
        let answers = mesh.client(&["get", &to, "/reset", "/half", "/x"]);
        assert_eq!(answers[0]["error"], "reset INTERNAL_ERROR", "{}", pod.name);
        assert_eq!(answers[1]["error"], "reset INTERNAL_ERROR", "{}", pod.name);
        assert_eq!(answers[1]["body"], "half");
        assert_eq!(answers[2]["status"], 200, "the connection lives");
        let early = mesh.client(&["upload", &to, "/early", "50000000"]);
        assert_eq!(early["status"], 413, "{early}");
        let early = mesh.client(&["refused-uploads", &to, "300"]);
        assert_eq!(early, json!({"413 too large\n": 300}), "{}", pod.name);
        assert_eq!(
            mesh.client(&["leave", &to, "/silent", "5"]),
            "seen",
            "{}",
            pod.name
        );
    }
}

#[test]
fn downloads_that_nobody_reads_hold_no_other_exchange() {
    let mesh = Mesh::of_http();
    for (pod, to) in mesh.services() {
        let told = mesh.client(&["stalled", &to, "20"]);
        assert_eq!(told["ok"], 100, "{}: {told}", pod.name);
        assert!(
            told["ms"].as_u64().is_some_and(|ms| ms < 5_000),
            "{}: {told}",
            pod.name
        );
    }
}

#[test]
fn a_thousand_exchanges_are_open_at_once() {
    let mesh = Mesh::of_http();
    for (pod, to) in mesh.services() {
        assert_eq!(mesh.client(&["many", &to, "1000"]), 1000, "{}", pod.name);
    }
}

#[test]
fn a_path_is_denied_and_the_connection_goes_on() {
    let mesh = Mesh::of_http();
    mesh.policy("no-admin", DENY_ADMIN);
    for (pod, to) in mesh.services() {
        let answers = mesh.client(&["get", &to, "/admin/x", "/x/../admin/y", "/open/../adm"]);
        for denied in [&answers[0], &answers[1]] {
            assert_eq!(denied["status"], 403, "{}: {denied}", pod.name);
            assert_eq!(denied["body"], "denied\n", "{denied}");
        }
        // A rule looked at the path: the application gets it in that form.
        assert_eq!(
            answers[2]["told"]["path"], "/adm",
            "{}: {answers}",
            pod.name
        );
    }
}

#[test]
fn what_a_policy_takes_back_ends_and_the_connection_goes_on() {
    let mesh = Mesh::of_http();
    for (i, (pod, to)) in mesh.services().into_iter().enumerate() {
        let held = mesh.held(&["hold", &to, "/open"]);
        let name = format!("no-open-{i}");
        let deny = DENY_ADMIN
            .replace("/admin/*", "/open")
            .replace("no-admin", &name);
        mesh.policy(&name, &deny);
        let told = held.end();
        assert_eq!(told["end"], "reset INTERNAL_ERROR", "{}: {told}", pod.name);
        assert_eq!(told["after"], 200, "{}: {told}", pod.name);
        let open = DENY_ADMIN
            .replace("/admin/*", "/none")
            .replace("no-admin", &name);
        mesh.policy(&name, &open);
    }
}

#[test]
fn a_canary_gets_its_share_of_the_requests_of_one_connection() {
    let mesh = Mesh::of_http();
    let to = |name: &str, weight: u32| format!("{{name: {name}, port: 80, weight: {weight}}}");
    let shares = format!("[{{backendRefs: [{}, {}]}}]", to("b", 70), to("c", 30));
    mesh.policy("b-route", &route("HTTPRoute", &shares));
    let names = mesh.client(&["names", &mesh.services()[0].1, "4500"]);
    let of = |name: &str| names[name].as_u64().unwrap_or_default();
    assert_eq!(of("b") + of("c"), 4500, "{names}");
    // Six times the standard deviation.
    assert!((1165..=1535).contains(&of("c")), "{names}");
}

/// As on HTTP/1: by its codes, as long as all of it is kept, within the budget.
#[test]
fn a_route_has_requests_sent_again_and_grpcs_status_counts_as_one_of_http() {
    let mesh = Mesh::of_http();
    let retried = "retry: {codes: [503], attempts: 1, backoff: 1ms}";
    for name in ["b", "c"] {
        let rules = format!("[{{backendRefs: [{{name: {name}, port: 80}}], {retried}}}]");
        let object = route("HTTPRoute", &rules).replace("name: b, namespace", "name: r, namespace");
        let retries = || mesh.agents[0].metric("mesh_agent_retries_total", "");
        mesh.policy("a-route", &object);
        let to = &mesh.services()[0].1;
        let before = retries().expect("a metric");
        let asked = [
            "/flaky/503/one",
            "/flaky/500/two",
            "/flaky-grpc/14/three",
            "/flaky-grpc/13/four",
        ];
        let answers = mesh.client(&[&["get", to], &asked[..]].concat());
        assert_eq!(answers[0]["status"], 200, "{answers}");
        assert_eq!(answers[0]["told"]["name"], name, "{answers}");
        assert_eq!(answers[1]["status"], 500, "not asked for: {answers}");
        let of_grpc = |i: usize| answers[i]["header"]["Grpc-Status"][0].clone();
        assert_eq!([of_grpc(2), of_grpc(3)], ["0", "13"], "{answers}");
        let small = mesh.client(&["upload", to, "/flaky/503/small", "50000"]);
        assert_eq!(small["told"]["body"], 50_000, "{small}");
        let large = mesh.client(&["upload", to, "/flaky/503/large", "500000"]);
        assert_eq!(large["status"], 503, "more than is kept: {large}");
        assert_eq!(retries().expect("a metric") - before, 3.0, "to {name}");
        // It is in flight once, however often it is tried.
        let policy = |says: &str| traffic_policy("t", &[name], says);
        mesh.policy("traffic", &policy("limits: {maxRequests: 1}"));
        let asked = ["/flaky/503/five", "/flaky-grpc/14/six"];
        let answers = mesh.client(&[&["get", to], &asked[..]].concat());
        assert_eq!(answers[0]["told"]["name"], name, "{answers}");
        assert_eq!(answers[1]["header"]["Grpc-Status"][0], "0", "{answers}");
        // Without budget nobody waits for what is not sent.
        mesh.policy(
            "traffic",
            &policy("retryBudget: {percent: 0, minRetryRate: {count: 0}}"),
        );
        mesh.policy("a-route", &object.replace("backoff: 1ms", "backoff: 20s"));
        let began = Instant::now();
        let asked = ["/flaky/503/seven", "/flaky-grpc/14/eight"];
        let answers = mesh.client(&[&["get", to], &asked[..]].concat());
        assert_eq!(answers[0]["status"], 503, "{answers}");
        assert_eq!(answers[1]["header"]["Grpc-Status"][0], "14", "{answers}");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(2), "to {name}: {took:?}");
        mesh.policy("traffic", "");
    }
}

#[test]
fn a_session_goes_on_where_it_began() {
    let mesh = Mesh::of_http();
    let kept = "sessionPersistence: {sessionName: at}";
    let to = |name: &str| format!("{{name: {name}, port: 80}}");
    let rule = format!("[{{{kept}, backendRefs: [{}, {}]}}]", to("b"), to("c"));
    mesh.policy("b-route", &route("HTTPRoute", &rule));
    let url = format!("http://{}/x", mesh.services()[0].1);
    let ask = |cookie: &str| {
        let mut curl = mesh.world.in_pod(&mesh.a, "curl");
        curl.args(["-sS", "--max-time", "20", "--http2-prior-knowledge"]);
        let what = "%{stderr}%header{set-cookie}";
        let told = curl.args(["-w", what, "-H", cookie, &url]).output();
        let told = told.expect("curl runs");
        let body: Value = serde_json::from_slice(&told.stdout).expect("an answer");
        let set = String::from_utf8_lossy(&told.stderr).into_owned();
        (body["name"].as_str().expect("a name").to_owned(), set)
    };
    for _ in 0..4 {
        let (name, set) = ask("x: y");
        let pair = set.split(';').next().expect("a pair");
        assert!(pair.starts_with("at="), "{set}");
        for _ in 0..8 {
            let again = ask(&format!("cookie: {pair}"));
            assert_eq!(again, (name.clone(), String::new()));
        }
    }
}

#[test]
fn a_request_without_a_route_is_told_so() {
    let mesh = Mesh::of_http();
    let only =
        "[{matches: [{path: {type: PathPrefix, value: /a}}], backendRefs: [{name: c, port: 80}]}]";
    mesh.policy("b-route", &route("HTTPRoute", only));
    let answers = mesh.client(&["get", &mesh.services()[0].1, "/a/b", "/b"]);
    assert_eq!(answers[0]["told"]["name"], "c", "{answers}");
    assert_eq!(answers[1]["status"], 404, "{answers}");
}

/// Requests with these labels.
fn counted(agent: &Agent, labels: &[&str]) -> u64 {
    agent.requests(labels).expect("a page")
}

#[test]
fn each_request_is_counted_once_by_each_agent_that_it_passes() {
    let mesh = Mesh::of_http();
    let [near, far] = &*mesh.agents;
    for (_, to) in mesh.services() {
        mesh.client(&["names", &to, "20"]);
    }
    let source = "reporter=\"source\"";
    let destination = "reporter=\"destination\"";
    // Within a node the caller's side tells of both.
    for (agent, reporter, name) in [
        (near, source, "b"),
        (near, source, "c"),
        (far, destination, "c"),
    ] {
        let to = format!("destination_workload=\"{name}\"");
        let labels = [
            reporter,
            &to,
            "source_workload=\"a\"",
            "response_code=\"200\"",
        ];
        let told = eventually(Duration::from_secs(20), || counted(agent, &labels) == 20);
        assert!(told, "{labels:?}: {}", counted(agent, &labels));
    }
}

#[test]
fn an_agent_that_drains_lets_go_of_its_clients_in_order() {
    let mut mesh = Mesh::of_http();
    let to = mesh.services()[1].1.clone();
    let names = mesh.client(&["names", &to, "10"]);
    assert_eq!(names["c"], 10, "{names}");
    let held = mesh.held(&["hold", &to, "/slow"]);
    mesh.agents[0].terminate().expect("a signal");
    let told = held.end();
    assert_eq!(told["end"], "whole", "{told}");
    let ended = eventually(Duration::from_secs(20), || {
        matches!(mesh.agents[0].ended(), Ok(Some(_)))
    });
    assert!(ended);
}

/// How many bytes of 400,000 come to one who takes so many a second while the agent drains, and
/// what it hears.
fn taken_slowly(drain: &str, rate: &str) -> Value {
    let mesh = Mesh::of_http_with(&["--drain-timeout", drain]);
    let to = mesh.services()[1].1.clone();
    let held = mesh.held(&["sip", &to, "/bytes/400000", rate]);
    mesh.agents[0].terminate().expect("a signal");
    held.end()
}

/// Far more than the two seconds for which a client is waited that takes nothing.
#[test]
fn a_client_on_a_slow_line_gets_all_of_its_answer_from_an_agent_that_drains() {
    assert_eq!(taken_slowly("30s", "64000"), json!(["200", 400_000, ""]));
}

#[test]
fn a_client_whose_line_is_too_slow_for_the_drain_is_told_at_its_end() {
    let told = taken_slowly("2s", "32000");
    let cut = told[2].as_str().unwrap_or_default();
    assert!(cut.contains("connection reset"), "{told}");
}

#[test]
fn what_many_clients_do_not_take_is_held_within_the_budget_and_others_proceed() {
    const BUDGET: f64 = (8 << 20) as f64;
    let mesh = Mesh::of_http_with(&["--max-buffer-mib", "8"]);
    for (kind, connections, streams) in [("unread", "20", "100"), ("deaf", "20", "100")] {
        for (pod, to) in mesh.services() {
            let before = mesh.agents.memory().expect("memory");
            let hoard = mesh.held(&["hoard", &to, kind, connections, streams, "12"]);
            let counted = eventually(Duration::from_secs(8), || {
                let held = mesh.agents[0].metric("mesh_agent_buffer_bytes", "");
                held.is_ok_and(|held| held > BUDGET / 4.0)
            });
            assert!(counted, "{kind} to {}", pod.name);
            let begin = Instant::now();
            for (other, to) in mesh.services() {
                let told = mesh.client(&["names", &to, "100"]);
                assert_eq!(told[&other.name], 100, "beside {kind}: {told}");
            }
            println!("{kind} to {}: others took {:?}", pod.name, begin.elapsed());
            for agent in mesh.agents.iter() {
                let held = agent.metric("mesh_agent_buffer_bytes", "");
                let held = held.expect("a metric");
                println!("{kind} to {}: {held} bytes held", pod.name);
                assert!(held <= BUDGET, "{kind} to {}: {held}", pod.name);
            }
            let [grown, _] = mesh.agents.grown_since(before).expect("memory");
            println!("{kind} to {}: grown by {grown} bytes", pod.name);
            assert!(grown < 64 << 20, "{kind} to {}: {grown}", pod.name);
            hoard.end();
        }
    }
}

#[test]
fn a_public_conformance_run_finds_no_fault() {
    // Without the preface it is no HTTP/2, and the server's own to answer.
    const KNOWN: &str = "Sends invalid connection preface";
    let mesh = Mesh::of_http();
    for (pod, to) in mesh.services() {
        let (host, port) = to.rsplit_once(':').expect("a port");
        let mut h2spec = mesh.world.in_pod(&mesh.a, h2spec());
        h2spec.args(["-h", host, "-p", port, "-o", "5"]);
        let told = h2spec.output().expect("it runs");
        let told = String::from_utf8_lossy(&told.stdout);
        let failed = told
            .lines()
            .filter(|line| line.contains('\u{d7}') && !line.contains(KNOWN));
        let failed: Vec<&str> = failed.map(str::trim).collect();
        assert!(failed.is_empty(), "{}: {failed:#?}\n{told}", pod.name);
        assert!(told.contains("145 tests, "), "{}: {told}", pod.name);
    }
}
