//! What is no HTTP: bytes, as they are, to the endpoint that is picked when the
//! connection comes. Where the client is silent it is seen meanwhile who speaks first.

use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::fault::same_luck;
use super::mesh::{self, MeshStream};
use super::reach::{another, authz_input, dial_upstream, entered_pod, target};
use super::upstreams::Upstream;
use crate::balance::{Attempt, Kind};
use crate::model::route::{BackendRef, RouteKind};
use crate::model::{
    ByteCounts, CloseReason, Direction, RefuseReason, Refused, Security, UnknownPeer, UpstreamAddr,
    Workload,
};
use crate::plan::{MayDial as _, MeshPeer, Outside, Target, Transport};
use crate::proxy::accepted::{Accepted, forward_between};
use crate::proxy::authorize::{Authorized, ByName, admit_connection, authorize_connection};
use crate::proxy::context::{ConnectionContext, Exchange};
use crate::proxy::first::{self, First};
use crate::proxy::forward::ForwardEnd;
use crate::proxy::http::HEAD_TIMEOUT;
use crate::proxy::load::Load;
use crate::proxy::queue::{self, WaitEnd};
use crate::proxy::report::Report;
use crate::proxy::server_name::{self, ConnectionProtocol, FirstBytes};
use crate::proxy::times::connected;
use crate::route::{ConnectionDecision, ConnectionRefusal};
use crate::sys::socket;
use crate::tunnel::Unseen;

/// What became of a connection that an upstream was opened for.
pub(super) enum Carried {
    Ended(ForwardEnd),
    /// Its client speaks HTTP after all; the upstream, if there is one, is for a request.
    Http(First, Option<Box<Upstream>>),
}

/// Carried as they are, as far as it is known.
pub(super) async fn bytes(
    accepted: &Accepted,
    report: &mut Report,
    after: &mut Option<Box<MeshStream>>,
    first: First,
) -> Result<Carried, Refused> {
    let (mut attempt, mut name) = (Attempt::default(), None);
    let by = (&mut attempt, &mut name);
    let decided = Box::pin(decided(accepted, by)).await?;
    let decided = match decided.target {
        Ok(target) => (decided.backend, target),
        Err(refused) => {
            let waiting = placed_or_asked(accepted, first, (&mut attempt, refused));
            if let Some(asked) = Box::pin(waiting).await? {
                return Ok(Carried::Http(asked, None));
            }
            // What it was decided by may have been a minute ago: where to, and whether encrypted.
            accepted.begin_anew();
            report.flow().generation = accepted.exchange().in_force.snapshot.generation;
            let by = (&mut attempt, &mut name);
            let decided = Box::pin(self::decided(accepted, by)).await?;
            // Where it goes to no Service any more, the place is not its.
            attempt.leave_queue();
            (decided.backend, decided.target?)
        }
    };
    let ((backend, mut target), mut first) = (decided, first);
    let mut kept = Some(Unseen::default());
    loop {
        let result = to(accepted, report, after, target, (first, &mut kept)).await;
        let Some(unseen) = unseen(&result, (after, kept.take()), report) else {
            return result;
        };
        let attempt = (Kind::Connection, &mut attempt);
        let Some(another) = another(&accepted.exchange(), backend.as_deref(), attempt) else {
            return result;
        };
        if let Some(before) = after.take() {
            let context = accepted.context_rc();
            context.spawn(|context| async move { before.give_back(&context).await });
        }
        if !unseen.bytes.is_empty() {
            first = First::Bytes;
        }
        (target, kept) = (another, Some(unseen));
    }
}

/// By one configuration.
struct Decided {
    /// Where a route leads.
    backend: Option<Box<BackendRef>>,
    target: Result<Target, Refused>,
}

/// The name that its client asks for, once somebody has looked.
type Asked = Option<Option<Box<str>>>;

async fn decided(
    accepted: &Accepted,
    (attempt, name): (&mut Attempt, &mut Asked),
) -> Result<Decided, Refused> {
    let backend = backend(accepted, (attempt, name)).await?;
    let by = (Kind::Connection, attempt);
    let target = target(&accepted.exchange(), backend.as_deref(), by, None);
    Ok(Decided { backend, target })
}

