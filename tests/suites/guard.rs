//! The second line, on the node's side of a pod's link: what a pod with NET_RAW and
//! NET_ADMIN, or a process without either, tries past the agent is not on the wire.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mesh_tests::{APP_PORT, Agent, OnAgentDown, Pod, PodSpec, World, eventually, parse};
use serde_json::Value;

const CLIENT: &str = include_str!("guard.py");
const PYTHON: &str = "/usr/bin/python3";

/// Each is tried in both families.
const WAYS: [&str; 10] = [
    "late_device",
    "raw",
    "packet",
    "spoofed",
    "fragment",
    "extended",
    "vlan",
    "vlans",
    "nested",
    // Last: it takes the pod's rules away.
    "own_rules",
];

fn python(mut command: Command, args: &[&str]) -> Value {
    let out = command.args(["-c", CLIENT]).args(args).output();
    parse(&out.expect("a client")).expect("its report")
}

fn in_pod(world: &World, pod: &Pod, args: &[&str]) -> Value {
    python(world.in_pod(pod, PYTHON), args)
}

fn count(agent: &Agent, event: &str) -> f64 {
    agent
        .metric("mesh_agent_kernel_events", &format!("\"{event}\""))
        .expect("a metric")
}

fn ports(pod: &Pod, number: u16) -> [String; 2] {
    [
        format!("{}:{number}", pod.v4()),
        format!("[{}]:{number}", pod.v6()),
    ]
}

/// Pod a on n1, enrolled and closed; pod out on n2, outside of the mesh, which serves.
fn outside() -> (World, Pod, Pod) {
    let mut world = World::new(2).expect("a world");
    let a = world.add_pod("n1", "a", Some("closed")).expect("a pod");
    let out = world.add_pod("n2", "out", None).expect("a pod");
    world.serve(&out).expect("a server");
    (world, a, out)
}

fn marker(way: &str, family: usize) -> String {
    format!("marker-{way:-<12}-{family}-{:08x}", std::process::id())
}

/// Tries all ways from a to out; gives those whose marker was on the wire.
fn readable(world: &World, a: &Pod, out: &Pod, ways: &[&str]) -> Vec<String> {
    let capture = world
        .capture_packets("n1", world.wire("n1"), "")
        .expect("a capture");
    for way in ways {
        for (family, to) in ports(out, APP_PORT).iter().enumerate() {
            let own = if family == 0 { a.v4() } else { a.v6() };
            in_pod(world, a, &[way, &own, to, &marker(way, family)]);
        }
    }
    let captured = capture.stop().expect("a capture");
    assert_eq!(captured.dropped, 0);
    let all = ways.iter().flat_map(|way| [(way, 0), (way, 1)]);
    let seen = all.filter(|(way, family)| captured.contains(marker(way, *family).as_bytes()));
    seen.map(|(way, family)| format!("{way} {family}"))
        .collect()
}

#[test]
fn nothing_that_a_privileged_pod_tries_past_the_agent_is_readable() {
    let (world, a, out) = outside();
    let agent = world.agent("n1", &[]).expect("an agent");
    let readable = readable(&world, &a, &out, &WAYS);
    assert!(readable.is_empty(), "{readable:?}");
    // What was sent last is refused in its turn.
    for (event, least) in [("guard_refused_syn", 12.0), ("guard_refused_unclear", 2.0)] {
        let counted = eventually(Duration::from_secs(20), || count(&agent, event) >= least);
        assert!(counted, "{event}: {}", count(&agent, event));
    }
}

#[test]
fn without_the_second_line_every_such_way_is_readable() {
    let (world, a, out) = outside();
    let _agent = world
        .agent("n1", &["--link-guard", "off"])
        .expect("an agent");
    let readable = readable(&world, &a, &out, &WAYS);
    // Own rules are put back meanwhile, or not: that is no matter here.
    let others = readable.iter().filter(|way| !way.starts_with("own_rules"));
    assert_eq!(others.count(), 2 * (WAYS.len() - 1), "{readable:?}");
}

#[test]
fn the_same_holds_with_classifiers_where_the_kernel_has_no_tcx() {
    let (world, a, out) = outside();
    let agent = world
        .agent("n1", &["--link-guard", "clsact"])
        .expect("an agent");
    assert_eq!(world.classifiers(&a), 2);
    assert!(readable(&world, &a, &out, &WAYS[..4]).is_empty());
    let answer = in_pod(
        &world,
        &a,
        &["plain", &a.v4(), &ports(&out, APP_PORT)[0], "hello"],
    );
    assert!(answer["error"].is_null(), "{answer}");
    // Somebody takes them away: they are put back.
    let gone = world
        .on_node("n1", "tc")
        .args(["filter", "del", "dev", "v-a", "ingress"])
        .status();
    assert!(gone.expect("tc").success());
    assert!(eventually(Duration::from_secs(10), || world
        .classifiers(&a)
        == 2));
    assert!(agent.stop().expect("stop").success());
    assert_eq!(world.classifiers(&a), 0);
}

