//! A client that connects all the time, and what became of its connections.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::wait::eventually;
use crate::world::binary;
use crate::{Pod, World};

/// A client in a pod; see `mesh-app steady --help`.
pub struct Steady {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// Which time it is: [`Steady::begin_next`] begins another.
    pub time: usize,
}

/// When a stream, or what failed, began and ended: microseconds since 1970.
#[derive(Clone, Debug, Deserialize)]
pub struct Span {
    pub begun_us: u64,
    pub ended_us: u64,
    /// What the client was told.
    pub how: String,
}

impl Span {
    #[must_use]
    pub fn life(&self) -> Duration {
        Duration::from_micros(self.ended_us.saturating_sub(self.begun_us))
    }
}

impl World {
    /// Starts it; the targets are addresses of pods, not virtual ones.
    pub fn steady(&self, pod: &Pod, targets: &[String]) -> Result<Steady> {
        let mut command = self.app(pod);
        command.arg("steady").args(targets);
        Steady::start(command)
    }

    /// At most so many connections a second, each from a port of its own; without streams.
    pub fn steady_at(&self, rate: &str, pod: &Pod, targets: &[String]) -> Result<Steady> {
        let mut command = self.app(pod);
        command.args(["steady", "--streams", "0", "--rate", rate]);
        command.args(targets);
        Steady::start(command)
    }

    /// One that nobody captures, on a node in a cgroup of its own; without streams.
    pub fn steady_apart(&self, node: &str, group: &str, targets: &[String]) -> Result<Steady> {
        let program = binary("MESH_APP_BIN", "mesh-app");
        let mut command = self.on_node_apart(node, group, &program)?;
        command.args(["steady", "--streams", "0", "--rate", RATE]);
        command.args(targets);
        Steady::start(command)
    }
}

/// A node has a port for each connection, which is taken for a minute after its end.
const RATE: &str = "400";

impl Steady {
    /// `command` is the application in its mode `steady`, somewhere.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a client")?;
        Ok(Self {
            to: child.stdin.take().context("its input")?,
            from: BufReader::new(child.stdout.take().context("its output")?),
            child,
            time: 0,
        })
    }

    fn ask<T: DeserializeOwned>(&mut self, line: &str) -> Result<T> {
        writeln!(self.to, "{line}")?;
        let mut answer = String::new();
        if self.from.read_line(&mut answer)? == 0 {
            bail!("the client has ended");
        }
        Ok(serde_json::from_str(&answer)?)
    }

    /// From now on connections count to a new time.
    pub fn begin_next(&mut self) -> Result<()> {
        self.time += 1;
        self.ask::<Vec<Value>>("next").map(drop)
    }

    /// What became, so far, of the connections that began in that time.
    pub fn tally(&mut self, time: usize) -> Result<Value> {
        let all: Vec<Value> = self.ask("show")?;
        Ok(all
            .get(time)
            .cloned()
            .unwrap_or_else(|| Value::Object(Default::default())))
    }

    /// Those streams that have ended, of all times; the first few thousand.
    pub fn streams(&mut self) -> Result<Vec<Span>> {
        self.ask("streams")
    }

    /// What failed, of all times; the first few thousand.
    pub fn failures(&mut self) -> Result<Vec<Span>> {
        self.ask("failures")
    }

    /// Waits until so many outcomes of this time are `what`.
    pub fn wait_for(&mut self, what: &str, count: u64) -> Result<()> {
        self.wait_until(&format!("{count} {what}"), |tally| {
            tally[what].as_u64().is_some_and(|n| n >= count)
        })
    }

    /// Waits until so many outcomes of this time are another.
    pub fn wait_for_any_but(&mut self, what: &str, count: u64) -> Result<()> {
        self.wait_until(&format!("{count} not {what}"), |tally| {
            let others: u64 = outcomes(tally)
                .filter(|(k, _)| *k != what)
                .map(|o| o.1)
                .sum();
            others >= count
        })
    }

    fn wait_until(&mut self, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<()> {
        let time = self.time;
        let mut tally = Value::Null;
        let seen = eventually(Duration::from_secs(20), || {
            tally = self.tally(time).unwrap_or_default();
            is_so(&tally)
        });
        if !seen {
            bail!("not {what}: {tally}");
        }
        Ok(())
    }
}

/// How many of a time's connections did not end as they should.
#[must_use]
pub fn failed(tally: &Value) -> u64 {
    all_but("carried", tally)
}

fn all_but(what: &str, tally: &Value) -> u64 {
    let others = outcomes(tally).filter(|(key, _)| *key != what);
    others.map(|(_, count)| count).sum()
}

/// Kinds of outcomes and how many; without streams, and without moments.
fn outcomes(tally: &Value) -> impl Iterator<Item = (&str, u64)> {
    let all = tally.as_object().into_iter().flatten();
    let is_outcome = |key: &str| !key.starts_with("stream") && !key.ends_with("_us");
    all.filter(move |(key, _)| is_outcome(key))
        .map(|(key, count)| (key.as_str(), count.as_u64().unwrap_or(0)))
}

impl Drop for Steady {
    fn drop(&mut self) {
        // Ended already with its pod, maybe.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
