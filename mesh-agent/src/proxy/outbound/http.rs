//! Requests of a local pod: each is decided on by itself, and goes to an endpoint
//! over a connection that is this client connection's alone.
//!
//! The next request sees the configuration that holds when it comes. No byte of one
//! is written but to an upstream that its own decision names.

use std::sync::Arc;
use std::time::Instant;

use super::course::{Found, Own, course};
use super::upstreams::{Upstream, Upstreams, Way};
use crate::http::answer::{Answer, Client};
use crate::http::h1::{Bad, Framing, Request, Side as Of};
use crate::model::http_route::Timeouts;
use crate::model::{
    CloseReason, Direction, Edits, Flow, RefuseReason, Refused, RequestEnd, RuleRef, Security,
    UnknownPeer, Workload,
};
use crate::proxy::accepted::Accepted;
use crate::proxy::context::Exchange;
use crate::proxy::forward::ForwardEnd;
use crate::proxy::http::{
    Again, Carried, Driven, Ended, Fail, Inbox, Leg, Next, Planned, Side, Totals, Transfer, Watch,
    drive, is_safe, silence, told,
};
use crate::proxy::report::{Report, secured};
use crate::proxy::request_report::{Begun, Heard, RequestReport, cut_short, refused_by};
use crate::tunnel::{ResetReason, StreamEnd};

/// The requests of one client connection.
pub(super) struct Requests<'r> {
    accepted: &'r Accepted,
    report: &'r mut Report,
    upstreams: Upstreams<'r>,
    totals: Totals,
    told: RequestReport,
}

/// What was decided of a request by its head.
struct Decided {
    course: Result<Going, Own>,
    found: Found,
    heard: Heard,
    /// The rule of a policy that said no.
    rule: Option<RuleRef>,
    generation: u64,
    client: Client,
    /// Of its head.
    len: usize,
    /// Behind an answer of the agent's own the client may ask on.
    may_stay: bool,
    is_safe: bool,
}

/// A request that goes on.
struct Going {
    way: Way,
    planned: Planned,
    response: Edits,
    limits: Limits,
}

/// How long it may take, by its route.
#[derive(Clone, Copy)]
struct Limits {
    timeouts: Timeouts,
    began: Instant,
}

impl Limits {
    fn whole(self) -> Option<Instant> {
        self.timeouts.request.map(|longest| self.began + longest)
    }

    /// When an attempt that begins now has to be over.
    fn attempt(self, now: Instant) -> Option<Instant> {
        let one = self.timeouts.backend_request.map(|longest| now + longest);
        [self.whole(), one].into_iter().flatten().min()
    }
}

/// The client's connection goes on, or how it ended.
type GoesOn = Result<(), CloseReason>;

impl<'r> Requests<'r> {
    /// `open`: an upstream that is there already.
    pub(super) fn new(
        accepted: &'r Accepted,
        report: &'r mut Report,
        open: Option<Upstream>,
    ) -> Self {
        Self {
            accepted,
            report,
            upstreams: Upstreams::new(accepted.context_rc(), open),
            totals: Totals::default(),
            told: RequestReport::default(),
        }
    }

    /// To the end of the client's connection; what does not end well is to be reset.
    pub(super) async fn serve(mut self) -> ForwardEnd {
        let mut inbox = Inbox::default();
        let client = &mut Side {
            leg: Leg::Socket(&self.accepted.client),
            inbox: &mut inbox,
        };
        let reason = loop {
            if let Err(reason) = self.next(client).await {
                break reason;
            }
            // Those that a client sends in advance may be refused without a wait.
            tokio::task::yield_now().await;
        };
        (self.totals.bytes(), reason)
    }

    async fn next(&mut self, client: &mut Side<'_>) -> GoesOn {
        let context = self.accepted.context();
        let idle = context.worker.agent.config.idle_timeout;
        let next = tokio::select! {
            biased; // a cut must not wait for the next request
            reason = context.entry().cut.wait() => return Err(reason.close()),
            next = client.next(|request, bytes| self.decide(request, bytes)) => next,
            // Between two requests.
            () = context.worker.draining.cancelled() => Next::End,
            () = silence(idle) => return Err(CloseReason::IdleTimeout),
        };
        match next {
            Next::Request(decided) => Box::pin(self.exchange(client, decided)).await,
            Next::End => {
                client.linger().await;
                Err(CloseReason::Finished)
            }
            Next::Bad(bad) => self.refuse(client, bad).await,
            Next::Slow => {
                let slow = RefuseReason::SlowRequest.into();
                self.begin_nothing(client);
                self.answer(client, slow, Client::default(), false).await
            }
            Next::Lost => Err(CloseReason::ResetByClient),
        }
    }

