//! A worker's view of endpoints: who may be picked, kept until that changes.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::affinity::Affinity;
use super::attempt::Attempt;
use super::breaker::Random;
use super::choose::{Choice, Chosen, Field};
use super::endpoints::{Candidates, Distance};
use super::health::Health;
use super::in_flight::{Going, Here, InFlight};
use super::locality::{nearest, settled};
use super::outcome::Kind;
use super::patience;
use super::place;
use super::view::View;
use crate::model::traffic::{BalanceBy, HashOn};
use crate::model::{Endpoint, RefuseReason, ServiceKey, Snapshot, Tier};

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

/// Why none is picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unpicked {
    /// There is none.
    Nobody,
    /// There is no place for more; the attempt may wait for one.
    Over(RefuseReason),
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
    ) -> Result<(&'s Endpoint, InFlight), Unpicked> {
        let at = self.health.at(draw.now);
        let affinity = self.affinity.clone();
        let list = self.list_of(candidates, at);
        if list.views[candidates.kind()].usable.is_empty() {
            return Err(Unpicked::Nobody);
        }
        let source = || candidates.client_hash();
        let has_place = place::enter(&list.here, attempt, (draw.kind, draw.now), source);
        let has_place = has_place.map_err(Unpicked::Over)?;
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
        let kept = goes_on.or(probed);
        let chosen = match (kept, candidates.service.affinity) {
            (Some(kept), _) => Some((kept, probed.and_then(|probed| list.beside(view, probed)))),
            (None, Some(lasts)) => {
                let nearest = || settled(&view.parts, &view.usable, None);
                let usable = others.as_deref().unwrap_or_else(nearest);
                let kept = affinity.pick(candidates, usable, (draw.now, lasts));
                kept.map(|at| (at, None))
            }
            (None, None) => list.choose(candidates, (attempt, draw, at), others.as_deref()),
        };
        let here = &list.here;
        let found = chosen.and_then(|(number, other)| {
            let endpoint = candidates.port.endpoints.get(number as usize)?;
            Some((number, other, endpoint))
        });
        let Some((number, other, endpoint)) = found else {
            if has_place {
                here.destination.count(draw.kind).leave();
            }
            return Err(Unpicked::Nobody);
        };
        let state = &here.states[number as usize];
        attempt.picked(endpoint, state.session);
        let breaker = &state.breaker;
        // Also of one that is used though its breaker is open.
        let of = &here.traffic.outlier_detection;
        let is_tried = || may_probe && !breaker.is_closed() && breaker.probe(of, at);
        let is_probe = probed.is_some() || is_tried();
        if is_probe {
            here.health.changed();
        }
        let going = Going {
            kind: draw.kind,
            is_probe,
            is_by_chance: is_probe || list.is_by_chance(candidates),
            has_place,
            is_safe: attempt.is_safe(),
            patience: list.patience(candidates, (number, is_probe), at),
        };
        let begun = InFlight::begin(here, (number, other), going, draw.now);
        attempt.counts_at(here);
        Ok((endpoint, begun))
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
            let of = &list.here.traffic.outlier_detection;
            *view = View::of(candidates, &list.here.states, (changes, of));
        }
        list
    }
}

impl List {
    /// Where the session goes on, if that may be picked.
    fn of_session(&self, candidates: &Candidates<'_>, attempt: &Attempt) -> Option<u32> {
        let wanted = attempt.wanted()?;
        let mut usable = self.views[candidates.kind()].usable.iter();
        let is_wanted = |at: &&u32| self.here.states[**at as usize].session == wanted;
        usable.find(is_wanted).copied()
    }

    /// One that is left out, or passed by, and whose time has come.
    fn probe(&self, candidates: &Candidates<'_>, at: u64) -> Option<u32> {
        let view = &self.views[candidates.kind()];
        if at < view.probe_at {
            return None;
        }
        let of = &self.here.traffic.outlier_detection;
        let is_due = |number: &&u32| self.here.states[**number as usize].breaker.probe(of, at);
        view.tried.iter().find(is_due).copied()
    }

    /// What shows by comparison that a probe has failed whose client gives up.
    fn beside(&self, view: &View, probed: u32) -> Option<u32> {
        let works = |at: &u32| *at != probed && self.here.states[*at as usize].breaker.is_closed();
        view.usable.iter().copied().find(works)
    }

    /// Whoever comes may go to any of several: nothing of a client decides where.
    fn is_by_chance(&self, candidates: &Candidates<'_>) -> bool {
        let is_drawn = match self.here.traffic.load_balancer.by {
            BalanceBy::PeakEwma | BalanceBy::LeastRequest | BalanceBy::Random => true,
            // Clients that come in turn may meet the same one each time.
            BalanceBy::RoundRobin | BalanceBy::ConsistentHash(_) => false,
        };
        let has_several = self.views[candidates.kind()].usable.len() > 1;
        is_drawn && has_several && candidates.service.affinity.is_none()
    }

    /// How long is waited for it before another is asked, in ms; 0: for as long as it takes.
    fn patience(
        &self,
        candidates: &Candidates<'_>,
        (number, is_probe): (u32, bool),
        at: u64,
    ) -> u32 {
        let usable = self.views[candidates.kind()].usable.iter();
        let others = usable.filter(|other| **other != number);
        let states = others.map(|other| &*self.here.states[*other as usize]);
        let patience = patience::of(&self.here.states[number as usize], is_probe, (states, at));
        patience.map_or(0, |time| {
            u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
        })
    }

    fn choose(
        &self,
        candidates: &Candidates<'_>,
        (attempt, draw, at): (&Attempt, Draw<'_>, u64),
        others: Option<&[u32]>,
    ) -> Option<Chosen> {
        let traffic = &self.here.traffic;
        let by = &traffic.load_balancer;
        let is_of_source = by.by == BalanceBy::ConsistentHash(HashOn::SourceIp);
        let choice = Choice {
            by,
            kind: draw.kind,
            hash: match is_of_source {
                true => Some(candidates.client_hash()),
                false => attempt.hash(),
            },
            has_breakers: traffic.outlier_detection.is_on,
            now: at,
            random: draw.random,
        };
        let view = &self.views[candidates.kind()];
        let field = |usable| Field {
            endpoints: &candidates.port.endpoints,
            states: &self.here.states,
            usable,
            turn: &self.turn,
        };
        let is_alike = view.parts.len() < 2;
        let is_hash = matches!(by.by, BalanceBy::ConsistentHash(_));
        match (others, choice.hash.filter(|_| is_hash)) {
            // They are as near as each other.
            (Some(others), _) => choice.of(field(others)),
            (None, _) if is_alike => choice.of(field(&view.usable)),
            // A key does not move because its endpoint has much to do.
            (None, Some(hash)) => choice.of(field(settled(&view.parts, &view.usable, Some(hash)))),
            (None, None) => nearest(&choice, field(&view.usable), (&view.parts, traffic)),
        }
    }

    /// What was tried comes last, and what is left out before that: then the next best
    /// is better than the same again.
    fn others(&self, candidates: &Candidates<'_>, attempt: &Attempt) -> Vec<u32> {
        let view = &self.views[candidates.kind()];
        let rank = |at: u32, endpoint: &Endpoint| -> Option<(bool, bool, Tier, Distance)> {
            let (tier, distance) = (candidates.fit(endpoint)?, candidates.distance(endpoint));
            let is_out = view.ejected.contains(&at);
            Some((attempt.has_tried(endpoint), is_out, tier, distance))
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
