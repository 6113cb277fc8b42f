//! The world: nodes, pods, what runs in them, and the end of it all.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::agent::Agent;
use crate::manifest::{OnAgentDown, PodSpec};
use crate::net::{self, Place, ip};
use crate::pod::{APP_PORT, Pod};
use crate::remains::{Remains, pins};
use crate::wait::{eventually, parse};
use crate::{authority, cgroup, sys};

/// One test's nodes and pods, on one link 10.77.0.0/24 and fd77::/64.
pub struct World {
    pub(crate) id: String,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) cgroup: PathBuf,
    pub(crate) nodes: Vec<String>,
    pods: Vec<Pod>,
    pub(crate) children: Vec<Child>,
}

impl World {
    /// `nodes` nodes, called n1, n2, …
    pub fn new(nodes: usize) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let id = format!(
            "mt{}x{}",
            std::process::id(),
            COUNTER.fetch_add(1, Ordering::Relaxed)
        );
        let cgroup = cgroup::root()?.join(&id);
        let mut world = Self {
            dir: tempfile::tempdir()?,
            cgroup,
            nodes: vec![],
            pods: vec![],
            children: vec![],
            id,
        };
        fs::create_dir(world.dir.path().join("config"))?;
        // Until there is an authority.
        world.write_config(authority::PLAINTEXT_FILE, authority::PLAINTEXT)?;
        for index in 1..=nodes {
            world.add_node(index)?;
        }
        Ok(world)
    }

    /// Two nodes; client a and server b on n1, server c on n2, all enrolled and
    /// fail-closed. The servers do not serve yet.
    pub fn of_three() -> Result<(Self, [Pod; 3])> {
        let mut world = Self::new(2)?;
        let mut add = |node, name| world.add_pod(node, name, Some("closed"));
        let pods = [add("n1", "a")?, add("n1", "b")?, add("n2", "c")?];
        Ok((world, pods))
    }

    fn add_node(&mut self, index: usize) -> Result<()> {
        let node = format!("n{index}");
        let netns = self.netns(&node);
        let first = self.nodes.first().map(|first| self.netns(first));
        fs::create_dir_all(self.cgroup.join(&node).join("agent"))?;
        self.nodes.push(node);
        net::make_node(&netns, index, first.as_deref())
    }

    pub(crate) fn netns(&self, name: &str) -> String {
        format!("{}-{name}", self.id)
    }

    /// A pod with a service in front of it; enrolled unless `enrolled` is None.
    pub fn add_pod(&mut self, node: &str, name: &str, on_agent_down: Option<&str>) -> Result<Pod> {
        let mut spec = PodSpec::new(node, name);
        if let Some(down) = on_agent_down {
            spec = spec.enrolled(OnAgentDown::parse(down));
        }
        self.add(&spec)
    }

    /// A pod as described, with a service in front of it.
    pub fn add(&mut self, spec: &PodSpec) -> Result<Pod> {
        let pod = self.plan(spec);
        self.add_again(spec, &pod)?;
        Ok(pod)
    }

    /// A pod that the node is told of, and that it has not made yet; as a kubelet does,
    /// [`World::add_again`] makes its group first, then its network.
    pub fn announce(&mut self, spec: &PodSpec) -> Result<Pod> {
        let pod = self.plan(spec);
        self.configure(spec, &pod)?;
        Ok(pod)
    }

    fn plan(&mut self, spec: &PodSpec) -> Pod {
        let uid = spec.cgroup.is_some().then(|| self.new_uid(spec));
        let group = match (&spec.cgroup, &uid) {
            (Some(group), Some(uid)) => group
                .replace("{uid}", uid)
                .replace("{uid_}", &uid.replace('-', "_")),
            _ => spec.name.clone(),
        };
        let pod = Pod {
            name: spec.name.clone(),
            node: spec.node.clone(),
            index: 2 + self.pods.len(),
            netns: self.netns(&spec.name),
            cgroup: self.cgroup.join(&spec.node).join(group),
            uid,
            ports: spec.ports.clone(),
            headless: spec.headless,
        };
        self.pods.push(pod.clone());
        pod
    }

    /// Like no other's on this machine.
    fn new_uid(&self, spec: &PodSpec) -> String {
        let own = self.pods.len();
        let world: u64 = self.id.bytes().fold(5381, |hash, byte| {
            hash.wrapping_mul(33).wrapping_add(u64::from(byte))
        });
        let uid = format!(
            "{:08x}-{:04x}-4000-8000-{own:012x}",
            std::process::id(),
            world & 0xffff
        );
        spec.uid.clone().unwrap_or(uid)
    }

    /// A pod that was removed, with its addresses, in a new namespace.
    pub fn add_again(&self, spec: &PodSpec, pod: &Pod) -> Result<()> {
        // Whoever is inside keeps a namespace, and its link, a while longer.
        let link = format!("-n {} link show v-{}", self.netns(&spec.node), pod.name);
        if !eventually(Duration::from_secs(10), || ip(&link).is_err()) {
            bail!("the namespace of {} before is kept alive", pod.name);
        }
        fs::create_dir_all(&pod.cgroup)?;
        ip(&format!("netns add {}", pod.netns))?;
        net::make_pod(pod, &self.netns(&spec.node))?;
        self.name_netns(pod)?;
        self.write_config(&spec.name, &spec.yaml(pod))
    }

    /// Files of the pods' network namespaces, as a container runtime of the node's
    /// own has them.
    #[must_use]
    pub fn netns_dir(&self, node: &str) -> PathBuf {
        self.dir.path().join(format!("netns-{node}"))
    }

    /// What the agent notes on the node's disk.
    #[must_use]
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.dir.path().join(format!("disk-{node}"))
    }

    fn name_netns(&self, pod: &Pod) -> Result<()> {
        let dir = self.netns_dir(&pod.node);
        fs::create_dir_all(&dir)?;
        let file = dir.join(&pod.name);
        // Another one of the same name is made again.
        let _absent = fs::remove_file(&file);
        std::os::unix::fs::symlink(Path::new("/run/netns").join(&pod.netns), &file)?;
        Ok(())
    }

    /// The flags of an agent that finds pods as a kubelet's node has them.
    #[must_use]
    pub fn finding_flags(&self, node: &str) -> Vec<String> {
        let tree = self.cgroup.join(node);
        let dirs = self.netns_dir(node);
        ["--find-pods", "--host-cgroup-dir"]
            .map(str::to_owned)
            .into_iter()
            .chain([tree.display().to_string(), "--host-netns-dir".to_owned()])
            .chain([dirs.display().to_string(), "--node-dir".to_owned()])
            .chain([self.node_dir(node).display().to_string()])
            .collect()
    }

    /// Writes a pod's documents anew; it stays what it is.
    pub fn configure(&self, spec: &PodSpec, pod: &Pod) -> Result<()> {
        self.write_config(&spec.name, &spec.yaml(pod))
    }

    /// Ends the pod's processes and its namespace, and makes another of the same
    /// name and addresses; the configuration stays as it is.
    pub fn restart(&self, pod: &Pod) -> Result<()> {
        cgroup::kill(&pod.cgroup);
        ip(&format!("netns del {}", pod.netns))?;
        ip(&format!("netns add {}", pod.netns))?;
        // The old one's end of the link goes when nobody holds it any more.
        let outside = format!("-n {} link del v-{}", self.netns(&pod.node), pod.name);
        let _gone = ip(&outside);
        net::make_pod(pod, &self.netns(&pod.node))?;
        // The others know the old link's hardware address.
        for other in self.pods.iter().filter(|other| other.name != pod.name) {
            // Where that one is not there, nothing is known either.
            let _absent = ip(&format!("-n {} neigh flush all", other.netns));
        }
        Ok(())
    }

    /// Takes the pod's link away.
    pub fn take_link(&self, pod: &Pod) -> Result<()> {
        ip(&format!("-n {} link del eth0", pod.netns))
    }

    /// Gives it another of the same addresses.
    pub fn give_link(&self, pod: &Pod) -> Result<()> {
        net::make_pod(pod, &self.netns(&pod.node))
    }

    /// Where a pod of that name has, or will have, its cgroup.
    #[must_use]
    pub fn pod_cgroup(&self, node: &str, name: &str) -> PathBuf {
        self.cgroup.join(node).join(name)
    }

    fn config_file(&self, name: &str) -> PathBuf {
        self.config_dir().join(format!("{name}.yaml"))
    }

    /// The directory that every node's agent reads.
    #[must_use]
    pub fn config_dir(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    /// A directory for a test's own files, gone with the world.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// YAML documents for every node's agent; replaces what has that name (a
    /// pod's own documents have the pod's name). Takes effect at once and whole.
    pub fn write_config(&self, name: &str, yaml: &str) -> Result<()> {
        // Renamed into place: a reader never sees half a file.
        let new = self.dir.path().join(format!("{name}.new"));
        fs::write(&new, yaml)?;
        fs::rename(&new, self.config_file(name))?;
        Ok(())
    }

    /// Takes back what [`World::write_config`] wrote.
    pub fn remove_config(&self, name: &str) -> Result<()> {
        fs::remove_file(self.config_file(name)).with_context(|| format!("remove {name}"))
    }

    /// Takes the pod out of the configuration and ends its processes.
    pub fn remove_pod(&mut self, pod: &Pod) -> Result<()> {
        self.remove_config(&pod.name)?;
        cgroup::kill(&pod.cgroup);
        ip(&format!("netns del {}", pod.netns))
    }

    /// Takes away the namespace alone; the configuration still names it.
    pub fn remove_netns(&self, pod: &Pod) -> Result<()> {
        ip(&format!("netns del {}", pod.netns))
    }

    fn command(&self, netns: &str, cgroup: &Path, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let netns = Path::new("/run/netns").join(netns);
        sys::start_inside(&mut command, &netns, &cgroup.join("cgroup.procs"));
        command
    }

    pub(crate) fn command_in(&self, place: Place<'_>, program: &str) -> Command {
        match place {
            Place::Pod(pod) => self.in_pod(pod, program),
            Place::Node(node) => self.on_node(node, program),
        }
    }

    /// `count` connections from the pod that stay until the client is killed.
    pub fn hold(&self, pod: &Pod, target: &str, count: usize) -> Result<Child> {
        let mut holder = self
            .app(pod)
            .args(["hold", target, &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let out = holder.stdout.take().context("its output")?;
        BufReader::new(out).read_line(&mut line)?;
        anyhow::ensure!(line.trim() == format!("held {count}"), "not held: {line}");
        Ok(holder)
    }

    /// The test application, inside a pod.
    #[must_use]
    pub fn app(&self, pod: &Pod) -> Command {
        self.command(&pod.netns, &pod.cgroup, binary("MESH_APP_BIN", "mesh-app"))
    }

    /// The same, run by another program: `nice` or `taskset`.
    #[must_use]
    pub fn app_by(&self, pod: &Pod, by: [&str; 3]) -> Command {
        let [program, args @ ..] = by;
        let mut app = self.in_pod(pod, program);
        app.args(args).arg(binary("MESH_APP_BIN", "mesh-app"));
        app
    }

    /// Any program, inside a pod.
    #[must_use]
    pub fn in_pod(&self, pod: &Pod, program: &str) -> Command {
        self.command(&pod.netns, &pod.cgroup, program)
    }

    /// Runs `f` in the pod's network namespace: sockets that it makes stay there.
    pub fn inside<T: Send>(&self, pod: &Pod, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let netns = fs::File::open(Path::new("/run/netns").join(&pod.netns))?;
        let run = || {
            nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET)?;
            f()
        };
        // The namespace is the thread's, and ends with it.
        std::thread::scope(|scope| scope.spawn(run).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Any program, on a node.
    #[must_use]
    pub fn on_node(&self, node: &str, program: &str) -> Command {
        self.command(&self.netns(node), &self.cgroup.join(node), program)
    }

    /// Any program on a node, in a cgroup of its own whose CPU time
    /// [`World::cpu`] tells.
    pub fn on_node_apart(&self, node: &str, group: &str, program: &Path) -> Result<Command> {
        let group = self.cgroup.join(node).join(group);
        fs::create_dir_all(&group)?;
        Ok(self.command(&self.netns(node), &group, program))
    }

    /// CPU time that a cgroup of a node used: a pod's, `agent`, or one made by
    /// [`World::on_node_apart`].
    pub fn cpu(&self, node: &str, group: &str) -> Result<Duration> {
        cgroup::cpu(&self.cgroup.join(node).join(group))
    }

    /// Starts the pod's server on all its ports and waits for it to listen.
    pub fn serve(&mut self, pod: &Pod) -> Result<()> {
        let mut ports: Vec<u16> = pod.ports.iter().map(|p| p.target_number()).collect();
        if ports.is_empty() {
            ports.push(APP_PORT);
        }
        let mut command = self.app(pod);
        command
            .arg("serve")
            .args(ports.iter().map(ToString::to_string));
        self.start_and_read(command, "serving")
            .with_context(|| format!("start the server in {}", pod.name))
    }

    /// Starts a program that lives as long as the world, and waits for the
    /// first line of its output to be `line`.
    pub fn start_and_read(&mut self, mut command: Command, line: &str) -> Result<()> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("its output")?;
        self.children.push(child);
        let mut first = String::new();
        BufReader::new(out).read_line(&mut first)?;
        if first.trim() != line {
            bail!("it said {first:?} and not {line:?}");
        }
        Ok(())
    }

    /// Connects from `pod` to `targets`; the report's numbers as JSON.
    pub fn storm(&self, pod: &Pod, targets: &[String], args: &[&str]) -> Result<serde_json::Value> {
        let out = self
            .app(pod)
            .arg("storm")
            .args(args)
            .args(["--own", &pod.v4(), "--own", &pod.v6()])
            .args(targets)
            .output()?;
        parse(&out)
    }

    /// Starts the node's agent and waits until it is ready.
    pub fn agent(&self, node: &str, args: &[&str]) -> Result<Agent> {
        self.links_up()?;
        let agent = self.spawn_agent(node, args)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Starts the node's agent.
    pub fn spawn_agent(&self, node: &str, args: &[&str]) -> Result<Agent> {
        self.spawn_agent_by(node, &[], args)
    }

    /// Starts the node's agent by a program that becomes it.
    pub fn spawn_agent_by(&self, node: &str, by: &[&str], args: &[&str]) -> Result<Agent> {
        self.spawn_agent_in(node, "agent", by, args)
    }

    /// Starts an agent of the node's that takes over from another one, in a cgroup of
    /// its own.
    pub fn spawn_successor(&self, node: &str, group: &str, args: &[&str]) -> Result<Agent> {
        self.spawn_successor_by(node, group, &[], args)
    }

    /// The same, by a program that becomes it.
    pub fn spawn_successor_by(
        &self,
        node: &str,
        group: &str,
        by: &[&str],
        args: &[&str],
    ) -> Result<Agent> {
        let args = [&["--take-over"], args].concat();
        self.spawn_agent_in(node, group, by, &args)
    }

    fn spawn_agent_in(&self, node: &str, group: &str, by: &[&str], args: &[&str]) -> Result<Agent> {
        let run_dir = self.dir.path().join(format!("run-{node}"));
        let log = match group {
            "agent" => self.dir.path().join(format!("{node}.log")),
            group => self.dir.path().join(format!("{node}-{group}.log")),
        };
        let cgroup = self.cgroup.join(node).join(group);
        fs::create_dir_all(&cgroup)?;
        let netns = self.netns(node);
        let program = binary("MESH_AGENT_BIN", "mesh-agent");
        let mut command = match by {
            [] => self.command(&netns, &cgroup, program),
            [by, rest @ ..] => {
                let mut command = self.command(&netns, &cgroup, by);
                command.args(rest).arg(program);
                command
            }
        };
        command
            .args(["run", "--node-name", node])
            .arg("--bpffs-dir")
            .arg(self.pins(node))
            .arg("--run-dir")
            .arg(&run_dir);
        if !args.contains(&"--find-pods") {
            command.arg("--cgroup-root").arg(self.cgroup.join(node));
            command.arg("--agent-cgroup").arg(&cgroup);
        }
        if !args.contains(&"--config-dir") {
            command.arg("--config-dir").arg(self.config_dir());
        }
        if !args.contains(&"--access-log") {
            command.arg("--access-log").arg(self.access_log(node));
        }
        let child = command
            .args(args)
            .stderr(fs::File::create(&log)?)
            .spawn()
            .context("start the agent")?;
        Ok(Agent {
            child,
            netns,
            run_dir,
            log,
            cgroup,
        })
    }

    #[must_use]
    pub fn access_log(&self, node: &str) -> PathBuf {
        self.dir.path().join(format!("{node}-access.log"))
    }

    /// What is in it by now. It fails the test that a line is no JSON.
    #[must_use]
    pub fn logged(&self, node: &str) -> Vec<Value> {
        let log = fs::read_to_string(self.access_log(node)).unwrap_or_default();
        // The last one may be under way.
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let line = |line| serde_json::from_str(line).expect("a line of JSON");
        whole.lines().map(line).collect()
    }

    #[must_use]
    pub fn pins(&self, node: &str) -> PathBuf {
        pins(&self.netns(node))
    }

    /// `mesh-agent cleanup` for the node.
    pub fn cleanup(&self, node: &str) -> Result<Output> {
        let out = self
            .agent_command(node, "cleanup")
            .arg("--bpffs-dir")
            .arg(self.pins(node))
            .output()?;
        Ok(out)
    }

    /// Any verb of `mesh-agent`, on a node and outside the agent's cgroup.
    #[must_use]
    pub fn agent_command(&self, node: &str, verb: &str) -> Command {
        let program = binary("MESH_AGENT_BIN", "mesh-agent");
        let mut command = self.command(&self.netns(node), &self.cgroup.join(node), program);
        command.arg(verb);
        command
    }

    /// What must go when this world goes, for whoever must end early.
    #[must_use]
    pub fn remains(&self) -> Remains {
        Remains {
            id: self.id.clone(),
            cgroup: self.cgroup.clone(),
            dir: self.dir.path().to_owned(),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        cgroup::kill(&self.cgroup);
        for child in &mut self.children {
            // Ended already: nothing to do.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.remains().clear();
    }
}

/// The agent's program, for its commands that need no node.
#[must_use]
pub fn program() -> Command {
    Command::new(binary("MESH_AGENT_BIN", "mesh-agent"))
}

/// The CNI plugin's program.
#[must_use]
pub fn plugin() -> PathBuf {
    binary("MESH_CNI_BIN", "mesh-agent-cni")
}

/// From the environment (set by `cargo xtask`), else beside the running program.
pub(crate) fn binary(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let own = std::env::current_exe().unwrap_or_default();
    let found = own
        .ancestors()
        .skip(1)
        .map(|d| d.join(name))
        .find(|p| p.is_file());
    found.unwrap_or_else(|| name.into())
}
