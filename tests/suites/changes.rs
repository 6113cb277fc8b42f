//! What changes about an enrolled pod while it has connections, and what only
//! looks as if it left: in no case is there a moment in which it is open.

use std::time::Duration;

use mesh_tests::{Agent, ClosedPair, OnAgentDown, Pod, PodSpec, World, eventually, was_never_open};

fn scene() -> ClosedPair {
    ClosedPair::new(true).expect("a closed pair")
}

fn spec() -> PodSpec {
    PodSpec::new("n1", "a").enrolled(OnAgentDown::Closed)
}

fn status_of(agent: &Agent, pod: &str) -> serde_json::Value {
    let status = agent.status().unwrap_or_default();
    let pods = status["pods"].as_array().cloned().unwrap_or_default();
    let found = pods.into_iter().find(|p| p["pod"] == pod);
    found.unwrap_or_default()
}

fn becomes(agent: &Agent, enrolled: bool) {
    let became = eventually(Duration::from_secs(10), || {
        status_of(agent, "shop/a")["enrolled"] == enrolled
    });
    assert!(became, "{}", agent.log());
}

/// The measure itself works: without the mesh the same clients' bytes are found.
#[test]
fn plaintext_is_found_where_there_is_some() {
    let scene = ClosedPair::new(false).expect("an open pair");
    let capture = scene.leaks().expect("a capture");
    let _load = scene.direct_load().expect("answers");
    let captured = capture.stop().expect("a capture");
    let from = |pod: &Pod| {
        let own = |ip: std::net::IpAddr| [pod.v4(), pod.v6()].contains(&ip.to_string());
        let flows = captured.flows.keys().filter(|(from, _)| own(from.ip()));
        flows.count()
    };
    // Requests of a, answers of c and of a, in both families.
    assert!(from(&scene.a) >= 20 && from(&scene.c) >= 10);
}

#[test]
fn a_pod_whose_place_is_mistyped_stays_closed_and_is_served_as_it_was() {
    let scene = scene();
    let agent = scene.agent(&[]).expect("an agent");
    let capture = scene.leaks().expect("a capture");
    let mut load = scene.load().expect("two clients");
    let wrong = spec().found_by("netns", "/run/netns/mistyped");
    scene.world.configure(&wrong, &scene.a).expect("written");
    becomes(&agent, false);
    let said = status_of(&agent, "shop/a")["message"].to_string();
    assert!(said.contains("/run/netns/mistyped"), "{said}");
    load.iter_mut().for_each(|c| c.begin_next().expect("told"));
    load[0].wait_for("carried", 50).expect("it is still served");
    // Another identity in a place that nobody knows is not served.
    let other = wrong.clone().account("other");
    scene.world.configure(&other, &scene.a).expect("written");
    load[0].wait_for("EPERM", 20).expect("refused");
    load[1].begin_next().expect("told");
    load[1].wait_for("ECONNREFUSED", 20).expect("refused");
    scene.world.configure(&spec(), &scene.a).expect("written");
    becomes(&agent, true);
    load[0].begin_next().expect("told");
    load[0].wait_for("carried", 50).expect("carried again");
    was_never_open(capture, &mut load).expect("closed all the time");
}

#[test]
fn a_pod_whose_document_cannot_be_read_at_a_restart_stays_closed_until_a_word_frees_it() {
    let scene = scene();
    let agent = scene.agent(&["--on-stop", "keep"]).expect("an agent");
    let capture = scene.leaks().expect("a capture");
    let mut load = scene.load().expect("two clients");
    assert!(agent.stop().expect("stop").success());
    scene
        .world
        .write_config("a", "kind: Pod\nmetadata: [\n")
        .expect("written");
    let agent = scene.agent(&["--on-stop", "keep"]).expect("an agent");
    load.iter_mut().for_each(|c| c.begin_next().expect("told"));
    load[0].wait_for("EPERM", 50).expect("refused");
    load[1].wait_for("ECONNREFUSED", 20).expect("refused");
    let problems = agent.status().expect("a status")["problems"].to_string();
    assert!(problems.contains("stays closed"), "{problems}");
    // It can be read, and is served.
    scene.world.configure(&spec(), &scene.a).expect("written");
    becomes(&agent, true);
    load[0].begin_next().expect("told");
    load[0].wait_for("carried", 50).expect("carried");
    was_never_open(capture, &mut load).expect("closed all the time");
    // The label is off: that is a word.
    let off = PodSpec::new("n1", "a");
    scene.world.configure(&off, &scene.a).expect("written");
    load[1].begin_next().expect("told");
    load[1].wait_for("direct", 20).expect("it is let go");
}

