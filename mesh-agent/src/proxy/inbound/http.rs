//! Requests to a local pod's application, on whatever way they came.
//!
//! Each request is judged by the policy that holds when it comes, and goes to the
//! application over connections that are this client connection's alone.

use std::pin::pin;
use std::rc::Rc;

use tokio::net::TcpStream;

use super::caller::{Caller, authorize};
use crate::http::answer::{Answer, Client};
use crate::http::h1::{Framing, Request, Side as Of};
use crate::model::{CloseReason, RefuseReason, Refused, RequestEnd, RuleRef};
use crate::proxy::authorize::Authorized;
use crate::proxy::context::{ConnectionContext, Exchange};
use crate::proxy::deliver::deliver;
use crate::proxy::forward::ForwardEnd;
use crate::proxy::http::{
    ByteStream, Driven, Fail, Inbox, Next, Planned, Replayable, Side, Totals, Transfer, Watch,
    drive, is_quiet, is_safe, silence, told,
};
use crate::proxy::report::Report;
use crate::proxy::request_place::RequestPlace;
use crate::proxy::request_report::{Begun, Heard, RequestReport, cut_short, refused_by};
use crate::sys::socket;

/// The requests of one client connection.
pub(super) struct Requests<'v> {
    pub(super) context: &'v Rc<ConnectionContext>,
    pub(super) caller: &'v Caller,
    pub(super) report: &'v mut Report,
    /// For the next request.
    pub(super) application: Option<TcpStream>,
    pub(super) totals: Totals,
    pub(super) told: RequestReport,
}

/// What was decided of a request by its head.
struct InboundDecision {
    /// Until it is over.
    place: Option<RequestPlace>,
    authorized: Result<Authorized, Refused>,
    planned: Result<Planned, RefuseReason>,
    heard: Heard,
    generation: u64,
    client: Client,
    /// Of its head.
    len: usize,
    /// Behind an answer of the agent's own the client may ask on.
    may_stay: bool,
    /// It may be sent twice: it asks for nothing to be done.
    is_safe: bool,
}

/// The client's connection goes on, or how it ended.
type GoesOn = Result<(), CloseReason>;

