//! One record for each exchange of HTTP: begun with its head, told once, when its
//! answer is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::forward::{PROGRESS, SOON};
use super::http::{Carried, Fail, Held};
use super::load::Load;
use super::report::Report;
use crate::balance::{Failure, Outcome, Said};
use crate::http::answer::Answer;
use crate::http::trace;
use crate::model::grpc_status::DEADLINE_EXCEEDED;
use crate::model::{
    ByteCounts, Flow, Hedged, HttpVersion, RefuseReason, Refused, RequestEnd, RequestHead,
    RequestProtocol, RequestRecord, RequestText, RequestTiming, Retry, RouteRef, RuleRef, Security,
    TraceId,
};
use crate::observe;

/// What is kept of a request's head. The text is the access log's alone.
#[derive(Debug)]
pub(super) struct Heard {
    version: HttpVersion,
    protocol: RequestProtocol,
    text: Option<Arc<RequestText>>,
    trace: Option<TraceId>,
}

impl Heard {
    pub(super) fn of(head: &RequestHead<'_>, is_grpc: bool, observe: &observe::Recorder) -> Self {
        let logs = observe.logs_requests();
        Self {
            version: head.version,
            protocol: match is_grpc {
                true => RequestProtocol::Grpc,
                false => RequestProtocol::Http,
            },
            text: logs.then(|| Arc::new(RequestText::of(head))),
            trace: logs.then(|| trace::id(head)).flatten(),
        }
    }

    /// Of what is no request, or none that is whole.
    pub(super) fn nothing() -> Self {
        Self {
            version: HttpVersion::Http11,
            protocol: RequestProtocol::Http,
            text: None,
            trace: None,
        }
    }
}

/// How the agent's own answer ends an exchange.
pub(super) fn refused_by(refused: &Refused) -> RequestEnd {
    RequestEnd::Refused(refused.reason, refused.detail)
}

/// How an exchange ended whose answer had begun.
pub(super) fn cut_short(fail: Fail, refused: &Refused) -> RequestEnd {
    match fail {
        Fail::Client(_) => RequestEnd::Client,
        Fail::Upstream(_) => RequestEnd::Upstream,
        Fail::Request(_) | Fail::Answer(_) | Fail::Edit | Fail::Held(_) => refused_by(refused),
    }
}

/// Who talks to whom, of a request that goes nowhere else.
pub(super) struct Base(Arc<Flow>);

impl Base {
    pub(super) fn new(report: &Report, describe: impl FnOnce(&mut Flow)) -> Self {
        let mut flow = Flow::clone(&report.flow);
        // Each request is judged by itself.
        flow.rule = None;
        describe(&mut flow);
        Self(Arc::new(flow))
    }

    /// By the configuration of that generation.
    pub(super) fn at(&mut self, generation: Option<u64>) -> Arc<Flow> {
        if let Some(generation) = generation
            && self.0.generation != generation
        {
            Arc::make_mut(&mut self.0).generation = generation;
        }
        self.0.clone()
    }
}

/// The exchange of a client connection that is under way, and what they all have in
/// common.
#[derive(Default)]
pub(super) struct RequestReport {
    base: Option<Base>,
    /// On the heap: between two there is none.
    current: Option<Box<Current>>,
    /// From then on its caller's own time is as good as over.
    due: Option<Instant>,
}

struct Current {
    observe: observe::Recorder,
    flow: Arc<Flow>,
    heard: Heard,
    route: Option<RouteRef>,
    rule: Option<RuleRef>,
    began: Instant,
    connected: Option<Instant>,
    attempts: u16,
    hedged: Option<Hedged>,
    fault_delay: Option<Duration>,
    queued: Option<Duration>,
    /// Of its head, where that is all that was read.
    head: u64,
    /// Of the endpoint that was picked for it.
    load: Option<Load>,
}

/// A request, as far as it was decided.
pub(super) struct Begun {
    pub(super) flow: Arc<Flow>,
    pub(super) heard: Heard,
    pub(super) route: Option<RouteRef>,
    pub(super) rule: Option<RuleRef>,
    pub(super) began: Instant,
    pub(super) head: usize,
}

impl RequestReport {
    /// Who talks to whom, where each request goes where its connection does: the connection's
    /// own record, where they do not differ.
    pub(super) fn base(&mut self, report: &Report, generation: u64) -> Arc<Flow> {
        let own = &report.flow;
        if own.rule.is_none() && own.generation == generation {
            return own.clone();
        }
        let base = self.base.get_or_insert_with(|| Base::new(report, |_| {}));
        base.at(Some(generation))
    }

    pub(super) fn begin(&mut self, observe: &observe::Recorder, begun: Begun) {
        // One that goes elsewhere is the same request.
        let before = self.current.take();
        let (began, attempts, waited, load) =
            before.map_or((begun.began, (0, None), [None; 2], None), |of| {
                let attempts = (of.attempts, of.hedged);
                (of.began, attempts, [of.fault_delay, of.queued], of.load)
            });
        let ([fault_delay, queued], (attempts, hedged)) = (waited, attempts);
        self.current = Some(Box::new(Current {
            observe: observe.clone(),
            flow: begun.flow,
            heard: begun.heard,
            route: begun.route,
            rule: begun.rule,
            began,
            connected: None,
            attempts,
            hedged,
            fault_delay,
            queued,
            head: begun.head as u64,
            load,
        }));
    }

