//! One request of a client of HTTP/2, from its head to the end of its answer.
//!
//! It is decided on by itself, by the configuration that holds when it comes, and anew
//! where nobody took it. A task of its own: what it waits for keeps no other.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::broken::{Broken, is_untaken, open};
use super::client_connection::ClientConnection;
use super::deadline;
use super::line::{Fault, Line};
use super::retry::{Next, Retries};
use super::site::{Choice, RequestDecision, Site, UpstreamRequest};
use super::transfer::{Stop, Transfer};
use super::watch::{Watch, code, cut, until};
use crate::balance::Attempt;
use crate::http::answer::{Answer, Client};
use crate::http::h1::{Bad, Side as Of};
use crate::http::h2 as http2;
use crate::http::h2::{Head, HeadLines, HeaderMap, Reason};
use crate::io::Reserved;
use crate::model::{Flow, RefuseReason, Refused, RequestEnd, RequestHead};
use crate::proxy::context::ConnectionContext;
use crate::proxy::http::{Held, Tries};
use crate::proxy::load::Load;
use crate::proxy::queue::{WaitEnd, wait_of_request};
use crate::proxy::registry::Watched;
use crate::proxy::report::secured;
use crate::proxy::request_place::RequestPlace;
use crate::proxy::request_report::{Begun, Heard, RequestReport, refused_by};

mod hedge;

/// How often a request that nobody took is decided anew. Each time its connection is
/// retired, so one that is going is asked once by each request that it left.
const MAX_TRIES: u16 = 4;
/// A head that is larger counts as bytes that wait.
const LARGE: usize = 8 * 1024;
/// Who leaves later than this has waited for an answer.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Who does not take an answer of the agent's own by then does not get it.
const TELL: Duration = Duration::from_secs(10);

/// What the connection's task learns when an exchange ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Done,
    /// Its client did not want it any more, sooner than most answers take.
    TakenBack,
}

pub(super) async fn exchange<S: Site>(site: Rc<S>, came: Box<http2::Exchange>) -> After {
    let http2::Exchange {
        size,
        head,
        body,
        respond,
        bad,
    } = *came;
    let kept = http2::held(&head);
    let mut running = Running {
        told: RequestReport::default(),
        transfer: Transfer::new(body, respond, size),
        client: Client::default(),
        began: Instant::now(),
        timed: Instant::now(),
        deadline: None,
        head: size,
        place: None,
        site,
        bad,
        _large: (kept > LARGE).then(|| Reserved::of(kept)),
    };
    running.serve(&head).await
}

struct Running<S> {
    site: Rc<S>,
    told: RequestReport,
    transfer: Transfer,
    client: Client,
    began: Instant,
    /// Start of the timeouts of route and policy; later than `began` behind an injected delay.
    timed: Instant,
    /// From the caller's `grpc-timeout`.
    deadline: Option<Instant>,
    /// Bytes of the request's head.
    head: usize,
    /// From its first decision on.
    place: Option<RequestPlace>,
    /// What is wrong with their number.
    bad: Option<Bad>,
    /// The head's, as long as it is kept.
    _large: Option<Reserved>,
}

