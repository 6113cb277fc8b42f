//! A connection or a request that is under way to the endpoint that was picked for it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::breaker::{Change, Random, ejects};
use super::ends::Reset;
use super::health::{Destination, Health, State};
use super::history::Transition;
use super::outcome::{Failure, Kind, LONG, MUCH, Outcome, SHORT};
use crate::model::traffic::{Timeouts, Traffic};

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
/// Behind a probe that met its caller's own limit, in ms: one caller must not pay for each.
const PAUSE: u64 = 1_000;
/// No time, in seconds.
const UNKNOWN: f32 = -1.0;

/// How one goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Going {
    pub(super) kind: Kind,
    pub(super) is_probe: bool,
    /// Whoever comes may go there: chance decides, and nothing that the client has or does.
    pub(super) is_by_chance: bool,
    /// It counts as in flight at its destination; else the try before it does, of the same
    /// request.
    pub(super) has_place: bool,
    /// It may be asked twice.
    pub(super) is_safe: bool,
    /// How long is waited for it before another endpoint is asked, in ms; 0: nobody doubts
    /// that it answers.
    pub(super) patience: u32,
}

/// Counts as load of its endpoint until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    here: Rc<Here>,
    /// Of the endpoint, and of the one that it was picked instead of.
    at: u32,
    /// [`NONE`]: none.
    other: u32,
    begun: Instant,
    going: Going,
    /// Its endpoint has not taken it, or not begun to answer.
    waits: bool,
    /// Its outcome is known.
    told: bool,
    /// How long its endpoint took, in seconds; less than 0 where that is not known.
    took: f32,
    /// How long its client stayed, in seconds, where it was seen to leave before it was over;
    /// less than 0 where it was not.
    stayed: f32,
}

impl InFlight {
    pub(super) fn begin(
        here: &Rc<Here>,
        (at, other): (u32, Option<u32>),
        going: Going,
        now: Instant,
    ) -> Self {
        let begun = Self {
            here: here.clone(),
            at,
            other: other.unwrap_or(NONE),
            begun: now,
            going,
            waits: true,
            told: false,
            took: UNKNOWN,
            stayed: UNKNOWN,
        };
        begun.state().aside.asked(here.health.at(now));
        begun.state().pending.fetch_add(1, Ordering::Relaxed);
        begun.state().waiting.fetch_add(1, Ordering::Relaxed);
        begun
    }

    fn state(&self) -> &State {
        &self.here.states[self.at as usize]
    }

    /// It shows whether its endpoint works again.
    #[must_use]
    pub(crate) fn is_probe(&self) -> bool {
        self.going.is_probe && !self.told
    }

    /// So long is waited for its answer, or for its connection, before another endpoint is
    /// asked, where that may be: it is a probe, or goes where the last got no answer.
    #[must_use]
    pub(crate) fn patience(&self) -> Option<Duration> {
        let patience = u64::from(self.going.patience);
        (patience > 0).then(|| Duration::from_millis(patience))
    }

    /// For how long connections to its destination are waited for, whoever asks for them.
    #[must_use]
    pub(crate) fn connect_timeout(&self) -> Option<Duration> {
        self.here.traffic.timeouts.connect
    }

    /// As its destination has them, and that of a probe is not waited for beyond its patience.
    /// One that is not ejected may be far away, and a session would move for good.
    #[must_use]
    pub(crate) fn timeouts(&self) -> Timeouts {
        let own = self.here.traffic.timeouts;
        let of_probe = self.patience().filter(|_| self.going.is_probe);
        let connect = [own.connect, of_probe];
        Timeouts {
            connect: connect.into_iter().flatten().min(),
            ..own
        }
    }

    /// What became of it is known.
    pub(crate) fn is_told(&self) -> bool {
        self.told
    }

    pub(crate) fn destination(&self) -> &Destination {
        &self.here.destination
    }

