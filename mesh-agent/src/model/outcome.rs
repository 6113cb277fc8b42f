//! How a connection ended: one record feeds metrics and access log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Flow, RefuseReason};

/// How a carried connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CloseReason {
    /// Both sides sent FIN.
    Finished,
    /// The client (downstream) reset or vanished.
    ResetByClient,
    /// The endpoint (upstream) reset or vanished.
    ResetByUpstream,
    IdleTimeout,
    /// Cut when the drain deadline passed.
    DrainDeadline,
    PodRemoved,
    /// A policy that changed meanwhile says no.
    PolicyChanged,
    /// The peer's certificate was revoked meanwhile.
    Revoked,
    /// A certificate of the connection expired.
    CertificateExpired,
    /// The peer showed no newer certificate before its last one ended.
    PeerCertificateExpired,
    /// The other agent broke the protocol.
    ProtocolError,
    Refused(RefuseReason),
}

impl CloseReason {
    /// Why it was refused; `None` of what ended in another way.
    #[must_use]
    pub(crate) const fn refused(self) -> Option<RefuseReason> {
        match self {
            Self::Refused(reason) => Some(reason),
            Self::Finished
            | Self::ResetByClient
            | Self::ResetByUpstream
            | Self::IdleTimeout
            | Self::DrainDeadline
            | Self::PodRemoved
            | Self::PolicyChanged
            | Self::Revoked
            | Self::CertificateExpired
            | Self::PeerCertificateExpired
            | Self::ProtocolError => None,
        }
    }
}

/// Application bytes in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ByteCounts {
    /// Client to server.
    pub(crate) sent: u64,
    /// Server to client.
    pub(crate) received: u64,
}

/// Application bytes of a connection that is carried: its worker writes, and
/// whoever looks at the connection reads.
#[derive(Debug, Default)]
pub(crate) struct ByteMeter {
    sent: AtomicU64,
    received: AtomicU64,
}

impl ByteMeter {
    pub(crate) fn set(&self, total: ByteCounts) {
        self.sent.store(total.sent, Ordering::Relaxed);
        self.received.store(total.received, Ordering::Relaxed);
    }

    #[must_use]
    pub(crate) fn get(&self) -> ByteCounts {
        ByteCounts {
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) flow: Arc<Flow>,
    pub(crate) bytes: ByteCounts,
    /// From accept to the upstream's handshake; `None` when never connected.
    pub(crate) connect_time: Option<Duration>,
    pub(crate) duration: Duration,
    pub(crate) reason: CloseReason,
}
