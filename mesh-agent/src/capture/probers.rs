//! Probers, as the kubelet is one, and the ports that pods' own probes name.
//!
//! Whoever writes a Pod may have the kubelet connect to any host: a prober's connection
//! reaches an application only at a port that this pod's own probes name.

use std::collections::BTreeSet;
use std::path::Path;

use aya::maps::{HashMap, MapData};
use mesh_common::abi::ProbePort;

use super::links::Found;
use super::{Capture, Error, Hook, absent_is_fine, cgroup_id, pins, sock_ops};

impl Capture {
    /// Has the kernel record the connections of whoever is in the cgroup as probes.
    /// One that was made anew under the same path is another one. May be repeated;
    /// gives whether something was to be done.
    pub(crate) fn follow_prober(&mut self, name: &str, dir: &Path) -> Result<bool, Error> {
        let id = cgroup_id(dir)?;
        if let Some((known, link)) = self.probers.links.get(name)
            && *known == id
        {
            match link.look()? {
                Found::Whole => return Ok(false),
                Found::PinnedAgain => return Ok(true),
                Found::Detached => {}
            }
        }
        let hook = prober(name, dir);
        let link = self.attach_hook(&hook)?;
        self.record_for_others(&hook)?;
        self.probers.links.insert(name.to_owned(), (id, link));
        Ok(true)
    }

    /// The pod's own probes name these ports, and no others.
    pub(crate) fn set_probe_ports(
        &mut self,
        netns_cookie: u64,
        ports: &[u16],
    ) -> Result<(), Error> {
        let wanted: BTreeSet<u16> = ports.iter().copied().collect();
        let known = self.probers.ports.entry(netns_cookie).or_default();
        if *known == wanted {
            return Ok(());
        }
        let mut map: HashMap<MapData, ProbePort, u8> = self.map(MAP)?;
        let known = self.probers.ports.entry(netns_cookie).or_default();
        // Before others come in their place: the map may be full.
        for port in known.difference(&wanted).copied().collect::<Vec<_>>() {
            absent_is_fine(MAP, map.remove(&key(netns_cookie, port)))?;
            known.remove(&port);
        }
        for port in wanted {
            let put = map.insert(key(netns_cookie, port), 1, 0);
            put.map_err(|source| Error::Map { name: MAP, source })?;
            known.insert(port);
        }
        Ok(())
    }

    /// Of a namespace that is let go, or that is gone.
    pub(super) fn forget_probe_ports(&mut self, netns_cookie: u64) -> Result<(), Error> {
        self.set_probe_ports(netns_cookie, &[])?;
        self.probers.ports.remove(&netns_cookie);
        Ok(())
    }

    /// What an earlier agent put there.
    pub(super) fn read_probe_ports(&mut self) -> Result<(), Error> {
        let map: HashMap<MapData, ProbePort, u8> = self.map(MAP)?;
        for known in map.keys() {
            let known = known.map_err(|source| Error::Map { name: MAP, source })?;
            if let Ok(port) = u16::try_from(known.port) {
                let of_pod = self.probers.ports.entry(known.netns_cookie).or_default();
                of_pod.insert(port);
            }
        }
        Ok(())
    }
}

const MAP: &str = "PROBE_PORTS";

fn prober(name: &str, dir: &Path) -> Hook {
    sock_ops(pins::prober_pin(name), "mesh_probes", dir)
}

fn key(netns_cookie: u64, port: u16) -> ProbePort {
    ProbePort {
        netns_cookie,
        port: port.into(),
        reserved: 0,
    }
}
