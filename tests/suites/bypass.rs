//! Ways past the agent, each tried by a real client: every one is captured or refused.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use mesh_tests::{APP_PORT, Agent, Agents, OnAgentDown, Pod, PodSpec, World, eventually, parse};
use serde_json::Value;

const CLIENT: &str = include_str!("bypass.py");
const PYTHON: &str = "/usr/bin/python3";
const WAYS: [&str; 10] = [
    "plain",
    "mptcp",
    "fastopen",
    "fastopen_connect",
    "uring",
    "mapped",
    "device",
    "mark",
    "port",
    "reconnect",
];

fn run(mut command: Command, args: &[&str]) -> Value {
    let out = command.args(["-c", CLIENT]).args(args).output();
    parse(&out.expect("a client")).expect("its report")
}

fn in_pod(world: &World, pod: &Pod, args: &[&str]) -> Value {
    run(world.in_pod(pod, PYTHON), args)
}

/// On node n1, in a cgroup of the node's.
fn apart(world: &World, group: &str, args: &[&str]) -> Value {
    let program = PathBuf::from(PYTHON);
    let command = world.on_node_apart("n1", group, &program);
    run(command.expect("a command"), args)
}

fn count(agent: &Agent, event: &str) -> f64 {
    agent
        .metric("mesh_agent_kernel_events_total", &format!("\"{event}\""))
        .expect("a metric")
}

/// The kernel's counter becomes exactly `wanted` (it is read twice a second).
fn counts(agent: &Agent, event: &str, wanted: f64) {
    let done = eventually(Duration::from_secs(20), || {
        (count(agent, event) - wanted).abs() < 0.5
    });
    assert!(done, "{event}: {} and not {wanted}", count(agent, event));
}

fn app(pod: &Pod) -> String {
    format!("{}:{APP_PORT}", pod.v4())
}

/// Client a and server b on n1, both enrolled.
fn pair() -> (World, Pod, Pod) {
    let mut world = World::new(1).expect("a world");
    let a = world.add_pod("n1", "a", Some("closed")).expect("a pod");
    let b = world.add_pod("n1", "b", Some("closed")).expect("a pod");
    world.serve(&b).expect("a server");
    (world, a, b)
}

/// The pair, and the agent watches a's own cgroup.
fn guarded_pair() -> (World, Pod, Pod) {
    guarded_pair_of(1)
}

/// The same, beside other nodes.
fn guarded_pair_of(nodes: usize) -> (World, Pod, Pod) {
    let mut world = World::new(nodes).expect("a world");
    let cgroup = world.pod_cgroup("n1", "a");
    let spec = PodSpec::new("n1", "a")
        .enrolled(OnAgentDown::Closed)
        .annotation("mesh-agent.io/cgroup", &cgroup.display().to_string());
    let a = world.add(&spec).expect("a pod");
    let b = world.add_pod("n1", "b", Some("closed")).expect("a pod");
    world.serve(&b).expect("a server");
    (world, a, b)
}

#[test]
fn every_way_to_connect_is_captured_with_the_true_addresses() {
    let (world, a, b) = pair();
    let agent = world.agent("n1", &[]).expect("an agent");
    let mut captured = 0.0;
    for way in WAYS {
        for (to, server, own) in [
            (b.vips()[0].clone(), app(&b), a.v4()),
            (
                b.vips()[1].clone(),
                format!("[{}]:{APP_PORT}", b.v6()),
                a.v6(),
            ),
        ] {
            if way == "mapped" && to.starts_with('[') {
                continue;
            }
            let seen = in_pod(&world, &a, &[way, &to]);
            assert_eq!(seen["answer"][0], own, "{way} to {to}: {seen}");
            assert_eq!(seen["answer"][1], server, "{way} to {to}: {seen}");
            let peer = seen["peer"][0].as_str().expect("an address");
            assert!(
                to.contains(peer.trim_start_matches("::ffff:")),
                "{way}: {seen}"
            );
            captured += if way == "reconnect" { 2.0 } else { 1.0 };
            counts(&agent, "connect_captured", captured);
        }
    }
}

