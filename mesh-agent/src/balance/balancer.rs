//! A worker's view of endpoints: in turn, the one picked longest ago first.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::affinity::Affinity;
use super::endpoints::{Attempt, Candidates, Id, State, States};
use crate::model::{Endpoint, ServiceKey, Snapshot};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The endpoints of one port, as one configuration has them.
#[derive(Debug)]
struct List {
    service: ServiceKey,
    port: u16,
    /// Kept, so that its place in memory stays its own.
    endpoints: Arc<[Endpoint]>,
    states: States,
}

/// One worker's. Bounded by the endpoints of the configuration that it picked from.
#[derive(Debug)]
pub(crate) struct Balancer {
    /// Where ties are broken, so that workers do not all begin with the same one.
    offset: usize,
    picks: u64,
    /// Of the newest configuration that it has heard of.
    generation: u64,
    states: Map<Id, Rc<State>>,
    /// By the place of the endpoints in memory.
    lists: Map<usize, List>,
    /// Of all workers.
    affinity: Arc<Affinity>,
}

impl Balancer {
    /// `index`: of the worker.
    #[must_use]
    pub(crate) fn new(index: usize, affinity: Arc<Affinity>) -> Self {
        Self {
            affinity,
            offset: index,
            picks: 0,
            generation: 0,
            states: Map::default(),
            lists: Map::default(),
        }
    }

    /// One of the candidates that fit best: of those that this attempt has not
    /// tried, or else of all, the one that was picked longest ago, or that the
    /// client keeps going to.
    pub(crate) fn pick<'s>(
        &mut self,
        candidates: &Candidates<'s>,
        attempt: &mut Attempt,
        now: Instant,
    ) -> Option<&'s Endpoint> {
        let endpoint = match candidates.service.affinity {
            Some(lasts) => self.affinity.pick(candidates, attempt, (now, lasts)),
            None => self.next(candidates, attempt),
        }?;
        attempt.tried.push(endpoint.addr);
        Some(endpoint)
    }

    /// In turn.
    fn next<'s>(&mut self, candidates: &Candidates<'s>, attempt: &Attempt) -> Option<&'s Endpoint> {
        let endpoints: &'s [Endpoint] = &candidates.port.endpoints;
        let offset = self.offset;
        self.picks += 1;
        let number = self.picks;
        let states = self.states_of(candidates);
        let count = endpoints.len().max(1);
        // What was tried comes last: then the next best is better than the same again.
        let order = |at: usize, (endpoint, state): (&'s Endpoint, &Rc<State>)| {
            let fit = candidates.fit(endpoint)?;
            let place = (at + count - offset % count) % count;
            Some((attempt.has_tried(endpoint), fit, state.picked.get(), place))
        };
        let fitting = endpoints.iter().zip(states).enumerate();
        let fitting = fitting.filter_map(|(at, both)| Some((order(at, both)?, both)));
        let (_, (endpoint, state)) = fitting.min_by_key(|(order, _)| *order)?;
        state.picked.set(number);
        Some(endpoint)
    }

    /// Another configuration is in force: what is known of endpoints that it has
    /// stays, the rest is forgotten. To be told before each pick: what it has seen
    /// already costs nothing.
    pub(crate) fn hear(&mut self, snapshot: &Snapshot) {
        if snapshot.generation <= self.generation {
            return;
        }
        self.generation = snapshot.generation;
        self.lists.retain(|_, list| {
            let service = snapshot.services.get(&list.service);
            let port = service.and_then(|service| service.port(list.port));
            port.is_some_and(|port| Arc::ptr_eq(&port.endpoints, &list.endpoints))
        });
        // One whose list stays is in use.
        self.states
            .retain(|id, state| Rc::strong_count(state) > 1 || id.is_in(snapshot));
    }

    fn states_of(&mut self, candidates: &Candidates<'_>) -> &States {
        let port = candidates.port;
        let endpoints = &port.endpoints;
        let states = &mut self.states;
        let list = self.lists.entry(Arc::as_ptr(endpoints).addr());
        let list = list.or_insert_with(|| List {
            service: candidates.service.key.clone(),
            port: port.port,
            endpoints: endpoints.clone(),
            states: endpoints
                .iter()
                .map(|endpoint| states.entry(Id::of(endpoint)).or_default().clone())
                .collect(),
        });
        &list.states
    }
}

#[cfg(test)]
mod tests;
