//! To a local pod from elsewhere: what is it, who is it, may it, deliver.
//!
//! Plaintext reaches an application only where the pod's mode takes it *and* a
//! policy allows a caller without identity.

mod caller;
mod http;
mod http2;
mod requests;
pub(super) mod session;
mod shared;
mod sniff;
mod tunnelled;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::sniff::fuzz as fuzz_first_bytes;

use tokio::net::TcpStream;

use self::caller::Caller;
pub(crate) use self::sniff::{Sniffed, sniff};
use super::accepted::{Accepted, forward_between};
use super::authorize::{Authorized, ByName, Leave, admit_connection, authorize_connection};
use super::context::Exchange;
use super::deliver::deliver;
use super::first::{self, First};
use super::forward::ForwardEnd;
use super::http::{ByteStream, HEAD_TIMEOUT, Inbox, Side};
use super::registry::CutReason;
use super::report::Report;
use super::server_name::{self, ConnectionProtocol};
use crate::detect::Expected;
use crate::model::policy::PeerMode;
use crate::model::{
    ByteCounts, CloseReason, RefuseReason, Refused, Security, TlsFailure, UpstreamAddr,
};
use crate::plan::AuthzInput;
use crate::policy::Permit;
use crate::sys::socket;

const MALFORMED: RefuseReason = RefuseReason::Tls(TlsFailure::Malformed);

/// What is to be done with a connection that is no longer plaintext's.
enum Classified {
    Ended(ForwardEnd),
    /// A mesh peer: it is handed on.
    Mesh,
}

/// Gives a mesh peer's connection back, for [`session::serve`]: on the heap, so that no other
/// has room for it.
pub(super) async fn serve(accepted: Accepted) -> Option<Box<Accepted>> {
    let mut report = accepted.exchange().report();
    let result = match classify(&accepted, &mut report).await {
        Ok(Classified::Mesh) => return Some(Box::new(accepted)),
        Ok(Classified::Ended(ended)) => Ok(ended),
        Err(reason) => {
            // Of one that was carried nobody is named by an address: another pod may
            // have it by now. Of one that was refused it is a hint for people.
            if !report.is_open() {
                report.flow().source = accepted.exchange().workload_of_client();
            }
            Err(reason)
        }
    };
    accepted.conclude(report, result);
    None
}

async fn classify(accepted: &Accepted, report: &mut Report) -> Result<Classified, Refused> {
    if socket::is_own_delivery(&accepted.client) {
        return Err(RefuseReason::Loop.into());
    }
    let context = accepted.context();
    let exchange = accepted.exchange();
    let policy = &exchange.in_force.policy;
    let mode = policy.peer_mode(&context.pod.workload, context.orig_dst.port());
    drop(exchange);
    match mode {
        PeerMode::Strict => strict(accepted).await,
        PeerMode::Permissive => permissive(accepted, report).await,
        PeerMode::Disable => {
            let leave = authorize_plaintext(&accepted.exchange(), report)?;
            arrive(accepted, report, leave).await
        }
    }
}

/// Waits for the first bytes; the connection's cut and its deadline end the wait.
async fn inspect(accepted: &Accepted) -> Result<Sniffed, Refused> {
    let context = accepted.context();
    let _slot = context.pre_auth();
    let deadline = context.worker.agent.config.handshake_timeout;
    tokio::select! {
        biased; // removal and drain win
        reason = context.entry().cut.wait() => Err(reason.refuse()),
        sniffed = sniff(&accepted.client, deadline) => Ok(sniffed),
    }
}

async fn strict(accepted: &Accepted) -> Result<Classified, Refused> {
    match inspect(accepted).await? {
        Sniffed::Mesh => Ok(Classified::Mesh),
        Sniffed::Plaintext | Sniffed::Silent | Sniffed::Closed | Sniffed::Malformed => {
            Err(RefuseReason::PlaintextRefused.into())
        }
    }
}