#[test]
fn a_device_that_cannot_be_unbound_is_refused() {
    let (world, a, b) = pair();
    let agent = world.agent("n1", &[]).expect("an agent");
    let seen = in_pod(&world, &a, &["device_unprivileged", &app(&b)]);
    assert_eq!(seen["error"], "EPERM", "{seen}");
    counts(&agent, "connect_refused_device", 1.0);
}

#[test]
fn a_pod_reaches_itself_by_every_address_that_the_kernel_takes_for_it() {
    let (world, _a, b) = pair();
    let agent = world.agent("n1", &[]).expect("an agent");
    for (way, to) in [
        ("plain", "0.0.0.0"),
        ("plain", "[::]"),
        ("mapped", "0.0.0.0"),
        ("plain", "127.0.0.1"),
    ] {
        let seen = in_pod(&world, &b, &[way, &format!("{to}:{APP_PORT}")]);
        assert!(seen["error"].is_null(), "{way} {to}: {seen}");
    }
    counts(&agent, "connect_captured", 0.0);
}

#[test]
fn with_tls_on_one_node_a_pod_still_reaches_itself_by_its_service() {
    let (world, _a, b) = pair();
    let authority = world.authority(&[]).expect("an authority");
    let _agent = world
        .secure_agent("n1", &authority, &["--same-node-tls"])
        .expect("an agent");
    for (to, own) in b.vips().iter().zip([b.v4(), b.v6()]) {
        let seen = in_pod(&world, &b, &["plain", to]);
        assert_eq!(seen["answer"][0], own, "{to}: {seen}");
    }
}

#[test]
fn a_pods_cgroup_is_watched_far_down_and_one_too_deep_is_said_to_be() {
    let mut world = World::new(1).expect("a world");
    let b = world.add_pod("n1", "b", Some("closed")).expect("a pod");
    world.serve(&b).expect("a server");
    for (name, levels) in [("down", 20), ("deep", 40)] {
        let cgroup = world.pod_cgroup("n1", &name_of_level(name, levels));
        std::fs::create_dir_all(&cgroup).expect("a cgroup");
        let spec = PodSpec::new("n1", name)
            .enrolled(OnAgentDown::Closed)
            .annotation("mesh-agent.io/cgroup", &cgroup.display().to_string());
        world.add(&spec).expect("a pod");
    }
    let agent = world.agent("n1", &[]).expect("an agent");
    // In the pod's cgroup, in a namespace that is not the pod's.
    let seen = apart(&world, &name_of_level("down", 20), &["plain", &app(&b)]);
    assert_eq!(seen["error"], "EPERM", "{seen}");
    let status = agent.status().expect("a status");
    let problems = status["problems"].to_string();
    assert!(
        problems.contains("Pod shop/deep: its cgroup is not watched"),
        "{problems}"
    );
    assert!(problems.contains("42 levels deep"), "{problems}");
    // It is captured all the same.
    for pod in status["pods"].as_array().expect("pods") {
        assert_eq!(pod["enrolled"], true, "{pod}");
    }
    assert!(!problems.contains("shop/down"), "{problems}");
}

/// A cgroup that many levels below its node's.
fn name_of_level(name: &str, levels: usize) -> String {
    vec![name; levels].join("/")
}

#[test]
fn udp_passes_untouched() {
    let (mut world, a, b) = pair();
    let agent = world.agent("n1", &[]).expect("an agent");
    let mut server = world.in_pod(&b, PYTHON);
    server.args(["-c", CLIENT, "udp-serve", "9000"]);
    world.start_and_read(server, "serving").expect("a server");
    let seen = in_pod(&world, &a, &["udp", &format!("{}:9000", b.v4())]);
    assert_eq!(
        seen["answer"],
        format!("{} by another way", a.v4()),
        "{seen}"
    );
    counts(&agent, "connect_captured", 0.0);
}

