//! Routes by what they name.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use foldhash::fast::RandomState;

use super::id::ObjectId;
use crate::model::http_route::Filter;
use crate::model::route::{BackendTarget, Route, Rules};
use crate::model::{Name, ServiceKey};

type Map<K, V> = HashMap<K, V, RandomState>;

/// Which routes name what.
#[derive(Debug, Default)]
pub(super) struct Referring {
    /// By the Services that are their parents, there or not.
    parents: Map<ServiceKey, BTreeSet<ObjectId>>,
    /// By other namespaces than their own that they name.
    targets: Map<Name, BTreeSet<ObjectId>>,
}

impl Referring {
    pub(super) fn has_routes(&self, service: &ServiceKey) -> bool {
        self.parents.contains_key(service)
    }

    /// Those that name it as a parent.
    pub(super) fn of(&self, service: &ServiceKey) -> impl Iterator<Item = &ObjectId> {
        self.parents.get(service).into_iter().flatten()
    }

    /// Those of other namespaces that name one of it.
    pub(super) fn to(&self, namespace: &Name) -> impl Iterator<Item = &ObjectId> {
        self.targets.get(namespace).into_iter().flatten()
    }

    pub(super) fn change(&mut self, id: &ObjectId, route: &Route, is_there: bool) {
        for service in parents(route) {
            set(&mut self.parents, service, id, is_there);
        }
        for namespace in elsewhere(route) {
            set(&mut self.targets, namespace, id, is_there);
        }
    }
}

fn set<K: Hash + Eq>(map: &mut Map<K, BTreeSet<ObjectId>>, key: K, id: &ObjectId, is_there: bool) {
    if is_there {
        map.entry(key).or_default().insert(id.clone());
        return;
    }
    let is_empty = map.get_mut(&key).is_some_and(|ids| {
        ids.remove(id);
        ids.is_empty()
    });
    if is_empty {
        map.remove(&key);
    }
}

/// Each once.
pub(super) fn parents(route: &Route) -> BTreeSet<ServiceKey> {
    let parents = route.parents.iter();
    let services = parents.filter_map(|parent| parent.service(&route.key.namespace));
    services.collect()
}

/// Other namespaces that it is for, or leads to.
fn elsewhere(route: &Route) -> BTreeSet<Name> {
    let parents = parents(route).into_iter().map(|service| service.namespace);
    let mut all: BTreeSet<Name> = parents
        .filter(|namespace| *namespace != route.key.namespace)
        .collect();
    let mut take = |to: &BackendTarget| {
        if let BackendTarget::Service(to) = to
            && to.service.namespace != route.key.namespace
        {
            all.insert(to.service.namespace.clone());
        }
    };
    match &route.rules {
        Rules::Connections(rules) => {
            let backends = rules.iter().flat_map(|rule| rule.backends.iter());
            backends.for_each(|backend| take(&backend.to));
        }
        Rules::Http(rules) => {
            for rule in rules {
                rule.backends.iter().for_each(|backend| take(&backend.to));
                let of_backends = rule.backends.iter().flat_map(|b| b.filters.iter());
                for filter in rule.filters.iter().chain(of_backends) {
                    if let Filter::Mirror(mirror) = filter {
                        take(&mirror.to);
                    }
                }
            }
        }
    }
    all
}