async fn permissive(accepted: &Accepted, report: &mut Report) -> Result<Classified, Refused> {
    let exchange = accepted.exchange();
    let leave = authorize_plaintext(&exchange, report);
    let client = accepted.context().client_addr.ip();
    let known = exchange.in_force.snapshot.by_ip.get(&client);
    let from_mesh = known.is_some_and(|w| w.is_enrolled());
    drop(exchange);
    match leave {
        // Its server may be the one that speaks first: it is called at once.
        Ok(Leave::Given(authorized)) if !from_mesh => race(accepted, report, authorized).await,
        leave => match inspect(accepted).await? {
            // What plaintext may is not what this one is judged by.
            Sniffed::Mesh => Ok(Classified::Mesh),
            Sniffed::Plaintext | Sniffed::Silent | Sniffed::Closed => {
                arrive(accepted, report, leave?).await
            }
            Sniffed::Malformed => Err(MALFORMED.into()),
        },
    }
}

/// To the application, if that does not depend on what the client asks.
async fn arrive(
    accepted: &Accepted,
    report: &mut Report,
    leave: Leave,
) -> Result<Classified, Refused> {
    let context = accepted.context();
    let expected = first::expected_here(&accepted.exchange(), context.orig_dst);
    let decided = match leave.unless(expected == Expected::Requests) {
        Ok(authorized) => ConnectionProtocol::Bytes(authorized),
        Err(by_name) => Box::pin(enter(accepted, report, by_name)).await?,
    };
    // What is refused by its name leaves its place to others.
    admit_plaintext(accepted, report)?;
    let authorized = match decided {
        ConnectionProtocol::Bytes(authorized) => authorized,
        ConnectionProtocol::Requests(first) => {
            let ended = Box::pin(plaintext_requests(accepted, report, (first, None))).await;
            return Ok(Classified::Ended(ended));
        }
    };
    let application = Box::pin(deliver(context, authorized.permit(), context.client_addr)).await?;
    let ended = Box::pin(forward_plaintext(accepted, report, application, authorized)).await;
    Ok(Classified::Ended(ended))
}

/// By what the client speaks, whatever is expected.
async fn enter(
    accepted: &Accepted,
    report: &mut Report,
    by_name: ByName,
) -> Result<ConnectionProtocol, Refused> {
    let (exchange, context) = (&accepted.exchange(), accepted.context());
    let Some(check) = by_name else {
        let spoken = first::spoken(&accepted.client, HEAD_TIMEOUT);
        return first::insist(context, spoken)
            .await
            .map(ConnectionProtocol::Requests);
    };
    let wait = context.worker.agent.config.handshake_timeout;
    let first_bytes = server_name::peek_first_bytes(&accepted.client, wait);
    server_name::decide((exchange, report), *check, first_bytes).await
}

/// The policy for a caller without identity.
fn authorize_plaintext(exchange: &Exchange, report: &mut Report) -> Result<Leave, Refused> {
    let context = &exchange.context;
    report.flow().upstream = Some(UpstreamAddr::new(context.orig_dst.get()));
    report.flow().security = Security::None;
    let input = AuthzInput::plaintext(
        context.client_addr.ip(),
        context.pod.workload.clone(),
        context.orig_dst.get(),
    );
    authorize_connection(exchange, report, input)
}

/// Once it is known that it is no mesh peer's, which is counted by who that is.
fn admit_plaintext(accepted: &Accepted, report: &mut Report) -> Result<(), Refused> {
    let context = accepted.context();
    let to = (&*context.pod.workload, context.orig_dst.port());
    admit_connection(&accepted.exchange(), report, to, None)
}

