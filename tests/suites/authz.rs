//! Who may connect to whom, and what is taken in plaintext, at real pods.

#[path = "authz/broken.rs"]
mod broken;
#[path = "authz/sni.rs"]
mod sni;

use std::time::{Duration, Instant};

use mesh_tests::{APP_PORT, Agents, Peer, Pod, World, eventually, mesh_mode};

/// Clients a (n1) and d (n2), servers b (n1) and c (n2), all enrolled; plain
/// (n1) is not. Certificates from an authority.
struct Mesh {
    world: World,
    a: Pod,
    b: Pod,
    c: Pod,
    plain: Pod,
    agents: Agents,
}

impl Mesh {
    fn new(args: &[&str]) -> Self {
        let (mut world, [a, b, c]) = World::of_three().expect("a world");
        let plain = world.add_pod("n1", "plain", None).expect("a pod");
        for pod in [&b, &c] {
            world.serve(pod).expect("a server");
        }
        let agents = Agents::start(&world, args).expect("agents");
        Self {
            world,
            a,
            b,
            c,
            plain,
            agents,
        }
    }

    /// Of ten connections, how many come through.
    fn through(&self, from: &Pod, to: &Pod) -> u64 {
        let args = ["--count", "10", "--inflight", "2"];
        let targets = &to.targets()[2..3];
        let report = self.world.storm(from, targets, &args).expect("a report");
        assert_eq!(report["wrong"], 0, "{report}");
        report["ok"].as_u64().expect("a count")
    }

    /// Writes a policy and waits until it is in force at both nodes.
    fn policy(&self, name: &str, yaml: &str) {
        let read = self.agents.read_file(&self.world, name, yaml);
        read.expect("in force");
    }

    /// What the client's node tells of the ten calls of a that shop/no-a denied.
    fn refused_at_the_source(&self, server: &Pod) {
        let of = |family: &str, flags: &str| {
            let named = format!("destination_workload=\"{}\"", server.name);
            let labels = ["reporter=\"source\"", &named, flags];
            let [near, _] = &*self.agents;
            near.counter(family, &labels).expect("a page")
        };
        // Of each its client knows first.
        for (what, family, flags) in [
            (
                "only those before the policy",
                "istio_tcp_connections_opened_total",
                "",
            ),
            (
                "denied",
                "istio_tcp_connections_failed_total",
                "response_flags=\"DENY\"",
            ),
        ] {
            let told = eventually(Duration::from_secs(20), || of(family, flags) >= 10);
            assert!(
                told && of(family, flags) == 10,
                "{what}: {}",
                of(family, flags)
            );
        }
        let lines = || -> Vec<serde_json::Value> {
            let log = self.log("n1");
            let lines = log.lines().filter_map(|l| serde_json::from_str(l).ok());
            let to = server.v4().to_string();
            lines
                .filter(|l: &serde_json::Value| {
                    l["verdict"] == "denied"
                        && l["destination"]
                            .as_str()
                            .is_some_and(|d| d.starts_with(&to))
                        && l["direction"] != "inbound"
                })
                .collect()
        };
        let told = eventually(Duration::from_secs(10), || lines().len() == 10);
        assert!(told, "{:?}", lines());
        for line in lines() {
            assert_eq!(line["event"], "close", "{line}");
            assert_eq!(line["source_workload"], "shop/a", "{line}");
            let rule = if line["direction"] == "same_node" {
                &line["rule"]
            } else {
                assert_eq!(line["reason"], "refused_by_peer", "{line}");
                assert!(line["peer_certificate"]["serial"].is_string(), "{line}");
                &line["denied_by"]
            };
            assert_eq!(rule["policy"], "shop/no-a", "{line}");
            assert_eq!(rule["index"], 0, "{line}");
        }
    }

    fn log(&self, node: &str) -> String {
        std::fs::read_to_string(self.world.access_log(node)).unwrap_or_default()
    }

