//! HTTP through the agents: what clients and servers see of each other.

#[path = "http/client_cert.rs"]
mod client_cert;
#[path = "http/connect.rs"]
mod connect;
#[path = "http/drains.rs"]
mod drains;
#[path = "http/greetings.rs"]
mod greetings;
#[path = "http/lasting.rs"]
mod lasting;
#[path = "http/mirrors.rs"]
mod mirrors;
#[path = "http/plaintext.rs"]
mod plaintext;
#[path = "http/requests.rs"]
mod requests;
#[path = "http/retries.rs"]
mod retries;
#[path = "http/routes.rs"]
mod routes;
#[path = "http/sessions.rs"]
mod sessions;
#[path = "http/shared.rs"]
mod shared;
#[path = "http/ways.rs"]
mod ways;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use mesh_tests::{
    APP_PORT, Agent, Agents, OnAgentDown, PATIENCE, Pod, PodSpec, Port, Target, World, eventually,
    figure, parse, traffic_policy,
};
use serde_json::{Value, json};

const SCRIPT: &str = include_str!("http.py");
const PYTHON: &str = "/usr/bin/python3";

/// Client a and server b on n1, server c on n2, all in the mesh.
struct Mesh {
    world: World,
    a: Pod,
    servers: [Pod; 2],
    agents: Agents,
}

impl Mesh {
    fn new() -> Self {
        Self::serving(&[])
    }

    /// `how`: more arguments of the servers.
    fn serving(how: &[&str]) -> Self {
        Self::serving_with(how, &[])
    }

    /// `flags`: of both agents.
    fn serving_with(how: &[&str], flags: &[&str]) -> Self {
        let (mut world, [a, b, c]) = World::of_three().expect("a world");
        for pod in [&b, &c] {
            let mut server = world.in_pod(pod, PYTHON);
            let port = APP_PORT.to_string();
            server.args(["-c", SCRIPT, "serve", &pod.name, &port]);
            server.args(how);
            world.start_server(pod, APP_PORT, server).expect("a server");
        }
        Self::with(world, a, [b, c], flags)
    }

    /// The servers alone, b on n1 and c on n2, with this annotation.
    fn annotated(annotation: Option<(&str, &str)>) -> Self {
        let mut world = World::new(2).expect("a world");
        let spec = |node, name| PodSpec::new(node, name).enrolled(OnAgentDown::Closed);
        let a = world.add(&spec("n1", "a")).expect("a pod");
        let servers = [("n1", "b"), ("n2", "c")].map(|(node, name)| {
            let mut spec = spec(node, name);
            if let Some((name, value)) = annotation {
                spec = spec.annotation(name, value);
            }
            let pod = world.add(&spec).expect("a pod");
            let mut server = world.in_pod(&pod, PYTHON);
            server.args(["-c", SCRIPT, "serve", name, &APP_PORT.to_string()]);
            let started = world.start_server(&pod, APP_PORT, server);
            started.expect("a server");
            pod
        });
        Self::of(world, a, servers)
    }

    fn of(world: World, a: Pod, servers: [Pod; 2]) -> Self {
        Self::with(world, a, servers, &[])
    }

    /// `flags`: of both agents.
    fn with(world: World, a: Pod, servers: [Pod; 2], flags: &[&str]) -> Self {
        let agents = Agents::start(&world, flags).expect("agents");
        Self {
            world,
            a,
            servers,
            agents,
        }
    }

    /// A verb of the script in the client's pod.
    fn client(&self, args: &[&str]) -> Value {
        let mut client = self.world.in_pod(&self.a, PYTHON);
        client.args(["-c", SCRIPT]).args(args);
        client.stdin(Stdio::null());
        let output = client.output().expect("python runs");
        parse(&output).unwrap_or_else(|problem| panic!("{args:?}: {problem:#}"))
    }

    /// A verb that waits for the end of its standard input, once it says that it does.
    fn waiting(&self, args: &[&str]) -> Waiting {
        let mut client = self.world.in_pod(&self.a, PYTHON);
        client.args(["-c", SCRIPT]).args(args);
        client.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = client.spawn().expect("python runs");
        let out = client.stdout.take().expect("a pipe");
        let mut waiting = Waiting {
            client,
            out: BufReader::new(out),
        };
        assert_eq!(waiting.line(), "open", "{args:?}");
        waiting
    }

