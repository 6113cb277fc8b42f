//! The second line: programs on the node's side of the pods' links.
//!
//! Invariants: a link that is guarded stays so until its pod is released or the
//! interface is gone, whatever cannot be asked meanwhile; a new attachment is
//! there before the old one goes.

use std::net::IpAddr;
use std::os::fd::AsFd as _;

use aya::maps::{HashMap, MapData, MapError};
use aya::programs::SchedClassifier;
use mesh_common::abi::PodAddr;

use super::links::{Found, Link as KernelLink, Spot, Target};
use super::posts::{Direction, LinkGuard, PodLinks, Post};
use super::{Capture, Error, absent_is_fine, clsact, pins};
use crate::model::PodIps;
use crate::sys::link::{self, Link};
use crate::sys::netns::Netns;

impl Capture {
    /// Guards every link of the pod's that ends on this node; may be repeated.
    pub(crate) fn guard_links(&mut self, netns: &Netns, ips: PodIps) -> Result<PodLinks, Error> {
        let links = link::of(netns).map_err(Error::Links)?;
        let cookie = netns.cookie();
        let peers: Vec<u32> = links.iter().filter_map(|link| link.peer).collect();
        if self.config.link_guard == LinkGuard::Off {
            self.unguard(cookie)?;
        } else {
            // Each by itself: one that cannot be guarded leaves no other without.
            let guarded = peers
                .iter()
                .map(|ifindex| self.guard_link(cookie, *ifindex))
                .fold(Ok(()), Result::and);
            guarded?;
            self.guarded_links.insert(cookie, peers);
        }
        Ok(told(links, ips))
    }

    /// Puts back what somebody took from the pod's links; gives how much was missing.
    pub(crate) fn restore_links(&mut self, netns: &Netns, ips: PodIps) -> Result<usize, Error> {
        let cookie = netns.cookie();
        let before = self.look_at_links(cookie);
        let mut mended = before.pinned_again;
        let mut failed = before.failed;
        if before.missing > 0 {
            let guarded = self.guard_links(netns, ips);
            // What is gone with its interface is missing no more.
            let after = self.look_at_links(cookie);
            mended += before.missing.saturating_sub(after.missing);
            let guarded = guarded.and_then(|_| self.forget_dead_links(cookie));
            failed = failed.or(after.failed).or(guarded.err());
        }
        match failed {
            Some(error) if mended == 0 => Err(error),
            // What failed is looked at again a moment later.
            _ => Ok(mended),
        }
    }

    /// Is a guard at a link of the namespace's: does that link exist? What cannot
    /// be told is there.
    pub(super) fn has_guarded_link(&self, netns_cookie: u64) -> bool {
        let mut of_pod = self
            .guards
            .iter()
            .filter(|(p, _)| p.netns_cookie == netns_cookie);
        of_pod.any(|(_, link)| !matches!(link.look(), Ok(Found::Detached)))
    }

    /// Each by itself; those that lost their pins have them again.
    pub(super) fn look_at_links(&self, netns_cookie: u64) -> Seen {
        let mut seen = Seen::default();
        for ifindex in self.guarded_links.get(&netns_cookie).into_iter().flatten() {
            for direction in Direction::BOTH {
                seen.note(self.look_at(Post {
                    netns_cookie,
                    ifindex: *ifindex,
                    direction,
                }));
            }
        }
        seen
    }

    fn look_at(&self, post: Post) -> Result<Found, Error> {
        let whole = match self.config.link_guard {
            LinkGuard::Tcx => match self.guards.get(&post) {
                Some(link) => return link.look(),
                None => false,
            },
            LinkGuard::Clsact => clsact::is_attached(post.ifindex, post.direction)?,
            LinkGuard::Off => true,
        };
        Ok(if whole { Found::Whole } else { Found::Detached })
    }

    /// Takes the guards from the pod's links, and all that is known of them, for a
    /// pod that is released.
    pub(super) fn withdraw_links(&mut self, netns_cookie: u64) -> Result<(), Error> {
        self.unguard(netns_cookie)?;
        self.exclude(netns_cookie, &[])
    }

    fn unguard(&mut self, netns_cookie: u64) -> Result<(), Error> {
        // Also those whose pins somebody took away.
        let mut posts = self.pins.posts()?;
        posts.extend(self.guards.keys());
        posts.retain(|post| post.netns_cookie == netns_cookie);
        for post in posts {
            self.remove_tcx(post)?;
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
            let program = || self.guard_program(post.direction);
            match KernelLink::take_over(pin.clone(), program)? {
                Some(link) if link.look()? != Found::Detached => {
                    self.guards.insert(post, link);
                }
                _ => pins::remove(&pin)?,
            }
        }
        let links = self.links()?;
        for (ifindex, cookie) in entries(&links)? {
            // Also one whose guard is away: it is missed, and put back.
            let of_pod = self.guarded_links.entry(cookie).or_default();
            of_pod.push(ifindex);
            if clsact::is_attached(ifindex, Direction::Leave)? {
                self.post_clsact(ifindex)?;
            }
        }
        Ok(())
    }

