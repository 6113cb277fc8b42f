//! How the agent finds pods on a kubelet's node, where nobody says where they are;
//! and where it is itself, in a container of its own.

#[path = "pods/handed_over.rs"]
mod handed_over;
#[path = "pods/reboot.rs"]
mod reboot;
#[path = "pods/sandboxed.rs"]
mod sandboxed;

use std::time::Duration;

use mesh_tests::{
    APP_PORT, Agent, OnAgentDown, PATIENCE, Pod, PodSpec, World, becomes_enrolled, counted,
    eventually, has_left, is_carried, is_found_after_restart, loses_its_rules, pod_status,
};

const BURSTABLE: &str = "kubepods/burstable/pod{uid}/c1";

fn spec(name: &str, cgroup: &str) -> PodSpec {
    PodSpec::new("n1", name).kubelet(cgroup)
}

fn enrolled(name: &str, cgroup: &str) -> PodSpec {
    spec(name, cgroup).enrolled(OnAgentDown::Closed)
}

/// An agent that finds pods itself.
fn finder(world: &World, by: &[&str], args: &[&str]) -> Agent {
    let flags = world.finding_flags("n1");
    let mut all: Vec<&str> = flags.iter().map(String::as_str).collect();
    all.extend(args);
    world.links_up().expect("links");
    let agent = world.spawn_agent_by("n1", by, &all).expect("an agent");
    agent.wait_ready().expect("ready");
    agent
}

#[test]
fn a_pod_is_found_by_its_uid_in_every_spelling() {
    let slice = "kubepods.slice/kubepods-burstable.slice";
    let kind = "kubelet.slice/kubelet-kubepods.slice";
    let cases: [&[&str]; 3] = [
        &[
            "kubepods/pod{uid}/c1",
            BURSTABLE,
            "kubepods/besteffort/pod{uid}/c1",
        ],
        &[
            "kubepods.slice/kubepods-pod{uid_}.slice/cri-containerd-c1.scope",
            &format!("{slice}/kubepods-burstable-pod{{uid_}}.slice/crio-c1.scope"),
            // Of a runtime of the other driver.
            &format!("{slice}/kubepods-burstable-pod{{uid_}}.slice:cri-containerd:c1"),
        ],
        &[
            &format!("{kind}/kubelet-kubepods-pod{{uid_}}.slice/cri-containerd-c1.scope"),
            &format!(
                "{kind}/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{{uid_}}.slice/cri-containerd-c1.scope"
            ),
        ],
    ];
    for cgroups in cases {
        let mut world = World::new(1).expect("a world");
        let mut pods = Vec::new();
        for (i, cgroup) in cgroups.iter().enumerate() {
            let pod = world
                .add(&enrolled(&format!("p{i}"), cgroup))
                .expect("a pod");
            world.serve(&pod).expect("a server");
            pods.push(pod);
        }
        let agent = finder(&world, &[], &[]);
        let last = pods.last().expect("a pod");
        for (from, to) in pods.iter().zip([last].into_iter().chain(&pods)) {
            becomes_enrolled(&agent, from);
            becomes_enrolled(&agent, to);
            is_carried(&world, &agent, from, to);
        }
    }
}

