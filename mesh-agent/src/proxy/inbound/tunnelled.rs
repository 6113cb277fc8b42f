//! Streams of another agent, one after the other, on a connection or a channel.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpStream;

use super::caller::Caller;
use super::requests;
use crate::detect::{self, Expected};
use crate::model::{
    ClientAddr, CloseReason, OrigDst, RefuseReason, Refused, SpiffeId, TlsParameters, Told,
    UnknownPeer, UpstreamAddr, Workload,
};
use crate::peer::Source;
use crate::plan::AuthzInput;
use crate::proxy::authorize::{ByName, Leave, admit_connection, authorize_connection};
use crate::proxy::context::{ConnectionContext, Exchange};
use crate::proxy::deliver::deliver;
use crate::proxy::first::{self, First};
use crate::proxy::forward::{ForwardEnd, Second, Stopped, Tunnelled, forward};
use crate::proxy::http::{ByteStream, HEAD_TIMEOUT, Inbox, Side};
use crate::proxy::registry::{CutReason, Watched};
use crate::proxy::report::Report;
use crate::proxy::server_name::{self, ConnectionProtocol};
use crate::sys::socket;
use crate::tls::{PeerId, Session};
use crate::tunnel::{
    Connection, IncomingStream, Open, ProtocolError, Relay, Reset, ResetReason, StreamEnd,
};

/// The peer's pool closes sooner: this is for peers that vanished.
const IDLE: Duration = Duration::from_secs(60);

/// What the peer's streams are judged by while they live.
pub(super) fn stand_on(context: &ConnectionContext, peer: &PeerId) {
    let peers = &context.worker.peers;
    let session = peers.session_of(&context.pod, context.client_addr.ip(), peer);
    context.entry().set_session(session);
}

/// The connection for streams; what its handshake proved is noted for those of others
/// that live. Before a stream was permitted it makes nothing known.
pub(super) fn begin(
    context: &ConnectionContext,
    client: TcpStream,
    session: Session,
    not_after: SystemTime,
) -> Box<Connection> {
    let connection = Box::new(Connection::new(client, session, not_after, Instant::now()));
    let peers = &context.worker.peers;
    peers.note_proof(
        (&context.pod, context.client_addr.ip()),
        None,
        connection.shown(),
    );
    connection
}

/// A stream was permitted, the first of the connection: what it is judged by while it
/// lives has to be known.
fn note_permitted(exchange: &Exchange, connection: &Connection) {
    let context = &exchange.context;
    if context.entry().had_stream.replace(true) {
        return;
    }
    let ip = context.client_addr.ip();
    let source = match exchange.workload_of_client() {
        Ok(workload) => Source::Node(workload.node.clone()),
        Err(UnknownPeer) => Source::Unknown,
    };
    let peers = &context.worker.peers;
    peers.note_proof((&context.pod, ip), Some(source), connection.shown());
}

pub(super) async fn streams(context: &Rc<ConnectionContext>, mut connection: Box<Connection>) {
    loop {
        let taken = tokio::select! {
            biased; // a cut must not wait for the next stream
            // Behind a stream that was cut in order the peer may have begun the next one: it
            // has to know that none is taken, as long as it may be told anything.
            reason = context.entry().cut.wait() => match reason.may_be_told() {
                true => break,
                false => return,
            },
            () = context.worker.draining.cancelled() => break,
            () = tokio::time::sleep(IDLE) => break,
            taken = connection.accept() => taken,
        };
        match taken {
            Ok(Some(taken)) => {
                match stream(context, &mut connection, taken).await {
                    AfterStream::Stream => {}
                    AfterStream::Farewell => break,
                    AfterStream::Close => return,
                }
                // Those that a peer sends in advance may be refused without a wait: others run
                // after some.
                tokio::task::coop::consume_budget().await;
            }
            // The peer is done.
            Ok(None) => return,
            Err(error) => {
                return broke_protocol(context, error, (connection.tls(), connection.peer()));
            }
        }
    }
    Box::pin(connection.go_away()).await;
}

/// A peer has, between streams.
pub(super) fn broke_protocol(
    context: &Rc<ConnectionContext>,
    error: ProtocolError,
    (tls, peer): (TlsParameters, &PeerId),
) {
    tracing::debug!(%error, peer = %peer.spiffe_id(), "protocol error");
    let exchange = Exchange::begin(context);
    let mut report = exchange.report();
    report.secured(tls, peer);
    come_from(&exchange, &mut report, peer);
    report.ended(Default::default(), CloseReason::ProtocolError);
}