    fn decide(&self, request: &Request<'_>, bytes: &[u8]) -> Decided {
        let exchange = Exchange::begin(&self.accepted.exchange.context);
        let to = Client::of(&request.head, true);
        let (mut found, mut rule) = (Found::default(), None);
        let course = going(&exchange, request, bytes, &mut found).unwrap_or_else(|refused| {
            let own = (Answer::of(refused.reason, to), refused_by(&refused));
            rule = refused.rule;
            Err(own)
        });
        let observe = &exchange.context.worker.observe;
        Decided {
            course,
            found,
            heard: Heard::of(&request.head, to.is_grpc, observe),
            rule,
            generation: exchange.in_force.snapshot.generation,
            client: to,
            len: bytes.len(),
            may_stay: request.persistent && request.framing == Framing::None,
            is_safe: is_safe(&request.head),
        }
    }

    async fn exchange(&mut self, client: &mut Side<'_>, decided: Decided) -> GoesOn {
        let to = decided.client;
        let (began, head) = (client.inbox.began(), decided.len);
        let way = decided.course.as_ref().ok().map(|going| &going.way);
        let before = way.and_then(|way| self.upstreams.take(way));
        let rule = match way {
            Some(Way::SameNode { authorized, .. }) => authorized.permit().rule().cloned(),
            Some(Way::Mesh(_) | Way::Plain(_)) | None => decided.rule,
        };
        let before_flow = before.as_ref().and_then(|upstream| upstream.flow.as_ref());
        let flow = self.flow(&decided.found, way, before_flow, decided.generation);
        let begun = Begun {
            flow,
            heard: decided.heard,
            route: decided.found.route,
            rule,
            began,
            head,
        };
        self.told
            .begin(&self.accepted.context().worker.observe, begun);
        let going = match decided.course {
            Ok(going) => going,
            Err((answer, ended)) => {
                client.inbox.consume(decided.len);
                return self.tell(client, &answer, ended, decided.may_stay).await;
            }
        };
        let Going {
            way,
            planned,
            response,
            limits,
        } = going;
        self.describe();
        self.told.attempt();
        let is_reused = before.is_some();
        let upstream = match before {
            Some(upstream) => upstream,
            None => match self.connect(&way, limits).await {
                Ok(upstream) => upstream,
                // What is not the mesh's to speak for looks as it would without the mesh.
                Err(refused) if matches!(way, Way::Plain(_)) && !self.report.is_open() => {
                    self.report.blame(&refused);
                    self.told.finish(Carried::default(), refused_by(&refused));
                    return Err(CloseReason::Refused(refused.reason));
                }
                Err(refused) => {
                    client.inbox.consume(decided.len);
                    return self.answer(client, refused, to, decided.may_stay).await;
                }
            },
        };
        let planned = planned.of_grpc(to.is_grpc);
        let mut transfer = Transfer::new(planned, response, is_reused, client);
        let again = Again {
            is_reused,
            is_safe: decided.is_safe,
        };
        self.carry(client, &mut transfer, upstream, (&way, again, limits), to)
            .await
    }

    async fn connect(&mut self, way: &Way, limits: Limits) -> Result<Upstream, Refused> {
        let connecting = self.upstreams.connect(way);
        let Some(ends) = limits.attempt(Instant::now()) else {
            return connecting.await;
        };
        tokio::time::timeout_at(ends.into(), connecting)
            .await
            .unwrap_or(Err(RefuseReason::RequestTimeout.into()))
    }

    /// Of what is no request, or none that is whole.
    fn begin_nothing(&mut self, client: &Side<'_>) {
        let generation = self.report.flow.generation;
        let begun = Begun {
            flow: self.flow(&Found::default(), None, None, generation),
            heard: Heard::nothing(),
            route: None,
            rule: None,
            began: client.inbox.began(),
            head: client.inbox.bytes().len(),
        };
        self.told
            .begin(&self.accepted.context().worker.observe, begun);
    }

    /// Who talks to whom by a request; the one of the upstream's last, if it is the same.
    fn flow(
        &mut self,
        found: &Found,
        way: Option<&Way>,
        before: Option<&Arc<Flow>>,
        generation: u64,
    ) -> Arc<Flow> {
        let base = base(&mut self.told, self.accepted, self.report, generation);
        let Some(target) = &found.target else {
            return base;
        };
        if let Some(before) = before
            && before.generation == generation
            && before.upstream == Some(target.upstream)
            && before.service == target.service
            && is_same(&before.destination, target.destination.as_ref())
        {
            return before.clone();
        }
        let mut flow = Flow::clone(&base);
        flow.upstream = Some(target.upstream);
        flow.service.clone_from(&target.service);
        flow.destination = target.destination.clone().ok_or(UnknownPeer);
        if let Some(expected) = &found.same_node {
            flow.direction = Direction::SameNode;
            flow.security = Security::SameNode;
            flow.destination_principal.clone_from(expected);
        }
        match way {
            Some(Way::Mesh(peer)) => flow.destination_principal = Some(peer.expected().clone()),
            Some(Way::Plain(_)) => flow.security = Security::None,
            Some(Way::SameNode { .. }) | None => {}
        }
        Arc::new(flow)
    }

