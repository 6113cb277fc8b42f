//! What the kernel knows of the pods (map `ENROLLED`).

use std::net::{IpAddr, Ipv6Addr};

use aya::maps::{HashMap, MapData, MapError};
use mesh_common::abi::{Addr, Enrolled, FLAG_FAIL_OPEN};

use super::error::Error;
use super::{Capture, EnrolPod};
use crate::model::{OnAgentDown, PodIps};
use crate::sys::netns::Netns;

impl Capture {
    /// What the kernel holds as enrolled, also what an earlier agent left.
    pub(crate) fn enrolled(&self) -> Result<Vec<(u64, PodIps)>, Error> {
        let map = self.enrolled_map()?;
        let entries = map.iter();
        let entries = entries.map(|entry| entry.map(|(cookie, pod)| (cookie, pod_ips(&pod))));
        entries.collect::<Result<_, _>>().map_err(failed)
    }

    pub(super) fn write_enrolled(&self, pod: &EnrolPod<'_>) -> Result<(), Error> {
        let mut map = self.enrolled_map()?;
        let cookie = pod.netns.cookie();
        let known = get(&map, cookie)?.map_or(Addr::UNSET, |pod| pod.v6_link_local);
        let flags = match pod.on_agent_down {
            OnAgentDown::Closed => 0,
            OnAgentDown::Open => FLAG_FAIL_OPEN,
        };
        let (v4, v6) = (pod.ips.v4.map(IpAddr::V4), pod.ips.v6.map(IpAddr::V6));
        let value = Enrolled {
            flags,
            reserved: 0,
            v4: v4.map_or(Addr::UNSET, Addr::from),
            v6: v6.map_or(Addr::UNSET, Addr::from),
            v6_link_local: link_local(pod.netns, known),
        };
        map.insert(cookie, value, 0).map_err(failed)
    }

    /// Follows a pod's link-local address, at which it may talk to itself: its
    /// link may come up, and be given another address, at any time.
    pub(crate) fn follow_link_local(&mut self, netns: &Netns) -> Result<(), Error> {
        let mut map = self.enrolled_map()?;
        let Some(pod) = get(&map, netns.cookie())? else {
            return Ok(());
        };
        let v6_link_local = link_local(netns, pod.v6_link_local);
        if v6_link_local == pod.v6_link_local {
            return Ok(());
        }
        let pod = Enrolled {
            v6_link_local,
            ..pod
        };
        map.insert(netns.cookie(), pod, 0).map_err(failed)
    }

    pub(super) fn enrolled_map(&self) -> Result<HashMap<MapData, u64, Enrolled>, Error> {
        self.map("ENROLLED")
    }
}

/// The address that is known, for as long as it is there, or cannot be told.
fn link_local(netns: &Netns, known: Addr) -> Addr {
    netns
        .link_locals()
        .map_or(known, |there| chosen(&there, known))
}

fn chosen(there: &[Ipv6Addr], known: Addr) -> Addr {
    let mut there = there.iter().map(|ip| Addr::from(IpAddr::V6(*ip)));
    let first = there.clone().next().unwrap_or(Addr::UNSET);
    if there.any(|ip| ip == known) {
        known
    } else {
        first
    }
}

fn get(map: &HashMap<MapData, u64, Enrolled>, cookie: u64) -> Result<Option<Enrolled>, Error> {
    match map.get(&cookie, 0) {
        Ok(pod) => Ok(Some(pod)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(source) => Err(failed(source)),
    }
}

fn failed(source: MapError) -> Error {
    Error::Map {
        name: "ENROLLED",
        source,
    }
}

fn pod_ips(pod: &Enrolled) -> PodIps {
    let mut ips = PodIps::default();
    for addr in [pod.v4, pod.v6] {
        match (addr.is_set(), IpAddr::from(addr)) {
            (false, _) => {}
            (true, IpAddr::V4(ip)) => ips.v4 = Some(ip),
            (true, IpAddr::V6(ip)) => ips.v6 = Some(ip),
        }
    }
    ips
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_stays_while_it_is_there() {
        let ip = |n: u16| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, n);
        let addr = |n: u16| Addr::from(IpAddr::V6(ip(n)));
        assert_eq!(chosen(&[ip(1), ip(2)], addr(2)), addr(2));
        assert_eq!(chosen(&[ip(1), ip(2)], addr(3)), addr(1));
        assert_eq!(chosen(&[ip(1)], Addr::UNSET), addr(1));
        assert_eq!(chosen(&[], addr(1)), Addr::UNSET);
    }
}
