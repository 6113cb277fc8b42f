//! The cluster's API, its nodes, and what is on them.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::late::LateAgents;
use crate::packets::PacketCapture;
use crate::wait::eventually;

/// Namespace of the mesh itself.
pub const SYSTEM: &str = "mesh-system";
/// Nodes of the recipe, by their numbers.
pub(super) const NODES: [usize; 2] = [1, 2];

/// What `tests/kube/with.sh` started.
pub struct Cluster {
    recipe: PathBuf,
    images: PathBuf,
    name: String,
    scratch: tempfile::TempDir,
}

impl Cluster {
    /// None where there is none: the suite is run without `cargo xtask test --kube`.
    pub(super) fn of_environment() -> Option<Self> {
        let images = std::env::var_os("MESH_KUBE_IMAGES")?;
        std::env::var_os("KUBECONFIG")?;
        Some(Self {
            recipe: PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("kube"),
            images: images.into(),
            name: std::env::var("CLUSTER_NAME").ok()?,
            scratch: tempfile::tempdir().ok()?,
        })
    }

    /// kubectl with these words; an error if it fails.
    pub fn kubectl(&self, words: &str) -> Result<String> {
        let words: Vec<&str> = words.split_whitespace().collect();
        self.kubectl_args(&words)
    }

    pub fn kubectl_args(&self, args: &[&str]) -> Result<String> {
        let out = self.kubectl_command(args).output().context("kubectl")?;
        text_of(&out).with_context(|| format!("kubectl {}", args.join(" ")))
    }