impl<S: Site> Running<S> {
    async fn serve(&mut self, parts: &http2::request::Parts) -> After {
        // `no_room`: its server had none for it, and it goes once more by the budget's leave;
        // `was_full`: it had that chance.
        let (mut tries, mut no_room, mut was_full) = (0, false, false);
        let mut retries = Retries {
            parts,
            tries: Tries::new(Attempt::default(), None),
            next: None,
        };
        loop {
            tries += 1;
            let decided = match self.decide(&mut retries, std::mem::take(&mut no_room)) {
                Ok(Some(decided)) => decided,
                Ok(None) => return self.pass_on(Reason::REFUSED_STREAM).await,
                Err(bad) => {
                    let refused = Refused {
                        detail: Some(bad.detail()),
                        ..bad.reason(Of::Request).into()
                    };
                    return self.answer(refused).await;
                }
            };
            // Its place is taken now, or it is not for this one.
            if !retries.tries.attempt.is_held_back() {
                retries.tries.attempt.leave_queue();
            }
            let mut upstream = match decided {
                Ok(upstream) => upstream,
                Err(own) => {
                    let attempt = &mut retries.tries.attempt;
                    if !attempt.is_held_back() {
                        return self.tell(&own.0, own.1).await;
                    }
                    if let Some(after) = Box::pin(self.hold_back(attempt)).await {
                        return after;
                    }
                    tries = 0;
                    continue;
                }
            };
            let mut line = upstream.line.clone();
            let (is_outside, is_off) = (upstream.is_outside, upstream.is_off);
            retries.tries.retry = upstream.retry.take();
            let ends = self.by(upstream.times.whole(self.timed));
            let attempted = match upstream.hedging {
                None => self.attempt(upstream, &mut retries).await,
                Some(delay) => {
                    let by = (delay, &mut retries);
                    Box::pin(self.hedged(upstream, by, &mut line)).await
                }
            };
            let mut broken = match attempted {
                Ok(()) => {
                    self.told
                        .finish(self.transfer.carried(), RequestEnd::Finished);
                    self.transfer.linger().await;
                    return After::Done;
                }
                Err(broken) => broken,
            };
            if let Broken::Stopped(Stop::Again(held)) = broken {
                self.told.failed(held);
                continue;
            }
            if is_untaken(&broken, &line) {
                line.retire();
                if tries < MAX_TRIES && self.transfer.may_replay() {
                    // No server has worked on it, so it is no retry: the budget for those
                    // is for what makes servers work twice (RFC 9113, 8.7).
                    self.site.context().worker.agent.metrics.untaken.inc();
                    // Its endpoint is none that failed: a session stays there.
                    retries.tries.attempt.was_not_taken();
                    continue;
                }
            }
            if matches!(broken, Broken::Stopped(Stop::Refused))
                && !is_off
                && !was_full
                && self.transfer.may_replay()
            {
                (no_room, was_full) = (true, true);
                continue;
            }
            if let Broken::NoLine(refused) = &broken
                && self.told.may_help_elsewhere(refused)
                && !is_off
            {
                let held = Held::unreached(refused);
                match self.elsewhere(&mut retries, (held, ends)).await {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(left) => broken = left,
                }
            }
            if let Broken::TimedOut { is_sent } = broken
                && ends.is_none_or(|ends| Instant::now() < ends)
                && self.transfer.may_replay()
                && let Some(late) = retries.late(is_sent)
            {
                if !self.is_late(Instant::now()) {
                    self.told.failed(late);
                }
                match self.elsewhere(&mut retries, (late, ends)).await {
                    Ok(true) => {
                        self.told.failed(late);
                        continue;
                    }
                    Ok(false) => {}
                    Err(left) => broken = left,
                }
            }
            return self.conclude(broken, is_outside, &line).await;
        }
    }

    /// Whether it goes elsewhere: its endpoint was not reached, or not in time.
    async fn elsewhere(
        &mut self,
        retries: &mut Retries<'_, S::Kind>,
        held: (Held, Option<Instant>),
    ) -> Result<bool, Broken> {
        let (site, view) = (self.site.clone(), self.transfer.view());
        tokio::select! {
            biased; // nobody waits for an answer any more
            left = self.transfer.left() => Err(left.into()),
            goes = retries.wait(&*site, &view, held) => Ok(goes),
        }
    }

