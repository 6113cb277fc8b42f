//! Of what an object consists, and what is left where it is none.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::model::WorkloadKey;

/// What of an object cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Labels,
    Annotations,
    Node,
    Account,
    HostNetwork,
    Phase,
    Addresses,
    Ports,
    Selector,
    Endpoints,
    /// Nothing is lost by it.
    Nothing,
}

/// It may be a pod of the mesh, a Service, or a namespace in the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unknown {
    /// It may be about these, unless another object is.
    pub addresses: BTreeSet<IpAddr>,
    /// It may be about any address, unless another object is.
    pub hides_addresses: bool,
    /// Pods that it may be about.
    pub pods: BTreeSet<WorkloadKey>,
    /// It may be about pods that it does not name.
    pub hides_pods: bool,
    /// Namespaces that it may put into the mesh.
    pub namespaces: BTreeSet<String>,
    /// It may put any namespace into the mesh.
    pub hides_namespaces: bool,
}

impl Unknown {
    /// Of which nothing is known.
    pub(in crate::discovery) fn anything() -> Self {
        Self {
            hides_addresses: true,
            hides_pods: true,
            hides_namespaces: true,
            ..Self::default()
        }
    }
}
