//! Two agents at once: one takes over from another, which serves what it has until it
//! is told to end, or stands still until it is ended.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use mesh_tests::{Agent, ClosedPair, OnAgentDown, Pod, PodSpec, Steady, World, eventually};
use serde_json::Value;

const SCRIPT: &str = include_str!("http.py");
const PYTHON: &str = "/usr/bin/python3";

/// Client a and server b on n1, both closed.
fn pair() -> (World, Pod, Pod) {
    let mut world = World::new(1).expect("a world");
    let a = world.add_pod("n1", "a", Some("closed")).expect("a pod");
    let b = world.add_pod("n1", "b", Some("closed")).expect("a pod");
    world.serve(&b).expect("a server");
    (world, a, b)
}

/// Connects all the time, without a try again.
fn steady(world: &World, from: &Pod, to: &Pod) -> Steady {
    let port = mesh_tests::APP_PORT;
    let targets = [
        format!("{}:{port}", to.v4()),
        format!("[{}]:{port}", to.v6()),
    ];
    world.steady(from, &targets).expect("a client")
}

/// Every connection so far was carried; streams may have been cut.
fn all_carried(world: &World, client: &mut Steady, times: std::ops::RangeInclusive<usize>) {
    for time in times {
        let tally = client.tally(time).expect("a tally");
        let keys = tally.as_object().expect("outcomes").keys();
        let known = [
            "carried",
            "first_carried_us",
            "last_carried_us",
            "stream",
            "stream ended",
        ];
        let wrong: Vec<_> = keys.filter(|key| !known.contains(&key.as_str())).collect();
        assert!(wrong.is_empty(), "{wrong:?} of {tally}: {:#?}", cut(world));
    }
}

/// What agents ended before it was at its end, by their logs.
fn cut(world: &World) -> Vec<Value> {
    let lines = ["n1", "n2"].map(|node| world.logged(node));
    let cut = lines.into_iter().flatten().filter(|line| {
        let reason = line["reason"].as_str();
        reason.is_some_and(|reason| reason != "finished")
    });
    cut.collect()
}

fn has_started(agent: &Agent) {
    let started = eventually(Duration::from_secs(20), || {
        agent.log().contains("started: ready")
    });
    assert!(started, "{}", agent.log());
}

/// Pins of the programs that record agents' dials.
fn agents_pins(world: &World) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for version in std::fs::read_dir(world.pins("n1")).expect("pins") {
        let links = version.expect("a version").path().join("links");
        let links = std::fs::read_dir(links).expect("links");
        let pins = links.map(|link| link.expect("a link").path());
        let is_agents = |pin: &PathBuf| pin.display().to_string().contains("sockops-agent");
        found.extend(pins.filter(is_agents));
    }
    found
}

#[test]
fn an_agent_takes_over_and_back_under_load_and_no_connection_fails() {
    let (world, a, b) = pair();
    let mut agent = world
        .agent("n1", &["--drain-timeout", "1s"])
        .expect("an agent");
    let mut client = steady(&world, &a, &b);
    client.wait_for("carried", 200).expect("carried");
    client.wait_for("stream", 2).expect("streams");
    for round in 0..4 {
        let group = if round % 2 == 0 { "agent-2" } else { "agent" };
        let args = ["--drain-timeout", "1s"];
        let next = world
            .spawn_successor("n1", group, &args)
            .expect("another agent");
        has_started(&next);
        client.begin_next().expect("told");
        // Both are there: what the first one carries goes on, new ones are the other's.
        client.wait_for("carried", 200).expect("carried");
        assert_eq!(agents_pins(&world).len(), 2, "{}", next.log());
        assert!(agent.stop().expect("it ends").success());
        client.begin_next().expect("told");
        client.wait_for("carried", 200).expect("carried");
        assert_eq!(agents_pins(&world).len(), 1, "{}", next.log());
        assert!(next.is_ready(), "{}", next.log());
        agent = next;
    }
    let last = client.time;
    all_carried(&world, &mut client, 0..=last);
    assert!(agent.stop().expect("it ends").success());
    assert!(!world.pins("n1").exists());
}

