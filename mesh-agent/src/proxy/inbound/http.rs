//! Requests to a local pod's application, on whatever way they came.
//!
//! Each request is judged by the policy that holds when it comes, and goes to the
//! application over connections that are this client connection's alone.

use std::rc::Rc;

use tokio::net::TcpStream;

use crate::http::answer::{Answer, Client};
use crate::http::h1::{Framing, Request, Side as Of};
use crate::model::{ClientAddr, CloseReason, Edits, RefuseReason, Refused, SpiffeId};
use crate::plan::AuthzInput;
use crate::proxy::authorize::{Authorized, Permitted, authorize_request};
use crate::proxy::context::{ConnectionContext, Exchange};
use crate::proxy::deliver::deliver;
use crate::proxy::forward::ForwardEnd;
use crate::proxy::http::{
    Again, Driven, Fail, Inbox, Leg, Next, Planned, Side, Totals, Transfer, Watch, drive, is_quiet,
    is_safe, silence,
};
use crate::proxy::report::Report;
use crate::sys::socket;

/// Whose requests they are.
pub(super) struct Caller {
    /// Proven by the certificate of its agent.
    pub(super) identity: Option<SpiffeId>,
    pub(super) address: ClientAddr,
}

/// The requests of one client connection.
pub(super) struct Visit<'v> {
    pub(super) context: &'v Rc<ConnectionContext>,
    pub(super) caller: Caller,
    pub(super) report: &'v mut Report,
    /// For the next request.
    pub(super) application: Option<TcpStream>,
    pub(super) totals: Totals,
}

/// What was decided of a request by its head.
struct Decided {
    authorized: Result<Authorized, Refused>,
    planned: Result<Planned, RefuseReason>,
    client: Client,
    /// Of its head.
    len: usize,
    /// Behind an answer of the agent's own the client may ask on.
    may_stay: bool,
    /// It may be sent twice: it asks for nothing to be done.
    is_safe: bool,
}

fn to_target(target: String) -> Edits {
    Edits {
        target: Some(target),
        ..Edits::default()
    }
}

/// The client's connection goes on, or how it ended.
type GoesOn = Result<(), CloseReason>;

