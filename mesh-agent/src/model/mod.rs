//! What every module talks about: workloads, services, addresses by role, the
//! configuration snapshot, and the outcome of a connection.
//!
//! No I/O, no tokio, no serde: plain data that the pure modules decide on.
//! Invariants: a [`Snapshot`] is immutable once built and swapped whole; an
//! address is never a bare `SocketAddr` across modules but carries its role.

mod addr;
mod backend;
mod by_ip;
pub(crate) mod cookie;
mod flow;
pub(crate) mod grpc_status;
pub(crate) mod header_name;
pub(crate) mod http_route;
mod identity;
pub(crate) mod injection;
mod kept_head;
pub(crate) mod kubernetes_name;
mod labels;
mod name;
mod namespaced;
mod outcome;
mod peer_protocol;
pub(crate) mod policy;
mod refusal;
mod request;
mod request_record;
mod request_text;
pub(crate) mod route;
mod service;
mod sharded;
mod snapshot;
pub(crate) mod text;
pub(crate) mod traffic;
pub(crate) mod traffic_policy;
mod workload;

pub(crate) use addr::{ClientAddr, OrigDst, PodIps, UpstreamAddr};
pub(crate) use by_ip::ByIp;
pub(crate) use flow::{
    CipherSuite, ConnectionId, Direction, Flow, KeyExchange, PeerCertificate, PeerRule, RuleRef,
    Security, TlsParameters, TlsRole, UnknownPeer,
};
pub(crate) use identity::{SpiffeError, SpiffeId, TrustDomain};
pub(crate) use kept_head::KeptHead;
pub(crate) use labels::Labels;
pub(crate) use name::Name;
pub(crate) use namespaced::{ByNamespace, Namespaced};
pub(crate) use outcome::{ByteCounts, ByteMeter, CloseReason, Outcome};
pub(crate) use peer_protocol::PeerProtocol;
#[cfg(test)]
pub(crate) use refusal::Refusal;
pub(crate) use refusal::{
    Fault, Limited, REFUSE_REASONS, RefusalScope, RefuseReason, Refused, ResponseFlags, Retry,
    Status, TLS_FAILURES, TlsFailure, Told,
};
pub(crate) use request::{
    Edits, HeaderEdit, HeaderLine, Host, HttpVersion, NormalPath, Path, PathProblem, RequestHead,
    is_cookie,
};
pub(crate) use request_record::{
    Hedged, RequestEnd, RequestProtocol, RequestRecord, RequestTiming, RouteRef, TraceId,
};
pub(crate) use request_text::RequestText;
pub(crate) use service::{
    AppProtocol, Endpoint, Hinted, Place, Service, ServiceKey, ServicePort, TargetPort, Tier,
};
pub(crate) use sharded::Sharded;
pub(crate) use snapshot::{Part, Snapshot, Withheld};
pub(crate) use workload::{
    Enrolment, NamedPort, NetnsRef, OnAgentDown, OnNode, Outside, Unfit, Workload, WorkloadKey,
};

/// Objects of a kind that an agent names as those of which it keeps an older version.
pub(crate) const MAX_HELD_BACK: usize = 128;