    /// What curl of the client's pod prints.
    fn curl(&self, args: &[&str]) -> String {
        let mut curl = self.world.in_pod(&self.a, "curl");
        curl.args(["-sS", "--max-time", "20"]).args(args);
        let output = curl.output().expect("curl runs");
        let problem = String::from_utf8_lossy(&output.stderr);
        format!("{}{problem}", String::from_utf8_lossy(&output.stdout))
    }

    /// Addresses of each server: its Service's, and its own.
    fn addresses(&self) -> Vec<(&Pod, String)> {
        let mut all = vec![];
        for pod in &self.servers {
            all.extend(pod.vips().map(|to| (pod, to)));
            all.push((pod, format!("{}:{APP_PORT}", pod.v4())));
        }
        all
    }

    fn policy(&self, name: &str, yaml: &str) {
        let read = self.agents.read_file(&self.world, name, yaml);
        read.expect("in force");
    }
}

/// A client that waits; it ends with the test at the latest.
struct Waiting {
    client: Child,
    out: BufReader<ChildStdout>,
}

impl Waiting {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }

    /// It goes on; what it says then.
    fn goes_on(mut self) -> String {
        drop(self.client.stdin.take());
        self.line()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ended_by_itself = self.client.kill();
        let _status = self.client.wait();
    }
}

fn status(answer: &Value) -> u64 {
    let got = answer["got"].as_str().unwrap_or_default();
    let status = got.split(' ').nth(1).unwrap_or_default();
    status.parse().unwrap_or_default()
}

#[test]
fn requests_on_a_kept_connection_arrive_as_they_were_sent() {
    let mesh = Mesh::new();
    let own = mesh.a.v4();
    for (pod, to) in mesh.addresses() {
        let answers = mesh.client(&["keep_alive", &to, "20", "Some.Name:80"]);
        let answers = answers.as_array().expect("answers");
        assert_eq!(answers.len(), 20);
        for (i, answer) in answers.iter().enumerate() {
            let told = &answer[1];
            assert_eq!(answer[0], 200, "{answer}");
            assert_eq!(told["name"], pod.name, "{answer}");
            assert_eq!(told["first"], format!("GET /{i} HTTP/1.1"));
            assert_eq!(told["headers"], json!([["host", "Some.Name:80"]]));
            assert_eq!(told["asked"], i + 1, "one connection to the application");
            if !to.contains('[') {
                let peer = told["peer"].as_str().expect("an address");
                assert!(peer.ends_with(&own), "the client's own address: {peer}");
            }
        }
    }
}

#[test]
fn nginx_and_curl_understand_each_other() {
    let (mut world, [a, b, c]) = World::of_three().expect("a world");
    for pod in [&b, &c] {
        world.nginx(pod, APP_PORT).expect("nginx");
    }
    let mesh = Mesh::of(world, a, [b, c]);
    let own = mesh.a.v4();
    for pod in &mesh.servers {
        let url = format!("http://{}/x", pod.vips()[0]);
        let answer = format!("{} {own} {}:{APP_PORT}\n", pod.name, pod.v4());
        // Three requests on one connection, with and without a body.
        let told = mesh.curl(&[&url, &url, "-d", "a=b", &url]);
        assert_eq!(told, answer.repeat(3));
        let told = mesh.curl(&["-I", &url]);
        assert!(told.starts_with("HTTP/1.1 200 OK\r\n"), "{told}");
        let told = mesh.curl(&["-0", &url]);
        assert_eq!(told, answer);
    }
}

#[test]
fn requests_that_are_sent_in_advance_are_answered_in_order() {
    let mesh = Mesh::new();
    for (_, to) in mesh.addresses() {
        let told = mesh.client(&["pipelined", &to, "50"]);
        let expected: Vec<_> = (0..50).map(|i| format!("GET /{i} HTTP/1.1")).collect();
        assert_eq!(told, json!(expected));
    }
}

#[test]
fn large_bodies_pass_whole_in_both_directions_and_are_not_held() {
    const SIZE: &str = "30000000";
    let mesh = Mesh::new();
    let before = mesh.agents.memory().expect("memory");
    for pod in &mesh.servers {
        let to = &pod.vips()[0];
        for chunked in ["chunked", "length"] {
            let told = mesh.client(&["upload", to, SIZE, chunked]);
            assert_eq!(told[0], told[1], "{chunked} to {}", pod.name);
        }
        for path in ["bytes", "chunks"] {
            let told = mesh.client(&["download", to, path, SIZE]);
            assert_eq!(told[0], told[1], "{path} of {}", pod.name);
            assert_eq!(told[2], 200, "the connection is good for another request");
        }
    }
    let grown = mesh.agents.grown_since(before).expect("memory");
    assert!(grown.iter().all(|bytes| *bytes < 8 << 20), "{grown:?}");
}

