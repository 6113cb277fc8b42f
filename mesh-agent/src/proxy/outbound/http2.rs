//! Requests of HTTP/2 of a local pod: each is decided on by itself, and goes to an
//! endpoint over a line that is this client connection's alone.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::copies::copies;
use super::flow;
use super::reach::{leave, may_again, may_repeat};
use super::routed::{Found, Http2, routed};
use super::upstreams::{Transport, Upstream, Upstreams};
use crate::balance::{Attempt, InFlight, Leave};
use crate::http::answer::{Answer, Client};
use crate::http::h2 as http2;
use crate::http::h2::request;
use crate::model::http_route::Retry;
use crate::model::{RequestHead, SpiffeId, Workload};
use crate::peer::still_trusted;
use crate::proxy::accepted::Accepted;
use crate::proxy::context::{ConnectionContext, Exchange};
use crate::proxy::forward::ForwardEnd;
use crate::proxy::http::{ByteStream, Fail, Hold, Inbox, Side, Waited, is_safe};
use crate::proxy::http2::{
    ClientConnection, Fault, Line, LineEnd, Lines, Opener, RequestDecision, Site, UpstreamRequest,
    serve,
};
use crate::proxy::report::Report;
use crate::proxy::request_report::refused_by;
use crate::tls::PeerId;
use crate::tunnel::{ResetReason, StreamEnd};

/// The requests of one client connection.
struct Requests {
    context: Rc<ConnectionContext>,
    connection: ClientConnection,
    lines: Lines<Kind>,
    /// An upstream that was there before the first request.
    open: RefCell<Option<Box<Upstream>>>,
}

/// What makes a line fit for a request.
enum Kind {
    /// To the agent of a pod with this identity.
    Mesh(SpiffeId),
    SameNode {
        workload: Arc<Workload>,
        /// Cookie of the pod that it went into.
        entered: Cell<Option<u64>>,
    },
    Plain,
}

/// To the end of the client's connection.
pub(super) async fn requests(
    accepted: &Accepted,
    report: &mut Report,
    open: Option<Box<Upstream>>,
) -> ForwardEnd {
    let site = Rc::new(Requests {
        context: accepted.context_rc().clone(),
        connection: ClientConnection::new(report, |flow| flow::base(&accepted.exchange(), flow)),
        lines: Lines::default(),
        open: RefCell::new(open),
    });
    let mut inbox = Inbox::default();
    let client = &mut Side {
        stream: ByteStream::Socket(&accepted.client),
        inbox: &mut inbox,
    };
    serve(client, http2::Hop::Edge, site, report).await
}

impl Site for Requests {
    type Kind = Kind;

    fn context(&self) -> &Rc<ConnectionContext> {
        &self.context
    }

    fn connection(&self) -> &ClientConnection {
        &self.connection
    }

    fn is_meshed(&self) -> bool {
        true
    }

    fn keeps_deadlines(&self) -> bool {
        true
    }

    fn leave(&self, attempt: &Attempt) -> Option<Leave> {
        leave(&self.context, attempt)
    }

    fn may_again(&self, load: &InFlight, waited: Waited, attempt: &Attempt) -> bool {
        may_again(&self.context, load, (waited, attempt))
    }

    fn may_repeat(&self, load: Option<&InFlight>) -> bool {
        load.is_none_or(|load| may_repeat(&self.context, load))
    }

    fn decide(
        &self,
        head: &RequestHead<'_>,
        parts: &request::Parts,
        attempt: &mut Attempt,
    ) -> RequestDecision<Kind> {
        let exchange = Exchange::begin(&self.context);
        let base = self
            .connection
            .base(Some(exchange.in_force.snapshot.generation));
        let mut found = Found::default();
        let load = |found: &mut Found| found.target.as_mut()?.load.take();
        let nowhere = |own, mut found: Found, rule| RequestDecision {
            forward: Err(own),
            load: load(&mut found),
            flow: flow::of(base.clone(), &found, None),
            route: found.route,
            rule,
        };
        let came = Http2(head, parts);
        let decided = match routed((&exchange, attempt), &came, &mut found) {
            Ok(Ok(decided)) => decided,
            Ok(Err(own)) => return nowhere(own, found, None),
            Err(refused) => {
                let answer = Answer::refused(&refused, Client::of(head, true));
                let own = (answer, refused_by(&refused));
                return nowhere(own, found, refused.rule);
            }
        };
        let mut via = decided.via;
        let (watched, rule) = match &mut via {
            Transport::SameNode { authorized, .. } => {
                let rule = authorized.permit().rule().cloned();
                (authorized.watch_apart(), rule)
            }
            Transport::Mesh(_) | Transport::Plain(_) => (None, None),
        };
        let is_outside = matches!(via, Transport::Plain(_));
        let is_mesh = matches!(via, Transport::Mesh(_));
        let line = self.lines.find(via.to(), |line| self.fits(line, &via));
        let before = line.as_ref().and_then(|line| line.flow.borrow().clone());
        let flow = flow::same(before.as_ref(), &found, base.generation)
            .cloned()
            .unwrap_or_else(|| flow::of(base.clone(), &found, Some(&via)));
        let is_safe = is_safe(decided.planned.parts.method.as_str());
        let picked = found.target.as_ref().and_then(|to| to.load.as_ref());
        let is_probe = picked.is_some_and(InFlight::is_probe);
        let connect = picked.and_then(InFlight::connect_timeout);
        RequestDecision {
            forward: Ok(Box::new(UpstreamRequest {
                // Others join it: how long this one waits is its own.
                line: line.unwrap_or_else(|| self.open(via, connect)),
                request: decided.planned.parts,
                response: decided.response,
                times: decided.times,
                copies: decided
                    .mirrored
                    .and_then(|wanted| copies(&exchange, &came, wanted)),
                is_off: decided.retry.as_ref().is_some_and(Retry::is_off),
                hold: Hold::of(decided.retry.as_ref(), is_mesh, is_safe).of_probe(is_probe),
                retry: decided.retry,
                hedging: decided.hedging,
                watched,
                is_outside,
            })),
            flow,
            load: load(&mut found),
            route: found.route,
            rule,
        }
    }
}

