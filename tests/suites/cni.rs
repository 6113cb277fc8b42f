//! The CNI plugin with a true agent: a pod is enrolled before its runtime goes on.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use mesh_tests::{
    Agent, OnAgentDown, Pod, PodSpec, World, becomes_enrolled, eventually, is_enrolled,
    is_found_after_restart, plugin, program,
};

const LIST: &str = "{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"pods\",\n  \"plugins\": [\n    {\"type\": \"ptp\"}\n  ]\n}\n";

/// A node's folders, as the agent's container would see them.
struct Host(PathBuf);

impl Host {
    fn new(world: &World) -> Self {
        let host = Self(world.dir().join("host"));
        for folder in ["etc/cni/net.d", "opt/cni/bin"] {
            fs::create_dir_all(host.0.join(folder)).expect("made");
        }
        fs::write(host.0.join("opt/cni/bin/ptp"), "").expect("written");
        fs::write(host.list(), LIST).expect("written");
        host
    }

    fn list(&self) -> PathBuf {
        self.0.join("etc/cni/net.d/10-pods.conflist")
    }

    fn plugin(&self) -> PathBuf {
        self.0.join("opt/cni/bin/mesh-agent-cni")
    }

    /// Flags of the agent and of the verbs.
    fn flags(&self) -> Vec<String> {
        let (host, file) = (self.0.display(), self.outside());
        let plugin = plugin();
        [
            "--cni-host-dir",
            &host.to_string(),
            "--cni-outside-file",
            &file.display().to_string(),
            "--cni-plugin",
            &plugin.display().to_string(),
        ]
        .map(str::to_owned)
        .into()
    }

    fn outside(&self) -> PathBuf {
        self.0.join("outside.json")
    }

    fn agent(&self, world: &World) -> Agent {
        self.agent_with(world, &[])
    }

    fn agent_with(&self, world: &World, more: &[String]) -> Agent {
        let flags = self.flags();
        let mut args = vec!["--cni"];
        args.extend(flags.iter().chain(more).map(String::as_str));
        let agent = world.agent("n1", &args).expect("an agent");
        let is_in = || self.entry().is_some() && self.outside().exists();
        assert!(
            eventually(Duration::from_secs(10), is_in),
            "{}",
            agent.log()
        );
        agent
    }

    /// Ours, in the list.
    fn entry(&self) -> Option<serde_json::Value> {
        let list: serde_json::Value = serde_json::from_slice(&fs::read(self.list()).ok()?).ok()?;
        let plugins = list["plugins"].as_array()?;
        plugins
            .iter()
            .find(|p| p["type"] == "mesh-agent-cni")
            .cloned()
    }
}

/// As a container runtime starts the plugin at the end of its chain.
struct Runtime {
    program: PathBuf,
    configuration: String,
}

impl Runtime {
    fn new(host: &Host, patience: u64) -> Self {
        let mut configuration = host.entry().expect("an entry");
        configuration["cniVersion"] = "1.0.0".into();
        configuration["name"] = "pods".into();
        configuration["patienceSeconds"] = patience.into();
        Self {
            program: host.plugin(),
            configuration: configuration.to_string(),
        }
    }

    fn start(&self, command: &str, pod: &Pod, uid: &str) -> std::process::Child {
        let netns = Path::new("/run/netns").join(pod.netns());
        let result = format!(
            r#"{{"cniVersion":"1.0.0","ips":[{{"address":"{}/24"}},{{"address":"{}/64"}}]}}"#,
            pod.v4(),
            pod.v6()
        );
        let configuration = self.configuration.trim_end_matches('}');
        let configuration = format!(r#"{configuration},"prevResult":{result}}}"#);
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={};K8S_POD_UID={uid}",
            pod.name
        );
        let mut child = Command::new(&self.program)
            .env_clear()
            .envs([("CNI_COMMAND", command), ("CNI_IFNAME", "eth0")])
            .envs([("CNI_CONTAINERID", "sandbox1"), ("CNI_ARGS", &args)])
            .env("CNI_NETNS", netns)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the plugin starts");
        let mut stdin = child.stdin.take().expect("its input");
        // One that reads nothing may have ended.
        let _ended = stdin.write_all(configuration.as_bytes());
        child
    }

    fn call(&self, command: &str, pod: &Pod, uid: &str) -> Output {
        self.start(command, pod, uid)
            .wait_with_output()
            .expect("it ends")
    }

