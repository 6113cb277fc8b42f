//! A client that connects all the time, and what became of its connections.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::wait::eventually;
use crate::{Pod, World};

/// A client in a pod; see `mesh-app steady --help`.
pub struct Steady {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// Which time it is: [`Steady::begin_next`] begins another.
    pub time: usize,
}

impl World {
    /// Starts it; the targets are addresses of pods, not virtual ones.
    pub fn steady(&self, pod: &Pod, targets: &[String]) -> Result<Steady> {
        let mut child = self
            .app(pod)
            .arg("steady")
            .args(targets)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a client")?;
        Ok(Steady {
            to: child.stdin.take().context("its input")?,
            from: BufReader::new(child.stdout.take().context("its output")?),
            child,
            time: 0,
        })
    }
}

impl Steady {
    fn ask(&mut self, line: &str) -> Result<Vec<Value>> {
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
        self.ask("next").map(drop)
    }

    /// What became, so far, of the connections that began in that time.
    pub fn tally(&mut self, time: usize) -> Result<Value> {
        let all = self.ask("show")?;
        Ok(all
            .get(time)
            .cloned()
            .unwrap_or_else(|| Value::Object(Default::default())))
    }

    /// Waits until so many outcomes of this time are `what`.
    pub fn wait_for(&mut self, what: &str, count: u64) -> Result<()> {
        let time = self.time;
        let mut tally = Value::Null;
        let seen = eventually(Duration::from_secs(20), || {
            tally = self.tally(time).unwrap_or_default();
            tally[what].as_u64().is_some_and(|n| n >= count)
        });
        if !seen {
            bail!("no {count} were {what}: {tally}");
        }
        Ok(())
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        // Ended already with its pod, maybe.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