    /// Where it goes, or the answer that it gets here, and no server sees it. `None`:
    /// nowhere else, for its server had no room for it (`no_room`), and it may not.
    fn decide(
        &mut self,
        retries: &mut Retries<'_, S::Kind>,
        no_room: bool,
    ) -> Result<Option<Choice<S::Kind>>, Bad> {
        let observe = &self.site.context().worker.observe;
        let mut lines = HeadLines::default();
        let sized = self.bad.map_or(Ok(()), Err);
        let read = sized.and_then(|()| Head::of(retries.parts, &mut lines));
        let read = read.and_then(|head| match head.head.method {
            "CONNECT" => Err(Bad::ConnectMethod),
            _ => Ok(head.head),
        });
        let head = match read {
            Ok(head) => head,
            Err(bad) => {
                self.client.is_meshed = self.site.is_meshed();
                let begun = Begun {
                    flow: self.site.connection().base(None),
                    heard: Heard::nothing(),
                    route: None,
                    rule: None,
                    began: self.began,
                    head: self.head,
                };
                self.told.begin(observe, begun);
                return Err(bad);
            }
        };
        self.client = Client::of(&head, self.site.is_meshed());
        if self.client.is_grpc {
            self.transfer.is_grpc();
            let keeps = self.site.keeps_deadlines();
            self.deadline = keeps
                .then(|| deadline::of(&retries.parts.headers, self.began))
                .flatten();
            let due = self.deadline.map(|ends| deadline::due(self.began, ends));
            self.told.is_due(due);
        }
        let attempt = &mut retries.tries.attempt;
        let decided = match retries.next.take() {
            Some(Next(decided)) => decided,
            None => {
                let decided = match enter(&mut self.place, self.site.context()) {
                    Ok(()) => self.site.decide(&head, retries.parts, attempt),
                    Err(refused) => nowhere(&refused, &*self.site, self.client),
                };
                if no_room && !self.site.may_repeat(decided.load.as_ref()) {
                    return Ok(None);
                }
                decided
            }
        };
        // Rules saw an upgrade.
        let as_came = http2::is_tunnel(retries.parts).then(|| RequestHead {
            method: retries.parts.method.as_str(),
            ..head.clone()
        });
        let begun = Begun {
            flow: decided.flow,
            heard: Heard::of(
                as_came.as_ref().unwrap_or(&head),
                self.client.is_grpc,
                observe,
            ),
            route: decided.route,
            rule: decided.rule,
            began: self.began,
            head: self.head,
        };
        self.told.begin(observe, begun);
        let load = decided.load;
        let context = self.site.context();
        self.told
            .goes_to(load.map(|load| Load::new(load, context.clone())));
        Ok(Some(decided.forward))
    }

    /// It waits, on purpose or for a place; `Some`: it ends before it is decided on anew.
    async fn hold_back(&mut self, attempt: &mut Attempt) -> Option<After> {
        let is_delayed = attempt.delayed().is_some();
        let (of, deadline) = ((&**self.site.context(), &mut self.told), self.deadline);
        let left = async {
            tokio::select! {
                biased; // whatever ends it first is as good
                stop = self.transfer.left() => Some(stop),
                () = until(deadline) => None,
            }
        };
        let ended = match wait_of_request(attempt, of, left).await {
            WaitEnd::Over => {
                if is_delayed {
                    self.timed = Instant::now();
                }
                return None;
            }
            WaitEnd::Late(reason) => Err(reason.into()),
            WaitEnd::Cut(reason) => Err(reason.refuse()),
            WaitEnd::Left(None) => Err(RefuseReason::DeadlineExceeded.into()),
            WaitEnd::Left(Some(stop)) => stop.client_code().ok_or(RefuseReason::Internal.into()),
        };
        self.told.forget_rule();
        Some(match ended {
            Ok(code) => self.left(code).await,
            Err(refused) => self.answer(refused).await,
        })
    }

    async fn left(&mut self, code: Reason) -> After {
        let carried = self.transfer.carried();
        self.transfer.reset(code).await;
        self.told.finish(carried, RequestEnd::Client);
        match carried.answered.is_none() && self.began.elapsed() < AT_ONCE {
            true => After::TakenBack,
            false => After::Done,
        }
    }

