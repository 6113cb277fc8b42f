//! Rate limits of TrafficPolicies, kept where a Service's pods are.

#[path = "limits/changes.rs"]
mod changes;
#[path = "limits/faults.rs"]
mod faults;
#[path = "limits/greedy.rs"]
mod greedy;
#[path = "limits/matching.rs"]
mod matching;
#[path = "limits/plaintext.rs"]
mod plaintext;
#[path = "limits/queue.rs"]
mod queue;

use std::time::Duration;

use mesh_tests::{APP_PORT, Agents, Pod, World, eventually, parse, traffic_policy};
use serde_json::Value;

const SCRIPT: &str = include_str!("limits.py");
const PYTHON: &str = "/usr/bin/python3";

/// Clients a, d and e on n1, each with an account of its own; servers b on n1 and c
/// on n2.
struct Mesh {
    world: World,
    clients: [Pod; 3],
    servers: [Pod; 2],
    agents: Agents,
}

impl Mesh {
    /// `verb`: of the script, for both servers.
    fn new(verb: &str) -> Self {
        let mut world = World::new(2).expect("a world");
        let mut add = |node, name| world.add_pod(node, name, Some("closed")).expect("a pod");
        let clients = ["a", "d", "e"].map(|name| add("n1", name));
        let servers = [add("n1", "b"), add("n2", "c")];
        for pod in &servers {
            let mut server = world.in_pod(pod, PYTHON);
            server.args(["-c", SCRIPT, verb, &APP_PORT.to_string()]);
            world.start_server(pod, APP_PORT, server).expect("a server");
        }
        let agents = Agents::start(&world, &[]).expect("agents");
        Self {
            world,
            clients,
            servers,
            agents,
        }
    }

    /// Limits of both servers' Services.
    fn limit(&self, limits: &str) {
        self.says(&format!("rateLimits: [{limits}]"));
    }

    /// What the policy of both servers' Services says.
    fn says(&self, says: &str) {
        let yaml = traffic_policy("servers", &["b", "c"], says);
        let read = self.agents.read_file(&self.world, "limits", &yaml);
        read.expect("in force");
    }

    /// A verb of the script in a client's pod.
    fn client(&self, pod: &Pod, args: &[&str]) -> Value {
        let mut client = self.world.in_pod(pod, PYTHON);
        client.args(["-c", SCRIPT]).args(args);
        let output = client.output().expect("python runs");
        parse(&output).unwrap_or_else(|problem| panic!("{args:?}: {problem:#}"))
    }

    /// Status of each of so many requests.
    fn some(&self, client: usize, server: &Pod, count: usize, headers: &[&str]) -> Vec<u64> {
        let count = count.to_string();
        let to = &server.vips()[0];
        let args = [&["some", to, &count], headers].concat();
        let answers = self.client(&self.clients[client], &args);
        let all = answers.as_array().expect("answers").iter();
        all.map(|answer| answer[0].as_u64().expect("a status"))
            .collect()
    }
}

/// Half of the limit, all of it, and five times as much, each by an identity of its
/// own, at once.
#[test]
fn what_passes_is_within_two_percent_and_identities_share_no_bucket() {
    let mesh = Mesh::new("serve");
    mesh.limit("{name: per-caller, requests: 40, burst: 4}");
    let offered = ["20", "40", "200"];
    for server in &mesh.servers {
        let to = &server.vips()[0];
        let said: Vec<Value> = std::thread::scope(|scope| {
            let each = mesh.clients.iter().zip(offered);
            let paced = each.map(|(client, rate)| {
                scope.spawn(|| mesh.client(client, &["pace", to, rate, "10"]))
            });
            let paced: Vec<_> = paced.collect();
            paced
                .into_iter()
                .map(|one| one.join().expect("it ran"))
                .collect()
        });
        for ((said, expected), offered) in said.iter().zip([200, 400, 400]).zip(offered) {
            let passed = said["200"].as_u64().expect("a count");
            let took = said["took"].as_f64().expect("a time");
            // Where the machine is late, the limit lets pass as much as in that time.
            let most = if took > 10.1 {
                40.0 * took + 4.0
            } else {
                f64::from(expected) * 1.02
            };
            // And what comes late comes at once: there may be no place for all of it.
            let late = said["late"].as_u64().expect("a count");
            let least = f64::from(expected) * 0.98 - late as f64;
            let is_near = passed as f64 >= least && passed as f64 <= most;
            println!("{offered} a second to {}: {said}", server.name);
            assert!(is_near, "{offered} to {}: {said}", server.name);
        }
    }
}

