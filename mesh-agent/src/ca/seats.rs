//! Who holds the authority's connections. Anybody can open one; so whoever has
//! not shown a good token yet gets few of them, and for a short while. One more
//! displaces the oldest of a source that has more there: who floods keeps out
//! itself, never another source. Where nobody has more, as of agents that all come
//! back at once, the oldest has a moment to finish, and the newcomer comes again:
//! each would be cut just before it is done else, and nobody get in.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::limit::Limit;

/// From accept until the first good token.
pub(super) const PROVE: Duration = Duration::from_secs(6);
/// Who waits no longer than this is not displaced by who has as many.
const FAIR: Duration = Duration::from_secs(1);
/// Connections of one token: an agent needs one, and one more while it changes.
const OF_ONE_CALLER: usize = 16;
/// A flood is told of once in this: whoever causes it must not fill the log.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// All connections that there are.
#[derive(Debug)]
pub(super) struct Seats {
    unproven: usize,
    unproven_of_one: usize,
    held: Mutex<Held>,
    displaced: Counter,
    refused: Counter,
    started: Instant,
    told: Mutex<Limit>,
}

/// One that proved nothing yet.
#[derive(Debug)]
struct Unproven {
    since: Instant,
    displaced: CancellationToken,
}

#[derive(Debug, Default)]
struct Held {
    /// By sequence: the first is the oldest. No source without any.
    unproven: HashMap<IpAddr, BTreeMap<u64, Unproven>>,
    unproven_total: usize,
    sequence: u64,
    by_caller: HashMap<String, usize>,
    proven: usize,
}

/// One connection's place; free when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    source: IpAddr,
    sequence: u64,
    displaced: CancellationToken,
    /// Whose, once that is proven.
    caller: Mutex<Option<String>>,
}

impl Seats {
    /// Half of all at most for those who proved nothing.
    pub(super) fn new(all: usize) -> Arc<Self> {
        Arc::new(Self {
            unproven: (all / 2).max(1),
            unproven_of_one: (all / 8).max(4),
            held: Mutex::default(),
            displaced: Counter::default(),
            refused: Counter::default(),
            started: Instant::now(),
            told: Mutex::new(Limit::per(TELL_EVERY, 1, 1)),
        })
    }

    /// Where its address, or all together, have too many unproven ones, another one
    /// is displaced for it, or there is none.
    pub(super) fn take(self: &Arc<Self>, source: IpAddr) -> Option<Arc<Seat>> {
        self.take_at(source, Instant::now())
    }

    pub(super) fn take_at(self: &Arc<Self>, source: IpAddr, now: Instant) -> Option<Arc<Seat>> {
        let source = network(source);
        let mut held = self.held.lock();
        let displaces = match held.room(source, now, (self.unproven, self.unproven_of_one)) {
            Room::Free => None,
            Room::Of(from) => held.leave_unproven(from, None).map(|oldest| (from, oldest)),
            Room::None(from) => {
                drop(held);
                self.refused.inc();
                self.tell(from);
                return None;
            }
        };
        let displaced = CancellationToken::new();
        let sequence = held.add(source, now, displaced.clone());
        drop(held);
        if let Some((from, oldest)) = displaces {
            oldest.displaced.cancel();
            self.displaced.inc();
            self.tell(from);
        }
        Some(Arc::new(Seat {
            seats: self.clone(),
            source,
            sequence,
            displaced,
            caller: Mutex::new(None),
        }))
    }

    fn tell(&self, source: IpAddr) {
        if self.told.lock().admits("", self.started.elapsed()) {
            let (displaced, refused) = (self.displaced.get(), self.refused.get());
            tracing::warn!(
                %source,
                displaced,
                refused,
                "too many connections prove nothing: the oldest of the address that has the most is closed for each new one, or the new one"
            );
        }
    }

    /// Unproven ones, proven ones.
    pub(super) fn count(&self) -> (usize, usize) {
        let held = self.held.lock();
        (held.unproven_total, held.proven)
    }

    /// How many were displaced.
    pub(super) fn displaced(&self) -> Counter {
        self.displaced.clone()
    }

    /// For how many there was no place.
    pub(super) fn refused(&self) -> Counter {
        self.refused.clone()
    }
}

