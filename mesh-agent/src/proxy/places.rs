//! The places that the node has for connections, and who holds them.
//!
//! Each connection takes one. A pod may have as many as are free then, and so may
//! the source of connections from elsewhere; at one pod, a source may have as many
//! as that pod could still have. Alone a pod or a source gets half of all, a
//! source at one pod a third; n together leave one part of n + 1. So there is
//! always room for one that has few, whatever the others do, and nobody is kept
//! short while there is room.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks that the sources are spread over; each is held for one look.
const SHARDS: usize = 16;

/// A source at one pod (the cookie of its namespace), or at all.
type Key = (Option<u64>, ClientSource);
type Counts = HashMap<Key, usize, foldhash::fast::RandomState>;
type Shard = Mutex<Counts>;

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

/// All of the node.
#[derive(Debug)]
pub(super) struct Places {
    in_all: usize,
    per_pod: usize,
    taken: AtomicUsize,
    sources: [Shard; SHARDS],
}

/// A pod's places.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pod<'p> {
    /// Cookie of its namespace.
    pub(super) netns: u64,
    pub(super) taken: &'p AtomicUsize,
}

/// A connection's, given back when it ends.
#[derive(Debug)]
pub(super) struct Place<'p> {
    all: &'p Places,
    pod: Pod<'p>,
    source: Option<ClientSource>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.all.taken.fetch_sub(1, Ordering::Relaxed);
        self.pod.taken.fetch_sub(1, Ordering::Relaxed);
        if let Some(source) = self.source {
            self.all.may_dial(source, self.pod.netns);
        }
    }
}

impl Places {
    pub(super) fn new(in_all: usize, per_pod: usize) -> Self {
        Self {
            in_all,
            per_pod,
            taken: AtomicUsize::new(0),
            sources: Default::default(),
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
        let free = self.in_all.saturating_sub(self.taken());
        let left = free.min(self.per_pod);
        let left = left.saturating_sub(pod.taken.load(Ordering::Relaxed));
        if free == 0 {
            return Err(Full::Node);
        }
        if left == 0 {
            return Err(Full::Pod);
        }
        if let Some(source) = source
            && !self.join(source, pod.netns, free, left)
        {
            return Err(Full::Source);
        }
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        let of_pod = pod.taken.fetch_add(1, Ordering::Relaxed);
        // Gives all of it back where it is not wanted.
        let place = Place {
            all: self,
            pod,
            source,
        };
        if taken >= self.in_all {
            Err(Full::Node)
        } else if of_pod >= self.per_pod {
            Err(Full::Pod)
        } else {
            Ok(place)
        }
    }

    /// False where it has its share already: of `free`, or of what the pod has left.
    fn join(&self, source: ClientSource, netns: u64, free: usize, left: usize) -> bool {
        let mut counts = self.counts(source);
        let keys = [((None, source), free), ((Some(netns), source), left)];
        let count = |key| counts.get(&key).copied().unwrap_or(0);
        if keys.iter().any(|(key, share)| count(*key) >= *share) {
            return false;
        }
        for (key, _) in keys {
            *counts.entry(key).or_default() += 1;
        }
        true
    }

    fn may_dial(&self, source: ClientSource, netns: u64) {
        let mut counts = self.counts(source);
        for key in [(None, source), (Some(netns), source)] {
            if let Some(count) = counts.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&key);
                }
            }
        }
    }

    fn counts(&self, source: ClientSource) -> MutexGuard<'_, Counts> {
        // A count is whole also where another thread panicked.
        let shard = &self.sources[source.shard()];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        let empty = |shard: &Shard| shard.lock().expect("whole").is_empty();
        assert!(places.sources.iter().all(empty));
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
