//! What was tried of a connection or a request, and what else of it is known.

use std::hash::BuildHasher as _;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use smallvec::SmallVec;

use super::in_flight::Here;
use super::leave::Leave;
use super::ticket::{Queued, Ticket};
use crate::limit::Evicted;
use crate::model::{Endpoint, RefuseReason, Refused, UpstreamAddr};

/// At so many endpoints is tried what no application has seen: while all of a Service are
/// replaced one by one, the second may have gone as well.
const UNSEEN: usize = 3;

/// Endpoints that one exchange has tried already.
#[derive(Debug, Default)]
pub(crate) struct Attempt {
    pub(super) tried: SmallVec<[UpstreamAddr; 1]>,
    /// One was picked, be it that nothing was asked of it: what is done once for a
    /// request was done.
    is_decided: bool,
    /// Here on the node, whose limits of rates have counted it.
    admitted: SmallVec<[UpstreamAddr; 1]>,
    /// Where it counts as in flight, as long as it goes on.
    at: Option<Rc<Here>>,
    /// What a consistent hash of requests is of.
    hash: Option<u64>,
    /// Nothing that becomes of it is told: it can show of no endpoint that it works.
    is_copy: bool,
    /// It asks for nothing to be done, and may be asked twice.
    is_safe: bool,
    session: Option<Session>,
    /// The cookie that it is given, and its value.
    given: Option<(u64, Box<str>)>,
    /// Faults that policies ask for.
    injected: Injected,
    /// For a place at its destination.
    pub(super) queued: Queued,
    /// It is to be over then, wherever it waits.
    ends: Option<Instant>,
    /// Where the dice stood for its first decision.
    pub(crate) luck: u64,
    /// Another try of the request goes on.
    is_beside: bool,
}

/// Whether a fault is injected is found out once, however often it is decided on.
#[derive(Debug, Default)]
enum Injected {
    #[default]
    Unknown,
    Known,
    Delayed(Box<Delayed>),
}

/// It is decided on anew behind a delay that is injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delayed {
    pub(crate) lasts: Duration,
    /// What is injected then, and until when.
    pub(crate) then: Option<(Refused, SystemTime)>,
}

/// Of the requests that one client makes, by the hash of an endpoint.
#[derive(Clone, Copy, Debug, Default)]
struct Session {
    wanted: Option<u64>,
    got: Option<u64>,
}

impl Attempt {
    /// Of a copy, whose answer nobody looks at.
    pub(crate) fn of_copy() -> Self {
        Self {
            is_copy: true,
            ..Self::default()
        }
    }

    /// Is it to be found out now whether a fault is injected?
    pub(crate) fn draws(&mut self) -> bool {
        let is_first = self.is_new() && !self.is_copy && matches!(self.injected, Injected::Unknown);
        if is_first {
            self.injected = Injected::Known;
        }
        is_first
    }

    pub(crate) fn delay(&mut self, delayed: Delayed) {
        self.injected = Injected::Delayed(Box::new(delayed));
    }

    /// It is to wait for so long.
    pub(crate) fn delayed(&self) -> Option<Duration> {
        match &self.injected {
            Injected::Delayed(delayed) => Some(delayed.lasts),
            Injected::Unknown | Injected::Known => None,
        }
    }

    /// It is to wait before it is decided on anew: for the end of a delay, or for a place.
    pub(crate) fn is_held_back(&self) -> bool {
        self.delayed().is_some() || self.queued().is_some()
    }

    /// It is decided on once more, as it was before it waited, or for the try beside it.
    pub(crate) fn is_decided_anew(&self) -> bool {
        self.is_held_back() || self.is_placed() || self.is_beside
    }

    /// It has waited: what comes then.
    pub(crate) fn has_waited(&mut self) -> Option<(Refused, SystemTime)> {
        self.delayed()?;
        match std::mem::replace(&mut self.injected, Injected::Known) {
            Injected::Delayed(delayed) => delayed.then,
            Injected::Unknown | Injected::Known => None,
        }
    }

    /// Who is tried again is in flight already, and nobody waits for a copy.
    pub(super) fn may_queue(&self) -> bool {
        self.is_new() && !self.is_copy && matches!(self.queued, Queued::NotYet)
    }

    /// When it has to be over, if something says so.
    pub(crate) fn ends(&self) -> Option<Instant> {
        self.ends
    }

