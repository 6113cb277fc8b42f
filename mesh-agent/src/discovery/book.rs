//! Objects of the API, judged together: for whoever writes how routes fare.
//!
//! By the same reader, and the same table of kinds, as what is in force; but for
//! the last good version of a route, which every agent has its own of.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::documents::{Parsed, parse_again};
use super::intern::Interner;
use super::objects::Object;
use super::origin::Place;
use super::store::{Said, Store};
use crate::model::route::RouteKey;
use crate::route::{self, ParentStatus};

#[derive(Default)]
pub(crate) struct RouteBook {
    store: Store,
    /// By path.
    held: HashMap<Box<str>, Vec<Arc<Object>>>,
    names: Interner,
}

impl RouteBook {
    /// What the API server has at `path`; `None` is nothing. Gives the routes that
    /// may fare differently now.
    pub(crate) fn hear(&mut self, path: &str, json: Option<&[u8]>) -> BTreeSet<RouteKey> {
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

    fn commit(&mut self) -> BTreeSet<RouteKey> {
        let touched = self.store.commit(Instant::now());
        let mut routes = BTreeSet::new();
        if !touched.snapshot {
            return routes;
        }
        let snapshot = self.store.snapshot();
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
        routes
    }

    /// Of each of its parents that is a Service, in its own order.
    pub(crate) fn status(&self, key: &RouteKey) -> Vec<ParentStatus> {
        let snapshot = self.store.snapshot();
        let routes = snapshot.routes.of(&key.namespace);
        let at = routes.binary_search_by(|route| route.key.cmp(key));
        at.map_or_else(|_| Vec::new(), |at| route::status(snapshot, &routes[at]))
    }
}
