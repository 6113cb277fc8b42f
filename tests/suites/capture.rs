//! What enrolled pods' connections meet.

use std::time::Duration;

use mesh_tests::{
    APP_PORT, Agent, OnAgentDown, Pod, PodSpec, Port, Target, World, all_fine, eventually, failed,
    parse,
};

/// Client a and server b on n1, server c on n2, all enrolled and fail-closed.
fn world() -> (World, [Pod; 3]) {
    let (mut world, pods) = World::of_three().expect("a world");
    for pod in &pods[1..] {
        world.serve(pod).expect("a server");
    }
    (world, pods)
}

/// Client a, and on each of two nodes a service of several ports, one of them
/// by name, and a headless one.
fn world_of_services() -> (World, Pod, [Vec<Pod>; 2]) {
    let mut world = World::new(2).expect("a world");
    let spec = |node, name| PodSpec::new(node, name).enrolled(OnAgentDown::Closed);
    let client = world.add(&spec("n1", "a")).expect("a pod");
    let servers = [("n1", "b", "hb"), ("n2", "c", "hc")].map(|(node, name, headless)| {
        let ports = [
            Port::new("first", 80, Target::Number(8080)),
            Port::new("same", 8081, Target::Number(8081)),
            Port::new("named", 443, Target::Named("web", 8443)),
        ];
        let several = spec(node, name).ports(ports);
        let headless = spec(node, headless).headless();
        [several, headless].map(|spec| {
            let pod = world.add(&spec).expect("a pod");
            world.serve(&pod).expect("a server");
            pod
        })
    });
    (world, client, servers.map(Vec::from))
}

/// Reads the kernel's map of live tuples, among others.
const CLIENT: &str = include_str!("bypass.py");
/// Where the world's authority listens.
const AUTHORITY: u64 = 15012;

/// Live tuples of the node's agent, without its own connection to the authority.
fn pods_tuples(world: &World, node: &str) -> Vec<serde_json::Value> {
    let version = std::fs::read_dir(world.pins(node)).expect("pins").next();
    let pin = version.expect("a version").expect("an entry").path();
    let out = world
        .on_node(node, "python3")
        .args(["-c", CLIENT, "tuples"])
        .arg(pin.join("maps/TUPLES"))
        .output();
    let seen = parse(&out.expect("a reader")).expect("its report");
    let mut tuples = seen["tuples"].as_array().expect("tuples").clone();
    tuples.retain(|tuple| tuple[1] != AUTHORITY);
    tuples
}

/// What an agent holds while no pod has a connection.
#[derive(Debug)]
struct Held {
    fds: usize,
    threads: usize,
}

impl Held {
    fn by(agent: &Agent) -> Self {
        Self {
            fds: agent.open_fds(),
            threads: agent.threads(),
        }
    }

    fn is_all_again(&self, world: &World, node: &str, agent: &Agent) {
        // Idle connections to other agents are kept for a while.
        let freed = eventually(Duration::from_secs(30), || {
            agent.open_fds() <= self.fds + 2 && pods_tuples(world, node).is_empty()
        });
        assert!(
            freed,
            "{self:?} before, now {} descriptors and {:?}",
            agent.open_fds(),
            pods_tuples(world, node)
        );
        assert!(agent.threads() <= self.threads + 1, "threads stay behind");
        let carried = eventually(Duration::from_secs(5), || {
            agent.status().is_ok_and(|s| s["active_connections"] == 0)
        });
        assert!(carried, "connections stay behind");
    }
}

/// Its client sees how each ends, and a moment later the agent counts it: so many, and no more.
#[track_caller]
fn comes_to(agent: &Agent, metric: &str, with: &str, wanted: f64) {
    let now = agent.comes_to(metric, with, wanted);
    assert!(
        (now - wanted).abs() < 0.5,
        "{metric} {with}: {now} of {wanted}"
    );
}

fn count(agent: &Agent, metric: &str, with: &str) -> f64 {
    agent.metric(metric, with).expect("a metric")
}

const OPENED: &str = "istio_tcp_connections_opened_total";
const ENDED: &str = "mesh_agent_connections_ended_total";

/// How many connections were made to this pod.
fn tried(report: &serde_json::Value, to: &Pod) -> f64 {
    let count = |target: &String| report["tried"][target].as_f64().expect("a count");
    to.targets().iter().map(count).sum()
}