/// Requests on kept connections, which nobody sends again.
struct Kept {
    child: Child,
    told: BufReader<ChildStdout>,
}

impl Kept {
    fn start(world: &World, from: &Pod, to: &Pod) -> Self {
        let mut client = world.in_pod(from, PYTHON);
        client.args(["-c", SCRIPT, "kept", &to.vips()[0], "16"]);
        client.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = client.spawn().expect("a client");
        let told = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, told }
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.told.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).expect("JSON")
    }

    /// What became of all so far.
    fn so_far(&mut self) -> Value {
        let mut input = self.child.stdin.as_ref().expect("piped");
        input.write_all(b"\n").expect("asked");
        self.line()
    }

    fn wait_for(&mut self, more: u64) {
        let answered = |told: &Value| told["200"].as_u64().unwrap_or_default();
        let before = answered(&self.so_far());
        let came = eventually(Duration::from_secs(20), || {
            answered(&self.so_far()) >= before + more
        });
        assert!(came, "{}", self.so_far());
    }
}

#[test]
fn who_asks_on_kept_connections_loses_no_request_when_another_agent_takes_over() {
    let mut world = World::new(1).expect("a world");
    let spec = |name| PodSpec::new("n1", name).enrolled(OnAgentDown::Closed);
    let [a, b] = ["a", "b"].map(|name| world.add(&spec(name)).expect("a pod"));
    let mut server = world.in_pod(&b, PYTHON);
    let port = mesh_tests::APP_PORT;
    server.args(["-c", SCRIPT, "serve", "b", &port.to_string()]);
    world.start_server(&b, port, server).expect("a server");
    let args = ["--drain-timeout", "3s"];
    let mut agent = world.agent("n1", &args).expect("an agent");
    let mut client = Kept::start(&world, &a, &b);
    client.wait_for(500);
    for round in 0..4 {
        let group = if round % 2 == 0 { "agent-2" } else { "agent" };
        let next = world
            .spawn_successor("n1", group, &args)
            .expect("another agent");
        has_started(&next);
        client.wait_for(200);
        // Whoever is told has asked once more: nobody is cut.
        assert!(agent.stop().expect("it ends").success());
        client.wait_for(200);
        agent = next;
    }
    drop(client.child.stdin.take());
    let told = client.line();
    println!("{told}");
    let keys: Vec<_> = told.as_object().expect("outcomes").keys().collect();
    assert_eq!(keys, ["200", "connections"], "{told}");
    let made = told["connections"].as_u64().expect("a count");
    assert!(made >= 16 * 5, "each asked the next agent: {told}");
    assert!(client.child.wait().expect("it ends").success());
}

fn versions(world: &World) -> usize {
    world.versions("n1").expect("pins").len()
}

