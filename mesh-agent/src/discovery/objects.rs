//! One object of the configuration.

use super::kinds::{EndpointSlice, Meta, Pod, ServiceSpec};
use super::{Code, Problem};
use crate::model::policy::{AuthorizationPolicy, PeerAuthentication};

/// Where an object stands.
#[derive(Clone, Debug)]
pub struct Origin {
    pub file: std::path::PathBuf,
    pub line: u64,
}

/// One parsed object.
#[derive(Clone, Debug)]
pub struct Object {
    pub origin: Origin,
    pub meta: Meta,
    pub kind: Kind,
}

impl Object {
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
        };
        format!("{kind} {}/{}", self.meta.namespace(), self.meta.name)
    }

    /// Of the kind that the message says.
    pub(super) fn problem(&self, field: &str, message: String) -> Problem {
        self.problem_of(Code::of(&message), field, message)
    }

    pub(super) fn problem_of(&self, code: Code, field: &str, message: String) -> Problem {
        Problem {
            code,
            file: self.origin.file.clone(),
            line: self.origin.line,
            object: self.name(),
            field: field.to_owned(),
            message,
            ..Problem::default()
        }
    }
}

#[derive(Clone, Debug)]
pub enum Kind {
    Namespace,
    ServiceAccount,
    Service(ServiceSpec),
    EndpointSlice(EndpointSlice),
    Pod(Box<Pod>),
    Policy(AuthorizationPolicy),
    Peer(PeerAuthentication),
}