    /// Leaves connections to these addresses of the pod's alone, and to no others.
    pub(crate) fn exclude(&mut self, netns_cookie: u64, addresses: &[IpAddr]) -> Result<(), Error> {
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
        inserted.map_err(failed)?;
        let posts = Direction::BOTH.map(|direction| Post {
            netns_cookie,
            ifindex,
            direction,
        });
        // Of the other kind: gone when ours is there.
        match self.config.link_guard {
            LinkGuard::Tcx => {
                let posted = posts
                    .iter()
                    .map(|post| self.post_tcx(*post))
                    .fold(Ok(()), Result::and);
                posted.and_then(|()| clsact::remove(ifindex))
            }
            LinkGuard::Clsact => {
                self.post_clsact(ifindex)?;
                posts.iter().try_for_each(|post| self.remove_tcx(*post))
            }
            LinkGuard::Off => Ok(()),
        }
    }

    fn post_tcx(&mut self, post: Post) -> Result<(), Error> {
        if let Some(link) = self.guards.get(&post)
            && link.look()? != Found::Detached
        {
            return Ok(());
        }
        let spot = Spot {
            program: self.guard_program(post.direction)?,
            target: Target::Interface(post.ifindex),
            kind: post.direction.tcx(),
        };
        let link = KernelLink::attach(self.pins.post(post), &spot)?;
        self.guards.insert(post, link);
        Ok(())
    }

    fn remove_tcx(&mut self, post: Post) -> Result<(), Error> {
        // Known for as long as its pin is there.
        match self.guards.get(&post) {
            Some(link) => link.remove()?,
            None => pins::unpin(&self.pins.post(post))?,
        }
        self.guards.remove(&post);
        Ok(())
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

    /// Of interfaces that are gone, when those that are there are guarded.
    fn forget_dead_links(&mut self, netns_cookie: u64) -> Result<(), Error> {
        let mut dead = Vec::new();
        for (post, link) in &self.guards {
            if post.netns_cookie == netns_cookie && link.look()? == Found::Detached {
                dead.push(*post);
            }
        }
        for post in dead {
            pins::remove(&self.pins.post(post))?;
            self.guards.remove(&post);
            let mut links = self.links()?;
            // An interface of another pod's may have its number by now.
            if entries(&links)?.contains(&(post.ifindex, netns_cookie)) {
                absent_is_fine("LINKS", links.remove(&post.ifindex))?;
            }
        }
        Ok(())
    }

    pub(super) fn links(&self) -> Result<HashMap<MapData, u32, u64>, Error> {
        self.map("LINKS")
    }
}

/// What a look at a pod's guards came to.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) pinned_again: usize,
    pub(super) missing: usize,
    /// The first that could not be looked at: it stays as it is.
    pub(super) failed: Option<Error>,
}

impl Seen {
    pub(super) fn note(&mut self, found: Result<Found, Error>) {
        match found {
            Ok(Found::Whole) => {}
            Ok(Found::PinnedAgain) => self.pinned_again += 1,
            Ok(Found::Detached) => self.missing += 1,
            Err(error) => self.failed = self.failed.take().or(Some(error)),
        }
    }
}

pub(super) fn entries(map: &HashMap<MapData, u32, u64>) -> Result<Vec<(u32, u64)>, Error> {
    let entries: Result<_, _> = map.iter().collect();
    entries.map_err(failed)
}

pub(super) fn failed(source: MapError) -> Error {
    Error::Map {
        name: "LINKS",
        source,
    }
}

fn told(links: Vec<Link>, ips: PodIps) -> PodLinks {
    let mut told = PodLinks::default();
    if links
        .iter()
        .all(|l| l.peer.is_none() && !l.addresses.iter().any(|ip| ips.contains(*ip)))
    {
        // The pod's addresses stand at none of them: any may be the way out.
        let others = links.iter().filter(|link| !link.leads_out);
        told.unguarded.extend(others.map(|link| link.name.clone()));
    }
    for link in links {
        let is_own = |ip: &IpAddr| ips.iter().any(|own| own == *ip);
        if link.peer.is_none() && (link.leads_out || link.addresses.iter().any(is_own)) {
            told.unguarded.push(link.name.clone());
        } else if link.redirects && link.peer.is_some() {
            told.redirecting.push(link.name.clone());
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
            leads_out: name == "net1",
            redirects: name == "nk0",
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
        // Also one that has none of the pod's addresses.
        assert_eq!(odd.unguarded, ["eth0", "net1"]);
        let netkit = told(vec![link("nk0", Some(7), &["10.0.0.5"])], ips);
        assert_eq!(netkit.redirecting, ["nk0"]);
        assert!(netkit.unguarded.is_empty());
        let nowhere = told(vec![link("tun0", None, &[])], ips);
        assert_eq!(nowhere.unguarded, ["tun0"]);
        assert_eq!(odd.beside, [("net1".to_owned(), ip("10.9.0.5"))]);
    }
}
