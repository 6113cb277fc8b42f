//! The second line: programs on the node's side of the pods' links.
//!
//! Invariants: a link that is guarded stays so until its pod is released or the
//! interface is gone, whatever cannot be asked meanwhile; a new attachment is
//! there before the old one goes.

use std::net::IpAddr;
use std::os::fd::AsFd as _;

use aya::maps::{HashMap, MapData};
use aya::programs::SchedClassifier;
use mesh_common::abi::PodAddr;

use super::posts::{Direction, LinkGuard, PodLinks, Post, is_attached};
use super::{Capture, Error, absent_is_fine, clsact, links, pins};
use crate::model::PodIps;
use crate::sys::link::{self, Link};
use crate::sys::{bpf, netns::Netns};

impl Capture {
    /// Guards every link of the pod's that ends on this node; may be repeated.
    pub fn guard_links(&mut self, netns: &Netns, ips: PodIps) -> Result<PodLinks, Error> {
        let links = link::of(netns).map_err(Error::Links)?;
        let cookie = netns.cookie();
        let peers: Vec<u32> = links.iter().filter_map(|link| link.peer).collect();
        if self.config.link_guard == LinkGuard::Off {
            self.unguard(cookie)?;
        } else {
            for ifindex in &peers {
                self.guard_link(cookie, *ifindex)?;
            }
            self.guarded_links.insert(cookie, peers);
        }
        Ok(told(links, ips))
    }

    /// Puts back what somebody took from the pod's links; gives how much was missing.
    pub fn restore_links(&mut self, netns: &Netns, ips: PodIps) -> Result<usize, Error> {
        let cookie = netns.cookie();
        let missing = self.missing(cookie)?;
        if missing == 0 {
            return Ok(0);
        }
        let guarded = self.guard_links(netns, ips);
        let mended = missing.saturating_sub(self.missing(cookie)?);
        match guarded {
            // What is detached with its pin is so a moment later: then it is tried again.
            Err(error) if mended == 0 => Err(error),
            Err(_) => Ok(mended),
            Ok(_) => self.forget_dead_links(cookie).map(|()| mended),
        }
    }

    fn missing(&self, netns_cookie: u64) -> Result<usize, Error> {
        let mut missing = 0;
        for ifindex in self.guarded_links.get(&netns_cookie).into_iter().flatten() {
            for direction in Direction::BOTH {
                let post = Post {
                    netns_cookie,
                    ifindex: *ifindex,
                    direction,
                };
                missing += usize::from(!self.is_posted(post)?);
            }
        }
        Ok(missing)
    }

    /// Takes the guards from the pod's links, and all that is known of them, for a
    /// pod that is released.
    pub(super) fn withdraw_links(&mut self, netns_cookie: u64) -> Result<(), Error> {
        self.unguard(netns_cookie)?;
        self.exclude(netns_cookie, &[])
    }

    fn unguard(&mut self, netns_cookie: u64) -> Result<(), Error> {
        for post in self.pins.posts()? {
            if post.netns_cookie == netns_cookie {
                pins::unpin(&self.pins.post(post))?;
            }
        }
        let mut links = self.links()?;
        for (ifindex, cookie) in entries(&links)? {
            if cookie == netns_cookie {
                clsact::remove(ifindex)?;
                absent_is_fine("LINKS", links.remove(&ifindex))?;
            }
        }
        self.guarded_links.remove(&netns_cookie);
        Ok(())
    }

    /// Gives the links that an earlier agent guarded this agent's programs.
    pub(super) fn relink_guards(&mut self) -> Result<(), Error> {
        for post in self.pins.posts()? {
            let pin = self.pins.post(post);
            if is_attached(&pin, post.ifindex)? == Some(true) {
                let program = self.guard_program(post.direction)?;
                links::renew(&pin, program)?;
            } else {
                pins::unpin(&pin)?;
            }
        }
        let links = self.links()?;
        for (ifindex, _) in entries(&links)? {
            if clsact::is_attached(ifindex, Direction::Leave)? {
                self.post_clsact(ifindex)?;
            }
        }
        Ok(())
    }

    /// Leaves connections to these addresses of the pod's alone, and to no others.
    pub fn exclude(&mut self, netns_cookie: u64, addresses: &[IpAddr]) -> Result<(), Error> {
        let mut map: HashMap<MapData, PodAddr, u8> = self.map("EXCLUDED")?;
        let wanted = addresses
            .iter()
            .map(|ip| super::pod_addr(netns_cookie, *ip));
        let wanted: Vec<PodAddr> = wanted.collect();
        for key in &wanted {
            map.insert(key, 1, 0).map_err(|source| Error::Map {
                name: "EXCLUDED",
                source,
            })?;
        }
        let there: Result<Vec<PodAddr>, _> = map.keys().collect();
        let there = there.map_err(|source| Error::Map {
            name: "EXCLUDED",
            source,
        })?;
        for key in there {
            if key.netns_cookie == netns_cookie && !wanted.contains(&key) {
                absent_is_fine("EXCLUDED", map.remove(&key))?;
            }
        }
        Ok(())
    }