#[test]
fn an_agent_of_another_version_takes_over_and_back_and_no_connection_fails_or_is_open() {
    let mut scene = ClosedPair::new(true).expect("a closed pair");
    let b = scene.world.add_pod("n1", "b", Some("closed"));
    let b = b.expect("a pod");
    scene.world.serve(&b).expect("a server");
    let by = scene.world.by_another_version().expect("a copy");
    let by: Vec<&str> = by.iter().map(String::as_str).collect();
    let drain = ["--drain-timeout", "1s"];
    let mut agent = scene.agent(&drain).expect("an agent");
    let capture = scene.leaks_of(&[&scene.a, &scene.c]).expect("a capture");
    // On one node, and from and to another one.
    let ways = [(&scene.a, &b), (&scene.a, &scene.c), (&scene.c, &scene.a)];
    let mut load = ways.map(|(from, to)| steady(&scene.world, from, to));
    let goes_on = |load: &mut [Steady], agent: &Agent| {
        for client in load {
            client.begin_next().expect("told");
            let carried = client.wait_for("carried", 200);
            carried.unwrap_or_else(|error| panic!("{error}: {}", agent.log()));
        }
    };
    goes_on(&mut load, &agent);
    for round in 0..4 {
        let (group, by) = if round % 2 == 0 {
            ("agent-2", &by[..])
        } else {
            ("agent", &[][..])
        };
        let args = scene.authority.agent_args("n1").expect("a token");
        let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
        args.extend(drain);
        let next = scene.world.spawn_successor_by("n1", group, by, &args);
        let next = next.expect("another agent");
        has_started(&next);
        goes_on(&mut load, &next);
        // What the former one needs for what it has.
        assert_eq!(versions(&scene.world), 2, "{}", next.log());
        assert!(agent.stop().expect("it ends").success());
        goes_on(&mut load, &next);
        let left = eventually(Duration::from_secs(20), || versions(&scene.world) == 1);
        assert!(left, "{:?}: {}", versions(&scene.world), next.log());
        agent = next;
    }
    for client in &mut load {
        let last = client.time;
        all_carried(&scene.world, client, 1..=last);
    }
    let captured = capture.stop().expect("a capture");
    assert_eq!(captured.packets, 0, "in plaintext: {:?}", captured.flows);
    assert!(agent.stop().expect("it ends").success());
}

#[test]
fn no_probe_fails_and_nothing_else_passes_while_an_agent_of_another_version_takes_over() {
    let mut scene = ClosedPair::new(true).expect("a closed pair");
    let port = mesh_tests::APP_PORT;
    let b = PodSpec::new("n1", "b")
        .enrolled(OnAgentDown::Closed)
        .container(&format!("readinessProbe: {{tcpSocket: {{port: {port}}}}}"));
    let b = scene.world.add(&b).expect("a pod");
    scene.world.serve(&b).expect("a server");
    let prober = scene.world.pod_cgroup("n1", "probe");
    std::fs::create_dir_all(&prober).expect("a cgroup");
    let prober = prober.display().to_string();
    let args = scene.authority.agent_args("n1").expect("a token");
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    args.extend(["--drain-timeout", "3s", "--probe-cgroup", &prober]);
    let by = scene.world.by_another_version().expect("a copy");
    let by: Vec<&str> = by.iter().map(String::as_str).collect();
    let mut agent = scene.world.agent("n1", &args).expect("an agent");
    let to = [format!("{}:{port}", b.v4())];
    let start = |group| scene.world.steady_apart("n1", group, &to);
    let mut probes = start("probe").expect("a prober");
    let mut others = start("other").expect("a client");
    probes.wait_for("direct", 20).expect("passed");
    for round in 0..2 {
        // What it carries keeps the former one until its time is over.
        let mut held = scene.hold(1).expect("held");
        probes.begin_next().expect("told");
        probes.wait_for("direct", 50).expect("passed");
        let (group, by) = match round {
            0 => ("agent-2", &by[..]),
            _ => ("agent", &[][..]),
        };
        let next = scene.world.spawn_successor_by("n1", group, by, &args);
        let next = next.expect("another agent");
        has_started(&next);
        probes.wait_for("direct", 200).expect("passed");
        assert_eq!(versions(&scene.world), 2, "{}", next.log());
        // Its listeners are gone, and its programs are not.
        agent.terminate().expect("told");
        let drains = eventually(Duration::from_secs(20), || agent.log().contains("stopping"));
        assert!(drains, "{}", agent.log());
        probes.begin_next().expect("told");
        probes.wait_for("direct", 200).expect("passed");
        assert_eq!(versions(&scene.world), 2, "{}", next.log());
        assert!(agent.stop().expect("it ends").success());
        probes.begin_next().expect("told");
        probes.wait_for("direct", 100).expect("passed");
        held.kill().expect("killed");
        held.wait().expect("it ends");
        agent = next;
    }
    for time in 1..=probes.time {
        let tally = probes.tally(time).expect("a tally");
        let keys: Vec<_> = tally.as_object().expect("outcomes").keys().collect();
        assert_eq!(
            keys,
            ["direct"],
            "{tally} in time {time}: {:?}",
            failures(&mut probes)
        );
    }
    let tally = others.tally(0).expect("a tally");
    assert!(tally["direct"].is_null(), "{tally}");
}

