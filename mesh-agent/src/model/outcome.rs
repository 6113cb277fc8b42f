//! How a connection ended: one record feeds metrics, access log and (later) span.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{ClientAddr, OrigDst, ServiceKey, UpstreamAddr, Workload};

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
    /// The connection leads back to the agent.
    Loop,
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

/// Who and where, as known when the upstream answered (or the connection was refused).
#[derive(Clone, Debug)]
pub struct Opening {
    /// Unique in this process, for matching log lines and the connection list.
    pub id: u64,
    pub direction: Direction,
    pub client: ClientAddr,
    pub orig_dst: OrigDst,
    pub upstream: Option<UpstreamAddr>,
    pub source: Result<Arc<Workload>, UnknownPeer>,
    pub destination: Result<Arc<Workload>, UnknownPeer>,
    pub service: Option<ServiceKey>,
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