#[test]
fn the_pins_of_a_running_agent_are_nobody_elses() {
    let scene = scene();
    let agent = scene.agent(&[]).expect("an agent");
    let capture = scene.leaks().expect("a capture");
    let mut load = scene.load().expect("two clients");
    let out = scene.world.cleanup("n1").expect("cleanup runs");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("stop it first"), "{said}");
    // Another directory for its socket and another port for its pages.
    let second = scene
        .world
        .agent_command("n1", "run")
        .get_program()
        .to_owned();
    let node = scene.world.pod_cgroup("n1", "");
    let out = scene
        .world
        .on_node("n1", &second.to_string_lossy())
        .args([
            "run",
            "--node-name",
            "n1",
            "--metrics-addr",
            "127.0.0.1:15099",
        ])
        .arg("--config-dir")
        .arg(scene.world.config_dir())
        .arg("--bpffs-dir")
        .arg(scene.world.pins("n1"))
        .arg("--run-dir")
        .arg(scene.world.dir().join("second"))
        .arg("--cgroup-root")
        .arg(&node)
        .arg("--agent-cgroup")
        .arg(node.join("agent"))
        .output()
        .expect("a second agent");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("stop it first"), "{said}");
    load.iter_mut().for_each(|c| c.begin_next().expect("told"));
    load[0].wait_for("carried", 50).expect("still carried");
    was_never_open(capture, &mut load).expect("closed all the time");
    drop(load);
    agent.kill9().expect("kill");
    assert!(scene.world.cleanup("n1").expect("cleanup").status.success());
    assert!(!scene.world.pins("n1").exists());
}

#[test]
fn what_is_taken_out_of_a_pods_namespace_is_put_back() {
    let scene = scene();
    let agent = scene.agent(&[]).expect("an agent");
    let before = scene.world.capture_rules(&scene.a).expect("rules");
    let shell = |script: &str| {
        let done = scene
            .world
            .in_pod(&scene.a, "sh")
            .args(["-ec", script])
            .status();
        assert!(done.expect("a shell").success(), "{script}");
    };
    let setting = "/proc/sys/net/ipv4/tcp_fwmark_accept";
    for script in [
        "ip rule del priority 100",
        "ip -6 rule del priority 100",
        "ip route flush table 28005",
        "ip -6 route flush table 28005",
        "echo 0 > /proc/sys/net/ipv4/tcp_fwmark_accept",
    ] {
        let mended = || agent.metric("mesh_agent_reattached", "").expect("a metric");
        let count = mended();
        shell(script);
        let done = eventually(Duration::from_secs(10), || mended() > count);
        assert!(done, "{script}: {}", agent.log());
        assert_eq!(scene.world.capture_rules(&scene.a).expect("rules"), before);
        shell(&format!("! grep -qx 0 {setting}"));
        shell("ip route show table 28005 | grep -q lo; ip -6 route show table 28005 | grep -q lo");
    }
    // One in front of ours is not ours to take away: it is said.
    let args = ["--count", "10", "--inflight", "2"];
    let [.., v4, v6] = &scene.c.targets()[..] else {
        panic!("its own addresses");
    };
    for (to, family) in [(v4, "-4"), (v6, "-6")] {
        let storm = || scene.world.storm(&scene.a, std::slice::from_ref(to), &args);
        for way in ["lookup main", "prohibit", "unreachable", "blackhole"] {
            shell(&format!(
                "ip {family} rule add fwmark 0x6d657368 priority 50 {way}"
            ));
            becomes(&agent, false);
            let report = storm().expect("a report");
            assert_eq!(report["ok"], 0, "{family} {way}: {report}");
            let errors = report["errors"].to_string();
            assert!(errors.contains("not permitted"), "{family} {way}: {report}");
            shell(&format!("ip {family} rule del priority 50"));
            becomes(&agent, true);
            let served = eventually(Duration::from_secs(10), || {
                storm().is_ok_and(|report| report["ok"] == 10)
            });
            assert!(served, "{family} {way}: {}", agent.log());
        }
    }
}

