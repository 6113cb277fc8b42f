//! What all workers of the node know of endpoints and of destinations.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::aside::Aside;
use super::breaker::{Breaker, millis};
use super::endpoints::{Id, session_hash};
use super::ends::Ends;
use super::ewma::Ewma;
use super::history::{History, Transition};
use super::mean::Mean;
use super::outcome::Kind;
use crate::limit::{Budget, Cap};
use crate::model::{Endpoint, ServiceKey, Snapshot};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Of an endpoint.
#[derive(Debug)]
pub(super) struct State {
    pub(super) breaker: Breaker,
    pub(super) latency: Ewma,
    pub(super) mean: Mean,
    /// Connections and requests that are under way there.
    pub(super) pending: AtomicU32,
    /// Those of them that it has not taken, or not begun to answer.
    pub(super) waiting: AtomicU32,
    pub(super) voice: Voice,
    pub(super) aside: Aside,
    /// Since when it is known, in ms.
    pub(super) born: u64,
    /// By what clients know it whose session goes on there.
    pub(super) session: u64,
}

impl State {
    pub(super) fn new(endpoint: &Endpoint, now: u64) -> Self {
        Self {
            session: session_hash(endpoint),
            breaker: Breaker::new(now),
            latency: Ewma::new(now),
            mean: Mean::default(),
            pending: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            voice: Voice::default(),
            aside: Aside::default(),
            born: now,
        }
    }
}

/// When an endpoint was last heard, and missed. All times are in ms since the agent's
/// start, and 1 at least.
#[derive(Debug, Default)]
pub(super) struct Voice {
    /// 0: it has never answered.
    answered: AtomicU64,
    /// Until when somebody waited in vain, and it counted.
    missed: AtomicU64,
}

impl Voice {
    /// It has answered: who waits for it waits for something.
    pub(super) fn answers(&self) -> bool {
        self.answered.load(Ordering::Relaxed) > 0
    }

    pub(super) fn heard(&self, now: u64) {
        let now = now.max(1);
        // Nearly always there is nothing to write.
        if self.answered.load(Ordering::Relaxed) < now {
            self.answered.store(now, Ordering::Relaxed);
        }
    }

    /// The last who was to hear it waited in vain, for what others do at once: it may have
    /// stopped to answer.
    pub(super) fn is_doubtful(&self) -> bool {
        let missed = self.missed.load(Ordering::Relaxed);
        missed > 0 && self.answered.load(Ordering::Relaxed) <= missed
    }

    /// Somebody has waited until now, in vain.
    pub(super) fn missed(&self, now: u64) {
        self.missed.fetch_max(now.max(1), Ordering::Relaxed);
    }

    /// It has answered nobody since then.
    pub(super) fn is_silent(&self, since: u64) -> bool {
        self.answered.load(Ordering::Relaxed) < since.max(1)
    }