    /// A live connection: the client's end and the server's.
    fn live(&self, from: &Pod, to: &Pod, port: u16) -> (Peer, Peer) {
        let mut far = self.world.peer(to).expect("a peer");
        let listening = far.ask(&format!("listen {port}")).expect("an answer");
        assert_eq!(listening, "listening");
        let mut near = self.world.peer(from).expect("a peer");
        let connect = format!("connect {}:{port}", to.v4());
        assert_eq!(near.ask(&connect).expect("an answer"), "connected");
        assert_eq!(far.ask("accept").expect("an answer"), "accepted");
        near.tell("send 1000").expect("told");
        let read = far.ask("read 1000").expect("an answer");
        assert!(read.starts_with("read "), "{read}");
        near.hear().expect("an answer");
        (near, far)
    }
}

fn deny(name: &str, from: &str, to: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: {to}}}}}
  action: DENY
  rules: [{{from: [{{source: {{principals: [cluster.local/ns/shop/sa/{from}]}}}}]}}]
"
    )
}

#[test]
fn a_denied_caller_is_reset_and_the_rule_is_named_and_others_pass() {
    let mesh = Mesh::new(&[]);
    for (server, agent, node) in [
        (&mesh.c, &mesh.agents[1], "n2"),
        (&mesh.b, &mesh.agents[0], "n1"),
    ] {
        assert_eq!(mesh.through(&mesh.a, server), 10);
        mesh.policy("deny", &deny("no-a", "a", &server.name));
        assert_eq!(mesh.through(&mesh.a, server), 0, "{}", server.name);
        let _counted = agent.comes_to("mesh_agent_authz_denied_total", "shop/no-a", 10.0);
        let named = eventually(Duration::from_secs(10), || {
            let log = mesh.log(node);
            log.lines()
                .any(|l| l.contains("\"denied\"") && l.contains("shop/no-a"))
        });
        assert!(named, "{}", mesh.log(node));
        mesh.refused_at_the_source(server);
        mesh.policy("deny", &deny("no-a", "somebody", &server.name));
        assert_eq!(mesh.through(&mesh.a, server), 10);
    }
}

