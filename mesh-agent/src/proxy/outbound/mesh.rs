//! To a pod in the mesh: a stream on a connection to its agent.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Poll, ready};
use std::time::Duration;

use super::shared;
use crate::detect;
use crate::model::{CloseReason, PeerRule, RefuseReason, Refused, TlsFailure, TlsParameters};
use crate::peer::{Peers, Sharer, still_trusted};
use crate::plan::MeshPeer;
use crate::proxy::accepted::Accepted;
use crate::proxy::context::ConnectionContext;
use crate::proxy::first::{self, First};
use crate::proxy::forward::{ForwardEnd, Second, Stopped, Tunnelled, forward};
use crate::proxy::http::ByteStream;
use crate::proxy::registry::CutReason;
use crate::proxy::report::Report;
use crate::tls::PeerId;
use crate::tunnel::{Connection, Key, Open, Relay, ResetReason, StreamEnd, Unseen};

/// The other agent ends a stream in order by then.
const LEAVE: Duration = Duration::from_secs(1);

/// A stream and the connection that carries it. On the heap: what moves
/// between stages is a pointer, and a waiting connection needs no more.
pub(super) struct MeshStream {
    key: Key,
    connection: Connection,
    relay: Relay,
    /// What the peer is told when the application has been told of the end.
    answer: Option<ResetReason>,
    /// Counts it among those that may share.
    sharer: Option<Sharer>,
}

/// A stream on a pooled connection, or else on a new one. Large while it
/// lasts, so not part of what waits.
pub(super) async fn begin(
    context: &ConnectionContext,
    peer: &MeshPeer,
) -> Result<Box<MeshStream>, Refused> {
    let (peers, key) = (&context.worker.peers, Peers::key(&context.pod, peer));
    let connection = match peers.pooled(&context.pod, key, peer) {
        Some(connection) => connection,
        None => {
            let waiting = peers.wait_for(&context.pod, key, peer);
            Box::pin(context.unless_cut(waiting)).await?
        }
    };
    Ok(MeshStream::begin(context, key, connection, None))
}

/// A stream for requests; one that `shares` may have its connection in common with others.
pub(super) async fn connect(
    context: &ConnectionContext,
    peer: &MeshPeer,
    shares: bool,
) -> Result<Box<MeshStream>, Refused> {
    let (peers, key) = (&context.worker.peers, Peers::key(&context.pod, peer));
    let sharer = shares.then(|| peers.sharing.join(key));
    let others = sharer.as_ref().filter(|sharer| !sharer.is_alone());
    let shared = match others {
        Some(sharer) => Box::pin(shared::connect(context, peer, sharer)).await?,
        None => None,
    };
    let stream = match shared {
        Some(connection) => MeshStream::begin(context, key, connection, sharer),
        None => {
            let mut stream = begin(context, peer).await?;
            stream.sharer = sharer;
            stream
        }
    };
    stream.set_session(context);
    stream.is_trusted(context)?;
    Ok(stream)
}