    /// Somebody who waited since then has left. It says something of the endpoint only
    /// where that answered nobody meanwhile; and who leaves all at once, or as long as
    /// others, says it once: each counts from where the last one ended.
    pub(super) fn is_missed(&self, since: u64, now: u64) -> bool {
        let missed = self.missed.load(Ordering::Relaxed);
        let is_next = missed <= since;
        self.is_silent(since)
            && is_next
            && self
                .missed
                .compare_exchange(missed, now.max(1), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

/// Of a Service's port, whatever its endpoints.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) budget: Budget,
    /// In flight.
    requests: Cap,
    connections: Cap,
    /// Of clients that had ended their side.
    pub(super) ends: Ends,
}

impl Destination {
    pub(super) fn count(&self, kind: Kind) -> &Cap {
        match kind {
            Kind::Request => &self.requests,
            Kind::Connection => &self.connections,
        }
    }

    /// Who waits for a place does so by the limits that hold now; where there is nothing
    /// left to go to, to be told so.
    fn hear(&self, snapshot: &Snapshot, (service, port): (&ServiceKey, u16)) {
        let service = snapshot.services.get(service);
        let port = service.and_then(|service| Some((service, service.port(port)?)));
        let limits = port
            .filter(|(_, port)| !port.endpoints.is_empty())
            .map(|(service, port)| &service.traffic(port).limits);
        for kind in [Kind::Request, Kind::Connection] {
            let most = limits.map_or(u32::MAX, |limits| kind.limit(limits).0);
            self.count(kind).allow(most);
        }
    }
}

/// For the whole agent. Its tables are looked into when a worker first picks of a
/// list of endpoints, and never for a pick.
#[derive(Debug)]
pub(crate) struct Health {
    start: Instant,
    /// Changes of breakers so far.
    changes: AtomicU64,
    history: History,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Of the newest configuration that it has heard of.
    generation: u64,
    endpoints: Map<Id, Arc<State>>,
    destinations: Map<(ServiceKey, u16), Arc<Destination>>,
}

impl Health {
    #[must_use]
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            start,
            changes: AtomicU64::new(1),
            history: History::default(),
            known: Mutex::default(),
        }
    }

    /// In ms since the start.
    pub(super) fn at(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.start))
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Who is left out has changed: each worker looks anew.
    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn endpoints(&self, of: &[Endpoint], now: u64) -> Vec<Arc<State>> {
        let known = &mut self.known.lock().endpoints;
        let one = |endpoint: &Endpoint| {
            let state = known.entry(Id::of(endpoint));
            state
                .or_insert_with(|| Arc::new(State::new(endpoint, now)))
                .clone()
        };
        of.iter().map(one).collect()
    }

    /// `None` where one of them is not known: no worker has picked of them.
    pub(super) fn known(&self, of: &[Endpoint]) -> Option<Vec<Arc<State>>> {
        self.each(of).into_iter().collect()
    }

    /// `None` of those that nobody has ever asked.
    pub(super) fn each(&self, of: &[Endpoint]) -> Vec<Option<Arc<State>>> {
        let known = &self.known.lock().endpoints;
        of.iter()
            .map(|endpoint| known.get(&Id::of(endpoint)).cloned())
            .collect()
    }

    pub(super) fn destination(&self, service: &ServiceKey, port: u16) -> Arc<Destination> {
        let known = &mut self.known.lock().destinations;
        let new = || {
            Arc::new(Destination {
                budget: Budget::new(self.start),
                requests: Cap::default(),
                connections: Cap::default(),
                ends: Ends::default(),
            })
        };
        known
            .entry((service.clone(), port))
            .or_insert_with(new)
            .clone()
    }

    /// What nobody uses, and the configuration has not, is forgotten.
    pub(super) fn hear(&self, snapshot: &Snapshot) {
        let known = &mut *self.known.lock();
        if snapshot.generation <= known.generation {
            return;
        }
        known.generation = snapshot.generation;
        known
            .endpoints
            .retain(|id, state| Arc::strong_count(state) > 1 || id.is_in(snapshot));
        known.destinations.retain(|(service, _), destination| {
            Arc::strong_count(destination) > 1 || snapshot.services.get(service).is_some()
        });
        for ((service, port), destination) in &known.destinations {
            destination.hear(snapshot, (service, *port));
        }
    }

    /// A breaker has changed, which is to be told.
    pub(crate) fn note(&self, transition: Transition) {
        self.history.note(transition);
    }

    /// What changed of late, the newest first.
    pub(crate) fn transitions(&self) -> Vec<Transition> {
        self.history.all()
    }

    /// Endpoints whose breaker is open.
    pub(crate) fn ejected(&self) -> usize {
        let known = &self.known.lock().endpoints;
        let is_out = |state: &&Arc<State>| !state.breaker.is_closed();
        known.values().filter(is_out).count()
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.known.lock().endpoints.len()
    }
}
