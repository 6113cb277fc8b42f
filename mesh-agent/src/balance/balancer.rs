//! A worker's view of endpoints: who may be picked, kept until that changes.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::affinity::Affinity;
use super::breaker::Random;
use super::choose::{Choice, Chosen, Field};
use super::endpoints::{Attempt, Candidates, Fit};
use super::health::Health;
use super::in_flight::{Here, InFlight};
use super::outcome::Kind;
use super::view::View;
use crate::model::traffic::{BalanceBy, HashOn};
use crate::model::{Endpoint, ServiceKey, Snapshot};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The endpoints of one port, as one configuration has them, for clients of one node.
#[derive(Debug)]
struct List {
    service: ServiceKey,
    port: u16,
    /// Kept, so that its place in memory stays its own.
    endpoints: Arc<[Endpoint]>,
    here: Rc<Here>,
    /// By reach and family.
    views: [View; 4],
    turn: Cell<usize>,
}

/// One worker's. Bounded by the endpoints of the configuration that it picked from.
#[derive(Debug)]
pub(crate) struct Balancer {
    /// Where turns begin, so that workers do not all begin with the same one.
    offset: usize,
    /// Of the newest configuration that it has heard of.
    generation: u64,
    /// By the place of the endpoints in memory.
    lists: Map<usize, List>,
    /// Of all workers.
    affinity: Arc<Affinity>,
    health: Arc<Health>,
}

/// When, for what, and with what luck one is picked.
#[derive(Clone, Copy)]
pub(crate) struct Draw<'d> {
    pub(crate) kind: Kind,
    pub(crate) now: Instant,
    pub(crate) random: Random<'d>,
}

impl Balancer {
    /// `index`: of the worker.
    #[must_use]
    pub(crate) fn new(index: usize, affinity: Arc<Affinity>, health: Arc<Health>) -> Self {
        Self {
            affinity,
            health,
            offset: index,
            generation: 0,
            lists: Map::default(),
        }
    }

    /// One of the candidates that fit best and are not left out: of those that this
    /// attempt has not tried, or else of all.
    pub(crate) fn pick<'s>(
        &mut self,
        candidates: &Candidates<'s>,
        attempt: &mut Attempt,
        draw: Draw<'_>,
    ) -> Option<(&'s Endpoint, InFlight)> {
        let at = self.health.at(draw.now);
        let affinity = self.affinity.clone();
        let list = self.list_of(candidates, at);
        let is_first = attempt.tried.is_empty();
        let goes_on = is_first
            .then(|| list.of_session(candidates, attempt))
            .flatten();
        let probe = || list.probe(candidates, at);
        let may_probe = attempt.may_probe();
        let is_free = is_first && may_probe && goes_on.is_none();
        let probed = is_free.then(probe).flatten();
        let others = (!is_first).then(|| list.others(candidates, attempt));
        let view = &list.views[candidates.kind()];
        let usable = others.as_deref().unwrap_or(&view.usable);
        let kept = goes_on.or(probed);
        let chosen = match (kept, candidates.service.affinity) {
            (Some(kept), _) => Some((kept, None)),
            (None, Some(lasts)) => {
                let kept = affinity.pick(candidates, usable, (draw.now, lasts));
                kept.map(|at| (at, None))
            }
            (None, None) => list.choose(candidates, (attempt, draw, at), usable),
        };
        let (number, other) = chosen?;
        let endpoint = candidates.port.endpoints.get(number as usize)?;
        attempt.picked(endpoint);
        let here = &list.here;
        let breaker = &here.states[number as usize].breaker;
        // Also of one that is used though its breaker is open.
        let of = &here.traffic.outlier_detection;
        let is_tried = || may_probe && !breaker.is_closed() && breaker.probe(of, at);
        let is_probe = probed.is_some() || is_tried();
        if is_probe {
            here.health.changed();
        }
        let begun = InFlight::begin(here, (number, other), (draw.kind, is_probe), draw.now);
        Some((endpoint, begun))
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
            // What fits may be another for all that.
            list.views.iter_mut().for_each(|view| view.seen = 0);
            service.zip(port).is_some_and(|(service, port)| {
                Arc::ptr_eq(&port.endpoints, &list.endpoints)
                    && **service.traffic(port) == *list.here.traffic
            })
        });
        self.health.hear(snapshot);
    }

    /// With its view of these candidates up to date.
    fn list_of(&mut self, candidates: &Candidates<'_>, at: u64) -> &mut List {
        let port = candidates.port;
        let endpoints = &port.endpoints;
        let (health, offset) = (&self.health, self.offset);
        let list = self.lists.entry(Arc::as_ptr(endpoints).addr());
        let list = list.or_insert_with(|| List {
            service: candidates.service.key.clone(),
            port: port.port,
            endpoints: endpoints.clone(),
            here: Rc::new(Here {
                health: health.clone(),
                destination: health.destination(&candidates.service.key, port.port),
                traffic: candidates.traffic().clone(),
                states: health.endpoints(endpoints, at),
            }),
            views: Default::default(),
            turn: Cell::new(offset),
        });
        let changes = health.changes();
        let view = &mut list.views[candidates.kind()];
        if view.seen != changes {
            let most = list.here.traffic.outlier_detection.max_ejection_percent;
            *view = View::of(candidates, &list.here.states, (changes, most));
        }
        list
    }
}

