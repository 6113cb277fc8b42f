//! Who speaks first on a connection, and what: neither side is waited for.

use std::time::Duration;

use tokio::net::TcpStream;

use super::context::{ConnectionContext, Exchange};
use super::peek::look;
use super::registry::CutReason;
use crate::detect::{self, Expected, Hello, MAX_HELLO, MAX_REQUEST_LINE, Spoken};
use crate::model::traffic::counts_requests;
use crate::model::{AppProtocol, OrigDst, RefuseReason, Refused, ServicePort, TargetPort};
use crate::route::{self, RouteDecision};

/// A client of HTTP sends its request by then; else the application is called.
const HTTP_WAIT: Duration = Duration::from_secs(1);
/// Where both are silent for so long, the connection is bytes.
const RACE: Duration = Duration::from_secs(10);

/// Whoever begins like a request has sent its first line by then.
pub(super) const PART: Duration = Duration::from_secs(1);
/// A client that asks within this time of a refusal gets an answer instead of a reset.
/// All others wait for it: `docs/failures.md` says how soon they are told.
pub(super) const SOON: Duration = Duration::from_millis(15);

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// A request of HTTP/1.
    Http,
    /// The preface of HTTP/2.
    Http2,
    /// Nobody's to look at.
    Bytes,
    /// Nothing has come yet.
    Silence,
}

impl From<Spoken> for First {
    fn from(spoken: Spoken) -> Self {
        match spoken {
            Spoken::Http1 => Self::Http,
            Spoken::Http2 => Self::Http2,
            Spoken::Other => Self::Bytes,
            Spoken::NeedMore => Self::Silence,
        }
    }
}

/// What is to be expected of a connection to `to`, which the peer's agent may only claim:
/// what is learned goes by where it comes to here.
pub(super) fn expected(exchange: &Exchange, to: OrigDst) -> Expected {
    look_up(exchange, to, false)
}

/// Of what arrives at the pod: the limits of its own port hold, whatever the peer says
/// of where its client wanted to go.
pub(super) fn expected_here(exchange: &Exchange, to: OrigDst) -> Expected {
    let context = &exchange.context;
    let own = (&*context.pod.workload, context.orig_dst.port());
    look_up(exchange, to, context.worker.counts_requests(own))
}

/// `is_counted`: a rate limit of requests is known to hold.
fn look_up(exchange: &Exchange, to: OrigDst, is_counted: bool) -> Expected {
    let in_force = &exchange.in_force;
    let worker = &exchange.context.worker;
    let (port, is_judged) = match route::resolve(&in_force.snapshot, to) {
        RouteDecision::Service { service, port, .. } => {
            let routes = in_force.routes.of(&service.key, port.port);
            let counts = counts_requests(&service.traffic(port).rate_limits);
            (Some(port), routes.is_some() || counts)
        }
        RouteDecision::Workload(workload) => (None, worker.counts_requests((workload, to.port()))),
        RouteDecision::External | RouteDecision::Refused(_) => (None, false),
    };
    let declared = port.map_or(AppProtocol::Unspecified, |port| port.protocol);
    let ports = [to.port(), port.map_or(to.port(), target)];
    let context = &exchange.context;
    let mut learned = context.worker.learned.borrow_mut();
    let learned = learned.next(context.orig_dst.get(), !(is_judged || is_counted));
    detect::expected(declared, ports, learned)
}

/// It was looked at, and is no HTTP: for the next one to the same destination.
fn was_bytes(context: &ConnectionContext) {
    let mut learned = context.worker.learned.borrow_mut();
    learned.was_bytes(context.orig_dst.get());
}

fn target(port: &ServicePort) -> u16 {
    match port.target {
        TargetPort::Number(number) => number,
        TargetPort::Name(_) => port.port,
    }
}

/// What the client begins with, without taking it.
pub(super) async fn spoken(client: &TcpStream) -> First {
    let begun = look(client, MAX_REQUEST_LINE, |bytes| Some(detect::http(bytes))).await;
    match begun.map(First::from) {
        Some(told @ (First::Http | First::Http2 | First::Bytes)) => told,
        // It may wait for an answer to what it has said.
        Some(First::Silence) => tokio::time::timeout(PART, whole(client))
            .await
            .unwrap_or(First::Bytes),
        None => First::Bytes,
    }
}