    async fn attempt(
        &mut self,
        mut upstream: Box<UpstreamRequest<S::Kind>>,
        retries: &mut Retries<'_, S::Kind>,
    ) -> Result<(), Broken> {
        let times = upstream.times;
        if let Some(copies) = upstream.copies.take() {
            self.transfer.copy_to(copies);
        }
        self.told.attempt();
        let alone = upstream.watched.as_ref().map(Watched::alone);
        let now = Instant::now();
        let whole = self.by(times.whole(self.timed));
        let ends = self.by(times.ends(self.timed, now));
        if self.is_late(now) {
            return Err(Broken::TimedOut { is_sent: false });
        }
        if self.client.is_grpc {
            deadline::shorten(&mut upstream.request.headers, ends, now);
        }
        let site = self.site.clone();
        let context = site.context();
        let Self { told, transfer, .. } = self;
        let (mut up, mut answered) = {
            let request = (upstream.request, times.connect);
            let opening = open(&upstream.line, request, transfer.is_bare());
            let ended = tokio::select! {
                biased; // removal and drain win over a line just made
                reason = context.entry().cut.wait() => Err(Broken::Cut(reason)),
                reason = cut(alone.as_deref()) => Err(Broken::Cut(reason)),
                opened = opening => opened,
                left = transfer.left() => Err(left.into()),
                () = until(ends) => Err(Broken::TimedOut { is_sent: false }),
            };
            let (answered, up) = ended?;
            (up, answered)
        };
        show(told, &upstream.line, site.connection());
        let view = transfer.view();
        let is_bare = transfer.is_bare();
        let waits_behind = Cell::new(None);
        let hold = told.has_load().then_some(&upstream.hold);
        let again = async |held: Held| {
            waits_behind.set(Some(held));
            let goes = retries.wait(&*site, &view, (held, whole)).await;
            waits_behind.set(None);
            goes
        };
        let answer = (&mut answered, &upstream.response);
        let watch = Watch {
            cuts: (&context.entry().cut, alone.as_deref()),
            idle: times.idle.or(context.worker.agent.config.idle_timeout),
            ends,
            whole,
            waits_behind: &waits_behind,
        };
        let ended = {
            let running = pin!(transfer.run((&mut up, is_bare), answer, (hold, again)));
            watch.run(running, (told, &view)).await
        };
        let Some(broken) = ended else {
            return Ok(());
        };
        up.reset(code(&broken));
        Err(broken)
    }

    async fn conclude(&mut self, broken: Broken, is_outside: bool, line: &Line<S::Kind>) -> After {
        let carried = self.transfer.carried();
        let is_lost = matches!(broken, Broken::Stopped(Stop::Lost));
        let refused: Refused = match broken {
            Broken::Stopped(Stop::Client(code)) => return self.left(code).await,
            Broken::Stopped(Stop::Upstream(code)) => {
                return self.pass_on(code).await;
            }
            // The client may send it once more.
            Broken::Stopped(Stop::NotTaken | Stop::Refused) if line.fault().is_none() => {
                return self.pass_on(Reason::REFUSED_STREAM).await;
            }
            Broken::NoLine(refused) if is_outside && self.site.connection().is_fresh() => {
                self.told.finish(carried, refused_by(&refused));
                self.site.connection().fail(refused);
                return After::Done;
            }
            Broken::NoLine(refused) => {
                self.blame(line);
                refused
            }
            Broken::Stopped(Stop::NotTaken | Stop::Refused | Stop::Lost) => match line.fault() {
                Some(Fault::Refused(refused)) => {
                    self.blame(line);
                    *refused
                }
                Some(Fault::NotTaken) | None => RefuseReason::UpstreamClosed.into(),
            },
            Broken::Stopped(Stop::Answer(bad)) => Refused {
                detail: Some(bad.detail()),
                ..bad.reason(Of::Response).into()
            },
            Broken::Stopped(Stop::Edit | Stop::Again(_)) => RefuseReason::Internal.into(),
            Broken::Cut(reason) => {
                self.told.forget_rule();
                reason.refuse()
            }
            Broken::TimedOut { .. } if self.is_late(Instant::now()) => {
                RefuseReason::DeadlineExceeded.into()
            }
            Broken::Idle | Broken::TimedOut { .. } => RefuseReason::RequestTimeout.into(),
            Broken::NotOffered => RefuseReason::UpgradeNotOffered.into(),
        };
        if !self.transfer.has_answered() {
            return self.answer(refused).await;
        }
        let ended = match is_lost {
            true => RequestEnd::Upstream,
            false => refused_by(&refused),
        };
        self.break_off(&refused).await;
        self.told.finish(self.transfer.carried(), ended);
        After::Done
    }

