//! What every room talks about: workloads, services, addresses by role, the
//! configuration snapshot, and the outcome of a connection.
//!
//! No I/O, no tokio, no serde: plain data that the pure rooms decide on.
//! Invariants: a [`Snapshot`] is immutable once built and swapped whole; an
//! address is never a bare `SocketAddr` across rooms but carries its role.

mod addr;
mod identity;
mod outcome;
pub mod policy;
mod service;
mod snapshot;
mod workload;

pub use addr::{ClientAddr, OrigDst, PodIps, UpstreamAddr};
pub use identity::{SpiffeError, SpiffeId, TrustDomain};
pub use outcome::{
    ByteCounts, ByteMeter, CipherSuite, CloseReason, ConnectionId, Direction, KeyExchange, Opening,
    Outcome, PeerCertificate, PeerRule, RefuseReason, RuleRef, Security, TlsFailure, TlsParameters,
    TlsRole, UnknownPeer,
};
pub use service::{AppProtocol, Endpoint, Service, ServiceKey, ServicePort, TargetPort};
pub use snapshot::{Snapshot, Withheld};
pub use workload::{Enrolment, NamedPort, NetnsRef, OnAgentDown, Workload, WorkloadKey};
