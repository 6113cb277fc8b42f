//! Routes of the Gateway API, as written: which rules a Service's callers get.
//!
//! One form for the four kinds. What HTTPRoute and GRPCRoute say of requests is
//! in [`super::http_route`].

use std::fmt;
use std::time::SystemTime;

pub(crate) use super::backend::{BackendRef, BackendTarget};
pub(crate) use super::http_route::Backend;
use super::http_route::HttpRule;
use super::{Name, RouteRef, ServiceKey};

/// In the order in which one wins over the next on one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum RouteKind {
    Grpc,
    Http,
    Tls,
    Tcp,
}

impl RouteKind {
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
        }
    }

    /// Does it look at requests, not only at connections?
    #[must_use]
    pub(crate) fn is_http(self) -> bool {
        matches!(self, Self::Grpc | Self::Http)
    }
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RouteKey {
    pub(crate) kind: RouteKind,
    pub(crate) namespace: Name,
    pub(crate) name: Name,
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) key: RouteKey,
    /// `None` where no API server has seen it: files. Those are the youngest.
    pub(crate) created: Option<SystemTime>,
    /// All that it names, in order; what is no Service is somebody else's.
    pub(crate) parents: Box<[ParentRef]>,
    /// Lower case. Of TLS the names that are routed; of others they have no
    /// effect, for a Service is called by its address.
    pub(crate) hostnames: Box<[Box<str>]>,
    pub(crate) rules: Rules,
    /// What of its present version is not understood. Its rules are then those
    /// of the last version that was, or there are none.
    pub(crate) fault: Option<Box<str>>,
    /// It has rules to go by: its own, or those of its last good version.
    pub(crate) is_known: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// Of HTTPRoute and GRPCRoute.
    Http(Box<[HttpRule]>),
    /// Of TLSRoute and TCPRoute.
    Connections(Box<[ConnectionRule]>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionRule {
    pub(crate) name: Option<Name>,
    pub(crate) backends: Box<[Backend]>,
}

/// What a route says it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParentRef {
    /// Empty for the core.
    pub(crate) group: Name,
    pub(crate) kind: Name,
    /// `None`: the route's own.
    pub(crate) namespace: Option<Name>,
    pub(crate) name: Name,
    /// The name of a port.
    pub(crate) section: Option<Name>,
    pub(crate) port: Option<u16>,
}

impl ParentRef {
    /// `None` for what is no Service. `own`: the route's namespace.
    #[must_use]
    pub(crate) fn service(&self, own: &Name) -> Option<ServiceKey> {
        (self.group.is_empty() && self.kind == "Service").then(|| ServiceKey {
            namespace: self.namespace.clone().unwrap_or_else(|| own.clone()),
            name: self.name.clone(),
        })
    }
}

/// `ReferenceGrant`: whose routes may lead to Services of its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReferenceGrant {
    pub(crate) namespace: Name,
    pub(crate) name: Name,
    pub(crate) from: Box<[GrantFrom]>,
    /// Names of Services; `None` is all of the namespace.
    pub(crate) to: Box<[Option<Name>]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GrantFrom {
    pub(crate) kind: RouteKind,
    pub(crate) namespace: Name,
}

impl ReferenceGrant {
    /// May `route` lead to the Service of this name in the grant's namespace?
    #[must_use]
    pub(crate) fn permits(&self, route: &RouteKey, service: &str) -> bool {
        let is_from =
            |from: &GrantFrom| from.kind == route.kind && from.namespace == route.namespace;
        let is_to = |to: &Option<Name>| to.as_ref().is_none_or(|name| name == service);
        self.from.iter().any(is_from) && self.to.iter().any(is_to)
    }
}

/// Which rule of which route decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RouteRule {
    pub(crate) route: RouteKey,
    /// Counted from 0.
    pub(crate) index: u32,
    pub(crate) name: Option<Name>,
    /// For labels and log.
    pub(crate) shown: RouteRef,
}

impl RouteRule {
    #[must_use]
    pub(crate) fn new(route: RouteKey, index: u32, name: Option<Name>) -> Self {
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
