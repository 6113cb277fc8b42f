//! What the configuration says of a connection: where it goes, how its bytes
//! get there, whether it may be.
//!
//! Without I/O, so that the data path and `explain` ask the same functions.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use super::live::Checked;
use crate::balance;
use crate::discovery::Published;
use crate::model::policy::PeerMode;
use crate::model::{
    Endpoint, OrigDst, PodIps, RefuseReason, RuleRef, ServiceKey, Snapshot, SpiffeId, TrustDomain,
    UpstreamAddr, Workload,
};
use crate::policy::{Deny, DryRun, Engine, Permit, Request};
use crate::route::{self, Decision};

/// Where the connection goes.
pub(super) struct Target {
    pub(super) upstream: UpstreamAddr,
    pub(super) destination: Option<Arc<Workload>>,
    pub(super) service: Option<ServiceKey>,
    /// The source pod itself: nothing captures what it says to itself.
    pub(super) itself: bool,
}

/// How the bytes get there. Plaintext is chosen here, by what the
/// configuration says of the destination, and never later.
pub(super) enum Transport {
    /// A pod of this node: one pass, identity from the kernel.
    SameNode(Arc<Workload>),
    /// A pod in the mesh: its agent decides.
    Mesh(MeshPeer),
    /// Not in the mesh, or its port is set to DISABLE.
    Plain(Outside),
}

/// What a connection may be opened by: it says where to, and no other address
/// is dialled.
pub(super) trait Leave {
    fn to(&self) -> SocketAddr;
}

/// The destination's own policy was asked.
impl Leave for Permit {
    fn to(&self) -> SocketAddr {
        self.destination()
    }
}

/// A pod in the mesh: whoever it says it is at that address must prove it. Only
/// a decision on the configuration makes one.
#[derive(Clone, Debug)]
pub(super) struct MeshPeer {
    to: UpstreamAddr,
    expected: SpiffeId,
}

impl MeshPeer {
    /// Mutual TLS with exactly this identity.
    pub(super) fn expected(&self) -> &SpiffeId {
        &self.expected
    }
}

impl Leave for MeshPeer {
    fn to(&self) -> SocketAddr {
        self.to.get()
    }
}

/// Plaintext, as the configuration says of the destination. Only a decision on
/// it makes one.
#[derive(Debug)]
pub(super) struct Outside(UpstreamAddr);

impl Leave for Outside {
    fn to(&self) -> SocketAddr {
        self.0.get()
    }
}

/// What holds for all connections of the pods of one node.
pub(super) struct Premises<'p> {
    pub(super) published: &'p Published,
    pub(super) node: &'p str,
    pub(super) trust_domain: &'p TrustDomain,
    pub(super) same_node_tls: bool,
}

/// `turn` counts the connections, for taking endpoints in turn.
pub(super) fn target(
    snapshot: &Snapshot,
    (own, client): (PodIps, IpAddr),
    dst: OrigDst,
    turn: impl FnOnce() -> usize,
) -> Result<Target, RefuseReason> {
    let ip = dst.ip();
    let foreign = !own.contains(client);
    if foreign || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
        return Err(RefuseReason::Loop);
    }
    let direct = |destination| Target {
        upstream: UpstreamAddr::new(dst.get()),
        destination,
        service: None,
        itself: own.contains(ip),
    };
    match route::resolve(snapshot, dst) {
        Decision::Refused(reason) => Err(reason),
        Decision::External => Ok(direct(None)),
        Decision::Workload(workload) => Ok(direct(Some(workload.clone()))),
        Decision::Service { service, port } => {
            let endpoint = balance::round_robin(&port.endpoints, ip, turn())
                .ok_or(RefuseReason::NoEndpoint)?;
            Ok(Target {
                upstream: endpoint.addr,
                destination: workload_of(snapshot, endpoint),
                service: Some(service.key.clone()),
                itself: own.contains(endpoint.addr.ip()),
            })
        }
    }
}

