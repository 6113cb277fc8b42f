//! After a reboot: pods are held until they are known, whichever agent knows them.

use std::time::Duration;

use mesh_tests::{
    ANOTHER_VERSION, APP_PORT, Agent, Pod, World, becomes_enrolled, counted, eventually, is_carried,
};

use super::{BURSTABLE, finder, pair, reaches, spec};

/// A node after a reboot: pods of the mesh were here, and nothing is pinned.
fn rebooted(world: &World) {
    let dir = world.node_dir("n1");
    std::fs::create_dir_all(&dir).expect("made");
    std::fs::write(dir.join("has-pods"), "").expect("written");
}

fn served<const N: usize>(world: &mut World, names: [&str; N]) -> [Pod; N] {
    names.map(|name| {
        let pod = world.add(&spec(name, BURSTABLE)).expect("a pod");
        world.serve(&pod).expect("a process");
        pod
    })
}

fn comes_through(world: &World, agent: &Agent, from: &Pod, to: &Pod) {
    let passes = eventually(Duration::from_secs(10), || reaches(world, from, to));
    assert!(passes, "{}", agent.log());
}

#[test]
fn after_a_reboot_a_pod_is_held_until_it_is_known_to_be_outside_and_no_other_is() {
    let (mut world, a, b) = pair();
    rebooted(&world);
    let [outside, unknown] = served(&mut world, ["outside", "unknown"]);
    world.remove_config("unknown").expect("removed");
    let agent = finder(&world, &[], &[]);
    becomes_enrolled(&agent, &a);
    is_carried(&world, &agent, &a, &b);
    comes_through(&world, &agent, &outside, &outside);
    assert!(!reaches(&world, &unknown, &outside), "{}", agent.log());
    // Whoever comes next holds it as well.
    agent.kill9().expect("killed");
    let agent = finder(&world, &[], &[]);
    becomes_enrolled(&agent, &a);
    assert!(reaches(&world, &outside, &outside), "{}", agent.log());
    assert!(!reaches(&world, &unknown, &outside), "{}", agent.log());
    world
        .configure(&spec("unknown", BURSTABLE), &unknown)
        .expect("written");
    comes_through(&world, &agent, &unknown, &outside);
}

#[test]
fn after_a_reboot_an_agent_that_knows_no_pod_and_is_killed_leaves_them_held() {
    let (mut world, _a, _b) = pair();
    rebooted(&world);
    let [outside] = served(&mut world, ["outside"]);
    let nothing = world.dir().join("nothing");
    std::fs::create_dir(&nothing).expect("made");
    let nothing = nothing.display().to_string();
    let flags = world.finding_flags("n1");
    for _ in 0..2 {
        let mut args: Vec<&str> = flags.iter().map(String::as_str).collect();
        args.extend(["--config-dir", &nothing]);
        let agent = world.agent("n1", &args).expect("an agent");
        assert!(!reaches(&world, &outside, &outside), "{}", agent.log());
        agent.kill9().expect("killed");
        assert!(!reaches(&world, &outside, &outside));
    }
    let agent = finder(&world, &[], &[]);
    comes_through(&world, &agent, &outside, &outside);
}

#[test]
fn after_a_reboot_pods_are_held_also_where_the_kubelet_makes_their_group_later() {
    let mut world = World::new(1).expect("a world");
    rebooted(&world);
    let tree = world.pod_cgroup("n1", "").display().to_string();
    let agent = finder(&world, &[], &["--cgroup-root", &tree]);
    let late = world.add(&spec("late", BURSTABLE)).expect("a pod");
    world.remove_config("late").expect("removed");
    world.serve(&late).expect("a process");
    assert!(!reaches(&world, &late, &late), "{}", agent.log());
    world
        .configure(&spec("late", BURSTABLE), &late)
        .expect("written");
    comes_through(&world, &agent, &late, &late);
}