    /// The connection's record names the first exchange's target.
    fn describe(&mut self) {
        if let (false, Some(of)) = (self.report.is_open(), self.told.flow()) {
            let flow = self.report.flow();
            flow.upstream = of.upstream;
            flow.service.clone_from(&of.service);
            flow.destination.clone_from(&of.destination);
            flow.destination_principal
                .clone_from(&of.destination_principal);
            flow.direction = of.direction;
            flow.security = of.security;
        }
    }

    async fn carry(
        &mut self,
        client: &mut Side<'_>,
        transfer: &mut Transfer,
        mut upstream: Upstream,
        (way, mut again, limits): (&Way, Again, Limits),
        to: Client,
    ) -> GoesOn {
        loop {
            self.show(&mut upstream);
            let ends = limits.attempt(Instant::now());
            let driven = self.drive(client, transfer, &mut upstream, ends).await;
            if let Driven::Failed(Fail::Upstream(end)) = driven {
                let next = match end {
                    Some(StreamEnd::NotTaken) => {
                        upstream.flow = None;
                        self.upstreams.replay(upstream, way).await.map(Ok)
                    }
                    end => self.again(transfer, upstream, (way, again), end).await,
                };
                match next {
                    Ok(Ok(fresh)) => {
                        upstream = fresh;
                        self.told.attempt();
                        again.is_reused = false;
                        continue;
                    }
                    Ok(Err(kept)) => upstream = kept,
                    Err(refused) => return self.answer(client, refused, to, false).await,
                }
            }
            self.totals.settle(transfer);
            return self
                .conclude(client, transfer, (driven, upstream), to)
                .await;
        }
    }

    /// Another upstream for a request that this one had not begun to answer, where it
    /// may be sent once more; else gives it back.
    async fn again(
        &mut self,
        transfer: &mut Transfer,
        mut upstream: Upstream,
        (way, again): (&Way, Again),
        end: Option<StreamEnd>,
    ) -> Result<Result<Upstream, Upstream>, Refused> {
        if !again.is_reused || !upstream.may_go_again(end, again, transfer) {
            return Ok(Err(upstream));
        }
        let Some(sent) = transfer.begin_again(&upstream.side()) else {
            return Ok(Err(upstream));
        };
        self.upstreams.leave(upstream, None);
        let fresh = self.upstreams.connect(way).await?;
        transfer.resend(&sent);
        Ok(Ok(fresh))
    }

    fn show(&mut self, upstream: &mut Upstream) {
        if let (false, Some((tls, peer))) = (self.report.is_open(), upstream.session()) {
            self.report.secured(tls, peer);
        }
        self.told.connected();
        let Some(flow) = self.told.flow() else {
            return;
        };
        let is_told = |before: &Arc<Flow>| Arc::ptr_eq(before, flow);
        if upstream.flow.as_ref().is_some_and(is_told) {
            return;
        }
        if let Some((tls, peer)) = upstream.session() {
            secured(Arc::make_mut(flow), tls, peer);
        }
        upstream.flow = Some(flow.clone());
    }

    async fn drive(
        &mut self,
        client: &mut Side<'_>,
        transfer: &mut Transfer,
        upstream: &mut Upstream,
        deadline: Option<Instant>,
    ) -> Driven {
        let context = self.accepted.context();
        let mut watch = Watch {
            cut: &context.entry().cut,
            report: self.report,
            totals: &mut self.totals,
            idle: context.worker.agent.config.idle_timeout,
            deadline,
        };
        drive(transfer, client, &mut upstream.side(), &mut watch).await
    }