/// What failed, each time and how long it took, in milliseconds.
fn failures(client: &mut Steady) -> Vec<(String, u64)> {
    let failures = client.failures().expect("failures").into_iter();
    let failures = failures.filter(|span| span.how != "direct");
    let told = failures.map(|span| (span.how.clone(), span.begun_us / 1000 % 1_000_000));
    told.collect()
}

#[test]
fn beside_an_agent_that_stands_still_another_waits_and_takes_over_when_it_is_ended() {
    let (world, a, b) = pair();
    let stuck = world.agent("n1", &[]).expect("an agent");
    let mut client = steady(&world, &a, &b);
    client.wait_for("carried", 50).expect("carried");
    stuck.pause().expect("it stands still");
    let next = world
        .spawn_successor("n1", "agent-2", &[])
        .expect("another agent");
    let waits = eventually(Duration::from_secs(20), || {
        next.log().contains("waiting until it has ended")
    });
    assert!(waits, "{}", next.log());
    stuck.kill9().expect("ended");
    has_started(&next);
    client.begin_next().expect("told");
    client.begin_next().expect("told");
    client.wait_for("carried", 100).expect("carried again");
    let last = client.time;
    all_carried(&world, &mut client, last..=last);
    let one = eventually(Duration::from_secs(20), || agents_pins(&world).len() == 1);
    assert!(one, "{:?}", agents_pins(&world));
}

#[test]
fn a_second_agent_that_is_not_told_to_take_over_is_refused() {
    let (world, _a, _b) = pair();
    let agent = world.agent("n1", &[]).expect("an agent");
    let mut second = world.spawn_agent("n1", &[]).expect("another agent");
    let ended = eventually(Duration::from_secs(10), || {
        second.ended().is_ok_and(|ended| ended.is_some())
    });
    assert!(ended, "{}", second.log());
    assert!(agent.is_ready());
}

#[test]
fn two_agents_in_one_cgroup_are_refused() {
    let (world, a, b) = pair();
    let agent = world.agent("n1", &[]).expect("an agent");
    let mut second = world
        .spawn_successor("n1", "agent", &[])
        .expect("another agent");
    let ended = eventually(Duration::from_secs(10), || {
        second.ended().is_ok_and(|ended| ended.is_some())
    });
    assert!(ended, "{}", second.log());
    assert!(
        second.log().contains("another agent runs in the cgroup"),
        "{}",
        second.log()
    );
    let mut client = steady(&world, &a, &b);
    client.wait_for("carried", 20).expect("carried");
    all_carried(&world, &mut client, 0..=0);
    agent.stop().expect("stopped");
}

/// Prints the keys of a pinned map, each a line.
const KEYS: &str = "
import ctypes, os, platform, struct, sys
BPF = {'x86_64': 321, 'aarch64': 280}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)
def bpf(command, attributes):
    attributes = ctypes.create_string_buffer(attributes, 128)
    return libc.syscall(BPF, command, attributes, 128)
path = ctypes.create_string_buffer(os.fsencode(sys.argv[1]))
fd = bpf(7, struct.pack('QII', ctypes.addressof(path), 0, 0))
assert fd >= 0, os.strerror(ctypes.get_errno())
key, now = None, ctypes.create_string_buffer(40)
while True:
    before = ctypes.addressof(key) if key else 0
    if bpf(4, struct.pack('IIQQ', fd, 0, before, ctypes.addressof(now))) < 0:
        break
    print(now.raw.hex())
    key = ctypes.create_string_buffer(now.raw, 40)
";

