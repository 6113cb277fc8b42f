//! Routes of the Gateway API, as written: which rules a Service's callers get.
//!
//! One form for the four kinds. What HTTPRoute and GRPCRoute say of requests is
//! in [`super::http_route`].

use std::fmt;
use std::time::SystemTime;

pub use super::backend::{BackendRef, BackendTarget};
pub use super::http_route::Backend;
use super::http_route::HttpRule;
use super::{Name, RouteRef, ServiceKey};

/// In the order in which one wins over the next on one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    Grpc,
    Http,
    Tls,
    Tcp,
}

impl RouteKind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
        }
    }

    /// Does it look at requests, not only at connections?
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Self::Grpc | Self::Http)
    }
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    pub kind: RouteKind,
    pub namespace: Name,
    pub name: Name,
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub key: RouteKey,
    /// `None` where no API server has seen it: files. Those are the youngest.
    pub created: Option<SystemTime>,
    /// All that it names, in order; what is no Service is somebody else's.
    pub parents: Box<[ParentRef]>,
    /// Lower case. Of TLS the names that are routed; of others they have no
    /// effect, for a Service is called by its address.
    pub hostnames: Box<[Box<str>]>,
    pub rules: Rules,
    /// What of its present version is not understood. Its rules are then those
    /// of the last version that was, or there are none.
    pub fault: Option<Box<str>>,
    /// It has rules to go by: its own, or those of its last good version.
    pub is_known: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Of HTTPRoute and GRPCRoute.
    Http(Box<[HttpRule]>),
    /// Of TLSRoute and TCPRoute.
    Connections(Box<[ConnectionRule]>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRule {
    pub name: Option<Name>,
    pub backends: Box<[Backend]>,
}

/// What a route says it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentRef {
    /// Empty for the core.
    pub group: Name,
    pub kind: Name,
    /// `None`: the route's own.
    pub namespace: Option<Name>,
    pub name: Name,
    /// The name of a port.
    pub section: Option<Name>,
    pub port: Option<u16>,
}

impl ParentRef {
    /// `None` for what is no Service. `own`: the route's namespace.
    #[must_use]
    pub fn service(&self, own: &Name) -> Option<ServiceKey> {
        (self.group.is_empty() && self.kind == "Service").then(|| ServiceKey {
            namespace: self.namespace.clone().unwrap_or_else(|| own.clone()),
            name: self.name.clone(),
        })
    }
}

/// `ReferenceGrant`: whose routes may lead to Services of its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceGrant {
    pub namespace: Name,
    pub name: Name,
    pub from: Box<[GrantFrom]>,
    /// Names of Services; `None` is all of the namespace.
    pub to: Box<[Option<Name>]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantFrom {
    pub kind: RouteKind,
    pub namespace: Name,
}

impl ReferenceGrant {
    /// May `route` lead to the Service of this name in the grant's namespace?
    #[must_use]
    pub fn permits(&self, route: &RouteKey, service: &str) -> bool {
        let is_from =
            |from: &GrantFrom| from.kind == route.kind && from.namespace == route.namespace;
        let is_to = |to: &Option<Name>| to.as_ref().is_none_or(|name| name == service);
        self.from.iter().any(is_from) && self.to.iter().any(is_to)
    }
}

/// Which rule of which route decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteRule {
    pub route: RouteKey,
    /// Counted from 0.
    pub index: u32,
    pub name: Option<Name>,
    /// For labels and log.
    pub shown: RouteRef,
}

impl RouteRule {
    #[must_use]
    pub fn new(route: RouteKey, index: u32, name: Option<Name>) -> Self {
        let rule = match &name {
            Some(name) => name.as_str().into(),
            None => index.to_string().into(),
        };
        let shown = RouteRef {
            route: format!("{}/{}/{}", route.kind.name(), route.namespace, route.name).into(),
            rule,
        };
        Self {
            route,
            index,
            name,
            shown,
        }
    }
}

impl fmt::Display for RouteRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} rule {name:?}", self.route),
            None => write!(f, "{} rule {}", self.route, self.index),
        }
    }
}
