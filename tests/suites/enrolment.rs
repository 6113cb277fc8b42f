//! How the agent finds where a pod lives: by path, by process, by cgroup; and
//! what it does when that is wrong, gone, or another one.

use std::time::Duration;

use mesh_tests::{
    OnAgentDown, Peer, Pod, PodSpec, World, becomes_enrolled, eventually, is_carried, is_enrolled,
    pod_status,
};

fn enrolled(name: &str) -> PodSpec {
    PodSpec::new("n1", name).enrolled(OnAgentDown::Closed)
}

/// A world with the server b, found by its namespace's path.
fn world() -> (World, Pod) {
    let mut world = World::new(1).expect("a world");
    let b = world.add(&enrolled("b")).expect("a pod");
    world.serve(&b).expect("a server");
    (world, b)
}

fn cgroup_of(world: &World, name: &str) -> String {
    world.pod_cgroup("n1", name).display().to_string()
}

#[test]
fn a_pod_is_found_by_a_process_by_its_cgroup_or_by_one_below_it() {
    let (mut world, b) = world();
    let by_pid = world.add(&enrolled("by-pid")).expect("a pod");
    let in_pod = world.peer(&by_pid).expect("a process");
    let spec = enrolled("by-pid").found_by("pid", &in_pod.pid().to_string());
    world.configure(&spec, &by_pid).expect("written");

    let group = cgroup_of(&world, "by-group");
    let by_group = world.add(&enrolled("by-group").found_by("cgroup", &group));
    let by_group = by_group.expect("a pod");
    let _in_group = world.peer(&by_group).expect("a process");

    // Of a pod with containers the processes are in the groups below.
    let above = cgroup_of(&world, "above");
    let below = world.add(&enrolled("above").found_by("cgroup", &above));
    let below = below.expect("a pod");
    let contained = world.peer(&below).expect("a process");
    let container = format!("{above}/container");
    std::fs::create_dir(&container).expect("a group");
    let procs = format!("{container}/cgroup.procs");
    std::fs::write(procs, contained.pid().to_string()).expect("moved");

    let agent = world.agent("n1", &[]).expect("an agent");
    for pod in [&by_pid, &by_group, &below] {
        assert!(is_enrolled(&agent, pod), "{}", pod_status(&agent, pod));
        is_carried(&world, &agent, pod, &b);
    }
}

#[test]
fn a_place_that_is_wrong_is_named_and_enrolled_as_soon_as_it_is_right() {
    let (mut world, b) = world();
    let server = world.peer(&b).expect("a process of another pod");
    let empty = cgroup_of(&world, "empty");
    let absent = cgroup_of(&world, "absent") + "/deeper";
    let beyond = u32::MAX.to_string();
    let another = server.pid().to_string();
    let own = std::process::id().to_string();
    let cases = [
        (
            "nobody",
            "pid",
            beyond.as_str(),
            "cannot open the network namespace /proc/4294967295",
        ),
        ("number", "pid", "many", "expected a process number"),
        // As with a number that another pod's process got.
        (
            "taken",
            "pid",
            &another,
            "has no address of the pod's (10.77.0.",
        ),
        ("host", "pid", &own, "has no address of the pod's (10.77.0."),
        ("empty", "cgroup", &empty, "no process in the cgroup"),
        (
            "absent",
            "cgroup",
            &absent,
            "cannot read the processes of the cgroup",
        ),
    ];
    let pods: Vec<Pod> = cases
        .iter()
        .map(|(name, kind, value, _)| world.add(&enrolled(name).found_by(kind, value)))
        .collect::<Result<_, _>>()
        .expect("pods");
    let agent = world.agent("n1", &[]).expect("ready in spite of them");
    let status = agent.status().expect("status");
    assert_eq!(status["degraded"], true);
    let problems = status["problems"].to_string();
    for ((name, _, _, said), pod) in cases.iter().zip(&pods) {
        assert!(
            problems.contains(said),
            "{name}: {said:?} is not in {problems}"
        );
        assert!(!is_enrolled(&agent, pod));
        assert_eq!(world.capture_rules(pod).expect("rules"), "");
    }
    assert!(is_enrolled(&agent, &b), "the neighbour is untouched");
    // The empty one gets its process, the others a place that is right.
    let _process = world.peer(&pods[4]).expect("a process");
    becomes_enrolled(&agent, &pods[4]);
    let processes: Vec<Peer> = pods[..4]
        .iter()
        .map(|pod| world.peer(pod).expect("a process"))
        .collect();
    for (pod, process) in pods.iter().zip(&processes) {
        let spec = enrolled(&pod.name).found_by("pid", &process.pid().to_string());
        world.configure(&spec, pod).expect("written");
        becomes_enrolled(&agent, pod);
        is_carried(&world, &agent, pod, &b);
    }
}

