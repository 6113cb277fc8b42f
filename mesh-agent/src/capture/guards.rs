//! Which cgroups are watched: the node's by flag, and each pod's own.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, MapData, MapError};
use mesh_common::abi::{GUARD_POD, Guard, MAX_CGROUP_DEPTH};

use super::{CONNECT4, Capture, Error, Owner, cgroup_id, map_in, pins};
use crate::sys::cgroup;

pub(super) const MAP: &str = "GUARDED";

/// `BPF_NOEXIST`: of a key that is there the value stays.
const NO_EXIST: u64 = 1;

/// Of `--guard-cgroup`: no pod's. From the node's own namespace all of it may connect.
fn plain(node_cookie: u64) -> Guard {
    Guard {
        netns_cookie: node_cookie,
        flags: 0,
        reserved: 0,
    }
}

impl Capture {
    /// Watches the configured cgroups, and those of an earlier start no more.
    pub(super) fn guard_configured(&mut self, dirs: &[PathBuf]) -> Result<(), Error> {
        let wanted: HashSet<u64> = dirs
            .iter()
            .map(|dir| watched_id(dir))
            .collect::<Result<_, _>>()?;
        let mut map = self.guarded()?;
        for id in &wanted {
            // A pod's entry refuses more than this one: it stays.
            if get(&map, *id)?.is_none_or(|guard| guard.flags & GUARD_POD == 0) {
                insert(&mut map, *id, plain(self.config.node_cookie))?;
            }
        }
        for (id, guard) in entries(&map) {
            if guard.flags & GUARD_POD == 0 && !wanted.contains(&id) {
                let _gone = map.remove(&id);
            }
        }
        self.configured_guards = wanted;
        Ok(())
    }

    /// Watches the configured cgroups, and the node's pods where any of them may run
    /// that is to be closed: after a reboot, and where an agent that held them ended
    /// before it knew them all. What programs of another version may hold is held by
    /// nobody else, as long as ours did not take their place.
    pub(super) fn begin_hold(&mut self) -> Result<(), Error> {
        let is_first = self.owner.as_ref().is_some_and(Owner::found_nothing);
        self.others_capture = self.do_others_capture()?;
        let may_be_held = is_first || self.others_capture;
        if self.config.hold.is_some() && !may_be_held && !self.was_held()? {
            self.config.hold = None;
        }
        // An agent that runs watches whoever comes, also when it has handed over
        // ([`Self::guard_newcomer`]): nobody has to be held until this one does. Of one
        // that does not run nothing is carried that a hold would cut.
        let others_watch = self.others_capture && self.do_others_run()?;
        let hold = self.config.hold.iter().filter(|_| !others_watch);
        let dirs: Vec<PathBuf> = hold.chain(&self.config.guard_cgroups).cloned().collect();
        self.guard_configured(&dirs)
    }

    /// Before the programs of other versions go: until then who is enrolled there is not
    /// refused until it is enrolled here. Of pods that may be held these are; `None`: all,
    /// as it cannot be told.
    pub(super) fn guard_in_place_of_others(
        &mut self,
        held: Option<&[PathBuf]>,
    ) -> Result<(), Error> {
        if !self.others_capture {
            return Ok(());
        }
        let mut map = self.guarded()?;
        for id in &self.guards_wait {
            insert(&mut map, *id, pod_guard(0))?;
        }
        let held = match (&self.config.hold, held) {
            (None, _) => Vec::new(),
            (Some(_), Some(held)) => held.to_vec(),
            (Some(all), None) => vec![all.clone()],
        };
        self.hold_these(&held)?;
        self.guards_wait.clear();
        self.others_capture = false;
        Ok(())
    }

    /// Did an earlier agent hold pods when it ended, or end before it could?
    fn was_held(&self) -> Result<bool, Error> {
        if !pins::is_there(&self.pins.link(CONNECT4))? {
            return Ok(true);
        }
        let own: HashSet<u64> = self
            .config
            .guard_cgroups
            .iter()
            .map(|dir| watched_id(dir))
            .collect::<Result<_, _>>()?;
        let held = entries(&self.guarded()?);
        Ok(held
            .iter()
            .any(|(id, guard)| guard.flags & GUARD_POD == 0 && !own.contains(id)))
    }

    /// Are pods held of which it is not known yet whether they are to be closed?
    #[must_use]
    pub(crate) fn holds(&self) -> bool {
        self.config.hold.is_some()
    }

    /// Of all pods that were held these are, still; the others are enrolled, watched by
    /// themselves, or known to be outside. With none the hold ends.
    pub(crate) fn narrow_hold(&mut self, dirs: &[PathBuf]) -> Result<(), Error> {
        if !self.holds() {
            return Ok(());
        }
        self.hold_these(dirs)?;
        if dirs.is_empty() {
            self.config.hold = None;
        }
        Ok(())
    }