#[test]
fn who_is_over_a_limit_is_told_which_and_when_to_ask_again() {
    let mesh = Mesh::new("serve");
    mesh.limit("{name: few, requests: 1, interval: 1m, burst: 3}, {name: seen, requests: 1, interval: 1m, dryRun: true}");
    for server in &mesh.servers {
        let client = &mesh.clients[0];
        let answers = mesh.client(client, &["some", &server.vips()[0], "5"]);
        let status: Vec<_> = (0..5).map(|i| answers[i][0].as_u64()).collect();
        let expected = [200, 200, 200, 429, 429].map(Some);
        assert_eq!(status, expected, "{answers}");
        let told = &answers[3][1];
        let after = told["retry-after"].as_str().expect("a time");
        let after: u64 = after.parse().expect("a number");
        assert!((50..=60).contains(&after), "{told}");
        assert_eq!(told["ratelimit-policy"], "\"shop/servers/few\";q=1;w=60");
    }
    // The first of a dry run passes unseen; of those over both the first limit tells.
    let node = mesh.agents.each_ref();
    for agent in node {
        let over = |limit: &str| {
            let labels = format!("policy=\"shop/servers\",limit=\"{limit}\"");
            agent
                .metric("mesh_agent_rate_limited_total", &labels)
                .expect("a metric")
        };
        assert_eq!((over("few"), over("seen")), (2.0, 2.0));
        let _limited = agent.comes_to("istio_requests_total", "response_code=\"429\"", 2.0);
    }
    // The log is written behind.
    let mut told: Vec<Value> = Vec::new();
    let all = eventually(Duration::from_secs(20), || {
        told = mesh.world.logged("n2");
        told.retain(|line| line["reason"] == "rate_limited");
        told.len() >= 2
    });
    assert!(all && told.len() == 2, "{told:?}");
    for line in told {
        assert_eq!(line["rule"]["policy"], "shop/servers/few", "{line}");
        assert_eq!(line["response_flags"], "RL", "{line}");
    }
}

#[test]
fn what_was_taken_counts_after_a_change_of_the_configuration() {
    let mesh = Mesh::new("serve");
    mesh.limit("{name: few, requests: 1, interval: 1h, burst: 3}");
    for server in &mesh.servers {
        assert_eq!(mesh.some(0, server, 4, &[]), [200, 200, 200, 429]);
    }
    mesh.limit("{name: more, requests: 1000}, {name: few, requests: 1, interval: 1h, burst: 4}");
    for server in &mesh.servers {
        assert_eq!(mesh.some(0, server, 2, &[]), [200, 429], "one more at once");
        assert_eq!(mesh.some(1, server, 5, &[]), [200, 200, 200, 200, 429]);
    }
    mesh.world.remove_config("limits").expect("removed");
    let lifted = || {
        mesh.servers
            .iter()
            .all(|server| mesh.some(0, server, 1, &[]) == [200])
    };
    assert!(eventually(Duration::from_secs(20), lifted));
}

#[test]
fn a_limit_is_of_each_value_of_a_header_or_of_all_callers_where_it_says_so() {
    let mesh = Mesh::new("serve");
    mesh.limit(
        "{name: tenant, requests: 1, interval: 1h, burst: 2, key: {type: Header, header: X-Tenant}}",
    );
    for server in &mesh.servers {
        let of = |client, header: &str| mesh.some(client, server, 3, &[header]);
        assert_eq!(of(0, "x-tenant=one"), [200, 200, 429]);
        assert_eq!(
            of(1, "X-TENANT=one"),
            [429, 429, 429],
            "the value's, whoever asks"
        );
        assert_eq!(of(1, "x-tenant=two"), [200, 200, 429]);
        assert_eq!(of(0, "other=one"), [200, 200, 429]);
    }
    mesh.limit("{name: all, requests: 1, interval: 1h, burst: 4, key: {type: Service}}");
    for server in &mesh.servers {
        assert_eq!(mesh.some(0, server, 3, &[]), [200; 3]);
        assert_eq!(mesh.some(1, server, 3, &[]), [200, 429, 429]);
    }
}

