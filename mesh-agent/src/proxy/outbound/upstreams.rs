//! The upstream connections of one client connection: each idle between two
//! requests, a few of them at most.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::mesh::{self, MeshStream};
use super::reach::{dial_upstream, entered_pod};
use crate::http::h1::Side as Of;
use crate::http::h2 as http2;
use crate::model::{Flow, PeerRule, RefuseReason, Refused, TlsParameters, Workload};
use crate::plan::{MayDial as _, MeshPeer, Outside};
use crate::proxy::authorize::Authorized;
use crate::proxy::context::ConnectionContext;
use crate::proxy::http::{
    ByteStream, Fail, Inbox, Replayable, Side, Transfer, has_settings, is_quiet,
};
use crate::proxy::times::connected;
use crate::sys::socket;
use crate::tls::PeerId;
use crate::traffic::Asks;
use crate::tunnel::{ResetReason, StreamEnd};

/// Idle ones that are kept; the one that was used longest ago goes first.
const MAX_IDLE: usize = 4;

/// How a request gets to where it goes, and by what leave.
pub(super) enum Transport {
    Mesh(MeshPeer),
    SameNode {
        authorized: Authorized,
        workload: Arc<Workload>,
    },
    Plain(Outside),
}

impl Transport {
    pub(super) fn to(&self) -> SocketAddr {
        match self {
            Self::Mesh(peer) => peer.to(),
            Self::SameNode { authorized, .. } => authorized.permit().to(),
            Self::Plain(outside) => outside.to(),
        }
    }

    /// Who is at the other end of HTTP/2 there.
    pub(super) fn hop(&self) -> http2::Hop {
        match self {
            Self::Mesh(_) => http2::Hop::Agents,
            Self::SameNode { .. } | Self::Plain(_) => http2::Hop::Edge,
        }
    }
}

/// One connection.
pub(super) struct Upstream {
    to: SocketAddr,
    carrier: Carrier,
    inbox: Inbox,
    /// Who talks to whom, of the last request on it.
    pub(super) flow: Option<Arc<Flow>>,
}

enum Carrier {
    Mesh(Box<MeshStream>),
    Socket {
        stream: TcpStream,
        /// Cookie of the pod of this node that it went into.
        entered: Option<u64>,
    },
}

impl Upstream {
    pub(super) fn of_socket(stream: TcpStream, entered: Option<u64>) -> Result<Self, Refused> {
        let to = stream
            .peer_addr()
            .map_err(|_| RefuseReason::ConnectRefused)?;
        Ok(Self {
            to,
            carrier: Carrier::Socket { stream, entered },
            inbox: Inbox::default(),
            flow: None,
        })
    }

    pub(super) fn of_stream(stream: Box<MeshStream>) -> Self {
        Self {
            to: stream.to(),
            carrier: Carrier::Mesh(stream),
            inbox: Inbox::default(),
            flow: None,
        }
    }