/// As with a kubelet on systemd, and containerd left on cgroupfs; by an agent that sees the
/// node's cgroups, and by one in a cgroup namespace of its own, as a container's is.
#[test]
fn a_pod_whose_processes_are_not_below_the_kubelets_group_is_not_said_to_be_captured() {
    const ASTRAY: &str =
        "system.slice/containerd.service/kubepods-burstable-pod{uid_}.slice:cri-containerd:c1";
    for by in [&[][..], &["unshare", "--cgroup"]] {
        let mut world = World::new(1).expect("a world");
        let slice = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid_}.slice/c1";
        let b = world.add(&enrolled("b", slice)).expect("a pod");
        let a = world.add(&enrolled("a", ASTRAY)).expect("a pod");
        world.serve(&b).expect("a server");
        world.serve(&a).expect("a process");
        let flags = world.finding_flags("n1");
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        world.links_up().expect("links");
        let agent = world.spawn_agent_by("n1", by, &flags).expect("an agent");
        becomes_enrolled(&agent, &b);
        let is_told = eventually(Duration::from_secs(10), || {
            pod_status(&agent, &a)["reason"] == "CgroupElsewhere"
        });
        let status = pod_status(&agent, &a);
        assert!(is_told, "{status}");
        assert_eq!(status["enrolled"], false, "{status}");
        let told = status["message"].as_str().unwrap_or_default();
        assert!(told.contains("containerd.service"), "{told}");
        assert!(told.contains("n1/kubepods.slice:"), "{told}");
        let problems = agent.status().expect("a status")["problems"].to_string();
        assert!(
            problems.contains("Pod shop/a is not enrolled"),
            "{problems}"
        );
        // What it sends is not captured, and the guard of its link lets out none of it.
        let args = ["--count", "2", "--inflight", "2"];
        let report = world.storm(&a, &b.targets()[2..], &args).expect("a report");
        assert_eq!(report["ok"], 0, "{report}");
        // Moved, as when it was made anew after the runtime's cgroup driver was set.
        let right = world.pod_cgroup("n1", &slice.replace("{uid_}", &a.uid().replace('-', "_")));
        let groups = std::fs::read_to_string(a.cgroup().join("cgroup.procs")).expect("processes");
        std::fs::create_dir_all(&right).expect("made");
        for pid in groups.lines() {
            std::fs::write(right.join("cgroup.procs"), pid).expect("moved");
        }
        becomes_enrolled(&agent, &a);
    }
}

/// Client a and server b, both found by their cgroups.
fn pair() -> (World, Pod, Pod) {
    let mut world = World::new(1).expect("a world");
    let a = world.add(&enrolled("a", BURSTABLE)).expect("a pod");
    let b = world.add(&enrolled("b", BURSTABLE)).expect("a pod");
    world.serve(&a).expect("a process");
    world.serve(&b).expect("a server");
    (world, a, b)
}

#[test]
fn a_pod_without_any_process_is_found_by_its_address() {
    let (mut world, _a, b) = pair();
    let bare = world.add(&enrolled("bare", BURSTABLE)).expect("a pod");
    let agent = finder(&world, &[], &[]);
    becomes_enrolled(&agent, &bare);
    is_carried(&world, &agent, &bare, &b);
}

#[test]
fn a_pod_that_gives_itself_anothers_address_is_not_taken_for_it() {
    let (mut world, a, _b) = pair();
    let other = world.add(&spec("other", BURSTABLE)).expect("a pod");
    let victim = world.add(&enrolled("victim", BURSTABLE)).expect("a pod");
    world.serve(&other).expect("a process");
    // The victim's sandbox is not there yet, or not any more.
    world.remove_netns(&victim).expect("removed");
    let mut ip = world.in_pod(&other, "ip");
    ip.args(["addr", "add", &(victim.v4() + "/24"), "dev", "eth0"]);
    assert!(ip.status().expect("ip runs").success());
    let agent = finder(&world, &[], &[]);
    becomes_enrolled(&agent, &a);
    let why = pod_status(&agent, &victim);
    assert_eq!(why["enrolled"], false, "{why}");
    assert_eq!(why["reason"], "SandboxNotFound", "{why}");
    assert_eq!(world.capture_rules(&other).expect("rules"), "");
}

