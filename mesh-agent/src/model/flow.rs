//! Who talks to whom: one record for log, list and labels.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::{ClientAddr, OrigDst, ServiceKey, SpiffeId, UpstreamAddr, Workload};

/// Who talks to whom, where, and how secured: what is known when the upstream has
/// answered (or the connection was refused). Shared by log, list and labels.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) id: ConnectionId,
    pub(crate) direction: Direction,
    pub(crate) client: ClientAddr,
    pub(crate) orig_dst: OrigDst,
    pub(crate) upstream: Option<UpstreamAddr>,
    pub(crate) source: Result<Arc<Workload>, UnknownPeer>,
    pub(crate) destination: Result<Arc<Workload>, UnknownPeer>,
    pub(crate) service: Option<ServiceKey>,
    /// Proven identities: by certificate, or by the namespace that a socket lives in.
    pub(crate) source_principal: Option<SpiffeId>,
    pub(crate) destination_principal: Option<SpiffeId>,
    pub(crate) security: Security,
    /// Of the connection between the agents; `None` where there is none (yet).
    pub(crate) tls: Option<TlsParameters>,
    pub(crate) peer_certificate: Option<Arc<PeerCertificate>>,
    /// The kernel's error, where one is why it was refused.
    pub(crate) errno: Option<i32>,
    /// The rule that allowed or denied; `None` where no policy selects the destination.
    pub(crate) rule: Option<RuleRef>,
    /// The rule of the destination's policy that denied, where it was asked on another node.
    pub(crate) denied_by: Option<Box<PeerRule>>,
    pub(crate) started: SystemTime,
    /// Generation of the snapshot that decided.
    pub(crate) generation: u64,
}

/// Which side of the mesh this agent played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// From a local pod to elsewhere (Istio's reporter `source`).
    Outbound,
    /// To a local pod from elsewhere (reporter `destination`).
    Inbound,
    /// Both pods are here; one pass did both halves.
    SameNode,
}

/// How the bytes travel between the two halves of the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Security {
    /// It was refused before that was settled.
    #[default]
    Unknown,
    /// In plaintext: the peer is not in the mesh, or the port is set to DISABLE.
    None,
    /// Both pods are on this node; identities come from the kernel, no TLS.
    SameNode,
    /// TLS 1.3 with both certificates verified.
    MutualTls,
}

/// Key exchanges that a handshake may agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum KeyExchange {
    /// Also safe from a recording that is opened by a quantum computer.
    X25519MlKem768,
    X25519,
}

/// Cipher suites that a handshake may agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CipherSuite {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

/// What a handshake agreed on. The version is 1.3, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TlsParameters {
    pub(crate) group: KeyExchange,
    pub(crate) cipher: CipherSuite,
}

/// Which end of a handshake this agent was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TlsRole {
    Client,
    Server,
}

/// The authorization rule that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleRef {
    /// `namespace/name` of the AuthorizationPolicy.
    pub(crate) policy: Arc<str>,
    /// Index into `spec.rules`; `None` where no single rule decided
    /// (ALLOW policies exist and none matched, or the policy is broken).
    pub(crate) rule: Option<u16>,
    /// Generation of the snapshot that it was compiled from.
    pub(crate) generation: u64,
}

/// The rule of another node's policy, as its agent named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerRule {
    /// `namespace/name`.
    pub(crate) policy: Arc<str>,
    /// As [`RuleRef::rule`].
    pub(crate) rule: Option<u16>,
}

/// What the peer's certificate says of it. Proven only where the handshake was
/// finished: a certificate alone is no proof that its key is there too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerCertificate {
    pub(crate) principal: Option<SpiffeId>,
    /// Big-endian, as in the certificate; 20 bytes at most.
    pub(crate) serial: Arc<[u8]>,
}

/// A peer that no configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct UnknownPeer;

/// A connection's name in log lines, in the list of connections and for
/// `explain`: worker and number, in hexadecimal. Unique in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConnectionId(u64);

impl ConnectionId {
    const WORKER_SHIFT: u32 = 48;

    #[must_use]
    pub(crate) fn new(worker: u16, number: u64) -> Self {
        let number = number & ((1 << Self::WORKER_SHIFT) - 1);
        Self(u64::from(worker) << Self::WORKER_SHIFT | number)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0 & ((1 << Self::WORKER_SHIFT) - 1);
        write!(f, "{:x}-{number:x}", self.0 >> Self::WORKER_SHIFT)
    }
}