    fn add(&self, pod: &Pod, uid: &str) -> Output {
        self.call("ADD", pod, uid)
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A pod that only its runtime can place.
fn spec(name: &str, uid: &str) -> PodSpec {
    let nowhere = "/run/netns/mesh-nowhere";
    PodSpec::new("n1", name).uid(uid).found_by("netns", nowhere)
}

fn world() -> (World, Host, Pod) {
    let mut world = World::new(1).expect("a world");
    let server = PodSpec::new("n1", "b").enrolled(OnAgentDown::Closed);
    let b = world.add(&server).expect("a pod");
    world.serve(&b).expect("a server");
    let host = Host::new(&world);
    (world, host, b)
}

#[test]
fn the_runtime_goes_on_when_the_pod_is_enrolled_and_not_before() {
    let (mut world, host, b) = world();
    let a = spec("a", "uid-a").enrolled(OnAgentDown::Closed);
    let a = world.add(&a).expect("a pod");
    let agent = host.agent(&world);
    assert!(!is_enrolled(&agent, &a), "nobody has said where it is");
    let runtime = Runtime::new(&host, 10);
    let added = runtime.add(&a, "uid-a");
    assert!(added.status.success(), "{}{}", said(&added), agent.log());
    assert!(said(&added).contains(&a.v4()), "the result as it was");
    // At this moment its first container may start; it is told of a moment later.
    let args = ["--count", "20", "--inflight", "4"];
    let report = world.storm(&a, &b.targets(), &args).expect("a report");
    assert_eq!(report["ok"], 20, "{report}");
    let captured = agent.metric("mesh_agent_kernel_events_total", "\"connect_captured\"");
    assert!(captured.expect("a metric") >= 20.0, "by the mesh");
    becomes_enrolled(&agent, &a);

    // Sooner than the configuration has heard of it.
    let late = spec("late", "uid-late").enrolled(OnAgentDown::Closed);
    let pod = world.add(&late).expect("a pod");
    let yaml = fs::read_to_string(world.config_dir().join("late.yaml")).expect("read");
    world.remove_config("late").expect("removed");
    let waiting = runtime.start("ADD", &pod, "uid-late");
    world.write_config("late", &yaml).expect("written");
    let added = waiting.wait_with_output().expect("it ends");
    assert!(added.status.success(), "{}{}", said(&added), agent.log());
    becomes_enrolled(&agent, &pod);

    // One that is not the mesh's goes on as well, and is left alone.
    let out = world.add(&spec("out", "uid-out")).expect("a pod");
    let added = runtime.add(&out, "uid-out");
    assert!(added.status.success(), "{}", said(&added));
    assert!(!is_enrolled(&agent, &out));
    let adds = |outcome: &str| {
        agent
            .metric("mesh_agent_cni_adds_total", outcome)
            .expect("a metric")
    };
    let counts = || (adds("enrolled"), adds("outside"));
    let counted = eventually(Duration::from_secs(20), || counts() == (2.0, 1.0));
    assert!(counted, "{:?}", counts());
    // Whatever is asked later, in any order.
    for command in ["DEL", "DEL", "CHECK", "STATUS", "GC", "DEL"] {
        let done = runtime.call(command, &a, "uid-a");
        assert!(done.status.success() && done.stdout.is_empty(), "{command}");
    }
    assert!(
        is_enrolled(&agent, &a),
        "an old sandbox's end is not the pod's"
    );
}

#[test]
fn without_an_agent_only_what_is_outside_starts_and_the_rest_waits_for_the_next_one() {
    let (mut world, host, _b) = world();
    let a = spec("a", "uid-a").enrolled(OnAgentDown::Closed);
    let a = world.add(&a).expect("a pod");
    let out = world.add(&spec("out", "uid-out")).expect("a pod");
    let agent = host.agent(&world);
    let is_known = || {
        let text = fs::read_to_string(host.outside()).unwrap_or_default();
        text.contains("uid-out") && !text.contains("uid-a")
    };
    assert!(eventually(Duration::from_secs(20), is_known));
    agent.kill9().expect("killed");

    let started = Instant::now();
    let passed = Runtime::new(&host, 25).add(&out, "uid-out");
    assert!(passed.status.success(), "{}", said(&passed));
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "it did not wait"
    );
    let quick = Runtime::new(&host, 1);
    let refused = quick.add(&a, "uid-a");
    assert!(!refused.status.success());
    let text = said(&refused);
    for words in [
        "shop/a waits for the mesh's agent",
        "nobody listens there",
        "\"code\":11",
    ] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }

    // One that waits is enrolled by the agent that comes.
    let waiting = Runtime::new(&host, 25).start("ADD", &a, "uid-a");
    let agent = host.agent(&world);
    let added = waiting.wait_with_output().expect("it ends");
    assert!(added.status.success(), "{}{}", said(&added), agent.log());
    becomes_enrolled(&agent, &a);
    agent.stop().expect("stopped");