/// Is there a place for one more?
#[derive(Clone, Copy, Debug)]
enum Room {
    Free,
    /// That of the oldest one of this source.
    Of(IpAddr),
    /// This source has the most, and its oldest one has not had its time.
    None(IpAddr),
}

impl Held {
    /// `all` and `of_one`: the most that there may be.
    fn room(&self, source: IpAddr, now: Instant, (all, of_one): (usize, usize)) -> Room {
        let own = self.of(source);
        let from = if own >= of_one {
            source
        } else if self.unproven_total >= all {
            self.with_most().unwrap_or(source)
        } else {
            return Room::Free;
        };
        let has_had_its_time = || {
            let oldest = self.unproven.get(&from).and_then(BTreeMap::first_key_value);
            oldest.is_some_and(|(_, it)| now.saturating_duration_since(it.since) >= FAIR)
        };
        // With the one that comes.
        if self.of(from) > own + 1 || has_had_its_time() {
            Room::Of(from)
        } else {
            Room::None(from)
        }
    }

    fn add(&mut self, source: IpAddr, since: Instant, displaced: CancellationToken) -> u64 {
        let sequence = self.sequence;
        self.sequence += 1;
        let of_source = self.unproven.entry(source).or_default();
        of_source.insert(sequence, Unproven { since, displaced });
        self.unproven_total += 1;
        sequence
    }

    fn of(&self, source: IpAddr) -> usize {
        self.unproven.get(&source).map_or(0, BTreeMap::len)
    }

    /// The source that has the most; of several, that of the oldest one.
    fn with_most(&self) -> Option<IpAddr> {
        let oldest = |of_source: &BTreeMap<u64, _>| {
            let (sequence, _) = of_source.first_key_value()?;
            Some(*sequence)
        };
        let sources = self.unproven.iter();
        let most = sources.max_by_key(|(_, of)| (of.len(), Reverse(oldest(of))));
        most.map(|(source, _)| *source)
    }

    /// The one of that sequence, or the oldest. None where it is gone already.
    fn leave_unproven(&mut self, source: IpAddr, sequence: Option<u64>) -> Option<Unproven> {
        let of_source = self.unproven.get_mut(&source)?;
        let left = match sequence {
            Some(sequence) => of_source.remove(&sequence)?,
            None => of_source.pop_first()?.1,
        };
        if of_source.is_empty() {
            self.unproven.remove(&source);
        }
        self.unproven_total -= 1;
        Some(left)
    }
}

impl Seat {
    /// Ends when its place is another's. That of a proven one never is.
    pub(super) fn displaced(&self) -> WaitForCancellationFutureOwned {
        self.displaced.clone().cancelled_owned()
    }

    pub(super) fn is_proven(&self) -> bool {
        self.caller.lock().is_some()
    }