    fn guard_link(&mut self, netns_cookie: u64, ifindex: u32) -> Result<(), Error> {
        // Before the programs: of a link without an entry nothing is let through.
        let inserted = self.links()?.insert(ifindex, netns_cookie, 0);
        inserted.map_err(|source| Error::Map {
            name: "LINKS",
            source,
        })?;
        let posts = Direction::BOTH.map(|direction| Post {
            netns_cookie,
            ifindex,
            direction,
        });
        // Of the other kind: gone when ours is there.
        match self.config.link_guard {
            LinkGuard::Tcx => {
                for post in posts {
                    self.post_tcx(post)?;
                }
                clsact::remove(ifindex)
            }
            LinkGuard::Clsact => {
                self.post_clsact(ifindex)?;
                posts
                    .iter()
                    .try_for_each(|post| pins::unpin(&self.pins.post(*post)))
            }
            LinkGuard::Off => Ok(()),
        }
    }

    fn post_tcx(&mut self, post: Post) -> Result<(), Error> {
        let pin = self.pins.post(post);
        if is_attached(&pin, post.ifindex)? == Some(true) {
            return Ok(());
        }
        let program = self.guard_program(post.direction)?;
        let refused = |source| Error::LinkGuard {
            ifindex: post.ifindex,
            source,
        };
        let link = bpf::link_create_first(program, post.ifindex, post.direction.tcx());
        pins::put(link.map_err(refused)?.as_fd(), &pin)
    }

    fn post_clsact(&mut self, ifindex: u32) -> Result<(), Error> {
        for direction in Direction::BOTH {
            let program: &mut SchedClassifier = self.program(direction.program())?;
            clsact::attach(program, ifindex, direction)?;
        }
        Ok(())
    }

    fn guard_program(&self, direction: Direction) -> Result<std::os::fd::BorrowedFd<'_>, Error> {
        Ok(self.program_fd(direction.program())?.as_fd())
    }

    fn is_posted(&self, post: Post) -> Result<bool, Error> {
        match self.config.link_guard {
            LinkGuard::Tcx => Ok(is_attached(&self.pins.post(post), post.ifindex)? == Some(true)),
            LinkGuard::Clsact => clsact::is_attached(post.ifindex, post.direction),
            LinkGuard::Off => Ok(true),
        }
    }

    /// Of interfaces that are gone.
    fn forget_dead_links(&self, netns_cookie: u64) -> Result<(), Error> {
        for post in self.pins.posts()? {
            let pin = self.pins.post(post);
            if post.netns_cookie == netns_cookie && is_attached(&pin, post.ifindex)? == Some(false)
            {
                pins::unpin(&pin)?;
                let mut links = self.links()?;
                // An interface of another pod's may have its number by now.
                if entries(&links)?.contains(&(post.ifindex, netns_cookie)) {
                    absent_is_fine("LINKS", links.remove(&post.ifindex))?;
                }
            }
        }
        Ok(())
    }

    fn links(&self) -> Result<HashMap<MapData, u32, u64>, Error> {
        self.map("LINKS")
    }
}

fn entries(map: &HashMap<MapData, u32, u64>) -> Result<Vec<(u32, u64)>, Error> {
    let entries: Result<_, _> = map.iter().collect();
    entries.map_err(|source| Error::Map {
        name: "LINKS",
        source,
    })
}

fn told(links: Vec<Link>, ips: PodIps) -> PodLinks {
    let mut told = PodLinks::default();
    if links
        .iter()
        .all(|l| l.peer.is_none() && !l.addresses.iter().any(|ip| ips.contains(*ip)))
    {
        // The pod's addresses stand at none of them: any may be the way out.
        told.unguarded
            .extend(links.iter().map(|link| link.name.clone()));
    }
    for link in links {
        let is_own = |ip: &IpAddr| ips.iter().any(|own| own == *ip);
        if link.peer.is_none() && link.addresses.iter().any(is_own) {
            told.unguarded.push(link.name.clone());
        }
        let others = link.addresses.into_iter().filter(|ip| !is_own(ip));
        let others = others.filter(|ip| !is_link_local(*ip));
        told.beside.extend(others.map(|ip| (link.name.clone(), ip)));
    }
    told
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_without_another_end_and_other_addresses_are_told() {
        let ip = |text: &str| text.parse().expect("an address");
        let link = |name: &str, peer, addresses: &[&str]| Link {
            name: name.to_owned(),
            peer,
            addresses: addresses.iter().map(|text| ip(text)).collect(),
        };
        let ips = PodIps {
            v4: Some("10.0.0.5".parse().expect("an address")),
            v6: None,
        };
        let plain = told(vec![link("eth0", Some(7), &["10.0.0.5", "fe80::1"])], ips);
        assert_eq!(plain, PodLinks::default());
        let odd = told(
            vec![
                link("eth0", None, &["10.0.0.5"]),
                link("net1", None, &["10.9.0.5"]),
            ],
            ips,
        );
        assert_eq!(odd.unguarded, ["eth0"]);
        let nowhere = told(vec![link("tun0", None, &[])], ips);
        assert_eq!(nowhere.unguarded, ["tun0"]);
        assert_eq!(odd.beside, [("net1".to_owned(), ip("10.9.0.5"))]);
    }
}
