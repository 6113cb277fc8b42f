//! What is no HTTP: bytes, as they are, to the endpoint that is picked when the
//! connection comes. Where the client is silent it is seen meanwhile who speaks first.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;

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
use crate::proxy::authorize::{Authorized, admit_connection, authorize_connection};
use crate::proxy::context::{ConnectionContext, Exchange};
use crate::proxy::first::{self, First};
use crate::proxy::forward::ForwardEnd;
use crate::proxy::http::HEAD_TIMEOUT;
use crate::proxy::load::Load;
use crate::proxy::report::Report;
use crate::proxy::times::connected;
use crate::route::{ConnectionDecision, ConnectionRefusal};
use crate::sys::socket;
use crate::tunnel::Unseen;

/// What became of a connection that an upstream was opened for.
pub(super) enum Carried {
    Ended(ForwardEnd),
    /// Its client speaks HTTP after all; the upstream, if there is one, is for a request.
    Http(First, Option<Upstream>),
}

/// Carried as they are, as far as it is known.
pub(super) async fn bytes(
    accepted: &Accepted,
    report: &mut Report,
    after: &mut Option<Box<MeshStream>>,
    first: First,
) -> Result<Carried, Refused> {
    let exchange = &accepted.exchange;
    let backend = Box::pin(backend(accepted)).await?;
    let mut attempt = Attempt::default();
    let target = target(exchange, backend, (Kind::Connection, &mut attempt), None)?;
    let result = to(accepted, report, after, target, (first, None)).await;
    let Some(unseen) = unseen(&result, after, report) else {
        return result;
    };
    let Some(target) = another(exchange, backend, (Kind::Connection, &mut attempt)) else {
        return result;
    };
    if let Some(before) = after.take() {
        let (context, pod) = (accepted.context_rc().clone(), &accepted.context().pod);
        let tracked = context.worker.tasks.clone();
        let leaving = async move { before.give_back(&context).await };
        pod.tasks.spawn_local(tracked.track_future(leaving));
    }
    let first = match unseen.bytes.is_empty() {
        true => first,
        false => First::Bytes,
    };
    to(accepted, report, after, target, (first, Some(unseen))).await
}

/// What nobody can have seen of a connection that another endpoint may help.
fn unseen(
    result: &Result<Carried, Refused>,
    after: &mut Option<Box<MeshStream>>,
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
        None => Some(Unseen::default()),
    }
}

async fn to(
    accepted: &Accepted,
    report: &mut Report,
    after: &mut Option<Box<MeshStream>>,
    target: Target,
    (first, unseen): (First, Option<Unseen>),
) -> Result<Carried, Refused> {
    let exchange = &accepted.exchange;
    let transport = exchange
        .decision_context()
        .transport(&target, Instant::now());
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
async fn backend(accepted: &Accepted) -> Result<Option<&BackendRef>, Refused> {
    let exchange = &accepted.exchange;
    let context = &exchange.context;
    let Some(routes) = exchange.in_force.routes_at(context.orig_dst) else {
        return Ok(None);
    };
    let namespace = context.pod.workload.key.namespace.as_str();
    let name = match routes.kind(namespace) {
        Some(RouteKind::Tls) => Box::pin(first::server_name(context, &accepted.client)).await?,
        Some(RouteKind::Tcp | RouteKind::Http | RouteKind::Grpc) | None => None,
    };
    let dice = &context.worker.dice;
    let decision = routes.decide_connection(name.as_deref(), namespace, |limit| dice.below(limit));
    match decision {
        ConnectionDecision::Implicit => Ok(None),
        ConnectionDecision::Forward { backend, .. } => Ok(Some(backend)),
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
    (first, unseen): (First, Option<Unseen>),
) -> Result<Carried, Refused> {
    let context = accepted.context();
    let early = match unseen {
        Some(unseen) => pass(context, &upstream, &unseen.bytes).await?,
        None => 0,
    };
    if first == First::Silence {
        // It is there, whoever speaks first.
        let _shown_later = report.opened();
        let spoke = first::spoken(&accepted.client, first::PART);
        let begins = first::application_begins(&upstream);
        match Box::pin(first::race(context, spoke, begins)).await {
            Ok(first) if first.is_http() => {
                let open = Upstream::of_socket(upstream, entered)?;
                return Ok(Carried::Http(first, Some(open)));
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
    (first, unseen): (First, Option<Unseen>),
) -> Result<Carried, Refused> {
    let context = accepted.context();
    let within = report.timeouts().connect;
    let mut carrying = connected(within, mesh::begin(context, peer)).await?;
    if let Some(unseen) = unseen {
        carrying.begin_with(unseen);
    }
    carrying.set_session(context);
    report.flow().destination_principal = Some(peer.expected().clone());
    let (tls, shown) = carrying.session();
    report.secured(tls, shown);
    carrying.is_trusted(context)?;
    let first = match first {
        First::Silence => Box::pin(carrying.race(accepted, report)).await,
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
        return Ok(Carried::Http(first, Some(Upstream::of_stream(carrying))));
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
    first: (First, Option<Unseen>),
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
    first: (First, Option<Unseen>),
) -> Result<Carried, Refused> {
    let authorized = authorize_here(&accepted.exchange, report, upstream, workload.clone())?;
    let Some(authorized) = authorized else {
        // Whatever is expected: what the client speaks decides.
        let spoken = first::spoken(&accepted.client, HEAD_TIMEOUT);
        let first = Box::pin(first::insist(accepted.context(), spoken)).await?;
        return Ok(Carried::Http(first, None));
    };
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

/// The destination's policy, for a caller whose identity the kernel gives. `None`: it
/// goes by requests.
fn authorize_here(
    exchange: &Exchange,
    report: &mut Report,
    upstream: UpstreamAddr,
    workload: Arc<Workload>,
) -> Result<Option<Authorized>, Refused> {
    report.flow().direction = Direction::SameNode;
    report.flow().security = Security::SameNode;
    let expected = workload.spiffe_id(&exchange.context.worker.agent.trust_domain);
    report.flow().destination_principal = expected.ok();
    let to = workload.clone();
    let input = authz_input(exchange, upstream, workload);
    let authorized = authorize_connection(exchange, report, input)?;
    let is_for_requests = exchange
        .context
        .worker
        .is_for_requests((&to, upstream.port()));
    let authorized = authorized.filter(|_| !is_for_requests);
    // Where requests are asked for first, it is counted when it is opened for them.
    if authorized.is_some() {
        let source = &exchange.context.pod.spiffe_id;
        admit_connection(exchange, report, (&to, upstream.port()), Some(source))?;
    }
    Ok(authorized)
}