    pub(crate) fn has_to_end(&mut self, at: Option<Instant>) {
        self.ends = at;
    }

    /// A request that asks for nothing to be done: another endpoint may be asked the same.
    pub(crate) fn of_request(&mut self, is_safe: bool) {
        self.is_safe = is_safe;
    }

    /// Where its endpoint fails its client is none the worse for it.
    pub(super) fn is_safe(&self) -> bool {
        self.is_safe
    }

    /// It may be the one request that shows whether an ejected endpoint works again.
    pub(super) fn may_probe(&self) -> bool {
        !self.is_copy
    }

    /// A consistent hash of the request is of this.
    pub(crate) fn hash_of(&mut self, value: Option<&[u8]>) {
        self.hash = value.map(|value| foldhash::quality::FixedState::default().hash_one(value));
    }

    /// It is of a session, which goes on at that endpoint if it can.
    pub(crate) fn of_session(&mut self, endpoint: Option<u64>) {
        self.session.get_or_insert_default().wanted = endpoint;
    }

    /// Where the session goes on.
    pub(crate) fn session_at(&self) -> Option<u64> {
        self.session?.got
    }

    /// Of the endpoint that its session is to go on at.
    pub(super) fn wanted(&self) -> Option<u64> {
        self.session?.wanted
    }

    /// It has a place there, which the next try takes over.
    pub(super) fn has_place(&self, here: &Here) -> bool {
        let is_same = |at: &Rc<Here>| Arc::ptr_eq(&at.destination, &here.destination);
        self.at.as_ref().is_some_and(is_same)
    }

    /// May it be tried again, by the budget of the destination that it went to last? Then
    /// it is a retry, unless that is given back.
    pub(crate) fn ask_again(&self, now: Instant) -> Option<Leave> {
        Leave::of(self.at.as_ref()?, now)
    }

    /// Another try, while this one goes on: it has what this one has tried, and is no first.
    pub(crate) fn beside(&self) -> Self {
        Self {
            tried: self.tried.clone(),
            is_decided: self.is_decided,
            admitted: self.admitted.clone(),
            at: self.at.clone(),
            hash: self.hash,
            is_copy: self.is_copy,
            is_safe: self.is_safe,
            session: self.session,
            given: self.given.clone(),
            // What is injected was, and who waited for a place waits for no other.
            injected: Injected::Known,
            queued: Queued::NotYet,
            ends: self.ends,
            luck: self.luck,
            is_beside: true,
        }
    }

    /// Where it went last.
    pub(crate) fn last(&self) -> Option<UpstreamAddr> {
        self.tried.last().copied()
    }

    /// A try beside this one went there: what follows goes elsewhere.
    pub(crate) fn was_tried_beside(&mut self, at: UpstreamAddr) {
        // The last one is where this one went.
        self.tried.insert(0, at);
    }

    /// Of a try beside another one: as [`Attempt::ask_again`], and it wants a place of its
    /// own at its destination from now on.
    pub(crate) fn ask_beside(&mut self, now: Instant) -> Option<Leave> {
        Leave::of(&self.at.take()?, now)
    }

    /// Another endpoint may be asked as well: it is the first try, and of no session, which
    /// would move with the answer.
    pub(crate) fn may_be_hedged(&self) -> bool {
        !self.is_copy && self.tried.len() == 1 && self.wanted().is_none()
    }

    pub(super) fn counts_at(&mut self, here: &Rc<Here>) {
        self.at = Some(here.clone());
    }

    /// `hash`: by what a session knows it again.
    pub(super) fn picked(&mut self, endpoint: &Endpoint, hash: u64) {
        self.tried.push(endpoint.addr);
        self.is_decided = true;
        if let Some(session) = &mut self.session {
            session.got = Some(hash);
        }
    }

    pub(super) fn hash(&self) -> Option<u64> {
        self.hash
    }

    /// As if such an endpoint had been picked.
    #[cfg(test)]
    pub(crate) fn picked_nth(&mut self, n: usize) {
        let port = 8_000 + u16::try_from(n).expect("few");
        let at = std::net::SocketAddr::from(([10, 0, 0, 1], port));
        self.tried.push(UpstreamAddr::new(at));
        self.is_decided = true;
    }

    #[cfg(test)]
    pub(crate) fn hash_now(&self) -> Option<u64> {
        self.hash
    }

