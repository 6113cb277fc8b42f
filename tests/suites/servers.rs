//! Servers that others wrote behind the agents, and clients that try to reach what a
//! policy denies: by other spellings of a path or a host, and by requests that the
//! agent and the server could take apart differently.
//!
//! What is denied is there on the servers: it is the agent alone that keeps it. A
//! request is smuggled when a server's own log shows more than its agent's.

#[path = "servers/start.rs"]
mod start;

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_tests::{APP_PORT, Agents, Pod, PodSpec, World, eventually, parse};
use serde_json::Value;

const SCRIPT: &str = include_str!("servers.py");
const PYTHON: &str = "/usr/bin/python3";
/// On n1 beside the client, and on n2.
const SERVERS: [(&str, &str); 4] = [
    ("n1", "nginx"),
    ("n2", "apache"),
    ("n2", "tomcat"),
    ("n2", "golang"),
];
const POLICY: &str = r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: kept, namespace: shop}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: ["/secret", "/secret/*", "/smuggled*"]}}]
  - to: [{operation: {hosts: ["admin.test", "admin.test:*"]}}]
"#;

/// Client a on n1, and a pod for each server, all in the mesh.
struct Shop {
    world: World,
    a: Pod,
    servers: Vec<Pod>,
    agents: Agents,
}

impl Shop {
    fn new() -> Self {
        let mut world = World::new(2).expect("a world");
        let spec = |node, name| {
            let down = mesh_tests::OnAgentDown::Closed;
            PodSpec::new(node, name).enrolled(down)
        };
        let a = world.add(&spec("n1", "a")).expect("a pod");
        let mut servers = Vec::new();
        for (node, name) in SERVERS {
            let pod = world.add(&spec(node, name)).expect("a pod");
            start::server(&mut world, &pod).expect(name);
            servers.push(pod);
        }
        world.write_config("kept", POLICY).expect("a file");
        let agents = Agents::start(&world, &[]).expect("agents");
        Self {
            world,
            a,
            servers,
            agents,
        }
    }

    /// A verb of the script in the client's pod, and what it printed.
    fn client(&self, verb: &str, server: &Pod) -> Value {
        let mut client = self.world.in_pod(&self.a, PYTHON);
        let to = format!("{}:{APP_PORT}", server.v4());
        client.args(["-c", SCRIPT, verb, &to, &server.name]);
        parse(&client.output().expect("python runs")).expect("its report")
    }

    /// What the server's own log has, and of what the access log of its node's agent has: what
    /// passed whole, and what was cut when its head could have gone on.
    fn counts(&self, server: &Pod) -> [Counts; 3] {
        let log = start::log(&self.world, server);
        // As some write it, with the version.
        let line = |line: &str| line.trim_end_matches(" HTTP/1.1").to_owned();
        let seen = count(log.lines().map(line));
        let workload = format!("shop/{}", server.name);
        let lines = self.world.logged(&server.node).into_iter();
        let of_server = |line: &Value| {
            line["event"] == "request"
                && line["destination_workload"] == *workload
                && line["attempts"].as_u64() > Some(0)
        };
        let is_whole = |line: &Value| line["verdict"] == "allowed" && line["ended_by"].is_null();
        let (whole, cut): (Vec<_>, Vec<_>) = lines.filter(of_server).partition(is_whole);
        let asked = |line: &Value| {
            let [method, path] = ["method", "path"].map(|field| line[field].as_str());
            format!(
                "{} {}",
                method.unwrap_or_default(),
                path.unwrap_or_default()
            )
        };
        let [whole, cut] = [whole, cut].map(|lines| count(lines.iter().map(asked)));
        [seen, whole, cut]
    }

    /// What the agents count as requests with this answer.
    fn counted(&self, code: &str) -> u64 {
        let code = format!("response_code=\"{code}\"");
        let labels = ["reporter=\"destination\"", &code];
        let each = self.agents.each(|agent| agent.requests(&labels));
        each.expect("a page").iter().sum()
    }
}