impl Visit<'_> {
    /// To the end of the client's connection; what does not end well is to be reset.
    pub(super) async fn serve(mut self, client: &mut Side<'_>) -> ForwardEnd {
        let reason = loop {
            if let Err(reason) = self.next(client).await {
                break reason;
            }
            // Those that a client sends in advance may be refused without a wait.
            tokio::task::yield_now().await;
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
        let next = tokio::select! {
            biased; // a cut must not wait for the next request
            reason = context.entry().cut.wait() => return Err(reason.close()),
            next = client.next(|request, bytes| self.decide(request, bytes)) => next,
            // Between two requests: none that comes now was or will be taken.
            () = context.worker.draining.cancelled() => Next::End,
            () = silence(idle) => return Err(CloseReason::IdleTimeout),
        };
        match next {
            Next::Request(decided) => self.exchange(client, decided).await,
            Next::End => {
                client.linger().await;
                Err(CloseReason::Finished)
            }
            Next::Bad(bad) => self.refuse(client, bad.reason(Of::Request).into()).await,
            Next::Slow => self.refuse(client, RefuseReason::SlowRequest.into()).await,
            Next::Lost => Err(CloseReason::ResetByClient),
        }
    }

    fn decide(&self, request: &Request<'_>, bytes: &[u8]) -> Decided {
        let exchange = Exchange::begin(self.context);
        let context = self.context;
        let (from, to) = (context.client_addr.ip(), context.orig_dst.get());
        let workload = context.pod.workload.clone();
        let check = match &self.caller.identity {
            Some(peer) => AuthzInput::new(Some(peer.clone()), from, workload, to),
            None => AuthzInput::plaintext(from, workload, to),
        };
        let permitted = authorize_request(&exchange, check, &request.head);
        let (authorized, edits) = match permitted {
            Ok(Permitted { authorized, target }) => (Ok(authorized), target.map(to_target)),
            Err(refused) => (Err(refused), None),
        };
        let planned = Planned::of(request, bytes, edits.as_ref());
        Decided {
            authorized,
            planned: planned.map_err(|_| RefuseReason::Internal),
            client: Client::of(&request.head, self.caller.identity.is_some()),
            len: bytes.len(),
            may_stay: request.persistent && request.framing == Framing::None,
            is_safe: is_safe(&request.head),
        }
    }

    async fn exchange(&mut self, client: &mut Side<'_>, decided: Decided) -> GoesOn {
        let to = decided.client;
        let (authorized, planned) = match (decided.authorized, decided.planned) {
            (Ok(authorized), Ok(planned)) => (authorized, planned),
            (Err(refused), _) => {
                client.inbox.consume(decided.len);
                return self.answer(client, refused, to, decided.may_stay).await;
            }
            (_, Err(reason)) => return self.answer(client, reason.into(), to, false).await,
        };
        let before = self.application.take().filter(is_quiet);
        let is_reused = before.is_some();
        let application = match before {
            Some(application) => application,
            None => match self.deliver(&authorized).await {
                Ok(application) => application,
                Err(refused) => return self.answer(client, refused, to, false).await,
            },
        };
        let mut transfer = Transfer::new(planned, Default::default(), is_reused, client);
        let again = Again {
            is_reused,
            is_safe: decided.is_safe,
        };
        self.carry(client, &mut transfer, application, (&authorized, again), to)
            .await
    }

    async fn deliver(&self, authorized: &Authorized) -> Result<TcpStream, Refused> {
        Box::pin(deliver(
            self.context,
            authorized.permit(),
            self.caller.address,
        ))
        .await
    }

    async fn carry(
        &mut self,
        client: &mut Side<'_>,
        transfer: &mut Transfer,
        mut application: TcpStream,
        (authorized, mut again): (&Authorized, Again),
        to: Client,
    ) -> GoesOn {
        loop {
            let mut inbox = Inbox::default();
            let mut upstream = Side {
                leg: Leg::Socket(&application),
                inbox: &mut inbox,
            };
            let driven = self.drive(client, transfer, &mut upstream).await;
            if let Driven::Failed(Fail::Upstream(end)) = driven
                && again.may(end.is_none(), &application, transfer)
                && let Some(sent) = transfer.begin_again(&upstream)
            {
                again.is_reused = false;
                application = match self.deliver(authorized).await {
                    Ok(application) => application,
                    Err(refused) => return self.answer(client, refused, to, false).await,
                };
                transfer.resend(&sent);
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
            idle: self.context.worker.agent.config.idle_timeout,
            // The route's are the source's to keep.
            deadline: None,
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
        let fail = match driven {
            Driven::Ended(ended) => {
                self.application = ended.keep_upstream.then_some(application);
                if ended.keep_client {
                    return Ok(());
                }
                client.linger().await;
                return Err(CloseReason::Finished);
            }
            Driven::Cut(reason) => {
                socket::reset_on_close(&application);
                return Err(reason.close());
            }
            Driven::Idle | Driven::TimedOut => {
                socket::reset_on_close(&application);
                return Err(CloseReason::IdleTimeout);
            }
            Driven::Failed(fail) => fail,
        };
        // It must not take what it got for all there was.
        socket::reset_on_close(&application);
        drop(application);
        let (reason, close) = match fail {
            Fail::Client(_) => return Err(CloseReason::ResetByClient),
            Fail::Request(bad) => (bad.reason(Of::Request), CloseReason::ResetByClient),
            Fail::Upstream(_) => (RefuseReason::UpstreamClosed, CloseReason::ResetByUpstream),
            Fail::Answer(bad) => (bad.reason(Of::Response), CloseReason::ResetByUpstream),
            Fail::Edit => (RefuseReason::Internal, CloseReason::ResetByUpstream),
        };
        if transfer.has_answered() {
            return Err(close);
        }
        self.answer(client, reason.into(), to, false).await
    }

    /// What is no request, and so the connection's last.
    async fn refuse(&mut self, client: &mut Side<'_>, refused: Refused) -> GoesOn {
        let to = Client {
            is_meshed: self.caller.identity.is_some(),
            ..Client::default()
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
        let bytes = Answer::of(refused.reason, to).bytes(!stays);
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