impl Requests<'_> {
    /// To the end of the client's connection; what does not end well is to be reset.
    pub(super) async fn serve(&mut self, client: &mut Side<'_>) -> ForwardEnd {
        let reason = loop {
            if let Err(reason) = self.next(client).await {
                break reason;
            }
            // Those that a client sends in advance may be refused without a wait: others run
            // after some.
            tokio::task::coop::consume_budget().await;
        };
        if let Some(application) = self.application.take()
            && reason != CloseReason::Finished
        {
            socket::reset_on_close(&application);
        }
        (self.totals.bytes(), reason)
    }

    async fn next(&mut self, client: &mut Side<'_>) -> GoesOn {
        let context = self.context;
        let idle = context.worker.agent.config.idle_timeout;
        // The other agent knows that what comes now was not and will not be taken.
        let is_application = client.stream.is_socket();
        let farewell = pin!(async {
            match is_application {
                true => context.worker.idle_is_over().await,
                false => context.worker.draining.cancelled().await,
            }
        });
        let next = tokio::select! {
            biased; // a cut must not wait for the next request
            reason = context.entry().cut.wait() => return Err(reason.close()),
            next = client.next_before(|request, bytes| self.decide(request, bytes), farewell) => next,
            () = silence(idle) => return Err(CloseReason::IdleTimeout),
        };
        match next {
            // No part of what waits for the next one.
            Next::Request(decided) => Box::pin(self.exchange(client, decided)).await,
            Next::End => {
                client.linger().await;
                Err(CloseReason::Finished)
            }
            Next::Bad(bad) => {
                let refused = Refused {
                    detail: Some(bad.detail()),
                    ..bad.reason(Of::Request).into()
                };
                Box::pin(self.refuse(client, refused)).await
            }
            Next::Slow => {
                let slow = RefuseReason::SlowRequest.into();
                Box::pin(self.refuse(client, slow)).await
            }
            Next::Lost => Err(CloseReason::ResetByClient),
        }
    }

    /// On the heap: moved about as a pointer, and no part of what waits.
    fn decide(&self, request: &Request<'_>, bytes: &[u8]) -> Box<InboundDecision> {
        let (place, (generation, permitted)) = match RequestPlace::take(self.context) {
            Ok(place) => {
                let asks = (&request.head, true);
                (Some(place), authorize(self.context, self.caller, asks))
            }
            Err(full) => {
                let exchange = Exchange::begin(self.context);
                (None, (exchange.in_force.snapshot.generation, Err(full)))
            }
        };
        let (authorized, edits) = match permitted {
            Ok((authorized, edits)) => (Ok(authorized), edits),
            Err(refused) => (Err(refused), None),
        };
        let planned = Planned::of(request, bytes, edits.as_ref());
        let to = Client::of(&request.head, self.caller.identity().is_some());
        Box::new(InboundDecision {
            place,
            authorized,
            planned: planned.map_err(|_| RefuseReason::Internal),
            heard: Heard::of(&request.head, to.is_grpc, &self.context.worker.observe),
            generation,
            client: to,
            len: bytes.len(),
            may_stay: request.persistent && request.framing == Framing::None,
            is_safe: is_safe(request.head.method),
        })
    }

    async fn exchange(&mut self, client: &mut Side<'_>, decided: Box<InboundDecision>) -> GoesOn {
        let decided = *decided;
        let _place = decided.place;
        let to = decided.client;
        let rule = match &decided.authorized {
            Ok(authorized) => authorized.permit().rule().cloned(),
            Err(refused) => refused.rule.clone(),
        };
        let head = (decided.heard, rule, decided.len);
        self.begin(client, head, decided.generation);
        let (authorized, planned) = match (decided.authorized, decided.planned) {
            (Ok(authorized), Ok(planned)) => (authorized, planned),
            (Err(refused), _) => {
                client.inbox.consume(decided.len);
                let answering = self.answer(client, refused, to, decided.may_stay);
                return Box::pin(answering).await;
            }
            (_, Err(reason)) => {
                return Box::pin(self.answer(client, reason.into(), to, false)).await;
            }
        };
        let before = self.application.take().filter(is_quiet);
        let is_reused = before.is_some();
        let application = match before {
            Some(application) => application,
            None => match self.deliver(&authorized).await {
                Ok(application) => application,
                Err(refused) => {
                    return Box::pin(self.answer(client, refused, to, false)).await;
                }
            },
        };
        if is_reused {
            self.told.attempt();
        }
        let planned = planned.of_grpc(to.is_grpc);
        let mut transfer = Transfer::new(planned, Default::default(), is_reused, client);
        let replayable = Replayable {
            is_reused,
            is_safe: decided.is_safe,
        };
        self.forward_request(
            client,
            &mut transfer,
            application,
            (&authorized, replayable),
            to,
        )
        .await
    }

    fn begin(
        &mut self,
        client: &Side<'_>,
        (heard, rule, head): (Heard, Option<RuleRef>, usize),
        generation: u64,
    ) {
        let begun = Begun {
            flow: self.told.base(self.report, generation),
            heard,
            route: None,
            rule,
            began: client.inbox.began(),
            head,
        };
        self.told.begin(&self.context.worker.observe, begun);
    }

    async fn deliver(&mut self, authorized: &Authorized) -> Result<TcpStream, Refused> {
        self.told.attempt();
        Box::pin(deliver(
            self.context,
            authorized.permit(),
            self.caller.address,
        ))
        .await
    }

    async fn forward_request(
        &mut self,
        client: &mut Side<'_>,
        transfer: &mut Transfer,
        mut application: TcpStream,
        (authorized, mut replayable): (&Authorized, Replayable),
        to: Client,
    ) -> GoesOn {
        loop {
            let mut inbox = Inbox::default();
            let mut upstream = Side {
                stream: ByteStream::Socket(&application),
                inbox: &mut inbox,
            };
            self.told.connected();
            let driven = self.drive(client, transfer, &mut upstream).await;
            if let Driven::Failed(Fail::Upstream(end)) = driven
                && replayable.may(end.is_none(), &application, transfer)
                && transfer.may_replay(&upstream)
                && let Some(sent) = transfer.replay()
            {
                replayable.is_reused = false;
                application = match self.deliver(authorized).await {
                    Ok(application) => application,
                    Err(refused) => {
                        return Box::pin(self.answer(client, refused, to, false)).await;
                    }
                };
                transfer.resend(sent);
                continue;
            }
            self.totals.settle(transfer);
            return self
                .conclude(client, transfer, (driven, application), to)
                .await;
        }
    }

    async fn drive(
        &mut self,
        client: &mut Side<'_>,
        transfer: &mut Transfer,
        upstream: &mut Side<'_>,
    ) -> Driven {
        let mut watch = Watch {
            cut: &self.context.entry().cut,
            report: self.report,
            totals: &mut self.totals,
            told: &mut self.told,
            idle: self.context.worker.agent.config.idle_timeout,
            // The route's are the source's to keep.
            deadline: None,
            draining: client
                .stream
                .is_socket()
                .then_some(&self.context.worker.draining),
        };
        drive(transfer, client, upstream, &mut watch).await
    }

    async fn conclude(
        &mut self,
        client: &mut Side<'_>,
        transfer: &Transfer,
        (driven, application): (Driven, TcpStream),
        to: Client,
    ) -> GoesOn {
        let carried = transfer.carried();
        let fail = match driven {
            Driven::Ended(ended) => {
                self.application = ended.keep_upstream.then_some(application);
                self.told.finish(carried, RequestEnd::Finished);
                if ended.keep_client {
                    return Ok(());
                }
                client.linger().await;
                return Err(CloseReason::Finished);
            }
            Driven::Cut(reason) => {
                self.told.forget_rule();
                let ended = RequestEnd::Refused(reason.refuse_reason(), None);
                self.told.finish(carried, ended);
                socket::reset_on_close(&application);
                return Err(reason.close());
            }
            Driven::Idle | Driven::TimedOut => {
                let ended = RequestEnd::Refused(RefuseReason::RequestTimeout, None);
                self.told.finish(carried, ended);
                socket::reset_on_close(&application);
                return Err(CloseReason::IdleTimeout);
            }
            Driven::Failed(fail) => fail,
        };
        // It must not take what it got for all there was.
        socket::reset_on_close(&application);
        drop(application);
        let (reason, close) = match fail {
            Fail::Client(_) => {
                self.told.finish(carried, RequestEnd::Client);
                return Err(CloseReason::ResetByClient);
            }
            Fail::Request(bad) => (bad.reason(Of::Request), CloseReason::ResetByClient),
            Fail::Upstream(_) => (RefuseReason::UpstreamClosed, CloseReason::ResetByUpstream),
            Fail::Answer(bad) => (bad.reason(Of::Response), CloseReason::ResetByUpstream),
            // Only a source's agent holds answers back.
            Fail::Edit | Fail::Held(_) => (RefuseReason::Internal, CloseReason::ResetByUpstream),
        };
        let refused = Refused {
            detail: fail.detail(),
            ..reason.into()
        };
        if transfer.has_answered() {
            self.told.finish(carried, cut_short(fail, &refused));
            return Err(close);
        }
        Box::pin(self.answer(client, refused, to, false)).await
    }

    /// What is no request, and so the connection's last.
    async fn refuse(&mut self, client: &mut Side<'_>, refused: Refused) -> GoesOn {
        let to = Client {
            is_meshed: self.caller.identity().is_some(),
            ..Client::default()
        };
        let (generation, head) = (self.report.flow.generation, client.inbox.bytes().len());
        self.begin(client, (Heard::nothing(), None, head), generation);
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
        let answer = Answer::refused(&refused, to);
        let is_last = client.stream.is_socket() && self.context.worker.draining.is_cancelled();
        let stays = stays && !is_last;
        let bytes = answer.bytes(!stays);
        self.totals.answered(bytes.len(), self.report);
        let idle = self.context.worker.agent.config.idle_timeout;
        let told = told(client, &bytes, &self.context.entry().cut, idle).await;
        self.told
            .answered(&answer, bytes.len(), refused_by(&refused));
        told?;
        if stays {
            return Ok(());
        }
        client.linger().await;
        Err(CloseReason::Finished)
    }
}