/// How often something was asked, by method and path.
type Counts = BTreeMap<String, u64>;

fn count(asked: impl Iterator<Item = String>) -> Counts {
    let mut counts = Counts::new();
    for asked in asked {
        *counts.entry(asked).or_default() += 1;
    }
    counts
}

fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().expect("a list");
    list.iter().map(ToString::to_string).collect()
}

/// What came of the variants, by status.
fn statuses(report: &Value) -> BTreeMap<String, u64> {
    serde_json::from_value(report["statuses"].clone()).expect("counts")
}

#[test]
fn a_denied_path_is_reached_by_no_spelling_and_its_neighbours_are_all_served() {
    let shop = Shop::new();
    for server in &shop.servers {
        let report = shop.client("paths", server);
        println!(
            "{}: {} paths {:?}",
            server.name,
            report["count"],
            statuses(&report)
        );
        assert!(report["count"].as_u64() >= Some(400));
        assert_eq!(texts(&report["reached"]), [""; 0], "{}", server.name);
        assert_eq!(texts(&report["refused"]), [""; 0], "{}", server.name);
    }
    assert!(shop.counted("403") > 100);
}

#[test]
fn a_denied_host_is_reached_by_no_spelling() {
    let shop = Shop::new();
    for server in &shop.servers {
        let report = shop.client("hosts", server);
        println!(
            "{}: {} hosts {:?}",
            server.name,
            report["count"],
            statuses(&report)
        );
        assert_eq!(texts(&report["reached"]), [""; 0], "{}", server.name);
        assert_eq!(texts(&report["refused"]), [""; 0], "{}", server.name);
    }
}

#[test]
fn no_server_sees_a_request_that_its_agent_did_not() {
    let shop = Shop::new();
    for server in &shop.servers {
        let report = shop.client("frames", server);
        println!(
            "{}: {} cases {:?}",
            server.name,
            report["count"],
            statuses(&report)
        );
        assert!(report["count"].as_u64() >= Some(200));
        assert_eq!(texts(&report["wrong"]), [""; 0], "{}", server.name);
        let counts = || shop.counts(server);
        // Of each that passed whole there is one; a head whose body came to nothing may have
        // been seen, or its connection's reset before it.
        let odd = |[seen, whole, cut]: &[Counts; 3]| {
            let of = |counts: &Counts, asked: &str| counts.get(asked).copied().unwrap_or_default();
            let range = |asked: &str| of(whole, asked)..=of(whole, asked) + of(cut, asked);
            let mut all = seen.keys().chain(whole.keys());
            let odd = all.find(|asked| !range(asked).contains(&of(seen, asked)));
            odd.map(|asked| format!("{asked}: {} of {:?}", of(seen, asked), range(asked)))
        };
        // The last thing that it was asked, in either's log; what ended later is behind it.
        let told = eventually(Duration::from_secs(20), || {
            let all = counts();
            let last = |of: &Counts| of.get("GET /over").copied();
            let is_over = last(&all[0]).is_some() && last(&all[0]) <= last(&all[1]);
            is_over && odd(&all).is_none()
        });
        let all = counts();
        let problem = odd(&all);
        let [seen, whole, cut] = all;
        println!("{}: saw {seen:?}, cut off {cut:?}", server.name);
        assert_eq!(problem, None, "{}", server.name);
        assert!(told, "{}: {seen:?}, by its agent {whole:?}", server.name);
        assert_eq!(seen.get("GET /smuggled"), None, "{}", server.name);
        // One agent told the other only of what it found whole, but for the one request that
        // is longer than a read.
        if server.node == "n2" {
            assert!(cut.values().sum::<u64>() <= 1, "{}: {cut:?}", server.name);
        }
        let served = seen.iter().filter(|(asked, _)| asked.contains("/clear"));
        assert_eq!(
            Some(served.map(|(_, count)| *count).sum()),
            report["served"].as_u64(),
            "{}",
            server.name
        );
    }
}