    /// The sooner of that and what its caller says.
    fn by(&self, ends: Option<Instant>) -> Option<Instant> {
        [ends, self.deadline].into_iter().flatten().min()
    }

    /// Its caller waits no more.
    fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    fn blame(&mut self, line: &Line<S::Kind>) {
        if let (Some(flow), Some(rule)) = (self.told.flow(), &*line.denied_by.borrow()) {
            Arc::make_mut(flow).denied_by = Some(rule.clone());
        }
    }

    /// The upstream's own word.
    async fn pass_on(&mut self, code: Reason) -> After {
        self.transfer.reset(code).await;
        self.told
            .finish(self.transfer.carried(), RequestEnd::Upstream);
        After::Done
    }

    /// Ends an answer that had begun: gRPC has words for it.
    async fn break_off(&mut self, refused: &Refused) {
        if self.client.is_grpc {
            let answer = Answer::refused(refused, self.client);
            let head = http2::answer_head(&answer).map(|head| head.into_parts().0);
            let mut trailers: HeaderMap = head.map(|head| head.headers).unwrap_or_default();
            trailers.remove("content-type");
            trailers.remove("content-length");
            self.transfer.end_with(trailers);
        } else {
            self.transfer.reset(Reason::INTERNAL_ERROR).await;
        }
    }

    async fn answer(&mut self, refused: Refused) -> After {
        let answer = Answer::refused(&refused, self.client);
        self.tell(&answer, refused_by(&refused)).await
    }

    /// The agent's own answer.
    async fn tell(&mut self, answer: &Answer, ended: RequestEnd) -> After {
        if let Some(flow) = self.told.flow() {
            self.site.connection().describe(flow);
        }
        let head = http2::answer_head(answer);
        let bytes = head.as_ref().map_or(0, |head| http2::size(head.headers())) + answer.body.len();
        self.told.answered(answer, bytes, ended);
        let telling = self.transfer.answer(head, answer.body.clone());
        // Who does not take it has it reset.
        if timeout(TELL, telling).await.is_ok() {
            self.transfer.linger().await;
        }
        After::Done
    }
}

/// Its place, which it has until it is over.
fn enter(place: &mut Option<RequestPlace>, context: &Rc<ConnectionContext>) -> Result<(), Refused> {
    if place.is_none() {
        *place = Some(RequestPlace::take(context)?);
    }
    Ok(())
}

/// It is answered here, before anything is decided of it.
fn nowhere<S: Site>(refused: &Refused, site: &S, client: Client) -> RequestDecision<S::Kind> {
    RequestDecision {
        forward: Err((Answer::refused(refused, client), refused_by(refused))),
        load: None,
        flow: site.connection().base(None),
        route: None,
        rule: None,
    }
}

/// It is known whom it goes to.
fn show<K>(told: &mut RequestReport, line: &Line<K>, connection: &ClientConnection) {
    told.connected();
    let Some(flow) = told.flow() else {
        return;
    };
    let mut last = line.flow.borrow_mut();
    let is_told = |before: &Arc<Flow>| Arc::ptr_eq(before, flow);
    if !last.as_ref().is_some_and(is_told) {
        if let Some((tls, peer)) = line.session() {
            secured(Arc::make_mut(flow), tls, &peer);
        }
        *last = Some(flow.clone());
    }
    connection.describe(flow);
}
