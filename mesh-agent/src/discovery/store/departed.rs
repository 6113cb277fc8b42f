//! Addresses that a pod of the mesh or a Service has left a while ago.

use std::net::IpAddr;
use std::time::Instant;

use super::state::Store;
use crate::model::{Snapshot, Withheld};

impl Store {
    /// An address that a pod of the mesh or a Service has left is nobody's for
    /// a while.
    pub(super) fn withhold(&mut self, ip: IpAddr, before: &Snapshot, now: Instant) {
        let withheld = self.withheld(ip);
        let old = before.withheld.get(&ip).copied();
        let departed = match old {
            Some(Withheld::Departed(since)) => Some(since),
            Some(_) => Some(now),
            None => {
                let pod = before.by_ip.get(&ip).is_some_and(|w| w.is_enrolled());
                (pod || before.by_vip.contains_key(&ip)).then_some(now)
            }
        };
        let departed = departed.map(Withheld::Departed);
        let departed = departed.filter(|why| !why.is_over(now) && !self.is_known(ip));
        let is_lasting = |why: &Withheld| !matches!(why, Withheld::Departed(_));
        self.dirty.touched.snapshot |= old.filter(is_lasting) != withheld;
        if let (None, Some(Withheld::Departed(since))) = (withheld, departed) {
            self.departed.insert((since, ip));
        }
        self.snapshot.withheld.set(ip, withheld.or(departed));
    }

    /// Those for which the while is over are looked at again.
    pub(super) fn forget_departed(&mut self, now: Instant) {
        while let Some((since, ip)) = self.departed.first().copied() {
            if !Withheld::Departed(since).is_over(now) {
                return;
            }
            self.departed.remove(&(since, ip));
            self.dirty.addresses.insert(ip);
        }
    }
}