#[test]
fn an_answer_before_the_answer_comes_when_the_application_gives_it() {
    let mesh = Mesh::new();
    for (_, to) in mesh.addresses() {
        assert_eq!(mesh.client(&["expects", &to, "echo"]), json!([100, 5]));
        assert_eq!(mesh.client(&["expects", &to, "refuse"]), json!([417]));
        assert_eq!(mesh.client(&["hints", &to]), json!([103, 200]));
        assert_eq!(mesh.client(&["many_hints", &to, "32"]), json!([32, 200]));
        // No more before the answer.
        let told = mesh.client(&["many_hints", &to, "33"]);
        assert_eq!(told[1], "cut", "{told}");
    }
}

#[test]
fn another_protocol_on_the_connection_passes_both_ways_to_its_end() {
    let mesh = Mesh::new();
    for (_, to) in mesh.addresses() {
        let told = mesh.client(&["upgrade", &to, "fin"]);
        let first = "HTTP/1.1 101 Switching Protocols";
        assert_eq!(told, json!([first, "first frame", "ping pong", "bye"]));
    }
}

#[test]
fn an_upload_that_is_answered_early_gets_its_answer() {
    let mesh = Mesh::new();
    for pod in &mesh.servers {
        let told = mesh.client(&["early", &pod.vips()[0], "300"]);
        assert_eq!(told, json!({"413": 300}), "{}", pod.name);
    }
}

#[test]
fn what_the_application_cut_does_not_look_whole() {
    let mesh = Mesh::new();
    for pod in &mesh.servers {
        let to = &pod.vips()[0];
        for (request, end) in [
            ("GET /reset HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n", "reset"),
            ("GET /cut HTTP/1.0\\r\\n\\r\\n", "reset"),
            ("GET /until-close HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n", "fin"),
        ] {
            let told = mesh.client(&["raw", to, request]);
            assert_eq!(told["end"], end, "{request} of {}: {told}", pod.name);
        }
    }
}

#[test]
fn what_has_two_meanings_is_refused_and_ends_the_connection() {
    let mesh = Mesh::new();
    for pod in &mesh.servers {
        let to = &pod.vips()[0];
        for (request, code) in [
            (
                "POST / HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 3\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n",
                400,
            ),
            (
                "POST / HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 3\\r\\nContent-Length: 4\\r\\n\\r\\nabc",
                400,
            ),
            ("GET / HTTP/1.1\\r\\nHost: a\\r\\nHost: b\\r\\n\\r\\n", 400),
            ("GET / HTTP/1.1\\r\\n\\r\\n", 400),
            ("GET / HTTP/1.1\\r\\nHost: a\\r\\nX : b\\r\\n\\r\\n", 400),
        ] {
            let told = mesh.client(&["raw", to, request]);
            assert_eq!(status(&told), code, "{request}: {told}");
            assert_eq!(told["end"], "fin", "{request}: {told}");
        }
    }
}

#[test]
fn a_client_that_asks_late_is_still_one_of_http() {
    let mesh = Mesh::new();
    for (_, to) in mesh.addresses() {
        assert_eq!(mesh.client(&["late", &to, "0.5"]), 200);
    }
}

const FORGED: [&str; 3] = [
    "GE",
    "T / HTTP/1.1\\r\\nHost: a\\r\\n",
    "X-Forwarded-Client-Cert: By=spiffe://x\\r\\n\\r\\n",
];

/// Also to the pod's own address, of which its Services tell.
#[test]
fn where_a_port_is_declared_http_no_request_passes_unseen_however_it_comes() {
    let (mut world, a, servers) = declared("http-shop");
    for pod in &servers {
        let mut server = world.in_pod(pod, PYTHON);
        server.args(["-c", SCRIPT, "serve", &pod.name, &APP_PORT.to_string()]);
        world.start_server(pod, APP_PORT, server).expect("a server");
    }
    let mesh = Mesh::of(world, a, servers);
    for (pod, to) in mesh.addresses() {
        let parted = [&["parted", &to, "3", "1.3"], &FORGED[..]].concat();
        let told = mesh.client(&parted);
        assert_eq!(told, json!([["host"], ["host"], ["host"]]), "{to}");
        // Servers skip what is before it; here it is no request.
        let odd = [
            "parted", &to, "2", "0", "\\n", FORGED[0], FORGED[1], FORGED[2],
        ];
        let told = mesh.client(&odd);
        assert!(
            !told.to_string().contains("client-cert"),
            "{}: {told}",
            pod.name
        );
        // Who only looks whether somebody is there is no fault.
        assert_eq!(mesh.client(&["teased", &to, "3", "0"]), 3);
    }
    let refused = "reason=\"undecided_protocol\"";
    let ended = mesh.agents[0].comes_to("mesh_agent_connections_ended_total", refused, 12.0);
    assert_eq!(ended, 2.0 * 6.0);
}