#[test]
fn a_pod_without_ipv6_is_enrolled_with_the_family_that_it_has() {
    let mut world = World::new(1).expect("a world");
    let b = world.add_pod("n1", "b", Some("closed")).expect("a pod");
    world.serve(&b).expect("a server");
    let a = world.add(&spec()).expect("a pod");
    world
        .set_sysctl(&a, "net.ipv6.conf.all.disable_ipv6", "1")
        .expect("a setting");
    let agent = world.agent("n1", &[]).expect("an agent");
    becomes(&agent, true);
    let status = agent.status().expect("a status");
    assert!(
        status["problems"].to_string().contains("has no IPv6"),
        "{status}"
    );
    let args = ["--count", "20", "--inflight", "4"];
    let report = world
        .storm(&a, &b.targets()[2..3], &args)
        .expect("a report");
    assert_eq!(report["ok"], 20, "{report}");
    let report = world.storm(&a, &b.targets()[3..], &args).expect("a report");
    assert_eq!(report["ok"], 0, "{report}");
    // It gets the other one as soon as it has it.
    let switch_on = "echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6; \
                     ip -6 addr add \"$1\"/64 dev eth0 nodad; ip -6 route add default dev eth0";
    let on = world
        .in_pod(&a, "sh")
        .args(["-ec", switch_on, "sh", &a.v6()])
        .status();
    assert!(on.expect("a shell").success());
    let served = eventually(Duration::from_secs(10), || {
        let report = world.storm(&a, &b.targets()[3..], &args);
        report.is_ok_and(|report| report["ok"] == 20)
    });
    assert!(served, "{}", agent.log());
    world
        .set_sysctl(&a, "net.ipv6.conf.all.disable_ipv6", "1")
        .expect("a setting");
    assert!(agent.stop().expect("stop").success());
    assert!(!world.pins("n1").exists());
    assert_eq!(world.capture_rules(&b).expect("rules"), "");
}

/// Says as whom each client came, at an address that no document names.
const OUTSIDE: &str = "
import socket
listener = socket.create_server(('10.77.0.201', 9000))
print('serving', flush=True)
while True:
    client, peer = listener.accept()
    client.sendall(peer[0].encode())
    client.close()
";

/// Connects, and says what it is told or what became of it; bound, where an address is said.
const CONNECT: &str = "
import errno, socket, sys
client = socket.socket(socket.AF_INET)
client.settimeout(5)
try:
    if sys.argv[3:]: client.bind((sys.argv[3], 0))
    client.connect((sys.argv[1], int(sys.argv[2])))
    client.sendall(b'x')
    print(client.recv(64).decode() or 'closed')
except OSError as error:
    print(errno.errorcode.get(error.errno, error))
";

fn said(mut command: std::process::Command, args: &[&str]) -> String {
    let out = command.args(["-c", CONNECT]).args(args).output();
    let out = out.expect("python3 runs").stdout;
    String::from_utf8_lossy(&out).trim().to_owned()
}

/// As in an IPv6 cluster of EKS: beside its IPv6 address it has one that is translated on its
/// way out of the node.
#[test]
fn a_pod_leaves_the_mesh_by_an_address_that_its_network_gave_it_for_that_and_is_not_reached_there()
{
    let mut world = World::new(1).expect("a world");
    let b = world.add_pod("n1", "b", Some("closed")).expect("a pod");
    world.serve(&b).expect("a server");
    let a = world.add(&spec().only_v6()).expect("a pod");
    world.serve(&a).expect("a server");
    let egress = "ip -4 addr flush dev eth0; ip addr add 169.254.172.5/22 dev eth0; \
                  ip addr add 169.254.172.6/22 dev eth0; ip route add default dev eth0";
    let inside = world.in_pod(&a, "sh").args(["-ec", egress]).status();
    assert!(inside.expect("a shell").success());
    let gateway = ["addr", "add", "169.254.172.1/22", "dev", "br0"];
    let on_node = world.on_node("n1", "ip").args(gateway).status();
    assert!(on_node.expect("ip runs").success());
    let mut outside = world.on_node("n1", "python3");
    outside
        .args(["-c", OUTSIDE])
        .stdout(std::process::Stdio::piped());
    let mut outside = outside.spawn().expect("python3 runs");
    let mut line = String::new();
    let stdout = outside.stdout.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
    let agent = world.agent("n1", &[]).expect("an agent");
    becomes(&agent, true);
    let from_a = |args: &[&str]| said(world.in_pod(&a, "python3"), args);
    assert_eq!(
        from_a(&["10.77.0.201", "9000"]),
        "169.254.172.5",
        "{}",
        agent.log()
    );
    let captured = agent.comes_to(
        "mesh_agent_kernel_events_total",
        "\"connect_captured\"",
        1.0,
    );
    assert!(captured >= 1.0, "{captured}");
    // Whoever it is must not be told by that address, nor may it speak as another one.
    assert_eq!(from_a(&[&b.v4(), "8080"]), "ECONNRESET");
    assert_eq!(from_a(&["10.77.0.201", "9000", "169.254.172.6"]), "EPERM");
    for address in ["169.254.172.5", "169.254.172.6"] {
        let reached = said(world.on_node("n1", "python3"), &[address, "8080"]);
        let is_refused = ["ECONNRESET", "ECONNREFUSED", "timed out"].contains(&&*reached);
        assert!(is_refused, "{address}: {reached}");
    }
    let warning = &status_of(&agent, "shop/a")["warning"];
    assert!(warning.is_null(), "{warning}");
    // With another one it goes on, also where a look has come between the two.
    let inside = |script: &str| {
        let done = world.in_pod(&a, "sh").args(["-ec", script]).status();
        assert!(done.expect("a shell").success(), "{script}");
    };
    let changed = || agent.log().matches("changed pod=shop/a").count();
    inside("ip -4 addr flush dev eth0");
    let seen = eventually(Duration::from_secs(10), || changed() == 1);
    assert!(seen, "{}", agent.log());
    inside("ip addr add 169.254.172.6/22 dev eth0; ip route add default dev eth0");
    let goes_on = eventually(Duration::from_secs(10), || {
        from_a(&["10.77.0.201", "9000"]) == "169.254.172.6"
    });
    assert!(goes_on, "{}", agent.log());
    outside.kill().expect("killed");
    outside.wait().expect("ended");
}