/// Everything of the storm arrived, went through the agents, and left nothing.
fn storm_is_exact(connections: u64, is_secure: bool) {
    let (world, a, servers) = world_of_services();
    let authority = is_secure.then(|| world.authority(&[]).expect("an authority"));
    let [near, far] = ["n1", "n2"].map(|node| match &authority {
        Some(authority) => world.secure_agent(node, authority, &[]).expect("an agent"),
        None => world.agent(node, &[]).expect("an agent"),
    });
    let targets: Vec<String> = servers.iter().flatten().flat_map(Pod::targets).collect();
    // Until there are certificates, and each thread has had its first work.
    let up = eventually(Duration::from_secs(20), || {
        let report = world.storm(&a, &targets, &["--count", "64", "--inflight", "8"]);
        report.is_ok_and(|report| report["ok"] == 64)
    });
    assert!(up, "nothing passes");
    let held = [Held::by(&near), Held::by(&far)];
    let before = [
        count(&near, OPENED, "source_workload=\"a\""),
        count(&far, ENDED, "inbound"),
    ];
    let args = ["--count", &connections.to_string(), "--inflight", "64"];
    let report = world.storm(&a, &targets, &args).expect("a report");
    all_fine(&report, connections);
    // All went through the agent, and those to the other node came in there.
    let carried = before[0] + connections as f64;
    comes_to(&near, OPENED, "source_workload=\"a\"", carried);
    let to_far: f64 = servers[1].iter().map(|pod| tried(&report, pod)).sum();
    comes_to(&far, ENDED, "inbound", before[1] + to_far);
    if is_secure {
        let secured = count(&far, OPENED, "connection_security_policy=\"mutual_tls\"");
        assert!(secured >= to_far, "{secured} of {to_far} in mutual TLS");
    }
    for ((node, agent), held) in [("n1", &near), ("n2", &far)].into_iter().zip(held) {
        held.is_all_again(&world, node, agent);
    }
}

#[test]
fn a_hundred_thousand_connections_reach_the_right_server_with_true_addresses_and_leave_nothing() {
    storm_is_exact(100_000, false);
}

#[test]
fn twenty_thousand_more_do_with_mutual_tls_between_the_nodes() {
    storm_is_exact(20_000, true);
}

#[test]
fn under_forced_syn_cookies_no_connection_passes_the_agent() {
    let (world, [a, b, c]) = world();
    let (near, far) = (
        world.agent("n1", &[]).expect("agent n1"),
        world.agent("n2", &[]).expect("agent n2"),
    );
    for pod in [&a, &b, &c] {
        let set = world
            .in_pod(pod, "sh")
            .args(["-c", "echo 2 > /proc/sys/net/ipv4/tcp_syncookies"])
            .status();
        assert!(set.expect("sysctl").success());
    }
    let targets = [b.targets(), c.targets()].concat();
    let args = ["--count", "100000", "--inflight", "64"];
    let report = world.storm(&a, &targets, &args).expect("a report");
    all_fine(&report, 100_000);
    comes_to(&near, ENDED, "", 100_000.0);
    comes_to(&far, ENDED, "", tried(&report, &c));
}

#[test]
fn a_large_stream_arrives_unchanged_across_nodes_and_on_one() {
    let (world, [a, b, c]) = world();
    let _agents = ["n1", "n2"].map(|n| world.agent(n, &[]).expect("an agent"));
    for server in [&b, &c] {
        let args = ["--count", "2", "--inflight", "1", "--bytes", "268435456"];
        let report = world.storm(&a, &server.targets()[..1], &args);
        all_fine(&report.expect("a report"), 2);
    }
}

#[test]
fn pods_that_are_not_enrolled_connect_as_ever_and_reach_enrolled_ones_with_their_address() {
    let mut world = World::new(1).expect("a world");
    let plain = world.add_pod("n1", "plain", None).expect("a pod");
    let other = world.add_pod("n1", "other", None).expect("a pod");
    let b = world.add_pod("n1", "b", Some("closed")).expect("a pod");
    world.serve(&other).expect("a server");
    world.serve(&b).expect("a server");
    let agent = world.agent("n1", &[]).expect("an agent");
    let direct = &other.targets()[2..];
    all_fine(
        &world
            .storm(&plain, direct, &["--count", "200"])
            .expect("a report"),
        200,
    );
    assert!(count(&agent, ENDED, "") < 0.5, "not enrolled, not carried");
    let served = &b.targets()[2..];
    all_fine(
        &world
            .storm(&plain, served, &["--count", "2000"])
            .expect("a report"),
        2000,
    );
    comes_to(&agent, ENDED, "", 2000.0);
}

