//! One thing that a rule asks, and the answer for one connection or request.
//!
//! Where an answer is not known it is read the way that allows less: in a DENY
//! it holds, in an ALLOW it does not. Only what the head of a request will say
//! is left open until that is there.

use std::net::IpAddr;

use ipnet::IpNet;

use super::head;
use super::reach::Ports;
use super::request::Request;
use crate::model::SpiffeId;
use crate::model::policy::{HostPattern, PathPattern, Pattern, ServiceAccount};

/// The least of several is that of all together, the greatest that of either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Answer {
    No,
    /// The head of a request says it.
    Later,
    Yes,
}

impl From<bool> for Answer {
    fn from(yes: bool) -> Self {
        match yes {
            true => Self::Yes,
            false => Self::No,
        }
    }
}

#[derive(Debug)]
pub(super) struct Predicate {
    pub(super) what: What,
    pub(super) negated: bool,
}

#[derive(Debug)]
pub(super) enum What {
    Principal(Box<[Pattern]>),
    Namespace(Box<[Pattern]>),
    ServiceAccount(Box<[ServiceAccount]>),
    SourceIp(Box<[IpNet]>),
    DestinationIp(Box<[IpNet]>),
    Port(Box<[u16]>),
    Sni(Box<[Pattern]>),
    Path(Box<[PathPattern]>),
    Host(Box<[HostPattern]>),
    Method(Box<[Pattern]>),
    Header {
        name: Box<str>,
        values: Box<[Pattern]>,
    },
    /// Never known here, with a request or without.
    Unserved,
}

enum Found {
    Is(bool),
    /// It cannot be told.
    Unclear,
    NoIdentity,
    Later,
}

impl From<Option<bool>> for Found {
    fn from(is: Option<bool>) -> Self {
        is.map_or(Self::Unclear, Self::Is)
    }
}

/// What of a request's head an answer depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) path: bool,
    pub(crate) host: bool,
    pub(crate) method: bool,
    pub(crate) headers: bool,
    /// The name in a TLS hello.
    pub(crate) sni: bool,
}

impl Needs {
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What only a request has.
    pub(crate) fn of_head(self) -> bool {
        let Self {
            path,
            host,
            method,
            headers,
            sni: _,
        } = self;
        path || host || method || headers
    }

    pub(super) fn add(&mut self, what: &What) {
        match what {
            What::Path(_) => self.path = true,
            What::Host(_) => self.host = true,
            What::Method(_) => self.method = true,
            What::Header { .. } => self.headers = true,
            What::Sni(_) => self.sni = true,
            What::Principal(_)
            | What::Namespace(_)
            | What::ServiceAccount(_)
            | What::SourceIp(_)
            | What::DestinationIp(_)
            | What::Port(_)
            | What::Unserved => {}
        }
    }
}

impl Predicate {
    pub(super) fn holds(&self, request: &Request<'_>, ports: Ports<'_>, deny: bool) -> Answer {
        match self.what.found(request, ports) {
            Found::Is(found) => Answer::from(found != self.negated),
            Found::Unclear => Answer::from(deny),
            // Without identity no ALLOW holds, negated or not; a DENY of
            // "everyone but" does.
            Found::NoIdentity => Answer::from(deny && self.negated),
            Found::Later => Answer::Later,
        }
    }
}

impl What {
    fn found(&self, request: &Request<'_>, ports: Ports<'_>) -> Found {
        match self {
            Self::Principal(list) => identity(request, |id| any(list, id.principal())),
            Self::Namespace(list) => identity(request, |id| any(list, id.namespace())),
            Self::ServiceAccount(list) => identity(request, |id| {
                list.iter()
                    .any(|a| a.name == id.service_account() && a.namespace == id.namespace())
            }),
            Self::SourceIp(list) => Found::Is(within(list, request.source_ip)),
            Self::DestinationIp(list) => Found::Is(within(list, request.destination_ip)),
            Self::Port(list) => ports.within(list).into(),
            // Who speaks HTTP in the open has said no hello.
            Self::Sni(list) => match (request.sni, request.http) {
                (Some(sni), _) => Found::Is(any(list, sni)),
                (None, Some(_)) => Found::Is(false),
                (None, None) => Found::Later,
            },
            Self::Path(list) => of_head(request, |head| head::path(list, head)),
            Self::Host(list) => of_head(request, |head| head::host(list, head)),
            Self::Method(list) => of_head(request, |head| head::method(list, head)),
            Self::Header { name, values } => {
                of_head(request, |head| head::header(name, values, head))
            }
            Self::Unserved => Found::Unclear,
        }
    }
}

fn of_head(
    request: &Request<'_>,
    matches: impl FnOnce(&crate::model::RequestHead<'_>) -> Option<bool>,
) -> Found {
    request
        .http
        .map_or(Found::Later, |head| matches(head).into())
}

fn identity(request: &Request<'_>, matches: impl FnOnce(&SpiffeId) -> bool) -> Found {
    request
        .source
        .map_or(Found::NoIdentity, |id| Found::Is(matches(id)))
}

fn any(patterns: &[Pattern], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}

fn within(blocks: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    blocks.iter().any(|block| block.contains(&ip))
}
