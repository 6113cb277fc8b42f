//! Which routes hold on a port of a Service, for whom.
//!
//! A route of the Service's namespace is its producer's, and for every caller.
//! Others are their namespaces' own, and only for callers of these: who has one
//! gets these alone. On a port one kind of route holds in each group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use crate::model::route::{BackendRef, ParentRef, Route, RouteKind};
use crate::model::{Name, Service, ServiceKey, Snapshot};

/// May a route lead there?
pub(super) type Permits<'p> = &'p dyn Fn(&Route, &BackendRef) -> bool;

/// Of one group on one port.
pub(super) struct Group {
    pub(super) kind: RouteKind,
    /// From the oldest to the youngest.
    pub(super) routes: Vec<Arc<Route>>,
}

#[cfg(test)]
thread_local! {
    /// How often a route was looked at for a port: more routes take so much longer.
    pub(crate) static LOOKED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// By the namespace of the callers; that of the Service stands for all others.
pub(super) fn groups(snapshot: &Snapshot, service: &Service, port: u16) -> BTreeMap<Name, Group> {
    let mut groups: BTreeMap<Name, Group> = BTreeMap::new();
    let attached = snapshot.attached.get(&service.key);
    for route in attached.iter().flat_map(|routes| routes.iter()) {
        #[cfg(test)]
        LOOKED.with(|count| count.set(count.get() + 1));
        if !route.is_known || !is_attached(route, service, port) {
            continue;
        }
        let kind = route.key.kind;
        let group = groups.entry(route.key.namespace.clone());
        let group = group.or_insert_with(|| Group {
            kind,
            routes: Vec::new(),
        });
        if kind < group.kind {
            *group = Group {
                kind,
                routes: Vec::new(),
            };
        }
        if kind == group.kind {
            group.routes.push(route.clone());
        }
    }
    for group in groups.values_mut() {
        group.routes.sort_by(|a, b| order(a).cmp(&order(b)));
    }
    groups
}

/// Those that nobody knows the age of are the youngest.
pub(super) fn age(created: Option<SystemTime>) -> (bool, Option<SystemTime>) {
    (created.is_none(), created)
}

fn order(route: &Route) -> impl Ord + '_ {
    (age(route.created), &route.key)
}

fn is_attached(route: &Route, service: &Service, port: u16) -> bool {
    let mut parents = route.parents.iter();
    parents.any(|parent| {
        let is_of = parent.service(&route.key.namespace).as_ref() == Some(&service.key);
        is_of && ports(parent, service).any(|other| other == port)
    })
}

/// The ports of the Service that a parent names; all where it names none. One
/// that is called by its pods' addresses alone has none.
pub(super) fn ports<'s>(
    parent: &'s ParentRef,
    service: &'s Service,
) -> impl Iterator<Item = u16> + 's {
    let ports = service.ports.iter().filter(|_| !service.is_headless());
    let of_port = |port: &u16| parent.port.is_none_or(|wanted| wanted == *port);
    let named = ports.filter(|port| {
        let section = parent.section.as_ref();
        section.is_none_or(|name| *name == *port.name)
    });
    named.map(|port| port.port).filter(of_port)
}

/// Of routes to `parent`: a backend of the route's or of the parent's own
/// namespace needs nobody's leave, one elsewhere that of its namespace.
pub(super) fn permits(
    snapshot: &Snapshot,
    parent: &ServiceKey,
    route: &Route,
    to: &BackendRef,
) -> bool {
    let namespace = &to.service.namespace;
    if *namespace == route.key.namespace || *namespace == parent.namespace {
        return true;
    }
    let mut grants = snapshot.grants.of(namespace).iter();
    grants.any(|grant| grant.permits(&route.key, &to.service.name))
}
