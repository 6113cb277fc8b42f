//! What is served of the core kinds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use smallvec::SmallVec;

use crate::model::{Labels, Name, NamedPort, Place, WorkloadKey};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    #[serde(deserialize_with = "name")]
    pub name: Name,
    #[serde(default, deserialize_with = "some_name")]
    pub(super) namespace: Option<Name>,
    #[serde(default, deserialize_with = "some_name")]
    pub uid: Option<Name>,
    #[serde(default, deserialize_with = "labels")]
    pub labels: Labels,
    #[serde(default, deserialize_with = "labels")]
    pub annotations: Labels,
    pub creation_timestamp: Option<Box<str>>,
    pub deletion_timestamp: Option<Box<str>>,
}

fn name<'de, D: Deserializer<'de>>(value: D) -> Result<Name, D::Error> {
    String::deserialize(value).map(Name::from)
}

fn some_name<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Name>, D::Error> {
    Ok(Option::<String>::deserialize(value)?.map(Name::from))
}

fn labels<'de, D: Deserializer<'de>>(value: D) -> Result<Labels, D::Error> {
    BTreeMap::deserialize(value).map(Labels::from)
}

impl Meta {
    /// Of an object whose metadata does not parse.
    pub(super) fn salvaged(namespace: Option<&str>, name: &str) -> Self {
        Self {
            name: name.into(),
            namespace: namespace.map(Name::from),
            ..Self::default()
        }
    }

    #[must_use]
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSpec {
    pub is_external_name: bool,
    /// Empty for a headless service.
    pub vips: Vec<IpAddr>,
    /// `externalIPs` and addresses of load balancers: the Service's for its own
    /// ports alone.
    pub external_ips: Vec<IpAddr>,
    /// TCP ports.
    pub ports: Vec<ServicePort>,
    pub selector: Labels,
    pub publish_not_ready: bool,
    /// `internalTrafficPolicy: Local`.
    pub is_local: bool,
    /// `sessionAffinity: ClientIP`: for how long.
    pub affinity: Option<Duration>,
    pub distribution: Distribution,
}

/// `trafficDistribution`: what hints endpoints are given where nobody writes
/// slices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distribution {
    #[default]
    All,
    SameZone,
    SameNode,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortRef {
    Number(u16),
    Name(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub name: String,
    pub port: u16,
    pub target_port: Option<PortRef>,
    pub app_protocol: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    pub endpoints: Vec<Endpoint>,
    /// TCP ports.
    pub ports: Vec<EndpointPort>,
}

/// Whose addresses an endpoint has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TargetRef {
    /// Nobody is named.
    #[default]
    None,
    Pod(WorkloadKey),
    /// Somebody is named, and it cannot be understood who.
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    pub addresses: SmallVec<[IpAddr; 1]>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub place: Option<Arc<Place>>,
    pub target: TargetRef,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    pub name: String,
    pub port: u16,
}

#[derive(Clone, Debug, Default)]
pub struct Pod {
    pub node_name: Name,
    pub service_account_name: Option<Name>,
    pub host_network: bool,
    /// Named TCP ports of what runs as long as the pod.
    pub ports: Arc<[NamedPort]>,
    pub phase: Option<Name>,
    /// `None` where nobody says.
    pub ready: Option<bool>,
    pub ips: SmallVec<[IpAddr; 1]>,
}

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
    pub(super) fn anything() -> Self {
        Self {
            hides_addresses: true,
            hides_pods: true,
            hides_namespaces: true,
            ..Self::default()
        }
    }
}