/// To when there is a place for it. A client that turns out to be one of HTTP meanwhile needs
/// none: its requests have their own.
async fn placed_or_asked(
    accepted: &Accepted,
    first: First,
    waiting: (&mut Attempt, Refused),
) -> Result<Option<First>, Refused> {
    let mut placed = pin!(placed(accepted, waiting));
    if first != First::Silence {
        return placed.await.map(|()| None);
    }
    let spoke = tokio::select! {
        biased; // who has a place goes
        placed = &mut placed => return placed.map(|()| None),
        spoke = first::spoken(&accepted.client, first::PART) => spoke,
    };
    match spoke.is_http() {
        true => Ok(Some(spoke)),
        false => placed.await.map(|()| None),
    }
}

/// To when there is a place for it, if it waits for one.
async fn placed(
    accepted: &Accepted,
    (attempt, refused): (&mut Attempt, Refused),
) -> Result<(), Refused> {
    if attempt.queued().is_none() {
        return Err(refused);
    }
    // Who ends its own side may still wait; who has reset it does not.
    let reset = accepted.client.ready(Interest::ERROR);
    match queue::wait(attempt, accepted.context(), reset).await {
        WaitEnd::Over => Ok(()),
        WaitEnd::Late(reason) => Err(reason.into()),
        WaitEnd::Cut(reason) => Err(reason.refuse()),
        WaitEnd::Left(_reset) => Err(refused),
    }
}

/// What nobody can have seen of a connection that another endpoint may help. `kept`: what
/// was not given to an upstream.
fn unseen(
    result: &Result<Carried, Refused>,
    (after, kept): (&mut Option<Box<MeshStream>>, Option<Unseen>),
    report: &mut Report,
) -> Option<Unseen> {
    let refused = match result {
        Err(refused) => refused.clone(),
        // The other agent did not reach its application.
        Ok(Carried::Ended((_, CloseReason::Refused(reason)))) => (*reason).into(),
        Ok(Carried::Ended(_) | Carried::Http(..)) => return None,
    };
    if !report.may_help_elsewhere(&refused) {
        return None;
    }
    match after {
        Some(stream) => stream.take_unseen(),
        None => kept,
    }
}

async fn to(
    accepted: &Accepted,
    report: &mut Report,
    after: &mut Option<Box<MeshStream>>,
    target: Target,
    (first, unseen): (First, &mut Option<Unseen>),
) -> Result<Carried, Refused> {
    let exchange = accepted.exchange();
    let transport = exchange
        .decision_context()
        .transport(&target, Instant::now());
    report.flow().generation = exchange.in_force.snapshot.generation;
    drop(exchange);
    let upstream = target.upstream;
    let context = accepted.context_rc();
    let load = |load| Load::new(load, context.clone());
    report.goes_to(target.load.map(load));
    let flow = report.flow();
    flow.upstream = Some(upstream);
    flow.service = target.service;
    flow.destination = target.destination.ok_or(UnknownPeer);
    match transport? {
        Transport::SameNode(workload) => {
            same_node(accepted, report, (upstream, workload), (first, unseen)).await
        }
        Transport::Mesh(peer) => to_mesh(accepted, report, &peer, after, (first, unseen)).await,
        Transport::Plain(outside) => plain(accepted, report, &outside, (first, unseen)).await,
    }
}

/// Where a route for connections leads; else the Service's own endpoints it is.
async fn backend(
    accepted: &Accepted,
    (attempt, asked): (&mut Attempt, &mut Asked),
) -> Result<Option<Box<BackendRef>>, Refused> {
    let exchange = &accepted.exchange();
    let context = &exchange.context;
    let dice = &context.worker.dice;
    let same = same_luck(attempt, dice);
    let dice = same.as_ref().unwrap_or(dice);
    let Some(routes) = exchange.in_force.routes_at(context.orig_dst) else {
        return Ok(None);
    };
    let namespace = context.pod.workload.key.namespace.as_str();
    let name = match routes.kind(namespace) {
        Some(RouteKind::Tls) => {
            if asked.is_none() {
                let look = Box::pin(server_name::routed(context, &accepted.client));
                *asked = Some(look.await?);
            }
            asked.as_ref().and_then(Option::as_deref)
        }
        Some(RouteKind::Tcp | RouteKind::Http | RouteKind::Grpc) | None => None,
    };
    let decision = routes.decide_connection(name, namespace, |limit| dice.below(limit));
    match decision {
        ConnectionDecision::Implicit => Ok(None),
        ConnectionDecision::Forward { backend, .. } => Ok(Some(Box::new(backend.clone()))),
        ConnectionDecision::Refused(why) => Err(match why {
            ConnectionRefusal::NoRouteMatched => RefuseReason::NoRoute.into(),
            ConnectionRefusal::InvalidBackend | ConnectionRefusal::NoBackend => {
                RefuseReason::NoBackend.into()
            }
        }),
    }
}

