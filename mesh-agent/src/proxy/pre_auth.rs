//! Connections whose client has not shown yet who it is.
//!
//! Anybody may open them, and each takes memory, a descriptor and a place among
//! the connections. So a worker has only so many at once, in all and of one
//! pod. One more displaces the oldest of the source that has the most there: who
//! floods keeps out itself, never another source.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::Rc;

use super::config::Config;
use super::registry::{ConnectionEntry, CutReason};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Fewer than this would get in the way of honest bursts.
const LEAST: usize = 32;

#[derive(Clone, Copy, Debug)]
struct Limits {
    in_all: usize,
    per_pod: usize,
}

/// Whom a connection counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PodClient {
    /// Cookie of the pod's network namespace.
    pod: u64,
    client: IpAddr,
}

#[derive(Debug, Default)]
struct Waiting {
    /// By sequence: the first is the oldest. No source without any.
    by_source: Map<PodClient, BTreeMap<u64, Rc<ConnectionEntry>>>,
    per_pod: Map<u64, usize>,
    in_all: usize,
    sequence: u64,
}

/// All of a worker.
#[derive(Debug)]
pub(super) struct PreAuthLimiter {
    limits: Limits,
    waiting: RefCell<Waiting>,
}

/// Held as long as the client is not known.
pub(super) struct Slot<'u> {
    all: &'u PreAuthLimiter,
    source: PodClient,
    sequence: u64,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        // Gone already when it was displaced.
        self.all
            .waiting
            .borrow_mut()
            .remove(self.source, Some(self.sequence));
    }
}

impl PreAuthLimiter {
    /// A quarter of the places that connections have. That is less than a source
    /// may have alone: one that floods displaces its own, and is not refused.
    pub(super) fn new(config: &Config, workers: usize) -> Self {
        let part = |limit: usize| (limit / 4 / workers.max(1)).max(LEAST);
        Self {
            limits: Limits {
                in_all: part(config.max_connections),
                per_pod: part(config.max_connections_per_pod),
            },
            waiting: RefCell::default(),
        }
    }

    /// One more; another one's `entry` is cut where that is too many.
    pub(super) fn enter(&self, pod: u64, client: IpAddr, entry: &Rc<ConnectionEntry>) -> Slot<'_> {
        let waiting = &mut *self.waiting.borrow_mut();
        let source = PodClient { pod, client };
        let sequence = waiting.add(source, entry.clone());
        if waiting.per_pod.get(&pod).copied().unwrap_or(0) > self.limits.per_pod {
            waiting.evict(|other| other.pod == pod);
        }
        if waiting.in_all > self.limits.in_all {
            waiting.evict(|_| true);
        }
        Slot {
            all: self,
            source,
            sequence,
        }
    }
}

impl Waiting {
    fn add(&mut self, source: PodClient, entry: Rc<ConnectionEntry>) -> u64 {
        let sequence = self.sequence;
        self.sequence += 1;
        self.by_source
            .entry(source)
            .or_default()
            .insert(sequence, entry);
        *self.per_pod.entry(source.pod).or_default() += 1;
        self.in_all += 1;
        sequence
    }

    /// The one of that sequence, or the oldest.
    fn remove(&mut self, source: PodClient, sequence: Option<u64>) -> Option<Rc<ConnectionEntry>> {
        let of_source = self.by_source.get_mut(&source)?;
        let entry = match sequence {
            Some(sequence) => of_source.remove(&sequence)?,
            None => of_source.pop_first()?.1,
        };
        if of_source.is_empty() {
            self.by_source.remove(&source);
        }
        self.in_all -= 1;
        if let Some(count) = self.per_pod.get_mut(&source.pod) {
            *count -= 1;
            if *count == 0 {
                self.per_pod.remove(&source.pod);
            }
        }
        Some(entry)
    }

    /// Cuts the oldest of the source that has the most; of several, the oldest of all.
    fn evict(&mut self, among: impl Fn(&PodClient) -> bool) {
        let oldest = |by_sequence: &BTreeMap<u64, _>| {
            by_sequence.first_key_value().map(|(sequence, _)| *sequence)
        };
        let found = self
            .by_source
            .iter()
            .filter(|(source, _)| among(source))
            .max_by_key(|(_, by_sequence)| (by_sequence.len(), Reverse(oldest(by_sequence))))
            .map(|(source, _)| *source);
        if let Some(entry) = found.and_then(|source| self.remove(source, None)) {
            entry.cut.now(CutReason::Displaced);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: u64 = 1;

    fn pre_auth(in_all: usize, per_pod: usize) -> PreAuthLimiter {
        PreAuthLimiter {
            limits: Limits { in_all, per_pod },
            waiting: RefCell::default(),
        }
    }

    fn client(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn a_source_that_floods_displaces_its_own_oldest_and_nobody_else() {
        let all = pre_auth(100, 10);
        let good = Rc::<ConnectionEntry>::default();
        let place = all.enter(POD, client(1), &good);
        let flood: Vec<_> = (0..1_000)
            .map(|_| {
                let entry = Rc::<ConnectionEntry>::default();
                (all.enter(POD, client(2), &entry), entry)
            })
            .collect();
        assert!(!good.cut.is_told());
        let left: Vec<bool> = flood.iter().map(|(_, e)| !e.cut.is_told()).collect();
        assert_eq!(left.iter().filter(|left| **left).count(), 9);
        assert!(left[991..].iter().all(|left| *left), "the newest ones");
        // One that comes when all are taken gets in, too.
        let late = Rc::<ConnectionEntry>::default();
        let late_place = all.enter(POD, client(3), &late);
        assert!(!late.cut.is_told() && !good.cut.is_told());
        drop((flood, place, late_place));
        let waiting = all.waiting.borrow();
        assert!(waiting.by_source.is_empty() && waiting.per_pod.is_empty());
        assert_eq!(waiting.in_all, 0);
    }

    #[test]
    fn a_pod_that_is_flooded_takes_no_place_of_others_pods() {
        let all = pre_auth(20, 15);
        let entries: Vec<Rc<ConnectionEntry>> = (0..5).map(|_| Rc::default()).collect();
        let other: Vec<_> = entries
            .iter()
            .map(|entry| all.enter(2, client(2), entry))
            .collect();
        let many: Vec<_> = (0..50)
            .map(|_| all.enter(POD, client(2), &Rc::default()))
            .collect();
        assert!(entries.iter().all(|entry| !entry.cut.is_told()));
        assert_eq!(all.waiting.borrow().in_all, 20);
        drop((other, many));
    }

    #[test]
    fn of_many_sources_the_one_that_waits_longest_goes() {
        let all = pre_auth(100, 3);
        let entries: Vec<Rc<ConnectionEntry>> = (0..4).map(|_| Rc::default()).collect();
        let places: Vec<_> = (1..)
            .zip(&entries)
            .map(|(last, entry)| all.enter(POD, client(last), entry))
            .collect();
        let evicted: Vec<bool> = entries.iter().map(|entry| entry.cut.is_told()).collect();
        assert_eq!(evicted, [true, false, false, false]);
        drop(places);
    }
}