#[test]
fn a_socket_of_another_pod_is_refused_however_it_was_come_by() {
    let (mut world, a, b) = guarded_pair();
    let agent = world.agent("n1", &[]).expect("an agent");
    let own = in_pod(&world, &a, &["plain", &app(&b)]);
    assert_eq!(own["answer"][0], a.v4(), "{own}");

    let path = world.dir().join("give").display().to_string();
    let mut giver = world.in_pod(&b, PYTHON);
    giver.args(["-c", CLIENT, "give", &path]);
    world.start_and_read(giver, "giving").expect("a giver");
    let seen = in_pod(&world, &a, &["received", &path, &app(&a)]);
    assert_eq!(seen["error"], "EPERM", "{seen}");
    counts(&agent, "connect_refused_foreign_socket", 1.0);

    let netns = format!("/run/netns/{}", b.netns());
    let seen = in_pod(&world, &a, &["inside", &netns, &app(&a)]);
    assert_eq!(seen["error"], "EPERM", "{seen}");
    counts(&agent, "connect_refused_foreign_socket", 2.0);

    let seen = in_pod(&world, &a, &["new_namespace", &app(&b)]);
    assert_eq!(seen["error"], "EPERM", "{seen}");
    counts(&agent, "connect_refused_unknown_netns", 1.0);
}

/// Lines of the node's access log about connections to the address.
fn logged(world: &World, node: &str, to: &str) -> Vec<Value> {
    let lines = world.logged(node).into_iter();
    lines.filter(|l| l["destination"] == to).collect()
}

#[test]
fn a_pod_never_speaks_as_another_on_one_node_or_across() {
    let (mut world, a, b) = guarded_pair_of(2);
    let servers = [("n1", "near"), ("n2", "far")]
        .map(|(node, name)| world.add_pod(node, name, Some("closed")).expect("a pod"));
    for server in &servers {
        world.serve(server).expect("a server");
    }
    let agents = Agents::start(&world, &[]).expect("agents");
    let [agent, _] = &*agents;
    let path = world.dir().join("give").display().to_string();
    let mut giver = world.in_pod(&b, PYTHON);
    giver.args(["-c", CLIENT, "give", &path]);
    world.start_and_read(giver, "giving").expect("a giver");
    let netns = format!("/run/netns/{}", b.netns());
    for server in &servers {
        let v6 = format!("[{}]:{APP_PORT}", server.v6());
        for (way, as_whom, to) in [
            ("received", &path, &app(server)),
            ("inside", &netns, &app(server)),
            ("transparent", &b.v4(), &app(server)),
            ("freebind", &b.v4(), &app(server)),
            ("added", &b.v4(), &app(server)),
            ("transparent", &b.v6(), &v6),
            ("freebind", &b.v6(), &v6),
            ("added", &b.v6(), &v6),
        ] {
            let seen = in_pod(&world, &a, &[way, as_whom, to]);
            assert_eq!(seen["error"], "EPERM", "{way} {as_whom} {to}: {seen}");
        }
        let honest = in_pod(&world, &a, &["plain", &app(server)]);
        assert_eq!(honest["answer"][0], a.v4(), "{honest}");
        let node = server.node.as_str();
        let told = eventually(Duration::from_secs(20), || {
            !logged(&world, node, &app(server)).is_empty()
        });
        assert!(told, "nothing is logged at {node}");
        for line in logged(&world, node, &app(server)) {
            assert_eq!(
                line["source_principal"], "spiffe://cluster.local/ns/shop/sa/a",
                "{line}"
            );
        }
    }
    counts(agent, "connect_refused_foreign_socket", 4.0);
    counts(agent, "connect_refused_source", 12.0);
}

