//! To a local pod from elsewhere: what is it, who is it, may it, deliver.
//!
//! Plaintext reaches an application only where the pod's mode takes it *and* a
//! policy allows a caller without identity.

mod sniff;
pub(super) mod tunnelled;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::sniff::fuzz as fuzz_first_bytes;

use tokio::net::TcpStream;

pub(crate) use self::sniff::{Sniffed, sniff};
use super::accepted::{Accepted, carry_between};
use super::authorize::{Authorized, authorize};
use super::carry::Ended;
use super::context::Exchange;
use super::deliver::deliver;
use super::report::Report;
use crate::model::policy::PeerMode;
use crate::model::{RefuseReason, Security, TlsFailure, UpstreamAddr};
use crate::plan::AuthzInput;
use crate::policy::Permit;
use crate::sys::socket;

const MALFORMED: RefuseReason = RefuseReason::Tls(TlsFailure::Malformed);

/// What is to be done with a connection that is no longer plaintext's.
enum Way {
    Ended(Ended),
    /// A mesh peer: it is handed on.
    Mesh,
}

/// Gives a mesh peer's connection back, for [`tunnelled::serve`].
pub(super) async fn serve(accepted: Accepted) -> Option<Accepted> {
    let mut report = accepted.exchange.report();
    let result = match way(&accepted, &mut report).await {
        Ok(Way::Mesh) => return Some(accepted),
        Ok(Way::Ended(ended)) => Ok(ended),
        Err(reason) => {
            // Of one that was carried nobody is named by an address: another pod may
            // have it by now. Of one that was refused it is a hint for people.
            if !report.is_open() {
                report.flow().source = accepted.exchange.workload_of_client();
            }
            Err(reason)
        }
    };
    accepted.conclude(report, result);
    None
}

async fn way(accepted: &Accepted, report: &mut Report) -> Result<Way, RefuseReason> {
    if socket::is_own_delivery(&accepted.client) {
        return Err(RefuseReason::Loop);
    }
    let at = accepted.at();
    let policy = &accepted.exchange.in_force.policy;
    match policy.peer_mode(&at.pod.workload, at.orig_dst.port()) {
        PeerMode::Strict => strict(accepted).await,
        PeerMode::Permissive => permissive(accepted, report).await,
        PeerMode::Disable => plaintext(accepted, report).await.map(Way::Ended),
    }
}

/// Waits for the first bytes; the connection's cut and its deadline end the wait.
async fn look(accepted: &Accepted) -> Result<Sniffed, RefuseReason> {
    let at = accepted.at();
    let _place = at.unproven();
    let deadline = at.local.shared.config.handshake_timeout;
    tokio::select! {
        biased; // removal and drain win
        reason = at.entry().cut.wait() => Err(reason.refuse()),
        sniffed = sniff(&accepted.client, deadline) => Ok(sniffed),
    }
}

async fn strict(accepted: &Accepted) -> Result<Way, RefuseReason> {
    match look(accepted).await? {
        Sniffed::Mesh => Ok(Way::Mesh),
        Sniffed::Plaintext | Sniffed::Silent | Sniffed::Closed | Sniffed::Malformed => {
            Err(RefuseReason::PlaintextRefused)
        }
    }
}

async fn permissive(accepted: &Accepted, report: &mut Report) -> Result<Way, RefuseReason> {
    let (at, exchange) = (accepted.at(), &accepted.exchange);
    let authorized = authorize_plaintext(exchange, report);
    let known = exchange.in_force.snapshot.by_ip.get(&at.client_addr.ip());
    let from_mesh = known.is_some_and(|w| w.is_enrolled());
    match authorized {
        // Its server may be the one that speaks first: it is called at once.
        Ok(authorized) if !from_mesh => race(accepted, report, authorized).await,
        authorized => match look(accepted).await? {
            // What plaintext may is not what this one is judged by.
            Sniffed::Mesh => Ok(Way::Mesh),
            Sniffed::Plaintext | Sniffed::Silent | Sniffed::Closed => {
                let authorized = authorized?;
                let stream = Box::pin(deliver(at, authorized.permit(), at.client_addr)).await?;
                let _watched = authorized.arrived();
                Ok(Way::Ended(carry_between(accepted, report, &stream).await))
            }
            Sniffed::Malformed => Err(MALFORMED),
        },
    }
}

/// The policy for a caller without identity.
fn authorize_plaintext(
    exchange: &Exchange,
    report: &mut Report,
) -> Result<Authorized, RefuseReason> {
    let at = &exchange.at;
    report.flow().upstream = Some(UpstreamAddr::new(at.orig_dst.get()));
    report.flow().security = Security::None;
    let input = AuthzInput::plaintext(
        at.client_addr.ip(),
        at.pod.workload.clone(),
        at.orig_dst.get(),
    );
    authorize(exchange, report, input)
}

/// Straight to the application.
async fn plaintext(accepted: &Accepted, report: &mut Report) -> Result<Ended, RefuseReason> {
    let at = accepted.at();
    let authorized = authorize_plaintext(&accepted.exchange, report)?;
    let upstream = Box::pin(deliver(at, authorized.permit(), at.client_addr)).await?;
    let _watched = authorized.arrived();
    Ok(carry_between(accepted, report, &upstream).await)
}

/// Calls the application while it looks at what the client sends first. A
/// mesh peer that the configuration does not know (yet) is found this way too.
async fn race(
    accepted: &Accepted,
    report: &mut Report,
    authorized: Authorized,
) -> Result<Way, RefuseReason> {
    let calling = call_and_look(accepted, authorized.permit());
    let (sniffed, upstream) = Box::pin(calling).await?;
    match sniffed {
        Sniffed::Mesh => {
            if let Some(upstream) = upstream {
                socket::reset_on_close(&upstream);
            }
            Ok(Way::Mesh)
        }
        Sniffed::Malformed => Err(MALFORMED),
        Sniffed::Plaintext | Sniffed::Silent | Sniffed::Closed => {
            let at = accepted.at();
            let upstream = match upstream {
                Some(upstream) => upstream,
                None => Box::pin(deliver(at, authorized.permit(), at.client_addr)).await?,
            };
            let _watched = authorized.arrived();
            Ok(Way::Ended(carry_between(accepted, report, &upstream).await))
        }
    }
}

async fn call_and_look(
    accepted: &Accepted,
    permit: &Permit,
) -> Result<(Sniffed, Option<TcpStream>), RefuseReason> {
    let at = accepted.at();
    let deadline = at.local.shared.config.handshake_timeout;
    let mut upstream = None;
    let mut delivering = std::pin::pin!(deliver(at, permit, at.client_addr));
    let mut sniffing = std::pin::pin!(sniff(&accepted.client, deadline));
    let sniffed = loop {
        tokio::select! {
            biased; // a cut first; then what the client says decides
            reason = at.entry().cut.wait() => return Err(reason.refuse()),
            sniffed = &mut sniffing => break sniffed,
            delivered = &mut delivering, if upstream.is_none() => upstream = Some(delivered?),
            () = spoke(upstream.as_ref()), if upstream.is_some() => break Sniffed::Plaintext,
        }
    };
    Ok((sniffed, upstream))
}

/// The application has said something, or closed.
async fn spoke(upstream: Option<&TcpStream>) {
    if let Some(upstream) = upstream {
        // An error is the relay's to find.
        let _readable = upstream.readable().await;
    }
}
