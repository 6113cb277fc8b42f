//! Nodes and pods in network namespaces, agents in them, and all of it gone
//! afterwards, also when a test panics.
//!
//! A world has its own names, cgroups, pins and processes, so that tests run
//! side by side. Nothing is made in the machine's own network namespace.

mod sys;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Port that every pod's server listens on, behind service port 80.
pub const APP_PORT: u16 = 8080;

/// One test's nodes and pods, on one link 10.77.0.0/24 and fd77::/64.
pub struct World {
    id: String,
    dir: tempfile::TempDir,
    cgroup: PathBuf,
    nodes: Vec<String>,
    pods: Vec<Pod>,
    children: Vec<Child>,
}

/// A pod: namespace, cgroup, addresses.
#[derive(Clone, Debug)]
pub struct Pod {
    pub name: String,
    pub node: String,
    index: usize,
    netns: String,
    cgroup: PathBuf,
}

impl Pod {
    #[must_use]
    pub fn v4(&self) -> String {
        format!("10.77.0.{}", self.index)
    }

    #[must_use]
    pub fn v6(&self) -> String {
        format!("fd77::{:x}", self.index)
    }

    /// Virtual addresses of the service in front of it, port 80.
    #[must_use]
    pub fn vips(&self) -> [String; 2] {
        [
            format!("10.96.0.{}:80", self.index),
            format!("[fd96::{:x}]:80", self.index),
        ]
    }

    /// The storm's targets for this pod: both VIPs and the pod's own addresses.
    #[must_use]
    pub fn targets(&self) -> Vec<String> {
        let [vip4, vip6] = self.vips();
        let (a4, a6) = (
            format!("{}:{APP_PORT}", self.v4()),
            format!("[{}]:{APP_PORT}", self.v6()),
        );
        vec![
            format!("{vip4}={a4}"),
            format!("{vip6}={a6}"),
            format!("{a4}={a4}"),
            format!("{a6}={a6}"),
        ]
    }
}

