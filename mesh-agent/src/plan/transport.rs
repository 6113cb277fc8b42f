//! How a connection's bytes get to where it goes, and what it may be opened by.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::in_force::InForce;
use super::target::{self, Backends, SourcePod, Target};
use crate::model::policy::PeerMode;
use crate::model::route::BackendRef;
use crate::model::{OrigDst, RefuseReason, SpiffeId, TrustDomain, UpstreamAddr, Workload};
use crate::policy::Permit;

/// How the bytes get there. Plaintext is chosen here, by what the
/// configuration says of the destination, and never later.
pub(crate) enum Transport {
    /// A pod of this node: one pass, identity from the kernel.
    SameNode(Arc<Workload>),
    /// A pod in the mesh: its agent decides.
    Mesh(MeshPeer),
    /// Not in the mesh, or its port is set to DISABLE.
    Plain(Outside),
}

/// What a connection may be opened by: it says where to, and no other address
/// is dialled.
pub(crate) trait MayDial {
    fn to(&self) -> SocketAddr;

    /// It is outside of the mesh.
    fn leaves(&self) -> Option<&Outside> {
        None
    }
}

/// The destination's own policy was asked.
impl MayDial for Permit {
    fn to(&self) -> SocketAddr {
        self.destination()
    }
}

/// A pod in the mesh: whoever it says it is at that address must prove it. Only
/// a decision on the configuration makes one.
#[derive(Clone, Debug)]
pub(crate) struct MeshPeer {
    to: UpstreamAddr,
    expected: SpiffeId,
}

impl MeshPeer {
    /// As if the configuration said so.
    #[cfg(test)]
    pub(crate) fn decided(to: UpstreamAddr, expected: SpiffeId) -> Self {
        Self { to, expected }
    }

    /// Mutual TLS with exactly this identity.
    pub(crate) fn expected(&self) -> &SpiffeId {
        &self.expected
    }
}

impl MayDial for MeshPeer {
    fn to(&self) -> SocketAddr {
        self.to.get()
    }
}

/// Plaintext, as the configuration says of the destination. Only a decision on
/// it makes one.
#[derive(Debug)]
pub(crate) struct Outside {
    to: UpstreamAddr,
    /// Whose port is set to DISABLE; where there is none, nobody in the mesh is there.
    disabled: Option<Arc<Workload>>,
}

impl MayDial for Outside {
    fn to(&self) -> SocketAddr {
        self.to.get()
    }

    fn leaves(&self) -> Option<&Outside> {
        Some(self)
    }
}

/// What holds for all connections of the pods of one node.
pub(crate) struct DecisionContext<'p> {
    pub(crate) published: &'p InForce,
    pub(crate) node: &'p str,
    /// The node's zone, where its agent was told one.
    pub(crate) node_zone: Option<&'p str>,
    pub(crate) trust_domain: &'p TrustDomain,
    pub(crate) same_node_tls: bool,
}

impl<'p> DecisionContext<'p> {
    /// Where a connection from here to there may go.
    pub(crate) fn backends(
        &self,
        source: &SourcePod<'p>,
        dst: OrigDst,
    ) -> Result<Backends<'p>, RefuseReason> {
        let snapshot = &*self.published.snapshot;
        let zone = snapshot.zone_of(self.node, self.node_zone);
        target::resolve(snapshot, source, (self.node, zone), dst)
    }

    /// Where a request may go that a route sends `to`.
    pub(crate) fn backends_of(
        &self,
        source: &SourcePod<'p>,
        (dst, to): (OrigDst, &BackendRef),
    ) -> Result<Backends<'p>, RefuseReason> {
        let snapshot = &*self.published.snapshot;
        let zone = snapshot.zone_of(self.node, self.node_zone);
        target::of_backend(snapshot, source, (self.node, zone), (dst, to))
    }

    pub(crate) fn transport(
        &self,
        target: &Target,
        now: Instant,
    ) -> Result<Transport, RefuseReason> {
        let snapshot = &self.published.snapshot;
        let Some(workload) = target.destination.as_ref().filter(|w| w.is_enrolled()) else {
            let withheld = snapshot.withholds(target.upstream.ip(), now);
            let outside = Outside {
                to: target.upstream,
                disabled: None,
            };
            return withheld.map_or(Ok(Transport::Plain(outside)), Err);
        };
        let policy = &self.published.policy;
        let mode = policy.peer_mode(workload, target.upstream.port());
        // Plaintext within the node goes this way too: it asks the destination's policy.
        let in_one_pass = !self.same_node_tls || mode == PeerMode::Disable || target.itself;
        if workload.node == self.node && in_one_pass {
            return Ok(Transport::SameNode(workload.clone()));
        }
        match mode {
            PeerMode::Disable => Ok(Transport::Plain(Outside {
                to: target.upstream,
                disabled: Some(workload.clone()),
            })),
            PeerMode::Strict | PeerMode::Permissive => {
                let peer = self.mesh_peer(workload, target.upstream);
                peer.map(Transport::Mesh).ok_or(RefuseReason::NoCertificate)
            }
        }
    }

    /// Is it to be plaintext by this configuration, too? It may be newer than the one
    /// that has chosen it: a client may have been silent, or endpoints away, since then.
    pub(crate) fn still_outside(
        &self,
        outside: &Outside,
        now: Instant,
    ) -> Result<(), RefuseReason> {
        let snapshot = &self.published.snapshot;
        let (ip, port) = (outside.to.ip(), outside.to.port());
        let here = snapshot.by_ip.get(&ip);
        if !here.is_some_and(|w| w.is_enrolled()) {
            if let Some(reason) = snapshot.withholds(ip, now) {
                return Err(reason);
            }
            // By now it leads to pods.
            if snapshot.by_vip.contains_key(&ip) {
                return Err(RefuseReason::WrongWorkload);
            }
        }
        let there = here.or(outside.disabled.as_ref());
        let Some(workload) = there.filter(|w| w.is_enrolled()) else {
            return Ok(());
        };
        match self.published.policy.peer_mode(workload, port) {
            PeerMode::Disable => Ok(()),
            PeerMode::Strict | PeerMode::Permissive => Err(RefuseReason::WrongWorkload),
        }
    }

    /// `None` where mutual TLS with it is not to be.
    pub(crate) fn mesh_peer(&self, workload: &Workload, to: UpstreamAddr) -> Option<MeshPeer> {
        let mode = self.published.policy.peer_mode(workload, to.port());
        let in_mesh = workload.is_enrolled() && mode != PeerMode::Disable;
        let expected = workload.spiffe_id(self.trust_domain).ok();
        let expected = expected.filter(|_| in_mesh)?;
        Some(MeshPeer { to, expected })
    }
}
