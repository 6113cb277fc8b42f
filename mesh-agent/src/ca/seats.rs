//! Who holds the authority's connections. Anybody can open one; so whoever has
//! not shown a good token yet gets few of them, and for a short while. One more
//! displaces the oldest of the source that has the most there: who floods keeps
//! out itself, never another source.

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
    started: Instant,
    told: Mutex<Limit>,
}

#[derive(Debug, Default)]
struct Held {
    /// By sequence: the first is the oldest. No source without any.
    unproven: HashMap<IpAddr, BTreeMap<u64, CancellationToken>>,
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
            unproven_of_one: (all / 16).max(4),
            held: Mutex::default(),
            displaced: Counter::default(),
            started: Instant::now(),
            told: Mutex::new(Limit::per(TELL_EVERY, 1, 1)),
        })
    }

    /// There is always one. Where its address, or all together, have too many
    /// unproven ones, another one is displaced for it.
    pub(super) fn take(self: &Arc<Self>, source: IpAddr) -> Arc<Seat> {
        let source = network(source);
        let displaced = CancellationToken::new();
        let mut held = self.held.lock();
        let sequence = held.add(source, displaced.clone());
        let over = if held.of(source) > self.unproven_of_one {
            // Its own oldest, so that an agent that shares its address gets in, too.
            Some(source)
        } else if held.unproven_total > self.unproven {
            held.with_most()
        } else {
            None
        };
        let oldest = over.and_then(|over| Some((over, held.leave_unproven(over, None)?)));
        drop(held);
        if let Some((from, oldest)) = oldest {
            oldest.cancel();
            self.tell(from);
        }
        Arc::new(Seat {
            seats: self.clone(),
            source,
            sequence,
            displaced,
            caller: Mutex::new(None),
        })
    }

    fn tell(&self, source: IpAddr) {
        self.displaced.inc();
        if self.told.lock().admits("", self.started.elapsed()) {
            let displaced = self.displaced.get();
            tracing::warn!(
                %source,
                displaced,
                "too many connections prove nothing: the oldest of the address that has the most is closed for each new one"
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
}

impl Held {
    fn add(&mut self, source: IpAddr, displaced: CancellationToken) -> u64 {
        let sequence = self.sequence;
        self.sequence += 1;
        let of_source = self.unproven.entry(source).or_default();
        of_source.insert(sequence, displaced);
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
    fn leave_unproven(
        &mut self,
        source: IpAddr,
        sequence: Option<u64>,
    ) -> Option<CancellationToken> {
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
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn is_displaced(seat: &Seat) -> bool {
        seat.displaced.is_cancelled()
    }

    #[test]
    fn one_address_that_proves_nothing_keeps_few_and_leaves_the_rest() {
        let seats = Seats::new(64);
        let take = |source: String| seats.take(ip(&source));
        let kept = |all: &[Arc<Seat>]| all.iter().filter(|seat| !is_displaced(seat)).count();
        let one: Vec<_> = (0..100).map(|_| take("10.0.0.1".to_owned())).collect();
        assert_eq!(kept(&one), 4);
        assert!(
            !one[96..].iter().any(|seat| is_displaced(seat)),
            "the newest"
        );
        let v6: Vec<_> = (0..100).map(|n| take(format!("2001:db8::{n:x}"))).collect();
        assert_eq!(kept(&v6), 4, "a /64 is one");
        assert_eq!(kept(&one), 4);
        let many: Vec<_> = (0..100).map(|n| take(format!("10.1.0.{n}"))).collect();
        assert_eq!(seats.count(), (32, 0), "half of all");
        assert_eq!(kept(&one) + kept(&v6) + kept(&many), 32);
        assert_eq!(seats.displaced().get(), 96 + 96 + 76);
        drop((one, v6, many));
        assert_eq!(seats.count(), (0, 0));
        assert!(seats.held.lock().unproven.is_empty());
    }

    #[test]
    fn however_many_are_silent_one_from_another_address_gets_in_and_stays() {
        for sources in [1, 2, 7, 8, 9, 200] {
            let seats = Seats::new(512);
            let flood = |each: usize| -> Vec<_> {
                let all = (0..sources).flat_map(|n| std::iter::repeat_n(n, each));
                all.map(|n| seats.take(ip(&format!("10.1.0.{n}"))))
                    .collect()
            };
            let before = flood(40);
            let honest = seats.take(ip("10.0.0.1"));
            assert!(!is_displaced(&honest), "{sources} sources");
            let after = flood(2);
            assert!(!is_displaced(&honest), "{sources} sources");
            assert!(honest.prove("t"));
            drop((before, after, honest));
            assert_eq!(seats.count(), (0, 0));
        }
    }

    #[test]
    fn of_many_sources_with_one_each_the_one_that_waits_longest_goes() {
        let seats = Seats::new(16);
        let take = |n: usize| seats.take(ip(&format!("2001:db8:0:{n:x}::1")));
        let all: Vec<_> = (0..9).map(take).collect();
        let displaced: Vec<_> = all.iter().map(|seat| is_displaced(seat)).collect();
        assert_eq!(displaced.iter().position(|is| *is), Some(0));
        assert_eq!(displaced.iter().filter(|is| **is).count(), 1);
    }

    #[test]
    fn a_proven_one_is_never_displaced_and_a_displaced_one_never_proven() {
        let seats = Seats::new(64);
        let proven = seats.take(ip("10.0.0.1"));
        assert!(proven.prove("t"));
        let late = seats.take(ip("10.0.0.1"));
        let flood: Vec<_> = (0..100).map(|_| seats.take(ip("10.0.0.1"))).collect();
        assert!(!is_displaced(&proven) && is_displaced(&late));
        assert!(!late.prove("t") && !late.is_proven());
        assert_eq!(seats.count(), (4, 1));
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
                let seat = seats.take(ip("10.0.0.1"));
                assert!(seat.prove("t1"));
                seat
            })
            .collect();
        let more = seats.take(ip("10.0.0.1"));
        assert!(!more.prove("t1") && !more.is_proven());
        assert!(more.prove("t2"), "another token");
        assert_eq!(seats.count(), (0, OF_ONE_CALLER + 1));
        drop((proven, more));
        assert!(seats.held.lock().by_caller.is_empty());
        assert_eq!(seats.count(), (0, 0));
    }
}