    /// The cookie that it is given has this value.
    pub(crate) fn given(&self) -> Option<u64> {
        self.given.as_ref().map(|(value, _)| *value)
    }

    /// As its answer has it.
    pub(crate) fn given_line(&self) -> Option<&str> {
        self.given.as_ref().map(|(_, line)| &**line)
    }

    pub(crate) fn give(&mut self, value: u64, line: String) {
        self.given = Some((value, line.into()));
    }

    /// None was picked for it yet: this is its first decision.
    pub(crate) fn is_new(&self) -> bool {
        !self.is_decided
    }

    /// What was picked last was asked nothing.
    pub(crate) fn was_not_taken(&mut self) {
        self.tried.pop();
    }

    /// Limits of rates of that one are still to count it: once for each time that it is
    /// seen there, however often it is decided that it goes there.
    pub(crate) fn is_to_count(&self, at: UpstreamAddr) -> bool {
        !self.admitted.contains(&at)
    }

    pub(crate) fn was_admitted(&mut self, at: UpstreamAddr) {
        if self.is_to_count(at) {
            self.admitted.push(at);
        }
    }

    /// An application may have seen it: where it goes again it counts again.
    pub(crate) fn was_seen(&mut self) {
        self.admitted.clear();
    }

    /// Two were tried.
    pub(crate) fn is_second(&self) -> bool {
        self.tried.len() > 1
    }

    /// As many were tried as are for what no application has seen.
    pub(crate) fn has_tried_enough(&self) -> bool {
        self.tried.len() >= UNSEEN
    }

    /// What was picked last had been tried before: there is nobody else.
    pub(crate) fn is_repeated(&self) -> bool {
        let last = self.tried.split_last();
        last.is_some_and(|(last, before)| before.contains(last))
    }

    pub(super) fn has_tried(&self, endpoint: &Endpoint) -> bool {
        self.tried.contains(&endpoint.addr)
    }
}

impl Attempt {
    /// It waits for a place at its destination: since when, and for how long at most.
    pub(crate) fn queued(&self) -> Option<(Instant, Duration)> {
        match &self.queued {
            Queued::Waits(ticket) => Some((ticket.since, ticket.longest())),
            Queued::NotYet | Queued::Placed(_) | Queued::Waited(_) => None,
        }
    }

    /// Since when it waited for a place, if it did.
    pub(crate) fn queued_since(&self) -> Option<Instant> {
        match &self.queued {
            Queued::Waits(ticket) | Queued::Placed(ticket) => Some(ticket.since),
            Queued::Waited(since) => Some(*since),
            Queued::NotYet => None,
        }
    }

    /// It has a place by now, for when it is decided on anew; an error where another one
    /// waits instead of it.
    pub(crate) fn poll_place(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RefuseReason>> {
        if let Queued::Waits(ticket) = &self.queued
            && let Err(Evicted) = ready!(ticket.poll(cx))
        {
            self.leave_queue();
            return Poll::Ready(Err(RefuseReason::MaxPendingRequests));
        }
        self.queued = match std::mem::take(&mut self.queued) {
            Queued::Waits(ticket) => Queued::Placed(ticket),
            queued @ (Queued::NotYet | Queued::Placed(_) | Queued::Waited(_)) => queued,
        };
        Poll::Ready(Ok(()))
    }

    pub(super) fn is_placed(&self) -> bool {
        matches!(self.queued, Queued::Placed(_))
    }

    /// It waits no more.
    pub(crate) fn leave_queue(&mut self) {
        drop(self.take_ticket());
    }

    pub(super) fn take_ticket(&mut self) -> Option<Ticket> {
        match std::mem::take(&mut self.queued) {
            Queued::Waits(ticket) | Queued::Placed(ticket) => {
                self.queued = Queued::Waited(ticket.since);
                Some(*ticket)
            }
            queued @ (Queued::NotYet | Queued::Waited(_)) => {
                self.queued = queued;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_try_went_beside_it_none_goes_that_follows() {
        let mut attempt = Attempt::default();
        attempt.picked_nth(0);
        let mut beside = attempt.beside();
        beside.picked_nth(1);
        let at = beside.last().expect("it went");
        attempt.was_tried_beside(at);
        assert!(attempt.tried.contains(&at) && attempt.last() != Some(at));
        assert!(
            !attempt.is_repeated(),
            "that of the other try is not the last"
        );
        attempt.picked_nth(1);
        assert!(attempt.is_repeated());
    }
}
