//! Services and their endpoints.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Labels, Name, UpstreamAddr};

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    pub namespace: Name,
    pub name: Name,
}

impl ServiceKey {
    pub fn new(namespace: impl Into<Name>, name: impl Into<Name>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A declared application protocol (`appProtocol`, or the port name's prefix).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppProtocol {
    #[default]
    Unspecified,
    Http1,
    Http2,
    Grpc,
    Tls,
    Tcp,
}

/// A `targetPort` as written; endpoints already carry the resolved number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    Number(u16),
    Name(String),
}

/// One ready address and port behind a service port.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub addr: UpstreamAddr,
    /// The pod behind it, where the slice names one (`targetRef`) or the snapshot knows the address.
    pub workload: Option<Arc<super::Workload>>,
    pub zone: Option<Name>,
}

/// Of the pod its name: what it is, is told where it stands itself.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("addr", &self.addr)
            .field("workload", &self.workload.as_ref().map(|w| &w.key))
            .field("zone", &self.zone)
            .finish()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty for a single unnamed port.
    pub name: String,
    pub port: u16,
    pub target: TargetPort,
    pub protocol: AppProtocol,
    /// Ready TCP endpoints of both families; the picker keeps to the family of the client.
    pub endpoints: Arc<[Endpoint]>,
    /// Ports that slices give it, of all endpoints, ready or not.
    pub slice_ports: BTreeSet<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub key: ServiceKey,
    /// Empty for a headless service.
    pub vips: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
    /// Empty where the endpoints are given by hand.
    pub selector: Labels,
    /// Of all endpoints, ready or not: whom policy for this service is about.
    pub members: BTreeSet<IpAddr>,
    /// There are ports that could not be read: policy for this service is
    /// about any of its pods.
    pub hides_ports: bool,
    /// There are pods behind it that could not be read: policy for this service
    /// is about its whole namespace.
    pub hides_members: bool,
}

impl Service {
    #[must_use]
    pub fn is_headless(&self) -> bool {
        self.vips.is_empty()
    }

    #[must_use]
    pub fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == port)
    }
}