impl MeshStream {
    pub(super) fn byte_stream(&mut self) -> ByteStream<'_> {
        ByteStream::Stream {
            relay: &mut self.relay,
            connection: &mut self.connection,
        }
    }

    /// Also of a connection that a revocation came to in the pool.
    pub(super) fn is_trusted(&self, context: &ConnectionContext) -> Result<(), RefuseReason> {
        still_trusted(&context.pod, self.connection.peer())
    }

    /// What the client sent, if the application there provably did not get it.
    pub(super) fn take_unseen(&mut self) -> Option<Unseen> {
        self.relay.take_unseen()
    }

    /// Before anything that the client sends.
    pub(super) fn begin_with(&mut self, unseen: Unseen) {
        self.relay.begin_with(unseen);
    }

    /// It ends for a reason of this agent's.
    pub(super) fn cut(&mut self) {
        self.answer = Some(ResetReason::Cut);
    }

    pub(super) fn to(&self) -> SocketAddr {
        self.key.destination
    }

    /// What the handshake agreed on, and with whom.
    pub(super) fn session(&self) -> (TlsParameters, &PeerId) {
        (self.connection.tls(), self.connection.peer())
    }

    /// Who speaks first? The OPEN goes alone, so that the application may.
    pub(super) async fn race(
        &mut self,
        accepted: &Accepted,
        report: &mut Report,
    ) -> Result<First, CutReason> {
        let mut is_http2 = false;
        let heard = poll_fn(|cx| {
            let Self {
                relay, connection, ..
            } = &mut *self;
            if is_http2 {
                // Its server waits for its client, whatever it has said.
                return Poll::Pending;
            }
            // Not part of what waits.
            let mut bytes = [0; 256];
            // A failure is the relay's to tell, or to begin again after.
            let flushed = ready!(relay.poll_flush(connection, cx));
            let read = match flushed {
                Ok(()) => relay.poll_read(&mut bytes, connection, cx),
                Err(end) => Poll::Ready(Err(end)),
            };
            if relay.is_accepted() && !report.is_open() {
                // It is there, whoever speaks first.
                let _shown_later = report.opened();
            }
            let read = ready!(read);
            let came = &bytes[..read.unwrap_or(0)];
            relay.unread(came);
            is_http2 = detect::http2_settings(came) == Some(true);
            if is_http2 {
                return Poll::Pending;
            }
            match read {
                Ok(0) => Poll::Ready(Some(First::Ended)),
                Ok(_) => Poll::Ready(Some(first::begun_by_application(came))),
                Err(_) => Poll::Ready(None),
            }
        });
        let begins = async {
            match heard.await {
                Some(first) => first,
                None => {
                    // A client of HTTP is told in its own words, if it is one that asks soon.
                    tokio::time::sleep(first::SOON).await;
                    First::Ended
                }
            }
        };
        let spoke = pin!(first::spoken(&accepted.client, first::PART));
        let begins = pin!(begins);
        first::race(accepted.context(), spoke, begins).await
    }

    /// May it carry a request to the peer?
    pub(super) fn is_for(&self, context: &ConnectionContext, peer: &MeshPeer) -> bool {
        let shown = self.connection.peer();
        shown.spiffe_id() == peer.expected()
            && still_trusted(&context.pod, shown).is_ok()
            && context.worker.peers.may_go_on(&self.connection)
    }

    pub(super) fn is_quiet(&mut self) -> bool {
        self.relay.is_quiet(&mut self.connection)
    }

    /// All that was heard of the application is that it speaks HTTP/2.
    pub(super) fn has_settings(&self) -> bool {
        detect::http2_settings(self.relay.early()) == Some(true)
    }

    /// After [`StreamEnd::NotTaken`]: the same stream on another connection.
    pub(super) async fn replay(
        &mut self,
        context: &ConnectionContext,
        peer: &MeshPeer,
    ) -> Result<(), Refused> {
        context.worker.agent.metrics.replays.inc();
        self.connection.hang_up();
        let peers = &context.worker.peers;
        let reaching = peers.reach_anew(&context.pod, self.key, peer);
        self.connection = Box::pin(context.unless_cut(reaching)).await?;
        self.set_session(context);
        if let Err(reason) = self.is_trusted(context) {
            // No stream was begun on it that could be ended in order.
            self.connection.hang_up();
            return Err(reason.into());
        }
        self.relay.replay_on(&mut self.connection, &open(context));
        Ok(())
    }

    /// What the client is told of the stream's end.
    pub(super) fn refusal(&mut self, end: StreamEnd) -> (RefuseReason, Option<Box<PeerRule>>) {
        let ended = Stopped::Ended(end);
        let (reason, answer) = close_reason(&ended, self.relay.is_accepted());
        self.answer = answer;
        let reason = reason.refused().unwrap_or(RefuseReason::UpstreamClosed);
        (reason, self.relay.take_denied_by())
    }

    pub(super) fn may_go_on_for(&self, context: &ConnectionContext) -> Duration {
        context.worker.peers.may_go_on_for(&self.connection)
    }

    /// Ends the stream; `failed`: not in order.
    pub(super) async fn leave(
        mut self: Box<Self>,
        context: &ConnectionContext,
        failed: Option<ResetReason>,
    ) {
        // Whoever comes while it ends is not beside it.
        self.sharer = None;
        match failed {
            Some(reason) => self.answer = self.answer.or(Some(reason)),
            None => {
                let stream = &mut self.byte_stream();
                let _in_time = tokio::time::timeout(LEAVE, stream.leave()).await;
            }
        }
        self.give_back(context).await;
    }

    /// Others' streams have its connection in common.
    pub(super) fn is_shared(&self) -> bool {
        self.connection.is_shared()
    }

    fn begin(
        context: &ConnectionContext,
        key: Key,
        mut connection: Connection,
        sharer: Option<Sharer>,
    ) -> Box<Self> {
        let relay = connection.open(&open(context));
        Box::new(Self {
            key,
            connection,
            relay,
            answer: None,
            sharer,
        })
    }

    /// What the stream is judged by while it lives.
    pub(super) fn set_session(&self, context: &ConnectionContext) {
        let (to, peers) = (self.key.destination, &context.worker.peers);
        let session = peers.session(&context.pod, to, self.connection.shown());
        context.entry().set_session(session);
    }

    /// Ends the stream with the peer; keeps the connection where it may be used again.
    pub(super) async fn give_back(mut self: Box<Self>, context: &ConnectionContext) {
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
        // Another channel costs nothing.
        let is_own = !self.connection.is_shared();
        if reusable && is_own && !cut && !context.worker.draining.is_cancelled() {
            context.worker.keep(&context.pod, self.key, self.connection);
        }
    }
}