/// Client a on n1, servers b on n1 and c on n2, whose Services' ports have this name.
fn declared(port: &'static str) -> (World, Pod, [Pod; 2]) {
    let mut world = World::new(2).expect("a world");
    let spec = |node, name| PodSpec::new(node, name).enrolled(OnAgentDown::Closed);
    let a = world.add(&spec("n1", "a")).expect("a pod");
    let servers = [("n1", "b"), ("n2", "c")].map(|(node, name)| {
        let port = Port::new(port, 80, Target::Number(APP_PORT));
        world.add(&spec(node, name).ports([port])).expect("a pod")
    });
    (world, a, servers)
}

#[test]
fn clients_that_only_begin_a_request_teach_nobody_that_it_is_none() {
    let mesh = Mesh::new();
    for (pod, to) in mesh.addresses() {
        // Each worker learns by itself.
        mesh.client(&["teased", &to, "240", "1.2"]);
        let whole = FORGED.concat();
        for _ in 0..4 {
            let told = mesh.client(&["parted", &to, "4", "0", &whole]);
            let seen = json!([["host"], ["host"], ["host"], ["host"]]);
            assert_eq!(told, seen, "{} at {to}", pod.name);
        }
    }
}

#[test]
fn a_change_of_the_configuration_loses_no_request() {
    let mesh = Mesh::new();
    let to = mesh.servers[1].vips()[0].clone();
    let told = std::thread::scope(|scope| {
        let load = scope.spawn(|| mesh.client(&["load", &to, "6", "8"]));
        let mut turn = 0;
        while !load.is_finished() {
            turn += 1;
            let nobody = format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{}, namespace: elsewhere}}\nspec: {{action: DENY, rules: [{{}}]}}\n",
                turn % 2
            );
            mesh.world.write_config("turns", &nobody).expect("a file");
            // The pace of the changes, not a wait for anything.
            std::thread::sleep(Duration::from_millis(100));
        }
        load.join().expect("the load")
    });
    let statuses = told["statuses"].as_object().expect("statuses");
    assert_eq!(statuses.keys().collect::<Vec<_>>(), ["200"], "{told}");
}

