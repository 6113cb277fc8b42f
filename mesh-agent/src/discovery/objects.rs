//! One object of the configuration.

use std::collections::BTreeSet;

use super::kinds::{EndpointSlice, Meta, Part, Pod, ServiceSpec, Unknown};
use super::origin::Origin;
use super::{Code, Problem};
use crate::model::policy::{AuthorizationPolicy, PeerAuthentication};

/// One parsed object.
#[derive(Clone, Debug)]
pub struct Object {
    pub origin: Origin,
    pub meta: Meta,
    pub kind: Kind,
    /// Of core kinds: what of it cannot be understood. Policies say so themselves.
    pub unread: BTreeSet<Part>,
}

impl Object {
    pub(super) fn unknown(origin: &Origin, unknown: Unknown) -> Self {
        Self {
            origin: origin.clone(),
            meta: Meta::salvaged(None, "?"),
            kind: Kind::Unknown(Box::new(unknown)),
            unread: BTreeSet::new(),
        }
    }

    /// `Kind namespace/name`.
    #[must_use]
    pub fn name(&self) -> String {
        let kind = match self.kind {
            Kind::Namespace => "Namespace",
            Kind::ServiceAccount => "ServiceAccount",
            Kind::Service(_) => "Service",
            Kind::EndpointSlice(_) => "EndpointSlice",
            Kind::Pod(_) => "Pod",
            Kind::Policy(_) => "AuthorizationPolicy",
            Kind::Peer(_) => "PeerAuthentication",
            Kind::Unknown(_) => return format!("Unknown {}", self.origin),
        };
        format!("{kind} {}/{}", self.meta.namespace(), self.meta.name)
    }

    /// Of the kind that the message says.
    pub(super) fn problem(&self, field: &str, message: String) -> Problem {
        self.problem_of(Code::of(&message), field, message)
    }

    pub(super) fn problem_of(&self, code: Code, field: &str, message: String) -> Problem {
        Problem {
            object: self.name(),
            field: field.to_owned(),
            ..Problem::new(code, self.origin.clone(), message)
        }
    }
}

#[derive(Clone, Debug)]
pub enum Kind {
    Namespace,
    ServiceAccount,
    Service(Box<ServiceSpec>),
    EndpointSlice(Box<EndpointSlice>),
    Pod(Box<Pod>),
    Policy(Box<AuthorizationPolicy>),
    Peer(Box<PeerAuthentication>),
    /// Something that may be any of these.
    Unknown(Box<Unknown>),
}