impl List {
    /// Where the session goes on, if that may be picked.
    fn of_session(&self, candidates: &Candidates<'_>, attempt: &Attempt) -> Option<u32> {
        if !attempt.has_session() {
            return None;
        }
        let mut usable = self.views[candidates.kind()].usable.iter();
        let endpoints = &candidates.port.endpoints;
        let is_wanted = |at: &&u32| {
            let endpoint = endpoints.get(**at as usize);
            endpoint.is_some_and(|endpoint| attempt.is_wanted(endpoint))
        };
        usable.find(is_wanted).copied()
    }

    /// One that is left out and whose time has come.
    fn probe(&self, candidates: &Candidates<'_>, at: u64) -> Option<u32> {
        let view = &self.views[candidates.kind()];
        if at < view.probe_at {
            return None;
        }
        let of = &self.here.traffic.outlier_detection;
        let is_due = |number: &&u32| self.here.states[**number as usize].breaker.probe(of, at);
        view.ejected.iter().find(is_due).copied()
    }

    fn choose(
        &self,
        candidates: &Candidates<'_>,
        (attempt, draw, at): (&Attempt, Draw<'_>, u64),
        usable: &[u32],
    ) -> Option<Chosen> {
        let by = &self.here.traffic.load_balancer;
        let is_of_source = by.by == BalanceBy::ConsistentHash(HashOn::SourceIp);
        let choice = Choice {
            by,
            kind: draw.kind,
            hash: match is_of_source {
                true => Some(candidates.client_hash()),
                false => attempt.hash(),
            },
            now: at,
            random: draw.random,
        };
        choice.of(Field {
            endpoints: &candidates.port.endpoints,
            states: &self.here.states,
            usable,
            turn: &self.turn,
        })
    }

    /// What was tried comes last, and what is left out before that: then the next best
    /// is better than the same again.
    fn others(&self, candidates: &Candidates<'_>, attempt: &Attempt) -> Vec<u32> {
        let view = &self.views[candidates.kind()];
        let rank = |at: u32, endpoint: &Endpoint| -> Option<(bool, bool, Fit)> {
            let fit = candidates.fit(endpoint)?;
            Some((attempt.has_tried(endpoint), view.ejected.contains(&at), fit))
        };
        let endpoints = candidates.port.endpoints.iter().zip(0..);
        let ranked = endpoints.filter_map(|(endpoint, at)| Some((rank(at, endpoint)?, at)));
        let ranked: Vec<_> = ranked.collect();
        let best = ranked.iter().map(|(rank, _)| *rank).min();
        let usable = ranked.iter().filter(|(rank, _)| Some(*rank) == best);
        usable.map(|(_, at)| *at).collect()
    }
}

#[cfg(test)]
mod tests;
