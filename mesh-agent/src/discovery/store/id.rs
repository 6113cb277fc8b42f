//! Which object is meant.

use crate::discovery::kinds::KindId;
use crate::model::{Name, ServiceKey, WorkloadKey};

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
