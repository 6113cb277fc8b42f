//! Agents that die, stop and start; pods that come and go.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use mesh_tests::{World, eventually};

fn reached(world: &World, from: &mesh_tests::Pod, to: &mesh_tests::Pod) -> serde_json::Value {
    let args = ["--count", "20", "--inflight", "4"];
    world
        .storm(from, &to.targets()[2..], &args)
        .expect("a report")
}

#[test]
fn without_its_agent_a_closed_pod_is_refused_and_an_open_one_passes_until_it_is_back() {
    let mut world = World::new(1).expect("a world");
    let closed = world
        .add_pod("n1", "closed", Some("closed"))
        .expect("a pod");
    let open = world.add_pod("n1", "open", Some("open")).expect("a pod");
    let server = world.add_pod("n1", "server", Some("open")).expect("a pod");
    world.serve(&server).expect("a server");
    world.serve(&closed).expect("a server");
    for _round in 0..3 {
        let agent = world.agent("n1", &[]).expect("an agent");
        assert_eq!(reached(&world, &closed, &server)["ok"], 20);
        assert_eq!(reached(&world, &open, &closed)["ok"], 20);
        agent.kill9().expect("kill");
        let report = reached(&world, &closed, &server);
        assert_eq!(report["ok"], 0, "{report}");
        assert!(
            report["errors"]
                .to_string()
                .contains("Operation not permitted"),
            "{report}"
        );
        assert_eq!(reached(&world, &open, &server)["ok"], 20, "open passes");
        let report = reached(&world, &open, &closed);
        assert_eq!(
            report["ok"], 0,
            "nothing comes in at a closed pod: {report}"
        );
        assert!(report["errors"].to_string().contains("refused"), "{report}");
    }
}

#[test]
fn a_stopped_agent_leaves_nothing_and_cleanup_removes_what_a_killed_one_left() {
    let mut world = World::new(1).expect("a world");
    let a = world.add_pod("n1", "a", Some("closed")).expect("a pod");
    let b = world.add_pod("n1", "b", Some("closed")).expect("a pod");
    world.serve(&b).expect("a server");
    let agent = world.agent("n1", &[]).expect("an agent");
    assert_ne!(world.capture_rules(&a).expect("rules"), "");
    assert!(agent.stop().expect("stop").success());
    assert_eq!(world.capture_rules(&a).expect("rules"), "");
    assert!(!world.pins("n1").exists());
    assert_eq!(reached(&world, &a, &b)["ok"], 20, "direct again");

    world
        .agent("n1", &[])
        .expect("an agent")
        .kill9()
        .expect("kill");
    assert!(world.pins("n1").exists());
    assert!(world.cleanup("n1").expect("cleanup").status.success());
    assert!(!world.pins("n1").exists());
    assert_eq!(world.capture_rules(&a).expect("rules"), "");
    assert_eq!(reached(&world, &a, &b)["ok"], 20, "direct again");
}

#[test]
fn a_start_that_is_killed_at_any_point_is_repaired_by_the_next() {
    let mut world = World::new(1).expect("a world");
    let a = world.add_pod("n1", "a", Some("closed")).expect("a pod");
    let b = world.add_pod("n1", "b", Some("closed")).expect("a pod");
    world.serve(&b).expect("a server");
    for ms in (0..60).step_by(6) {
        let agent = world.spawn_agent("n1", &[]).expect("an agent");
        // Not synchronisation: the moment of death is what varies.
        std::thread::sleep(Duration::from_millis(ms));
        agent.kill9().expect("kill");
    }
    let agent = world.agent("n1", &[]).expect("an agent");
    assert_eq!(reached(&world, &a, &b)["ok"], 20);
    assert!(agent.stop().expect("stop").success());
    assert!(!world.pins("n1").exists());
}

#[test]
fn a_removed_pod_with_live_connections_leaves_no_descriptor_and_no_namespace() {
    let mut world = World::new(1).expect("a world");
    let a = world.add_pod("n1", "a", Some("closed")).expect("a pod");
    let b = world.add_pod("n1", "b", Some("closed")).expect("a pod");
    world.serve(&b).expect("a server");
    let agent = world.agent("n1", &[]).expect("an agent");
    let base = agent.open_fds();
    let target = format!("{}:{}", b.v4(), mesh_tests::APP_PORT);
    let mut holder = world
        .app(&a)
        .args(["hold", &target, "500"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a client");
    let mut line = String::new();
    BufReader::new(holder.stdout.take().expect("output"))
        .read_line(&mut line)
        .expect("a line");
    assert_eq!(line.trim(), "held 500");
    let held = eventually(Duration::from_secs(5), || agent.open_fds() >= base + 990);
    assert!(
        held,
        "{base} descriptors before, {} with 500 connections",
        agent.open_fds()
    );
    world.remove_pod(&a).expect("remove");
    holder.wait().expect("the client ends");
    let freed = eventually(Duration::from_secs(2), || agent.open_fds() < base);
    assert!(
        freed,
        "{base} descriptors before, {} after",
        agent.open_fds()
    );
    let gone = eventually(Duration::from_secs(2), || {
        let out = world
            .on_node("n1", "ip")
            .args(["link", "show", "v-a"])
            .output();
        out.is_ok_and(|o| !o.status.success())
    });
    assert!(gone, "the namespace is kept alive");
}

#[test]
fn mistakes_in_the_configuration_are_shown_and_hurt_nobody_else() {
    let mut world = World::new(1).expect("a world");
    let a = world.add_pod("n1", "a", Some("closed")).expect("a pod");
    let b = world.add_pod("n1", "b", Some("closed")).expect("a pod");
    world.serve(&b).expect("a server");
    let lost = world.add_pod("n1", "lost", Some("closed")).expect("a pod");
    world.remove_netns(&lost).expect("remove");
    let agent = world.spawn_agent("n1", &[]).expect("an agent");
    let shown = eventually(Duration::from_secs(10), || {
        agent.status().is_ok_and(|s| {
            s["problems"]
                .to_string()
                .contains("Pod shop/lost is not enrolled: cannot open")
        })
    });
    assert!(shown, "{}", agent.log());
    assert_eq!(agent.status().expect("status")["ready"], false);
    assert_eq!(reached(&world, &a, &b)["ok"], 20);
}