    /// The try before it is over: it has the place of that.
    pub(crate) fn takes_over(&mut self, before: Option<&mut Self>) {
        if self.going.has_place {
            return;
        }
        self.going.has_place = true;
        let is_same = |before: &&mut Self| {
            Arc::ptr_eq(&before.here.destination, &self.here.destination)
                && before.going.kind == self.going.kind
        };
        let taken = before
            .filter(is_same)
            .is_some_and(|before| std::mem::take(&mut before.going.has_place));
        if !taken {
            self.here.destination.count(self.going.kind).enter_anyway();
        }
    }

    pub(crate) fn traffic(&self) -> &Traffic {
        &self.here.traffic
    }

    /// The connection that it goes over is there: how long that took says nothing of how
    /// long its endpoint takes for a request.
    pub(crate) fn goes(&mut self, now: Instant) {
        if self.going.kind == Kind::Request {
            self.begun = now;
        }
    }

    /// It has taken the connection, or begun to answer.
    pub(crate) fn took(&mut self, now: Instant) {
        self.waits_no_more();
        let took = self.waited(now).as_secs_f32();
        // One that takes connections, and says nothing on them, is not quick for that; what an
        // answer took counts by what it says.
        let is_all = self.going.kind == Kind::Connection && !self.state().voice.is_doubtful();
        match is_all {
            true => self.note_latency(took, now),
            false => self.took = took,
        }
    }

    fn note_latency(&mut self, took: f32, now: Instant) {
        self.took = took;
        let (state, now) = (self.state(), self.here.health.at(now));
        state.latency.note(took, now);
        state.mean.note(took, now);
    }