/// An agent of another version, in another cgroup, that takes over from one that runs.
fn successor_of_another_version(world: &World, args: &[&str]) -> Agent {
    let by = world.by_another_version().expect("a copy");
    let by: Vec<&str> = by.iter().map(String::as_str).collect();
    let flags = world.finding_flags("n1");
    let mut all: Vec<&str> = flags.iter().map(String::as_str).collect();
    all.extend(args);
    let next = world.spawn_successor_by("n1", "agent-2", &by, &all);
    next.expect("another agent")
}

fn says(agent: &Agent, what: &str) {
    let told = eventually(Duration::from_secs(20), || agent.log().contains(what));
    assert!(told, "{}", agent.log());
}

fn versions(world: &World) -> usize {
    world.versions("n1").expect("pins").len()
}

#[test]
fn a_pod_that_is_held_stays_so_when_who_takes_over_is_killed_before_it_knows_all() {
    let (mut world, a, _b) = pair();
    rebooted(&world);
    let [outside, unknown] = served(&mut world, ["outside", "unknown"]);
    world.remove_config("unknown").expect("removed");
    let agent = finder(&world, &[], &[]);
    becomes_enrolled(&agent, &a);
    assert!(!reaches(&world, &unknown, &outside), "{}", agent.log());
    // Who sees no process cannot tell yet whom to hold.
    let unseen = world.dir().join("unseen").display().to_string();
    let next = successor_of_another_version(&world, &["--host-proc-dir", &unseen]);
    let pins = world.pins("n1").join(ANOTHER_VERSION);
    let hook = pins.join("links/mesh_connect4");
    let is_there = eventually(Duration::from_secs(20), || hook.exists());
    assert!(is_there, "{}", next.log());
    assert!(!reaches(&world, &unknown, &outside), "{}", next.log());
    agent.kill9().expect("killed");
    next.kill9().expect("killed");
    assert_eq!(versions(&world), 2);
    let by = world.by_another_version().expect("a copy");
    let by: Vec<&str> = by.iter().map(String::as_str).collect();
    let agent = finder(&world, &by, &[]);
    let settled = eventually(Duration::from_secs(10), || versions(&world) == 1);
    assert!(settled, "{}", agent.log());
    assert!(!reaches(&world, &unknown, &outside), "{}", agent.log());
    comes_through(&world, &agent, &outside, &outside);
}

#[test]
fn no_connect_of_a_pod_outside_fails_while_an_agent_of_another_version_takes_over() {
    let (mut world, a, _b) = pair();
    rebooted(&world);
    let [outside, server] = served(&mut world, ["outside", "server"]);
    let agent = finder(&world, &[], &[]);
    becomes_enrolled(&agent, &a);
    comes_through(&world, &agent, &outside, &server);
    let to = [
        format!("{}:{APP_PORT}", server.v4()),
        format!("[{}]:{APP_PORT}", server.v6()),
    ];
    let mut client = world.steady(&outside, &to).expect("a client");
    client.wait_for("direct", 50).expect("passed");
    let next = successor_of_another_version(&world, &[]);
    says(&next, "started: ready");
    client.wait_for("direct", 400).expect("passed");
    assert!(agent.stop().expect("it ends").success());
    let settled = eventually(Duration::from_secs(10), || versions(&world) == 1);
    assert!(settled, "{}", next.log());
    client.begin_next().expect("told");
    client.wait_for("direct", 100).expect("passed");
    for time in 0..=client.time {
        let tally = client.tally(time).expect("a tally");
        let keys = tally.as_object().expect("outcomes").keys();
        let wrong: Vec<_> = keys
            .filter(|key| !["direct", "stream"].contains(&key.as_str()))
            .collect();
        assert!(wrong.is_empty(), "{tally}: {}", next.log());
    }
    let refused = counted(&next, "connect_refused_unknown_netns");
    assert!(refused < 0.5, "{refused}");
}