    pub(super) fn side(&mut self) -> Side<'_> {
        Side {
            stream: match &mut self.carrier {
                Carrier::Mesh(stream) => stream.byte_stream(),
                Carrier::Socket { stream, .. } => ByteStream::Socket(stream),
            },
            inbox: &mut self.inbox,
        }
    }

    /// Others' streams have its connection in common.
    fn is_shared(&self) -> bool {
        match &self.carrier {
            Carrier::Mesh(stream) => stream.is_shared(),
            Carrier::Socket { .. } => false,
        }
    }

    /// What its handshake agreed on, and with whom.
    pub(super) fn session(&self) -> Option<(TlsParameters, &PeerId)> {
        match &self.carrier {
            Carrier::Mesh(stream) => Some(stream.session()),
            Carrier::Socket { .. } => None,
        }
    }

    /// It carries another request of that way.
    pub(super) fn serves(&mut self, via: &Transport, context: &ConnectionContext) -> bool {
        self.is_for(via, context) && self.is_quiet()
    }

    /// A connection of HTTP/2 may begin on it; the server may have sent its settings.
    pub(super) fn begins_http2(&mut self, via: &Transport, context: &ConnectionContext) -> bool {
        self.is_for(via, context) && (self.has_settings() || self.is_quiet())
    }

    fn is_quiet(&mut self) -> bool {
        match &mut self.carrier {
            Carrier::Mesh(stream) => stream.is_quiet(),
            Carrier::Socket { stream, .. } => is_quiet(stream),
        }
    }

    fn has_settings(&self) -> bool {
        match &self.carrier {
            Carrier::Mesh(stream) => stream.has_settings(),
            Carrier::Socket { stream, .. } => has_settings(stream),
        }
    }

    fn is_for(&self, via: &Transport, context: &ConnectionContext) -> bool {
        if self.to != via.to() || !self.inbox.is_empty() {
            return false;
        }
        match (&self.carrier, via) {
            (Carrier::Mesh(stream), Transport::Mesh(peer)) => stream.is_for(context, peer),
            (
                Carrier::Socket {
                    entered: Some(cookie),
                    ..
                },
                Transport::SameNode { workload, .. },
            ) => context.worker.agent.is_pod(*cookie, workload),
            (Carrier::Socket { entered: None, .. }, Transport::Plain(_)) => true,
            (Carrier::Mesh(_), Transport::SameNode { .. } | Transport::Plain(_))
            | (
                Carrier::Socket { .. },
                Transport::Mesh(_) | Transport::SameNode { .. } | Transport::Plain(_),
            ) => false,
        }
    }

    /// The request may go once more. An agent that ends a stream in order between two
    /// exchanges has not passed on what comes behind.
    pub(super) fn may_replay(
        &self,
        end: Option<StreamEnd>,
        replayable: Replayable,
        transfer: &Transfer,
    ) -> bool {
        match &self.carrier {
            Carrier::Mesh(_) => end.is_none() || replayable.is_safe,
            Carrier::Socket { stream, .. } => replayable.may(end.is_none(), stream, transfer),
        }
    }

    /// What the client is told of the failure.
    pub(super) fn refusal(&mut self, fail: Fail) -> (Refused, Option<Box<PeerRule>>) {
        let mut denied_by = None;
        let detail = fail.detail();
        let reason = match fail {
            Fail::Client(_) | Fail::Upstream(None) => RefuseReason::UpstreamClosed,
            Fail::Request(bad) => bad.reason(Of::Request),
            Fail::Answer(bad) => bad.reason(Of::Response),
            Fail::Edit | Fail::Held(_) => RefuseReason::Internal,
            Fail::Upstream(Some(end)) => match &mut self.carrier {
                Carrier::Mesh(stream) => {
                    let (reason, rule) = stream.refusal(end);
                    denied_by = rule;
                    reason
                }
                Carrier::Socket { .. } => RefuseReason::UpstreamClosed,
            },
        };
        let refused = Refused {
            detail,
            ..reason.into()
        };
        (refused, denied_by)
    }

    /// How long it may carry more requests, if that has an end.
    pub(super) fn may_go_on_for(&self, context: &ConnectionContext) -> Option<Duration> {
        match &self.carrier {
            Carrier::Mesh(stream) => Some(stream.may_go_on_for(context)),
            Carrier::Socket { .. } => None,
        }
    }

    /// From now on it is that connection's.
    pub(super) fn move_to(&self, context: &ConnectionContext) {
        if let Carrier::Mesh(stream) = &self.carrier {
            stream.set_session(context);
        }
    }

    /// Cookie of the pod of this node that it went into.
    pub(super) fn entered(&self) -> Option<u64> {
        match &self.carrier {
            Carrier::Socket { entered, .. } => *entered,
            Carrier::Mesh(_) => None,
        }
    }
}

/// All of a client connection.
pub(super) struct Upstreams<'u> {
    context: &'u Rc<ConnectionContext>,
    /// The one used last is the last.
    idle: Vec<Upstream>,
    /// What goes next is small, so that it may have a connection in common with others'.
    shares: bool,
    /// Its answers are not.
    is_large: bool,
}

/// A request or an answer beyond this would hold up those that it shares a connection with.
pub(super) const LARGE: u64 = 64 * 1024;

impl<'u> Upstreams<'u> {
    pub(super) fn new(context: &'u Rc<ConnectionContext>, open: Option<Box<Upstream>>) -> Self {
        Self {
            context,
            idle: open.into_iter().map(|open| *open).collect(),
            shares: false,
            is_large: false,
        }
    }

    /// Of what goes next.
    pub(super) fn next_is(&mut self, small: bool) {
        self.shares = small && !self.is_large;
    }

