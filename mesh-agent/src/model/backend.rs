//! What a rule of a route leads to.

use std::fmt;

use super::ServiceKey;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BackendTarget {
    Service(BackendRef),
    /// What is no Service: `group/kind name`. Its share is answered with an error.
    Invalid(Box<str>),
}

/// A port of a Service, to which the implicit way of the Service applies: its
/// own routes are not looked at again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BackendRef {
    pub(crate) service: ServiceKey,
    pub(crate) port: u16,
}

impl fmt::Display for BackendRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}
