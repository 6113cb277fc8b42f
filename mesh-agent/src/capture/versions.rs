//! Other versions of the agent, whose pins are beside ours.
//!
//! Agents of two versions run at once while one takes over from the other: each has
//! programs and maps of its own, to which what the other one dials would be a pod's, and
//! steered to an agent again. So each is known to both's programs while both run. Of the
//! former one's programs those stay that its connections need, until it has ended.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, MapData};

use super::links::{self, Link, Spot, Target};
use super::pins::{self, agent_pin};
use super::{
    AGENT, CONNECT4, Capture, Error, Hook, LinkGuard, agents, cgroup_id, clsact, link_guard,
    map_in, open_cgroup, sock_ops,
};
use crate::sys::netns::Netns;
use crate::sys::{bpf, programs};

impl Capture {
    /// Cookies of the namespaces that are there and that other versions of the
    /// agent hold.
    pub(crate) fn of_other_versions(&self) -> Result<Vec<u64>, Error> {
        let mut found = Vec::new();
        for (cookie, pin) in self.pins.pods_of_other_versions()? {
            if links::is_attached(&pin)? {
                found.push(cookie);
            }
        }
        Ok(found)
    }

    /// Makes agents of other versions that still run known to our programs, and this one
    /// to theirs. One that cannot be met costs connections, and lets none past.
    pub(super) fn meet_other_versions(&mut self) -> Result<(), Error> {
        let (mut met, mut unmet) = (0, 0);
        for version in self.pins.other_versions()? {
            for (id, dir) in self.running(&version)? {
                let unseen = || Error::Cgroup {
                    dir: self.config.cgroup_tree.clone(),
                    source: std::io::ErrorKind::NotFound.into(),
                };
                let meeting = dir.ok_or_else(unseen);
                match meeting.and_then(|dir| self.meet(&version, id, &dir)) {
                    Ok(()) => met += 1,
                    Err(error) => {
                        unmet += 1;
                        tracing::warn!(%error, cgroup_id = id, "an agent of another version is not known to the programs of this one, or the other way round: connections may fail until it has ended");
                    }
                }
            }
        }
        self.has_met_others = met > 0 && unmet == 0;
        Ok(())
    }

    /// Cookies of the namespaces that agents which were met hold, and where our program is
    /// not yet. An agent that was not met dials what our program would drop.
    pub(crate) fn beside_others(&self) -> Result<Vec<u64>, Error> {
        if !self.has_met_others {
            return Ok(Vec::new());
        }
        let mut cookies = self.of_other_versions()?;
        cookies.retain(|cookie| !self.pods.contains_key(cookie));
        Ok(cookies)
    }

    /// Our program beside theirs, which steers nothing here before the pod is enrolled: it
    /// proves dials to it. Until then it drops what comes here, and loses to a program that
    /// chose a socket; but what theirs passes without one it must know.
    pub(crate) fn attach_beside(&mut self, netns: &Netns) -> Result<(), Error> {
        let link = self.attach_pod(netns)?;
        self.pods.insert(netns.cookie(), link);
        Ok(())
    }