#[test]
fn killed_the_agent_leaves_a_closed_pod_closed_at_its_link_too() {
    for kind in ["tcx", "clsact"] {
        let (world, a, out) = outside();
        let agent = world
            .agent("n1", &["--link-guard", kind])
            .expect("an agent");
        agent.kill9().expect("kill");
        let readable = readable(&world, &a, &out, &WAYS[..4]);
        assert!(readable.is_empty(), "{kind}: {readable:?}");
        assert!(world.cleanup("n1").expect("cleanup").status.success());
        assert_eq!(world.classifiers(&a), 0, "{kind}");
        let answer = in_pod(
            &world,
            &a,
            &["plain", &a.v4(), &ports(&out, APP_PORT)[0], "hello"],
        );
        assert!(answer["error"].is_null(), "{kind}: {answer}");
    }
}

/// A server that lives until the world ends.
fn start(world: &mut World, pod: &Pod, args: &[&str]) {
    let mut server = world.in_pod(pod, PYTHON);
    server.args(["-c", CLIENT]).args(args);
    world.start_and_read(server, "serving").expect("a server");
}

#[test]
fn a_server_that_the_pods_own_rules_publish_past_the_agent_does_not_answer() {
    let (mut world, a, out) = outside();
    start(&mut world, &a, &["publish", "9000", "from within"]);
    start(&mut world, &a, &["redirect", "9001", "from loopback"]);
    let ask = |to: &str| in_pod(&world, &out, &["ask", to]);
    let [v4, v6] = ports(&a, 9000);
    let [loopback, _] = ports(&a, 9001);
    for to in [&v4, &v6, &loopback] {
        let published = eventually(Duration::from_secs(10), || ask(to)["error"].is_null());
        assert!(published, "before: {to}: {}", ask(to));
    }
    let agent = world.agent("n1", &[]).expect("an agent");
    for to in [&v4, &v6] {
        assert_eq!(ask(to)["error"], "timed out", "{to}");
    }
    assert!(count(&agent, "guard_refused_answer") >= 2.0);
    assert!(!ask(&loopback)["error"].is_null(), "{}", ask(&loopback));
}

#[test]
fn a_pod_does_not_answer_past_the_agent_where_the_agent_answered_the_same_ports_before() {
    for guard in ["tcx", "clsact"] {
        let (mut world, a, out) = outside();
        let agent = world
            .agent("n1", &["--link-guard", guard])
            .expect("an agent");
        let to = ports(&a, 9000);
        let ask = |world: &World, family: usize| {
            let from = ["45300", "45301"][family];
            in_pod(world, &out, &["ask", &to[family], from])
        };
        for family in [0, 1] {
            // Nobody listens there yet: the agent takes it, and cannot deliver it.
            let answer = ask(&world, family);
            assert!(!answer["error"].is_null(), "{answer}");
        }
        assert!(count(&agent, "steered_inbound") >= 2.0);
        start(&mut world, &a, &["publish", "9000", "from within"]);
        for family in [0, 1] {
            let answer = ask(&world, family);
            assert_eq!(answer["error"], "timed out", "{guard} {answer}");
        }
        assert!(count(&agent, "guard_refused_answer") >= 2.0);
    }
}

#[test]
fn a_link_local_address_that_a_pod_is_given_later_is_its_own() {
    let mut world = World::new(1).expect("a world");
    let a = world.add_pod("n1", "a", Some("closed")).expect("a pod");
    world.serve(&a).expect("a server");
    let inside = |args: &str| {
        let done = world.in_pod(&a, "ip").args(args.split(' ')).status();
        assert!(done.expect("ip").success(), "{args}");
    };
    inside("-6 addr flush dev eth0 scope link");
    let _agent = world.agent("n1", &[]).expect("an agent");
    for own in ["fe80::77", "fe80::78"] {
        inside(&format!("-6 addr add {own}/64 dev eth0 nodad"));
        let to = format!("[{own}%eth0]:{APP_PORT}");
        let mut answer = Value::Null;
        let reached = eventually(Duration::from_secs(20), || {
            answer = in_pod(&world, &a, &["plain", "", &to, "hello"]);
            answer["error"].is_null()
        });
        assert!(reached, "{own}: {answer}");
        inside(&format!("-6 addr del {own}/64 dev eth0"));
    }
}