    /// An answer of so many bytes came on that one: is it kept? Where they are large the next
    /// one has a connection to itself.
    pub(super) fn may_keep(&mut self, upstream: &Upstream, bytes: u64) -> bool {
        self.is_large |= upstream.is_shared() && bytes > LARGE;
        !(self.is_large && upstream.is_shared())
    }

    /// An idle one that goes where the request is to go.
    pub(super) fn take(&mut self, via: &Transport) -> Option<Upstream> {
        let context = self.context;
        let found = self
            .idle
            .iter()
            .rposition(|upstream| upstream.to == via.to())?;
        let mut upstream = self.idle.remove(found);
        let may_carry = self.shares || !upstream.is_shared();
        if may_carry && upstream.serves(via, context) {
            if let Carrier::Mesh(stream) = &upstream.carrier {
                stream.set_session(context);
            }
            return Some(upstream);
        }
        self.leave(upstream, None);
        None
    }

    pub(super) fn keep(&mut self, upstream: Upstream) {
        if self.idle.len() >= MAX_IDLE {
            let oldest = self.idle.remove(0);
            self.leave(oldest, None);
        }
        // Most clients have one, and a list grows by four.
        self.idle.reserve_exact(1);
        self.idle.push(upstream);
    }

    /// A new one, that is there `within` that time.
    pub(super) async fn connect(
        &self,
        via: &Transport,
        within: Option<Duration>,
    ) -> Result<Upstream, Refused> {
        connected(within, self.reach(via)).await
    }

    async fn reach(&self, via: &Transport) -> Result<Upstream, Refused> {
        let context = self.context;
        let carrier = match via {
            Transport::Mesh(peer) => {
                Carrier::Mesh(Box::pin(mesh::connect(context, peer, self.shares)).await?)
            }
            Transport::Plain(outside) => {
                let stream = Box::pin(dial_upstream(context, outside)).await?;
                if entered_pod(context, &stream, outside.to()).is_some() {
                    // Meanwhile the address is that of a pod here, whose policy nobody asked.
                    return Err(wrong(&stream));
                }
                Carrier::Socket {
                    stream,
                    entered: None,
                }
            }
            Transport::SameNode {
                authorized,
                workload,
                ..
            } => {
                let permit = authorized.permit();
                let asks = Asks {
                    principal: Some(&context.pod.spiffe_id),
                    head: None,
                };
                let to = (&**workload, permit.to().port());
                context.worker.admit(to, &asks)?;
                let stream = Box::pin(dial_upstream(context, permit)).await?;
                // The address may belong to another pod by now, enrolled or not.
                let entered = entered_pod(context, &stream, permit.to());
                let agent = &context.worker.agent;
                if !entered.is_some_and(|cookie| agent.is_pod(cookie, workload)) {
                    return Err(wrong(&stream));
                }
                Carrier::Socket { stream, entered }
            }
        };
        Ok(Upstream {
            to: via.to(),
            carrier,
            inbox: Inbox::default(),
            flow: None,
        })
    }

    /// The same stream on another connection: its agent provably did not take it.
    pub(super) async fn replay(
        &self,
        mut upstream: Upstream,
        via: &Transport,
    ) -> Result<Upstream, Refused> {
        match (&mut upstream.carrier, via) {
            (Carrier::Mesh(stream), Transport::Mesh(peer)) => {
                Box::pin(stream.replay(self.context, peer)).await?;
                Ok(upstream)
            }
            _ => Err(RefuseReason::Internal.into()),
        }
    }

    /// Lets one go; `failed`: not in order.
    pub(super) fn leave(&self, upstream: Upstream, failed: Option<ResetReason>) {
        match upstream.carrier {
            Carrier::Mesh(stream) => {
                // The other agent's end is waited for; the client is not kept for it.
                self.context
                    .spawn(|context| async move { stream.leave(&context, failed).await });
            }
            Carrier::Socket { stream, .. } => {
                if failed.is_some() {
                    socket::reset_on_close(&stream);
                }
            }
        }
    }
}

impl Drop for Upstreams<'_> {
    fn drop(&mut self) {
        for upstream in std::mem::take(&mut self.idle) {
            self.leave(upstream, None);
        }
    }
}

fn wrong(stream: &TcpStream) -> Refused {
    socket::reset_on_close(stream);
    RefuseReason::WrongWorkload.into()
}