#[test]
fn only_whom_an_allow_policy_names_gets_in_and_dry_run_does_not_count() {
    let mesh = Mesh::new(&[]);
    let allow = |who: &str, note: &str| {
        format!(
            "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: only, namespace: shop{note}}}
spec:
  action: ALLOW
  rules:
  - from: [{{source: {{serviceAccounts: [shop/{who}]}}}}]
    to: [{{operation: {{ports: [\"{APP_PORT}\"]}}}}]
"
        )
    };
    mesh.policy("only", &allow("a", ""));
    assert_eq!(mesh.through(&mesh.a, &mesh.c), 10);
    assert_eq!(mesh.through(&mesh.a, &mesh.b), 10);
    assert_eq!(mesh.through(&mesh.plain, &mesh.c), 0, "no identity");
    mesh.policy("only", &allow("other", ""));
    assert_eq!(mesh.through(&mesh.a, &mesh.c), 0);
    assert_eq!(mesh.through(&mesh.a, &mesh.b), 0);
    let dry = ", annotations: {istio.io/dry-run: \"true\"}";
    mesh.policy("only", &allow("other", dry));
    assert_eq!(mesh.through(&mesh.a, &mesh.c), 10);
}

#[test]
fn strict_refuses_plaintext_and_takes_mutual_tls_and_permissive_takes_both() {
    let mesh = Mesh::new(&["--handshake-timeout", "1s"]);
    assert_eq!(mesh.through(&mesh.plain, &mesh.c), 10, "permissive");
    mesh.policy("mode", &mesh_mode("STRICT"));
    assert_eq!(mesh.through(&mesh.plain, &mesh.c), 0);
    assert_eq!(mesh.through(&mesh.plain, &mesh.b), 0);
    assert_eq!(mesh.through(&mesh.a, &mesh.c), 10);
    assert_eq!(mesh.through(&mesh.a, &mesh.b), 10);
    let ended = "mesh_agent_connections_ended_total";
    let _refused = mesh.agents[1].comes_to(ended, "plaintext_refused", 10.0);
    // A client that says nothing is let go by the deadline.
    let mut silent = mesh.world.peer(&mesh.plain).expect("a peer");
    let connect = format!("connect {}:{APP_PORT}", mesh.c.v4());
    assert_eq!(silent.ask(&connect).expect("an answer"), "connected");
    let end = silent.ask("drain").expect("an answer");
    assert!(end.contains("reset"), "{end}");
}

#[test]
fn a_server_that_speaks_first_is_heard_at_once_in_plaintext() {
    let mesh = Mesh::new(&[]);
    let mut server = mesh.world.peer(&mesh.c).expect("a peer");
    assert_eq!(server.ask("listen 7001").expect("an answer"), "listening");
    let mut client = mesh.world.peer(&mesh.plain).expect("a peer");
    let started = Instant::now();
    let connect = format!("connect {}:7001", mesh.c.v4());
    assert_eq!(client.ask(&connect).expect("an answer"), "connected");
    assert_eq!(server.ask("accept").expect("an answer"), "accepted");
    server.tell("send 100").expect("told");
    let greeting = client.ask("read 100").expect("an answer");
    assert!(greeting.starts_with("read "), "{greeting}");
    let took = started.elapsed();
    assert!(took < Duration::from_secs(2), "no deadline in it: {took:?}");
}

#[test]
fn a_policy_that_changes_ends_the_live_connections_it_now_denies() {
    let mesh = Mesh::new(&[]);
    let servers = [&mesh.c, &mesh.b];
    let live = servers.map(|server| mesh.live(&mesh.a, server, 7000));
    let mut unharmed = mesh.live(&mesh.plain, &mesh.c, 7001);
    mesh.policy("deny-c", &deny("no-a-c", "a", "c"));
    mesh.policy("deny-b", &deny("no-a-b", "a", "b"));
    for (mut near, mut far) in live {
        for end in [&mut near, &mut far] {
            let said = end.ask("drain").expect("an answer");
            assert!(said.contains("reset"), "{said}");
        }
    }
    unharmed.0.tell("send 10").expect("told");
    let read = unharmed.1.ask("read 10").expect("an answer");
    assert!(read.starts_with("read "), "{read}");
    // And plaintext that is live when it is no longer taken.
    mesh.policy("mode", &mesh_mode("STRICT"));
    let said = unharmed.1.ask("drain").expect("an answer");
    assert!(said.contains("reset"), "{said}");
}

#[test]
fn a_policy_that_is_not_understood_denies_what_it_selects() {
    let mesh = Mesh::new(&[]);
    let broken = deny("typo", "nobody", "c").replace("principals", "principal");
    mesh.policy("broken", &broken);
    assert_eq!(mesh.through(&mesh.a, &mesh.c), 0);
    assert_eq!(mesh.through(&mesh.a, &mesh.b), 10, "it selects c only");
    let status = mesh.agents[1].status().expect("a status").to_string();
    assert!(status.contains("principal"), "{status}");
}

#[test]
fn a_peer_with_another_identity_than_its_address_should_have_is_refused() {
    let mut world = World::new(2).expect("a world");
    let a = world.add_pod("n1", "a", Some("closed")).expect("a pod");
    let c = world.add_pod("n2", "c", Some("closed")).expect("a pod");
    world.serve(&c).expect("a server");
    let authority = world.authority(&[]).expect("an authority");
    // What the other node knows: the pod there runs as somebody else.
    let theirs = world.dir().join("theirs");
    std::fs::create_dir(&theirs).expect("a directory");
    for entry in std::fs::read_dir(world.config_dir()).expect("files") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a file");
        let text = text.replace("serviceAccountName: c", "serviceAccountName: other");
        std::fs::write(theirs.join(path.file_name().expect("a name")), text).expect("written");
    }
    let near = world.secure_agent("n1", &authority, &[]).expect("an agent");
    let theirs = theirs.display().to_string();
    let _far = world
        .secure_agent("n2", &authority, &["--config-dir", &theirs])
        .expect("an agent");
    let args = ["--count", "10", "--inflight", "2"];
    let report = world.storm(&a, &c.targets()[2..3], &args);
    assert_eq!(report.expect("a report")["ok"], 0);
    let ended = "mesh_agent_connections_ended_total";
    let _refused = near.comes_to(ended, "tls_unexpected_identity", 10.0);
}

/// Markers of pods are on no packet between the nodes, and would be seen if they were.
#[test]
fn nothing_that_pods_say_is_readable_between_the_nodes() {
    let mesh = Mesh::new(&[]);
    let seen = |mesh: &Mesh| {
        let wire = mesh.world.wire("n1");
        let capture = mesh
            .world
            .capture_packets("n1", wire, "tcp")
            .expect("a capture");
        let markers: Vec<String> = (0..50)
            .map(|i| format!("marker-{i}-{:016x}", rand::random::<u64>()))
            .collect();
        // The server answers each with its hash.
        let script = format!(
            "import socket,sys
for m in sys.argv[1:]:
    s=socket.create_connection(('{}',{APP_PORT}),10)
    s.sendall(m.encode()); s.shutdown(socket.SHUT_WR)
    assert s.recv(1000); s.close()",
            mesh.c.v4()
        );
        let said = mesh
            .world
            .in_pod(&mesh.a, "python3")
            .args(["-c", &script])
            .args(&markers)
            .status();
        assert!(said.expect("python3").success());
        let captured = capture.stop().expect("a capture");
        assert!(captured.packets > 100, "{} packets", captured.packets);
        let found = |m: &&String| captured.contains(m.as_bytes());
        markers.iter().filter(found).count()
    };
    assert_eq!(seen(&mesh), 0);
    mesh.policy("mode", &mesh_mode("DISABLE"));
    assert_eq!(seen(&mesh), 50, "the capture sees what is readable");
}

#[test]
fn with_tls_on_one_node_too_the_policy_holds_in_every_mode() {
    let mesh = Mesh::new(&["--same-node-tls"]);
    assert_eq!(mesh.through(&mesh.a, &mesh.b), 10);
    let opened = "istio_tcp_connections_opened_total";
    let _secured = mesh.agents[0].comes_to(opened, "\"mutual_tls\"", 10.0);
    mesh.policy("deny", &deny("no-a", "a", "b"));
    assert_eq!(mesh.through(&mesh.a, &mesh.b), 0);
    mesh.policy("mode", &mesh_mode("DISABLE"));
    assert_eq!(mesh.through(&mesh.a, &mesh.b), 0, "nor in plaintext");
}

#[test]
fn what_explain_says_is_what_connections_meet() {
    let mesh = Mesh::new(&[]);
    let pairs = [
        (&mesh.a, &mesh.b),
        (&mesh.a, &mesh.c),
        (&mesh.plain, &mesh.b),
        (&mesh.plain, &mesh.c),
    ];
    let agree = |situation: &str| -> Vec<&'static str> {
        let verdict = |(from, to): (&Pod, &Pod)| {
            let (asker, asked) = (
                format!("shop/{}", from.name),
                format!("pod/shop/{}", to.name),
            );
            let explained = mesh.agents[0].explain(&asker, &asked, APP_PORT);
            let (code, answer) = explained.expect("an answer");
            let (verdict, passed) = match code {
                0 => ("allowed", 10),
                1 => ("refused", 0),
                other => panic!("{other}: {answer}"),
            };
            assert_eq!(answer["verdict"], verdict, "{situation}: {answer}");
            assert_eq!(mesh.through(from, to), passed, "{situation}: {answer}");
            verdict
        };
        pairs.map(verdict).to_vec()
    };
    assert_eq!(agree("no policy"), ["allowed"; 4]);
    mesh.policy("deny", &deny("no-a", "a", "c"));
    let denied = ["allowed", "refused", "allowed", "allowed"];
    assert_eq!(agree("a denied to c"), denied);
    mesh.policy("deny", &deny("no-a", "a", "c").replace("DENY", "ALLOW"));
    let only_a = ["allowed", "allowed", "allowed", "refused"];
    assert_eq!(agree("only a allowed to c"), only_a);
    mesh.policy("mode", &mesh_mode("STRICT"));
    let strict = ["allowed", "allowed", "refused", "refused"];
    assert_eq!(agree("no plaintext"), strict);
    mesh.policy("mode", &mesh_mode("DISABLE"));
    let disabled = ["allowed", "refused", "allowed", "refused"];
    assert_eq!(agree("nothing but plaintext between nodes"), disabled);
}

#[test]
fn explain_names_the_service_the_endpoint_and_the_rule_and_says_what_it_cannot_answer() {
    let mesh = Mesh::new(&[]);
    mesh.policy("deny", &deny("no-a", "a", "c"));
    let (code, answer) = mesh.agents[0]
        .explain("spiffe://cluster.local/ns/shop/sa/a", "service/shop/c", 80)
        .expect("an answer");
    assert_eq!(code, 1, "{answer}");
    let way = &answer["ways"][0];
    assert_eq!(way["destination"], format!("{}:{APP_PORT}", mesh.c.v4()));
    assert_eq!(way["rule"]["policy"], "shop/no-a", "{answer}");
    assert_eq!(way["rule"]["rule"], 0, "{answer}");
    assert_eq!(way["transport"], "mutual_tls", "{answer}");
    let (code, error) = mesh.agents[0]
        .explain("shop/nobody", "shop/c", 80)
        .expect("an answer");
    assert_eq!(code, 3, "{error}");
    let error = error.as_str().expect("an error");
    assert!(error.contains("no pod shop/nobody"), "{error}");
    let (code, error) = mesh.agents[0]
        .explain("shop/a", "shop/c", 80)
        .expect("an answer");
    assert_eq!(code, 3, "{error}");
    assert!(
        error.as_str().is_some_and(|e| e.contains("service/shop/c")),
        "{error}"
    );
}

/// As `kubectl get -o yaml` prints a namespace that is in the mesh.
const SHOP: &str = include_str!("../../mesh-agent/src/discovery/tests/kubernetes/shop.yaml");
/// The VIP of its LoadBalancer Service.
const SHOP_WEB: &str = "10.96.111.87:80";

#[test]
fn beside_the_objects_of_a_real_cluster_an_agent_has_no_mistake_and_sends_no_plaintext_to_them() {
    let mesh = Mesh::new(&["--connect-timeout", "300ms"]);
    let ask = |to: &str, port| {
        mesh.agents[0]
            .explain("shop/a", to, port)
            .expect("an answer")
    };
    mesh.policy("cluster", SHOP);
    for (service, port) in [("web", 80), ("web", 9090)] {
        let (code, answer) = ask(&format!("service/shop/{service}"), port);
        assert_eq!(code, 0, "{answer}");
        let ways = answer["ways"].as_array().expect("ways");
        assert!(!ways.is_empty(), "{answer}");
        assert!(
            ways.iter().all(|w| w["transport"] == "mutual_tls"),
            "{answer}"
        );
    }
    // Its endpoints are on another node, and it is for callers of theirs alone.
    let (code, answer) = ask("service/shop/web-node", 80);
    assert_eq!(code, 1, "{answer}");
    let ways = answer["ways"].as_array().expect("ways");
    let refused = |way: &serde_json::Value| way["refused"] == "no_local_endpoint";
    assert!(!ways.is_empty() && ways.iter().all(refused), "{answer}");
    let status = mesh.agents[0].status().expect("status");
    let problems = status["problems"].as_array().expect("problems");
    let of_the_files = problems
        .iter()
        .filter(|p| p.to_string().contains("cluster"));
    assert_eq!(of_the_files.count(), 0, "{problems:?}");
    let target = [format!("{SHOP_WEB}={SHOP_WEB}")];
    let report = mesh.world.storm(&mesh.a, &target, &["--count", "4"]);
    assert_eq!(report.expect("a report")["ok"], 0, "its pods are not here");
    let plain = mesh.agents[0].metric("istio_tcp_connections_opened_total", "\"none\"");
    assert!(
        plain.expect("a metric") < 0.5,
        "nothing was opened in plaintext"
    );
    // Not understood any more: the last good ports hold, and it is told.
    let broken = SHOP.replace("port: 80\n", "port: eighty\n");
    mesh.world.write_config("cluster", &broken).expect("a file");
    let told = || {
        let status = mesh.agents[0].status().expect("status");
        status["problems"].to_string().contains("is not a port")
    };
    assert!(eventually(Duration::from_secs(20), told));
    let (code, answer) = ask("service/shop/web", 80);
    assert_eq!(code, 0, "{answer}");
    assert_eq!(answer["ways"][0]["transport"], "mutual_tls", "{answer}");
}