#[test]
fn a_pod_that_restarts_in_another_namespace_is_enrolled_there() {
    let (mut world, b) = world();
    let group = cgroup_of(&world, "a");
    let a = world.add(&enrolled("a").found_by("cgroup", &group));
    let a = a.expect("a pod");
    let mut process = world.peer(&a).expect("a process");
    let agent = world.agent("n1", &[]).expect("an agent");
    let cookie = |pod: &Pod| pod_status(&agent, pod)["netns_cookie"].clone();
    is_carried(&world, &agent, &a, &b);
    for _ in 0..3 {
        for pod in [&a, &b] {
            let before = cookie(pod);
            world.restart(pod).expect("restarted");
            if pod.name == "a" {
                process = world.peer(pod).expect("a process");
            } else {
                world.serve(pod).expect("a server");
            }
            let moved = eventually(Duration::from_secs(10), || {
                is_enrolled(&agent, pod) && cookie(pod) != before
            });
            assert!(moved, "{}: {}", pod.name, agent.log());
        }
        is_carried(&world, &agent, &a, &b);
    }
    drop(process);
    // Without any process there is nothing to tell by: what is known stays.
    let known = cookie(&a);
    world
        .add(&enrolled("c"))
        .expect("a pod, for something to change");
    becomes_enrolled(&agent, &a);
    assert_eq!(cookie(&a), known);
}

#[test]
fn a_pod_that_restarts_is_refused_and_not_passed_until_it_is_enrolled() {
    let (mut world, b) = world();
    let group = cgroup_of(&world, "a");
    let a = world.add(&enrolled("a").found_by("cgroup", &group));
    let a = a.expect("a pod");
    let _process = world.peer(&a).expect("a process");
    let agent = world.agent("n1", &[]).expect("an agent");
    let direct = [format!("{}:{}", b.v4(), mesh_tests::APP_PORT)];
    for _ in 0..3 {
        world.restart(&a).expect("restarted");
        // From its first moment in the pod's group.
        let mut client = world.steady(&a, &direct).expect("a client");
        client.wait_for("carried", 20).expect("carried");
        let tally = client.tally(0).expect("a tally");
        let outcomes = tally.as_object().expect("outcomes");
        let known = [
            "carried",
            "first_carried_us",
            "last_carried_us",
            "stream",
            "EPERM",
            "stream EPERM",
        ];
        let fine = outcomes.keys().all(|key| known.contains(&key.as_str()));
        assert!(fine, "{tally}");
    }
    assert!(is_enrolled(&agent, &a));
}

#[test]
fn a_pod_whose_udp_ports_are_all_in_use_has_its_address_all_the_same() {
    let mut world = World::new(1).expect("a world");
    let a = world.add(&enrolled("a").only_v4()).expect("a pod");
    let range = world.set_sysctl(&a, "net.ipv4.ip_local_port_range", "50000 50007");
    range.expect("a setting");
    let take_all = || {
        let ports = 50_000..=50_007;
        let bound = ports.map(|port| std::net::UdpSocket::bind(("0.0.0.0", port)));
        Ok(bound.collect::<std::io::Result<Vec<_>>>()?)
    };
    let _held = world.inside(&a, take_all).expect("all of them");
    let agent = world.agent("n1", &[]).expect("an agent");
    assert!(is_enrolled(&agent, &a), "{}", pod_status(&agent, &a));
}
