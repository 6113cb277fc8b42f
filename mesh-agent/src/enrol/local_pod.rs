//! An enrolled pod, as enrolment finds it and the data path serves it.

use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::identity::Handle;
use crate::io::{Account, Limits, dial};
use crate::model::{Enrolment, OnAgentDown, PodIps, RefuseReason, SpiffeId, Workload};
use crate::sys::netns::Netns;

/// An enrolled pod of this node.
#[derive(Clone, Debug)]
pub(crate) struct LocalPod {
    pub(crate) workload: Arc<Workload>,
    pub(crate) netns: Arc<Netns>,
    /// Those of its addresses that are served: its namespace may lack a family, and have an
    /// address of one that the pod has none of, which it only leaves by.
    pub(crate) ips: PodIps,
    /// Who the pod is, by the namespace that its sockets live in.
    pub(crate) spiffe_id: SpiffeId,
    /// Its certificate, as soon and as long as there is one.
    pub(crate) identity: Arc<Handle>,
    /// Ports that the agent's dials from there are held to, where others collide
    /// with deliveries.
    pub(crate) dial_ports: Option<RangeInclusive<u16>>,
    /// Connections that it has on all workers.
    pub(crate) active: Arc<AtomicUsize>,
    /// Requests of it, and to it from elsewhere, that are in flight on all workers.
    pub(crate) requests: Arc<AtomicUsize>,
    /// What is reserved for them, on all workers.
    pub(crate) account: Arc<Account>,
}

impl LocalPod {
    /// Of its network namespace.
    pub(crate) fn cookie(&self) -> u64 {
        self.netns.cookie()
    }

    /// Is what was begun for the one also the other's?
    pub(crate) fn is_still(&self, before: &Self) -> bool {
        self.workload.uid == before.workload.uid
            && self.spiffe_id == before.spiffe_id
            && before.ips.iter().all(|ip| self.ips.contains(ip))
    }

    /// Those of the served addresses that are its own.
    pub(crate) fn own(&self) -> PodIps {
        let known = self.workload.ips;
        PodIps {
            v4: self.ips.v4.filter(|_| known.v4.is_some()),
            v6: self.ips.v6.filter(|_| known.v6.is_some()),
        }
    }

    /// By which it leaves for what is outside of the mesh, of the families that it has no
    /// address of. They are no one's: nothing is known by them, and nothing is reached at them.
    pub(crate) fn egress(&self) -> PodIps {
        let known = self.workload.ips;
        PodIps {
            v4: self.ips.v4.filter(|_| known.v4.is_none()),
            v6: self.ips.v6.filter(|_| known.v6.is_none()),
        }
    }

    /// Where the agent's connections for the pod, to an address, are opened from.
    pub(crate) fn dial_from<'p>(
        &'p self,
        to: IpAddr,
        through: bool,
        limits: &'p Limits,
    ) -> Result<dial::From<'p>, RefuseReason> {
        self.dial_as(self.workload.ips.same_family(to), through, limits)
    }

    /// The same of one that is outside of the mesh.
    pub(crate) fn leave_from<'p>(
        &'p self,
        to: IpAddr,
        limits: &'p Limits,
    ) -> Result<dial::From<'p>, RefuseReason> {
        let own = self.workload.ips.same_family(to);
        let source = own.or_else(|| self.egress().same_family(to));
        self.dial_as(source, false, limits)
    }

    fn dial_as<'p>(
        &'p self,
        source: Option<IpAddr>,
        through: bool,
        limits: &'p Limits,
    ) -> Result<dial::From<'p>, RefuseReason> {
        Ok(dial::From {
            netns: &self.netns,
            source: source.ok_or(RefuseReason::Unreachable)?,
            through,
            ports: self.dial_ports.as_ref(),
            limits,
        })
    }
}

/// By what a pod leaves that it has no address of. One that is left alone is not the agent's.
pub(super) fn egress(netns: &Netns, workload: &Workload) -> io::Result<PodIps> {
    let found = netns.egress(workload.ips)?;
    let excluded = &workload.on_node.excluded;
    let taken = |ip: IpAddr| !excluded.contains(&ip);
    Ok(PodIps {
        v4: found.v4.filter(|ip| taken((*ip).into())),
        v6: found.v6.filter(|ip| taken((*ip).into())),
    })
}

/// What new connections of an enrolled pod meet without an agent.
pub(super) fn on_agent_down(workload: &Workload) -> OnAgentDown {
    match workload.enrolment {
        Enrolment::Yes(on_agent_down) => on_agent_down,
        Enrolment::No(_) => OnAgentDown::Closed,
    }
}
