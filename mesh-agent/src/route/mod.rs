//! What an original destination means: a service port, a pod, or the outside.
//!
//! Pure: snapshot and address in, decision out. Never picks an endpoint and
//! never decides about policy. What the routes of the Gateway API make of a
//! Service's callers is in [`Routes`], compiled with each change.

mod attached;
mod connections;
pub(crate) mod http;
mod routes;
mod share;
mod status;

use std::sync::Arc;

#[cfg(test)]
pub(crate) use attached::LOOKED;
pub(crate) use connections::{ConnectionDecision, ConnectionRefusal};
pub(crate) use routes::{Routes, ServiceRoutes};
pub(crate) use share::Share;
#[cfg(test)]
pub(crate) use status::status;
pub(crate) use status::{Firsts, ParentStatus, RouteCondition, status_by};

use crate::model::{OrigDst, RefuseReason, Service, ServicePort, Snapshot, Workload};

/// Where a connection goes.
#[derive(Debug)]
pub(crate) enum RouteDecision<'s> {
    /// An address of a service: pick one of the port's endpoints.
    Service {
        service: &'s Arc<Service>,
        port: &'s ServicePort,
        address: AddressKind,
    },
    /// The address of a known pod: dial it as it is.
    Workload(&'s Arc<Workload>),
    /// Nothing the configuration knows: dial it as it is.
    External,
    Refused(RefuseReason),
}

/// By which of its addresses a Service is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressKind {
    /// A cluster IP.
    Virtual,
    /// One that leads to it from outside: `externalIPs`, a load balancer's, a node's.
    External,
}

#[must_use]
pub(crate) fn resolve(snapshot: &Snapshot, dst: OrigDst) -> RouteDecision<'_> {
    if let Some(service) = snapshot.by_vip.get(&dst.ip()) {
        return match service.port(dst.port()) {
            Some(port) => {
                let address = AddressKind::Virtual;
                RouteDecision::Service {
                    service,
                    port,
                    address,
                }
            }
            None => RouteDecision::Refused(RefuseReason::UnknownServicePort),
        };
    }
    // A pod's own address is never another's, whatever a Service says.
    if let Some(workload) = snapshot.by_ip.get(&dst.ip()) {
        return RouteDecision::Workload(workload);
    }
    let external = snapshot.by_external.get(&(dst.ip(), dst.port()));
    let external = external.and_then(|service| Some((service, service.port(dst.port())?)));
    match external.or_else(|| node_port(snapshot, dst)) {
        Some((service, port)) => {
            let address = AddressKind::External;
            RouteDecision::Service {
                service,
                port,
                address,
            }
        }
        None => RouteDecision::External,
    }
}

/// A node's address at a port that Services have on all nodes.
fn node_port(snapshot: &Snapshot, dst: OrigDst) -> Option<(&Arc<Service>, &ServicePort)> {
    snapshot.nodes.get(&dst.ip())?;
    let service = snapshot.by_node_port.get(&dst.port())?;
    let mut ports = service.ports.iter();
    let port = ports.find(|port| port.node_port == Some(dst.port()))?;
    Some((service, port))
}