#[test]
fn a_firewall_on_the_node_sees_and_blocks_the_true_addresses_and_ports() {
    let (world, [a, b, c]) = world();
    let _agents = ["n1", "n2"].map(|n| {
        world
            .agent(n, &["--connect-timeout", "300ms"])
            .expect("an agent")
    });
    for server in [&b, &c] {
        let rules = format!(
            "add table bridge t; add chain bridge t f {{ type filter hook forward priority 0; }}; \
             add rule bridge t f ip saddr {} ip daddr {} tcp dport 8080 counter drop",
            a.v4(),
            server.v4()
        );
        let nft = |rules: &str| world.on_node("n1", "nft").arg(rules).output().expect("nft");
        let out = nft(&rules);
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        let report = world.storm(
            &a,
            &server.targets()[..1],
            &["--count", "2", "--inflight", "2"],
        );
        let report = report.expect("a report");
        assert_eq!(report["ok"], 0, "{report}");
        let listed = String::from_utf8(nft("list table bridge t").stdout).expect("text");
        assert!(
            !listed.contains("packets 0 "),
            "the rule saw the packets: {listed}"
        );
        assert!(nft("delete table bridge t").status.success());
        let report = world.storm(&a, &server.targets()[..1], &["--count", "50"]);
        all_fine(&report.expect("a report"), 50);
    }
}

#[test]
fn delivery_ports_are_settable_and_an_overlap_with_a_pods_own_is_shown() {
    let (world, [a, _, c]) = world();
    world
        .set_sysctl(&a, "net.ipv4.ip_local_port_range", "20000 29999")
        .expect("a setting");
    let overlap = |flags: &[&str]| {
        let agents = ["n1", "n2"].map(|n| world.agent(n, flags).expect("an agent"));
        let report = world.storm(&a, &c.targets(), &["--count", "500"]);
        all_fine(&report.expect("a report"), 500);
        let status = agents[0].status().expect("status");
        for agent in agents {
            assert!(agent.stop().expect("an end").success());
        }
        let problems = status["problems"].as_array().expect("problems").clone();
        problems.iter().any(|p| {
            let p = p["what"].as_str().unwrap_or_default();
            p.contains("shop/a") && p.contains("20000-29999")
        })
    };
    assert!(overlap(&[]), "it meets the default");
    assert!(!overlap(&["--delivery-ports", "30000-32000"]));
}

#[test]
fn a_pod_whose_ports_overlap_the_delivery_ports_loses_no_connection() {
    let (world, [a, _, c]) = world();
    // Half of these are deliveries'; the agent's dials have the other half.
    world
        .set_sysctl(&a, "net.ipv4.ip_local_port_range", "9000 10999")
        .expect("a setting");
    let flags = ["--delivery-ports", "10000-10999", "--connect-timeout", "3s"];
    let agents = ["n1", "n2"].map(|n| world.agent(n, &flags).expect("an agent"));
    let target = format!("{}:{APP_PORT}", c.v4());
    let mut holder = world.hold(&a, &target, 150).expect("a client");
    let args = ["--count", "250", "--inflight", "16"];
    let report = world.storm(&a, &c.targets()[2..3], &args);
    all_fine(&report.expect("a report"), 250);
    let status = agents[0].status().expect("status");
    assert!(
        !status["problems"].to_string().contains("shop/a"),
        "{status}"
    );
    drop(holder.stdin.take());
    holder.wait().expect("the client ends");
}

#[test]
fn a_client_that_binds_its_ports_is_told_apart_from_the_agent_that_dials_for_it() {
    let (world, [a, b, _]) = world();
    // On one node the agent dials from the client's address and namespace. A port that
    // were both the client's and the dial's would look like a call past the agent.
    world
        .set_sysctl(&a, "net.ipv4.ip_local_port_range", "50000 51999")
        .expect("a setting");
    let _agents = ["n1", "n2"].map(|n| world.agent(n, &[]).expect("an agent"));
    let vip = b.vips()[..1].to_vec();
    let mut client = world.steady_at("200", &a, &vip).expect("a client");
    client.wait_for("carried", 800).expect("so many");
    let tally = client.tally(0).expect("a tally");
    assert_eq!(failed(&tally), 0, "{tally}");
}

#[test]
fn a_delivery_that_meets_the_clients_own_connection_takes_another_port() {
    let mut world = World::new(1).expect("a world");
    let plain = world.add_pod("n1", "plain", None).expect("a pod");
    let b = world.add_pod("n1", "b", Some("closed")).expect("a pod");
    world.serve(&b).expect("a server");
    // The first delivery takes the very port that this client is bound to.
    let flags = ["--delivery-ports", "45678-46999", "--workers", "1"];
    let agent = world.agent("n1", &flags).expect("an agent");
    let out = world
        .in_pod(&plain, "python3")
        .args(["-c", CLIENT, "port", &format!("{}:{APP_PORT}", b.v4())])
        .output();
    let seen = parse(&out.expect("a client")).expect("its report");
    assert_eq!(seen["answer"][0], plain.v4(), "{seen}");
    assert_eq!(seen["answer"][3], "45679", "{seen}");
    let ended = || agent.metric(ENDED, "").expect("a metric");
    let once = eventually(Duration::from_secs(5), || (ended() - 1.0).abs() < 0.5);
    assert!(once, "{} connections", ended());
}