    /// It showed a good token. False where that token has too many connections, or
    /// the place was another's before.
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
        let unproven = held.leave_unproven(self.source, Some(self.sequence));
        if unproven.is_none() {
            return false;
        }
        held.by_caller.insert(name.to_owned(), of_caller + 1);
        held.proven += 1;
        *caller = Some(name.to_owned());
        true
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut held = self.seats.held.lock();
        let Some(name) = self.caller.get_mut().take() else {
            let _displaced_before = held.leave_unproven(self.source, Some(self.sequence));
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
    use std::cell::Cell;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn is_displaced(seat: &Seat) -> bool {
        seat.displaced.is_cancelled()
    }

    fn take(seats: &Arc<Seats>, source: &str) -> Arc<Seat> {
        seats.take(ip(source)).expect("a place")
    }

    #[test]
    fn one_address_that_proves_nothing_keeps_few_and_leaves_the_rest() {
        let (seats, clock) = (Seats::new(64), Cell::new(Instant::now()));
        let flood = |count: u32, source: &dyn Fn(u32) -> String| -> Vec<_> {
            let one = |n| {
                // Those before it have had their time.
                clock.set(clock.get() + FAIR);
                seats.take_at(ip(&source(n)), clock.get())
            };
            (0..count).map(|n| one(n).expect("a place")).collect()
        };
        let kept = |all: &[Arc<Seat>]| all.iter().filter(|seat| !is_displaced(seat)).count();
        let one = flood(100, &|_| "10.0.0.1".to_owned());
        assert_eq!(kept(&one), 8);
        let newest = one[92..].iter();
        assert!(!newest.clone().any(|seat| is_displaced(seat)), "the newest");
        let v6 = flood(100, &|n| format!("2001:db8::{n:x}"));
        assert_eq!(kept(&v6), 8, "a /64 is one");
        assert_eq!(kept(&one), 8);
        let many = flood(100, &|n| format!("10.1.0.{n}"));
        assert_eq!(seats.count(), (32, 0), "half of all");
        assert_eq!(kept(&one) + kept(&v6) + kept(&many), 32);
        assert_eq!(seats.displaced().get(), 92 + 92 + 84);
        drop((one, v6, many));
        assert_eq!(seats.count(), (0, 0));
        assert!(seats.held.lock().unproven.is_empty());
    }

    #[test]
    fn however_many_are_silent_one_from_another_address_gets_in_and_stays() {
        for sources in [1, 2, 3, 4, 5, 80] {
            let seats = Seats::new(512);
            let flood = |each: usize| -> Vec<_> {
                let all = (0..sources).flat_map(|n| std::iter::repeat_n(n, each));
                all.map(|n| seats.take(ip(&format!("10.1.0.{n}"))))
                    .collect()
            };
            let before = flood(70);
            let honest = take(&seats, "10.0.0.1");
            let after = flood(2);
            assert!(!is_displaced(&honest), "{sources} sources");
            assert!(honest.prove("t"));
            drop((before, after, honest));
            assert_eq!(seats.count(), (0, 0));
        }
    }

    /// As agents that come back together: whoever displaced the one before would see to it
    /// that none ever ends.
    #[test]
    fn of_those_that_have_as_many_each_has_its_time() {
        for address in ["2001:db8::1", "10.0.0.N"] {
            let (seats, begun) = (Seats::new(16), Instant::now());
            let at = |n: usize, now| {
                let source = address.replace('N', &n.to_string());
                seats.take_at(ip(&source), now)
            };
            let most = if address.contains('N') { 8 } else { 4 };
            let first: Vec<_> = (0..most).map_while(|n| at(n, begun)).collect();
            assert_eq!(first.len(), most, "{address}");
            assert!(at(100, begun + FAIR / 2).is_none(), "{address}");
            assert_eq!((seats.displaced().get(), seats.refused().get()), (0, 1));
            let late = at(101, begun + FAIR);
            assert!(late.is_some() && is_displaced(&first[0]), "{address}");
            assert!(first[1..].iter().all(|seat| !is_displaced(seat)));
        }
    }

    #[test]
    fn a_proven_one_is_never_displaced_and_a_displaced_one_never_proven() {
        let seats = Seats::new(64);
        let begun = Instant::now();
        let proven = take(&seats, "10.0.0.1");
        assert!(proven.prove("t"));
        let late = take(&seats, "10.0.0.1");
        let flood = (1..100).map(|n| seats.take_at(ip("10.0.0.1"), begun + n * 2 * FAIR));
        let flood: Vec<_> = flood.collect();
        assert!(!is_displaced(&proven) && is_displaced(&late));
        assert!(!late.prove("t") && !late.is_proven());
        assert_eq!(seats.count(), (8, 1));
        drop((late, flood));
        assert_eq!(seats.count(), (0, 1));
        drop(proven);
        assert_eq!(seats.count(), (0, 0));
        assert!(seats.held.lock().by_caller.is_empty());
    }

    #[test]
    fn who_proved_itself_makes_room_and_one_token_gets_few() {
        let seats = Seats::new(512);
        let proven: Vec<_> = (0..OF_ONE_CALLER)
            .map(|_| {
                let seat = take(&seats, "10.0.0.1");
                assert!(seat.prove("t1"));
                seat
            })
            .collect();
        let more = take(&seats, "10.0.0.1");
        assert!(!more.prove("t1") && !more.is_proven());
        assert!(more.prove("t2"), "another token");
        assert_eq!(seats.count(), (0, OF_ONE_CALLER + 1));
        drop((proven, more));
        assert!(seats.held.lock().by_caller.is_empty());
        assert_eq!(seats.count(), (0, 0));
    }
}
