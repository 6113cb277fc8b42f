//! An agent takes over from one of another version, whose pins are beside its own.

use std::time::Duration;

use mesh_tests::{
    APP_PORT, Agent, ClosedPair, OnAgentDown, Pod, PodSpec, World, becomes_enrolled, eventually,
    has_left, is_enrolled, was_never_open,
};

#[test]
fn an_agent_of_another_version_hands_its_pods_over_without_opening_them() {
    let scene = ClosedPair::new(true).expect("a closed pair");
    let mut agent = scene.agent(&[]).expect("an agent");
    let capture = scene.leaks().expect("a capture");
    let mut load = scene.load().expect("two clients");
    for _ in 0..3 {
        agent.kill9().expect("kill");
        load.iter_mut().for_each(|c| c.begin_next().expect("told"));
        load[0].wait_for("EPERM", 20).expect("refused");
        agent_of_before(&scene.world);
        agent = scene.agent(&[]).expect("an agent");
        load[0].begin_next().expect("told");
        load[0].wait_for("carried", 50).expect("carried");
        let left = eventually(Duration::from_secs(20), || {
            versions(&scene.world).len() == 1
        });
        assert!(left, "{:?} {}", versions(&scene.world), agent.log());
    }
    was_never_open(capture, &mut load).expect("closed all the time");
}

fn versions(world: &World) -> Vec<String> {
    world.versions("n1").expect("pins")
}

/// The pins of an agent that was killed become those of another version.
fn agent_of_before(world: &World) {
    let pins = world.pins("n1");
    let [version] = &versions(world)[..] else {
        panic!("one version: {:?}", versions(world));
    };
    std::fs::rename(pins.join(version), pins.join("abi-1")).expect("renamed");
}

/// Classifiers do not go with the pins of who attached them.
const CLASSIFIERS: [&str; 2] = ["--link-guard", "clsact"];

/// Pod a on n1, held by an agent of another version that was killed; out on n2 serves.
fn held_by_another_version() -> (World, Pod, Pod) {
    let mut world = World::new(2).expect("a world");
    let a = world.add_pod("n1", "a", Some("closed")).expect("a pod");
    let out = world.add_pod("n2", "out", None).expect("a pod");
    world.serve(&out).expect("a server");
    let agent = world.agent("n1", &CLASSIFIERS).expect("an agent");
    agent.kill9().expect("kill");
    agent_of_before(&world);
    assert_eq!(world.classifiers(&a), 2);
    (world, a, out)
}

/// A version's programs stay for as long as its pod is not found.
fn is_not_found(world: &World, pod: &Pod) -> std::fs::File {
    let unnamed = std::path::Path::new("/run/netns").join(pod.netns());
    let there = std::fs::File::open(unnamed).expect("its namespace");
    world.remove_netns(pod).expect("without a name");
    let unreadable = "kind: Pod\nmetadata: [\n";
    world.write_config("a", unreadable).expect("written");
    there
}

/// What became of four connections from the one to the other's own addresses.
fn reached(world: &World, from: &Pod, to: &Pod) -> serde_json::Value {
    let to = [
        format!("{}:{APP_PORT}", to.v4()),
        format!("[{}]:{APP_PORT}", to.v6()),
    ];
    let args = ["--count", "4", "--inflight", "4"];
    world.storm(from, &to, &args).expect("a report")
}

fn is_taken_over(world: &World, agent: &Agent) {
    let left = eventually(Duration::from_secs(20), || versions(world).len() == 1);
    assert!(left, "{:?} {}", versions(world), agent.log());
}

#[test]
fn a_pod_that_is_let_go_at_an_upgrade_keeps_no_classifier_of_the_version_before() {
    // Also where nothing guards links any more.
    for guard in ["clsact", "tcx", "off"] {
        let (world, a, out) = held_by_another_version();
        let unwanted = PodSpec::new("n1", "a");
        world.configure(&unwanted, &a).expect("written");
        let agent = world
            .agent("n1", &["--link-guard", guard])
            .expect("an agent");
        is_taken_over(&world, &agent);
        assert_eq!(world.classifiers(&a), 0, "{guard}");
        let report = reached(&world, &a, &out);
        assert_eq!(report["ok"], 4, "{guard}: {report}");
    }
}

#[test]
fn a_pod_that_stays_is_carried_whatever_guards_its_link_after_an_upgrade() {
    for (guard, classifiers) in [("clsact", 2), ("tcx", 0), ("off", 0)] {
        let (world, a, out) = held_by_another_version();
        let agent = world
            .agent("n1", &["--link-guard", guard])
            .expect("an agent");
        is_taken_over(&world, &agent);
        assert_eq!(world.classifiers(&a), classifiers, "{guard}");
        let report = reached(&world, &a, &out);
        assert_eq!(report["ok"], 4, "{guard}: {report}");
        // And let go later.
        let unwanted = PodSpec::new("n1", "a");
        world.configure(&unwanted, &a).expect("written");
        let gone = eventually(Duration::from_secs(20), || {
            world.classifiers(&a) == 0 && has_left(&agent, &a)
        });
        assert!(gone, "{guard}: {}", agent.log());
        let report = reached(&world, &a, &out);
        assert_eq!(report["ok"], 4, "{guard}: {report}");
    }
}

#[test]
fn cleanup_takes_the_classifiers_of_every_version() {
    let (world, a, out) = held_by_another_version();
    let out_of = world.cleanup("n1").expect("cleanup");
    assert!(out_of.status.success(), "{out_of:?}");
    assert_eq!(world.classifiers(&a), 0);
    assert_eq!(reached(&world, &a, &out)["ok"], 4);
}

#[test]
fn an_agent_that_ends_for_good_takes_the_classifiers_that_it_left_to_another_version() {
    let (world, a, _out) = held_by_another_version();
    let _there = is_not_found(&world, &a);
    let agent = world.agent("n1", &CLASSIFIERS).expect("an agent");
    assert_eq!(versions(&world).len(), 2, "{}", agent.log());
    assert_eq!(world.classifiers(&a), 2, "{}", agent.log());
    assert!(agent.stop().expect("stop").success());
    assert_eq!(world.classifiers(&a), 0);
}

#[test]
fn a_pod_that_comes_while_another_versions_programs_stay_is_refused_until_it_is_enrolled() {
    let (mut world, a, out) = held_by_another_version();
    let late = PodSpec::new("n1", "late").enrolled(OnAgentDown::Closed);
    let pod = world.add(&late).expect("a pod");
    let group = pod.cgroup().display().to_string();
    let late = late.annotation("mesh-agent.io/cgroup", &group);
    let nowhere = late.clone().found_by("netns", "/run/netns/not-yet");
    world.configure(&nowhere, &pod).expect("written");
    let _there = is_not_found(&world, &a);
    let agent = world.agent("n1", &CLASSIFIERS).expect("an agent");
    assert_eq!(versions(&world).len(), 2, "{}", agent.log());
    assert!(!is_enrolled(&agent, &pod));
    let report = reached(&world, &pod, &out);
    assert_eq!(report["ok"], 0, "{report}: {}", agent.log());
    world.configure(&late, &pod).expect("written");
    becomes_enrolled(&agent, &pod);
    let report = reached(&world, &pod, &out);
    assert_eq!(report["ok"], 4, "{report}: {}", agent.log());
}
