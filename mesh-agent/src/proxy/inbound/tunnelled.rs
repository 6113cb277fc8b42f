//! Streams of another agent: handshake once, then one stream after the other.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpStream;

use crate::model::{
    ClientAddr, CloseReason, PeerProtocol, RefuseReason, Refused, SpiffeId, TlsRole, Told,
    UnknownPeer, UpstreamAddr, Workload,
};
use crate::peer::{credentials, still_trusted};
use crate::plan::AuthzInput;
use crate::proxy::accepted::Accepted;
use crate::proxy::authorize::{Authorized, authorize};
use crate::proxy::context::{ConnectionContext, Exchange};
use crate::proxy::deliver::deliver;
use crate::proxy::forward::{Stopped, Tunnelled, forward};
use crate::proxy::registry::Watched;
use crate::proxy::report::Report;
use crate::sys::socket;
use crate::tls::{self, PeerId, Session};
use crate::tunnel::{Connection, IncomingStream, Open, Reset, ResetReason, StreamEnd};

/// The peer's pool closes sooner: this is for peers that vanished.
const IDLE: Duration = Duration::from_secs(60);

pub(in crate::proxy) async fn serve(accepted: Accepted) {
    let Accepted { client, exchange } = accepted;
    let context = exchange.context.clone();
    match Box::pin(handshake(&context, &client)).await {
        Ok((session, not_after)) => {
            stand_on(&context, &session.peer);
            if let Err(reason) = still_trusted(&context.pod, &session.peer) {
                let mut report = exchange.report();
                report.secured(session.parameters, &session.peer);
                come_from(&exchange, &mut report, &session.peer);
                return report.refused(reason);
            }
            // Each stream sees the configuration that holds when it comes; between
            // two of them none is kept.
            drop(exchange);
            match session.protocol {
                PeerProtocol::Mesh1 => {
                    let connection = begin(&context, client, session, not_after);
                    streams(&context, connection).await;
                }
            }
        }
        Err(refused) => {
            let mut report = exchange.report();
            // Nothing is proven: whose address it is, and what it claimed to be.
            report.flow().source = exchange.workload_of_client();
            // No RST: it could overtake the alert that says why.
            report.refused(refused);
        }
    }
}

/// What the peer's streams are judged by while they live.
fn stand_on(context: &ConnectionContext, peer: &PeerId) {
    let peers = &context.worker.peers;
    let session = peers.session_of(&context.pod, context.client_addr.ip(), peer);
    context.entry().set_session(session);
}

/// The connection for streams; what its handshake proved is noted for those of others.
fn begin(
    context: &ConnectionContext,
    client: TcpStream,
    session: Session,
    not_after: SystemTime,
) -> Box<Connection> {
    let connection = Box::new(Connection::new(client, session, not_after, Instant::now()));
    let peers = &context.worker.peers;
    peers.note_proof(&context.pod, context.client_addr.ip(), &connection);
    connection
}

async fn handshake(
    context: &ConnectionContext,
    client: &TcpStream,
) -> Result<(Session, SystemTime), Refused> {
    let _slot = context.pre_auth();
    let deadline = context.worker.agent.config.handshake_timeout;
    let accepting = async {
        let credentials = credentials(&context.pod, deadline).await?;
        socket::bound_unsent(client);
        let accepted = tls::accept(client, &credentials, deadline).await;
        let session = accepted?;
        Ok::<_, Refused>((session, credentials.not_after()))
    };
    let (session, not_after) = tokio::select! {
        biased; // removal and drain win
        reason = context.entry().cut.wait() => return Err(reason.refuse()),
        accepted = accepting => accepted?,
    };
    let observe = &context.worker.observe;
    observe.handshake(TlsRole::Server, session.parameters);
    Ok((session, not_after))
}

async fn streams(context: &Rc<ConnectionContext>, mut connection: Box<Connection>) {
    loop {
        let taken = tokio::select! {
            biased; // a cut must not wait for the next stream
            _reason = context.entry().cut.wait() => return,
            () = context.worker.draining.cancelled() => break,
            () = tokio::time::sleep(IDLE) => break,
            taken = connection.accept() => taken,
        };
        match taken {
            Ok(Some(taken)) => {
                if !stream(context, &mut connection, taken).await {
                    return;
                }
                // Those that a peer sends in advance may be refused without a wait.
                tokio::task::yield_now().await;
            }
            // The peer is done.
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, peer = %connection.peer().spiffe_id(), "protocol error");
                let exchange = Exchange::begin(context);
                let mut report = exchange.report();
                report.secured(connection.tls(), connection.peer());
                come_from(&exchange, &mut report, connection.peer());
                return report.ended(Default::default(), CloseReason::ProtocolError);
            }
        }
    }
    Box::pin(connection.go_away()).await;
}

/// One stream; true when the connection may carry the next.
async fn stream(
    context: &Rc<ConnectionContext>,
    connection: &mut Connection,
    mut taken: Box<IncomingStream>,
) -> bool {
    let IncomingStream { open, relay } = &mut *taken;
    // Each stream is decided by the configuration that holds when it comes.
    let exchange = Exchange::begin(context);
    let mut report = report(&exchange, open, connection);
    if open.source.ip().to_canonical() != context.client_addr.ip() {
        // Only a pod's own agent opens streams for it, from its own address.
        report.refused(RefuseReason::Loop);
        return false;
    }
    let peer = connection.peer().spiffe_id().clone();
    let client = ClientAddr::new(open.source);
    // The policy is asked again until the stream has ended.
    let (application, _watched) = match Box::pin(reach(&exchange, &mut report, peer, client)).await
    {
        Ok(reached) => reached,
        Err(refused) => {
            let reset_reason = reset_reason(refused.reason, open, &report);
            report.refused(refused);
            return Box::pin(relay.finish_reset(connection, reset_reason)).await;
        }
    };
    relay.accept();
    let idle = context.worker.agent.config.idle_timeout;
    let tcp = connection.tcp().clone();
    let mut tunnelled = Tunnelled {
        relay,
        application: &application,
        connection,
    };
    let sockets = [&application, &*tcp];
    let stopped = forward(
        &mut tunnelled,
        sockets,
        &context.entry().cut,
        &mut report,
        idle,
    )
    .await;
    drop(tcp);
    let (reason, answer) = close_reason(&stopped);
    // The application, the log and the peer are told, in that order.
    if reason != CloseReason::Finished {
        socket::reset_on_close(&application);
    }
    drop(application);
    report.ended(relay.bytes(), reason);
    match answer {
        Some(answer) => Box::pin(relay.finish_reset(connection, answer)).await,
        None => relay.is_over(connection),
    }
}

/// The application, if the policy lets the peer.
async fn reach(
    exchange: &Exchange,
    report: &mut Report,
    peer: SpiffeId,
    client: ClientAddr,
) -> Result<(TcpStream, Watched), Refused> {
    let authorized = authorize_peer(exchange, report, peer)?;
    let application = deliver(&exchange.context, authorized.permit(), client).await?;
    Ok((application, authorized.arrived()))
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
fn come_from(exchange: &Exchange, report: &mut Report, peer: &PeerId) {
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
    peer: SpiffeId,
) -> Result<Authorized, Refused> {
    let context = &exchange.context;
    let input = AuthzInput::new(
        Some(peer),
        context.client_addr.ip(),
        context.pod.workload.clone(),
        context.orig_dst.get(),
    );
    authorize(exchange, report, input)
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
