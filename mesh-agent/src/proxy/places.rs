//! The places that the node has for connections, and those for requests in flight, and
//! who holds them.
//!
//! Each connection takes one, each request takes one of the request places. A pod may have as many as
//! are free then, and so may the source of connections from elsewhere; at one pod, a
//! source may have as many as that pod could still have. Alone a pod or a source gets
//! half of all, a source at one pod a third; n together leave one part of n + 1. So
//! there is always room for one that has few, whatever the others do, and nobody is kept
//! short while there is room.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Locks that the sources are spread over; each is held for one look, when a source's
/// connection comes and when it goes.
const SHARDS: usize = 16;

/// A source at one pod (the cookie of its namespace), or at all.
type Key = (Option<u64>, ClientSource);
type Counts = HashMap<Key, Known, foldhash::fast::RandomState>;
type Shards = [Mutex<Counts>; SHARDS];

/// What a source holds, and how many look at it: who comes and goes does so under the lock.
#[derive(Debug, Default)]
struct Known {
    held: Arc<AtomicUsize>,
    users: usize,
}

/// Where a connection from elsewhere comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ClientSource(IpAddr);

impl ClientSource {
    /// Who has one IPv6 address usually has its /64. Those of pods that the
    /// configuration knows are each their own.
    pub(super) fn new(ip: IpAddr, is_known: bool) -> Self {
        match ip.to_canonical() {
            IpAddr::V6(ip) if !is_known => {
                let network = ip.to_bits() & (u128::MAX << 64);
                Self(Ipv6Addr::from_bits(network).into())
            }
            ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => Self(ip),
        }
    }

    fn shard(self) -> usize {
        let folded = match self.0 {
            IpAddr::V4(ip) => ip.to_bits(),
            IpAddr::V6(ip) => {
                let bits = ip.to_bits();
                (bits >> 64) as u32 ^ (bits >> 96) as u32 ^ bits as u32
            }
        };
        (folded ^ (folded >> 8) ^ (folded >> 16)) as usize % SHARDS
    }
}

/// Whose share is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Full {
    Node,
    Pod,
    Source,
}

impl Full {
    /// In labels and log.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Pod => "pod",
            Self::Source => "source",
        }
    }
}

/// All of the node.
#[derive(Debug)]
pub(super) struct Places {
    in_all: usize,
    per_pod: usize,
    taken: AtomicUsize,
    sources: Arc<Shards>,
}

/// A pod's places.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pod<'p> {
    /// Cookie of its namespace.
    pub(super) netns: u64,
    pub(super) taken: &'p AtomicUsize,
}

/// What a source holds, of all and of one pod's: looked up once for whatever it takes.
#[derive(Debug)]
pub(super) struct HeldBySource {
    known: Arc<Shards>,
    source: ClientSource,
    netns: u64,
    held: [Arc<AtomicUsize>; 2],
}

/// At all, and at a pod.
fn keys(source: ClientSource, netns: u64) -> [Key; 2] {
    [(None, source), (Some(netns), source)]
}

impl Drop for HeldBySource {
    fn drop(&mut self) {
        let mut counts = counts(&self.known, self.source);
        for key in keys(self.source, self.netns) {
            if let Entry::Occupied(mut entry) = counts.entry(key) {
                entry.get_mut().users -= 1;
                if entry.get().users == 0 {
                    entry.remove();
                }
            }
        }
    }
}

/// A connection's, given back when it ends.
#[derive(Debug)]
pub(super) struct Place<'p> {
    all: &'p Places,
    of_pod: &'p AtomicUsize,
    /// On the heap: a pod's own connections have none.
    source: Option<Box<HeldBySource>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.all.give_back(self.of_pod, self.source.as_deref());
    }
}

impl Places {
    pub(super) fn new(in_all: usize, per_pod: usize) -> Self {
        Self {
            in_all,
            per_pod,
            taken: AtomicUsize::new(0),
            sources: Arc::default(),
        }
    }