/// What agents have dialled, as the kernel programs know it.
fn dialled(world: &World) -> Vec<String> {
    let versions = std::fs::read_dir(world.pins("n1")).expect("pins");
    let maps = versions.map(|version| version.expect("a version").path().join("maps/TUPLES"));
    let map = maps.into_iter().find(|map| map.exists()).expect("a map");
    let mut python = std::process::Command::new("python3");
    let out = python
        .args(["-c", KEYS])
        .arg(map)
        .output()
        .expect("it runs");
    assert!(out.status.success(), "{out:?}");
    let keys = String::from_utf8(out.stdout).expect("text");
    keys.lines().map(str::to_owned).collect()
}

#[test]
fn what_a_killed_agent_dialled_is_forgotten_when_its_sockets_close_at_last() {
    let (world, a, b) = pair();
    let agent = world.agent("n1", &[]).expect("an agent");
    let target = format!("{}:{}", b.v4(), mesh_tests::APP_PORT);
    let mut held = world.hold(&a, &target, 1).expect("held");
    // A connect is done before the agent has seen it, and dialled.
    let has_dialled = eventually(Duration::from_secs(20), || !dialled(&world).is_empty());
    assert!(has_dialled, "{}", agent.log());
    let before = dialled(&world);
    // The end of its connection reaches nobody until the next agent is there.
    let of_both = [(&a, "lo"), (&b, "lo"), (&a, "eth0"), (&b, "eth0")];
    links(&world, &of_both, "down");
    agent.kill9().expect("killed");
    let next = world
        .spawn_successor("n1", "agent-2", &[])
        .expect("another agent");
    has_started(&next);
    assert!(next.log().contains("an agent is gone"), "{}", next.log());
    let there = dialled(&world);
    assert!(there.iter().any(|key| before.contains(key)), "{there:?}");
    links(&world, &of_both, "up");
    are_forgotten(&world, &before, &next);
    held.kill().expect("killed");
    held.wait().expect("it ends");
}

/// What one that drains has closed outlives it, too: the other end has not acknowledged it.
#[test]
fn what_an_agent_that_left_in_order_dialled_is_forgotten_when_its_sockets_close_at_last() {
    let scene = ClosedPair::new(true).expect("a closed pair");
    let drain = ["--drain-timeout", "1s"];
    let agent = scene.agent(&drain).expect("an agent");
    let target = [format!("{}:{}", scene.c.v4(), mesh_tests::APP_PORT)];
    let report = scene.world.storm(&scene.a, &target, &["--count", "4"]);
    assert_eq!(report.expect("a report")["ok"], 4, "{}", agent.log());
    let before = dialled(&scene.world);
    assert!(!before.is_empty(), "{}", agent.log());
    let args = scene.authority.agent_args("n1").expect("a token");
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    args.extend(drain);
    let next = scene.world.spawn_successor("n1", "agent-2", &args);
    let next = next.expect("another agent");
    has_started(&next);
    links(&scene.world, &[(&scene.a, "eth0")], "down");
    assert!(agent.stop().expect("it ends").success());
    let there = dialled(&scene.world);
    assert!(there.iter().any(|key| before.contains(key)), "{there:?}");
    links(&scene.world, &[(&scene.a, "eth0")], "up");
    are_forgotten(&scene.world, &before, &next);
}

fn links(world: &World, links: &[(&Pod, &str)], state: &str) {
    for (pod, link) in links {
        let mut ip = world.in_pod(pod, "ip");
        let done = ip.args(["link", "set", link, state]).status();
        assert!(done.expect("ip runs").success());
    }
}

/// A client that is given such a port would not be answered: its SYN would pass for the
/// agent's own.
fn are_forgotten(world: &World, before: &[String], agent: &Agent) {
    let mut left = Vec::new();
    let forgotten = eventually(Duration::from_secs(30), || {
        left = dialled(world);
        left.iter().all(|key| !before.contains(key))
    });
    assert!(forgotten, "{left:?} of {before:?}: {}", agent.log());
}