/// What becomes of a connection behind a stream.
enum AfterStream {
    /// It may carry the next one.
    Stream,
    /// The client still speaks, and nobody listens: its agent may take the stream for
    /// over, and have begun the next one. It has to know that none is taken.
    Farewell,
    Close,
}

impl AfterStream {
    /// All is said that is to be said.
    fn behind(relay: &Relay, connection: &Connection) -> Self {
        match relay.is_over(connection) {
            true => Self::Stream,
            false => Self::Farewell,
        }
    }

    /// `is_settled`: both agents know that it is over.
    fn reset(is_settled: bool) -> Self {
        match is_settled {
            true => Self::Stream,
            false => Self::Close,
        }
    }
}

async fn stream(
    context: &Rc<ConnectionContext>,
    connection: &mut Connection,
    mut taken: Box<IncomingStream>,
) -> AfterStream {
    let IncomingStream { open, relay } = &mut *taken;
    // Each stream is decided by the configuration that holds when it comes.
    let exchange = Exchange::begin(context);
    let mut report = report(&exchange, open, connection);
    if open.source.ip().to_canonical() != context.client_addr.ip() {
        // Only a pod's own agent opens streams for it, from its own address.
        report.refused(RefuseReason::Loop);
        return AfterStream::Close;
    }
    let caller = Caller::proven_by(connection.peer(), ClientAddr::new(open.source));
    // The peer's word of where its client wanted to go: no more than a hint.
    let expected = first::expected_here(&exchange, OrigDst::new(open.original));
    // What came with the OPEN is there to be looked at.
    let first = match expected {
        Expected::Opaque => First::Bytes,
        Expected::OpaqueSoFar if relay.early().is_empty() => First::Bytes,
        Expected::OpaqueSoFar | Expected::Requests | Expected::Http | Expected::Anything => {
            First::from(detect::http(relay.early()))
        }
    };
    let mut inbox = Inbox::default();
    let stream = (&mut *relay, &mut *connection, &mut inbox);
    let reached = reach(&exchange, &mut report, &caller, (expected, first, stream));
    // The policy is asked again until the stream has ended.
    let (reached, watched) = match Box::pin(reached).await {
        Ok(reached) => reached,
        Err(refused) => {
            let reset_reason = reset_reason(refused.reason, open, &report);
            report.refused(refused);
            return AfterStream::reset(
                Box::pin(relay.finish_reset(connection, reset_reason)).await,
            );
        }
    };
    relay.accept();
    note_permitted(&exchange, connection);
    // Carried by none: what is kept for it would be one more for each change.
    drop(exchange);
    let application = match reached {
        Reached::Application(application) => application,
        Reached::Requests(first) => {
            let stream = (&mut *relay, &mut *connection, &mut inbox);
            let asked = (first, None);
            let requests = requests(context, stream, (&mut report, &caller), asked);
            let (bytes, reason) = Box::pin(requests).await;
            report.ended(bytes, reason);
            return behind_requests(relay, connection, reason).await;
        }
    };
    if first == First::Silence {
        // It is there, whoever speaks first.
        let _shown_later = report.opened();
        let raced = race(context, (relay, connection, &mut inbox), &application);
        match Box::pin(raced).await {
            Ok(first) if first.is_http() => {
                drop(watched);
                let stream = (&mut *relay, &mut *connection, &mut inbox);
                let asked = (first, Some(application));
                let requests = requests(context, stream, (&mut report, &caller), asked);
                let (bytes, reason) = Box::pin(requests).await;
                report.ended(bytes, reason);
                return behind_requests(relay, connection, reason).await;
            }
            Ok(_bytes) => relay.unread(inbox.bytes()),
            Err(cut) => {
                socket::reset_on_close(&application);
                drop(application);
                report.ended(Default::default(), cut.close());
                let resetting = Box::pin(relay.finish_reset(connection, ResetReason::Cut));
                return AfterStream::reset(resetting.await);
            }
        }
    }
    // Each on the heap for as long as it lasts: requests have no room for it.
    let carrying = bytes(context, relay, connection, &mut report, &application);
    let (reason, answer) = Box::pin(carrying).await;
    // The application, the log and the peer are told, in that order.
    if reason != CloseReason::Finished {
        socket::reset_on_close(&application);
    }
    drop(application);
    report.ended(relay.bytes(), reason);
    match answer {
        Some(answer) => AfterStream::reset(Box::pin(relay.finish_reset(connection, answer)).await),
        None => AfterStream::behind(relay, connection),
    }
}