pub(super) async fn stream(
    accepted: &Accepted,
    report: &mut Report,
    carrying: &mut MeshStream,
    peer: &MeshPeer,
) -> Result<ForwardEnd, Refused> {
    let context = accepted.context();
    let of_all = context.worker.agent.config.idle_timeout;
    let idle = report.timeouts().idle.or(of_all);
    let stopped = loop {
        let carrier = carrying.connection.carrier();
        let mut tunnelled = Tunnelled {
            relay: &mut carrying.relay,
            application: &accepted.client,
            connection: &mut carrying.connection,
        };
        let sockets = (&accepted.client, Second::of(&carrier));
        let stopped = forward(&mut tunnelled, sockets, &context.entry().cut, report, idle).await;
        drop(carrier);
        if !matches!(stopped, Stopped::Ended(StreamEnd::NotTaken)) {
            break stopped;
        }
        let replayed = Box::pin(carrying.replay(context, peer)).await;
        report.secured(carrying.connection.tls(), carrying.connection.peer());
        replayed?;
    };
    let (reason, answer) = close_reason(&stopped, carrying.relay.is_accepted());
    // What an agent says by itself is no answer to that.
    let is_reset = matches!(
        stopped,
        Stopped::Ended(StreamEnd::ResetByPeer(reason)) if reason.is_of_application()
    );
    if is_reset && reason == CloseReason::ResetByUpstream && carrying.relay.application_has_ended()
    {
        report.reset_behind_end(carrying.relay.bytes());
    }
    carrying.answer = answer;
    report.flow().denied_by = carrying.relay.take_denied_by();
    Ok((carrying.relay.bytes(), reason))
}

fn open(context: &ConnectionContext) -> Open {
    Open {
        takes_rule: true,
        original: context.orig_dst.get(),
        source: context.client_addr.get(),
        hops: 1,
        trace: None,
    }
}

/// What a stream's end is to the application, and what the peer is told.
fn close_reason(
    stopped: &Stopped<StreamEnd>,
    accepted: bool,
) -> (CloseReason, Option<ResetReason>) {
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
            close_reason(&denied, false).0,
            CloseReason::Refused(RefuseReason::RefusedByPeer)
        );
        assert_eq!(close_reason(&denied, true).0, CloseReason::ResetByUpstream);
    }
}