    async fn conclude(
        &mut self,
        client: &mut Side<'_>,
        transfer: &Transfer,
        (driven, mut upstream): (Driven, Upstream),
        to: Client,
    ) -> GoesOn {
        let carried = transfer.carried();
        let fail = match driven {
            Driven::Ended(Ended {
                keep_client,
                keep_upstream,
            }) => {
                match keep_upstream {
                    true => self.upstreams.keep(upstream),
                    false => self.upstreams.leave(upstream, None),
                }
                self.told.finish(carried, RequestEnd::Finished);
                if keep_client {
                    return Ok(());
                }
                client.linger().await;
                return Err(CloseReason::Finished);
            }
            Driven::Cut(reason) => {
                self.told.forget_rule();
                let ended = RequestEnd::Refused(reason.refuse_reason(), None);
                self.told.finish(carried, ended);
                self.upstreams.leave(upstream, Some(ResetReason::Cut));
                return Err(reason.close());
            }
            Driven::Idle => {
                let ended = RequestEnd::Refused(RefuseReason::RequestTimeout, None);
                self.told.finish(carried, ended);
                self.upstreams.leave(upstream, Some(ResetReason::Cut));
                return Err(CloseReason::IdleTimeout);
            }
            Driven::TimedOut => {
                self.upstreams.leave(upstream, Some(ResetReason::Aborted));
                if transfer.has_answered() {
                    let ended = RequestEnd::Refused(RefuseReason::RequestTimeout, None);
                    self.told.finish(carried, ended);
                    return Err(CloseReason::ResetByUpstream);
                }
                let late = RefuseReason::RequestTimeout.into();
                return self.answer(client, late, to, false).await;
            }
            Driven::Failed(fail) => fail,
        };
        let refused = upstream.refusal(fail, self.report);
        // It must not take what it got for all there was.
        self.upstreams.leave(upstream, Some(ResetReason::Aborted));
        let close = match fail {
            Fail::Client(_) => {
                self.told.finish(carried, RequestEnd::Client);
                return Err(CloseReason::ResetByClient);
            }
            Fail::Request(_) => CloseReason::ResetByClient,
            Fail::Upstream(Some(StreamEnd::Protocol(_))) => CloseReason::ProtocolError,
            Fail::Upstream(_) | Fail::Answer(_) | Fail::Edit => CloseReason::ResetByUpstream,
        };
        if transfer.has_answered() {
            self.told.finish(carried, cut_short(fail, &refused));
            return Err(close);
        }
        self.answer(client, refused, to, false).await
    }

    /// What is no request, and so the connection's last.
    async fn refuse(&mut self, client: &mut Side<'_>, bad: Bad) -> GoesOn {
        let to = Client {
            is_meshed: true,
            ..Client::default()
        };
        self.begin_nothing(client);
        let refused = Refused {
            detail: Some(bad.detail()),
            ..bad.reason(Of::Request).into()
        };
        self.answer(client, refused, to, false).await
    }

    /// The agent's own answer; `stays`: the client may ask on.
    async fn answer(
        &mut self,
        client: &mut Side<'_>,
        refused: Refused,
        to: Client,
        stays: bool,
    ) -> GoesOn {
        let ended = refused_by(&refused);
        let answer = Answer::of(refused.reason, to);
        self.tell(client, &answer, ended, stays).await
    }

    async fn tell(
        &mut self,
        client: &mut Side<'_>,
        answer: &Answer,
        ended: RequestEnd,
        stays: bool,
    ) -> GoesOn {
        let bytes = answer.bytes(!stays);
        self.totals.answered(bytes.len(), self.report);
        let context = self.accepted.context();
        let idle = context.worker.agent.config.idle_timeout;
        let told = told(client, &bytes, &context.entry().cut, idle).await;
        self.told.answered(answer, bytes.len(), ended);
        told?;
        if stays {
            return Ok(());
        }
        client.linger().await;
        Err(CloseReason::Finished)
    }
}

/// Where a request goes and what changes of it, or the answer that it gets here.
fn going(
    exchange: &Exchange,
    request: &Request<'_>,
    bytes: &[u8],
    found: &mut Found,
) -> Result<Result<Going, Own>, Refused> {
    let course = match course(exchange, (request, bytes), found)? {
        Ok(course) => course,
        Err(own) => return Ok(Err(own)),
    };
    Ok(Ok(Going {
        way: course.way,
        planned: course.planned,
        response: course.response,
        limits: Limits {
            timeouts: course.timeouts,
            began: Instant::now(),
        },
    }))
}

/// Of a request that goes nowhere else.
fn base(
    told: &mut RequestReport,
    accepted: &Accepted,
    report: &Report,
    generation: u64,
) -> Arc<Flow> {
    told.base(report, generation, |flow| {
        let exchange = &accepted.exchange;
        let vip = exchange.context.orig_dst.ip();
        let service = exchange.in_force.snapshot.by_vip.get(&vip);
        flow.direction = Direction::Outbound;
        flow.upstream = None;
        flow.destination = Err(UnknownPeer);
        flow.service = service.map(|service| service.key.clone());
        flow.destination_principal = None;
        flow.security = Security::Unknown;
        flow.tls = None;
        flow.peer_certificate = None;
    })
}

fn is_same(a: &Result<Arc<Workload>, UnknownPeer>, b: Option<&Arc<Workload>>) -> bool {
    match (a, b) {
        (Ok(a), Some(b)) => Arc::ptr_eq(a, b),
        (Err(UnknownPeer), None) => true,
        (Ok(_), None) | (Err(UnknownPeer), Some(_)) => false,
    }
}
