//! A running agent: its pages, its process, its end.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use crate::cgroup;
use crate::wait::{PATIENCE, eventually};
use crate::world::binary;

/// A running agent.
pub struct Agent {
    pub(crate) child: Child,
    pub(crate) netns: String,
    pub(crate) run_dir: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) cgroup: PathBuf,
}

impl Agent {
    pub fn wait_ready(&self) -> Result<()> {
        let ready = eventually(Duration::from_secs(30), || {
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

    /// Directory of its admin socket, as for `mesh-agent status --run-dir`.
    #[must_use]
    pub fn run_dir(&self) -> &std::path::Path {
        &self.run_dir
    }

    /// What the admin socket answers.
    pub fn status(&self) -> Result<serde_json::Value> {
        let out = Command::new(binary("MESH_AGENT_BIN", "mesh-agent"))
            .args(["status", "--json", "--run-dir"])
            .arg(&self.run_dir)
            .output()?;
        Ok(serde_json::from_slice(&out.stdout)?)
    }

    /// The exit code of `mesh-agent status`, and what it prints for people.
    pub fn status_text(&self) -> Result<(i32, String)> {
        let out = Command::new(binary("MESH_AGENT_BIN", "mesh-agent"))
            .args(["status", "--run-dir"])
            .arg(&self.run_dir)
            .output()?;
        let code = out.status.code().context("its exit code")?;
        Ok((code, String::from_utf8(out.stdout)?))
    }

    /// The exit code of `mesh-agent probe`, and what it prints.
    pub fn probe(&self, what: &str) -> Result<(i32, String)> {
        let out = Command::new(binary("MESH_AGENT_BIN", "mesh-agent"))
            .args(["probe", what, "--run-dir"])
            .arg(&self.run_dir)
            .output()?;
        let code = out.status.code().context("its exit code")?;
        Ok((code, String::from_utf8(out.stdout)?))
    }

    /// Status code and text of `/readyz`.
    pub fn readyz(&self) -> Result<(u16, String)> {
        let url = "http://127.0.0.1:15020/readyz";
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
            .args(["-w", "%{http_code}", url])
            .output()?;
        let text = String::from_utf8(out.stdout)?;
        let at = text.len().checked_sub(3).context("a status code")?;
        let (text, code) = text.split_at(at);
        Ok((code.parse()?, text.to_owned()))
    }

    /// What `mesh-agent explain` says: its exit code, and its answer where it has one.
    pub fn explain(&self, from: &str, to: &str, port: u16) -> Result<(i32, serde_json::Value)> {
        let out = Command::new(binary("MESH_AGENT_BIN", "mesh-agent"))
            .args(["explain", from, to, &port.to_string()])
            .args(["--json", "--run-dir"])
            .arg(&self.run_dir)
            .output()?;
        let code = out.status.code().context("its exit code")?;
        let answer = match out.stdout.is_empty() {
            true => serde_json::json!(String::from_utf8_lossy(&out.stderr)),
            false => serde_json::from_slice(&out.stdout)?,
        };
        Ok((code, answer))
    }

    /// Is it ready? Asked without a program in between.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ask("/status").is_ok_and(|s| s["ready"] == true)
    }

    /// What a page of the admin socket says, without a program in between.
    pub fn ask(&self, page: &str) -> Result<serde_json::Value> {
        let mut socket = UnixStream::connect(self.run_dir.join("admin.sock"))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(socket, "GET {page} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("find the body")?;
        serde_json::from_str(body).with_context(|| answer.clone())
    }

    /// The command that reads the Prometheus page from outside the node.
    #[must_use]
    pub fn metrics_command(&self) -> String {
        format!(
            "ip netns exec {} curl -sS http://127.0.0.1:15020/metrics",
            self.netns
        )
    }

    /// The Prometheus page.
    pub fn metrics(&self) -> Result<String> {
        let out = Command::new("sh")
            .args(["-c", &format!("{} --max-time 5", self.metrics_command())])
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

    /// The same as soon as it has come to `least`: a client sees how its connection or
    /// request ends, and a moment later the agent counts it.
    ///
    /// # Panics
    /// Where it does not come to that.
    #[track_caller]
    #[must_use]
    pub fn comes_to(&self, name: &str, with: &str, least: f64) -> f64 {
        let mut now = 0.0;
        let done = eventually(PATIENCE, || {
            now = self.metric(name, with).unwrap_or_default();
            now >= least
        });
        assert!(done, "{name} {with}: {now}, not {least}");
        now
    }

    #[must_use]
    pub fn open_fds(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).map_or(0, Iterator::count)
    }

    #[must_use]
    pub fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.child.id())).map_or(0, Iterator::count)
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> Result<u64> {
        rss(self.pid())
    }

    /// CPU time of its process so far, in ticks of 10 ms.
    pub fn process_cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // Fields are counted after the name, which may hold anything.
        let (_, fields) = stat.rsplit_once(')').context("find the name")?;
        let mut fields = fields.split_whitespace().skip(11);
        let mut ticks = || -> Result<u64> { Ok(fields.next().context("a field")?.parse()?) };
        let (user, system) = (ticks()?, ticks()?);
        Ok(Duration::from_millis((user + system) * 10))
    }

    /// Of the configuration in force.
    pub fn generation(&self) -> Result<u64> {
        let status = self.status()?;
        status["generation"].as_u64().context("a generation")
    }

    /// Sum of the series of a counter that have all these labels.
    pub fn counter(&self, family: &str, labels: &[&str]) -> Result<u64> {
        let page = self.metrics()?;
        let lines = page.lines().filter(|line| {
            let rest = line.strip_prefix(family);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        // A whole number, written as one.
        Ok(values.sum::<f64>() as u64)
    }

    /// The same as soon as it has come to `least`, as [`Agent::comes_to`].
    ///
    /// # Panics
    /// Where it does not come to that.
    #[track_caller]
    #[must_use]
    pub fn counter_comes_to(&self, family: &str, labels: &[&str], least: u64) -> u64 {
        let mut now = 0;
        let done = eventually(PATIENCE, || {
            now = self.counter(family, labels).unwrap_or_default();
            now >= least
        });
        assert!(done, "{family} {labels:?}: {now}, not {least}");
        now
    }

    /// Requests that it counted with all these labels.
    pub fn requests(&self, labels: &[&str]) -> Result<u64> {
        self.counter("istio_requests_total", labels)
    }

    /// To some endpoint of a Service something is in flight.
    pub fn has_in_flight(&self) -> Result<bool> {
        let list = self.ask("/endpoints")?;
        let rows = list["endpoints"].as_array().context("rows")?;
        Ok(rows.iter().any(|row| row["in_flight"].as_u64() >= Some(1)))
    }

    /// CPU time of its cgroup so far, to the microsecond; of all agents of the
    /// node, one after the other.
    pub fn cpu(&self) -> Result<Duration> {
        cgroup::cpu(&self.cgroup)
    }

    pub fn kill9(mut self) -> Result<()> {
        self.end_now()
    }

    pub(crate) fn end_now(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM and the exit status.
    pub fn stop(mut self) -> Result<std::process::ExitStatus> {
        self.terminate()?;
        Ok(self.child.wait()?)
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::SIGTERM)
    }

    /// It stands still, with all that it holds, until [`Agent::resume`].
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, signal)?;
        Ok(())
    }

    /// Its exit status, when it has ended.
    pub fn ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        Ok(self.child.try_wait()?)
    }
}

/// Resident memory of a process in bytes.
pub fn rss(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .context("find VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}
