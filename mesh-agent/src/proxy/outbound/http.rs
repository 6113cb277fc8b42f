//! Requests of a local pod: each is decided on by itself, and goes to an endpoint
//! over a connection that is this client connection's alone.
//!
//! The next request sees the configuration that holds when it comes. No byte of one
//! is written but to an upstream that its own decision names.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use super::decided::{Came, Going, Http1Decision, Limits};
use super::flow;
use super::routed::Found;
use super::sent::Sent;
use super::upstreams::{LARGE, Transport, Upstream, Upstreams};
use crate::http::answer::{Answer, Client};
use crate::http::h1::{Bad, Request, Side as Of};
use crate::io::{Held, spare};
use crate::model::{CloseReason, Flow, RefuseReason, Refused, RequestEnd};
use crate::proxy::accepted::Accepted;
use crate::proxy::forward::ForwardEnd;
use crate::proxy::http::{
    ByteStream, Carried, Driven, Fail, Hold, Inbox, KeptOpen, Next, Replayable, Side, Totals,
    Transfer, Tries, Watch, drive, silence, told,
};
use crate::proxy::load::Load;
use crate::proxy::report::{Report, secured};
use crate::proxy::request_report::{Base, Begun, Heard, RequestReport, cut_short, refused_by};
use crate::tunnel::{ResetReason, StreamEnd};

/// The requests of one client connection.
pub(super) struct Requests<'r> {
    pub(super) accepted: &'r Accepted,
    report: &'r mut Report,
    pub(super) upstreams: Upstreams<'r>,
    totals: Totals,
    pub(super) told: RequestReport,
}

/// When a try has to be over, and its times.
pub(super) type By = (Option<Instant>, Limits);

/// The client's connection goes on, or how it ended.
pub(super) type GoesOn = Result<(), CloseReason>;

