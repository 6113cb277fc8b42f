//! Objects of the API, judged together: for whoever writes how routes and
//! TrafficPolicies fare.
//!
//! By the same reader, and the same table of kinds, as what is in force; but for
//! the last good version of each, which every agent has its own of.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::documents::{Parsed, parse_again};
use super::intern::Interner;
use super::objects::Object;
use super::origin::Place;
use super::store::{Said, Store};
use crate::model::policy::{MeshSettings, PeerMode};
use crate::model::route::RouteKey;
use crate::model::traffic_policy::{PolicyKind, TrafficPolicy};
use crate::model::{Name, ServiceKey};
use crate::policy;
use crate::route::{Firsts, ParentStatus, status_by};
use crate::traffic::{Holders, TargetStatus};

#[derive(Default)]
pub(crate) struct Book {
    store: Store,
    /// By path.
    held: HashMap<Box<str>, Vec<Arc<Object>>>,
    names: Interner,
    /// Of the namespace that was asked for last.
    holders: Holders,
    /// Of the snapshot of now.
    firsts: Firsts,
}

/// What may fare differently now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Others {
    pub(crate) routes: BTreeSet<RouteKey>,
    /// By kind, namespace and name.
    pub(crate) traffic_policies: BTreeSet<(PolicyKind, Name, Name)>,
}

/// What of a Service's port takes mutual TLS alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    /// Of its pods.
    pub(crate) port: u16,
    /// `namespace/name` of the PeerAuthentication that says so.
    pub(crate) by: Option<Arc<str>>,
}

impl Book {
    /// Of a mesh with these settings.
    pub(crate) fn of(settings: MeshSettings) -> Self {
        Self {
            store: Store::new(settings),
            ..Self::default()
        }
    }

    /// What the API server has at `path`; `None` is nothing.
    pub(crate) fn hear(&mut self, path: &str, json: Option<&[u8]>) -> Others {
        let place = Place::resource(path);
        let before = self.held.remove(path).unwrap_or_default();
        let now = match json {
            Some(json) => {
                let documents = parse_again(&place, json, &[], &mut self.names);
                Parsed::of_documents(&place, &documents).objects
            }
            None => Vec::new(),
        };
        let said = (Said::here(&before), Said::here(&now));
        self.store.replace(&said.0, &said.1);
        if !now.is_empty() {
            self.held.insert(path.into(), now);
        }
        self.commit()
    }

    fn commit(&mut self) -> Others {
        let touched = self.store.commit(Instant::now());
        let mut others = Others::default();
        if !touched.snapshot {
            return others;
        }
        self.firsts = Firsts::default();
        let snapshot = self.store.snapshot();
        let routes = &mut others.routes;
        let attached = touched
            .routed
            .iter()
            .filter_map(|key| snapshot.attached.get(key));
        routes.extend(attached.flat_map(|all| all.iter().map(|route| route.key.clone())));
        // Whose Services changed: of these and of those that name one of them.
        for namespace in &touched.namespaces {
            let naming = self.store.naming(namespace).collect::<BTreeSet<_>>();
            for namespace in naming.into_iter().chain([namespace]) {
                let all = snapshot.routes.of(namespace).iter();
                routes.extend(all.map(|route| route.key.clone()));
            }
        }
        // Those name only Services of their own.
        for namespace in touched.namespaces.union(&touched.told) {
            let all = snapshot.traffic_policies.of(namespace).iter();
            let keys =
                all.map(|policy| (policy.kind, policy.namespace.clone(), policy.name.clone()));
            others.traffic_policies.extend(keys);
        }
        others
    }

    pub(crate) fn has_enrolled(&self) -> bool {
        let mut pods = self.store.snapshot().workloads.values();
        pods.any(|pod| pod.is_enrolled())
    }

    /// Where whoever is outside of the mesh is refused at one of the pods behind that
    /// port, as the agents of these decide it.
    pub(crate) fn closed(&self, service: &ServiceKey, port: u16) -> Option<Closed> {
        let snapshot = self.store.snapshot();
        let authorizer = policy::Authorizer::compile(snapshot);
        let port = snapshot.services.get(service)?.port(port)?;
        port.endpoints.iter().find_map(|endpoint| {
            let pod = endpoint.workload.as_ref().filter(|pod| pod.is_enrolled())?;
            let port = endpoint.addr.port();
            let decided = authorizer.peer_mode_by(pod, port);
            let is_closed = decided.mode == PeerMode::Strict;
            is_closed.then_some(Closed {
                port,
                by: decided.by,
            })
        })
    }

    /// Of each of its targets, in the order of names.
    pub(crate) fn traffic_status(
        &mut self,
        kind: PolicyKind,
        (namespace, name): (&str, &str),
    ) -> Vec<TargetStatus> {
        let snapshot = self.store.snapshot();
        let policies = snapshot.traffic_policies.of(namespace);
        let key =
            |policy: &Arc<TrafficPolicy>| (policy.kind, policy.name.as_str()).cmp(&(kind, name));
        let Ok(at) = policies.binary_search_by(key) else {
            return Vec::new();
        };
        self.holders.follow(snapshot, namespace);
        let now = SystemTime::now();
        self.holders.status(snapshot, &policies[at], now)
    }

    /// Of each of its parents that is a Service, in its own order.
    pub(crate) fn status(&mut self, key: &RouteKey) -> Vec<ParentStatus> {
        let snapshot = self.store.snapshot();
        let routes = snapshot.routes.of(&key.namespace);
        let at = routes.binary_search_by(|route| route.key.cmp(key));
        at.map_or_else(
            |_| Vec::new(),
            |at| status_by(&mut self.firsts, snapshot, &routes[at]),
        )
    }
}