impl Requests {
    fn fits(&self, line: &Line<Kind>, via: &Transport) -> bool {
        let agent = &self.context.worker.agent;
        match (&line.kind, via) {
            (Kind::Mesh(expected), Transport::Mesh(peer)) => {
                let pod = &self.context.pod;
                let is_trusted = |peer: &PeerId| still_trusted(pod, peer).is_ok();
                expected == peer.expected()
                    && line.session().is_none_or(|(_, shown)| is_trusted(&shown))
            }
            (Kind::SameNode { workload, entered }, Transport::SameNode { workload: now, .. }) => {
                match entered.get() {
                    Some(cookie) => agent.is_pod(cookie, now),
                    // Still to be found out, of the same pod.
                    None => Arc::ptr_eq(workload, now),
                }
            }
            (Kind::Plain, Transport::Plain(_)) => true,
            (
                Kind::Mesh(_) | Kind::SameNode { .. } | Kind::Plain,
                Transport::Mesh(_) | Transport::SameNode { .. } | Transport::Plain(_),
            ) => false,
        }
    }

    fn open(&self, via: Transport, within: Option<Duration>) -> Rc<Line<Kind>> {
        let (worker, pod) = (&self.context.worker, &self.context.pod);
        let mut open = self.open.borrow_mut();
        let is_fit = |open: &mut Upstream| open.begins_http2(&via, &self.context);
        let open = match open.as_deref_mut().is_some_and(is_fit) {
            true => open.take(),
            false => None,
        };
        let kind = match &via {
            Transport::Mesh(peer) => Kind::Mesh(peer.expected().clone()),
            Transport::SameNode { workload, .. } => Kind::SameNode {
                workload: workload.clone(),
                entered: Cell::new(None),
            },
            Transport::Plain(_) => Kind::Plain,
        };
        let context = self.context.beside();
        self.lines.open(via.to(), |opener| {
            let running = run(context, (via, within), opener, open);
            worker.spawn(pod, running);
            kind
        })
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        // Nobody asked for it.
        drop(Upstreams::new(&self.context, self.open.take()));
    }
}

/// A line's I/O. By a leave for one request it is opened, and no more: each has its own.
async fn run(
    context: Rc<ConnectionContext>,
    (via, within): (Transport, Option<Duration>),
    opener: Opener<Kind>,
    open: Option<Box<Upstream>>,
) {
    let upstreams = Upstreams::new(&context, None);
    let connected = match open {
        Some(open) => Ok(*open),
        None => upstreams.connect(&via, within).await,
    };
    let mut upstream = match connected {
        Ok(upstream) => upstream,
        Err(refused) => return opener.over(Fault::Refused(Box::new(refused))),
    };
    upstream.move_to(&context);
    let session = upstream.session();
    let session = session.map(|(tls, peer)| (tls, peer.clone()));
    let until = upstream.may_go_on_for(&context);
    opener.secured(session, until.map(|left| Instant::now() + left));
    if let Some(line) = opener.line()
        && let Kind::SameNode { entered, .. } = &line.kind
    {
        entered.set(upstream.entered());
    }
    let hop = (via.hop(), context.pod.account.clone());
    drop(via);
    let cut = &context.entry().cut;
    let failed = match opener.drive(&mut upstream.side(), hop, cut).await {
        LineEnd::Finished => None,
        LineEnd::Cut(reason) => {
            opener.over(Fault::Refused(Box::new(reason.refuse())));
            Some(ResetReason::Cut)
        }
        LineEnd::Failed(Some(StreamEnd::NotTaken)) => {
            opener.over(Fault::NotTaken);
            Some(ResetReason::Aborted)
        }
        LineEnd::Failed(end) => {
            let (refused, denied_by) = upstream.refusal(Fail::Upstream(end));
            if let Some(line) = opener.line() {
                line.denied_by.replace(denied_by);
            }
            opener.over(Fault::Refused(Box::new(refused)));
            Some(ResetReason::Aborted)
        }
    };
    drop(opener);
    upstreams.leave(upstream, failed);
}