impl<'r> Requests<'r> {
    /// `open`: an upstream that is there already.
    pub(super) fn new(
        accepted: &'r Accepted,
        report: &'r mut Report,
        open: Option<Box<Upstream>>,
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
    pub(super) async fn serve(&mut self) -> ForwardEnd {
        let mut inbox = Inbox::default();
        let client = &mut Side {
            stream: ByteStream::Socket(&self.accepted.client),
            inbox: &mut inbox,
        };
        let reason = loop {
            if let Err(reason) = self.next(client).await {
                break reason;
            }
            // Those that a client sends in advance may be refused without a wait: others run
            // after some.
            tokio::task::coop::consume_budget().await;
        };
        (self.totals.bytes(), reason)
    }

    async fn next(&mut self, client: &mut Side<'_>) -> GoesOn {
        let context = self.accepted.context();
        let idle = context.worker.agent.config.idle_timeout;
        let request = self.accepted.context_rc();
        let decide = |asked: &Request<'_>, bytes: &[u8]| Came::decided(request, asked, bytes);
        let farewell = pin!(context.worker.idle_is_over());
        let next = tokio::select! {
            biased; // a cut must not wait for the next request
            reason = context.entry().cut.wait() => return Err(reason.close()),
            next = client.next_before(decide, farewell) => next,
            () = silence(idle) => return Err(CloseReason::IdleTimeout),
        };
        match next {
            Next::Request(came) => Box::pin(self.answered(client, came)).await,
            Next::End => {
                client.linger().await;
                Err(CloseReason::Finished)
            }
            Next::Bad(bad) => Box::pin(self.refuse(client, bad)).await,
            Next::Slow => {
                let slow = RefuseReason::SlowRequest.into();
                self.begin_nothing(client);
                Box::pin(self.answer(client, slow, Client::default(), false)).await
            }
            Next::Lost => Err(CloseReason::ResetByClient),
        }
    }

    async fn answered(&mut self, client: &mut Side<'_>, came: Box<Came>) -> GoesOn {
        let Came {
            decided,
            attempt,
            place: _until_it_is_answered,
        } = *came;
        self.exchange(client, decided, Tries::new(attempt, None))
            .await
    }

    async fn exchange(
        &mut self,
        client: &mut Side<'_>,
        mut decided: Box<Http1Decision>,
        mut tries: Tries,
    ) -> GoesOn {
        if tries.attempt.is_held_back() {
            let held_back = self.held_back(client, *decided, &mut tries.attempt);
            decided = match Box::pin(held_back).await {
                Ok(decided) => Box::new(decided),
                Err(goes_on) => return goes_on,
            };
        }
        let to = decided.client;
        let mut began = tries.attempt.queued_since();
        loop {
            let before = self.begin(client, &mut decided);
            let mut going = match decided.forward {
                Ok(going) => going,
                Err((answer, ended)) => {
                    // Whom it is told may take its time.
                    tries.attempt.leave_queue();
                    client.inbox.consume(decided.len);
                    let telling = self.tell(client, &answer, ended, decided.may_stay);
                    return Box::pin(telling).await;
                }
            };
            let limits = &mut going.limits;
            limits.began = *began.get_or_insert(limits.began);
            let limits = *limits;
            tries.retry = going.retry.take();
            self.describe();
            self.told.attempt();
            let is_reused = before.is_some();
            let ends = limits.attempt(Instant::now());
            let upstream = match before {
                Some(upstream) => Ok(upstream),
                None => Box::pin(self.connect(&going.via, (ends, limits))).await,
            };
            let refused = match upstream {
                Ok(upstream) => {
                    let replayable = Replayable {
                        is_reused,
                        is_safe: decided.is_safe,
                    };
                    let by = (ends, limits);
                    let (mut transfer, mut sent, via) =
                        self.prepare(client, (going, replayable), tries, (decided.len, to));
                    let what = (&mut transfer, &mut sent);
                    let way = (via, replayable, by);
                    return self.forward_request(client, what, upstream, way, to).await;
                }
                Err(refused) => refused,
            };
            let elsewhere = self.elsewhere(client, &refused, (&mut tries, limits));
            let refused = match Box::pin(elsewhere).await {
                Ok(Some(another)) => {
                    *decided = another;
                    if let Ok(instead) = &mut decided.forward {
                        instead.copies = going.copies;
                    }
                    continue;
                }
                Ok(None) => refused,
                Err(cut) => cut,
            };
            // What is not the mesh's to speak for looks as it would without the mesh.
            if matches!(going.via, Transport::Plain(_)) && !self.report.is_open() {
                self.report.blame(&refused);
                self.told.finish(Carried::default(), refused_by(&refused));
                return Err(CloseReason::Refused(refused.reason));
            }
            client.inbox.consume(decided.len);
            let answering = self.answer(client, refused, to, decided.may_stay);
            return Box::pin(answering).await;
        }
    }

    /// Its record, and an idle upstream that goes where it is to go.
    pub(super) fn begin(
        &mut self,
        client: &Side<'_>,
        decided: &mut Http1Decision,
    ) -> Option<Upstream> {
        let (before, begun) = self.begun(client.inbox.began(), decided);
        let context = self.accepted.context_rc();
        self.told.begin(&context.worker.observe, begun);
        let target = decided.found.target.as_mut();
        let load = target.and_then(|target| target.load.take());
        self.told
            .goes_to(load.map(|load| Load::new(load, context.clone())));
        before
    }

    /// The same, and nothing is told yet.
    pub(super) fn begun(
        &mut self,
        began: Instant,
        decided: &mut Http1Decision,
    ) -> (Option<Upstream>, Begun) {
        if let Ok(going) = &decided.forward {
            self.upstreams.next_is(going.planned.is_small(LARGE));
        }
        let via = decided.forward.as_ref().ok().map(|going| &going.via);
        let before = via.and_then(|via| self.upstreams.take(via));
        let rule = match via {
            Some(Transport::SameNode { authorized, .. }) => authorized.permit().rule().cloned(),
            Some(Transport::Mesh(_) | Transport::Plain(_)) | None => decided.rule.take(),
        };
        let before_flow = before.as_ref().and_then(|upstream| upstream.flow.as_ref());
        let flow = self.flow(&decided.found, via, before_flow, decided.generation);
        let begun = Begun {
            flow,
            heard: std::mem::replace(&mut decided.heard, Heard::nothing()),
            route: decided.found.route.take(),
            rule,
            began,
            head: decided.len,
        };
        (before, begun)
    }

    /// All that carries a request which goes on: `len` is its head's.
    fn prepare(
        &self,
        client: &mut Side<'_>,
        (going, replayable): (Going, Replayable),
        tries: Tries,
        (len, to): (usize, Client),
    ) -> (Transfer, Sent, Transport) {
        let Going {
            via,
            planned,
            response,
            limits: _,
            copies,
            retry: _,
            hedging,
        } = going;
        let is_mesh = matches!(via, Transport::Mesh(_));
        let hold = self.told.has_load().then(|| {
            Hold::of(tries.retry.as_ref(), is_mesh, replayable.is_safe)
                .of_probe(self.told.is_probe())
        });
        // Without room for what may have to go once more it goes once.
        let hold = hold.filter(|_| !planned.is_rewritten() || spare(len) == len);
        let original = (hold.is_some() && planned.is_rewritten())
            .then(|| Held::copied(&client.inbox.bytes()[..len]));
        let planned = planned.of_grpc(to.is_grpc);
        let mut transfer = Transfer::new(planned, response, replayable.is_reused, client);
        if let Some(hold) = hold {
            transfer.hold(hold);
        }
        if let Some(copies) = copies {
            transfer.copy_to(copies);
        }
        let sent = Sent {
            tries,
            original,
            hedging,
        };
        (transfer, sent, via)
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
        &self,
        found: &Found,
        via: Option<&Transport>,
        before: Option<&Arc<Flow>>,
        generation: u64,
    ) -> Arc<Flow> {
        if let Some(same) = flow::same(before, found, generation) {
            return same.clone();
        }
        let exchange = self.accepted.exchange();
        let mut base = Base::new(self.report, |flow| flow::base(&exchange, flow));
        flow::of(base.at(Some(generation)), found, via)
    }

    /// The connection's record names the first exchange's target.
    pub(super) fn describe(&mut self) {
        if let (false, Some(of)) = (self.report.is_open(), self.told.flow()) {
            self.report.takes_from(of);
        }
    }

    async fn forward_request(
        &mut self,
        client: &mut Side<'_>,
        (transfer, sent): (&mut Transfer, &mut Sent),
        mut upstream: Upstream,
        (mut via, mut replayable, (mut ends, mut limits)): (Transport, Replayable, By),
        to: Client,
    ) -> GoesOn {
        loop {
            self.show(&mut upstream);
            let by = (ends, limits);
            let mut driven = match sent.hedging {
                None => self.drive(client, transfer, &mut upstream, by).await,
                Some(delay) => {
                    let to = (&mut upstream, &mut via, &mut replayable);
                    let by = (delay, &mut ends, limits);
                    Box::pin(self.hedged(client, (transfer, sent), to, by)).await
                }
            };
            if let Driven::Failed(Fail::Upstream(end)) = driven {
                let next = match end {
                    Some(StreamEnd::NotTaken) => {
                        upstream.flow = None;
                        let replaying = self.replay(upstream, (&via, ends));
                        Box::pin(replaying).await.map(Ok)
                    }
                    end => {
                        let by = (&via, replayable, (ends, limits));
                        let replaying = self.replay_on_fresh(transfer, upstream, by, end);
                        Box::pin(replaying).await
                    }
                };
                match next {
                    Ok(Ok(fresh)) => {
                        upstream = fresh;
                        self.told.attempt();
                        replayable.is_reused = false;
                        continue;
                    }
                    Ok(Err(kept)) => upstream = kept,
                    Err(refused) => {
                        if end != Some(StreamEnd::NotTaken) {
                            sent.tries.was_lost();
                        }
                        let waits = (&mut *sent, limits);
                        let instead = self.instead(client, transfer, waits, refused);
                        match Box::pin(instead).await {
                            Ok(fresh) => {
                                (via, replayable.is_reused) = (fresh.via, fresh.is_reused);
                                (ends, limits) = (fresh.ends, fresh.limits);
                                transfer.goes_elsewhere(matches!(via, Transport::Mesh(_)));
                                upstream = fresh.upstream;
                                continue;
                            }
                            Err(refused) => {
                                let answering = self.answer(client, refused, to, false);
                                return Box::pin(answering).await;
                            }
                        }
                    }
                }
            }
            let held = match driven {
                Driven::Failed(fail) => transfer.held(fail),
                Driven::TimedOut if limits.is_left(Instant::now()) => {
                    let late = sent.tries.late(replayable.is_safe);
                    late.filter(|_| transfer.may_go_elsewhere())
                }
                Driven::Ended(_) | Driven::Cut(_) | Driven::Idle | Driven::TimedOut => None,
            };
            if let Some(held) = held {
                // At once; of an answer that has begun the head counts, however it ends.
                if !transfer.has_answered() {
                    self.told.failed(held);
                }
                let (waits, since) = ((&mut *sent, limits, held), Instant::now());
                match Box::pin(self.retry_elsewhere(client, transfer, waits)).await {
                    Ok(Some(fresh)) => {
                        (via, replayable.is_reused) = (fresh.via, fresh.is_reused);
                        (ends, limits) = (fresh.ends, fresh.limits);
                        transfer.goes_elsewhere(matches!(via, Transport::Mesh(_)));
                        let before = std::mem::replace(&mut upstream, fresh.upstream);
                        self.upstreams.leave(before, Some(ResetReason::Aborted));
                        continue;
                    }
                    Ok(None) if matches!(driven, Driven::Failed(Fail::Held(_))) => {
                        transfer.release();
                        let by = (limits.behind(ends, since.elapsed()), limits);
                        driven = self.drive(client, transfer, &mut upstream, by).await;
                    }
                    // It is as it is.
                    Ok(None) => {}
                    Err(refused) => {
                        self.upstreams.leave(upstream, Some(ResetReason::Aborted));
                        let answering = self.answer(client, refused, to, false);
                        return Box::pin(answering).await;
                    }
                }
            }
            self.totals.settle(transfer);
            return self
                .conclude(client, transfer, (driven, upstream), to)
                .await;
        }
    }

    pub(super) fn show(&mut self, upstream: &mut Upstream) {
        self.told.connected();
        let Some(flow) = self.told.flow() else {
            return;
        };
        let is_told = |before: &Arc<Flow>| Arc::ptr_eq(before, flow);
        if !upstream.flow.as_ref().is_some_and(is_told) {
            if let Some((tls, peer)) = upstream.session() {
                secured(Arc::make_mut(flow), tls, peer);
            }
            upstream.flow = Some(flow.clone());
        }
        if !self.report.is_open() {
            self.report.takes_from(flow);
        }
    }

    pub(super) async fn drive(
        &mut self,
        client: &mut Side<'_>,
        transfer: &mut Transfer,
        upstream: &mut Upstream,
        (deadline, limits): By,
    ) -> Driven {
        let context = self.accepted.context();
        let mut watch = Watch {
            cut: &context.entry().cut,
            report: self.report,
            totals: &mut self.totals,
            told: &mut self.told,
            idle: limits
                .times
                .idle
                .or(context.worker.agent.config.idle_timeout),
            deadline,
            draining: Some(&context.worker.draining),
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
            Driven::Ended(KeptOpen {
                keep_client,
                keep_upstream,
            }) => {
                match keep_upstream && self.upstreams.may_keep(&upstream, carried.bytes.received) {
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
                return Box::pin(self.answer(client, late, to, false)).await;
            }
            Driven::Failed(fail) => fail,
        };
        let (refused, denied_by) = upstream.refusal(fail);
        if !self.report.is_open() {
            self.report.flow().denied_by = denied_by;
        }
        // It must not take what it got for all there was.
        self.upstreams.leave(upstream, Some(ResetReason::Aborted));
        let close = match fail {
            Fail::Client(_) => {
                self.told.finish(carried, RequestEnd::Client);
                return Err(CloseReason::ResetByClient);
            }
            Fail::Request(_) => CloseReason::ResetByClient,
            Fail::Upstream(Some(StreamEnd::Protocol(_))) => CloseReason::ProtocolError,
            Fail::Upstream(_) | Fail::Answer(_) | Fail::Edit | Fail::Held(_) => {
                CloseReason::ResetByUpstream
            }
        };
        if transfer.has_answered() {
            self.told.finish(carried, cut_short(fail, &refused));
            return Err(close);
        }
        Box::pin(self.answer(client, refused, to, false)).await
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
    pub(super) async fn answer(
        &mut self,
        client: &mut Side<'_>,
        refused: Refused,
        to: Client,
        stays: bool,
    ) -> GoesOn {
        let ended = refused_by(&refused);
        let answer = Answer::refused(&refused, to);
        self.tell(client, &answer, ended, stays).await
    }

    async fn tell(
        &mut self,
        client: &mut Side<'_>,
        answer: &Answer,
        ended: RequestEnd,
        stays: bool,
    ) -> GoesOn {
        let context = self.accepted.context();
        let stays = stays && !context.worker.draining.is_cancelled();
        let bytes = answer.bytes(!stays);
        self.totals.answered(bytes.len(), self.report);
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
