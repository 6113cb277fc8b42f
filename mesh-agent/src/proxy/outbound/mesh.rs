//! To a pod in the mesh: a stream on a connection to its agent.

use crate::model::{CloseReason, RefuseReason, TlsFailure};
use crate::peer::{Peers, Refused, still_trusted};
use crate::plan::MeshPeer;
use crate::proxy::accepted::Accepted;
use crate::proxy::carry::{Ended, Stopped, Tunnelled, carry};
use crate::proxy::context::At;
use crate::proxy::report::Report;
use crate::tunnel::{Connection, Key, Open, Relay, ResetReason, StreamEnd};

/// A stream and the connection that carries it. On the heap: what moves
/// between stages is a pointer, and a waiting connection needs no more.
pub(super) struct Carrying {
    key: Key,
    connection: Connection,
    relay: Relay,
    /// What the peer is told when the application has been told of the end.
    answer: Option<ResetReason>,
}

pub(super) async fn serve(
    accepted: &Accepted,
    report: &mut Report,
    peer: &MeshPeer,
    after: &mut Option<Box<Carrying>>,
) -> Result<Ended, RefuseReason> {
    let at = accepted.at();
    let carrying = begin(at, peer).await?;
    carrying.set_session(at);
    report.flow().destination_principal = Some(peer.expected().clone());
    report.secured(carrying.connection.tls(), carrying.connection.peer());
    still_trusted(&at.pod, carrying.connection.peer())?;
    let carrying = after.insert(carrying);
    stream(accepted, report, carrying, peer).await
}

/// A stream on a pooled connection, or else on a new one. Large while it
/// lasts, so not part of what waits.
async fn begin(at: &At, peer: &MeshPeer) -> Result<Box<Carrying>, RefuseReason> {
    let (peers, key) = (&at.local.peers, Peers::key(&at.pod, peer));
    let connection = match peers.pooled(key, peer) {
        Some(connection) => connection,
        None => {
            let waiting = peers.wait_for(&at.pod, key, peer);
            Box::pin(unless_cut(at, waiting)).await?
        }
    };
    Ok(Carrying::begin(at, key, connection))
}

async fn unless_cut(
    at: &At,
    connecting: impl Future<Output = Result<Connection, Refused>>,
) -> Result<Connection, RefuseReason> {
    tokio::select! {
        biased; // removal and drain win over a connection just made
        reason = at.entry().cut.wait() => Err(reason.refuse()),
        connected = connecting => connected.map_err(|refused| at.refuse(refused)),
    }
}

impl Carrying {
    fn begin(at: &At, key: Key, mut connection: Connection) -> Box<Self> {
        let relay = connection.open(&open(at));
        Box::new(Self {
            key,
            connection,
            relay,
            answer: None,
        })
    }

    /// What the stream is judged by while it lives.
    fn set_session(&self, at: &At) {
        let (to, peers) = (self.key.destination, &at.local.peers);
        let session = peers.session(&at.pod, to, &self.connection);
        at.entry().set_session(session);
    }

    /// Ends the stream with the peer; keeps the connection where it may be used again.
    pub(super) async fn give_back(mut self: Box<Self>, at: &At) {
        let Self {
            connection,
            relay,
            answer,
            ..
        } = &mut *self;
        let reusable = match *answer {
            Some(reason) => Box::pin(relay.finish_reset(connection, reason)).await,
            None => relay.is_over(connection),
        };
        // What was cut is not trusted with another stream.
        let cut = *answer == Some(ResetReason::Cut);
        if reusable && !cut && !at.local.draining.is_cancelled() {
            at.local.keep(&at.pod, self.key, self.connection);
        }
    }
}

async fn stream(
    accepted: &Accepted,
    report: &mut Report,
    carrying: &mut Carrying,
    peer: &MeshPeer,
) -> Result<Ended, RefuseReason> {
    let at = accepted.at();
    let idle = at.local.shared.config.idle_timeout;
    let stopped = loop {
        let tcp = carrying.connection.tcp().clone();
        let mut tunnelled = Tunnelled {
            relay: &mut carrying.relay,
            application: &accepted.client,
            connection: &mut carrying.connection,
        };
        let sockets = [&accepted.client, &*tcp];
        let stopped = carry(&mut tunnelled, sockets, &at.entry().cut, report, idle).await;
        drop(tcp);
        if !matches!(stopped, Stopped::Ended(StreamEnd::NotTaken)) {
            break stopped;
        }
        at.local.shared.metrics.replays.inc();
        carrying.connection.hang_up();
        let reaching = at.local.peers.reach(&at.pod, peer);
        carrying.connection = Box::pin(unless_cut(at, reaching)).await?;
        carrying.set_session(at);
        report.secured(carrying.connection.tls(), carrying.connection.peer());
        carrying
            .relay
            .replay_on(&mut carrying.connection, &open(at));
    };
    let (reason, answer) = end(&stopped, carrying.relay.is_accepted());
    carrying.answer = answer;
    report.flow().denied_by = carrying.relay.take_denied_by();
    Ok((carrying.relay.bytes(), reason))
}

fn open(at: &At) -> Open {
    Open {
        takes_rule: true,
        original: at.orig_dst.get(),
        source: at.client_addr.get(),
        hops: 1,
        trace: None,
    }
}

/// What a stream's end is to the application, and what the peer is told.
fn end(stopped: &Stopped<StreamEnd>, accepted: bool) -> (CloseReason, Option<ResetReason>) {
    let refused = |reason| (CloseReason::Refused(reason), Some(ResetReason::Answer));
    match stopped {
        Stopped::Ended(StreamEnd::Finished) => (CloseReason::Finished, None),
        Stopped::Ended(StreamEnd::ResetByApplication) => {
            (CloseReason::ResetByClient, Some(ResetReason::Aborted))
        }
        Stopped::Ended(StreamEnd::ResetByPeer(reason)) => match reason {
            ResetReason::Denied if !accepted => refused(RefuseReason::RefusedByPeer),
            ResetReason::ConnectFailed if !accepted => refused(RefuseReason::ConnectRefused),
            ResetReason::OverLimit if !accepted => refused(RefuseReason::OverLimit),
            ResetReason::Denied
            | ResetReason::ConnectFailed
            | ResetReason::OverLimit
            | ResetReason::Aborted
            | ResetReason::Answer
            | ResetReason::Cut => (CloseReason::ResetByUpstream, Some(ResetReason::Answer)),
        },
        Stopped::Ended(StreamEnd::NotTaken | StreamEnd::Lost) => {
            (CloseReason::ResetByUpstream, None)
        }
        Stopped::Ended(StreamEnd::Refused) => (
            CloseReason::Refused(RefuseReason::Tls(TlsFailure::RefusedByPeer)),
            None,
        ),
        Stopped::Ended(StreamEnd::Protocol(_)) => (CloseReason::ProtocolError, None),
        Stopped::Idle => (CloseReason::IdleTimeout, Some(ResetReason::Cut)),
        Stopped::Cut(reason) => (reason.close(), Some(ResetReason::Cut)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_before_the_accept_is_told_as_such_and_a_later_reset_as_a_reset() {
        let denied = Stopped::Ended(StreamEnd::ResetByPeer(ResetReason::Denied));
        assert_eq!(
            end(&denied, false).0,
            CloseReason::Refused(RefuseReason::RefusedByPeer)
        );
        assert_eq!(end(&denied, true).0, CloseReason::ResetByUpstream);
    }
}