    // Uninstalled, the plugin that a runtime calls still holds nobody up.
    let uninstall = |more: &[&str]| {
        let mut command = program();
        command.args(["cni", "uninstall"]).args(host.flags());
        let done = command.args(more).output().expect("it runs");
        (done.status.code(), said(&done))
    };
    let (code, text) = uninstall(&[]);
    assert_eq!(code, Some(4), "{text}");
    assert_eq!(fs::read_to_string(host.list()).expect("read"), LIST);
    assert!(text.contains("kept /opt/cni/bin/mesh-agent-cni"), "{text}");
    assert!(quick_passes(&quick, &a), "as a stub");
    let (code, text) = uninstall(&[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(!host.plugin().exists());
}

fn quick_passes(runtime: &Runtime, pod: &Pod) -> bool {
    runtime.add(pod, "uid-a").status.success()
}

#[test]
fn status_and_doctor_say_how_the_plugin_stands() {
    let (world, host, _b) = world();
    let agent = host.agent(&world);
    let is_told = |words: &str| {
        let text = || {
            agent
                .status_text()
                .map(|(_, text)| text)
                .unwrap_or_default()
        };
        assert!(
            eventually(Duration::from_secs(15), || text().contains(words)),
            "{}",
            text()
        );
    };
    is_told("in /etc/cni/net.d/10-pods.conflist");
    let doctor = || {
        let done = program().arg("doctor").args(host.flags()).output();
        said(&done.expect("it runs"))
    };
    assert!(doctor().contains("CNI plugin in the node's chain (/etc/cni/net.d/10-pods.conflist)"));
    // A network that it cannot be in.
    fs::write(host.list(), LIST.replace("1.0.0", "0.1.0")).expect("written");
    is_told("the CNI plugin is not in the node's chain");
    assert!(doctor().contains("degraded CNI plugin"), "{}", doctor());
    fs::write(host.list(), LIST).expect("written");
    is_told("in /etc/cni/net.d/10-pods.conflist");
    assert!(eventually(Duration::from_secs(20), || host
        .entry()
        .is_some()));
}

#[test]
fn an_agent_is_ready_when_its_plugin_was_in_the_chain_once_and_holds_nothing_up_before() {
    let (world, host, b) = world();
    // The node's network comes later than its first pods, and the agent is one of them.
    fs::remove_file(host.list()).expect("removed");
    let flags = host.flags();
    let mut args = vec!["--cni"];
    args.extend(flags.iter().map(String::as_str));
    world.links_up().expect("links");
    let agent = world.spawn_agent("n1", &args).expect("an agent");
    let said = |words: &str| {
        let is_said = || {
            let (code, text) = agent.probe("ready").unwrap_or_default();
            code == 1 && text.contains(words)
        };
        assert!(
            eventually(Duration::from_secs(10), is_said),
            "{:?}\n{}",
            agent.probe("ready"),
            agent.log()
        );
    };
    said("the CNI plugin is not in the node's chain: the node has no network");
    said("--ready-without-cni");
    // It does its work meanwhile, and nobody is to start it anew.
    becomes_enrolled(&agent, &b);
    assert_eq!(agent.probe("live").expect("a probe").0, 0);
    let is_logged = || {
        let log = agent.log();
        log.contains("problem: the CNI plugin is not in the node's chain")
    };
    assert!(
        eventually(Duration::from_secs(20), is_logged),
        "{}",
        agent.log()
    );
    // The network that it cannot be in, then one that it can.
    fs::write(host.list(), LIST.replace("1.0.0", "0.1.0")).expect("written");
    said("the CNI plugin is not in the node's chain: /etc/cni/net.d/10-pods.conflist");
    fs::write(host.list(), LIST).expect("written");
    let is_ready = || agent.probe("ready").is_ok_and(|(code, _)| code == 0);
    assert!(
        eventually(Duration::from_secs(15), is_ready),
        "{}",
        agent.log()
    );
    // Whoever takes it out afterwards makes the node no worse than degraded.
    fs::write(host.list(), LIST.replace("1.0.0", "0.1.0")).expect("written");
    let is_told = || {
        let told = agent.status_text();
        told.is_ok_and(|(code, text)| code == 4 && text.contains("not in the node's chain"))
    };
    assert!(
        eventually(Duration::from_secs(15), is_told),
        "{}",
        agent.log()
    );
    assert!(is_ready());
    agent.stop().expect("stopped");

    // Switched off, and still told.
    args.push("--ready-without-cni");
    let agent = world.agent("n1", &args).expect("ready");
    let told = || agent.status_text().expect("a status");
    let is_told = || told().1.contains("not in the node's chain");
    assert!(eventually(Duration::from_secs(10), is_told), "{}", told().1);
    assert_eq!(told().0, 4, "{}", told().1);
}

#[test]
fn a_sandbox_that_is_made_while_the_plugin_is_not_in_the_chain_is_found_all_the_same() {
    let mut world = World::new(1).expect("a world");
    let host = Host::new(&world);
    let spec = PodSpec::new("n1", "a").kubelet("kubepods/burstable/pod{uid}/c1");
    let spec = spec.enrolled(OnAgentDown::Closed);
    let a = world.add(&spec).expect("a pod");
    let agent = host.agent_with(&world, &world.finding_flags("n1"));
    let added = Runtime::new(&host, 25).add(&a, a.uid());
    assert!(added.status.success(), "{}{}", said(&added), agent.log());
    world.serve(&a).expect("a process");
    for _ in 0..2 {
        becomes_enrolled(&agent, &a);
        is_found_after_restart(&mut world, &agent, &a);
    }
}