/// Carries them as they are.
async fn bytes(
    context: &ConnectionContext,
    relay: &mut Relay,
    connection: &mut Connection,
    report: &mut Report,
    application: &TcpStream,
) -> (CloseReason, Option<ResetReason>) {
    let idle = context.worker.agent.config.idle_timeout;
    let carrier = connection.carrier();
    let mut tunnelled = Tunnelled {
        relay,
        application,
        connection,
    };
    let sockets = (application, Second::of(&carrier));
    let cut = &context.entry().cut;
    close_reason(&forward(&mut tunnelled, sockets, cut, report, idle).await)
}

type OfStream<'s> = (&'s mut Relay, &'s mut Connection, &'s mut Inbox);

/// The stream's client and the application: who speaks first? What is read of the
/// client is in the inbox then.
async fn race(
    context: &ConnectionContext,
    (relay, connection, inbox): OfStream<'_>,
    application: &TcpStream,
) -> Result<First, CutReason> {
    let mut client = Side {
        stream: ByteStream::Stream { relay, connection },
        inbox,
    };
    let client_spoke = pin!(client.first(first::PART));
    let application_spoke = pin!(first::application_begins(application));
    first::race(context, client_spoke, application_spoke).await
}

/// Each is judged by itself.
async fn requests(
    context: &Rc<ConnectionContext>,
    (relay, connection, inbox): OfStream<'_>,
    by: (&mut Report, &Caller),
    asked: (First, Option<TcpStream>),
) -> ForwardEnd {
    let stream = ByteStream::Stream { relay, connection };
    let client = &mut Side { stream, inbox };
    requests::serve(context, client, by, asked).await
}

async fn behind_requests(
    relay: &mut Relay,
    connection: &mut Connection,
    reason: CloseReason,
) -> AfterStream {
    let answer = match reason {
        CloseReason::Finished => return AfterStream::behind(relay, connection),
        CloseReason::ResetByUpstream => ResetReason::Aborted,
        CloseReason::ResetByClient | CloseReason::ProtocolError => ResetReason::Answer,
        CloseReason::IdleTimeout
        | CloseReason::DrainDeadline
        | CloseReason::PodRemoved
        | CloseReason::PolicyChanged
        | CloseReason::Revoked
        | CloseReason::CertificateExpired
        | CloseReason::PeerCertificateExpired
        | CloseReason::Refused(_) => ResetReason::Cut,
    };
    AfterStream::reset(Box::pin(relay.finish_reset(connection, answer)).await)
}

/// What a stream leads to.
enum Reached {
    Application(TcpStream),
    /// They find it themselves.
    Requests(First),
}