#[test]
fn a_pod_whose_namespace_is_not_known_yet_is_refused_and_one_that_left_is_free() {
    let (world, a, b) = guarded_pair();
    world.remove_netns(&a).expect("remove");
    let agent = world.spawn_agent("n1", &[]).expect("an agent");
    let tried = eventually(Duration::from_secs(10), || {
        agent
            .status()
            .is_ok_and(|s| s["problems"].to_string().contains("Pod shop/a"))
    });
    assert!(tried, "{}", agent.log());
    // In a's cgroup, in the node's namespace.
    let seen = apart(&world, "a", &["plain", &app(&b)]);
    assert_eq!(seen["error"], "EPERM", "{seen}");
    // In a's cgroup, in b's enrolled namespace.
    let netns = format!("/run/netns/{}", b.netns());
    let seen = apart(&world, "a", &["inside", &netns, "10.77.0.201:9"]);
    assert_eq!(seen["error"], "EPERM", "{seen}");
    world.remove_config("a").expect("remove");
    let free = eventually(Duration::from_secs(20), || {
        apart(&world, "a", &["plain", &app(&b)])["error"].is_null()
    });
    assert!(free, "a former pod's cgroup is still refused");
}

#[test]
fn below_a_guarded_cgroup_an_unknown_namespace_is_refused() {
    let mut world = World::new(1).expect("a world");
    let plain = world.add_pod("n1", "plain", None).expect("a pod");
    let b = world.add_pod("n1", "b", Some("closed")).expect("a pod");
    world.serve(&b).expect("a server");
    let guarded = world.pod_cgroup("n1", "plain").display().to_string();
    let agent = world
        .agent("n1", &["--guard-cgroup", &guarded])
        .expect("an agent");
    let seen = in_pod(&world, &plain, &["plain", &app(&b)]);
    assert_eq!(seen["error"], "EPERM", "{seen}");
    counts(&agent, "connect_refused_unknown_netns", 1.0);
}

#[test]
fn a_probe_reaches_the_application_directly_and_the_nodes_other_processes_do_not() {
    let (mut world, _a, _b) = pair();
    let probed = PodSpec::new("n1", "probed")
        .enrolled(OnAgentDown::Closed)
        .container(&format!(
            "livenessProbe: {{tcpSocket: {{port: {APP_PORT}}}}}"
        ));
    let b = world.add(&probed).expect("a pod");
    world.serve(&b).expect("a server");
    let probe = world.pod_cgroup("n1", "probe");
    std::fs::create_dir_all(&probe).expect("a cgroup");
    let probe = probe.display().to_string();
    let agent = world
        .agent("n1", &["--probe-cgroup", &probe])
        .expect("an agent");
    let seen = apart(&world, "probe", &["plain", &app(&b)]);
    assert_eq!(seen["answer"][0], "10.77.0.201", "{seen}");
    counts(&agent, "steer_passed_probe", 1.0);
    counts(&agent, "steered_inbound", 0.0);
    apart(&world, "other", &["plain", &app(&b)]);
    counts(&agent, "steered_inbound", 1.0);
}

#[test]
fn an_agents_dial_that_must_be_taken_at_the_destination_is() {
    let (world, _a, b) = pair();
    let agent = world.agent("n1", &[]).expect("an agent");
    apart(&world, "agent", &["plain", &app(&b)]);
    counts(&agent, "steer_passed_tuple", 1.0);
    counts(&agent, "steered_inbound", 0.0);
    apart(&world, "agent", &["mark_through", &app(&b)]);
    counts(&agent, "steered_inbound", 1.0);
}

#[test]
fn the_kernel_proves_which_enrolled_pod_a_dial_entered() {
    let (mut world, a, b) = pair();
    let plain = world.add_pod("n1", "plain", None).expect("a pod");
    world.serve(&plain).expect("a server");
    let agent = world.agent("n1", &[]).expect("an agent");
    let pin = pins_of_version(&world).join("maps/TUPLES");
    let mut holders: Vec<_> = [&b, &plain]
        .map(|to| world.hold(&a, &app(to), 1).expect("a client"))
        .into();
    let values = || {
        let seen = apart(&world, "other", &["tuples", &pin.display().to_string()]);
        let value = |pod: &Pod| {
            let address = format!("::ffff:{}", pod.v4());
            let all = seen["tuples"].as_array().cloned().unwrap_or_default();
            all.iter().find(|t| t[0] == address).map(|t| t[2].clone())
        };
        (value(&b), value(&plain))
    };
    let cookie = cookie(&agent, "shop/b");
    let expected = (Some(Value::from(cookie)), Some(Value::from(0)));
    let proved = eventually(Duration::from_secs(20), || values() == expected);
    assert!(proved, "{:?}", values());
    for holder in &mut holders {
        drop(holder.stdin.take());
        holder.wait().expect("the client ends");
    }
}

