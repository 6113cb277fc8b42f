//! Requests of a local pod: each is decided on by itself, and goes to an endpoint
//! over a connection that is this client connection's alone.
//!
//! The next request sees the configuration that holds when it comes. No byte of one
//! is written but to an upstream that its own decision names.

use std::time::Instant;

use super::course::course;
use super::upstreams::{Upstream, Upstreams, Way};
use crate::http::answer::{Answer, Client};
use crate::http::h1::{Bad, Framing, Request, Side as Of};
use crate::model::http_route::Timeouts;
use crate::model::{CloseReason, Direction, Edits, RefuseReason, Refused, Security, UnknownPeer};
use crate::plan::Target;
use crate::proxy::accepted::Accepted;
use crate::proxy::context::Exchange;
use crate::proxy::forward::ForwardEnd;
use crate::proxy::http::{
    Again, Driven, Ended, Fail, Inbox, Leg, Next, Planned, Side, Totals, Transfer, Watch, drive,
    is_safe, silence,
};
use crate::proxy::report::Report;
use crate::tunnel::{ResetReason, StreamEnd};

/// The requests of one client connection.
pub(super) struct Requests<'r> {
    accepted: &'r Accepted,
    report: &'r mut Report,
    upstreams: Upstreams<'r>,
    totals: Totals,
}

/// What was decided of a request by its head.
struct Decided {
    course: Result<Going, Answer>,
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
    target: Target,
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
                self.answer(client, slow, Client::default(), false).await
            }
            Next::Lost => Err(CloseReason::ResetByClient),
        }
    }

    fn decide(&self, request: &Request<'_>, bytes: &[u8]) -> Decided {
        let exchange = Exchange::begin(&self.accepted.exchange.context);
        let to = Client::of(&request.head, true);
        Decided {
            course: going(&exchange, request, bytes)
                .unwrap_or_else(|refused| Err(Answer::of(refused.reason, to))),
            client: to,
            len: bytes.len(),
            may_stay: request.persistent && request.framing == Framing::None,
            is_safe: is_safe(&request.head),
        }
    }

    async fn exchange(&mut self, client: &mut Side<'_>, decided: Decided) -> GoesOn {
        let to = decided.client;
        let going = match decided.course {
            Ok(going) => going,
            Err(answer) => {
                client.inbox.consume(decided.len);
                return self.tell(client, &answer, decided.may_stay).await;
            }
        };
        let Going {
            way,
            target,
            planned,
            response,
            limits,
        } = going;
        self.describe(&way, target);
        let before = self.upstreams.take(&way);
        let is_reused = before.is_some();
        let upstream = match before {
            Some(upstream) => upstream,
            None => match self.connect(&way, limits).await {
                Ok(upstream) => upstream,
                Err(refused) => {
                    client.inbox.consume(decided.len);
                    return self.answer(client, refused, to, decided.may_stay).await;
                }
            },
        };
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

    /// The connection's record names the first exchange's target.
    fn describe(&mut self, way: &Way, target: Target) {
        if self.report.is_open() {
            return;
        }
        let flow = self.report.flow();
        flow.upstream = Some(target.upstream);
        flow.service = target.service;
        flow.destination = target.destination.ok_or(UnknownPeer);
        match way {
            Way::Mesh(peer) => flow.destination_principal = Some(peer.expected().clone()),
            Way::SameNode { expected, .. } => {
                flow.direction = Direction::SameNode;
                flow.security = Security::SameNode;
                flow.destination_principal.clone_from(expected);
            }
            Way::Plain(_) => flow.security = Security::None,
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
            self.show(&upstream);
            let ends = limits.attempt(Instant::now());
            let driven = self.drive(client, transfer, &mut upstream, ends).await;
            if let Driven::Failed(Fail::Upstream(end)) = driven {
                let next = match end {
                    Some(StreamEnd::NotTaken) => self.upstreams.replay(upstream, way).await.map(Ok),
                    end => self.again(transfer, upstream, (way, again), end).await,
                };
                match next {
                    Ok(Ok(fresh)) => {
                        upstream = fresh;
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

    fn show(&mut self, upstream: &Upstream) {
        if let (false, Some((tls, peer))) = (self.report.is_open(), upstream.session()) {
            self.report.secured(tls, peer);
        }
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
        let fail = match driven {
            Driven::Ended(Ended {
                keep_client,
                keep_upstream,
            }) => {
                match keep_upstream {
                    true => self.upstreams.keep(upstream),
                    false => self.upstreams.leave(upstream, None),
                }
                if keep_client {
                    return Ok(());
                }
                client.linger().await;
                return Err(CloseReason::Finished);
            }
            Driven::Cut(reason) => {
                self.upstreams.leave(upstream, Some(ResetReason::Cut));
                return Err(reason.close());
            }
            Driven::Idle => {
                self.upstreams.leave(upstream, Some(ResetReason::Cut));
                return Err(CloseReason::IdleTimeout);
            }
            Driven::TimedOut => {
                self.upstreams.leave(upstream, Some(ResetReason::Aborted));
                if transfer.has_answered() {
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
            Fail::Client(_) => return Err(CloseReason::ResetByClient),
            Fail::Request(_) => CloseReason::ResetByClient,
            Fail::Upstream(Some(StreamEnd::Protocol(_))) => CloseReason::ProtocolError,
            Fail::Upstream(_) | Fail::Answer(_) | Fail::Edit => CloseReason::ResetByUpstream,
        };
        if transfer.has_answered() {
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
        let refused = bad.reason(Of::Request).into();
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
        self.tell(client, &Answer::of(refused.reason, to), stays)
            .await
    }

    async fn tell(&mut self, client: &mut Side<'_>, answer: &Answer, stays: bool) -> GoesOn {
        let bytes = answer.bytes(!stays);
        self.totals.answered(bytes.len(), self.report);
        if client.answer(&bytes).await.is_err() {
            return Err(CloseReason::ResetByClient);
        }
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
) -> Result<Result<Going, Answer>, Refused> {
    let course = match course(exchange, request)? {
        Ok(course) => course,
        Err(answer) => return Ok(Err(answer)),
    };
    let planned = Planned::of(request, bytes, Some(&course.request));
    Ok(Ok(Going {
        way: course.way,
        target: course.target,
        planned: planned.map_err(|_| RefuseReason::Internal)?,
        response: course.response,
        limits: Limits {
            timeouts: course.timeouts,
            began: Instant::now(),
        },
    }))
}