#[test]
fn an_annotation_says_nothing_of_where_a_pod_is() {
    let (mut world, a, b) = pair();
    let group = world.pod_cgroup("n1", "kubepods").display().to_string();
    let outside = world.add(&spec("outside", BURSTABLE)).expect("a pod");
    world.serve(&outside).expect("a process");
    let liar = enrolled("liar", BURSTABLE)
        .annotation(
            "mesh-agent.io/netns",
            &format!("/run/netns/{}", outside.netns()),
        )
        .annotation("mesh-agent.io/cgroup", &group);
    let liar = world.add(&liar).expect("a pod");
    world.serve(&liar).expect("a process");
    let agent = finder(&world, &[], &[]);
    for pod in [&a, &liar] {
        becomes_enrolled(&agent, pod);
        is_carried(&world, &agent, pod, &b);
    }
    assert_eq!(world.capture_rules(&outside).expect("rules"), "");
    let args = ["--count", "4"];
    let report = world.storm(&outside, &outside.targets()[2..], &args);
    assert_eq!(
        report.expect("a report")["ok"],
        4,
        "nobody holds it to another's cgroup"
    );
}

#[test]
fn a_label_enrols_a_running_pod_and_lets_it_go_again() {
    let (world, a, b) = pair();
    let agent = finder(&world, &[], &[]);
    for _ in 0..3 {
        becomes_enrolled(&agent, &a);
        is_carried(&world, &agent, &a, &b);
        world.configure(&spec("a", BURSTABLE), &a).expect("written");
        let gone = eventually(Duration::from_secs(10), || has_left(&agent, &a));
        assert!(gone, "{}", pod_status(&agent, &a));
        // It is told of no more when all of it is gone.
        assert_eq!(world.capture_rules(&a).expect("rules"), "");
        let report = world.storm(&a, &a.targets()[2..], &["--count", "4"]);
        assert_eq!(report.expect("a report")["ok"], 4);
        world
            .configure(&enrolled("a", BURSTABLE), &a)
            .expect("written");
    }
}

#[test]
fn a_sandbox_that_is_made_anew_is_found_though_nobody_says_so() {
    let (mut world, a, b) = pair();
    let agent = finder(&world, &[], &[]);
    for _ in 0..3 {
        is_carried(&world, &agent, &a, &b);
        is_found_after_restart(&mut world, &agent, &a);
    }
    is_carried(&world, &agent, &a, &b);
}

/// What the agent's container is given in the cluster, as `setpriv` writes it.
fn capabilities() -> String {
    let daemonset = include_str!("../../deploy/base/agent.yaml");
    let (_, rest) = daemonset
        .split_once("            add:\n")
        .expect("its capabilities");
    let items = rest
        .lines()
        .map_while(|line| line.trim().strip_prefix("- "));
    let names = items.filter_map(|item| item.split_whitespace().next());
    let added: String = names
        .map(|name| format!(",+{}", name.to_lowercase()))
        .collect();
    assert!(added.contains(",+sys_admin"), "{added}");
    format!("-all{added}")
}

/// As a container of the agent's own: its cgroup namespace, only its own group where
/// cgroups usually are, no writable /proc/sys, few open files, no more capabilities
/// than it is given in the cluster.
fn container() -> [String; 6] {
    let script = format!(
        "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && \
         ulimit -Sn 1024 && exec setpriv --bounding-set={} --inh-caps=-all \"$0\" \"$@\"",
        capabilities()
    );
    ["unshare", "--cgroup", "--mount", "sh", "-c", &script].map(str::to_owned)
}

#[test]
fn an_agent_in_a_container_knows_its_cgroup_and_stays_there() {
    let (world, a, b) = pair();
    let own = world.pod_cgroup("n1", "agent").join("cgroup.procs");
    let container = container();
    let by: Vec<&str> = container.iter().map(String::as_str).collect();
    let agent = finder(&world, &by, &[]);
    let pids = std::fs::read_to_string(&own).expect("its cgroup");
    assert_eq!(pids.trim(), agent.pid().to_string(), "it has not moved");
    for pod in [&a, &b] {
        becomes_enrolled(&agent, pod);
    }
    // It dials: were its cgroup another's, its own dials would come back to it.
    is_carried(&world, &agent, &a, &b);
    let status = agent.status().expect("status");
    let problems = status["problems"].as_array().expect("a list");
    assert_eq!(
        problems.len(),
        1,
        "no more than the missing authority: {status}"
    );
}