    /// It goes to an endpoint that was picked for it.
    pub(super) fn goes_to(&mut self, load: Option<Load>) {
        if let Some(current) = &mut self.current {
            let before = current.load.take();
            current.load = load.map(|load| load.behind(before));
        }
    }

    /// Its endpoint was not reached: may another one help?
    pub(super) fn may_help_elsewhere(&mut self, refused: &Refused) -> bool {
        let Some(current) = &mut self.current else {
            return false;
        };
        let Some(load) = &mut current.load else {
            return false;
        };
        load.refused(refused.reason, &current.flow);
        refused.reason.refusal().retry == Retry::Elsewhere
    }

    /// Its answer is held, or there is none: it may go elsewhere. To be told at once, for what
    /// it waits for behind that is not its endpoint's.
    pub(super) fn failed(&mut self, held: Held) {
        let Some(current) = &mut self.current else {
            return;
        };
        let Some(load) = current.load.as_mut().filter(|load| !load.is_told()) else {
            return;
        };
        if held.is_answer() {
            load.took(Instant::now());
        }
        match held.lost {
            Some(reason) => load.refused(reason, &current.flow),
            None => {
                let outcome = of_answer(held.said(), self.due, Instant::now());
                load.tell(outcome, &current.flow);
            }
        }
    }

    /// From then on its caller's own time is as good as over.
    pub(super) fn is_due(&mut self, from: Option<Instant>) {
        self.due = from;
    }

    /// It shows whether its endpoint works again.
    pub(super) fn is_probe(&self) -> bool {
        let load = self.current.as_ref().and_then(|of| of.load.as_ref());
        load.is_some_and(Load::is_probe)
    }

    pub(super) fn has_load(&self) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| current.load.is_some())
    }

    /// When it is to be looked at again: soon, where somebody waits for what it shows of
    /// its endpoint.
    pub(super) fn turn(&self) -> Duration {
        let load = self
            .current
            .as_ref()
            .and_then(|current| current.load.as_ref());
        match load.is_some_and(Load::is_probe) {
            true => SOON,
            false => PROGRESS,
        }
    }

    /// So much of it has passed, and it goes on: an answer that has begun well shows that
    /// its endpoint works, however long it takes.
    pub(super) fn answers(&mut self, carried: &Carried) {
        let Some(current) = &mut self.current else {
            return;
        };
        let is_probe = current.load.as_ref().is_some_and(Load::is_probe);
        if is_probe && carried.status > 0 {
            current.tell_load(carried, RequestEnd::Finished, self.due);
        }
    }

    /// It is kept for so long on purpose.
    pub(super) fn delayed(&mut self, lasts: Duration) {
        if let Some(current) = &mut self.current {
            current.fault_delay = Some(lasts);
        }
    }

    /// So long it waited for a place at its destination.
    pub(super) fn queued(&mut self, waited: Duration) {
        if let Some(current) = &mut self.current {
            current.queued = Some(waited);
        }
    }

    /// Another upstream connection is asked for.
    pub(super) fn attempt(&mut self) {
        if let Some(current) = &mut self.current {
            current.attempts = current.attempts.saturating_add(1);
        }
    }

    /// It is there.
    pub(super) fn connected(&mut self) {
        if let Some(current) = &mut self.current {
            let now = Instant::now();
            current.connected.get_or_insert(now);
            // A second try whose answer has come went before.
            let is_answered = current.hedged == Some(Hedged::Won);
            if let Some(load) = current.load.as_mut().filter(|_| !is_answered) {
                load.goes(now);
            }
        }
    }

    /// A second try was sent beside the first.
    pub(super) fn hedged(&mut self) {
        self.attempt();
        if let Some(current) = &mut self.current {
            current.hedged = Some(Hedged::Lost);
        }
    }

    /// The second try was answered first: the request is that one. `failed`: how the first
    /// ended; else it is cancelled.
    pub(super) fn hedge_won(&mut self, failed: Option<Outcome>) {
        let Some(current) = &mut self.current else {
            return;
        };
        current.hedged = Some(Hedged::Won);
        if let Some(load) = &mut current.load {
            match failed {
                Some(outcome) => load.tell(outcome, &current.flow),
                None => load.was_outrun(&current.flow),
            }
        }
    }

    /// Who talks to whom, for what is found out of it.
    pub(super) fn flow(&mut self) -> Option<&mut Arc<Flow>> {
        self.current.as_mut().map(|current| &mut current.flow)
    }

    /// No policy's rule is why it ends.
    pub(super) fn forget_rule(&mut self) {
        if let Some(current) = &mut self.current {
            current.rule = None;
        }
    }

    /// It is over.
    pub(super) fn finish(&mut self, carried: Carried, ended: RequestEnd) {
        if let Some(mut current) = self.current.take() {
            current.tell_load(&carried, ended, self.due);
            current.tell(carried, ended);
        }
    }

    /// The agent has answered itself.
    pub(super) fn answered(&mut self, answer: &Answer, bytes: usize, ended: RequestEnd) {
        if let Some(mut current) = self.current.take() {
            current.tell_load(&Carried::default(), ended, self.due);
            let carried = Carried {
                status: answer.status,
                grpc_status: answer.grpc_status(),
                is_broken_off: false,
                is_overflow: false,
                bytes: ByteCounts {
                    sent: current.head,
                    received: bytes as u64,
                },
                messages: ByteCounts::default(),
                request: None,
                answered: Some(Instant::now()),
                left: None,
            };
            current.tell(carried, ended);
        }
    }
}