#[test]
fn a_request_of_a_denied_caller_is_answered_with_403() {
    let mesh = Mesh::new();
    for pod in &mesh.servers {
        assert_eq!(mesh.client(&["keep_alive", &pod.vips()[0], "1"])[0][0], 200);
    }
    mesh.policy(
        "no-a",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: no-a, namespace: shop}\nspec: {action: DENY, rules: [{from: [{source: {principals: [\"*/sa/a\"]}}]}]}\n",
    );
    for pod in &mesh.servers {
        let url = format!("http://{}/", pod.vips()[0]);
        let code = ["-o", "/dev/null", "-w", "%{http_code}", &url];
        // Who has not asked within 15 ms is reset, as one that is no client of HTTP.
        let is_answered = || match &*mesh.curl(&code) {
            "403" => true,
            late if late.starts_with("000") => false,
            other => panic!("{}: {other}", pod.name),
        };
        let answered = eventually(Duration::from_secs(20), is_answered);
        assert!(answered, "{}", pod.name);
    }
}

const DENY_ADMIN: &str = r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {paths: ["/admin/*"]}}]}]}
"#;

/// Ways to write what is denied below `/admin`, and neighbours of it.
const ADMIN_AND_NEIGHBOURS: [(&str, &str); 7] = [
    ("/admin/secret", "403"),
    ("//admin/secret", "403"),
    ("/public/../admin/secret", "403"),
    ("/%61dmin/secret", "403"),
    ("/admin%2fsecret", "400"),
    ("/administrator", "200"),
    ("/public/admin/secret", "200"),
];

#[test]
fn a_path_is_denied_and_its_neighbours_are_not() {
    let mesh = Mesh::new();
    mesh.policy("no-admin", DENY_ADMIN);
    for pod in &mesh.servers {
        let url = format!("http://{}", pod.vips()[0]);
        let answer = |path: &str| {
            let url = format!("{url}{path}");
            mesh.curl(&[
                "--path-as-is",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                &url,
            ])
        };
        for (path, code) in ADMIN_AND_NEIGHBOURS {
            assert_eq!(answer(path), code, "{path} of {}", pod.name);
        }
        // On one connection each request is judged by itself.
        let [open, closed] = ["/open", "/admin/x"].map(|path| format!("{url}{path}"));
        let told = mesh.curl(&[
            "-w",
            "%{http_code} %{num_connects}\n",
            &open,
            &closed,
            &open,
        ]);
        let ends: Vec<&str> = told.lines().filter(|l| l.len() == 5).collect();
        assert_eq!(ends, ["200 1", "403 0", "200 0"], "{told}");
    }
}

#[test]
fn the_path_that_a_rule_looked_at_is_the_one_that_the_application_gets() {
    let mesh = Mesh::new();
    let seen = |pod: &Pod| {
        let url = format!("http://{}/a/./b/../c?d=../e", pod.vips()[0]);
        let told: Value = serde_json::from_str(&mesh.curl(&["--path-as-is", &url])).expect("JSON");
        told["first"].as_str().expect("a line").to_owned()
    };
    for pod in &mesh.servers {
        assert_eq!(
            seen(pod),
            "GET /a/./b/../c?d=../e HTTP/1.1",
            "nobody looked"
        );
    }
    mesh.policy("no-admin", DENY_ADMIN);
    for pod in &mesh.servers {
        assert_eq!(seen(pod), "GET /a/c?d=../e HTTP/1.1", "{}", pod.name);
    }
}

#[test]
fn a_client_that_reads_no_answer_does_not_keep_the_agent() {
    let mut mesh = Mesh::new();
    mesh.policy("no-admin", DENY_ADMIN);
    let to = mesh.servers[0].vips()[0].clone();
    let mut client = mesh.world.in_pod(&mesh.a, PYTHON);
    client.args(["-c", SCRIPT, "deaf", &to, "/admin/x"]);
    client.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = client.spawn().expect("python runs");
    let out = client.stdout.take().expect("a pipe");
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line).expect("a line");
    assert_eq!(line.trim(), "stuck");
    // The deadline of connections that live is 10 s.
    mesh.agents[0].terminate().expect("a signal");
    let ended = eventually(Duration::from_secs(20), || {
        matches!(mesh.agents[0].ended(), Ok(Some(_)))
    });
    drop(client.stdin.take());
    let _ended = client.wait();
    assert!(ended, "the agent waits for a client that does not read");
}

#[test]
fn where_a_rule_asks_for_a_path_what_is_no_http_is_refused() {
    let mesh = Mesh::serving(&["greets"]);
    let to = mesh.servers.each_ref().map(|pod| pod.vips()[0].clone());
    for to in &to {
        let told = mesh.client(&["raw", to, "EHLO\\r\\n"]);
        let got = told["got"].as_str().expect("text");
        assert!(got.starts_with("220 ready"), "{told}");
    }
    mesh.policy("no-admin", DENY_ADMIN);
    for to in &to {
        for text in ["EHLO\\r\\n", "PRI * HTTP/2.0\\r\\n\\r\\nXX\\r\\n\\r\\n"] {
            let told = mesh.client(&["raw", to, text]);
            assert_eq!(told, json!({"got": "", "end": "reset"}));
        }
    }
}

#[test]
fn a_change_of_policy_judges_the_requests_that_are_under_way() {
    let mesh = Mesh::new();
    for pod in &mesh.servers {
        let to = pod.vips()[0].clone();
        let ask = |path: &str| {
            let upgrade = format!(
                "GET {path} HTTP/1.1\\r\\nHost: a\\r\\nConnection: upgrade\\r\\nUpgrade: echo\\r\\n\\r\\n"
            );
            ["held", &to, &upgrade].map(str::to_owned)
        };
        let [kept, mut cut] = ["/upgrade", "/admin/upgrade"].map(|path| {
            let args = ask(path);
            mesh.waiting(&args.each_ref().map(String::as_str))
        });
        mesh.policy("no-admin", DENY_ADMIN);
        // It says so when the server ends, or else when it is asked to.
        assert_eq!(cut.line(), "reset", "{}", pod.name);
        assert_eq!(kept.goes_on(), "fin", "{}", pod.name);
        mesh.policy("no-admin", mesh_tests::mesh_mode("STRICT").as_str());
    }
}
