//! Where a connection may go, and where one goes.

use std::net::IpAddr;
use std::sync::Arc;

use crate::balance::{Attempt, Balancer, Candidates, Client, Draw, InFlight, Reach, Unpicked};
use crate::model::route::BackendRef;
use crate::model::traffic::{HashOn, Traffic};
use crate::model::{
    Endpoint, Name, OrigDst, PodIps, RefuseReason, ServiceKey, Snapshot, UpstreamAddr, Workload,
};
use crate::route::{self, AddressKind, RouteDecision};

/// Where the connection goes.
pub(crate) struct Target {
    pub(crate) upstream: UpstreamAddr,
    pub(crate) destination: Option<Arc<Workload>>,
    pub(crate) service: Option<ServiceKey>,
    /// The source pod itself: nothing captures what it says to itself.
    pub(crate) itself: bool,
    /// It was picked of several, or as the only endpoint of a Service.
    pub(crate) load: Option<InFlight>,
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

/// The source of a connection.
pub(crate) struct SourcePod<'s> {
    /// Addresses of the source pod, and the one that it came from.
    pub(crate) own: PodIps,
    pub(crate) address: IpAddr,
    /// Those that it only leaves by: as one of them it is known to nobody in the mesh.
    pub(crate) egress: PodIps,
    /// Its pod's `uid`.
    pub(crate) pod: &'s Name,
}

impl SourcePod<'_> {
    /// It is no connection of the pod's to elsewhere: whatever it says, nothing carries it.
    #[must_use]
    pub(crate) fn loops(&self, dst: OrigDst) -> bool {
        let ip = dst.ip();
        let foreign = !self.own.contains(self.address) && !self.leaves();
        foreign
            || self.egress.contains(ip)
            || ip.is_loopback()
            || ip.is_unspecified()
            || ip.is_multicast()
    }

    /// Is it for what is outside of the mesh alone?
    fn leaves(&self) -> bool {
        self.egress.contains(self.address)
    }
}

/// From a node, and its zone where that is known.
pub(super) fn resolve<'p>(
    snapshot: &'p Snapshot,
    source: &SourcePod<'p>,
    (node, zone): (&'p str, Option<&'p str>),
    dst: OrigDst,
) -> Result<Backends<'p>, RefuseReason> {
    if source.loops(dst) {
        return Err(RefuseReason::Loop);
    }
    let ip = dst.ip();
    let kind = match route::resolve(snapshot, dst) {
        RouteDecision::Refused(reason) => return Err(reason),
        RouteDecision::External => Kind::Direct(None),
        // Nobody there could tell who it is by its address.
        RouteDecision::Workload(_) | RouteDecision::Service { .. } if source.leaves() => {
            return Err(RefuseReason::Unreachable);
        }
        RouteDecision::Workload(workload) => Kind::Direct(Some(workload)),
        RouteDecision::Service {
            service,
            port,
            address,
        } => {
            let pod = source.pod;
            let client = Client { pod, node, zone };
            let reach = match address {
                AddressKind::Virtual if service.is_local => Reach::Node,
                // Whose policy is about what is not a pod.
                AddressKind::Virtual | AddressKind::External => Reach::Cluster,
            };
            Kind::Service(Candidates::new((service, port), (client, ip), reach))
        }
    };
    Ok(Backends {
        snapshot,
        own: source.own,
        dst,
        kind,
    })
}

/// What a route leads to: the port's own endpoints, of the family that the client called.
pub(super) fn of_backend<'p>(
    snapshot: &'p Snapshot,
    source: &SourcePod<'p>,
    (node, zone): (&'p str, Option<&'p str>),
    (dst, to): (OrigDst, &BackendRef),
) -> Result<Backends<'p>, RefuseReason> {
    if !source.own.contains(source.address) {
        return Err(RefuseReason::Loop);
    }
    let service = snapshot.services.get(&to.service);
    let service = service.ok_or(RefuseReason::NoBackend)?;
    let port = service.port(to.port).ok_or(RefuseReason::NoBackend)?;
    let pod = source.pod;
    let client = Client { pod, node, zone };
    let reach = match service.is_local {
        true => Reach::Node,
        false => Reach::Cluster,
    };
    Ok(Backends {
        snapshot,
        own: source.own,
        dst,
        kind: Kind::Service(Candidates::new((service, port), (client, dst.ip()), reach)),
    })
}