#[test]
fn a_pod_that_asks_past_the_agent_does_not_answer_an_end_that_asks_as_well() {
    for (guard, expected) in [("off", true), ("auto", false)] {
        let (world, a, out) = outside();
        for rule in [
            "add table ip quiet",
            "add chain ip quiet out { type filter hook output priority 0 ; }",
            "add rule ip quiet out tcp flags & rst == rst drop",
        ] {
            // Else out's kernel says no before its end asks.
            let added = world.in_pod(&out, "nft").arg(rule).status();
            assert!(added.expect("nft").success(), "{rule}");
        }
        let _agent = world
            .agent("n1", &["--link-guard", guard])
            .expect("an agent");
        let capture = world.capture_packets("n1", world.wire("n1"), "");
        let capture = capture.expect("a capture");
        let mut asking = world.in_pod(&a, PYTHON);
        let to = format!("{}:45200", out.v4());
        asking.args(["-c", CLIENT, "simultaneous", &a.v4(), &to, "marker of both"]);
        let mut asking = asking.stdout(Stdio::piped()).spawn().expect("a client");
        assert_eq!(first_line(&mut asking), "asking");
        let from = format!("{}:45100", a.v4());
        in_pod(&world, &out, &["meet", &out.v4(), &from, ""]);
        asking.wait().expect("its end");
        let captured = capture.stop().expect("a capture");
        assert_eq!(captured.contains(b"marker of both"), expected, "{guard}");
    }
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    let out = child.stdout.take().expect("its output");
    let read = std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line);
    read.expect("a line");
    line.trim().to_owned()
}

/// A classifier at the node's side of a's link, behind those that are there.
fn classifier(world: &World, verdict: &str) -> Child {
    let mut command = world.on_node("n1", PYTHON);
    command.args(["-c", CLIENT, "classifier", "v-a", verdict]);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.expect("a program");
    assert_eq!(first_line(&mut child), "attached");
    child
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    assert!(child.wait().expect("its end").success());
}

#[test]
fn a_program_behind_the_guard_still_decides_and_one_that_was_there_does_not_hide_it() {
    let (world, a, out) = outside();
    // TCX_PASS: whoever is behind it is not asked.
    let accepts = classifier(&world, "0");
    let _agent = world.agent("n1", &[]).expect("an agent");
    assert!(readable(&world, &a, &out, &["late_device", "packet"]).is_empty());
    end(accepts);
    let call = || {
        in_pod(
            &world,
            &a,
            &["plain", &a.v4(), &ports(&out, APP_PORT)[0], "hello"],
        )
    };
    assert!(call()["error"].is_null(), "{}", call());
    // TCX_DROP: what the guard lets through is asked there.
    let drops = classifier(&world, "2");
    assert!(!call()["error"].is_null());
    end(drops);
    let back = eventually(Duration::from_secs(10), || call()["error"].is_null());
    assert!(back, "{}", call());
}

/// Link-local address of the pod's eth0, as others on the link name it.
fn link_local(pod: &Pod) -> String {
    let shown = Command::new("ip")
        .args([
            "-n",
            pod.netns(),
            "-6",
            "-o",
            "addr",
            "show",
            "dev",
            "eth0",
            "scope",
            "link",
        ])
        .output();
    let shown = String::from_utf8(shown.expect("ip").stdout).expect("text");
    let mut words = shown.split_whitespace().skip_while(|word| *word != "inet6");
    let address = words.nth(1).expect("an address");
    address.split('/').next().expect("an address").to_owned()
}

#[test]
fn a_fail_open_pod_is_open_only_while_no_agent_listens() {
    let mut world = World::new(1).expect("a world");
    let open = world.add_pod("n1", "open", Some("open")).expect("a pod");
    let plain = world.add_pod("n1", "plain", None).expect("a pod");
    for pod in [&open, &plain] {
        world.serve(pod).expect("a server");
    }
    let to = |pod: &Pod| format!("[{}%eth0]:{APP_PORT}", link_local(pod));
    let (inwards, outwards) = (to(&open), to(&plain));
    let call = |from: &Pod, to: &str| in_pod(&world, from, &["plain", "", to, "hello"]);
    let agent = world.agent("n1", &[]).expect("an agent");
    assert!(!call(&plain, &inwards)["error"].is_null());
    assert_eq!(call(&open, &outwards)["error"], "EPERM");
    // To itself it speaks as before.
    assert!(
        call(&open, &inwards)["error"].is_null(),
        "{}",
        call(&open, &inwards)
    );
    let [vip, _] = plain.vips();
    assert!(
        call(&open, &vip)["error"].is_null(),
        "{}",
        call(&open, &vip)
    );
    agent.kill9().expect("kill");
    assert!(
        call(&plain, &inwards)["error"].is_null(),
        "{}",
        call(&plain, &inwards)
    );
    assert!(
        call(&open, &outwards)["error"].is_null(),
        "{}",
        call(&open, &outwards)
    );
}

