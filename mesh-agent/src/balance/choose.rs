//! Which of those that may be picked: by what the policy says, and by chance.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use super::breaker::{Random, millis};
use super::endpoints::weight;
use super::health::State;
use super::outcome::Kind;
use crate::model::Endpoint;
use crate::model::traffic::{BalanceBy, LoadBalancer, Warmup};

/// What is quicker than this is as good, in seconds. How long a connect takes says
/// little of an endpoint, unless it is much.
const NEAR: [f32; 2] = [0.002, 0.1];
/// Up to this factor two are as good as each other.
const LIKE: f32 = 2.0;

/// One that is chosen, and the one that it was compared with.
pub(super) type Chosen = (u32, Option<u32>);

/// By what is chosen.
#[derive(Clone, Copy)]
pub(super) struct Choice<'c> {
    pub(super) by: &'c LoadBalancer,
    pub(super) kind: Kind,
    /// What a consistent hash is of, where there is one.
    pub(super) hash: Option<u64>,
    /// Whose breaker is open is passed by.
    pub(super) has_breakers: bool,
    /// In ms.
    pub(super) now: u64,
    pub(super) random: Random<'c>,
}

/// Of what is chosen.
#[derive(Clone, Copy)]
pub(super) struct Field<'f> {
    pub(super) endpoints: &'f [Endpoint],
    pub(super) states: &'f [std::sync::Arc<State>],
    /// Numbers of those that may be chosen.
    pub(super) usable: &'f [u32],
    pub(super) turn: &'f Cell<usize>,
}

impl Choice<'_> {
    pub(super) fn of(&self, field: Field<'_>) -> Option<Chosen> {
        let usable = field.usable;
        match (&self.by.by, usable) {
            (_, []) => None,
            (_, [only]) => Some((*only, None)),
            (BalanceBy::PeakEwma, _) => Some(self.better_of_two(field, Self::latency)),
            (BalanceBy::LeastRequest, _) => Some(self.better_of_two(field, |_, _| 1.0)),
            (BalanceBy::RoundRobin, _) => {
                let turn = field.turn.get();
                field.turn.set(turn.wrapping_add(1));
                Some((self.warm_from(field, turn % usable.len()), None))
            }
            (BalanceBy::Random, _) => Some((self.warm_from(field, self.below(usable.len())), None)),
            (BalanceBy::ConsistentHash(_), _) => match self.hash {
                Some(hash) => {
                    let weight = |at: &&u32| weight(hash, &field.endpoints[**at as usize]);
                    let most = usable.iter().max_by_key(weight)?;
                    Some((*most, None))
                }
                None => Some((usable[self.below(usable.len())], None)),
            },
        }
    }

    fn latency(&self, state: &State) -> f32 {
        state
            .latency
            .seconds(self.now)
            .max(NEAR[self.kind as usize])
    }

    fn is_unknown(&self, state: &State) -> bool {
        self.by.by == BalanceBy::PeakEwma && state.latency.is_stale(self.now)
    }

    /// Others are asked first: it refuses, or its breaker is open, and it is used all the same.
    fn is_passed_by(&self, state: &State) -> bool {
        let is_open = self.has_breakers && !state.breaker.is_closed();
        is_open || state.aside.is_passed_by(self.now)
    }

    fn better_of_two(&self, field: Field<'_>, cost: impl Fn(&Self, &State) -> f32) -> Chosen {
        let usable = field.usable;
        let first = self.below(usable.len());
        let second = self.below(usable.len() - 1);
        let (a, b) = (usable[first], usable[second + usize::from(second >= first)]);
        let of = |at: u32| {
            let state = &*field.states[at as usize];
            let pending = state.pending.load(Ordering::Relaxed);
            (cost(self, state) * (pending as f32 + 1.0), pending)
        };
        let ((cost_a, pending_a), (cost_b, pending_b)) = (of(a), of(b));
        let is_passed_by = |at: u32| self.is_passed_by(&field.states[at as usize]);
        match (is_passed_by(a), is_passed_by(b)) {
            // What fails at once is neither quick nor idle for that; and one that is warming up
            // works.
            (true, false) => return (b, Some(a)),
            (false, true) => return (a, Some(b)),
            (true, true) | (false, false) => {}
        }
        let is_like = cost_a <= cost_b * LIKE && cost_b <= cost_a * LIKE;
        // The order of the two is by chance already.
        let is_a = match is_like {
            true => pending_a <= pending_b,
            // One that is not known, or was avoided for long, is looked at, by one
            // request at a time.
            false if pending_a == 0 && self.is_unknown(&field.states[a as usize]) => true,
            false if pending_b == 0 && self.is_unknown(&field.states[b as usize]) => false,
            false => cost_a < cost_b,
        };
        let (better, other) = if is_a { (a, b) } else { (b, a) };
        let state = |at: u32| &*field.states[at as usize];
        match self.gives_way(state(better), state(other)) {
            false => (better, Some(other)),
            true => (other, Some(better)),
        }
    }

    /// The one at that place, or the next one where it is new, and this is not for it.
    fn warm_from(&self, field: Field<'_>, at: usize) -> u32 {
        let (one, next) = (
            field.usable[at],
            field.usable[(at + 1) % field.usable.len()],
        );
        let state = |at: u32| &*field.states[at as usize];
        match self.gives_way(state(one), state(next)) {
            false => one,
            true => next,
        }
    }

    /// One that is new gets a part of what it would get, and another one the rest that has
    /// warmed up for longer: where all are new nobody gives way.
    fn gives_way(&self, one: &State, to: &State) -> bool {
        let Some(warmup) = self.by.warmup else {
            return false;
        };
        let [own, others] = [one, to].map(|state| self.warmth(state, warmup));
        own < others && (self.random)(others) >= own
    }

    /// Its part of what it would get, in thousandths.
    fn warmth(&self, state: &State, warmup: Warmup) -> u64 {
        let back = match self.has_breakers {
            true => state.breaker.since(),
            false => 0,
        };
        let born = state.born.max(back);
        let age = self.now.saturating_sub(born);
        let grown = age * 1000 / millis(warmup.duration).max(1);
        grown.max(u64::from(warmup.minimum_percent) * 10).min(1000)
    }

    fn below(&self, count: usize) -> usize {
        // Smaller than a length.
        (self.random)(count as u64) as usize
    }
}

#[cfg(test)]
mod tests;