/// Between two sockets, once it is known who speaks first.
async fn carry_between(
    accepted: &Accepted,
    report: &mut Report,
    (upstream, entered): (TcpStream, Option<u64>),
    (first, unseen): (First, &mut Option<Unseen>),
) -> Result<Carried, Refused> {
    accepted.is_decided();
    let context = accepted.context();
    let early = match unseen.take() {
        Some(unseen) => pass(context, &upstream, &unseen.bytes).await?,
        None => 0,
    };
    if first == First::Silence {
        // It is there, whoever speaks first.
        let _shown_later = report.opened();
        // In the room that carrying will need: most that are silent for long stay so.
        match first::race_between(context, &accepted.client, &upstream).await {
            Ok(first) if first.is_http() => {
                let open = Upstream::of_socket(upstream, entered)?;
                return Ok(Carried::Http(first, Some(Box::new(open))));
            }
            Ok(_bytes) => {}
            Err(cut) => {
                socket::reset_on_close(&upstream);
                return Ok(Carried::Ended((ByteCounts::default(), cut.close())));
            }
        }
    }
    let (mut bytes, reason) = forward_between(accepted, report, &upstream).await;
    bytes.sent += early;
    Ok(Carried::Ended((bytes, reason)))
}

/// What was sent to another one in vain; gives how much it is.
async fn pass(
    context: &ConnectionContext,
    upstream: &TcpStream,
    bytes: &[u8],
) -> Result<u64, Refused> {
    let mut at = 0;
    while at < bytes.len() {
        tokio::select! {
            biased; // removal and drain win
            reason = context.entry().cut.wait() => return Err(reason.refuse()),
            ready = upstream.writable() => {
                ready.map_err(|_| RefuseReason::UpstreamClosed)?;
            }
        }
        match upstream.try_write(&bytes[at..]) {
            Ok(n) => at += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Err(RefuseReason::UpstreamClosed.into()),
        }
    }
    Ok(bytes.len() as u64)
}

/// To a pod in the mesh.
async fn to_mesh(
    accepted: &Accepted,
    report: &mut Report,
    peer: &MeshPeer,
    after: &mut Option<Box<MeshStream>>,
    (first, unseen): (First, &mut Option<Unseen>),
) -> Result<Carried, Refused> {
    let context = accepted.context();
    let within = report.timeouts().connect;
    let mut carrying = connected(within, mesh::begin(context, peer)).await?;
    carrying.set_session(context);
    report.flow().destination_principal = Some(peer.expected().clone());
    let (tls, shown) = carrying.session();
    report.secured(tls, shown);
    carrying.is_trusted(context)?;
    accepted.is_decided();
    if let Some(unseen) = unseen.take() {
        carrying.begin_with(unseen);
    }
    let first = match first {
        // In the room that carrying will need.
        First::Silence => carrying.race(accepted, report).await,
        First::Http | First::Http2 | First::Bytes | First::Unfinished | First::Ended => Ok(first),
    };
    if let Err(cut) = first {
        carrying.cut();
        *after = Some(carrying);
        let ended = (ByteCounts::default(), cut.close());
        return match report.is_open() {
            true => Ok(Carried::Ended(ended)),
            false => Err(cut.refuse()),
        };
    }
    if let Ok(first) = first
        && first.is_http()
    {
        let open = Box::new(Upstream::of_stream(carrying));
        return Ok(Carried::Http(first, Some(open)));
    }
    let carrying = after.insert(carrying);
    let ended = mesh::stream(accepted, report, carrying, peer).await?;
    Ok(Carried::Ended(ended))
}

