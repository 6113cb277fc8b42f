//! Agents that die, stop and start; pods that come and go.

use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_tests::{Agent, Pod, Steady, World, eventually};

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

/// Clients under way, each with the outcomes it may have without an agent.
struct Load([(Steady, &'static [&'static str]); 3]);

const REFUSED_OUT: &[&str] = &["EPERM", "stream EPERM"];
const REFUSED_IN: &[&str] = &["ECONNREFUSED", "stream ECONNREFUSED"];
const DIRECT: &[&str] = &["direct", "stream"];
const CARRIED: &[&str] = &["carried", "first_carried_us", "last_carried_us", "stream"];
/// Of a stream that was cut with its agent, whenever it began.
const CUT: &str = "stream ended";

impl Load {
    fn each(&mut self, mut work: impl FnMut(&mut Steady)) {
        self.0.iter_mut().for_each(|(client, _)| work(client));
    }

    /// What became of the connections that began in that time is among these.
    fn all_are(&mut self, time: usize, allowed: &[&str]) {
        for (client, without) in &mut self.0 {
            let tally = client.tally(time).expect("a tally");
            let of_it = tally.as_object().expect("outcomes").keys();
            let known = |key: &str| key == CUT || allowed.contains(&key);
            let wrong: Vec<_> = of_it
                .filter(|key| !known(key) && !without.contains(&key.as_str()))
                .collect();
            assert!(wrong.is_empty(), "in time {time} {wrong:?} of {tally}");
        }
    }
}

/// Kills the agent; new ones are refused or pass, as each pod wants; then a new
/// agent is started. Gives it, and the times to the first carried connection and
/// to being ready.
fn killed_and_started(world: &World, agent: Agent, load: &mut Load) -> (Agent, [Duration; 2]) {
    agent.kill9().expect("kill");
    load.each(|client| client.begin_next().expect("told"));
    for (client, without) in &mut load.0 {
        client.wait_for(without[0], 100).expect("outcomes");
        // A stream that passes directly may have begun before this time.
        if *without != DIRECT {
            client.wait_for(without[1], 1).expect("outcomes");
        }
    }
    let dead = load.0[0].0.time;
    load.each(|client| client.begin_next().expect("told"));
    let start = SystemTime::now();
    let agent = world.spawn_agent("n1", &[]).expect("an agent");
    assert!(
        eventually(Duration::from_secs(10), || agent.is_ready()),
        "{}",
        agent.log()
    );
    let ready = start.elapsed().expect("a time");
    load.each(|client| client.wait_for("carried", 100).expect("carried again"));
    load.each(|client| client.begin_next().expect("told"));
    load.each(|client| client.wait_for("carried", 100).expect("carried again"));
    load.all_are(dead, &[]);
    load.all_are(dead + 1, CARRIED);
    load.each(|client| {
        let tally = client.tally(client.time).expect("a tally");
        let keys = tally.as_object().expect("outcomes").keys();
        assert!(
            keys.clone().all(|k| CARRIED.contains(&k.as_str())),
            "{tally}"
        );
    });
    let first = load.0[0].0.tally(dead + 1).expect("a tally");
    let first = first["first_carried_us"].as_u64().expect("a time");
    let first = UNIX_EPOCH + Duration::from_micros(first);
    (agent, [first.duration_since(start).expect("after"), ready])
}