fn problems(agent: &Agent) -> String {
    agent.status().expect("a status")["problems"].to_string()
}

#[test]
fn a_pod_without_an_end_on_the_node_and_its_other_addresses_are_said_in_status() {
    let mut world = World::new(1).expect("a world");
    let a = world.add_pod("n1", "a", Some("closed")).expect("a pod");
    let node = |args: &str| {
        let done = world.on_node("n1", "ip").args(args.split(' ')).status();
        assert!(done.expect("ip").success(), "{args}");
    };
    let inside = |args: &str| {
        let done = world.in_pod(&a, "ip").args(args.split(' ')).status();
        assert!(done.expect("ip").success(), "{args}");
    };
    inside("link del eth0");
    node(&format!(
        "link add link br0 name eth0 netns {} type macvlan mode bridge",
        a.netns()
    ));
    inside(&format!("addr add {}/24 dev eth0", a.v4()));
    inside(&format!("addr add {}/64 dev eth0 nodad", a.v6()));
    inside("link add net1 type veth peer name other");
    inside("addr add 10.9.0.5/24 dev net1");
    // A second network, with none of the pod's addresses.
    node(&format!(
        "link add link br0 name net2 netns {} type macvlan mode bridge",
        a.netns()
    ));
    let agent = world.agent("n1", &[]).expect("an agent");
    let said = problems(&agent);
    assert!(
        said.contains("its interface eth0, net2 has no other end on this node"),
        "{said}"
    );
    assert!(
        said.contains("its address 10.9.0.5 (net1) are refused"),
        "{said}"
    );
}

#[test]
fn an_address_that_is_left_alone_is_reached_past_the_agent_and_others_are_not() {
    let mut world = World::new(1).expect("a world");
    let mut spec = PodSpec::new("n1", "a").enrolled(OnAgentDown::Closed);
    let a = world.add(&spec).expect("a pod");
    let plain = world.add_pod("n1", "plain", None).expect("a pod");
    world.serve(&a).expect("a server");
    for ip in ["10.77.0.77/24", "10.77.0.78/24"] {
        let added = world
            .in_pod(&a, "ip")
            .args(["addr", "add", ip, "dev", "eth0"])
            .status();
        assert!(added.expect("ip").success());
    }
    let agent = world.agent("n1", &[]).expect("an agent");
    assert!(problems(&agent).contains("10.77.0.77 (eth0), 10.77.0.78 (eth0)"));
    let reached = |ip: &str| {
        let to = format!("{ip}:{APP_PORT}");
        in_pod(&world, &plain, &["plain", "", &to, "hello"])["error"].is_null()
    };
    assert!(!reached("10.77.0.77"));
    let own = a.v4();
    spec = spec.annotation(
        "mesh-agent.io/exclude-addresses",
        &format!("10.77.0.77, {own}"),
    );
    world.configure(&spec, &a).expect("a change");
    assert!(eventually(Duration::from_secs(20), || reached(
        "10.77.0.77"
    )));
    assert!(!reached("10.77.0.78"));
    let steered = count(&agent, "steered_inbound");
    assert!(reached(&own));
    let taken = eventually(Duration::from_secs(20), || {
        count(&agent, "steered_inbound") > steered
    });
    assert!(taken, "its own address is never left alone");
    assert!(
        problems(&agent).contains("exclude-addresses has"),
        "{}",
        problems(&agent)
    );
}

#[test]
fn a_link_that_a_pod_is_given_later_is_guarded_when_its_own_is_replaced() {
    let (world, a, out) = outside();
    let agent = world.agent("n1", &[]).expect("an agent");
    // Also where a look has come between the two.
    world.take_link(&a).expect("no link");
    let _seen = agent.comes_to("mesh_agent_reattached", "", 1.0);
    world.give_link(&a).expect("a new link");
    let links = || std::fs::read_dir(world.pins("n1")).expect("pins").count();
    assert_eq!(links(), 1);
    let guarded = eventually(Duration::from_secs(10), || {
        readable(&world, &a, &out, &["packet"]).is_empty()
    });
    assert!(guarded, "the new link is not guarded");
}