/// Outside of the mesh.
async fn plain(
    accepted: &Accepted,
    report: &mut Report,
    outside: &Outside,
    first: (First, &mut Option<Unseen>),
) -> Result<Carried, Refused> {
    let within = report.timeouts().connect;
    let stream = connected(within, dial_upstream(accepted.context(), outside)).await?;
    if entered_pod(accepted.context(), &stream, outside.to()).is_some() {
        // Meanwhile the address is that of a pod here, whose policy nobody asked.
        socket::reset_on_close(&stream);
        return Err(RefuseReason::WrongWorkload.into());
    }
    carry_between(accepted, report, (stream, None), first).await
}

/// Both halves in one pass.
async fn same_node(
    accepted: &Accepted,
    report: &mut Report,
    (upstream, workload): (UpstreamAddr, Arc<Workload>),
    first: (First, &mut Option<Unseen>),
) -> Result<Carried, Refused> {
    let leave = authorize_here(&accepted.exchange(), report, upstream, &workload)?;
    let authorized = match leave {
        Ok(authorized) => authorized,
        Err(by_name) => {
            let entering = enter(accepted, report, by_name, first.1.as_ref());
            match Box::pin(entering).await? {
                ConnectionProtocol::Bytes(authorized) => authorized,
                // It is counted when it is opened for them.
                ConnectionProtocol::Requests(first) => return Ok(Carried::Http(first, None)),
            }
        }
    };
    let source = &accepted.context().pod.spiffe_id;
    let to = (&*workload, upstream.port());
    admit_connection(&accepted.exchange(), report, to, Some(source))?;
    let permit = authorized.permit();
    let within = report.timeouts().connect;
    let stream = connected(within, dial_upstream(accepted.context(), permit)).await?;
    // The address may belong to another pod by now, enrolled or not.
    let entered = entered_pod(accepted.context(), &stream, permit.to());
    let agent = &accepted.context().worker.agent;
    if !entered.is_some_and(|cookie| agent.is_pod(cookie, &workload)) {
        socket::reset_on_close(&stream);
        return Err(RefuseReason::WrongWorkload.into());
    }
    let _watched = authorized.arrived();
    carry_between(accepted, report, (stream, entered), first).await
}

/// By what the client speaks, whatever is expected. `unseen`: what was read of it for
/// another endpoint.
async fn enter(
    accepted: &Accepted,
    report: &mut Report,
    by_name: ByName,
    unseen: Option<&Unseen>,
) -> Result<ConnectionProtocol, Refused> {
    let exchange = &accepted.exchange();
    let context = &exchange.context;
    let wait = context.worker.agent.config.handshake_timeout;
    let begun = unseen.filter(|unseen| !unseen.bytes.is_empty());
    match (by_name, begun) {
        (Some(check), Some(begun)) => {
            let first_bytes = async {
                match server_name::first_bytes(&begun.bytes, wait) {
                    Ok(told @ (FirstBytes::Named(_) | FirstBytes::Odd)) => Ok(told),
                    // Nobody else reads it as a request any more.
                    Ok(FirstBytes::Requests(_)) | Err(_) => Err(First::Unfinished),
                }
            };
            server_name::decide((exchange, report), *check, first_bytes).await
        }
        (Some(check), None) => {
            let first_bytes = server_name::peek_first_bytes(&accepted.client, wait);
            server_name::decide((exchange, report), *check, first_bytes).await
        }
        (None, Some(_)) => Err(RefuseReason::UndecidedProtocol.into()),
        (None, None) => {
            let spoken = first::spoken(&accepted.client, HEAD_TIMEOUT);
            first::insist(context, spoken)
                .await
                .map(ConnectionProtocol::Requests)
        }
    }
}

/// The destination's policy, for a caller whose identity the kernel gives.
fn authorize_here(
    exchange: &Exchange,
    report: &mut Report,
    upstream: UpstreamAddr,
    workload: &Arc<Workload>,
) -> Result<Result<Authorized, ByName>, Refused> {
    report.flow().direction = Direction::SameNode;
    report.flow().security = Security::SameNode;
    let expected = workload.spiffe_id(&exchange.context.worker.agent.trust_domain);
    report.flow().destination_principal = expected.ok();
    let input = authz_input(exchange, upstream, workload.clone());
    let leave = authorize_connection(exchange, report, input)?;
    let worker = &exchange.context.worker;
    Ok(leave.unless(worker.is_for_requests((workload, upstream.port()))))
}