#[test]
fn an_agent_that_sees_its_own_cgroup_alone_says_what_to_mount() {
    let (world, _a, _b) = pair();
    let own = world.pod_cgroup("n1", "agent").display().to_string();
    let tree = own.split("/mt").next().expect("a mount").to_owned();
    let alone = format!("mount --bind {own} {tree} && exec \"$0\" \"$@\"");
    let by = ["unshare", "--cgroup", "--mount", "sh", "-c", &alone];
    // Were it not for the flag, the mount would be looked for.
    let flags = ["--find-pods"];
    let agent = world.spawn_agent_by("n1", &by, &flags).expect("an agent");
    let said = eventually(Duration::from_secs(10), || {
        agent.log().contains("--host-cgroup-dir")
    });
    assert!(said, "{}", agent.log());
    assert!(!world.pod_cgroup("n1", "agent/mesh-agent").exists());
}

/// A kubelet, as far as probes go: it listens on its port, and connects.
const KUBELET: &str = "
import socket, sys, time
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('::', 10250))
s.listen()
print('serving', flush=True)
time.sleep(3600)
";
const PROBE: &str = "
import socket, sys
def probe(to):
    host, port = to.rsplit(':', 1)
    s = socket.create_connection((host, int(port)), 5)
    s.sendall(b'ping')
    s.shutdown(socket.SHUT_WR)
    return bool(s.recv(1))
for to in sys.argv[1:]:
    try:
        print('passed' if probe(to) else 'cut')
    except OSError as e:
        print('refused')
";

fn python(world: &World, group: &str, program: &str) -> std::process::Command {
    let python = std::path::Path::new("/usr/bin/python3");
    let mut command = world.on_node_apart("n1", group, python).expect("a command");
    command.args(["-c", program]);
    command
}

