//! The agents of the node: more than one while one takes over from another.
//!
//! Each is known by its cgroup: what it dials is not captured, and is recorded by a
//! program at that cgroup. An agent stays known until it says goodbye, or its cgroup is
//! gone; a dead one's id must not exempt whoever comes next. Its sockets may outlive it
//! either way: the other end has not acknowledged that they are closed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, MapData};

use super::known::Others;
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

    /// Forgets the agents whose cgroups are gone or have no process any more.
    pub(crate) fn forget_gone_agents(&mut self) -> Result<(), Error> {
        let own = cgroup_id(&self.config.agent_cgroup)?;
        let mut map = self.agents()?;
        let ids = map.keys().collect::<Result<BTreeSet<u64>, _>>();
        let ids = ids.map_err(|source| Error::Map { name: MAP, source })?;
        // Those that have said goodbye: no program forgets their tuples any more.
        for id in self.lost.left(&ids) {
            self.others.0.remove(&id);
        }
        for id in ids.into_iter().filter(|id| *id != own) {
            if look(&mut self.others, &self.config.cgroup_tree, id).is_some() {
                continue;
            }
            absent_is_fine(MAP, map.remove(&id))?;
            // Its sockets may close later, and no program forgets their tuples then.
            self.lost.again();
            pins::unpin(&self.pins.link(&agent_pin(id)))?;
            tracing::info!(cgroup_id = id, "an agent is gone");
        }
        Ok(())
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

/// Of the version's agents those that have a process, but for the one that is `own`, each
/// with its cgroup where that is seen.
pub(super) fn running(
    others: &mut Others,
    tree: &Path,
    version: &Path,
    own: u64,
) -> Result<Vec<(u64, Option<PathBuf>)>, Error> {
    let ids = pins::agents_of(version)?.into_iter();
    let ids = ids.filter(|id| *id != own);
    Ok(ids
        .filter_map(|id| Some((id, look(others, tree, id)?)))
        .collect())
}

/// The agent's cgroup, where it has a process; `Some(None)`: it is there, and not seen. What
/// cannot be looked at is there.
fn look(others: &mut Others, tree: &Path, id: u64) -> Option<Option<PathBuf>> {
    let seen = others.0.remove(&id).flatten();
    let found = populated(tree, id, seen).unwrap_or(Some(None));
    if let Some(dir) = &found {
        others.0.insert(id, dir.clone());
    }
    found
}

fn populated(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_of_another_version_runs_until_it_has_no_process_whoever_knows_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let (tree, version) = (dir.path().join("tree"), dir.path().join("abi-1"));
        let group = tree.join("agent");
        std::fs::create_dir_all(&group).expect("a group");
        std::fs::create_dir_all(version.join("links")).expect("links");
        let say = |what: &str| std::fs::write(group.join("cgroup.events"), what).expect("told");
        let id = cgroup::id(&group).expect("an id");
        std::fs::write(pins::link_of(&version, &agent_pin(id)), "").expect("a pin");
        let mut others = Others::default();
        let mut runs = |tree: &Path, own: u64| {
            let running = running(&mut others, tree, &version, own).expect("a look");
            running.into_iter().next()
        };
        say("populated 1\n");
        assert_eq!(runs(&tree, 0), Some((id, Some(group.clone()))));
        assert_eq!(runs(&tree, id), None, "it is this one");
        // A look that fails is no word that it has ended.
        let unseen = dir.path().join("nowhere");
        std::fs::remove_file(group.join("cgroup.events")).expect("removed");
        std::fs::create_dir(group.join("cgroup.events")).expect("unreadable");
        assert_eq!(runs(&tree, 0), Some((id, None)));
        assert_eq!(runs(&unseen, 0), Some((id, None)));
        std::fs::remove_dir(group.join("cgroup.events")).expect("removed");
        say("populated 0\n");
        assert_eq!(runs(&tree, 0), None);
    }
}