impl Backends<'_> {
    /// The one for this attempt.
    pub(crate) fn pick(
        &self,
        balancer: &mut Balancer,
        attempt: &mut Attempt,
        draw: Draw<'_>,
    ) -> Result<Target, RefuseReason> {
        match &self.kind {
            Kind::Direct(workload) => Ok(self.direct(*workload)),
            Kind::Service(candidates) => {
                balancer.hear(self.snapshot);
                let picked = balancer.pick(candidates, attempt, draw);
                let (endpoint, load) = picked.map_err(|unpicked| match unpicked {
                    Unpicked::Nobody => nobody(candidates),
                    Unpicked::Over(limit) => limit,
                })?;
                Ok(Target {
                    load: Some(load),
                    ..self.endpoint(candidates, endpoint)
                })
            }
        }
    }

    /// What of a request a consistent hash is of.
    pub(crate) fn hash_on(&self) -> Option<&HashOn> {
        match &self.kind {
            Kind::Direct(_) => None,
            Kind::Service(candidates) => candidates.hash_on(),
        }
    }

    /// What its TrafficPolicy says, of a Service.
    pub(crate) fn traffic(&self) -> Option<&Traffic> {
        match &self.kind {
            Kind::Direct(_) => None,
            Kind::Service(candidates) => Some(candidates.traffic()),
        }
    }

    /// None of it may be picked.
    pub(crate) fn is_empty(&self) -> bool {
        match &self.kind {
            Kind::Direct(_) => false,
            Kind::Service(candidates) => candidates.is_empty(),
        }
    }

    /// All that may be picked, without a turn taken; with how many there are.
    pub(crate) fn list(&self, most: usize) -> Result<(Vec<Target>, usize), RefuseReason> {
        match &self.kind {
            Kind::Direct(workload) => Ok((vec![self.direct(*workload)], 1)),
            Kind::Service(candidates) => {
                let all = candidates.iter();
                let listed = all.take(most).map(|e| self.endpoint(candidates, e));
                let listed: Vec<_> = listed.collect();
                match candidates.iter().count() {
                    0 => Err(nobody(candidates)),
                    count => Ok((listed, count)),
                }
            }
        }
    }

    /// Why it may be fewer than the Service has, for people.
    pub(crate) fn chosen_by(&self) -> Vec<String> {
        match &self.kind {
            Kind::Direct(_) => Vec::new(),
            Kind::Service(candidates) => candidates.chosen_by(),
        }
    }

    fn direct(&self, workload: Option<&Arc<Workload>>) -> Target {
        Target {
            upstream: UpstreamAddr::new(self.dst.get()),
            destination: workload.cloned(),
            service: None,
            itself: self.own.contains(self.dst.ip()),
            load: None,
        }
    }

    fn endpoint(&self, candidates: &Candidates<'_>, endpoint: &Endpoint) -> Target {
        let by_ip = || self.snapshot.by_ip.get(&endpoint.addr.ip());
        Target {
            upstream: endpoint.addr,
            destination: endpoint.workload.as_ref().or_else(by_ip).cloned(),
            service: Some(candidates.service.key.clone()),
            itself: self.own.contains(endpoint.addr.ip()),
            load: None,
        }
    }
}

/// Where there are others, kube-proxy would leave the client without an answer.
fn nobody(candidates: &Candidates<'_>) -> RefuseReason {
    match candidates.has_others() {
        true => RefuseReason::NoLocalEndpoint,
        false => RefuseReason::NoEndpoint,
    }
}
