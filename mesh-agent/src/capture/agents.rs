//! The agents of the node: more than one while one takes over from another.
//!
//! Each is known by its cgroup: what it dials is not captured, and is recorded by a
//! program at that cgroup. An agent stays known until it says goodbye, or its cgroup is
//! gone; a dead one's id must not exempt whoever comes next. Its sockets may outlive it
//! either way: the other end has not acknowledged that they are closed.

use std::path::{Path, PathBuf};

use aya::maps::{HashMap, MapData};

use super::pins::{self, agent_pin};
use super::{Capture, Error, absent_is_fine, cgroup_id};
use crate::sys::cgroup;

pub(super) const MAP: &str = "AGENTS";

impl Capture {
    /// From now on this agent is one.
    pub(super) fn join_agents(&mut self, dir: &Path) -> Result<(), Error> {
        self.forget_gone_agents()?;
        let put = self.agents()?.insert(cgroup_id(dir)?, 1, 0);
        put.map_err(|source| Error::Map { name: MAP, source })
    }

    /// Forgets the agents whose cgroups are gone or have no process any more; gives how
    /// many others are left.
    pub(crate) fn forget_gone_agents(&mut self) -> Result<usize, Error> {
        let own = cgroup_id(&self.config.agent_cgroup)?;
        let mut map = self.agents()?;
        let ids = map.keys().collect::<Result<Vec<u64>, _>>();
        let ids = ids.map_err(|source| Error::Map { name: MAP, source })?;
        // Those that have said goodbye: no program forgets their tuples any more.
        let before = self.others.0.len();
        self.others.0.retain(|id, _| ids.contains(id));
        if self.others.0.len() < before {
            self.lost.again();
        }
        let mut left = 0;
        for id in ids.into_iter().filter(|id| *id != own) {
            let seen = self.others.0.remove(&id).flatten();
            // What cannot be looked at is there.
            let found = look(&self.config.cgroup_tree, id, seen).unwrap_or(Some(None));
            if let Some(dir) = found {
                self.others.0.insert(id, dir);
                left += 1;
                continue;
            }
            absent_is_fine(MAP, map.remove(&id))?;
            // Its sockets may close later, and no program forgets their tuples then.
            self.lost.again();
            pins::unpin(&self.pins.link(&agent_pin(id)))?;
            tracing::info!(cgroup_id = id, "an agent is gone");
        }
        Ok(left)
    }

    /// This agent's last word, when its sockets are closed and another one is there.
    pub(crate) fn leave_agents(&mut self) -> Result<(), Error> {
        let own = cgroup_id(&self.config.agent_cgroup)?;
        absent_is_fine(MAP, self.agents()?.remove(&own))?;
        pins::unpin(&self.pins.link(&agent_pin(own)))
    }

    pub(super) fn agents(&self) -> Result<HashMap<MapData, u64, u8>, Error> {
        self.map(MAP)
    }
}

/// The agent's cgroup, where it has a process; `Some(None)`: it is there, and not seen.
pub(super) fn look(
    tree: &Path,
    id: u64,
    seen: Option<PathBuf>,
) -> std::io::Result<Option<Option<PathBuf>>> {
    let is_it = |dir: &PathBuf| cgroup::id(dir).is_ok_and(|now| now == id);
    let dir = match seen.filter(is_it) {
        Some(dir) => Some(dir),
        None => cgroup::find(tree, id)?,
    };
    let Some(dir) = dir else { return Ok(None) };
    match cgroup::is_populated(&dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        populated => Ok(populated?.then_some(Some(dir))),
    }
}
