//! Which ports of a workload a Service leads to, and by which of its own.
//!
//! A policy for a Service is about the connections that arrive there. Which way
//! they came is not to be seen at the destination, only the pod's port is.

use std::collections::BTreeSet;

use crate::model::policy::{AuthorizationPolicy, Scope};
use crate::model::{Service, ServiceKey, ServicePort, Snapshot, TargetPort, Workload};

/// Pairs of a pod's port and a Service's port that leads to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reach {
    /// Which ports it is cannot be told: it may be any.
    Unknown,
    Ports(Box<[(u16, u16)]>),
}

/// What `ports` of a rule is held to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ports<'r> {
    /// The pod's own.
    Own(u16),
    /// That of the Service: those of `pairs` that lead to the pod's port.
    Service {
        pairs: &'r [(u16, u16)],
        own: u16,
    },
    Unknown,
}

impl Reach {
    /// By what the Service declares, and by what its endpoints say.
    pub(super) fn of(service: &Service, workload: &Workload, is_unreadable: bool) -> Self {
        // Without a port and an address of its own a Service is a name for its
        // pods: clients dial any of their ports.
        let is_name = service.is_headless() && service.ports.is_empty();
        if service.hides_ports || is_name || is_unreadable {
            return Self::Unknown;
        }
        let pairs: BTreeSet<(u16, u16)> = service
            .ports
            .iter()
            .flat_map(|port| {
                let own = own_ports(service, port, workload);
                own.into_iter().map(|own| (own, port.port))
            })
            .collect();
        Self::Ports(pairs.into_iter().collect())
    }

    /// The ports for a policy of this Service; `None` where a connection to
    /// `own` is none of its business.
    pub(super) fn ports(&self, own: u16) -> Option<Ports<'_>> {
        match self {
            Self::Unknown => Some(Ports::Unknown),
            Self::Ports(pairs) => {
                let leads = pairs.iter().any(|(to, _)| *to == own);
                leads.then_some(Ports::Service { pairs, own })
            }
        }
    }
}

impl Ports<'_> {
    /// Is it one of `list`? `None` where that cannot be told: several ports of
    /// the Service lead there, and not all are of the list.
    pub(super) fn within(self, list: &[u16]) -> Option<bool> {
        match self {
            Self::Own(port) => Some(list.contains(&port)),
            Self::Unknown => None,
            Self::Service { pairs, own } => {
                let mut leading = pairs.iter().filter(|(to, _)| *to == own);
                let named = |(_, port): &(u16, u16)| list.contains(port);
                let first = leading.next().is_some_and(named);
                leading.all(|pair| named(pair) == first).then_some(first)
            }
        }
    }
}

/// The ports of the Service by which a connection to the workload's port `own` may
/// have come: all where that cannot be told, none where the Service does not lead there.
pub(crate) fn leading(
    service: &Service,
    workload: &Workload,
    own: u16,
    is_unreadable: bool,
) -> Vec<u16> {
    if !leads_to(service, workload) {
        return Vec::new();
    }
    let reach = Reach::of(service, workload, is_unreadable);
    let all = || service.ports.iter().map(|port| port.port);
    match reach {
        Reach::Unknown => all().collect(),
        Reach::Ports(pairs) => {
            let leading = pairs.iter().filter(|(to, _)| *to == own);
            leading.map(|(_, port)| *port).collect()
        }
    }
}

pub(super) fn leads_to(service: &Service, workload: &Workload) -> bool {
    let members = &service.members;
    is_selected(service, workload) || workload.ips.iter().any(|ip| members.contains(&ip))
}

pub(super) fn is_selected(service: &Service, workload: &Workload) -> bool {
    !service.selector.is_empty()
        && workload.key.namespace == service.key.namespace
        && has_labels(workload, service.selector.iter())
}

pub(super) fn has_labels<'l>(
    workload: &Workload,
    labels: impl IntoIterator<Item = (&'l String, &'l String)>,
) -> bool {
    let mut labels = labels.into_iter();
    labels.all(|(k, v)| workload.labels.get(k) == Some(v))
}

/// Ports of the workload that `port` leads to: usually one.
fn own_ports(service: &Service, port: &ServicePort, workload: &Workload) -> BTreeSet<u16> {
    let is_own = |e: &&crate::model::Endpoint| {
        let named = e.workload.as_ref().is_some_and(|w| w.key == workload.key);
        named || workload.ips.contains(e.addr.ip())
    };
    let endpoints = port.endpoints.iter().filter(is_own);
    let mut own: BTreeSet<u16> = endpoints.map(|e| e.addr.port()).collect();
    if own.is_empty() && workload.ips.iter().any(|ip| service.members.contains(&ip)) {
        // Not ready: it will be one of those that the slices name.
        own.extend(&port.slice_ports);
    }
    match &port.target {
        TargetPort::Number(number) => own.extend([*number]),
        TargetPort::Name(name) => {
            let of_name = workload.ports.iter().filter(|p| p.name == *name);
            own.extend(of_name.map(|p| p.port));
        }
    }
    own
}

/// A Service that the policy is for, and of which the configuration does not
/// have all that says which pods are behind it.
pub(super) fn missing_service<'p>(
    policy: &'p AuthorizationPolicy,
    snapshot: &Snapshot,
) -> Option<&'p ServiceKey> {
    match &policy.scope {
        Scope::Services(services) => services.iter().find(|key| {
            let known = snapshot.services.get(key);
            known.is_none_or(|service| service.hides_members)
        }),
        _ => None,
    }
}
