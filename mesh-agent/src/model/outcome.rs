//! How a connection ended: one record feeds metrics, access log and (later) span.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::{ClientAddr, OrigDst, ServiceKey, SpiffeId, UpstreamAddr, Workload};

/// Which side of the mesh this agent played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From a local pod to elsewhere (Istio's reporter `source`).
    Outbound,
    /// To a local pod from elsewhere (reporter `destination`).
    Inbound,
    /// Both pods are here; one pass did both halves.
    SameNode,
}

/// How the bytes travel between the two halves of the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Security {
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
pub enum KeyExchange {
    /// Also safe from a recording that is opened by a quantum computer.
    X25519MlKem768,
    X25519,
}

/// Cipher suites that a handshake may agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CipherSuite {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

/// What a handshake agreed on. The version is 1.3, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TlsParameters {
    pub group: KeyExchange,
    pub cipher: CipherSuite,
}

/// Which end of a handshake this agent was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsRole {
    Client,
    Server,
}

/// Why a TLS handshake failed; each is a label of metrics and log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsFailure {
    /// The peer sent no certificate.
    NoCertificate,
    /// Not signed by a root of the mesh (self-signed ones included).
    UnknownIssuer,
    Expired,
    NotYetValid,
    /// The extended key usage does not fit the role.
    WrongUsage,
    /// No URI SAN, or more than one, or one that is no SPIFFE ID of a workload.
    NoIdentity,
    SeveralIdentities,
    MalformedIdentity,
    ForeignTrustDomain,
    /// A valid certificate of another workload than the address belongs to.
    UnexpectedIdentity,
    Revoked,
    /// More certificates or bytes than a mesh peer ever sends.
    ChainTooLarge,
    /// A certificate or signature that does not parse or verify.
    BadCertificate,
    /// No common TLS version, cipher suite or application protocol.
    NoCommonProtocol,
    /// The peer refused us with an alert.
    RefusedByPeer,
    /// Bytes that are not TLS, or TLS out of order.
    Malformed,
    Timeout,
    /// The peer closed or reset during the handshake.
    Closed,
}

/// The authorization rule that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// `namespace/name` of the AuthorizationPolicy.
    pub policy: Arc<str>,
    /// Index into `spec.rules`; `None` where no single rule decided
    /// (ALLOW policies exist and none matched, or the policy is broken).
    pub rule: Option<u16>,
    /// Generation of the snapshot that it was compiled from.
    pub generation: u64,
}

/// The rule of another node's policy, as its agent named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRule {
    /// `namespace/name`.
    pub policy: Arc<str>,
    /// As [`RuleRef::rule`].
    pub rule: Option<u16>,
}

/// What the peer's certificate says of it. Proven only where the handshake was
/// finished: a certificate alone is no proof that its key is there too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    pub principal: Option<SpiffeId>,
    /// Big-endian, as in the certificate; 20 bytes at most.
    pub serial: Arc<[u8]>,
}

/// Why a connection was not carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefuseReason {
    /// The service has no such port.
    UnknownServicePort,
    /// The service port has no ready endpoint of the client's family.
    NoEndpoint,
    /// The endpoint answered with RST, or nothing listens.
    ConnectRefused,
    /// No answer within the connect deadline.
    ConnectTimeout,
    /// Routing or the local network said no (EHOSTUNREACH, ENETUNREACH, EACCES …).
    Unreachable,
    /// No source port was free for the delivery.
    SourcePortsExhausted,
    /// The agent's or the pod's connection limit is reached.
    OverLimit,
    /// Too many connections had not shown who they are: the oldest of the
    /// source with the most made room.
    Displaced,
    /// The connection leads back to the agent.
    Loop,
    /// An authorization policy says no.
    Denied,
    /// Plaintext came where mutual TLS is demanded (PeerAuthentication STRICT).
    PlaintextRefused,
    /// This side has no valid certificate for the pod (yet, or any more).
    NoCertificate,
    /// The handshake with the other agent failed.
    Tls(TlsFailure),
    /// The address leads to another pod than the configuration says.
    WrongWorkload,
    /// What the configuration says of the address cannot be understood: it may
    /// be in the mesh.
    Unreadable,
    /// An EndpointSlice gives the address to a Pod that is not known (yet).
    UnknownPod,
    /// The other agent refused the stream.
    RefusedByPeer,
    /// The agent is draining.
    Draining,
    /// The pod is being withdrawn.
    PodRemoved,
    /// An unexpected failure inside the agent.
    Internal,
}

/// How a carried connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
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

/// A peer that no configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UnknownPeer;

/// Application bytes in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteCounts {
    /// Client to server.
    pub sent: u64,
    /// Server to client.
    pub received: u64,
}

/// Application bytes of a connection that is carried: its worker writes, and
/// whoever looks at the connection reads.
#[derive(Debug, Default)]
pub struct ByteMeter {
    sent: AtomicU64,
    received: AtomicU64,
}

impl ByteMeter {
    pub fn set(&self, total: ByteCounts) {
        self.sent.store(total.sent, Ordering::Relaxed);
        self.received.store(total.received, Ordering::Relaxed);
    }

    #[must_use]
    pub fn get(&self) -> ByteCounts {
        ByteCounts {
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        }
    }
}

/// A connection's name in log lines, in the list of connections and for
/// `explain`: worker and number, in hexadecimal. Unique in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

impl ConnectionId {
    const WORKER_SHIFT: u32 = 48;

    #[must_use]
    pub fn new(worker: u16, number: u64) -> Self {
        let number = number & ((1 << Self::WORKER_SHIFT) - 1);
        Self(u64::from(worker) << Self::WORKER_SHIFT | number)
    }

    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0 & ((1 << Self::WORKER_SHIFT) - 1);
        write!(f, "{:x}-{number:x}", self.0 >> Self::WORKER_SHIFT)
    }
}

/// Who and where, as known when the upstream answered (or the connection was refused).
#[derive(Clone, Debug)]
pub struct Opening {
    pub id: ConnectionId,
    pub direction: Direction,
    pub client: ClientAddr,
    pub orig_dst: OrigDst,
    pub upstream: Option<UpstreamAddr>,
    pub source: Result<Arc<Workload>, UnknownPeer>,
    pub destination: Result<Arc<Workload>, UnknownPeer>,
    pub service: Option<ServiceKey>,
    /// Proven identities: by certificate, or by the namespace that a socket lives in.
    pub source_principal: Option<SpiffeId>,
    pub destination_principal: Option<SpiffeId>,
    pub security: Security,
    /// Of the connection between the agents; `None` where there is none (yet).
    pub tls: Option<TlsParameters>,
    pub peer_certificate: Option<Arc<PeerCertificate>>,
    /// The rule that allowed or denied; `None` where no policy selects the destination.
    pub rule: Option<RuleRef>,
    /// The rule of the destination's policy that denied, where it was asked on another node.
    pub denied_by: Option<Box<PeerRule>>,
    pub started: SystemTime,
    /// Generation of the snapshot that decided.
    pub generation: u64,
}

#[derive(Clone, Debug)]
pub struct Outcome {
    pub opening: Opening,
    pub bytes: ByteCounts,
    /// From accept to the upstream's handshake; `None` when never connected.
    pub connect_time: Option<Duration>,
    pub duration: Duration,
    pub reason: CloseReason,
}
