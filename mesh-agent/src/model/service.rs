//! Services and their endpoints.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::traffic::Traffic;
use super::{Labels, Name, UpstreamAddr};

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ServiceKey {
    pub(crate) namespace: Name,
    pub(crate) name: Name,
}

impl ServiceKey {
    pub(crate) fn new(namespace: impl Into<Name>, name: impl Into<Name>) -> Self {
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
pub(crate) enum AppProtocol {
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
pub(crate) enum TargetPort {
    Number(u16),
    Name(String),
}

/// How good an endpoint is; only the best ones are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tier {
    #[default]
    Ready,
    /// The last that serve, while they end.
    Terminating,
    /// Its pod is not known: refused until it is.
    Unknown,
}

/// Where an endpoint is, and for whom (`nodeName`, `zone`, `hints`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) node: Option<Name>,
    pub(crate) zone: Option<Name>,
    /// `hints.forNodes`: clients on these are to use it.
    pub(crate) for_nodes: Box<[Name]>,
    /// `hints.forZones`: clients in these are to use it.
    pub(crate) for_zones: Box<[Name]>,
}

/// One address and port behind a service port that may be used.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) addr: UpstreamAddr,
    /// The pod behind it, where the slice names one (`targetRef`) or the snapshot knows the address.
    pub(crate) workload: Option<Arc<super::Workload>>,
    pub(crate) tier: Tier,
    /// Shared by the endpoints of one place; `None` where nothing is said.
    pub(crate) place: Option<Arc<Place>>,
}

impl Endpoint {
    /// The node that it is on, by its slice or by its pod.
    #[must_use]
    pub(crate) fn node(&self) -> Option<&Name> {
        let said = self.place.as_ref().and_then(|place| place.node.as_ref());
        said.or_else(|| self.workload.as_ref().map(|pod| &pod.node))
    }
}

/// Of the pod its name: what it is, is told where it stands itself.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("addr", &self.addr)
            .field("workload", &self.workload.as_ref().map(|w| &w.key))
            .field("tier", &self.tier)
            .field("place", &self.place)
            .finish()
    }
}

/// Hints count where all ready endpoints of a family have one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hinted {
    pub(crate) v4: Hints,
    pub(crate) v6: Hints,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hints {
    pub(crate) nodes: bool,
    pub(crate) zones: bool,
}

impl Hinted {
    #[must_use]
    pub(crate) fn by(endpoints: &[Endpoint]) -> Self {
        let of = |is_ipv4: bool| {
            let is_ready =
                |e: &&Endpoint| e.tier == Tier::Ready && e.addr.ip().is_ipv4() == is_ipv4;
            let all = |has: fn(&Place) -> bool| {
                let mut ready = endpoints.iter().filter(is_ready);
                ready.all(|e| e.place.as_deref().is_some_and(has))
            };
            Hints {
                nodes: all(|place| !place.for_nodes.is_empty()),
                zones: all(|place| !place.for_zones.is_empty()),
            }
        };
        Self {
            v4: of(true),
            v6: of(false),
        }
    }

    #[must_use]
    pub(crate) fn of_family(self, is_ipv4: bool) -> Hints {
        if is_ipv4 { self.v4 } else { self.v6 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    /// Empty for a single unnamed port.
    pub(crate) name: String,
    pub(crate) port: u16,
    /// The same port of each node's addresses leads here.
    pub(crate) node_port: Option<u16>,
    pub(crate) target: TargetPort,
    pub(crate) protocol: AppProtocol,
    /// TCP endpoints of both families; the picker keeps to the family of the client.
    /// The ready ones, or else the last that serve; of a Service that keeps to the
    /// client's node these are told for each node by itself.
    pub(crate) endpoints: Arc<[Endpoint]>,
    /// Whether hints count: they do where each ready endpoint has one.
    pub(crate) hinted: Hinted,
    /// Ports that slices give it, of all endpoints, ready or not.
    pub(crate) slice_ports: BTreeSet<u16>,
    /// Where a policy says something for this port alone; [`Service::traffic`].
    pub(crate) traffic: Option<Arc<Traffic>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) key: ServiceKey,
    /// Empty for a headless service.
    pub(crate) vips: Vec<IpAddr>,
    pub(crate) ports: Vec<ServicePort>,
    /// `internalTrafficPolicy: Local`: a client at a virtual address gets
    /// endpoints of its own node only.
    pub(crate) is_local: bool,
    /// `sessionAffinity: ClientIP`: for how long after its last connection a
    /// client's next one goes to the same endpoint.
    pub(crate) affinity: Option<Duration>,
    /// Empty where the endpoints are given by hand.
    pub(crate) selector: Labels,
    /// Of all endpoints, ready or not: whom policy for this service is about.
    pub(crate) members: BTreeSet<IpAddr>,
    /// There are ports that could not be read: policy for this service is
    /// about any of its pods.
    pub(crate) hides_ports: bool,
    /// There are pods behind it that could not be read: policy for this service
    /// is about its whole namespace.
    pub(crate) hides_members: bool,
    /// Of its ports but those that have their own; [`Service::traffic`].
    pub(crate) traffic: Arc<Traffic>,
}

impl Service {
    #[must_use]
    pub(crate) fn is_headless(&self) -> bool {
        self.vips.is_empty()
    }

    #[must_use]
    pub(crate) fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == port)
    }

    /// How what goes to the port is spread and limited.
    #[must_use]
    pub(crate) fn traffic<'s>(&'s self, port: &'s ServicePort) -> &'s Arc<Traffic> {
        port.traffic.as_ref().unwrap_or(&self.traffic)
    }
}