/// The wire's view of one that has its other address from one moment to the next.
#[test]
fn a_fail_open_pod_whose_only_address_is_replaced_is_open_at_no_moment() {
    let scene = scene();
    let open = PodSpec::new("n1", "a").enrolled(OnAgentDown::Open);
    let (v4, v6) = (open.clone().only_v4(), open.only_v6());
    scene.world.configure(&v4, &scene.a).expect("written");
    let agent = scene.agent(&[]).expect("an agent");
    let capture = scene.leaks().expect("a capture");
    let mut load = scene.load().expect("two clients");
    let generation = || agent.status().expect("a status")["generation"].as_u64();
    for change in 0..200 {
        let next = if change % 2 == 0 { &v6 } else { &v4 };
        let before = generation();
        scene.world.configure(next, &scene.a).expect("written");
        let taken = eventually(Duration::from_secs(10), || generation() > before);
        assert!(taken, "change {change}: {}", agent.log());
    }
    becomes(&agent, true);
    load[0].begin_next().expect("told");
    load[0].wait_for("carried", 50).expect("carried");
    was_never_open(capture, &mut load).expect("closed all the time");
}

/// Changes of account, address and setting; each takes place within a moment.
const CHANGES: usize = 1_000;

#[test]
fn a_thousand_changes_of_a_pod_under_load_open_it_at_no_moment() {
    let scene = scene();
    let agent = scene.agent(&[]).expect("an agent");
    let capture = scene.leaks().expect("a capture");
    let mut load = scene.load().expect("two clients");
    let policies = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                    metadata: {name: all, namespace: shop}\nspec: {rules: [{}]}\n";
    scene.world.write_config("all", policies).expect("written");
    let generation = || agent.status().expect("a status")["generation"].as_u64();
    let mut holder = scene.hold(300).expect("300 connections");
    for change in 0..CHANGES {
        let mut next = spec().label("turn", &change.to_string());
        if change % 2 == 1 {
            next = next.account("other");
        }
        if change % 3 == 1 {
            next = next.uid(&format!("uid-{change}"));
        }
        if change % 5 == 1 {
            next = next.annotation("example.org/turn", "on");
        }
        if change % 4 == 1 {
            next = next.only_v4();
        }
        let before = generation();
        scene.world.configure(&next, &scene.a).expect("written");
        let taken = eventually(Duration::from_secs(10), || generation() > before);
        assert!(taken, "change {change}: {}", agent.log());
    }
    scene.world.configure(&spec(), &scene.a).expect("written");
    becomes(&agent, true);
    load[0].begin_next().expect("told");
    load[0].wait_for("carried", 50).expect("carried");
    was_never_open(capture, &mut load).expect("closed all the time");
    drop(holder.stdin.take());
    holder.wait().expect("the client ends");
}
