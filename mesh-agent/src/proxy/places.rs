//! The places that the node has for connections, and who holds them.
//!
//! Each connection takes one. A holder (a pod, and of what comes from elsewhere
//! also its source) may have as many as are free then: alone half of all, n
//! together n of n + 1 parts. So there is always room for one that has few,
//! whatever the others do, and nobody is kept short while there is room.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Locks that the sources are spread over; each is held for one look.
const SHARDS: usize = 16;

type Shard = Mutex<HashMap<Source, usize, foldhash::fast::RandomState>>;

/// Where a connection from elsewhere comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source(IpAddr);

impl Source {
    /// Who has one IPv6 address usually has its /64. Those of pods that the
    /// configuration knows are each their own.
    pub(super) fn new(ip: IpAddr, is_known: bool) -> Self {
        match ip.to_canonical() {
            IpAddr::V6(ip) if !is_known => {
                let network = ip.to_bits() & (u128::MAX << 64);
                Self(Ipv6Addr::from_bits(network).into())
            }
            ip => Self(ip),
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

/// A connection's, given back when it ends.
#[derive(Debug)]
pub(super) struct Place<'p> {
    all: &'p Places,
    pod: &'p AtomicUsize,
    source: Option<Source>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.all.taken.fetch_sub(1, Ordering::Relaxed);
        self.pod.fetch_sub(1, Ordering::Relaxed);
        if let Some(source) = self.source {
            self.all.leave(source);
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

    /// `pod`: the places that it has; `source`: of a connection from elsewhere.
    pub(super) fn enter<'p>(
        &'p self,
        pod: &'p AtomicUsize,
        source: Option<Source>,
    ) -> Result<Place<'p>, Full> {
        let free = self
            .in_all
            .saturating_sub(self.taken.fetch_add(1, Ordering::Relaxed));
        let of_pod = pod.fetch_add(1, Ordering::Relaxed);
        let of_source = source.map_or(0, |source| self.join(source));
        // Gives all of it back where it is not wanted.
        let place = Place {
            all: self,
            pod,
            source,
        };
        if free == 0 {
            Err(Full::Node)
        } else if of_pod >= free.min(self.per_pod) {
            Err(Full::Pod)
        } else if of_source >= free {
            Err(Full::Source)
        } else {
            Ok(place)
        }
    }

    /// How many it had before.
    fn join(&self, source: Source) -> usize {
        let mut shard = self.shard(source);
        let count = shard.entry(source).or_default();
        *count += 1;
        *count - 1
    }

    fn leave(&self, source: Source) {
        let mut shard = self.shard(source);
        if let Some(count) = shard.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&source);
            }
        }
    }

    fn shard(
        &self,
        source: Source,
    ) -> std::sync::MutexGuard<'_, HashMap<Source, usize, foldhash::fast::RandomState>> {
        // A count is whole also where another thread panicked.
        let shard = &self.sources[source.shard()];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(last: u8) -> Option<Source> {
        Some(Source::new([10, 0, 0, last].into(), true))
    }

    /// Takes as many as it gets.
    fn greedy<'p>(
        places: &'p Places,
        pod: &'p AtomicUsize,
        source: Option<Source>,
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
        let pods: Vec<AtomicUsize> = (0..5).map(|_| AtomicUsize::new(0)).collect();
        let mut all = vec![];
        for pod in &pods {
            let (held, full) = greedy(&places, pod, None);
            assert_eq!(full, Full::Pod);
            assert!(!held.is_empty());
            all.push(held);
        }
        assert_eq!(all[0].len(), 600, "alone, half of all");
        assert_eq!(all[1].len(), 300);
        let late = AtomicUsize::new(0);
        assert!(places.enter(&late, None).is_ok());
        drop(all);
        assert_eq!(places.taken(), 0);
        assert!(pods.iter().all(|pod| pod.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn one_source_at_many_pods_cannot_take_all_places() {
        let places = Places::new(1_000, 1_000);
        let pods: Vec<AtomicUsize> = (0..20).map(|_| AtomicUsize::new(0)).collect();
        let mut held = vec![];
        for pod in &pods {
            // A few at each, so that no pod has many.
            for _ in 0..100 {
                held.extend(places.enter(pod, client(1)));
            }
        }
        assert_eq!(held.len(), 500);
        assert_eq!(places.enter(&pods[0], client(1)).err(), Some(Full::Source));
        assert!(places.enter(&pods[19], client(2)).is_ok());
        drop(held);
        let empty = |shard: &Shard| shard.lock().expect("whole").is_empty();
        assert!(places.sources.iter().all(empty));
    }

    #[test]
    fn a_pod_has_no_more_than_its_own_limit_and_all_no_more_than_there_are() {
        let places = Places::new(100, 10);
        let pod = AtomicUsize::new(0);
        let (held, full) = greedy(&places, &pod, None);
        assert_eq!((held.len(), full), (10, Full::Pod));
        let none = Places::new(0, 10);
        assert_eq!(none.enter(&pod, None).err(), Some(Full::Node));
    }

    #[test]
    fn strangers_of_one_network_are_one_source_and_pods_are_not() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let (a, b) = (ip("2001:db8::1"), ip("2001:db8::2:0:0:1"));
        assert_eq!(Source::new(a, false), Source::new(b, false));
        assert_ne!(Source::new(a, true), Source::new(b, true));
        let mapped = Source::new(ip("::ffff:10.0.0.1"), false);
        assert_eq!(mapped, Source::new(ip("10.0.0.1"), false));
    }
}