fn probed(world: &World, group: &str, to: &str) -> String {
    let out = python(world, group, PROBE)
        .arg(to)
        .output()
        .expect("a probe");
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

#[test]
fn a_kubelets_probes_pass_to_what_the_pods_own_probes_name_and_to_nothing_else() {
    let mut world = World::new(1).expect("a world");
    world
        .write_config("plaintext", &mesh_tests::mesh_mode("STRICT"))
        .expect("written");
    let port = mesh_tests::APP_PORT;
    let ports = [
        mesh_tests::Port::new("", 80, mesh_tests::Target::Number(port)),
        mesh_tests::Port::new("other", 81, mesh_tests::Target::Number(8081)),
    ];
    let web = enrolled("web", BURSTABLE).ports(ports).container(&format!(
        "readinessProbe: {{httpGet: {{port: {port}, host: 10.77.0.9}}}}"
    ));
    let web = world.add(&web).expect("a pod");
    let bare = world.add(&enrolled("bare", BURSTABLE)).expect("a pod");
    world.serve(&web).expect("a server");
    world.serve(&bare).expect("a server");
    let mut ip = world.on_node("n1", "ip");
    ip.args(["addr", "add", "fd77::c9/64", "dev", "br0", "nodad"]);
    assert!(ip.status().expect("ip runs").success());
    let at = |pod: &Pod, port: u16| format!("{}:{port}", pod.v4());
    let agent = finder(&world, &[], &[]);
    for pod in [&web, &bare] {
        becomes_enrolled(&agent, pod);
    }
    // The kubelet comes, and comes again in another cgroup of the same name.
    for _ in 0..3 {
        let mut kubelet = python(&world, "system/kubelet", KUBELET);
        let mut kubelet = kubelet
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("a kubelet");
        let passes = eventually(Duration::from_secs(10), || {
            probed(&world, "system/kubelet", &at(&web, port)) == "passed"
        });
        assert!(passes, "{}", agent.log());
        let v6 = format!("{}:{port}", web.v6());
        assert_eq!(probed(&world, "system/kubelet", &v6), "passed");
        // Of a pod that names no port, and a port that no probe names.
        let elsewhere = counted(&agent, "steer_probe_elsewhere");
        for to in [at(&bare, port), at(&web, 8081)] {
            assert_ne!(probed(&world, "system/kubelet", &to), "passed", "{to}");
        }
        let is_counted = eventually(Duration::from_secs(20), || {
            counted(&agent, "steer_probe_elsewhere") >= elsewhere + 2.0
        });
        assert!(is_counted, "{}", counted(&agent, "steer_probe_elsewhere"));
        assert_ne!(probed(&world, "system/other", &at(&web, port)), "passed");
        kubelet.kill().expect("killed");
        kubelet.wait().expect("it ends");
        let group = world.pod_cgroup("n1", "system/kubelet");
        let gone = eventually(Duration::from_secs(20), || {
            std::fs::remove_dir(&group).is_ok()
        });
        assert!(gone, "the kubelet's cgroup stays");
    }
    // A pod of the host network that listens there is no kubelet.
    let pod = "kubepods/burstable/podffffffff-0000-4000-8000-000000000000/c1";
    let mut false_one = python(&world, pod, KUBELET);
    let mut false_one = false_one
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("a pod");
    let told = eventually(Duration::from_secs(10), || {
        agent.log().contains("which has pods in it")
    });
    assert!(told, "{}", agent.log());
    assert_ne!(probed(&world, pod, &at(&web, port)), "passed");
    false_one.kill().expect("killed");
    false_one.wait().expect("it ends");
}

#[test]
fn nothing_of_a_pod_that_comes_without_the_plugin_passes_before_it_is_enrolled() {
    let (mut world, a, b) = pair();
    let agent = finder(&world, &[], &[]);
    becomes_enrolled(&agent, &a);
    let server = [format!("{}:{APP_PORT}", b.v4())];
    for n in 0..6 {
        let spec = enrolled(&format!("late{n}"), BURSTABLE);
        let late = world.announce(&spec).expect("a pod");
        let is_known = eventually(Duration::from_secs(10), || {
            !pod_status(&agent, &late).is_null()
        });
        assert!(is_known, "{}", agent.log());
        world.add_again(&spec, &late).expect("a sandbox");
        // Its first process; the server says by which port it is called from who calls.
        let mut client = world.steady_at("200", &late, &server).expect("a client");
        client.wait_for("carried", 5).expect("it is enrolled");
        let tally = client.tally(0).expect("a tally");
        assert!(tally.get("direct").is_none(), "{tally} {}", agent.log());
    }
}

/// Past every hook: does the pod reach the other one's own address?
fn reaches(world: &World, from: &Pod, to: &Pod) -> bool {
    let report = world.storm(from, &to.targets()[2..], &["--count", "4"]);
    report.expect("a report")["ok"] == 4
}

#[test]
fn a_pod_whose_object_is_gone_stays_closed_for_as_long_as_its_containers_run() {
    let (world, a, b) = pair();
    let agent = finder(&world, &[], &[]);
    becomes_enrolled(&agent, &a);
    is_carried(&world, &agent, &a, &b);
    world.remove_config("a").expect("removed");
    let gone = eventually(Duration::from_secs(10), || has_left(&agent, &a));
    assert!(gone, "{}", pod_status(&agent, &a));
    let refused = counted(&agent, "connect_refused_no_agent");
    assert!(!reaches(&world, &a, &b), "{}", agent.log());
    let is_counted = eventually(PATIENCE, || {
        counted(&agent, "connect_refused_no_agent") > refused
    });
    assert!(is_counted, "{refused}: {:?}", agent.metrics());
    // The next agent knows it by its namespace alone, and by nobody's word.
    agent.kill9().expect("killed");
    let agent = finder(&world, &[], &[]);
    becomes_enrolled(&agent, &b);
    assert!(!reaches(&world, &a, &b), "{}", agent.log());
    // Its own label is a word.
    world.configure(&spec("a", BURSTABLE), &a).expect("written");
    let goes = eventually(Duration::from_secs(10), || reaches(&world, &a, &b));
    assert!(goes, "{}", agent.log());
    loses_its_rules(&world, &a);
}

#[test]
fn a_pod_that_another_mesh_claims_while_it_runs_is_not_let_go() {
    let (world, a, b) = pair();
    let agent = finder(&world, &[], &[]);
    becomes_enrolled(&agent, &a);
    let claimed = enrolled("a", BURSTABLE).annotation("ambient.istio.io/redirection", "enabled");
    world.configure(&claimed, &a).expect("written");
    let told = eventually(Duration::from_secs(10), || {
        let status = pod_status(&agent, &a);
        status["warning"]
            .to_string()
            .contains("another one claims it")
    });
    assert!(told, "{}", pod_status(&agent, &a));
    is_carried(&world, &agent, &a, &b);
    // An agent that has not enrolled it itself keeps it closed.
    agent.kill9().expect("killed");
    let agent = finder(&world, &[], &[]);
    becomes_enrolled(&agent, &b);
    assert_eq!(pod_status(&agent, &a)["reason"], "AnotherMesh");
    assert!(!reaches(&world, &a, &b), "{}", agent.log());
}

#[test]
fn a_forged_mirror_takes_no_other_pods_group() {
    let (mut world, a, b) = pair();
    let victim = world.add(&spec("victim", BURSTABLE)).expect("a pod");
    world.serve(&victim).expect("a server");
    for (name, hash) in [("uid", victim.uid()), ("hash", "0123456789abcdef")] {
        let forged = enrolled(name, BURSTABLE)
            .annotation("kubernetes.io/config.mirror", hash)
            .annotation("kubernetes.io/config.hash", hash)
            .metadata("ownerReferences: [{apiVersion: v1, kind: Node, name: n1}]");
        world.add(&forged).expect("a pod");
    }
    // A static pod that is outside of the mesh, of the hash that one of them claims.
    let group = world.pod_cgroup("n1", "kubepods/besteffort/pod0123456789abcdef/c1");
    let agent = finder(&world, &[], &[]);
    becomes_enrolled(&agent, &a);
    is_carried(&world, &agent, &a, &b);
    assert!(reaches(&world, &victim, &victim), "{}", agent.log());
    let python = "import socket; socket.create_connection(('10.77.0.4', 8080), 5)";
    let mut inside = world.in_pod(&victim, "sh");
    std::fs::create_dir_all(&group).expect("a group");
    let script = format!(
        "echo $$ >{}/cgroup.procs && exec python3 -c \"{python}\"",
        group.display()
    );
    inside.args(["-c", &script]);
    assert_eq!(victim.v4(), "10.77.0.4");
    let out = inside.output().expect("it runs");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn an_address_of_before_takes_no_sandbox_that_is_new() {
    let (mut world, a, _b) = pair();
    let before = world.add(&enrolled("before", BURSTABLE)).expect("a pod");
    world.remove_netns(&before).expect("removed");
    // Another pod has its address now, and no process and no document yet.
    let new = world.add(&spec("new", BURSTABLE)).expect("a pod");
    world.remove_config("new").expect("removed");
    let mut ip = world.in_pod(&new, "ip");
    ip.args(["addr", "add", &(before.v4() + "/24"), "dev", "eth0"]);
    assert!(ip.status().expect("ip runs").success());
    let agent = finder(&world, &[], &[]);
    becomes_enrolled(&agent, &a);
    let why = pod_status(&agent, &before);
    assert_eq!(why["reason"], "SandboxNotFound", "{why}");
    assert_eq!(world.capture_rules(&new).expect("rules"), "");
}
