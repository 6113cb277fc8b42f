//! The cases of the Gateway API's mesh profiles under their names, as requests between pods, and
//! what `mesh-agent explain` says of each: the agent's own, and by the directory alone.

#[path = "conformance/asks.rs"]
mod asks;
#[path = "conformance/examples.rs"]
mod examples;
#[path = "conformance/explained.rs"]
mod explained;
#[path = "conformance/filters.rs"]
mod filters;
#[path = "conformance/matching.rs"]
mod matching;
#[path = "conformance/places.rs"]
mod places;
#[path = "conformance/policies.rs"]
mod policies;
#[path = "conformance/redirects.rs"]
mod redirects;

use std::collections::BTreeSet;
use std::sync::OnceLock;

use asks::{Answer, Asks, Case, Row};
use mesh_tests::{Agents, OnAgentDown, Pod, PodSpec, Port, Target, World, http2_peer, parse};
use serde_json::Value;

const CLAIMED: &str = include_str!("../kube/conformance/claimed");
const SERVER: &str = include_str!("http.py");
const PYTHON: &str = "/usr/bin/python3";
const NAMESPACE: &str = "gateway-conformance-mesh";
const CONSUMER: &str = "gateway-conformance-mesh-consumer";
/// Where the pods serve HTTP/1, and HTTP/2.
const HTTP: u16 = 8080;
const CALLS: u16 = 7070;
/// Of the Service `echo`, whose endpoints are the servers of that name.
const VIP: &str = "10.96.1.1";

/// Of HTTP/2, built once.
fn peer() -> &'static str {
    static BUILT: OnceLock<String> = OnceLock::new();
    BUILT.get_or_init(|| http2_peer("http2-peer", ".", env!("CARGO_TARGET_TMPDIR")))
}

/// Client and echo-v1 on n1, echo-v2 on n2, a client of another namespace on n1; `idle` on
/// n2 is no endpoint of `echo`.
struct Mesh {
    world: World,
    client: Pod,
    visitor: Pod,
    servers: [Pod; 3],
    agents: Agents,
}

impl Mesh {
    fn new() -> Self {
        let mut world = World::new(2).expect("a world");
        let spec = |node, name| PodSpec::new(node, name).enrolled(OnAgentDown::Closed);
        let client = spec("n1", "client").namespace(NAMESPACE);
        let visitor = spec("n1", "visitor").namespace(CONSUMER);
        let [client, visitor] = [client, visitor].map(|spec| world.add(&spec).expect("a pod"));
        let servers = [("n1", "echo-v1"), ("n2", "echo-v2"), ("n2", "idle")];
        let servers = servers.map(|(node, name)| {
            let ports = [
                Port::new("first", 80, Target::Number(HTTP)),
                Port::new("second", 8080, Target::Number(HTTP)),
                Port::new("calls", CALLS, Target::Number(CALLS)),
            ];
            let spec = spec(node, name).namespace(NAMESPACE).ports(ports);
            let of = name.split_once('-').map_or("none", |(of, _)| of);
            let pod = world.add(&spec.label("of", of)).expect("a pod");
            let mut http = world.in_pod(&pod, PYTHON);
            http.args(["-c", SERVER, "serve", name, &HTTP.to_string()]);
            world.start_server(&pod, HTTP, http).expect("a server");
            let mut calls = world.in_pod(&pod, peer());
            calls.args(["serve-http", name, &CALLS.to_string()]);
            world.start_server(&pod, CALLS, calls).expect("a server");
            pod
        });
        let echo = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: echo, namespace: {NAMESPACE}}}\nspec:\n  \
             clusterIP: {VIP}\n  clusterIPs: [{VIP}]\n  selector: {{of: echo}}\n  ports:\n  \
             - {{name: first, port: 80, targetPort: {HTTP}}}\n  \
             - {{name: second, port: 8080, targetPort: {HTTP}}}\n  \
             - {{name: calls, port: {CALLS}, targetPort: {CALLS}}}\n"
        );
        world.write_config("echo", &echo).expect("a file");
        let agents = Agents::start(&world, &[]).expect("agents");
        Self {
            world,
            client,
            visitor,
            servers,
            agents,
        }
    }

    fn in_force(&self, yaml: &str) {
        let read = self.agents.read_file(&self.world, "case", yaml);
        read.expect("in force");
    }

    fn address(&self, service: &str) -> String {
        let server = self.servers.iter().find(|pod| pod.name == service);
        server.map_or_else(|| VIP.to_owned(), |pod| pod.vip_addresses()[0].clone())
    }

    /// What curl gets.
    fn ask(&self, asks: &Asks) -> Answer {
        let from = [&self.client, &self.visitor][usize::from(asks.visits)];
        let mut curl = self.world.in_pod(from, "curl");
        curl.args(["-sSi", "--path-as-is", "--max-time", "20"]);
        if asks.port == CALLS {
            curl.arg("--http2-prior-knowledge");
        }
        curl.args(["-X", asks.method]);
        for line in asks.lines() {
            curl.args(["-H", &line]);
        }
        let to = self.address(asks.service);
        curl.arg(format!("http://{to}:{}{}", asks.port, asks.path));
        let told = curl.output().expect("curl runs");
        Answer::read(&String::from_utf8_lossy(&told.stdout))
    }

    /// What is wrong with the case; all of it.
    fn wrong(&self, case: &Case) -> Vec<String> {
        self.in_force(&case.yaml);
        let mut wrong = vec![];
        for Row { asks, wanted } in &case.rows {
            let answer = self.ask(asks);
            let got = answer.shown(asks);
            if !asks::agree(wanted, &got) {
                wrong.push(format!("{}: {asks}: {got:?}, not {wanted:?}", case.name));
            }
            for (by, explained) in self.explained(asks) {
                let problem = explained::differs(asks, &answer, &explained);
                let problem = problem.map(|problem| {
                    let name = case.name;
                    format!("{name}: {asks}: explain {by}: {problem}: {explained:#}")
                });
                wrong.extend(problem);
            }
        }
        wrong
    }

    /// By the agent of the client's node, and by the directory.
    fn explained(&self, asks: &Asks) -> [(&'static str, Value); 2] {
        let run_dir = self.agents[0].run_dir().to_owned();
        [
            ("live", "--run-dir", run_dir),
            ("offline", "--config-dir", self.world.config_dir()),
        ]
        .map(|(by, flag, dir)| {
            let mut explain = mesh_tests::program();
            let from = [("client", NAMESPACE), ("visitor", CONSUMER)][usize::from(asks.visits)];
            explain.args(["explain", &format!("{}/{}", from.1, from.0)]);
            explain.arg(format!("service/{NAMESPACE}/{}", asks.service));
            explain.args([&asks.port.to_string(), asks.method, &asks.path, "--json"]);
            for line in asks.lines() {
                explain.args(["--header", &line]);
            }
            let out = explain.arg(flag).arg(dir).output().expect("it runs");
            let answer = parse(&out).unwrap_or_else(|e| panic!("{asks}: {by}: {e:#}"));
            (by, answer)
        })
    }
}

