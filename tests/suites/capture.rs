//! What enrolled pods' connections meet.

use mesh_tests::World;

/// Client a and server b on n1, server c on n2, all enrolled and fail-closed.
fn world() -> (World, [mesh_tests::Pod; 3]) {
    let mut world = World::new(2).expect("a world");
    let pods = [("n1", "a"), ("n1", "b"), ("n2", "c")]
        .map(|(node, name)| world.add_pod(node, name, Some("closed")).expect("a pod"));
    for pod in &pods[1..] {
        world.serve(pod).expect("a server");
    }
    (world, pods)
}

fn all_fine(report: &serde_json::Value, count: u64) {
    assert_eq!(report["ok"], count, "{report}");
    assert_eq!(report["wrong"], 0, "{report}");
    assert_eq!(report["lost"], 0, "{report}");
}

/// How many connections were made to this pod.
fn tried(report: &serde_json::Value, to: &mesh_tests::Pod) -> f64 {
    let count = |target: &String| report["tried"][target].as_f64().expect("a count");
    to.targets().iter().map(count).sum()
}

#[test]
fn many_connections_reach_the_right_server_with_true_addresses_and_leave_nothing() {
    let (world, [a, b, c]) = world();
    let (near, far) = (
        world.agent("n1", &[]).expect("agent n1"),
        world.agent("n2", &[]).expect("agent n2"),
    );
    let fds = (near.open_fds(), far.open_fds());
    let targets = [b.targets(), c.targets()].concat();
    let args = ["--count", "20000", "--inflight", "64"];
    let report = world.storm(&a, &targets, &args).expect("a report");
    all_fine(&report, 20_000);
    let carried = near
        .metric(
            "istio_tcp_connections_opened_total",
            "source_workload=\"a\"",
        )
        .expect("a metric");
    assert!(
        (carried - 20_000.0).abs() < 0.5,
        "all went through the agent: {carried}"
    );
    let inbound = far
        .metric("mesh_agent_connections_ended_total", "inbound")
        .expect("a metric");
    let to_c = tried(&report, &c);
    assert!(
        (inbound - to_c).abs() < 0.5,
        "those to c came in at n2: {inbound} of {to_c}"
    );
    for agent in [&near, &far] {
        let drained = mesh_tests::eventually(std::time::Duration::from_secs(5), || {
            let tuples = agent.metric("mesh_agent_kernel_events", "live_tuples");
            tuples.is_ok_and(|n| n == 0.0)
        });
        assert!(drained, "tuples stay behind");
    }
    assert!(
        near.open_fds() <= fds.0 + 2,
        "fds leak: {} then {}",
        fds.0,
        near.open_fds()
    );
    assert!(
        far.open_fds() <= fds.1 + 2,
        "fds leak: {} then {}",
        fds.1,
        far.open_fds()
    );
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
    let args = ["--count", "4000", "--inflight", "32"];
    let report = world.storm(&a, &targets, &args).expect("a report");
    all_fine(&report, 4000);
    let to_c = tried(&report, &c);
    let near = near
        .metric("mesh_agent_connections_ended_total", "")
        .expect("a metric");
    let far = far
        .metric("mesh_agent_connections_ended_total", "")
        .expect("a metric");
    assert!(
        (near - 4000.0).abs() < 0.5 && (far - to_c).abs() < 0.5,
        "{near} {far} {to_c}"
    );
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
    let inbound = || {
        agent
            .metric("mesh_agent_connections_ended_total", "")
            .expect("a metric")
    };
    assert!(inbound() < 0.5, "not enrolled, not carried");
    let served = &b.targets()[2..];
    all_fine(
        &world
            .storm(&plain, served, &["--count", "2000"])
            .expect("a report"),
        2000,
    );
    assert!((inbound() - 2000.0).abs() < 0.5, "{}", inbound());
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