fn workload_of(snapshot: &Snapshot, endpoint: &Endpoint) -> Option<Arc<Workload>> {
    let by_ip = || snapshot.by_ip.get(&endpoint.addr.ip());
    endpoint.workload.as_ref().or_else(by_ip).cloned()
}

impl Premises<'_> {
    pub(super) fn transport(
        &self,
        target: &Target,
        now: Instant,
    ) -> Result<Transport, RefuseReason> {
        let snapshot = &self.published.snapshot;
        let Some(workload) = target.destination.as_ref().filter(|w| w.is_enrolled()) else {
            let withheld = snapshot.withholds(target.upstream.ip(), now);
            let outside = Transport::Plain(Outside(target.upstream));
            return withheld.map_or(Ok(outside), Err);
        };
        let policy = &self.published.policy;
        let mode = policy.peer_mode(workload, target.upstream.port());
        // Plaintext within the node goes this way too: it asks the destination's policy.
        let in_one_pass = !self.same_node_tls || mode == PeerMode::Disable || target.itself;
        if workload.node == self.node && in_one_pass {
            return Ok(Transport::SameNode(workload.clone()));
        }
        match mode {
            PeerMode::Disable => Ok(Transport::Plain(Outside(target.upstream))),
            PeerMode::Strict | PeerMode::Permissive => {
                let peer = self.mesh_peer(workload, target.upstream);
                peer.map(Transport::Mesh).ok_or(RefuseReason::NoCertificate)
            }
        }
    }

    /// `None` where mutual TLS with it is not to be.
    pub(super) fn mesh_peer(&self, workload: &Workload, to: UpstreamAddr) -> Option<MeshPeer> {
        let mode = self.published.policy.peer_mode(workload, to.port());
        let in_mesh = workload.is_enrolled() && mode != PeerMode::Disable;
        let expected = workload.spiffe_id(self.trust_domain).ok();
        let expected = expected.filter(|_| in_mesh)?;
        Some(MeshPeer { to, expected })
    }
}

/// The destination says no.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It takes no plaintext.
    Plaintext,
    Policy(Deny),
}

impl Refusal {
    pub(super) fn reason(&self) -> RefuseReason {
        match self {
            Self::Plaintext => RefuseReason::PlaintextRefused,
            Self::Policy(_) => RefuseReason::Denied,
        }
    }

    pub(super) fn rule(&self) -> Option<&RuleRef> {
        match self {
            Self::Plaintext => None,
            Self::Policy(deny) => Some(deny.rule()),
        }
    }

    pub(super) fn dry_run(&self) -> &[DryRun] {
        match self {
            Self::Plaintext => &[],
            Self::Policy(deny) => deny.dry_run(),
        }
    }
}

impl Checked {
    pub(super) fn new(
        source: Option<SpiffeId>,
        source_ip: IpAddr,
        destination: Arc<Workload>,
        to: SocketAddr,
    ) -> Self {
        Self {
            source,
            source_ip,
            destination,
            destination_ip: to.ip(),
            destination_port: to.port(),
            plaintext: false,
        }
    }

    /// From elsewhere, without TLS: whoever it is from, nothing proves it.
    pub(super) fn plaintext(source_ip: IpAddr, destination: Arc<Workload>, to: SocketAddr) -> Self {
        Self {
            plaintext: true,
            ..Self::new(None, source_ip, destination, to)
        }
    }

    /// What the destination says, by a policy and as it is configured now.
    pub(super) fn verdict(&self, policy: &Engine, now: &Workload) -> Result<Permit, Refusal> {
        let strict = || policy.peer_mode(now, self.destination_port) == PeerMode::Strict;
        if self.plaintext && strict() {
            return Err(Refusal::Plaintext);
        }
        policy.check(&self.request(now)).map_err(Refusal::Policy)
    }

    pub(super) fn request<'c>(&'c self, destination: &'c Workload) -> Request<'c> {
        Request {
            source: self.source.as_ref(),
            source_ip: self.source_ip,
            destination,
            destination_ip: self.destination_ip,
            destination_port: self.destination_port,
            sni: None,
        }
    }
}