    /// From now on it is held, which is little for its endpoint.
    fn waits_no_more(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.state().waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Its client left then: what it waited for is no longer than that.
    pub(crate) fn left(&mut self, then: Option<Instant>) {
        let stayed = then.map(|then| then.saturating_duration_since(self.begun));
        self.stayed = stayed.map_or(UNKNOWN, |stayed| stayed.as_secs_f32());
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
        self.waits_no_more();
        let at = self.here.health.at(now);
        match self.judge(outcome, now) {
            Outcome::Success => {
                self.state().aside.worked();
                self.note_answer(now);
                self.note_end_answered();
                self.succeeded(self.took, at)
            }
            Outcome::Shed => {
                self.state().aside.refused(at);
                self.note_no_less(now);
                self.succeeded(UNKNOWN, at)
            }
            Outcome::Failure(failure) => {
                let is_loss = self.is_loss(failure, now);
                self.failed((failure, is_loss), now, random)
            }
            Outcome::Overflow => {
                self.note_no_less(now);
                self.put_off(at, random);
                None
            }
            Outcome::OverRate => {
                // The next one, of another caller, may show it soon.
                self.note_no_less(now);
                self.shown_nothing(at.saturating_add(PAUSE));
                None
            }
            outcome @ (Outcome::Abandoned | Outcome::ResetBehindEnd) => {
                match outcome {
                    // The next one may be such a client as well.
                    Outcome::ResetBehindEnd => self.put_off(at, random),
                    _ => self.shown_nothing(at),
                }
                self.note_answer(now);
                // It would have taken longer still, and nobody else has heard it meanwhile.
                if self.took < 0.0 && self.is_silent() {
                    self.note_at_least(self.waited(now), now);
                }
                None
            }
            Outcome::Neutral => {
                self.shown_nothing(at);
                None
            }
        }
    }

    /// `took`: an answer that does what was asked.
    fn succeeded(&self, took: f32, at: u64) -> Option<Change> {
        let (state, going) = (self.state(), self.going);
        let of = &self.here.traffic.outlier_detection;
        let was_doubtful = state.voice.is_doubtful() && going.kind == Kind::Connection;
        state.voice.heard(at);
        let change = state
            .breaker
            .succeeded((of, going.kind, going.is_probe), at);
        // What it took while it failed says nothing of now.
        if (change.is_some() || was_doubtful) && took >= 0.0 {
            state.latency.restart(took, at);
            state.mean.restart(took, at);
        }
        self.changed(change)
    }

    fn failed(
        &mut self,
        (failure, is_loss): (Failure, bool),
        now: Instant,
        random: Random<'_>,
    ) -> Option<Change> {
        let (state, going) = (self.state(), self.going);
        let of = &self.here.traffic.outlier_detection;
        let at = self.here.health.at(now);
        let by = (of, going.kind, going.is_probe);
        if is_loss && self.waited(now) >= LONG {
            state.voice.missed(at);
        }
        let change = state.breaker.failed(by, (failure, is_loss), at, random);
        if !ejects(of, going.kind) {
            state.aside.refused(at);
        }
        self.note_wait(failure, now);
        self.changed(change)
    }

    fn changed(&self, change: Option<Change>) -> Option<Change> {
        if change.is_some() {
            self.here.health.changed();
        }
        change
    }

    /// What changed by it, for people.
    pub(crate) fn note(&self, transition: Transition) {
        self.here.health.note(transition);
    }

    /// Its client has nothing for it: it cannot be helped elsewhere, or has left by now.
    fn is_loss(&self, failure: Failure, now: Instant) -> bool {
        let is_over = match failure {
            Failure::Connect | Failure::Tls => false,
            Failure::Reset | Failure::Status => !self.going.is_safe,
            Failure::Timeout | Failure::Silent => true,
        };
        is_over || self.waited(now) >= LONG
    }

    fn is_asked_to_show(&self) -> bool {
        self.going.is_probe && self.going.kind == Kind::Request
    }

    /// Its endpoint has answered nobody since this one began.
    fn is_silent(&self) -> bool {
        let since = self.here.health.at(self.begun);
        self.state().voice.is_silent(since)
    }

    fn waited(&self, now: Instant) -> Duration {
        let stayed = Duration::try_from_secs_f32(self.stayed);
        let until = stayed.map_or(now, |stayed| self.begun + stayed);
        until.saturating_duration_since(self.begun)
    }

    /// It is cancelled, for another try was quicker. That is no success and no failure of its
    /// endpoint; that it would have taken longer still is known.
    pub(crate) fn gave_way(&mut self, now: Instant) {
        self.waits_no_more();
        if !std::mem::replace(&mut self.told, true) {
            self.shown_nothing(self.here.health.at(now));
            self.note_at_least(self.waited(now), now);
        }
    }

    /// The same, and the other one was asked because this one had no answer. Where that
    /// answered the same request in less time than this one was given, a probe has failed,
    /// and one that was doubtful is so the more. What its connection took does not count.
    pub(crate) fn was_outrun(&mut self, now: Instant, random: Random<'_>) -> Option<Change> {
        let waited = self.waited(now);
        let given = self.patience();
        let is_much = given.is_some_and(|given| waited >= given / 2 && waited <= given * 2);
        if !is_much || self.told {
            self.gave_way(now);
            return None;
        }
        self.told = true;
        self.waits_no_more();
        self.failed((Failure::Silent, false), now, random)
    }

    /// What it says by comparison with others.
    fn judge(&self, outcome: Outcome, now: Instant) -> Outcome {
        match outcome {
            Outcome::Abandoned | Outcome::ResetBehindEnd if self.waited_in_vain(now) => {
                Outcome::Failure(Failure::Silent)
            }
            Outcome::ResetBehindEnd if self.is_alone_in_it(now) => Outcome::Failure(Failure::Reset),
            outcome => outcome,
        }
    }

    /// Who gave up on what others do much sooner was failed, where the endpoint answered
    /// nobody meanwhile: a stream may be silent for as long as it wants.
    fn waited_in_vain(&self, now: Instant) -> bool {
        let waited = self.waited(now);
        // Who is a probe is asked to find out: where its client's time is short, the next one's
        // would be as well.
        let long = if self.is_asked_to_show() { SHORT } else { LONG };
        if waited < long {
            return false;
        }
        let health = &self.here.health;
        let other = self.here.states.get(self.other as usize);
        let is_much = other.is_some_and(|other| {
            let others = other.latency.seconds(health.at(now));
            other.voice.answers() && waited.as_secs_f32() > others * MUCH
        });
        let (since, now_ms) = (health.at(self.begun), health.at(now));
        is_much && self.state().voice.is_missed(since, now_ms)
    }

    /// It resets those that end their side, and others answer these.
    fn is_alone_in_it(&self, now: Instant) -> bool {
        let (state, health) = (self.state(), &self.here.health);
        let of = Reset {
            endpoint: state.session,
            begun: health.at(self.begun),
            now: health.at(now),
            is_by_chance: self.going.is_by_chance,
        };
        let is_silent = |since| state.voice.is_silent(since);
        let stands = self.here.destination.ends.reset(of, is_silent);
        // A probe is sent there although it fails, and whatever others do meanwhile.
        stands.is_long && (stands.counts || self.going.is_probe)
    }

    /// Whoever waited for so long and then failed has waited, as far as that is more than
    /// it would have: an endpoint that swallows connections is avoided after the first.
    /// What fails at once is not quick.
    fn note_wait(&mut self, failure: Failure, now: Instant) {
        // It may have been quick to take a connection, and then said nothing.
        let is_known = self.took >= 0.0 && failure != Failure::Silent;
        match (is_known, self.going.kind) {
            (true, Kind::Request) => self.note_no_less(now),
            (true, Kind::Connection) => {}
            (false, _) => {
                self.note_at_least(self.waited(now), now);
            }
        }
    }

    /// An answer that does what was asked, or has no time left to.
    fn note_answer(&mut self, now: Instant) {
        if self.going.kind == Kind::Request && self.took >= 0.0 {
            self.note_latency(self.took, now);
        }
    }

    /// An answer that does nothing took no less than one that does would have. It is news all
    /// the same: who knows nothing of an endpoint asks it first.
    fn note_no_less(&mut self, now: Instant) {
        if self.going.kind == Kind::Connection {
            return;
        }
        let took = Duration::try_from_secs_f32(self.took).unwrap_or_default();
        if !self.note_at_least(took, now) {
            self.state().latency.keep(self.here.health.at(now));
        }
    }

    /// False: that is no more than it would have taken.
    fn note_at_least(&mut self, waited: Duration, now: Instant) -> bool {
        let waited = waited.as_secs_f32();
        let expected = self.state().latency.seconds(self.here.health.at(now));
        let is_more = waited > expected;
        if is_more {
            self.note_latency(waited, now);
        }
        is_more
    }

    /// Where others reset those that have ended their side it works.
    fn note_end_answered(&self) {
        if self.going.kind == Kind::Connection {
            let begun = self.here.health.at(self.begun);
            let ends = &self.here.destination.ends;
            ends.answered(self.state().session, begun);
        }
    }

    /// As one that has shown nothing; the next one would show as little now.
    fn put_off(&self, at: u64, random: Random<'_>) {
        let of = &self.here.traffic.outlier_detection;
        if self.going.is_probe && self.state().breaker.put_off(of, at, random) {
            self.here.health.changed();
        }
    }

    fn shown_nothing(&self, at: u64) {
        if self.going.is_probe && self.state().breaker.shown_nothing(at) {
            self.here.health.changed();
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.waits_no_more();
        self.state().pending.fetch_sub(1, Ordering::Relaxed);
        if self.going.has_place {
            self.here.destination.count(self.going.kind).leave();
        }
        if !self.told {
            // Whenever that was: the next one may go at once.
            self.shown_nothing(self.here.health.at(self.begun));
        }
    }
}
