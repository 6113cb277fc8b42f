//! Endpoints that may be picked, and by what they are known again.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use crate::model::{Endpoint, Service, ServicePort, Snapshot, WorkloadKey};

/// The endpoints of one port of a Service, of one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidates<'s> {
    pub(crate) service: &'s Arc<Service>,
    pub(crate) port: &'s ServicePort,
    is_ipv4: bool,
}

impl<'s> Candidates<'s> {
    /// Those of the family of `client`.
    #[must_use]
    pub(crate) fn new(service: &'s Arc<Service>, port: &'s ServicePort, client: IpAddr) -> Self {
        Self {
            service,
            port,
            is_ipv4: client.is_ipv4(),
        }
    }

    /// Each of them, in the configuration's order: taking a look is no pick.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'s Endpoint> + use<'s> {
        let candidates = *self;
        let all = candidates.port.endpoints.iter();
        all.filter(move |endpoint| candidates.fits(endpoint))
    }

    pub(super) fn fits(&self, endpoint: &Endpoint) -> bool {
        endpoint.addr.ip().is_ipv4() == self.is_ipv4
    }
}

/// An endpoint is a port of a pod; one that no pod is behind goes by its address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Id {
    Pod {
        key: WorkloadKey,
        uid: String,
        port: u16,
    },
    Address(SocketAddr),
}

impl Id {
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        match &endpoint.workload {
            Some(pod) => Self::Pod {
                key: pod.key.clone(),
                uid: pod.uid.to_string(),
                port: endpoint.addr.port(),
            },
            None => Self::Address(endpoint.addr.get()),
        }
    }

    /// Is there still that pod? An address alone tells nothing of who has it.
    pub(super) fn is_in(&self, snapshot: &Snapshot) -> bool {
        match self {
            Self::Pod { key, uid, .. } => {
                let pod = snapshot.workloads.get(key);
                pod.is_some_and(|pod| pod.uid == *uid)
            }
            Self::Address(_) => false,
        }
    }
}

/// What a worker knows of an endpoint.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Number of the pick that it was chosen by last; 0: never.
    pub(super) picked: Cell<u64>,
}

/// States of a port's endpoints, in the same order.
pub(super) type States = Vec<Rc<State>>;
