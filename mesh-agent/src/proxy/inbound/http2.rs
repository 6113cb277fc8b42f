//! Requests of HTTP/2 to a local pod's application, on whatever way they came.
//!
//! Each is judged by the policy that holds when it comes, and goes to the application
//! over a line that is this client connection's alone.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::net::TcpStream;

use super::caller::{Caller, authorize};
use crate::balance::{Attempt, InFlight, Leave};
use crate::http::answer::{Answer, Client};
use crate::http::h2 as http2;
use crate::http::h2::request;
use crate::model::{ClientAddr, Edits, RefuseReason, Refused, RequestHead, UpstreamAddr};
use crate::proxy::authorize::Authorized;
use crate::proxy::context::ConnectionContext;
use crate::proxy::deliver::deliver;
use crate::proxy::forward::ForwardEnd;
use crate::proxy::http::{ByteStream, Hold, Inbox, Side, Waited, has_settings, is_quiet};
use crate::proxy::http2::{
    ClientConnection, Fault, Line, LineEnd, Lines, Opener, RequestDecision, Site, UpstreamRequest,
    serve,
};
use crate::proxy::report::Report;
use crate::proxy::request_report::refused_by;
use crate::proxy::times::Times;
use crate::sys::socket;

/// The requests of one client connection.
struct Requests {
    context: Rc<ConnectionContext>,
    caller: Caller,
    connection: ClientConnection,
    lines: Lines<()>,
    /// A connection that was there before the first request.
    open: RefCell<Option<TcpStream>>,
}

/// To the end of the client's connection.
pub(super) async fn requests(
    context: &Rc<ConnectionContext>,
    client: &mut Side<'_>,
    (report, caller): (&mut Report, Caller),
    application: Option<TcpStream>,
) -> ForwardEnd {
    let hop = match caller.identity() {
        Some(_) => http2::Hop::Agents,
        None => http2::Hop::Edge,
    };
    let site = Rc::new(Requests {
        context: context.clone(),
        caller,
        connection: ClientConnection::new(report, |_| {}),
        lines: Lines::default(),
        open: RefCell::new(application),
    });
    serve(client, hop, site, report).await
}

impl Site for Requests {
    type Kind = ();

    fn context(&self) -> &Rc<ConnectionContext> {
        &self.context
    }

    fn connection(&self) -> &ClientConnection {
        &self.connection
    }

    fn is_meshed(&self) -> bool {
        self.caller.identity().is_some()
    }

    fn keeps_deadlines(&self) -> bool {
        false
    }

    fn leave(&self, _attempt: &Attempt) -> Option<Leave> {
        // There is one application.
        None
    }

    fn may_again(&self, _load: &InFlight, _waited: Waited, _attempt: &Attempt) -> bool {
        // There is one application.
        false
    }

    fn may_repeat(&self, _load: Option<&InFlight>) -> bool {
        // The budget is the source's to keep: its agent sends it once more.
        !self.is_meshed()
    }

    fn decide(
        &self,
        head: &RequestHead<'_>,
        parts: &request::Parts,
        attempt: &mut Attempt,
    ) -> RequestDecision<()> {
        let at = UpstreamAddr::new(self.context.orig_dst.get());
        let asks = (head, attempt.is_to_count(at));
        let (generation, permitted) = authorize(&self.context, &self.caller, asks);
        let flow = self.connection.base(Some(generation));
        let nowhere = |refused: Refused| RequestDecision {
            forward: Err((
                Answer::refused(&refused, Client::of(head, self.is_meshed())),
                refused_by(&refused),
            )),
            load: None,
            flow: flow.clone(),
            route: None,
            rule: refused.rule,
        };
        let (mut authorized, edits) = match permitted {
            Ok(permitted) => permitted,
            Err(refused) => return nowhere(refused),
        };
        attempt.was_admitted(at);
        let edits = edits.unwrap_or_default();
        let Ok(request) = http2::forwarded(parts, &edits) else {
            return nowhere(RefuseReason::Internal.into());
        };
        let watched = authorized.watch_apart();
        let rule = authorized.permit().rule().cloned();
        let to = authorized.permit().destination();
        let line = self.lines.find(to, |_| true);
        RequestDecision {
            forward: Ok(Box::new(UpstreamRequest {
                line: line.unwrap_or_else(|| self.open(authorized)),
                request: request.parts,
                response: Edits::default(),
                // The route's are the source's to keep.
                times: Times::default(),
                copies: None,
                is_off: true,
                hold: Hold::default(),
                retry: None,
                hedging: None,
                watched,
                is_outside: false,
            })),
            load: None,
            flow,
            route: None,
            rule,
        }
    }
}

impl Requests {
    fn open(&self, authorized: Authorized) -> Rc<Line<()>> {
        let (worker, pod) = (&self.context.worker, &self.context.pod);
        let open = self.open.take();
        let open = open.filter(|open| has_settings(open) || is_quiet(open));
        let (context, client) = (self.context.beside(), self.caller.address);
        let to = authorized.permit().destination();
        self.lines.open(to, |opener| {
            let running = run(context, (authorized, client), opener, open);
            worker.spawn(pod, running);
        })
    }
}

/// A line's I/O. By a leave for one request it is opened, and no more: each has its own.
async fn run(
    context: Rc<ConnectionContext>,
    (authorized, client): (Authorized, ClientAddr),
    opener: Opener<()>,
    open: Option<TcpStream>,
) {
    let delivered = match open {
        Some(open) => Ok(open),
        None => deliver(&context, authorized.permit(), client).await,
    };
    let application = match delivered {
        Ok(application) => application,
        Err(refused) => return opener.over(Fault::Refused(Box::new(refused))),
    };
    drop(authorized);
    let mut inbox = Inbox::default();
    let side = &mut Side {
        stream: ByteStream::Socket(&application),
        inbox: &mut inbox,
    };
    let cut = &context.entry().cut;
    let hop = (http2::Hop::Edge, context.pod.account.clone());
    let refused = match opener.drive(side, hop, cut).await {
        LineEnd::Finished => return,
        LineEnd::Cut(reason) => reason.refuse(),
        LineEnd::Failed(_) => RefuseReason::UpstreamClosed.into(),
    };
    // It must not take what it got for all there was.
    socket::reset_on_close(&application);
    opener.over(Fault::Refused(Box::new(refused)));
}
