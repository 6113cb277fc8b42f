//! To a local pod from elsewhere: what is it, who is it, may it, deliver.
//!
//! Plaintext reaches an application only where the pod's mode takes it *and* a
//! policy allows a caller without identity.

mod sniff;
mod tunnelled;

use tokio::net::TcpStream;

use self::sniff::{Sniffed, sniff};
use super::carry::carry_plain;
use super::connection::{Accepted, At};
use super::dial;
use super::live::Checked;
use super::report::Report;
use crate::model::policy::PeerMode;
use crate::model::{ClientAddr, RefuseReason, TlsFailure, UpstreamAddr};
use crate::policy::{Deny, Permit, Request};
use crate::sys::socket;

const MALFORMED: RefuseReason = RefuseReason::Tls(TlsFailure::Malformed);

pub(super) async fn serve(accepted: Accepted<'_>) {
    if socket::is_own_delivery(&accepted.client) {
        let report = accepted.at.report();
        return accepted.refuse(report, RefuseReason::Loop);
    }
    let workload = &accepted.at.pod.pod.workload;
    let policy = &accepted.at.published.policy;
    match policy.peer_mode(workload, accepted.at.orig_dst.port()) {
        PeerMode::Strict => strict(accepted).await,
        PeerMode::Permissive => permissive(accepted).await,
        PeerMode::Disable => plaintext(accepted).await,
    }
}

/// Waits for the first bytes; the connection's cut and its deadline end the wait.
async fn look(accepted: &Accepted<'_>) -> Result<Sniffed, RefuseReason> {
    let deadline = accepted.at.local.shared.config.handshake_timeout;
    tokio::select! {
        biased; // removal and drain win
        reason = accepted.at.entry.cut.wait() => Err(reason.refuse()),
        sniffed = sniff(&accepted.client, deadline) => Ok(sniffed),
    }
}

async fn strict(accepted: Accepted<'_>) {
    match look(&accepted).await {
        Ok(Sniffed::Mesh) => tunnelled::serve(accepted).await,
        Ok(Sniffed::Plaintext | Sniffed::Silent | Sniffed::Closed | Sniffed::Malformed) => {
            let report = accepted.at.report();
            accepted.refuse(report, RefuseReason::PlaintextRefused);
        }
        Err(reason) => {
            let report = accepted.at.report();
            accepted.refuse(report, reason);
        }
    }
}

async fn permissive(accepted: Accepted<'_>) {
    let (mut report, checked) = plaintext_report(&accepted.at);
    let verdict = check(&accepted.at, &checked);
    let known = accepted
        .at
        .published
        .snapshot
        .by_ip
        .get(&accepted.at.client_addr.ip());
    let from_mesh = known.is_some_and(|w| w.is_enrolled());
    match verdict {
        // Its server may be the one that speaks first: it is called at once.
        Ok(permit) if !from_mesh => {
            accepted.at.entry.set_checked(checked);
            report.opening.rule = permit.rule().cloned();
            race(accepted, report, &permit).await;
        }
        verdict => match look(&accepted).await {
            Ok(Sniffed::Mesh) => tunnelled::serve(accepted).await,
            Ok(Sniffed::Plaintext | Sniffed::Silent | Sniffed::Closed) => match verdict {
                Ok(_) => plaintext(accepted).await,
                Err(deny) => denied(accepted, report, &deny),
            },
            Ok(Sniffed::Malformed) => accepted.refuse(report, MALFORMED),
            Err(reason) => accepted.refuse(report, reason),
        },
    }
}

fn plaintext_report<'l>(at: &At<'l>) -> (Report<'l>, Checked) {
    let mut report = at.report();
    report.opening.upstream = Some(UpstreamAddr::new(at.orig_dst.get()));
    let checked = Checked {
        source: None,
        source_ip: at.client_addr.ip(),
        destination: at.pod.pod.workload.clone(),
        destination_ip: at.orig_dst.ip(),
        destination_port: at.orig_dst.port(),
        plaintext: true,
    };
    (report, checked)
}

