//! One record for each exchange of HTTP: begun with its head, told once, when its
//! answer is over.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::forward::{PROGRESS, SOON};
use super::http::{Carried, Fail};
use super::load::Load;
use super::report::Report;
use crate::balance::{Failure, Outcome};
use crate::http::answer::Answer;
use crate::http::trace;
use crate::model::{
    ByteCounts, Flow, HttpVersion, RefuseReason, Refused, RequestEnd, RequestHead, RequestProtocol,
    RequestRecord, RequestTiming, Retry, RouteRef, RuleRef, TraceId,
};
use crate::observe;

/// What is kept of a request's head. The text is the access log's alone.
#[derive(Debug)]
pub(super) struct Heard {
    version: HttpVersion,
    protocol: RequestProtocol,
    text: Option<Text>,
}

/// Method, target and host, in one piece of memory.
#[derive(Debug)]
struct Text {
    all: Box<[u8]>,
    method: usize,
    target: usize,
    has_host: bool,
    trace: Option<TraceId>,
}

impl Text {
    fn of(head: &RequestHead<'_>) -> Self {
        let host = host(head);
        let parts = [
            head.method.as_bytes(),
            head.target,
            host.as_deref().unwrap_or_default(),
        ];
        Self {
            all: parts.concat().into(),
            method: parts[0].len(),
            target: parts[0].len() + parts[1].len(),
            has_host: host.is_some(),
            trace: trace::id(head),
        }
    }

    fn method(&self) -> &str {
        // As it came out of a text.
        std::str::from_utf8(&self.all[..self.method]).unwrap_or_default()
    }

    fn target(&self) -> &[u8] {
        &self.all[self.method..self.target]
    }

    fn host(&self) -> Option<&[u8]> {
        self.has_host.then(|| &self.all[self.target..])
    }
}

impl Heard {
    pub(super) fn of(head: &RequestHead<'_>, is_grpc: bool, observe: &observe::Local) -> Self {
        Self {
            version: head.version,
            protocol: match is_grpc {
                true => RequestProtocol::Grpc,
                false => RequestProtocol::Http,
            },
            text: observe.logs_requests().then(|| Text::of(head)),
        }
    }

    /// Of what is no request, or none that is whole.
    pub(super) fn nothing() -> Self {
        Self {
            version: HttpVersion::Http11,
            protocol: RequestProtocol::Http,
            text: None,
        }
    }
}

/// As it came; of HTTP/2 `:authority`.
fn host<'h>(head: &RequestHead<'h>) -> Option<Cow<'h, [u8]>> {
    if let Some(line) = head.values("host").next() {
        return Some(line.into());
    }
    let host = head.host.as_ref()?;
    let text = match host.port {
        Some(port) => format!("{}:{port}", host.name),
        None => host.name.to_string(),
    };
    Some(text.into_bytes().into())
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
    current: Option<Current>,
}

struct Current {
    observe: observe::Local,
    flow: Arc<Flow>,
    heard: Heard,
    route: Option<RouteRef>,
    rule: Option<RuleRef>,
    began: Instant,
    connected: Option<Instant>,
    attempts: u16,
    fault_delay: Option<Duration>,
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
    /// Who talks to whom, of a request that goes nowhere else; made once, by `describe`.
    pub(super) fn base(
        &mut self,
        report: &Report,
        generation: u64,
        describe: impl FnOnce(&mut Flow),
    ) -> Arc<Flow> {
        let base = self.base.get_or_insert_with(|| Base::new(report, describe));
        base.at(Some(generation))
    }

    pub(super) fn begin(&mut self, observe: &observe::Local, begun: Begun) {
        // One that goes elsewhere is the same request.
        let before = self.current.take();
        let (began, attempts, fault_delay) = before.map_or((begun.began, 0, None), |of| {
            (of.began, of.attempts, of.fault_delay)
        });
        self.current = Some(Current {
            observe: observe.clone(),
            flow: begun.flow,
            heard: begun.heard,
            route: begun.route,
            rule: begun.rule,
            began,
            connected: None,
            attempts,
            fault_delay,
            head: begun.head as u64,
            load: None,
        });
    }

    /// It goes to an endpoint that was picked for it.
    pub(super) fn goes_to(&mut self, load: Option<Load>) {
        if let Some(current) = &mut self.current {
            current.load = load;
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

    /// Its answer is not passed on: it goes elsewhere. `lost`: it is none of an application.
    pub(super) fn failed(&mut self, lost: Option<RefuseReason>) {
        let Some(current) = &mut self.current else {
            return;
        };
        let Some(load) = &mut current.load else {
            return;
        };
        match lost {
            Some(reason) => load.refused(reason, &current.flow),
            None => load.tell(Outcome::Failure(Failure::Status), &current.flow),
        }
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
            current.tell_load(carried, RequestEnd::Finished);
        }
    }

    /// It is kept for so long on purpose.
    pub(super) fn delayed(&mut self, lasts: Duration) {
        if let Some(current) = &mut self.current {
            current.fault_delay = Some(lasts);
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
            if let Some(load) = &mut current.load {
                load.goes(now);
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
            current.tell_load(&carried, ended);
            current.tell(carried, ended);
        }
    }

    /// The agent has answered itself.
    pub(super) fn answered(&mut self, answer: &Answer, bytes: usize, ended: RequestEnd) {
        if let Some(mut current) = self.current.take() {
            current.tell_load(&Carried::default(), ended);
            let carried = Carried {
                status: answer.status,
                grpc_status: answer.grpc_status(),
                bytes: ByteCounts {
                    sent: current.head,
                    received: bytes as u64,
                },
                messages: ByteCounts::default(),
                request: None,
                answered: Some(Instant::now()),
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
    fn tell_load(&mut self, carried: &Carried, ended: RequestEnd) {
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
                let failure = Failure::of_answer(carried.status, carried.grpc_status);
                let outcome = failure.map_or(Outcome::Success, Outcome::Failure);
                load.tell(outcome, &self.flow);
            }
            (None, RequestEnd::Refused(reason, _)) => load.refused(reason, &self.flow),
            (None, RequestEnd::Client) => load.tell(Outcome::Abandoned, &self.flow),
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
        let started = SystemTime::now().checked_sub(duration);
        let text = self.heard.text.as_ref();
        self.observe.request(&RequestRecord {
            flow: &self.flow,
            protocol: self.heard.protocol,
            version: self.heard.version,
            method: text.map_or("", Text::method),
            host: text.and_then(Text::host),
            target: text.map_or(b"", Text::target),
            route: self.route.as_ref(),
            rule: self.rule.as_ref(),
            status: carried.status,
            grpc_status: carried.grpc_status,
            ended,
            attempts: self.attempts,
            bytes: carried.bytes,
            messages: carried.messages,
            timing: RequestTiming {
                started: started.unwrap_or(SystemTime::UNIX_EPOCH),
                request: since(carried.request),
                connected: since(self.connected),
                answered: since(carried.answered),
                duration,
            },
            fault_delay: self.fault_delay,
            trace: text.and_then(|text| text.trace),
        });
    }
}