/// The application, if the policy lets the peer.
async fn reach(
    exchange: &Exchange,
    report: &mut Report,
    caller: &Caller,
    (expected, first, (relay, connection, inbox)): (Expected, First, OfStream<'_>),
) -> Result<(Reached, Option<Watched>), Refused> {
    let context = &exchange.context;
    let leave = authorize_peer(exchange, report, caller.identity().cloned())?;
    let decided = match leave.unless(expected == Expected::Requests) {
        // Each is judged by itself.
        _ if first.is_http() => ConnectionProtocol::Requests(first),
        Ok(authorized) => ConnectionProtocol::Bytes(authorized),
        Err(by_name) => {
            let stream = (&mut *relay, connection, &mut *inbox);
            let decided = Box::pin(enter((exchange, report), by_name, stream)).await?;
            if let ConnectionProtocol::Bytes(_) = decided {
                relay.unread(inbox.bytes());
                *inbox = Inbox::default();
            }
            decided
        }
    };
    // What is refused by its name leaves its place to others.
    let to = (&*context.pod.workload, context.orig_dst.port());
    admit_connection(exchange, report, to, caller.identity())?;
    let authorized = match decided {
        ConnectionProtocol::Bytes(authorized) => authorized,
        ConnectionProtocol::Requests(first) => return Ok((Reached::Requests(first), None)),
    };
    let application = deliver(context, authorized.permit(), caller.address).await?;
    Ok((Reached::Application(application), authorized.arrived()))
}

/// By what the client speaks, whatever is expected.
async fn enter(
    (exchange, report): (&Exchange, &mut Report),
    by_name: ByName,
    (relay, connection, inbox): OfStream<'_>,
) -> Result<ConnectionProtocol, Refused> {
    let context = &exchange.context;
    let stream = ByteStream::Stream { relay, connection };
    let mut client = Side { stream, inbox };
    let Some(check) = by_name else {
        let spoken = client.first(HEAD_TIMEOUT);
        return first::insist(context, spoken)
            .await
            .map(ConnectionProtocol::Requests);
    };
    let wait = context.worker.agent.config.handshake_timeout;
    let first_bytes = client.begins(|bytes| server_name::first_bytes(bytes, wait));
    server_name::decide((exchange, report), *check, first_bytes).await
}

/// What the peer's agent is told: it has proved who it is, so of a denial it
/// learns the rule, if it understands that.
fn reset_reason(reason: RefuseReason, open: &Open, report: &Report) -> Reset {
    match reason.told() {
        Told::Denied => Reset::denied(report.flow.rule.as_ref().filter(|_| open.takes_rule)),
        Told::OverLimit => ResetReason::OverLimit.into(),
        Told::ConnectFailed => ResetReason::ConnectFailed.into(),
    }
}

fn report(exchange: &Exchange, open: &Open, connection: &Connection) -> Report {
    let mut report = exchange.report();
    report.secured(connection.tls(), connection.peer());
    come_from(exchange, &mut report, connection.peer());
    let flow = report.flow();
    flow.client = ClientAddr::new(open.source);
    flow.upstream = Some(UpstreamAddr::new(exchange.context.orig_dst.get()));
    let vip = open.original.ip().to_canonical();
    let service = exchange.in_force.snapshot.by_vip.get(&vip);
    flow.service = service.map(|s| s.key.clone());
    report
}

/// Who the peer has proved to be.
pub(super) fn come_from(exchange: &Exchange, report: &mut Report, peer: &PeerId) {
    let id = peer.spiffe_id();
    // The address gives the pod's name only where it agrees with the proof.
    report.flow().source = exchange.workload_of_client().and_then(|w| {
        let agrees = is_of(&w, id);
        agrees.then_some(w).ok_or(UnknownPeer)
    });
    report.flow().source_principal = Some(id.clone());
}

fn is_of(workload: &Arc<Workload>, id: &SpiffeId) -> bool {
    workload.key.namespace == id.namespace() && workload.service_account == id.service_account()
}

fn authorize_peer(
    exchange: &Exchange,
    report: &mut Report,
    peer: Option<SpiffeId>,
) -> Result<Leave, Refused> {
    let context = &exchange.context;
    let input = AuthzInput::new(
        peer,
        context.client_addr.ip(),
        context.pod.workload.clone(),
        context.orig_dst.get(),
    );
    authorize_connection(exchange, report, input)
}

/// What the end is to the log, and what the peer is told.
fn close_reason(stopped: &Stopped<StreamEnd>) -> (CloseReason, Option<ResetReason>) {
    match stopped {
        Stopped::Ended(StreamEnd::Finished) => (CloseReason::Finished, None),
        Stopped::Ended(StreamEnd::ResetByApplication) => {
            (CloseReason::ResetByUpstream, Some(ResetReason::Aborted))
        }
        Stopped::Ended(StreamEnd::ResetByPeer(_)) => {
            (CloseReason::ResetByClient, Some(ResetReason::Answer))
        }
        Stopped::Ended(StreamEnd::Lost | StreamEnd::NotTaken | StreamEnd::Refused) => {
            (CloseReason::ResetByClient, None)
        }
        Stopped::Ended(StreamEnd::Protocol(_)) => (CloseReason::ProtocolError, None),
        Stopped::Idle => (CloseReason::IdleTimeout, Some(ResetReason::Cut)),
        Stopped::Cut(reason) => (reason.close(), Some(ResetReason::Cut)),
    }
}