/// A running agent.
pub struct Agent {
    child: Child,
    netns: String,
    run_dir: PathBuf,
    log: PathBuf,
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
        let cgroup = cgroup2()?.join(&id);
        let mut world = Self {
            dir: tempfile::tempdir()?,
            cgroup,
            nodes: vec![],
            pods: vec![],
            children: vec![],
            id,
        };
        fs::create_dir(world.dir.path().join("config"))?;
        for n in 1..=nodes {
            world.add_node(&format!("n{n}"))?;
        }
        Ok(world)
    }

    fn add_node(&mut self, node: &str) -> Result<()> {
        let netns = self.netns(node);
        self.nodes.push(node.to_owned());
        fs::create_dir_all(self.cgroup.join(node).join("agent"))?;
        ip(&format!("netns add {netns}"))?;
        ip(&format!("-n {netns} link set lo up"))?;
        ip(&format!("-n {netns} link add br0 type bridge"))?;
        ip(&format!("-n {netns} link set br0 up"))?;
        let index = 200 + self.nodes.len();
        ip(&format!("-n {netns} addr add 10.77.0.{index}/24 dev br0"))?;
        if let [first, .., last] = &self.nodes[..] {
            let first = self.netns(first);
            let port = format!("to-{last}");
            ip(&format!(
                "link add {port} netns {first} type veth peer name wire netns {netns}"
            ))?;
            ip(&format!("-n {first} link set {port} master br0 up"))?;
            ip(&format!("-n {netns} link set wire master br0 up"))?;
        }
        Ok(())
    }

    fn netns(&self, name: &str) -> String {
        format!("{}-{name}", self.id)
    }

    /// A pod with a service in front of it; enrolled unless `enrolled` is None.
    pub fn add_pod(&mut self, node: &str, name: &str, on_agent_down: Option<&str>) -> Result<Pod> {
        let pod = Pod {
            name: name.to_owned(),
            node: node.to_owned(),
            index: 2 + self.pods.len(),
            netns: self.netns(name),
            cgroup: self.cgroup.join(node).join(name),
        };
        fs::create_dir_all(&pod.cgroup)?;
        let (netns, node_netns) = (&pod.netns, self.netns(node));
        let outside = format!("v-{name}");
        ip(&format!("netns add {netns}"))?;
        self.pods.push(pod.clone());
        ip(&format!("-n {netns} link set lo up"))?;
        ip(&format!(
            "link add eth0 netns {netns} type veth peer name {outside} netns {node_netns}"
        ))?;
        ip(&format!("-n {node_netns} link set {outside} master br0 up"))?;
        ip(&format!("-n {netns} addr add {}/24 dev eth0", pod.v4()))?;
        ip(&format!(
            "-n {netns} addr add {}/64 dev eth0 nodad",
            pod.v6()
        ))?;
        ip(&format!("-n {netns} link set eth0 up"))?;
        ip(&format!("-n {netns} route add default dev eth0"))?;
        ip(&format!("-n {netns} -6 route add default dev eth0"))?;
        fs::write(self.config_file(name), yaml(&pod, on_agent_down))?;
        Ok(pod)
    }

    fn config_file(&self, name: &str) -> PathBuf {
        self.dir.path().join("config").join(format!("{name}.yaml"))
    }

    /// Takes the pod out of the configuration and ends its processes.
    pub fn remove_pod(&mut self, pod: &Pod) -> Result<()> {
        fs::remove_file(self.config_file(&pod.name))?;
        fs::write(pod.cgroup.join("cgroup.kill"), "1")?;
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

    /// The test application, inside a pod.
    #[must_use]
    pub fn app(&self, pod: &Pod) -> Command {
        self.command(&pod.netns, &pod.cgroup, binary("MESH_APP_BIN", "mesh-app"))
    }

    /// Any program, inside a pod.
    #[must_use]
    pub fn in_pod(&self, pod: &Pod, program: &str) -> Command {
        self.command(&pod.netns, &pod.cgroup, program)
    }

    /// Any program, on a node.
    #[must_use]
    pub fn on_node(&self, node: &str, program: &str) -> Command {
        self.command(&self.netns(node), &self.cgroup.join(node), program)
    }

    /// Starts the pod's server and waits for it to listen.
    pub fn serve(&mut self, pod: &Pod) -> Result<()> {
        let mut child = self
            .app(pod)
            .args(["serve", &APP_PORT.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .context("start the test application")?;
        let out = child.stdout.take().context("its output")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        self.children.push(child);
        if line.trim() != "serving" {
            bail!("the server in {} did not start", pod.name);
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

    /// Waits until the kernel has noticed that every link is up, up to a second
    /// after it is: before that bridges drop what comes in.
    fn links_up(&self) -> Result<()> {
        let up = |node: &String| {
            let netns = self.netns(node);
            let out = Command::new("ip")
                .args(["-n", &netns, "-o", "link", "show", "master", "br0"])
                .output();
            out.is_ok_and(|o| {
                let text = String::from_utf8_lossy(&o.stdout).into_owned();
                text.lines().all(|l| l.contains("state UP"))
            })
        };
        if eventually(Duration::from_secs(10), || self.nodes.iter().all(up)) {
            return Ok(());
        }
        bail!("the links of {} do not come up", self.id)
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
        let run_dir = self.dir.path().join(format!("run-{node}"));
        let log = self.dir.path().join(format!("{node}.log"));
        let cgroup = self.cgroup.join(node).join("agent");
        let netns = self.netns(node);
        let child = self
            .command(&netns, &cgroup, binary("MESH_AGENT_BIN", "mesh-agent"))
            .args(["run", "--node-name", node])
            .arg("--config-dir")
            .arg(self.dir.path().join("config"))
            .arg("--bpffs-dir")
            .arg(self.pins(node))
            .arg("--run-dir")
            .arg(&run_dir)
            .arg("--cgroup-root")
            .arg(self.cgroup.join(node))
            .arg("--agent-cgroup")
            .arg(&cgroup)
            .arg("--access-log")
            .arg(self.access_log(node))
            .args(args)
            .stderr(fs::File::create(&log)?)
            .spawn()
            .context("start the agent")?;
        Ok(Agent {
            child,
            netns,
            run_dir,
            log,
        })
    }

    #[must_use]
    pub fn access_log(&self, node: &str) -> PathBuf {
        self.dir.path().join(format!("{node}-access.log"))
    }

    #[must_use]
    pub fn pins(&self, node: &str) -> PathBuf {
        Path::new("/sys/fs/bpf").join(self.netns(node))
    }

    /// `mesh-agent cleanup` for the node.
    pub fn cleanup(&self, node: &str) -> Result<Output> {
        let out = Command::new(binary("MESH_AGENT_BIN", "mesh-agent"))
            .args(["cleanup", "--bpffs-dir"])
            .arg(self.pins(node))
            .output()?;
        Ok(out)
    }

    /// Rules and capture routes in the pod's namespace, as text; empty when none.
    pub fn capture_rules(&self, pod: &Pod) -> Result<String> {
        let mut text = String::new();
        for family in ["-4", "-6"] {
            let out = Command::new("ip")
                .args(["-n", &pod.netns, family, "rule"])
                .output()?;
            let rules = String::from_utf8_lossy(&out.stdout).into_owned();
            text.extend(rules.lines().filter(|l| l.contains("fwmark")));
        }
        Ok(text)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Everything is tried; what fails is not there.
        for node in &self.nodes {
            let _ = fs::write(self.cgroup.join(node).join("cgroup.kill"), "1");
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for pod in &self.pods {
            let _ = ip(&format!("netns del {}", pod.netns));
        }
        for node in &self.nodes {
            let _ = fs::remove_dir_all(self.pins(node));
            let _ = ip(&format!("netns del {}", self.netns(node)));
        }
        // A killed process leaves its cgroup a moment later.
        let _ = eventually(Duration::from_secs(5), || remove_cgroups(&self.cgroup));
    }
}

fn remove_cgroups(dir: &Path) -> bool {
    if let Ok(entries) = fs::read_dir(dir) {
        for entry in entries.filter_map(Result::ok) {
            if entry.path().is_dir() {
                remove_cgroups(&entry.path());
            }
        }
    }
    fs::remove_dir(dir).is_ok() || !dir.exists()
}

impl Agent {
    pub fn wait_ready(&self) -> Result<()> {
        let ready = eventually(Duration::from_secs(10), || {
            self.status().is_ok_and(|s| s["ready"] == true)
        });
        if !ready {
            bail!("the agent is not ready: {}", self.log());
        }
        Ok(())
    }

    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What the admin socket answers.
    pub fn status(&self) -> Result<serde_json::Value> {
        let out = Command::new(binary("MESH_AGENT_BIN", "mesh-agent"))
            .args(["status", "--run-dir"])
            .arg(&self.run_dir)
            .output()?;
        Ok(serde_json::from_slice(&out.stdout)?)
    }

    /// The Prometheus page.
    pub fn metrics(&self) -> Result<String> {
        let out = Command::new("ip")
            .args([
                "netns",
                "exec",
                &self.netns,
                "curl",
                "-sS",
                "--max-time",
                "5",
            ])
            .arg("http://127.0.0.1:15020/metrics")
            .output()?;
        Ok(String::from_utf8(out.stdout)?)
    }

    /// Sum of all series of a metric whose line contains `with`.
    pub fn metric(&self, name: &str, with: &str) -> Result<f64> {
        let page = self.metrics()?;
        let lines = page
            .lines()
            .filter(|l| l.starts_with(name) && l.contains(with));
        Ok(lines
            .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }

    #[must_use]
    pub fn open_fds(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).map_or(0, Iterator::count)
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill9(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM and the exit status.
    pub fn stop(mut self) -> Result<std::process::ExitStatus> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        Ok(self.child.wait()?)
    }
}

/// Waits for a condition; false when the deadline passes first.
pub fn eventually(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// JSON on a program's standard output.
pub fn parse(out: &Output) -> Result<serde_json::Value> {
    serde_json::from_slice(&out.stdout).with_context(|| {
        format!(
            "{}: {}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        )
    })
}

fn yaml(pod: &Pod, on_agent_down: Option<&str>) -> String {
    let Pod { name, node, .. } = pod;
    let (v4, v6) = (pod.v4(), pod.v6());
    let labels = match on_agent_down {
        Some(_) => format!("{{app: {name}, mesh-agent.io/enrolled: \"true\"}}"),
        None => format!("{{app: {name}}}"),
    };
    let down = on_agent_down.unwrap_or("closed");
    let [vip4, vip6] = [
        format!("10.96.0.{}", pod.index),
        format!("fd96::{:x}", pod.index),
    ];
    format!(
        r#"apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: shop
  labels: {labels}
  annotations: {{mesh-agent.io/netns: /run/netns/{netns}, mesh-agent.io/on-agent-down: {down}}}
spec: {{nodeName: {node}, serviceAccountName: {name}}}
status: {{phase: Running, podIP: {v4}, podIPs: [{{ip: {v4}}}, {{ip: "{v6}"}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  clusterIP: {vip4}
  clusterIPs: [{vip4}, "{vip6}"]
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: {APP_PORT}}}]
"#,
        netns = pod.netns
    )
}

fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let line = mounts
        .lines()
        .find(|l| l.split(' ').nth(2) == Some("cgroup2"));
    let path = line
        .and_then(|l| l.split(' ').nth(1))
        .context("find a cgroup2 mount")?;
    Ok(path.into())
}

/// From the environment (set by `cargo xtask`), else beside the running program.
fn binary(variable: &str, name: &str) -> PathBuf {
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

fn ip(args: &str) -> Result<()> {
    let out = Command::new("ip").args(args.split(' ')).output()?;
    if !out.status.success() {
        bail!("ip {args}: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}
