//! Who holds the authority's connections. Anybody can open one; so whoever has
//! not shown a good token yet gets few of them, and for a short while.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// From accept until the first good token.
pub(super) const PROVE: Duration = Duration::from_secs(6);
/// Connections of one token: an agent needs one, and one more while it changes.
const OF_ONE_CALLER: usize = 16;

/// All connections that there are.
#[derive(Debug)]
pub(super) struct Seats {
    unproven: usize,
    unproven_of_one: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    unproven: HashMap<IpAddr, usize>,
    unproven_total: usize,
    by_caller: HashMap<String, usize>,
    proven: usize,
}

/// One connection's place; free when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    source: IpAddr,
    /// Whose, once that is proven.
    caller: Mutex<Option<String>>,
}

impl Seats {
    /// Half of all at most for those who proved nothing.
    pub(super) fn new(all: usize) -> Arc<Self> {
        Arc::new(Self {
            unproven: (all / 2).max(1),
            unproven_of_one: (all / 16).max(4),
            held: Mutex::default(),
        })
    }

    /// None where its address, or all together, have too many unproven ones.
    pub(super) fn take(self: &Arc<Self>, source: IpAddr) -> Option<Arc<Seat>> {
        let source = network(source);
        let mut held = self.held.lock();
        let of_one = held.unproven.get(&source).copied().unwrap_or(0);
        if of_one >= self.unproven_of_one || held.unproven_total >= self.unproven {
            return None;
        }
        held.unproven.insert(source, of_one + 1);
        held.unproven_total += 1;
        drop(held);
        Some(Arc::new(Seat {
            seats: self.clone(),
            source,
            caller: Mutex::new(None),
        }))
    }

    /// Unproven ones, proven ones.
    pub(super) fn count(&self) -> (usize, usize) {
        let held = self.held.lock();
        (held.unproven_total, held.proven)
    }
}

impl Held {
    fn leave_unproven(&mut self, source: IpAddr) {
        self.unproven_total = self.unproven_total.saturating_sub(1);
        let left = self
            .unproven
            .get(&source)
            .map_or(0, |n| n.saturating_sub(1));
        match left {
            0 => self.unproven.remove(&source),
            left => self.unproven.insert(source, left),
        };
    }
}

impl Seat {
    pub(super) fn is_proven(&self) -> bool {
        self.caller.lock().is_some()
    }

    /// It showed a good token. False where that token has too many connections.
    pub(super) fn prove(&self, name: &str) -> bool {
        let mut caller = self.caller.lock();
        if caller.is_some() {
            return true;
        }
        let mut held = self.seats.held.lock();
        let of_caller = held.by_caller.get(name).copied().unwrap_or(0);
        if of_caller >= OF_ONE_CALLER {
            return false;
        }
        held.by_caller.insert(name.to_owned(), of_caller + 1);
        held.proven += 1;
        held.leave_unproven(self.source);
        *caller = Some(name.to_owned());
        true
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut held = self.seats.held.lock();
        let Some(name) = self.caller.get_mut().take() else {
            held.leave_unproven(self.source);
            return;
        };
        held.proven = held.proven.saturating_sub(1);
        let left = held.by_caller.get(&name).map_or(0, |n| n.saturating_sub(1));
        match left {
            0 => held.by_caller.remove(&name),
            left => held.by_caller.insert(name, left),
        };
    }
}

/// An IPv6 host has a whole /64 to connect from.
pub(super) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn one_address_that_proves_nothing_gets_few_and_leaves_the_rest() {
        let seats = Seats::new(64);
        let one: Vec<_> = (0..100)
            .filter_map(|_| seats.take(ip("10.0.0.1")))
            .collect();
        assert_eq!(one.len(), 4);
        let v6: Vec<_> = (0..100)
            .filter_map(|n| seats.take(ip(&format!("2001:db8::{n:x}"))))
            .collect();
        assert_eq!(v6.len(), 4, "a /64 is one");
        let many: Vec<_> = (0..100)
            .filter_map(|n| seats.take(ip(&format!("10.1.0.{n}"))))
            .collect();
        assert_eq!(one.len() + v6.len() + many.len(), 32, "half of all");
        assert_eq!(seats.count(), (32, 0));
        drop((one, v6, many));
        assert_eq!(seats.count(), (0, 0));
        assert!(seats.held.lock().unproven.is_empty());
    }

    #[test]
    fn who_proved_itself_makes_room_and_one_token_gets_few() {
        let seats = Seats::new(512);
        let proven: Vec<_> = (0..OF_ONE_CALLER)
            .map(|_| {
                let seat = seats.take(ip("10.0.0.1")).expect("a seat");
                assert!(seat.prove("t1"));
                seat
            })
            .collect();
        let more = seats.take(ip("10.0.0.1")).expect("a seat");
        assert!(!more.prove("t1") && !more.is_proven());
        assert!(more.prove("t2"), "another token");
        assert_eq!(seats.count(), (0, OF_ONE_CALLER + 1));
        drop((proven, more));
        assert!(seats.held.lock().by_caller.is_empty());
        assert_eq!(seats.count(), (0, 0));
    }
}
