//! Which object is meant.

use crate::discovery::objects::Kind;
use crate::model::{Name, ServiceKey, WorkloadKey};

/// In the order in which objects are made sense of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::discovery) enum KindId {
    Namespace,
    ServiceAccount,
    Pod,
    EndpointSlice,
    Service,
    Policy,
    Peer,
}

impl KindId {
    /// `None` for what may be any.
    pub(super) fn of(kind: &Kind) -> Option<Self> {
        Some(match kind {
            Kind::Namespace => Self::Namespace,
            Kind::ServiceAccount => Self::ServiceAccount,
            Kind::Pod(_) => Self::Pod,
            Kind::EndpointSlice(_) => Self::EndpointSlice,
            Kind::Service(_) => Self::Service,
            Kind::Policy(_) => Self::Policy,
            Kind::Peer(_) => Self::Peer,
            Kind::Unknown(_) => return None,
        })
    }
}

/// Which object it is, wherever it is from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ObjectId {
    pub(super) kind: KindId,
    /// Empty for a Namespace.
    pub(super) namespace: Name,
    pub(super) name: Name,
}

impl ObjectId {
    pub(super) fn pod(key: &WorkloadKey) -> Self {
        Self {
            kind: KindId::Pod,
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }
    }

    pub(super) fn service(key: &ServiceKey) -> Self {
        Self {
            kind: KindId::Service,
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }
    }

    pub(super) fn workload_key(&self) -> WorkloadKey {
        WorkloadKey {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    pub(super) fn service_key(&self) -> ServiceKey {
        ServiceKey {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}
