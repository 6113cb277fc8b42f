//! An enrolled pod, as enrolment finds it and the data path serves it.

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
    /// Those of its addresses that are served: its namespace may lack a family.
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

    /// Where the agent's connections for the pod, to an address, are opened from.
    pub(crate) fn dial_from<'p>(
        &'p self,
        to: IpAddr,
        through: bool,
        limits: &'p Limits,
    ) -> Result<dial::From<'p>, RefuseReason> {
        let source = self.workload.ips.same_family(to);
        Ok(dial::From {
            netns: &self.netns,
            source: source.ok_or(RefuseReason::Unreachable)?,
            through,
            ports: self.dial_ports.as_ref(),
            limits,
        })
    }
}

/// What new connections of an enrolled pod meet without an agent.
pub(super) fn on_agent_down(workload: &Workload) -> OnAgentDown {
    match workload.enrolment {
        Enrolment::Yes(on_agent_down) => on_agent_down,
        Enrolment::No(_) => OnAgentDown::Closed,
    }
}