    pub(super) fn in_all(&self) -> usize {
        self.in_all
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// `source`: of a connection from elsewhere. Shares are judged by what was
    /// there a moment before, the two limits exactly.
    pub(super) fn enter<'p>(
        &'p self,
        pod: Pod<'p>,
        source: Option<ClientSource>,
    ) -> Result<Place<'p>, Full> {
        let shares = self.shares(pod.taken)?;
        let source = source.map(|source| self.source(source, pod.netns));
        self.count((pod.taken, source.as_deref()), shares)?;
        Ok(Place {
            all: self,
            of_pod: pod.taken,
            source,
        })
    }

    /// The same by counts that are at hand: it locks nothing. Whoever gets a place gives it
    /// back.
    pub(super) fn take(
        &self,
        pod: &AtomicUsize,
        source: Option<&HeldBySource>,
    ) -> Result<(), Full> {
        let shares = self.shares(pod)?;
        self.count((pod, source), shares)
    }

    pub(super) fn give_back(&self, pod: &AtomicUsize, source: Option<&HeldBySource>) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
        pod.fetch_sub(1, Ordering::Relaxed);
        for held in source.into_iter().flat_map(|source| &source.held) {
            held.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// What a source holds, at all and at that pod.
    pub(super) fn source(&self, source: ClientSource, netns: u64) -> Box<HeldBySource> {
        let mut counts = counts(&self.sources, source);
        let held = keys(source, netns).map(|key| {
            let known = counts.entry(key).or_default();
            known.users += 1;
            known.held.clone()
        });
        drop(counts);
        Box::new(HeldBySource {
            known: self.sources.clone(),
            source,
            netns,
            held,
        })
    }

    /// What a source may have at most: of all, and of the pod's.
    fn shares(&self, pod: &AtomicUsize) -> Result<[usize; 2], Full> {
        let free = self.in_all.saturating_sub(self.taken());
        let left = free.min(self.per_pod);
        let left = left.saturating_sub(pod.load(Ordering::Relaxed));
        match (free, left) {
            (0, _) => Err(Full::Node),
            (_, 0) => Err(Full::Pod),
            shares => Ok(shares.into()),
        }
    }

    fn count(
        &self,
        (pod, source): (&AtomicUsize, Option<&HeldBySource>),
        shares: [usize; 2],
    ) -> Result<(), Full> {
        let held = || source.into_iter().flat_map(|source| &source.held);
        let has_share =
            |(held, share): (&Arc<AtomicUsize>, usize)| held.load(Ordering::Relaxed) >= share;
        if held().zip(shares).any(has_share) {
            return Err(Full::Source);
        }
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        let of_pod = pod.fetch_add(1, Ordering::Relaxed);
        for held in held() {
            held.fetch_add(1, Ordering::Relaxed);
        }
        let full = if taken >= self.in_all {
            Full::Node
        } else if of_pod >= self.per_pod {
            Full::Pod
        } else {
            return Ok(());
        };
        self.give_back(pod, source);
        Err(full)
    }
}