    /// As far as they are there still, beside the configured ones.
    fn hold_these(&mut self, dirs: &[PathBuf]) -> Result<(), Error> {
        let is_there = |dir: &&PathBuf| dir.try_exists().unwrap_or(true);
        let held = dirs.iter().filter(is_there);
        let all: Vec<PathBuf> = held.chain(&self.config.guard_cgroups).cloned().collect();
        self.guard_configured(&all)
    }

    /// Watches a pod's own cgroup from before its namespace is known: until
    /// [`Self::guard_enrolled`] processes in it reach nothing beyond loopback.
    /// What an earlier agent knew of it stays. Gives the cgroup's id.
    pub(crate) fn guard_pod(&mut self, dir: &Path) -> Result<u64, Error> {
        let id = watched_id(dir)?;
        let mut map = self.guarded()?;
        if get(&map, id)?.is_none_or(|guard| guard.flags & GUARD_POD == 0) {
            match self.others_capture && self.is_enrolled_by_others(id)? {
                true => drop(self.guards_wait.insert(id)),
                false => insert(&mut map, id, pod_guard(0))?,
            }
        }
        Ok(id)
    }

    /// As [`Self::guard_pod`], of an agent that has handed over: what is there already is
    /// its successor's word and stays.
    pub(crate) fn guard_newcomer(&self, dir: &Path) -> Result<u64, Error> {
        let id = watched_id(dir)?;
        match self.guarded()?.insert(id, pod_guard(0), NO_EXIST) {
            Err(MapError::SyscallError(e)) if e.io_error.kind() == ErrorKind::AlreadyExists => {
                Ok(id)
            }
            inserted => inserted
                .map(|()| id)
                .map_err(|source| Error::Map { name: MAP, source }),
        }
    }

    /// Do programs of another version capture, or refuse, what connects in the cgroup? Of
    /// maps that cannot be read nobody knows, and a pod that nobody knows is refused.
    fn is_enrolled_by_others(&self, id: u64) -> Result<bool, Error> {
        for version in self.pins.other_versions()? {
            let theirs = map_in::<HashMap<MapData, u64, Guard>>(&pins::maps_of(&version), MAP);
            let guard = theirs.and_then(|map| get(&map, id));
            if let Ok(Some(guard)) = guard
                && guard.flags & GUARD_POD != 0
                && guard.netns_cookie != 0
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Lets processes in the pod's cgroup connect from this namespace, and no other.
    pub(crate) fn guard_enrolled(
        &mut self,
        cgroup_id: u64,
        netns_cookie: u64,
    ) -> Result<(), Error> {
        self.guards_wait.remove(&cgroup_id);
        insert(&mut self.guarded()?, cgroup_id, pod_guard(netns_cookie))
    }

    /// Stops watching the cgroups of pods that are not in `kept`.
    pub(crate) fn retain_pod_guards(&mut self, kept: &HashSet<u64>) -> Result<(), Error> {
        self.guards_wait.retain(|id| kept.contains(id));
        let mut map = self.guarded()?;
        for (id, guard) in entries(&map) {
            if guard.flags & GUARD_POD == 0 || kept.contains(&id) {
                continue;
            }
            if self.configured_guards.contains(&id) {
                insert(&mut map, id, plain(self.config.node_cookie))?;
            } else {
                let _gone = map.remove(&id);
            }
        }
        Ok(())
    }

    fn guarded(&self) -> Result<HashMap<MapData, u64, Guard>, Error> {
        self.map(MAP)
    }
}

/// Id of a cgroup whose processes the connect hooks can tell.
fn watched_id(dir: &Path) -> Result<u64, Error> {
    let failed = |source| Error::Cgroup {
        dir: dir.to_owned(),
        source,
    };
    let depth = cgroup::depth(dir).map_err(failed)?;
    if depth >= MAX_CGROUP_DEPTH as usize {
        let dir = dir.to_owned();
        return Err(Error::CgroupDepth { dir, depth });
    }
    cgroup_id(dir)
}

fn pod_guard(netns_cookie: u64) -> Guard {
    Guard {
        netns_cookie,
        flags: GUARD_POD,
        reserved: 0,
    }
}

fn insert(map: &mut HashMap<MapData, u64, Guard>, id: u64, guard: Guard) -> Result<(), Error> {
    map.insert(id, guard, 0)
        .map_err(|source| Error::Map { name: MAP, source })
}

/// An error is not "there is none".
fn get(map: &HashMap<MapData, u64, Guard>, id: u64) -> Result<Option<Guard>, Error> {
    match map.get(&id, 0) {
        Ok(guard) => Ok(Some(guard)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(source) => Err(Error::Map { name: MAP, source }),
    }
}

fn entries(map: &HashMap<MapData, u64, Guard>) -> Vec<(u64, Guard)> {
    map.iter().filter_map(Result::ok).collect()
}