    /// Are connect programs of other versions attached?
    pub(super) fn do_others_capture(&self) -> Result<bool, Error> {
        for version in self.pins.other_versions()? {
            if links::is_attached(&pins::link_of(&version, CONNECT4))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Does an agent of another version run?
    pub(crate) fn do_others_run(&mut self) -> Result<bool, Error> {
        for version in self.pins.other_versions()? {
            if !self.running(&version)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn meet(&mut self, version: &Path, id: u64, dir: &Path) -> Result<(), Error> {
        let failed = |source| Error::Map {
            name: agents::MAP,
            source,
        };
        self.agents()?.insert(id, 1, 0).map_err(failed)?;
        // Held by its pin, until that agent is gone.
        self.attach_hook(&sock_ops(agent_pin(id), AGENT, dir))?;
        let own = cgroup_id(&self.config.agent_cgroup)?;
        let program = program_of(&pins::link_of(version, &agent_pin(id)))?;
        let hook = sock_ops(agent_pin(own), AGENT, &self.config.agent_cgroup);
        attach_theirs(version, &program, &hook)?;
        let theirs = map_in::<HashMap<MapData, u64, u8>>(&pins::maps_of(version), agents::MAP);
        theirs?.insert(own, 1, 0).map_err(failed)
    }

    /// Their programs at pods let nothing through that they do not know as a probe, and
    /// their agents look after probers no more: one that moves is made known to them here.
    pub(super) fn record_for_others(&self, prober: &Hook) -> Result<(), Error> {
        for version in self.pins.other_versions()? {
            if let Some(pin) = pins::a_prober_of(&version)? {
                attach_theirs(&version, &program_of(&pin)?, prober)?;
            }
        }
        Ok(())
    }

    /// Agents of the version that have a process, this one not among them, each with its
    /// cgroup where that is seen. What cannot be looked at runs.
    fn running(&mut self, version: &Path) -> Result<Vec<(u64, Option<PathBuf>)>, Error> {
        let own = cgroup_id(&self.config.agent_cgroup)?;
        agents::running(&mut self.others, &self.config.cgroup_tree, version, own)
    }

    /// The pins of other versions of the agent, and with them their programs: when
    /// ours have taken their place, so that there is no moment without. Gives whether
    /// all are gone: where an agent of theirs still runs some stay. `held`: cgroups of
    /// pods that are to be held from now on by ours, as far as it can be told.
    pub(crate) fn remove_other_versions(
        &mut self,
        held: Option<&[PathBuf]>,
    ) -> Result<bool, Error> {
        self.guard_in_place_of_others(held)?;
        let mut are_gone = true;
        for version in self.pins.other_versions()? {
            // First: their map is all that names them.
            self.settle_classifiers(&version)?;
            if self.running(&version)?.is_empty() {
                pins::remove_version(&version)?;
            } else {
                pins::narrow(&version)?;
                are_gone = false;
            }
        }
        Ok(are_gone)
    }

    /// Of a namespace that is let go: agents of other versions have it no more either.
    pub(crate) fn forget_in_other_versions(&self, cookie: u64) -> Result<(), Error> {
        for version in self.pins.other_versions()? {
            pins::unpin(&pins::pod_of(&version, cookie))?;
        }
        Ok(())
    }

    /// Classifiers do not go with pins. One at a link of a pod that we hold stays
    /// until ours has its place, and is known as that pod's; all others go.
    fn settle_classifiers(&mut self, version: &Path) -> Result<(), Error> {
        let mut ours = self.links()?;
        let known = link_guard::entries(&ours)?;
        for (ifindex, cookie) in clsact::named(&pins::maps_of(version))? {
            if known.iter().any(|(known, _)| *known == ifindex) {
                continue;
            }
            if self.config.link_guard == LinkGuard::Off || !self.pods.contains_key(&cookie) {
                clsact::remove(ifindex)?;
            } else if clsact::is_at(ifindex)? {
                let inserted = ours.insert(ifindex, cookie, 0);
                inserted.map_err(link_guard::failed)?;
            }
        }
        Ok(())
    }
}

/// Their program where ours is, held by a pin of theirs.
fn attach_theirs(version: &Path, program: &OwnedFd, at: &Hook) -> Result<(), Error> {
    let cgroup = open_cgroup(&at.cgroup)?;
    let spot = Spot {
        program: program.as_fd(),
        target: Target::Object {
            fd: cgroup.as_fd(),
            id: cgroup_id(&at.cgroup)?,
        },
        kind: at.kind as u32,
    };
    Link::attach(pins::link_of(version, &at.pin), &spot).map(drop)
}

/// The program of the link at the pin.
fn program_of(pin: &Path) -> Result<OwnedFd, Error> {
    let failed = |source| Error::Link {
        path: pin.to_owned(),
        source,
    };
    let link = bpf::open_pin(pin).map_err(failed)?;
    let id = bpf::link_program(link.as_fd()).map_err(failed)?;
    programs::open(id).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use aya_obj::Object;
    use mesh_common::abi::{ABI_NAME, GUARD_POD, Guard};

    use super::*;
    use crate::capture::guards;
    use crate::capture::object::OBJECT;

    /// As `mesh_common::abi` says: agents of other versions read it, also of those to come.
    #[test]
    fn what_other_versions_read_has_the_names_and_layouts_of_all_versions() {
        let version = Path::new(ABI_NAME);
        assert!(ABI_NAME.starts_with("abi-"));
        let is = |path: PathBuf, name: &str| assert_eq!(path, version.join(name));
        is(pins::pod_of(version, 7), "links/netns-7");
        is(
            pins::link_of(version, &agent_pin(7)),
            "links/sockops-agent-7",
        );
        is(
            pins::link_of(version, &pins::prober_pin("x")),
            "links/sockops-probe-x",
        );
        is(pins::link_of(version, CONNECT4), "links/mesh_connect4");
        let of_map = |name: &str| pins::maps_of(version).join(name);
        is(of_map(agents::MAP), "maps/AGENTS");
        is(of_map(guards::MAP), "maps/GUARDED");
        is(of_map(clsact::LINKS), "maps/LINKS");
        assert_eq!(size_of::<Guard>(), 16);
        assert_eq!(offset_of!(Guard, netns_cookie), 0);
        assert_eq!(offset_of!(Guard, flags), 8);
        assert_eq!(GUARD_POD, 1);
        assert_eq!(
            (clsact::PRIORITY, u32::from(clsact::HANDLE)),
            (1, 0x6d65_7368)
        );
        let Ok(object) = Object::parse(OBJECT) else {
            assert!(OBJECT.is_empty(), "an object that can be read");
            return;
        };
        for (name, key, value) in [("AGENTS", 8, 1), ("GUARDED", 8, 16), ("LINKS", 4, 8)] {
            let map = &object.maps[name];
            assert_eq!((map.key_size(), map.value_size()), (key, value), "{name}");
        }
    }
}