fn counts(known: &Shards, source: ClientSource) -> MutexGuard<'_, Counts> {
    // A count is whole also where another thread panicked.
    let shard = &known[source.shard()];
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(last: u8) -> Option<ClientSource> {
        Some(ClientSource::new([10, 0, 0, last].into(), true))
    }

    fn pods(count: u64) -> Vec<(u64, AtomicUsize)> {
        (1..=count).map(|n| (n, AtomicUsize::new(0))).collect()
    }

    fn pod((netns, taken): &(u64, AtomicUsize)) -> Pod<'_> {
        Pod {
            netns: *netns,
            taken,
        }
    }

    /// Takes as many as it gets.
    fn greedy<'p>(
        places: &'p Places,
        pod: Pod<'p>,
        source: Option<ClientSource>,
    ) -> (Vec<Place<'p>>, Full) {
        let mut held = Vec::new();
        loop {
            match places.enter(pod, source) {
                Ok(place) => held.push(place),
                Err(full) => return (held, full),
            }
        }
    }

    #[test]
    fn however_many_are_greedy_there_is_room_for_one_more() {
        let places = Places::new(1_200, 1_200);
        let pods = pods(6);
        let mut all = vec![];
        for greedy_one in &pods[..5] {
            let (held, full) = greedy(&places, pod(greedy_one), None);
            assert_eq!(full, Full::Pod);
            assert!(!held.is_empty());
            all.push(held);
        }
        assert_eq!(all[0].len(), 600, "alone, half of all");
        assert_eq!(all[1].len(), 300);
        assert!(places.enter(pod(&pods[5]), None).is_ok());
        drop(all);
        assert_eq!(places.taken(), 0);
        let of_pods = pods.iter().map(|(_, taken)| taken.load(Ordering::Relaxed));
        assert_eq!(of_pods.sum::<usize>(), 0);
    }

    #[test]
    fn those_that_are_greedy_at_once_share_alike_and_leave_as_much() {
        let places = Places::new(1_200, 1_200);
        let pods = pods(3);
        let mut held = vec![];
        for _ in 0..1_200 {
            held.extend(places.enter(pod(&pods[0]), None));
            held.extend(places.enter(pod(&pods[1]), None));
        }
        let taken = |one: usize| pods[one].1.load(Ordering::Relaxed);
        assert_eq!([taken(0), taken(1)], [400, 400]);
        let (others, _full) = greedy(&places, pod(&pods[2]), None);
        assert_eq!(others.len(), 200);
    }

    #[test]
    fn one_source_at_many_pods_cannot_take_all_places() {
        let places = Places::new(1_000, 1_000);
        let pods = pods(20);
        let mut held = vec![];
        for one in &pods {
            // A few at each, so that no pod has many.
            for _ in 0..100 {
                held.extend(places.enter(pod(one), client(1)));
            }
        }
        assert_eq!(held.len(), 500);
        let more = places.enter(pod(&pods[0]), client(1));
        assert_eq!(more.err(), Some(Full::Source));
        assert!(places.enter(pod(&pods[19]), client(2)).is_ok());
        drop(held);
        assert!(is_empty(&places));
    }

    fn is_empty(places: &Places) -> bool {
        let empty = |shard: &Mutex<Counts>| shard.lock().expect("whole").is_empty();
        places.sources.iter().all(empty)
    }

    /// As requests take them: of a connection whose source is looked up once.
    #[test]
    fn what_is_taken_by_counts_at_hand_has_the_same_shares_and_is_given_back() {
        let places = Places::new(1_200, 1_200);
        let pods = pods(2);
        let all = |pod: &AtomicUsize, source: Option<&HeldBySource>| {
            let mut held = 0;
            loop {
                match places.take(pod, source) {
                    Ok(()) => held += 1,
                    Err(full) => return (held, full),
                }
            }
        };
        let key = client(1).expect("a source");
        let [first, second] = [(); 2].map(|()| places.source(key, pods[0].0));
        let (by_first, full) = all(&pods[0].1, Some(&first));
        assert_eq!((by_first, full), (400, Full::Source), "alone, a third");
        let by_second = all(&pods[0].1, Some(&second));
        assert_eq!(by_second, (0, Full::Source), "of one client together");
        let (others, full) = all(&pods[1].1, None);
        assert_eq!((others, full), (400, Full::Pod), "half of what is free");
        assert!(places.take(&AtomicUsize::new(0), None).is_ok());
        for _ in 0..by_first {
            places.give_back(&pods[0].1, Some(&first));
        }
        drop(first);
        assert!(!is_empty(&places), "another connection of it is there");
        assert!(places.take(&pods[0].1, Some(&second)).is_ok());
        places.give_back(&pods[0].1, Some(&second));
        drop(second);
        assert!(is_empty(&places));
    }

    /// Whichever of two that go at once is the last one clears the table: the other one may
    /// have looked, and have its counts still.
    #[test]
    fn of_two_that_go_at_once_nothing_is_left() {
        let (places, key) = (Places::new(10, 10), client(1).expect("a source"));
        let [first, second] = [(); 2].map(|()| places.source(key, 1));
        let not_dropped_yet = first.held.clone();
        drop(first);
        drop(second);
        assert!(is_empty(&places));
        drop(not_dropped_yet);
    }

    #[test]
    fn one_source_at_one_pod_leaves_places_there_for_others() {
        let places = Places::new(1_200, 1_200);
        let pods = pods(1);
        let (held, full) = greedy(&places, pod(&pods[0]), client(1));
        assert_eq!((held.len(), full), (400, Full::Source));
        let (others, full) = greedy(&places, pod(&pods[0]), client(2));
        assert!(others.len() > 100, "{} {full:?}", others.len());
    }

    #[test]
    fn a_pod_has_no_more_than_its_own_limit_and_all_no_more_than_there_are() {
        let places = Places::new(100, 10);
        let pods = pods(1);
        let (held, full) = greedy(&places, pod(&pods[0]), None);
        assert_eq!((held.len(), full), (10, Full::Pod));
        let none = Places::new(0, 10);
        assert_eq!(none.enter(pod(&pods[0]), None).err(), Some(Full::Node));
    }

    #[test]
    fn strangers_of_one_network_are_one_source_and_pods_are_not() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let (a, b) = (ip("2001:db8::1"), ip("2001:db8::2:0:0:1"));
        assert_eq!(ClientSource::new(a, false), ClientSource::new(b, false));
        assert_ne!(ClientSource::new(a, true), ClientSource::new(b, true));
        let mapped = ClientSource::new(ip("::ffff:10.0.0.1"), false);
        assert_eq!(mapped, ClientSource::new(ip("10.0.0.1"), false));
    }
}
