//! What becomes of a connection or a request, told to the breaker of the endpoint that
//! was picked for it; a change of that is told to people.

use std::rc::Rc;
use std::time::Instant;

use super::context::ConnectionContext;
use crate::balance::{Change, Failure, InFlight, Outcome, Transition};
use crate::model::traffic::Timeouts;
use crate::model::{ByteCounts, CloseReason, Flow, RefuseReason};

/// Counts as load of its endpoint until it is dropped.
pub(super) struct Load {
    in_flight: InFlight,
    context: Rc<ConnectionContext>,
}

impl Load {
    pub(super) fn new(in_flight: InFlight, context: Rc<ConnectionContext>) -> Self {
        Self { in_flight, context }
    }

    /// Ends the previous attempt: this one takes over its place in the counts.
    pub(super) fn behind(mut self, before: Option<Self>) -> Self {
        let mut before = before.map(|load| load.in_flight);
        self.in_flight.takes_over(before.as_mut());
        self
    }

    pub(super) fn timeouts(&self) -> Timeouts {
        self.in_flight.timeouts()
    }

    /// What it says is waited for: a breaker depends on it.
    pub(super) fn is_probe(&self) -> bool {
        self.in_flight.is_probe()
    }

    /// A request goes over a connection that is there by now.
    pub(super) fn goes(&mut self, now: Instant) {
        self.in_flight.goes(now);
    }

    pub(super) fn is_told(&self) -> bool {
        self.in_flight.is_told()
    }

    /// It has taken the connection, or begun to answer, by then.
    pub(super) fn took(&mut self, then: Instant) {
        self.in_flight.took(then);
    }

    /// Its client left then; `None`: just now.
    pub(super) fn left(&mut self, then: Option<Instant>) {
        self.in_flight.left(then);
    }

    /// Only the first word counts.
    pub(super) fn tell(&mut self, outcome: Outcome, flow: &Flow) {
        let dice = &self.context.worker.dice;
        let random = |limit| dice.below(limit);
        let now = Instant::now();
        let change = self.in_flight.end(outcome, now, &random);
        self.changed(change, flow, now);
    }

    fn changed(&self, change: Option<Change>, flow: &Flow, now: Instant) {
        if let Some(change) = change {
            self.context.worker.agent.metrics.breaker(change);
            let transition = transition(change, flow, now);
            self.context.worker.breaker_log.tell(&transition);
            self.in_flight.note(transition);
        }
    }

    /// It is cancelled, for another try was quicker.
    pub(super) fn gave_way(&mut self) {
        self.in_flight.gave_way(Instant::now());
    }

    /// The same of a first try, which had no answer when the other one was asked.
    pub(super) fn was_outrun(&mut self, flow: &Flow) {
        let dice = &self.context.worker.dice;
        let random = |limit| dice.below(limit);
        let now = Instant::now();
        let change = self.in_flight.was_outrun(now, &random);
        self.changed(change, flow, now);
    }

    pub(super) fn context(&self) -> &ConnectionContext {
        &self.context
    }

    /// It is refused, for a reason that may be the endpoint's.
    pub(super) fn refused(&mut self, reason: RefuseReason, flow: &Flow) {
        self.tell(Outcome::of_reason(reason), flow);
    }

    /// A connection has passed on so much, and goes on.
    pub(super) fn carries(&mut self, bytes: ByteCounts, flow: &Flow) {
        if bytes.received > 0 {
            self.tell(Outcome::Success, flow);
        }
    }

    /// It was reset behind the end of its client.
    pub(super) fn reset_behind_end(&mut self, bytes: ByteCounts, flow: &Flow) {
        self.tell(behind_end(bytes), flow);
    }

    /// A connection is over.
    pub(super) fn closed(&mut self, bytes: ByteCounts, reason: CloseReason, flow: &Flow) {
        if let CloseReason::Refused(reason) = reason {
            return self.refused(reason, flow);
        }
        self.tell(outcome(bytes, reason), flow);
    }
}

fn behind_end(bytes: ByteCounts) -> Outcome {
    match bytes.received == 0 && bytes.sent > 0 {
        true => Outcome::ResetBehindEnd,
        false => outcome(bytes, CloseReason::Finished),
    }
}

fn outcome(bytes: ByteCounts, reason: CloseReason) -> Outcome {
    match reason {
        _ if bytes.received > 0 => Outcome::Success,
        CloseReason::ResetByUpstream | CloseReason::ProtocolError => {
            Outcome::Failure(Failure::Reset)
        }
        // The client has asked, and nobody answered, whoever ended it in the end.
        CloseReason::ResetByClient | CloseReason::IdleTimeout | CloseReason::Finished
            if bytes.sent > 0 =>
        {
            Outcome::Abandoned
        }
        CloseReason::Finished
        | CloseReason::ResetByClient
        | CloseReason::IdleTimeout
        | CloseReason::DrainDeadline
        | CloseReason::PodRemoved
        | CloseReason::PolicyChanged
        | CloseReason::Revoked
        | CloseReason::CertificateExpired
        | CloseReason::PeerCertificateExpired
        | CloseReason::Refused(_) => Outcome::Neutral,
    }
}

fn transition(change: Change, flow: &Flow, at: Instant) -> Transition {
    let pod = flow.destination.as_ref().ok();
    let service = flow.service.as_ref().map(ToString::to_string);
    Transition {
        at,
        service: service.unwrap_or_default(),
        endpoint: flow.upstream.map(|at| at.to_string()).unwrap_or_default(),
        pod: pod.map(|pod| pod.key.to_string()),
        change,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_says_of_its_endpoint_only_what_is_the_endpoints() {
        let bytes = |sent, received| ByteCounts { sent, received };
        let silent = |reason| outcome(bytes(10, 0), reason);
        let failed = Outcome::Failure(Failure::Reset);
        assert_eq!(silent(CloseReason::ResetByUpstream), failed);
        assert_eq!(silent(CloseReason::ResetByClient), Outcome::Abandoned);
        assert_eq!(silent(CloseReason::Finished), Outcome::Abandoned);
        for reason in [CloseReason::PolicyChanged, CloseReason::DrainDeadline] {
            assert_eq!(silent(reason), Outcome::Neutral);
        }
        assert_eq!(
            outcome(bytes(0, 0), CloseReason::ResetByClient),
            Outcome::Neutral
        );
        let answered = outcome(bytes(10, 1), CloseReason::ResetByUpstream);
        assert_eq!(answered, Outcome::Success);
        let unasked = outcome(bytes(0, 0), CloseReason::Finished);
        assert_eq!(unasked, Outcome::Neutral);
        assert_eq!(silent(CloseReason::ProtocolError), failed);
        assert_eq!(behind_end(bytes(10, 0)), Outcome::ResetBehindEnd);
        assert_eq!(behind_end(bytes(10, 1)), Outcome::Success);
        assert_eq!(behind_end(bytes(0, 0)), Outcome::Neutral);
    }
}