/// Cookie of an enrolled pod's namespace.
fn cookie(agent: &Agent, pod: &str) -> u64 {
    let status = agent.status().expect("a status");
    let pods = status["pods"].as_array().expect("a list");
    let of = pods.iter().find(|p| p["pod"] == pod).expect("the pod");
    of["netns_cookie"].as_u64().expect("a cookie")
}

/// The one directory of pins that node n1's agent has.
fn pins_of_version(world: &World) -> PathBuf {
    let mut dirs = std::fs::read_dir(world.pins("n1")).expect("pins");
    dirs.next().expect("a version").expect("an entry").path()
}

#[test]
fn programs_and_pins_that_are_taken_away_are_back_within_a_second() {
    let (world, a, b) = pair();
    let agent = world.agent("n1", &[]).expect("an agent");
    let version = pins_of_version(&world);
    let links: Vec<PathBuf> = std::fs::read_dir(version.join("links"))
        .expect("links")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    assert_eq!(
        links.len(),
        9,
        "two hooks, the agent's, two pods' with two at each one's link: {links:?}"
    );
    let mut put_back = 0.0;
    let mut back = |what: &str, lost: f64| {
        put_back += lost;
        let back = eventually(Duration::from_secs(10), || {
            let n = agent.metric("mesh_agent_reattached_total", "");
            n.is_ok_and(|n| (n - put_back).abs() < 0.5)
        });
        assert!(back, "{what}: {}", agent.log());
    };
    for link in &links {
        let pin = link.display().to_string();
        let seen = apart(&world, "other", &["detach", &pin]);
        assert_eq!(seen["detached"], pin, "{seen}");
        back(&pin, 1.0);
        std::fs::remove_file(link).expect("remove the pin");
        back(&pin, 1.0);
    }
    // One that is put back before all are gone would be taken away twice.
    agent.pause().expect("it stands still");
    std::fs::remove_dir_all(&version).expect("remove all pins");
    agent.resume().expect("it goes on");
    back("all pins", 11.0 + links.len() as f64);
    let seen = in_pod(&world, &a, &["plain", &app(&b)]);
    assert_eq!(seen["answer"][0], a.v4(), "{seen}");
    counts(&agent, "connect_captured", 1.0);
    assert!(agent.stop().expect("stop").success());
    assert!(!world.pins("n1").exists());
}

#[test]
fn a_pod_reaches_neither_the_agents_listeners_nor_its_pages() {
    let (world, a, b) = pair();
    let agent = world.agent("n1", &[]).expect("an agent");
    let seen = in_pod(&world, &b, &["listeners", &APP_PORT.to_string()]);
    let touched = seen["touched"].as_array().expect("a list");
    assert!(touched.len() >= 2, "one listener for each family: {seen}");
    assert!(touched.iter().all(|t| t == "ECONNRESET"), "{seen}");
    let counted = || agent.metric("mesh_agent_connections_ended_total", "loop");
    let wanted = touched.len() as f64;
    let done = eventually(Duration::from_secs(20), || {
        counted().is_ok_and(|n| n >= wanted)
    });
    assert!(done, "{} of {wanted} counted", counted().expect("a metric"));
    let pages = ["127.0.0.1:15020", "[::1]:15020", "10.77.0.201:15020"];
    let args = [&["touch"][..], &pages].concat();
    let seen = in_pod(&world, &a, &args);
    let touched = seen["touched"].as_array().expect("a list");
    assert!(
        touched
            .iter()
            .all(|t| t == "ECONNREFUSED" || t == "ECONNRESET"),
        "{seen}"
    );
}