impl Drop for RequestReport {
    fn drop(&mut self) {
        // Its task has ended before it.
        let ended = RequestEnd::Refused(RefuseReason::Internal, None);
        self.finish(Carried::default(), ended);
    }
}

impl Current {
    fn tell_load(&mut self, carried: &Carried, ended: RequestEnd, due: Option<Instant>) {
        let Some(load) = &mut self.load else {
            return;
        };
        if load.is_told() {
            return;
        }
        if let Some(answered) = carried.answered {
            load.took(answered);
        }
        match (carried.answered, ended) {
            (Some(_), _) => {
                // Its endpoint is judged by what that has said itself.
                let of_grpc = carried.grpc_status.filter(|_| !carried.is_broken_off);
                let said = Said {
                    status: carried.status,
                    grpc: of_grpc,
                    // Whoever has no agent speaks for none.
                    is_overflow: carried.is_overflow && self.flow.security == Security::MutualTls,
                };
                load.tell(of_answer(said, due, Instant::now()), &self.flow);
            }
            // Its caller had no more time for it, which is as if it had left.
            (None, RequestEnd::Refused(RefuseReason::DeadlineExceeded, _) | RequestEnd::Client) => {
                // What its endpoint did behind that says nothing of it.
                load.left(carried.left);
                load.tell(Outcome::Abandoned, &self.flow);
            }
            (None, RequestEnd::Refused(reason, _)) => load.refused(reason, &self.flow),
            (None, RequestEnd::Upstream) => {
                load.tell(Outcome::Failure(Failure::Reset), &self.flow);
            }
            (None, RequestEnd::Finished) => {}
        }
    }

    fn tell(&self, carried: Carried, ended: RequestEnd) {
        let now = Instant::now();
        let since = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(self.began));
        let duration = now.saturating_duration_since(self.began);
        self.observe.request(&RequestRecord {
            flow: &self.flow,
            protocol: self.heard.protocol,
            version: self.heard.version,
            text: self.heard.text.as_ref(),
            route: self.route.as_ref(),
            rule: self.rule.as_ref(),
            status: carried.status,
            grpc_status: carried.grpc_status,
            ended,
            attempts: self.attempts,
            hedged: self.hedged,
            bytes: carried.bytes,
            messages: carried.messages,
            timing: RequestTiming {
                request: since(carried.request),
                connected: since(self.connected),
                answered: since(carried.answered),
                duration,
            },
            fault_delay: self.fault_delay,
            queued: self.queued,
            trace: self.heard.trace,
        });
    }
}

/// What an answer says of its endpoint. A server that keeps its caller's time itself gives up
/// at about the same moment as the agent, and has failed no more than where the agent is first.
pub(super) fn of_answer(said: Said, due: Option<Instant>, now: Instant) -> Outcome {
    let is_late = match said.grpc {
        Some(grpc) => grpc == u32::from(DEADLINE_EXCEEDED),
        None => said.status == 504,
    };
    if is_late && due.is_some_and(|due| due <= now) {
        return Outcome::Abandoned;
    }
    Outcome::of_answer(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_keeps_its_callers_time_has_not_failed() {
        let now = Instant::now();
        let later = now + Duration::from_millis(1);
        let failed = Outcome::Failure(Failure::Status);
        for (told, due, outcome) in [
            ((200, Some(4)), Some(now), Outcome::Abandoned),
            ((200, Some(4)), Some(later), failed),
            ((200, Some(4)), None, failed),
            // As a retry has it, whose answer was a status alone.
            ((504, None), Some(now), Outcome::Abandoned),
            ((504, None), None, failed),
            ((200, Some(14)), Some(now), failed),
            ((503, None), Some(now), failed),
            ((200, Some(0)), Some(now), Outcome::Success),
            ((429, None), None, Outcome::Shed),
            ((200, Some(8)), None, Outcome::Shed),
        ] {
            let said = |is_overflow| Said {
                status: told.0,
                grpc: told.1,
                is_overflow,
            };
            assert_eq!(of_answer(said(false), due, now), outcome, "{told:?}");
            // Whatever status an agent's own word has that it had no room; what its caller may
            // not is the caller's.
            if due.is_none() {
                let is_rate = matches!(outcome, Outcome::Shed);
                let expected = if is_rate {
                    Outcome::OverRate
                } else {
                    Outcome::Overflow
                };
                assert_eq!(of_answer(said(true), due, now), expected, "{told:?}");
            }
        }
    }
}
