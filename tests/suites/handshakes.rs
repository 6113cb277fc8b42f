//! The handshakes of connections to the agent's own listeners in a pod: what is lost
//! of them, what comes early, and whether its answer may leave.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mesh_tests::{
    APP_PORT, Agent, ClosedPair, Pod, World, detach_links, eventually, mesh_mode, parse,
};
use serde_json::Value;

const CLIENT: &str = include_str!("guard.py");

fn client(world: &World, pod: &Pod, args: &[&str]) -> Command {
    let mut command = world.in_pod(pod, "python3");
    command.args(["-c", CLIENT]).args(args);
    command
}

fn in_pod(world: &World, pod: &Pod, args: &[&str]) -> Value {
    let out = client(world, pod, args).output();
    parse(&out.expect("a client")).expect("its report")
}

fn started(world: &World, pod: &Pod, args: &[&str]) -> Child {
    let child = client(world, pod, args).stdout(Stdio::piped()).spawn();
    child.expect("a client")
}

fn report(child: Child) -> Value {
    parse(&child.wait_with_output().expect("its end")).expect("its report")
}

fn ports(pod: &Pod) -> [String; 2] {
    [
        format!("{}:{APP_PORT}", pod.v4()),
        format!("[{}]:{APP_PORT}", pod.v6()),
    ]
}

/// Pod a on n1, enrolled and closed, which serves; pod out on n2, outside of the mesh.
fn served() -> (World, Pod, Pod) {
    let mut world = World::new(2).expect("a world");
    let a = world.add_pod("n1", "a", Some("closed")).expect("a pod");
    let out = world.add_pod("n2", "out", None).expect("a pod");
    world.serve(&a).expect("a server");
    (world, a, out)
}

fn count(agent: &Agent, event: &str) -> f64 {
    agent
        .metric("mesh_agent_kernel_events", &format!("\"{event}\""))
        .expect("a metric")
}

#[test]
fn an_answer_of_the_agents_that_was_lost_leaves_again_when_it_is_repeated() {
    for cookies in ["1", "2"] {
        let (world, a, out) = served();
        world
            .set_sysctl(&a, "net.ipv4.tcp_syncookies", cookies)
            .expect("a setting");
        for rule in [
            "add table inet lossy",
            "add chain inet lossy in { type filter hook input priority 0 ; }",
            "add rule inet lossy in tcp flags & (syn|ack) == syn|ack \
             numgen inc mod 2 == 0 counter drop",
        ] {
            let added = world.in_pod(&out, "nft").arg(rule).status();
            assert!(added.expect("nft").success(), "{rule}");
        }
        let agent = world.agent("n1", &[]).expect("an agent");
        for to in ports(&a) {
            let answer = in_pod(&world, &out, &["patient", "", &to, "hello"]);
            assert!(answer["error"].is_null(), "{cookies} {to} {answer}");
        }
        let shown = world.in_pod(&out, "nft").args(["list", "ruleset"]).output();
        let shown = String::from_utf8(shown.expect("nft").stdout).expect("text");
        assert!(shown.contains("counter packets 2 "), "{shown}");
        assert!(count(&agent, "guard_refused_answer") < 0.5);
    }
}

/// Handshakes that wait in the pod for their third part.
fn half_open(world: &World, pod: &Pod) -> usize {
    const SYN_RECV: &str = " 03 ";
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let shown = world.in_pod(pod, "cat").args(tables).output();
    let shown = String::from_utf8(shown.expect("cat").stdout).expect("text");
    shown.lines().filter(|l| l.contains(SYN_RECV)).count()
}

#[test]
fn an_answer_that_could_not_be_noted_leaves_when_it_is_repeated() {
    let (world, a, out) = served();
    let agent = world.agent("n1", &[]).expect("an agent");
    let notes = world.pinned("n1", "links", "sockops-agent");
    agent.pause().expect("it does not put it back");
    detach_links(&notes.expect("a pin")).expect("detached");
    let clients = ports(&a).map(|to| started(&world, &out, &["patient", "", &to, "hello"]));
    let asked = eventually(Duration::from_secs(20), || half_open(&world, &a) == 2);
    assert!(asked, "no SYN came");
    agent.resume().expect("it looks after its programs");
    for client in clients {
        let answer = report(client);
        assert!(answer["error"].is_null(), "{answer}: {}", agent.log());
    }
    assert!(count(&agent, "guard_refused_answer") >= 2.0);
}

/// Fast open for every listener of the namespace that does not say otherwise, with
/// no cookie: data of a SYN is taken before its client has proved its address.
const EVERY_LISTENER: &str = "1539";

#[test]
fn what_comes_with_a_syn_is_taken_once_its_client_has_proved_its_address() {
    let scene = ClosedPair::new(true).expect("a closed pair");
    let permissive = mesh_mode("PERMISSIVE");
    scene
        .world
        .write_config("strict", &permissive)
        .expect("written");
    for pod in [&scene.a, &scene.p] {
        let set = scene
            .world
            .set_sysctl(pod, "net.ipv4.tcp_fastopen", EVERY_LISTENER);
        set.expect("a setting");
    }
    let agent = scene.agent(&[]).expect("an agent");
    let capture = scene
        .world
        .capture_packets("n1", scene.world.wire("n1"), "");
    let capture = capture.expect("a capture");
    // From outside to the pod, and from the pod to another one of the mesh.
    for (from, to, marker) in [
        (&scene.p, &scene.a, "marker-from-outside"),
        (&scene.a, &scene.c, "marker-of-the-mesh"),
    ] {
        for to in ports(to) {
            let answer = in_pod(&scene.world, from, &["early", "", &to, marker]);
            assert!(answer["error"].is_null(), "{to}: {answer}");
            assert_eq!(answer["whole"], true, "{to}: {answer}");
            assert_eq!(answer["taken"], false, "{to}: {answer}");
        }
    }
    let captured = capture.stop().expect("a capture");
    assert!(captured.contains(b"marker-from-outside"));
    assert!(!captured.contains(b"marker-of-the-mesh"));
    // What a policy forbids does not come to the application early either.
    let strict = mesh_mode("STRICT");
    scene
        .world
        .write_config("strict", &strict)
        .expect("written");
    for to in ports(&scene.a) {
        let refused = eventually(Duration::from_secs(20), || {
            let answer = in_pod(&scene.world, &scene.p, &["early", "", &to, "forbidden"]);
            !answer["error"].is_null()
        });
        assert!(refused, "{to}: {}", agent.log());
    }
}
