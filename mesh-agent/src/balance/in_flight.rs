//! A connection or a request that is under way to the endpoint that was picked for it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::breaker::{Change, Random};
use super::health::{Destination, Health, State};
use super::outcome::{Failure, Kind, LONG, MUCH, Outcome};
use crate::model::RefuseReason;
use crate::model::traffic::Traffic;

/// Of a port, for the picks of one worker.
#[derive(Debug)]
pub(super) struct Here {
    pub(super) health: Arc<Health>,
    pub(super) destination: Arc<Destination>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) states: Vec<Arc<State>>,
}

/// No endpoint's number: a list is never so long.
const NONE: u32 = u32::MAX;

/// Counts as load of its endpoint until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    here: Rc<Here>,
    /// Of the endpoint, and of the one that it was picked instead of.
    at: u32,
    /// [`NONE`]: none.
    other: u32,
    begun: Instant,
    kind: Kind,
    is_probe: bool,
    /// There are more than there may be.
    is_over: bool,
    /// Its outcome is known.
    told: bool,
    /// How long its endpoint took, in seconds; less than 0 where that is not known.
    took: f32,
}

impl InFlight {
    pub(super) fn begin(
        here: &Rc<Here>,
        (at, other): (u32, Option<u32>),
        (kind, is_probe): (Kind, bool),
        now: Instant,
    ) -> Self {
        let limits = &here.traffic.limits;
        let most = match kind {
            Kind::Request => limits.max_requests,
            Kind::Connection => limits.max_connections.unwrap_or(u32::MAX),
        };
        let begun = Self {
            is_over: !here.destination.count(kind).enter(most),
            here: here.clone(),
            at,
            other: other.unwrap_or(NONE),
            begun: now,
            kind,
            is_probe,
            told: false,
            took: -1.0,
        };
        begun.state().pending.fetch_add(1, Ordering::Relaxed);
        begun
    }

    fn state(&self) -> &State {
        &self.here.states[self.at as usize]
    }

    /// Which limit of its destination it is over.
    pub(crate) fn over(&self) -> Option<RefuseReason> {
        self.is_over.then_some(match self.kind {
            Kind::Request => RefuseReason::MaxRequests,
            Kind::Connection => RefuseReason::MaxConnections,
        })
    }

    /// It shows whether its endpoint works again.
    #[must_use]
    pub(crate) fn is_probe(&self) -> bool {
        self.is_probe && !self.told
    }

    /// What became of it is known.
    pub(crate) fn is_told(&self) -> bool {
        self.told
    }

    pub(crate) fn destination(&self) -> &Destination {
        &self.here.destination
    }

    pub(crate) fn traffic(&self) -> &Traffic {
        &self.here.traffic
    }

    /// The connection that it goes over is there: how long that took says nothing of how
    /// long its endpoint takes for a request.
    pub(crate) fn goes(&mut self, now: Instant) {
        if self.kind == Kind::Request {
            self.begun = now;
        }
    }

    /// It has taken the connection, or begun to answer.
    pub(crate) fn took(&mut self, now: Instant) {
        let took = now.saturating_duration_since(self.begun).as_secs_f32();
        self.took = took;
        self.state().latency.note(took, self.here.health.at(now));
    }

    /// What became of it; only the first word counts. It goes on counting as load.
    pub(crate) fn end(
        &mut self,
        outcome: Outcome,
        now: Instant,
        random: Random<'_>,
    ) -> Option<Change> {
        if std::mem::replace(&mut self.told, true) {
            return None;
        }
        let at = self.here.health.at(now);
        let outcome = self.judge(outcome, now);
        let (state, of) = (self.state(), &self.here.traffic.outlier_detection);
        let by = (of, self.kind, self.is_probe);
        let change = match outcome {
            Outcome::Success => {
                state.voice.heard(at);
                let change = state.breaker.succeeded(by, at);
                // What it took while it failed says nothing of now.
                if change.is_some() && self.took >= 0.0 {
                    state.latency.restart(self.took, at);
                }
                change
            }
            Outcome::Failure(failure) => {
                let change = state.breaker.failed(by, failure, at, random);
                self.note_wait(failure, now);
                change
            }
            Outcome::Abandoned | Outcome::Neutral => {
                self.shown_nothing(at);
                None
            }
        };
        if change.is_some() {
            self.here.health.changed();
        }
        change
    }

    /// Who gave up on what others do much sooner was failed, where the endpoint answered
    /// nobody meanwhile: a stream may be silent for as long as it wants.
    fn judge(&self, outcome: Outcome, now: Instant) -> Outcome {
        let waited = now.saturating_duration_since(self.begun);
        if outcome != Outcome::Abandoned || waited < LONG {
            return outcome;
        }
        let health = &self.here.health;
        let other = self.here.states.get(self.other as usize);
        let is_much = other.is_some_and(|other| {
            let others = other.latency.seconds(health.at(now));
            other.voice.answers() && waited.as_secs_f32() > others * MUCH
        });
        let (since, now_ms) = (health.at(self.begun), health.at(now));
        match is_much && self.state().voice.is_missed(since, now_ms) {
            true => Outcome::Failure(Failure::Silent),
            false => outcome,
        }
    }

    /// Whoever waited for so long and then failed has waited, as far as that is more than
    /// it would have: an endpoint that swallows connections is avoided after the first.
    /// What fails at once is not quick.
    fn note_wait(&mut self, failure: Failure, now: Instant) {
        let waited = now.saturating_duration_since(self.begun).as_secs_f32();
        let expected = self.state().latency.seconds(self.here.health.at(now));
        // It may have been quick to take a connection, and then said nothing.
        let is_known = self.took >= 0.0 && failure != Failure::Silent;
        if !is_known && waited > expected {
            self.took(now);
        }
    }

    fn shown_nothing(&self, at: u64) {
        if self.is_probe && self.state().breaker.shown_nothing(at) {
            self.here.health.changed();
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.state().pending.fetch_sub(1, Ordering::Relaxed);
        self.here.destination.count(self.kind).leave();
        if !self.told {
            // Whenever that was: the next one may go at once.
            self.shown_nothing(self.here.health.at(self.begun));
        }
    }
}
