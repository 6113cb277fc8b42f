//! The agents of nodes n1 and n2: their start, and what a test asks of both.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::{Agent, Authority, PATIENCE, World, eventually};

/// Both nodes' agents, that of n1 first; they end with the value.
pub struct Agents {
    both: [Agent; 2],
    // Theirs; it ends with them.
    _authority: Option<Authority>,
}

impl Agents {
    /// With an authority of their own: connections between the nodes are mutual TLS.
    pub fn start(world: &World, flags: &[&str]) -> Result<Self> {
        let authority = world.authority(&[])?;
        let agents = Self::of(world, &authority, flags)?;
        Ok(Self {
            _authority: Some(authority),
            ..agents
        })
    }

    /// With an authority that the test has in its hands.
    pub fn of(world: &World, authority: &Authority, flags: &[&str]) -> Result<Self> {
        let both = [
            world.secure_agent("n1", authority, flags)?,
            world.secure_agent("n2", authority, flags)?,
        ];
        Ok(Self {
            both,
            _authority: None,
        })
    }

    /// Without one: for what is not about TLS.
    pub fn in_plaintext(world: &World, flags: &[&str]) -> Result<Self> {
        let both = [world.agent("n1", flags)?, world.agent("n2", flags)?];
        Ok(Self {
            both,
            _authority: None,
        })
    }

    /// The same of each.
    pub fn each<T>(&self, of: impl Fn(&Agent) -> Result<T>) -> Result<[T; 2]> {
        Ok([of(&self.both[0])?, of(&self.both[1])?])
    }

    /// Makes a change of the configuration, and waits until both have read it.
    pub fn read(&self, change: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.each(Agent::generation)?;
        change()?;
        let is_newer = || {
            let now = self.each(Agent::generation);
            now.is_ok_and(|now| now[0] > before[0] && now[1] > before[1])
        };
        if !eventually(PATIENCE, is_newer) {
            bail!("the configuration is not read");
        }
        Ok(())
    }

    /// Writes a file of the configuration, and waits until both have read it.
    pub fn read_file(&self, world: &World, name: &str, yaml: &str) -> Result<()> {
        self.read(|| world.write_config(name, yaml))
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> Result<[u64; 2]> {
        self.each(Agent::rss)
    }

    /// By how many bytes each has grown since it had `before`.
    pub fn grown_since(&self, before: [u64; 2]) -> Result<[u64; 2]> {
        let now = self.memory()?;
        Ok([0, 1].map(|i| now[i].saturating_sub(before[i])))
    }

    /// Does the work, and by how many bytes each grew at most meanwhile.
    pub fn grow_by<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<(T, [u64; 2])> {
        let before = self.memory()?;
        let mut most = [0; 2];
        std::thread::scope(|scope| {
            let working = scope.spawn(work);
            while !working.is_finished() {
                let now = self.grown_since(before)?;
                most = [0, 1].map(|i| now[i].max(most[i]));
                // How often it is looked at, not a wait for anything.
                std::thread::sleep(Duration::from_millis(20));
            }
            let done = working.join();
            let done = done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((done, most))
        })
    }

    /// Kills one of them; another can be put in its place.
    pub fn kill(&mut self, at: usize) -> Result<()> {
        self.both[at].end_now()
    }
}

impl Deref for Agents {
    type Target = [Agent; 2];

    fn deref(&self) -> &Self::Target {
        &self.both
    }
}

impl DerefMut for Agents {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.both
    }
}
