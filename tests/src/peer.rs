//! One end of a connection in a pod, told step by step what to do.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::{Pod, World};

/// A process in a pod that has at most one connection. Steps: see
/// `mesh-app peer --help`.
pub struct Peer {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl World {
    /// A peer in the pod, without a connection yet.
    pub fn peer(&self, pod: &Pod) -> Result<Peer> {
        let mut child = self
            .app(pod)
            .arg("peer")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a peer")?;
        Ok(Peer {
            to: child.stdin.take().context("its input")?,
            from: BufReader::new(child.stdout.take().context("its output")?),
            child,
        })
    }
}

impl Peer {
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it what to do next; [`Peer::hear`] waits for the outcome.
    pub fn tell(&mut self, step: &str) -> Result<()> {
        writeln!(self.to, "{step}")?;
        Ok(())
    }

    /// The outcome of the step before.
    pub fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            bail!("the peer has ended");
        }
        Ok(line.trim_end().to_owned())
    }

    /// Has it do a step, and waits for the outcome.
    pub fn ask(&mut self, step: &str) -> Result<String> {
        self.tell(step)?;
        self.hear().with_context(|| step.to_owned())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Ended already with its pod, maybe.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
