//! Where a connection goes.

use std::net::IpAddr;
use std::sync::Arc;

use crate::balance;
use crate::model::{
    Endpoint, OrigDst, PodIps, RefuseReason, ServiceKey, Snapshot, UpstreamAddr, Workload,
};
use crate::route::{self, Decision};

/// Where the connection goes.
pub(crate) struct Target {
    pub(crate) upstream: UpstreamAddr,
    pub(crate) destination: Option<Arc<Workload>>,
    pub(crate) service: Option<ServiceKey>,
    /// The source pod itself: nothing captures what it says to itself.
    pub(crate) itself: bool,
}

/// `turn` counts the connections, for taking endpoints in turn.
pub(crate) fn target(
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