async fn whole(client: &TcpStream) -> First {
    let judge = |bytes: &[u8]| match detect::http(bytes) {
        Spoken::NeedMore => None,
        told @ (Spoken::Http1 | Spoken::Http2 | Spoken::Other) => Some(First::from(told)),
    };
    look(client, MAX_REQUEST_LINE, judge)
        .await
        .unwrap_or(First::Bytes)
}

/// What the client sent with its connect, or soon where that is expected.
pub(super) async fn at_once(
    context: &ConnectionContext,
    client: &TcpStream,
    expected: Expected,
) -> Result<First, Refused> {
    let moment = async {
        match expected {
            Expected::Http => tokio::time::sleep(HTTP_WAIT).await,
            // The request is often a moment behind the connect.
            Expected::Anything | Expected::Opaque | Expected::OpaqueSoFar => {
                tokio::task::yield_now().await;
            }
        }
    };
    if matches!(expected, Expected::Opaque | Expected::OpaqueSoFar) {
        return Ok(First::Bytes);
    }
    tokio::select! {
        biased; // removal and drain win
        reason = context.entry().cut.wait() => Err(reason.refuse()),
        first = spoken(client) => {
            if first == First::Bytes {
                was_bytes(context);
            }
            Ok(first)
        }
        () = moment => Ok(First::Silence),
    }
}

/// Both are connected: who speaks first? What the application begins with is bytes.
pub(super) async fn race(
    context: &ConnectionContext,
    client_spoke: impl Future<Output = First>,
    application_spoke: impl Future<Output = ()>,
) -> Result<First, CutReason> {
    let idle = context.worker.agent.config.idle_timeout;
    let longest = idle.map_or(RACE, |idle| RACE.min(idle / 4));
    let first = tokio::select! {
        biased; // removal and drain win
        reason = context.entry().cut.wait() => return Err(reason),
        first = client_spoke => first,
        () = application_spoke => First::Bytes,
        () = tokio::time::sleep(longest) => First::Bytes,
    };
    if first == First::Bytes {
        was_bytes(context);
    }
    Ok(first)
}

/// Until the application begins, or ends. A server of HTTP/2 that sends its settings
/// waits for its client all the same.
pub(super) async fn application_begins(application: &TcpStream) {
    const HEAD: usize = 9;
    if look(application, HEAD, detect::http2_settings).await == Some(true) {
        std::future::pending::<()>().await;
    }
}

/// The name that the client's TLS asks for, in lower case; none of what is no TLS, or
/// is silent.
pub(super) async fn server_name(
    context: &ConnectionContext,
    client: &TcpStream,
) -> Result<Option<String>, Refused> {
    let judge = |bytes: &[u8]| match detect::client_hello(bytes) {
        Hello::NeedMore => None,
        Hello::OtherTls { sni } => Some(sni.map(|name| name.to_ascii_lowercase())),
        Hello::NotTls | Hello::Mesh | Hello::Malformed => Some(None),
    };
    let deadline = context.worker.agent.config.handshake_timeout;
    tokio::select! {
        biased; // removal and drain win
        reason = context.entry().cut.wait() => Err(reason.refuse()),
        name = look(client, MAX_HELLO, judge) => Ok(name.flatten()),
        () = tokio::time::sleep(deadline) => Ok(None),
    }
}

/// A rule about requests is in force: only one of HTTP goes on.
pub(super) async fn insist(
    context: &ConnectionContext,
    client_spoke: impl Future<Output = First>,
) -> Result<First, Refused> {
    match race(context, client_spoke, std::future::pending()).await {
        Ok(first @ (First::Http | First::Http2)) => Ok(first),
        Ok(First::Bytes | First::Silence) => Err(RefuseReason::UndecidedProtocol.into()),
        Err(cut) => Err(cut.refuse()),
    }
}
