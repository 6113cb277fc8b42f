//! Servers that others wrote behind the agents, and clients that try to reach what a
//! policy denies: by other spellings of a path or a host, and by requests that the
//! agent and the server could take apart differently.
//!
//! What is denied is there on the servers: it is the agent alone that keeps it. A
//! request is smuggled when a server's own log shows it.

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

    /// What the agents count as requests with this answer.
    fn counted(&self, code: &str) -> u64 {
        let code = format!("response_code=\"{code}\"");
        let labels = ["reporter=\"destination\"", &code];
        let each = self.agents.each(|agent| agent.requests(&labels));
        each.expect("a page").iter().sum()
    }
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
        let seen = || {
            let log = start::log(&shop.world, server);
            // The last thing that it was asked.
            log.contains("/over").then_some(log)
        };
        assert!(eventually(Duration::from_secs(5), || seen().is_some()));
        let log = seen().expect("a log");
        let smuggled = log.lines().filter(|line| line.contains("smuggled"));
        assert_eq!(smuggled.collect::<Vec<_>>(), [""; 0], "{}", server.name);
        let served = log.lines().filter(|line| line.contains("/clear")).count();
        assert_eq!(
            Some(served as u64),
            report["served"].as_u64(),
            "{}",
            server.name
        );
    }
}