    #[must_use]
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(args).stdin(Stdio::null());
        command
    }

    pub fn get(&self, what: &str) -> Result<Value> {
        let text = self.kubectl(&format!("get {what} -o json"))?;
        serde_json::from_str(&text).with_context(|| format!("read {what}"))
    }

    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.apply_with(&["apply", "-f", "-"], yaml)
    }

    /// Would the API server take it? Nothing is made.
    pub fn try_apply(&self, yaml: &str) -> Result<()> {
        self.apply_with(&["apply", "--dry-run=server", "-f", "-"], yaml)
    }

    /// Would the API server take it from this user? Nothing is made.
    pub fn try_create_as(&self, (user, group): (&str, &str), yaml: &str) -> Result<()> {
        let (user, group) = (format!("--as={user}"), format!("--as-group={group}"));
        let create = ["create", "--dry-run=server", &user, &group, "-f", "-"];
        self.apply_with(&create, yaml)
    }

    fn apply_with(&self, args: &[&str], yaml: &str) -> Result<()> {
        let mut child = Command::new("kubectl")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut to = child.stdin.take().context("its input")?;
        to.write_all(yaml.as_bytes())?;
        drop(to);
        text_of(&child.wait_with_output()?)
            .with_context(|| format!("apply {yaml}"))
            .map(drop)
    }

    /// A file or directory of the repository.
    #[must_use]
    pub fn file(&self, path: &str) -> String {
        let root = self.recipe.join("../..");
        root.join(path).display().to_string()
    }

    /// A script of the recipe.
    #[must_use]
    pub fn script(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.recipe.join(name));
        command.args(args).stdin(Stdio::null());
        command
    }

    /// What a program on that node prints; in all of its namespaces.
    pub fn on_node(&self, node: usize, words: &[&str]) -> Result<String> {
        let number = node.to_string();
        let mut args = vec!["exec", &number];
        args.extend(words);
        let out = self.script("node.sh", &args).output()?;
        text_of(&out).with_context(|| format!("on node {node}: {}", words.join(" ")))
    }

    /// What a program prints that is in that node's network, and not in its cgroups.
    pub fn in_network(&self, node: usize, words: &[&str]) -> Result<String> {
        let out = self.nsenter(node).args(words).output()?;
        text_of(&out).with_context(|| format!("in node {node}'s network: {}", words.join(" ")))
    }

    fn nsenter(&self, node: usize) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}-n{node}", self.name));
        command
    }

    /// Brings the image of that program to every node.
    pub(super) fn load_image(&self, program: &str) -> Result<()> {
        let archive = self.images.join(format!("{program}.tar"));
        let archive = archive.to_str().context("a path")?;
        for node in NODES {
            let out = self
                .script("images.sh", &[&node.to_string(), archive])
                .output()?;
            text_of(&out).with_context(|| format!("bring {program} to node {node}"))?;
        }
        Ok(())
    }

    /// Records what passes the link of a node to the others.
    pub fn capture_packets(&self, node: usize, filter: &str) -> Result<PacketCapture> {
        let mut command = self.nsenter(node);
        command.arg("tcpdump");
        let file = self.scratch.path().join(format!("node{node}.pcap"));
        PacketCapture::start(command, "eth0", filter, file)
    }

    /// What a mesh could leave on a node, a line for each thing.
    pub(super) fn traces(&self, node: usize) -> Result<Vec<String>> {
        let script = self.recipe.join("traces.sh");
        let script = script.to_str().context("a path")?;
        let text = self.on_node(node, &["bash", script])?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// The agent of that node, by its pod's name.
    pub fn agent(&self, node: usize) -> Result<String> {
        let pods = self.kubectl(&format!(
            "-n {SYSTEM} get pods -l app.kubernetes.io/name=mesh-agent --field-selector spec.nodeName=node{node} --sort-by=.metadata.creationTimestamp -o name"
        ))?;
        let last = pods.lines().last();
        last.map(str::to_owned)
            .with_context(|| format!("find the agent of node {node}"))
    }

    /// Ends that node's agent as a crash would; the kubelet starts it again.
    pub fn kill_agent(&self, node: usize) -> Result<()> {
        let agent = self.get(&format!("-n {SYSTEM} {}", self.agent(node)?))?;
        let uid = agent["metadata"]["uid"].as_str().context("its UID")?;
        let kill = format!(
            "for pid in $(find /sys/fs/cgroup/unified/kubepods -path '*{uid}*' -name cgroup.procs -exec cat {{}} +); do \
             [ $(cat /proc/$pid/comm) != mesh-agent ] || kill -9 $pid; done"
        );
        self.on_node(node, &["bash", "-c", &kill]).map(drop)
    }

    /// How often that node's agent was started again in its pod.
    pub fn agent_restarts(&self, node: usize) -> Result<u64> {
        let agent = self.get(&format!("-n {SYSTEM} {}", self.agent(node)?))?;
        let count = &agent["status"]["containerStatuses"][0]["restartCount"];
        count.as_u64().context("its restarts")
    }

    /// A verb of that node's agent, in its pod; its exit code and what it prints.
    pub fn ask_agent(&self, node: usize, words: &str) -> Result<(i32, String)> {
        let agent = self.agent(node)?;
        let mut args = vec!["-n", SYSTEM, "exec", &agent, "--", "mesh-agent"];
        args.extend(words.split_whitespace());
        let out = self.kubectl_command(&args).output()?;
        let code = out.status.code().context("its exit code")?;
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        // kubectl says so on standard error, and ends with the program's code.
        let said = match said.is_empty() {
            true => String::from_utf8_lossy(&out.stderr).into_owned(),
            false => said,
        };
        Ok((code, said))
    }

    /// What a verb of that node's agent prints as JSON, whatever its exit code.
    pub fn ask_agent_json(&self, node: usize, words: &str) -> Result<Value> {
        let (code, said) = self.ask_agent(node, &format!("{words} --json"))?;
        serde_json::from_str(&said).with_context(|| format!("exit code {code}: {said}"))
    }

    /// The Prometheus page of that node's agent.
    pub fn agent_metrics(&self, node: usize) -> Result<String> {
        let url = "http://127.0.0.1:15020/metrics";
        self.on_node(node, &["curl", "-sS", "-m", "5", url])
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Everything that runs on it ends, and all that a reboot takes is gone; its agent comes
    /// when what this gives is dropped, and not with the kubelet.
    pub fn reboot(&self, node: usize) -> Result<LateAgents> {
        let number = node.to_string();
        self.run("node.sh", &["down", &number])?;
        let late = LateAgents::of(self, node);
        self.run("node.sh", &["up", &number])?;
        Ok(late)
    }

    fn run(&self, script: &str, args: &[&str]) -> Result<()> {
        let out = self.script(script, args).output()?;
        text_of(&out)
            .with_context(|| format!("{script} {}", args.join(" ")))
            .map(drop)
    }

    pub fn wait_until(
        &self,
        what: &str,
        deadline: Duration,
        condition: impl FnMut() -> bool,
    ) -> Result<()> {
        if eventually(deadline, condition) {
            return Ok(());
        }
        bail!("after {deadline:?} still not: {what}\n{}", self.state())
    }

    /// For the report of a failure.
    #[must_use]
    pub fn state(&self) -> String {
        let mut text = String::new();
        for words in [
            "get pods -A -o wide",
            "-n mesh-system logs daemonset/mesh-agent --all-pods --tail=25 --prefix",
            "-n mesh-system logs deployment/mesh-agent-ca --all-pods --tail=15 --prefix",
            "get events -A --sort-by=.lastTimestamp",
        ] {
            let said = match self.kubectl(words) {
                Ok(said) => said,
                Err(error) => format!("{error:#}"),
            };
            let lines: Vec<&str> = said.lines().collect();
            let tail = lines.len().saturating_sub(60);
            text.push_str(&format!("== {words}\n{}\n", lines[tail..].join("\n")));
        }
        text
    }
}

pub(super) fn text_of(out: &Output) -> Result<String> {
    if !out.status.success() {
        bail!(
            "{}: {}{}",
            out.status,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