/// In the words of HTTP/2 and of gRPC.
#[test]
fn a_limit_holds_for_http_2_and_is_told_to_grpc_in_its_own_words() {
    let mesh = Mesh::new("serve");
    mesh.limit("{name: few, requests: 1, interval: 1m}");
    let ask = |server: &Pod, kind: &str| {
        let mut curl = mesh.world.in_pod(&mesh.clients[0], "curl");
        let url = format!("http://{}/a.B/C", server.vips()[0]);
        let kind = format!("content-type: {kind}");
        curl.args(["-sSi", "--http2-prior-knowledge", "--max-time", "10"]);
        curl.args(["-H", &kind, "-d", "x", &url]);
        let output = curl.output().expect("curl runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for server in &mesh.servers {
        // The server speaks no HTTP/2: what it says does not matter.
        let _first = ask(server, "text/plain");
        let second = ask(server, "text/plain");
        for line in [
            "HTTP/2 429",
            "retry-after: ",
            "ratelimit-policy: \"shop/servers/few\"",
        ] {
            assert!(second.contains(line), "{}: {second}", server.name);
        }
        let third = ask(server, "application/grpc");
        for line in ["HTTP/2 200", "grpc-status: 8", "grpc-retry-pushback-ms: "] {
            assert!(third.contains(line), "{}: {third}", server.name);
        }
    }
}

#[test]
fn connections_over_a_limit_are_closed_whatever_they_carry() {
    let mesh = Mesh::new("echo");
    mesh.limit("{name: few, connections: 1, interval: 1h, burst: 3}");
    for server in &mesh.servers {
        for client in &mesh.clients[..2] {
            let carried = mesh.client(client, &["connect", &server.vips()[0], "5"]);
            let expected = serde_json::json!([true, true, true, false, false]);
            assert_eq!(carried, expected, "{} to {}", client.name, server.name);
        }
    }
}

impl Mesh {
    /// How many of so many requests pass, each on a connection of its own.
    fn passed(&self, client: usize, server: &Pod, pause: &str) -> usize {
        let args = ["each", &server.vips()[0], "10", pause];
        let told = self.client(&self.clients[client], &args);
        let told = told.as_array().expect("answers").iter();
        told.filter(|status| **status == 200).count()
    }
}

/// Who speaks no HTTP for a while does not make the port one that nobody looks at.
#[test]
fn connections_of_bytes_do_not_hide_the_requests_behind_them() {
    let mesh = Mesh::new("serve");
    mesh.limit("{name: few, requests: 1, interval: 1h, burst: 3}");
    let passed = mesh.servers.each_ref().map(|server| {
        mesh.client(&mesh.clients[0], &["bytes", &server.vips()[0], "60"]);
        // At once, and when both ends have begun to wait.
        [("0", 0), ("0.05", 1)].map(|(pause, client)| mesh.passed(client, server, pause))
    });
    assert_eq!(passed, [[3, 3], [3, 3]]);
}

/// Nor does who takes long to say what it is, or to say anything.
#[test]
fn requests_that_come_late_or_in_parts_are_counted() {
    let mesh = Mesh::new("serve");
    mesh.limit("{name: few, requests: 1, interval: 1h, burst: 3}");
    // So many bytes at once, and the rest so many seconds later.
    for (client, (first, pause)) in [("0", "11"), ("1", "1.5"), ("10", "1.5")]
        .into_iter()
        .enumerate()
    {
        for server in &mesh.servers {
            for to in [
                server.vips()[0].clone(),
                format!("{}:{APP_PORT}", server.v4()),
            ] {
                let args = ["parted", &to, "8", pause, first];
                let told = mesh.client(&mesh.clients[client], &args);
                let by_vip = to == server.vips()[0];
                let expected = match by_vip {
                    true => serde_json::json!([200, 200, 200, 429, 429, 429, 429, 429]),
                    false => serde_json::json!([429, 429, 429, 429, 429, 429, 429, 429]),
                };
                assert_eq!(told, expected, "{first} bytes, then {pause} s, to {to}");
            }
        }
    }
}

#[test]
fn what_is_no_http_does_not_pass_a_limit_of_requests() {
    let mesh = Mesh::new("echo");
    mesh.limit("{name: few, requests: 1000}");
    let carried = || {
        mesh.servers
            .each_ref()
            .map(|server| mesh.client(&mesh.clients[0], &["connect", &server.vips()[0], "2"]))
    };
    let none = serde_json::json!([false, false]);
    assert_eq!(carried(), [none.clone(), none]);
    mesh.limit("{name: few, connections: 1000}");
    let all = serde_json::json!([true, true]);
    assert_eq!(carried(), [all.clone(), all]);
}

#[test]
fn connections_of_http_count_as_all_others() {
    let mesh = Mesh::new("serve");
    mesh.limit("{name: few, connections: 1, interval: 1h, burst: 3}");
    let passed = mesh.servers.each_ref().map(|server| {
        [("0", 0), ("0.05", 1)].map(|(pause, client)| mesh.passed(client, server, pause))
    });
    assert_eq!(passed, [[3, 3], [3, 3]]);
}
