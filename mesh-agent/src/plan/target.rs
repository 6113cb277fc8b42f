//! Where a connection may go, and where one goes.

use std::net::IpAddr;
use std::sync::Arc;

use crate::balance::{Attempt, Balancer, Candidates};
use crate::model::{
    Endpoint, OrigDst, PodIps, RefuseReason, ServiceKey, Snapshot, UpstreamAddr, Workload,
};
use crate::route::{self, RouteDecision};

/// Where the connection goes.
pub(crate) struct Target {
    pub(crate) upstream: UpstreamAddr,
    pub(crate) destination: Option<Arc<Workload>>,
    pub(crate) service: Option<ServiceKey>,
    /// The source pod itself: nothing captures what it says to itself.
    pub(crate) itself: bool,
}

/// Where a connection may go: one address, or any endpoint of a Service's port.
pub(crate) struct Backends<'s> {
    snapshot: &'s Snapshot,
    /// The source pod's.
    own: PodIps,
    dst: OrigDst,
    kind: Kind<'s>,
}

enum Kind<'s> {
    Direct(Option<&'s Arc<Workload>>),
    Service(Candidates<'s>),
}

/// `own`, `client`: addresses of the source pod, and the one that it came from.
pub(crate) fn resolve(
    snapshot: &Snapshot,
    (own, client): (PodIps, IpAddr),
    dst: OrigDst,
) -> Result<Backends<'_>, RefuseReason> {
    let ip = dst.ip();
    let foreign = !own.contains(client);
    if foreign || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
        return Err(RefuseReason::Loop);
    }
    let kind = match route::resolve(snapshot, dst) {
        RouteDecision::Refused(reason) => return Err(reason),
        RouteDecision::External => Kind::Direct(None),
        RouteDecision::Workload(workload) => Kind::Direct(Some(workload)),
        RouteDecision::Service { service, port } => {
            Kind::Service(Candidates::new(service, port, ip))
        }
    };
    Ok(Backends {
        snapshot,
        own,
        dst,
        kind,
    })
}

impl Backends<'_> {
    /// The one for this attempt.
    pub(crate) fn pick(
        &self,
        balancer: &mut Balancer,
        attempt: &mut Attempt,
    ) -> Result<Target, RefuseReason> {
        match &self.kind {
            Kind::Direct(workload) => Ok(self.direct(*workload)),
            Kind::Service(candidates) => {
                balancer.hear(self.snapshot);
                let endpoint = balancer.pick(candidates, attempt);
                let endpoint = endpoint.ok_or(RefuseReason::NoEndpoint)?;
                Ok(self.endpoint(candidates, endpoint))
            }
        }
    }

    /// All that may be picked, without a turn taken; with how many there are.
    pub(crate) fn list(&self, most: usize) -> (Vec<Target>, usize) {
        match &self.kind {
            Kind::Direct(workload) => (vec![self.direct(*workload)], 1),
            Kind::Service(candidates) => {
                let all = candidates.iter();
                let listed = all.take(most).map(|e| self.endpoint(candidates, e));
                (listed.collect(), candidates.iter().count())
            }
        }
    }

    fn direct(&self, workload: Option<&Arc<Workload>>) -> Target {
        Target {
            upstream: UpstreamAddr::new(self.dst.get()),
            destination: workload.cloned(),
            service: None,
            itself: self.own.contains(self.dst.ip()),
        }
    }

    fn endpoint(&self, candidates: &Candidates<'_>, endpoint: &Endpoint) -> Target {
        let by_ip = || self.snapshot.by_ip.get(&endpoint.addr.ip());
        Target {
            upstream: endpoint.addr,
            destination: endpoint.workload.as_ref().or_else(by_ip).cloned(),
            service: Some(candidates.service.key.clone()),
            itself: self.own.contains(endpoint.addr.ip()),
        }
    }
}
