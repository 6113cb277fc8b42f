//! What every module talks about: workloads, services, addresses by role, the
//! configuration snapshot, and the outcome of a connection.
//!
//! No I/O, no tokio, no serde: plain data that the pure modules decide on.
//! Invariants: a [`Snapshot`] is immutable once built and swapped whole; an
//! address is never a bare `SocketAddr` across modules but carries its role.

mod addr;
#[allow(dead_code, reason = "the HTTP data path comes in parts")]
mod backend;
mod flow;
pub mod grpc_status;
pub mod header_name;
#[allow(dead_code, reason = "the HTTP data path comes in parts")]
pub mod http_route;
mod identity;
pub mod injection;
#[allow(dead_code, reason = "the HTTP data path comes in parts")]
mod kept_head;
mod labels;
mod name;
mod namespaced;
mod outcome;
mod peer_protocol;
pub mod policy;
mod refusal;
#[allow(dead_code, reason = "the HTTP data path comes in parts")]
mod request;
mod request_record;
#[allow(dead_code, reason = "the HTTP data path comes in parts")]
pub mod route;
mod service;
mod sharded;
mod snapshot;
pub mod text;
#[allow(dead_code, reason = "resilience comes in parts")]
pub mod traffic;
pub mod traffic_policy;
mod workload;

pub use addr::{ClientAddr, OrigDst, PodIps, UpstreamAddr};
pub use flow::{
    CipherSuite, ConnectionId, Direction, Flow, KeyExchange, PeerCertificate, PeerRule, RuleRef,
    Security, TlsParameters, TlsRole, UnknownPeer,
};
pub use identity::{SpiffeError, SpiffeId, TrustDomain};
pub use kept_head::KeptHead;
pub use labels::Labels;
pub use name::Name;
pub use namespaced::{ByNamespace, Namespaced};
pub use outcome::{ByteCounts, ByteMeter, CloseReason, Outcome};
pub use peer_protocol::PeerProtocol;
#[cfg(test)]
pub(crate) use refusal::Refusal;
pub use refusal::{
    Fault, Limited, REFUSE_REASONS, RefuseReason, Refused, ResponseFlags, Retry, Status,
    TLS_FAILURES, TlsFailure, Told,
};
#[allow(unused_imports, reason = "the HTTP data path comes in parts")]
pub use request::{
    Edits, HeaderEdit, HeaderLine, Host, HttpVersion, NormalPath, Path, PathProblem, RequestHead,
    is_cookie,
};
pub use request_record::{
    RequestEnd, RequestProtocol, RequestRecord, RequestTiming, RouteRef, TraceId,
};
pub use service::{
    AppProtocol, Endpoint, Hinted, Place, Service, ServiceKey, ServicePort, TargetPort, Tier,
};
pub use sharded::Sharded;
pub use snapshot::{Part, Snapshot, Withheld};
pub use workload::{
    Enrolment, NamedPort, NetnsRef, OnAgentDown, OnNode, Outside, Unfit, Workload, WorkloadKey,
};

/// Objects of a kind that an agent names as those of which it keeps an older version.
pub const MAX_HELD_BACK: usize = 128;