/// A route of the Service `echo`, in its namespace.
fn route(kind: &str, rules: &str) -> String {
    route_of(kind, NAMESPACE, "", rules)
}

/// `$V1`, `$V2` and `$ECHO` in its rules are backends. `parent`: more of its reference.
fn route_of(kind: &str, namespace: &str, parent: &str, rules: &str) -> String {
    let (port, parent) = match kind {
        "GRPCRoute" => (CALLS, format!(", port: {CALLS}")),
        _ => (80, parent.to_owned()),
    };
    let backend =
        |name: &str| format!("{{name: {name}, namespace: {NAMESPACE}, port: {port}, weight: 1}}");
    let rules = rules
        .replace("$V1", &backend("echo-v1"))
        .replace("$V2", &backend("echo-v2"))
        .replace("$ECHO", &backend("echo"));
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\n\
         metadata: {{name: case, namespace: {namespace}}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: echo, namespace: {NAMESPACE}{parent}}}]\n  \
         rules:\n{rules}\n"
    )
}

#[test]
fn the_cases_of_the_mesh_profiles_pass_over_pods_and_explain_says_the_same() {
    let mesh = Mesh::new();
    let parts = [
        matching::cases(),
        filters::cases(),
        redirects::cases(),
        places::cases(),
        policies::cases(),
    ];
    let cases: Vec<Case> = parts.into_iter().flatten().collect();
    // Those by chance have a test of their own.
    let by_chance = ["MeshGRPCRouteWeight", "MeshHTTPRouteWeight"];
    let names = cases.iter().map(|case| case.name);
    let official = names.filter(|name| !name.contains(' ')).chain(by_chance);
    let official: BTreeSet<&str> = official.collect();
    let claimed = CLAIMED.lines().filter(|line| !line.starts_with('#'));
    // Not in the release that the cluster is asked by.
    let all: BTreeSet<&str> = claimed
        .chain(["MeshGRPCRouteRequestHeaderModifier"])
        .collect();
    assert_eq!(official, all);
    assert_eq!(all.len(), 23);
    let wrong: Vec<String> = cases.iter().flat_map(|case| mesh.wrong(case)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// MeshHTTPRouteWeight and MeshGRPCRouteWeight.
#[test]
fn backends_get_their_shares_of_requests_and_of_calls_and_explain_says_which() {
    const COUNT: u32 = 4_500;
    let mesh = Mesh::new();
    for (kind, port) in [("HTTPRoute", 80), ("GRPCRoute", CALLS)] {
        let shares = [("echo-v1", 70), ("echo-v2", 30), ("idle", 0)];
        let refs = shares
            .map(|(name, weight)| format!("{{name: {name}, port: {port}, weight: {weight}}}"));
        let rules = format!("  - {{backendRefs: [{}]}}", refs.join(", "));
        mesh.in_force(&route(kind, &rules));
        let to = format!("{VIP}:{port}");
        let count = COUNT.to_string();
        let mut client = match port {
            CALLS => {
                let mut client = mesh.world.in_pod(&mesh.client, peer());
                client.args(["names", &to, &count, "grpc"]);
                client
            }
            _ => {
                let mut client = mesh.world.in_pod(&mesh.client, PYTHON);
                client.args(["-c", SERVER, "counted", &to, &count, "4"]);
                client
            }
        };
        let names = parse(&client.output().expect("it runs")).expect("counts");
        let of = |name: &str| names[name].as_u64().unwrap_or_default();
        assert_eq!(of("echo-v1") + of("echo-v2"), u64::from(COUNT), "{names}");
        // Six times the standard deviation.
        assert!((1165..=1535).contains(&of("echo-v2")), "{kind}: {names}");
        let asks = match port {
            CALLS => asks::call("x"),
            _ => asks::get("/"),
        };
        for (by, explained) in mesh.explained(&asks) {
            let shown: Vec<_> = explained::shares(&explained);
            let wanted = [("echo-v1", 70), ("echo-v2", 30)]
                .map(|(name, weight)| (format!("{NAMESPACE}/{name}:{port}"), weight, 100));
            assert_eq!(shown, wanted, "{by}: {explained:#}");
        }
    }
}