#[test]
fn killed_under_load_it_lets_nothing_past_and_is_soon_back() {
    let mut world = World::new(1).expect("a world");
    let mut pod = |name, down| world.add_pod("n1", name, down).expect("a pod");
    let closed = pod("closed", Some("closed"));
    let open = pod("open", Some("open"));
    let server = pod("server", Some("open"));
    let plain = pod("plain", None);
    world.serve(&server).expect("a server");
    world.serve(&closed).expect("a server");
    let mut agent = world.agent("n1", &[]).expect("an agent");
    let steady = |from: &Pod, to: &Pod| {
        let port = mesh_tests::APP_PORT;
        let targets = [
            format!("{}:{port}", to.v4()),
            format!("[{}]:{port}", to.v6()),
        ];
        world.steady(from, &targets).expect("a client")
    };
    let mut load = Load([
        (steady(&closed, &server), REFUSED_OUT),
        (steady(&plain, &closed), REFUSED_IN),
        (steady(&open, &server), DIRECT),
    ]);
    load.each(|client| {
        client.wait_for("carried", 200).expect("carried");
        client.wait_for("stream", 4).expect("streams");
    });
    let mut slowest = [Duration::ZERO; 2];
    for round in 1..=3 {
        let took;
        (agent, took) = killed_and_started(&world, agent, &mut load);
        println!("round {round}: first connection and ready after {took:?}");
        slowest = [slowest[0].max(took[0]), slowest[1].max(took[1])];
    }
    // Two hundred milliseconds where nothing else runs.
    assert!(
        slowest.iter().all(|t| *t < Duration::from_secs(5)),
        "{slowest:?}"
    );
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
    for ms in (0..60).step_by(2) {
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
    let mut holder = world.hold(&a, &target, 500).expect("a client");
    let held = eventually(Duration::from_secs(20), || agent.open_fds() >= base + 990);
    assert!(
        held,
        "{base} descriptors before, {} with 500 connections",
        agent.open_fds()
    );
    world.remove_pod(&a).expect("remove");
    holder.wait().expect("the client ends");
    let freed = eventually(Duration::from_secs(20), || agent.open_fds() < base);
    assert!(
        freed,
        "{base} descriptors before, {} after",
        agent.open_fds()
    );
    let gone = eventually(Duration::from_secs(10), || {
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
    let status = agent.status().expect("status");
    assert_eq!(status["ready"], true, "one pod holds no node hostage");
    assert_eq!(status["degraded"], true);
    assert_eq!(reached(&world, &a, &b)["ok"], 20);
}

/// Runs the agent of n1 with its usual flags, some of them replaced; it must
/// fail. Gives what it says.
fn refused(world: &World, wrapper: &[&str], replaced: &[(&str, &str)]) -> String {
    let agent = world.agent_command("n1", "run");
    let program = agent.get_program().to_string_lossy().into_owned();
    let node = world.pod_cgroup("n1", "");
    let mut flags: Vec<(&str, String)> = vec![
        ("--node-name", "n1".to_owned()),
        ("--config-dir", world.config_dir().display().to_string()),
        ("--bpffs-dir", world.pins("n1").display().to_string()),
        ("--run-dir", world.dir().join("run").display().to_string()),
        ("--cgroup-root", node.display().to_string()),
        ("--agent-cgroup", node.join("agent").display().to_string()),
    ];
    for (flag, value) in &mut flags {
        if let Some((_, new)) = replaced.iter().find(|(name, _)| name == flag) {
            (*new).clone_into(value);
        }
    }
    let mut words: Vec<String> = wrapper.iter().map(ToString::to_string).collect();
    words.extend([program, "run".to_owned()]);
    words.extend(flags.into_iter().flat_map(|(f, v)| [f.to_owned(), v]));
    let out = world
        .on_node("n1", &words[0])
        .args(&words[1..])
        .output()
        .expect("the agent runs");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success(), "it started: {said}");
    said
}

#[test]
fn what_the_machine_lacks_is_said_with_what_to_do_and_nothing_is_left_behind() {
    let mut world = World::new(1).expect("a world");
    let a = world.add_pod("n1", "a", Some("closed")).expect("a pod");
    let dir = world.dir().join("no-bpffs");
    std::fs::create_dir(&dir).expect("a directory");
    let dir = dir.display().to_string();
    let read_only = format!("mount -t bpf bpf {dir} && mount -o remount,ro {dir} && exec \"$@\"");
    let weak = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let shell = ["unshare", "-m", "sh", "-c", &read_only, "sh"];
    let inside = format!("{dir}/mesh");
    type Case<'c> = (&'c [&'c str], &'c [(&'c str, &'c str)], &'c str);
    let no_cgroup2 =
        "umount -l $(awk '$3 == \"cgroup2\" {print $2}' /proc/self/mounts) && exec \"$@\"";
    let without = ["unshare", "-m", "sh", "-c", no_cgroup2, "sh"];
    let weaker = [
        "setpriv",
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
    ];
    let cases: [Case<'_>; 7] = [
        (&without, &[], "`mesh-agent doctor` shows where one is"),
        (&weaker, &[], "lacks CAP_NET_ADMIN"),
        (&weak, &[], "run it as root"),
        (&[], &[("--bpffs-dir", &dir)], "mount -t bpf bpf"),
        (&shell, &[("--bpffs-dir", &inside)], "mounted read-only?"),
        (
            &[],
            &[("--cgroup-root", "/tmp")],
            "give it as --cgroup-root",
        ),
        (
            &[],
            &[("--config-dir", "/does/not/exist")],
            "/does/not/exist",
        ),
    ];
    for (wrapper, replaced, expected) in cases {
        let said = refused(&world, wrapper, replaced);
        assert!(said.contains(expected), "{expected:?} is not in: {said}");
        assert!(!world.pins("n1").exists(), "pins left after: {said}");
        assert_eq!(world.capture_rules(&a).expect("rules"), "");
    }
}

/// Commands of bpf(2), by number.
const COMMANDS: [(&str, &str); 4] = [
    ("map create", "0"),
    ("program load", "5"),
    ("pin", "6"),
    ("link create", "28"),
];
const ERRORS: [&str; 2] = ["1", "22"];
const DENY_BPF: &str = include_str!("deny_bpf.py");

#[test]
fn a_kernel_without_a_part_of_bpf_is_named_by_the_agent_and_by_its_doctor() {
    let mut world = World::new(1).expect("a world");
    let a = world.add_pod("n1", "a", Some("closed")).expect("a pod");
    let doctors = std::cell::RefCell::new(Vec::new());
    let doctor = |wrapper: &[&str]| {
        let mut command = match wrapper {
            [] => world.agent_command("n1", "doctor"),
            [first, rest @ ..] => {
                let agent = world.agent_command("n1", "doctor");
                let mut command = world.on_node("n1", first);
                command.args(rest).arg(agent.get_program()).arg("doctor");
                command
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.stderr(Stdio::piped()).spawn().expect("the doctor");
        let own = format!("mesh-doctor-{}", child.id());
        doctors.borrow_mut().push(own);
        let out = child.wait_with_output().expect("the doctor");
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        (out.status.code(), said)
    };
    let (code, said) = doctor(&[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("attaching mesh_lookup"), "{said}");
    for (what, command) in COMMANDS {
        for error in ERRORS {
            let wrapper = ["python3", "-c", DENY_BPF, command, error];
            let said = refused(&world, &wrapper, &[]);
            // What may not be done is no lack of the kernel's.
            let hint = match error {
                "1" => "a seccomp profile forbids it, and `mesh-agent doctor` shows what",
                _ => "`mesh-agent doctor` shows what this kernel lacks",
            };
            assert!(said.contains(hint), "{what}: {said}");
            // Without any program the loader knows less of the kernel, and fails earlier.
            let named = said.contains(&format!("(os error {error})"));
            assert!(named || what == "program load", "{what}: {said}");
            assert!(!world.pins("n1").exists(), "pins left after: {said}");
            assert_eq!(world.capture_rules(&a).expect("rules"), "");
            let (code, said) = doctor(&wrapper);
            assert_eq!(code, Some(1), "{what}: {said}");
            assert!(said.contains("MISSING"), "{what}: {said}");
            assert!(said.contains("the agent will not start"), "{what}: {said}");
        }
    }
    let left = std::fs::read_dir("/sys/fs/bpf").expect("a bpf file system");
    let left = left.filter_map(|e| e.ok()?.file_name().into_string().ok());
    // Those of other tests may be at it.
    let doctors = doctors.into_inner();
    let left: Vec<String> = left.filter(|name| doctors.contains(name)).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn pins_of_a_running_agent_stay_where_the_next_one_cannot_start() {
    let mut world = World::new(1).expect("a world");
    let a = world.add_pod("n1", "a", Some("closed")).expect("a pod");
    let b = world.add_pod("n1", "b", Some("open")).expect("a pod");
    world.serve(&b).expect("a server");
    world
        .agent("n1", &[])
        .expect("an agent")
        .kill9()
        .expect("kill");
    // Opening a pin, telling what a link is attached to, swapping its program.
    for command in ["7", "15", "29"] {
        let said = refused(&world, &["python3", "-c", DENY_BPF, command, "24"], &[]);
        assert!(said.contains("mesh-agent: "), "{said}");
        let report = reached(&world, &a, &b);
        assert_eq!(report["ok"], 0, "still closed: {report}");
    }
    let _agent = world.agent("n1", &[]).expect("an agent");
    assert_eq!(reached(&world, &a, &b)["ok"], 20);
}

#[test]
fn a_pin_of_another_build_is_refused_and_cleanup_helps() {
    let world = World::new(1).expect("a world");
    let agent = world.agent("n1", &[]).expect("an agent");
    let version = std::fs::read_dir(world.pins("n1")).expect("pins");
    let version = version.flatten().next().expect("a version").path();
    agent.kill9().expect("kill");
    let maps = version.join("maps");
    std::fs::rename(maps.join("COUNTERS"), maps.join("TUPLES")).expect("plant");
    let said = refused(&world, &[], &[]);
    assert!(said.contains("run `mesh-agent cleanup`"), "{said}");
    assert!(world.cleanup("n1").expect("cleanup").status.success());
    let older = world.pins("n1").join("abi-1/links");
    std::fs::create_dir_all(&older).expect("pins of an earlier version");
    let agent = world.agent("n1", &[]).expect("an agent");
    assert!(!older.exists(), "pins of another version stay");
    assert!(agent.stop().expect("stop").success());
}

#[test]
fn a_pod_that_left_while_no_agent_ran_keeps_no_rules() {
    let mut world = World::new(1).expect("a world");
    let a = world.add_pod("n1", "a", Some("closed")).expect("a pod");
    let agent = world.agent("n1", &[]).expect("an agent");
    agent.kill9().expect("kill");
    assert_ne!(world.capture_rules(&a).expect("rules"), "");
    world.remove_config("a").expect("remove");
    let _agent = world.agent("n1", &[]).expect("an agent");
    assert_eq!(world.capture_rules(&a).expect("rules"), "");
}

#[test]
fn faulty_objects_are_named_and_the_node_is_degraded_and_serves_the_rest() {
    let mut world = World::new(1).expect("a world");
    let a = world.add_pod("n1", "a", Some("closed")).expect("a pod");
    let b = world.add_pod("n1", "b", Some("closed")).expect("a pod");
    world.serve(&b).expect("a server");
    let file = world.dir().join("plain-file");
    std::fs::write(&file, "no namespace").expect("a file");
    let pod = |name: &str, ip: &str, netns: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: shop\n  \
             labels: {{mesh-agent.io/enrolled: \"true\"}}\n  annotations: {{mesh-agent.io/netns: {netns}}}\n\
             spec: {{nodeName: n1}}\nstatus: {{phase: Running, podIP: {ip}}}\n"
        )
    };
    let service = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{clusterIP: 10.96.9.9, selector: {{app: b}}, ports: [{{port: 80}}]}}\n"
        )
    };
    let documents = [
        (
            "nowhere",
            pod("nowhere", "10.77.0.90", "/run/netns/nowhere"),
        ),
        (
            "file",
            pod("file", "10.77.0.91", &file.display().to_string()),
        ),
        ("twin-1", pod("twin-1", "10.77.0.92", "/run/netns/twin")),
        ("twin-2", pod("twin-2", "10.77.0.92", "/run/netns/twin")),
        ("clash-1", service("clash-1")),
        ("clash-2", service("clash-2")),
        ("broken", "kind: [".to_owned()),
        ("port", service("port").replace("port: 80", "port: eighty")),
    ];
    for (name, yaml) in &documents {
        world.write_config(name, yaml).expect("a file");
    }
    let agent = world.agent("n1", &[]).expect("an agent");
    let status = agent.status().expect("status");
    assert_eq!(status["degraded"], true, "{status}");
    let problems = status["problems"].to_string();
    for named in [
        "shop/nowhere",
        "is not a network namespace file",
        "10.77.0.92",
        "10.96.9.9",
        "broken.yaml",
        "eighty",
    ] {
        assert!(problems.contains(named), "{named} is not in {problems}");
    }
    assert_eq!(reached(&world, &a, &b)["ok"], 20);
}