fn check(at: &At<'_>, checked: &Checked) -> Result<Permit, Deny> {
    at.published.policy.check(&Request::from(checked))
}

fn denied(accepted: Accepted<'_>, mut report: Report<'_>, deny: &Deny) {
    report.opening.rule = Some(deny.rule().clone());
    accepted.refuse(report, RefuseReason::Denied);
}

/// Straight to the application.
async fn plaintext(accepted: Accepted<'_>) {
    let (mut report, checked) = plaintext_report(&accepted.at);
    accepted.at.entry.set_checked(checked.clone());
    let permit = match check(&accepted.at, &checked) {
        Ok(permit) => permit,
        Err(deny) => return denied(accepted, report, &deny),
    };
    report.opening.rule = permit.rule().cloned();
    match deliver(&accepted.at, &permit, accepted.at.client_addr).await {
        Ok(upstream) => finish(accepted, report, upstream).await,
        Err(reason) => accepted.refuse(report, reason),
    }
}

async fn finish(accepted: Accepted<'_>, report: Report<'_>, upstream: TcpStream) {
    let idle = accepted.at.local.shared.config.idle_timeout;
    let cut = &accepted.at.entry.cut;
    carry_plain(&accepted.client, &upstream, cut, report, idle).await;
}

pub(super) async fn deliver(
    at: &At<'_>,
    permit: &Permit,
    client: ClientAddr,
) -> Result<TcpStream, RefuseReason> {
    let to = UpstreamAddr::new(at.orig_dst.get());
    let delivery = at.local.delivery();
    tokio::select! {
        biased; // removal and drain win over a connection just made
        reason = at.entry.cut.wait() => Err(reason.refuse()),
        delivered = dial::deliver(
            permit,
            &at.pod.pod.netns,
            client,
            to,
            &delivery,
        ) => delivered,
    }
}

/// Calls the application while it looks at what the client sends first. A
/// mesh peer that the configuration does not know (yet) is found this way too.
async fn race(accepted: Accepted<'_>, report: Report<'_>, permit: &Permit) {
    let deadline = accepted.at.local.shared.config.handshake_timeout;
    let mut upstream = None;
    let sniffed = {
        let mut delivering = std::pin::pin!(deliver(&accepted.at, permit, accepted.at.client_addr));
        let mut sniffing = std::pin::pin!(sniff(&accepted.client, deadline));
        loop {
            tokio::select! {
                biased; // what the client says decides
                sniffed = &mut sniffing => break Ok(sniffed),
                delivered = &mut delivering, if upstream.is_none() => match delivered {
                    Ok(stream) => upstream = Some(stream),
                    Err(reason) => break Err(reason),
                },
                () = spoke(upstream.as_ref()), if upstream.is_some() => break Ok(Sniffed::Plaintext),
            }
        }
    };
    match (sniffed, upstream) {
        (Ok(Sniffed::Mesh), upstream) => {
            if let Some(upstream) = upstream {
                socket::reset_on_close(&upstream);
            }
            tunnelled::serve(accepted).await;
        }
        (Ok(Sniffed::Plaintext | Sniffed::Silent | Sniffed::Closed), Some(upstream)) => {
            finish(accepted, report, upstream).await;
        }
        (Ok(Sniffed::Plaintext | Sniffed::Silent | Sniffed::Closed), None) => {
            match deliver(&accepted.at, permit, accepted.at.client_addr).await {
                Ok(upstream) => finish(accepted, report, upstream).await,
                Err(reason) => accepted.refuse(report, reason),
            }
        }
        (Ok(Sniffed::Malformed), _) => accepted.refuse(report, MALFORMED),
        (Err(reason), _) => accepted.refuse(report, reason),
    }
}

/// The application has said something, or closed.
async fn spoke(upstream: Option<&TcpStream>) {
    if let Some(upstream) = upstream {
        // An error is the relay's to find.
        let _readable = upstream.readable().await;
    }
}