/// Bytes between client and application, or its requests.
async fn forward_plaintext(
    accepted: &Accepted,
    report: &mut Report,
    application: TcpStream,
    authorized: Authorized,
) -> ForwardEnd {
    let context = accepted.context();
    let expected = first::expected_here(&accepted.exchange(), context.orig_dst);
    accepted.is_decided();
    let watched = authorized.arrived();
    let first = match expected {
        Expected::Opaque => Ok(First::Bytes),
        Expected::Requests => {
            let spoke = first::spoken(&accepted.client, HEAD_TIMEOUT);
            let insisted = Box::pin(first::insist(context, spoke)).await;
            insisted.map_err(|refused| CloseReason::Refused(refused.reason))
        }
        // What has come with the connection is there to be looked at.
        Expected::OpaqueSoFar if first::spoken_already(&accepted.client).is_none() => {
            Ok(First::Bytes)
        }
        Expected::OpaqueSoFar | Expected::Http | Expected::Anything => {
            // It is there, whoever speaks first.
            let _shown_later = report.opened();
            let race = first::race_between(context, &accepted.client, &application);
            race.await.map_err(CutReason::close)
        }
    };
    match first {
        Ok(first) if first.is_http() => {
            // From now on each request is judged by itself.
            drop(watched);
            let asked = (first, Some(application));
            return Box::pin(plaintext_requests(accepted, report, asked)).await;
        }
        Ok(_bytes) => {}
        Err(reason) => {
            socket::reset_on_close(&application);
            return (ByteCounts::default(), reason);
        }
    }
    forward_between(accepted, report, &application).await
}

async fn plaintext_requests(
    accepted: &Accepted,
    report: &mut Report,
    (first, application): (First, Option<TcpStream>),
) -> ForwardEnd {
    accepted.is_decided();
    let context = accepted.context_rc();
    let caller = Caller::unproven(context.client_addr);
    let mut inbox = Inbox::default();
    let client = &mut Side {
        stream: ByteStream::Socket(&accepted.client),
        inbox: &mut inbox,
    };
    requests::serve(context, client, (report, &caller), (first, application)).await
}

/// Calls the application while it looks at what the client sends first. A
/// mesh peer that the configuration does not know (yet) is found this way too.
async fn race(
    accepted: &Accepted,
    report: &mut Report,
    authorized: Authorized,
) -> Result<Classified, Refused> {
    let calling = call_and_inspect(accepted, authorized.permit());
    let (sniffed, upstream) = Box::pin(calling).await?;
    match sniffed {
        Sniffed::Mesh => {
            if let Some(upstream) = upstream {
                socket::reset_on_close(&upstream);
            }
            Ok(Classified::Mesh)
        }
        Sniffed::Malformed => Err(MALFORMED.into()),
        Sniffed::Plaintext | Sniffed::Silent | Sniffed::Closed => {
            let upstream = upstream.ok_or(RefuseReason::Internal)?;
            admit_plaintext(accepted, report).inspect_err(|_| {
                socket::reset_on_close(&upstream);
            })?;
            let ended = Box::pin(forward_plaintext(accepted, report, upstream, authorized)).await;
            Ok(Classified::Ended(ended))
        }
    }
}

/// Gives the application's side of all but what is no plaintext.
async fn call_and_inspect(
    accepted: &Accepted,
    permit: &Permit,
) -> Result<(Sniffed, Option<TcpStream>), Refused> {
    let context = accepted.context();
    let deadline = context.worker.agent.config.handshake_timeout;
    let mut upstream = None;
    let mut delivering = std::pin::pin!(deliver(context, permit, context.client_addr));
    let mut sniffing = std::pin::pin!(sniff(&accepted.client, deadline));
    let sniffed = loop {
        tokio::select! {
            biased; // a cut first; then what the client says decides
            reason = context.entry().cut.wait() => return Err(reason.refuse()),
            sniffed = &mut sniffing => break sniffed,
            delivered = &mut delivering, if upstream.is_none() => upstream = Some(delivered?),
            () = spoke(upstream.as_ref()), if upstream.is_some() => break Sniffed::Plaintext,
        }
    };
    if upstream.is_none() && is_plaintext(sniffed) {
        // The call that is under way, and no other: the application may have taken
        // it already.
        upstream = Some(delivering.await?);
    }
    Ok((sniffed, upstream))
}

fn is_plaintext(sniffed: Sniffed) -> bool {
    match sniffed {
        Sniffed::Plaintext | Sniffed::Silent | Sniffed::Closed => true,
        Sniffed::Mesh | Sniffed::Malformed => false,
    }
}

/// The application has said something, or closed.
async fn spoke(upstream: Option<&TcpStream>) {
    if let Some(upstream) = upstream {
        let _begun = first::application_begins(upstream).await;
    }
}
