//! Routes: which of them there are, and what they are for.

use std::sync::Arc;

use super::id::ObjectId;
use super::referring::parents;
use super::state::Store;
use crate::discovery::kinds::KindId;
use crate::discovery::objects::Object;
use crate::model::route::Route;
use crate::model::{Name, ServiceKey};

impl Store {
    pub(super) fn settle_route(
        &mut self,
        id: &ObjectId,
        before: Option<&Object>,
        now: Option<&Object>,
    ) {
        for (object, is_there) in [(before, false), (now, true)] {
            let Some(route) = object.and_then(|object| object.kind.route()) else {
                continue;
            };
            self.referring.change(id, route, is_there);
            self.dirty.attached.extend(parents(route));
        }
        self.dirty.routes.insert(id.namespace.clone());
    }

    /// After Services: what is told of these is in the snapshot by then.
    pub(super) fn settle_routes(&mut self) {
        for namespace in std::mem::take(&mut self.dirty.routes) {
            self.settle_routes_of(&namespace);
        }
        for service in std::mem::take(&mut self.dirty.attached) {
            self.work += 1;
            self.settle_attached(service);
        }
    }

    /// Of what they name in `namespace` something else is true now.
    pub(super) fn look_at_routes_naming(&mut self, namespace: &Name) {
        self.dirty.touched.told.insert(namespace.clone());
        let routes = self.referring.to(namespace);
        let routes: Vec<ObjectId> = routes.cloned().collect();
        for id in routes {
            let services = self.route(&id).map(|route| parents(route));
            self.dirty
                .touched
                .routed
                .extend(services.unwrap_or_default());
        }
    }

    fn settle_routes_of(&mut self, namespace: &Name) {
        let entries = KindId::ROUTES.iter();
        let entries = entries.flat_map(|kind| self.entries(*kind, namespace));
        let routes = entries.filter_map(|(_, entry)| {
            let object = entry.effective.as_ref()?;
            object.kind.route().cloned()
        });
        let routes: Vec<Arc<Route>> = routes.collect();
        // What did not change is the same memory: a look at each, and no search.
        let before = self.snapshot.routes.of(namespace);
        let same = |(a, b): (&Arc<Route>, &Arc<Route>)| Arc::ptr_eq(a, b) || a == b;
        let is_same = before.len() == routes.len() && before.iter().zip(&routes).all(same);
        if !is_same {
            self.snapshot.routes.set(namespace.clone(), routes);
            self.dirty.touched.snapshot = true;
        }
        // What is told of one may be of another file now.
        self.dirty.touched.told.insert(namespace.clone());
    }

    fn settle_attached(&mut self, service: ServiceKey) {
        let ids = self.referring.of(&service);
        let routes = ids.filter_map(|id| self.route(id).cloned());
        let routes: Arc<[Arc<Route>]> = routes.collect();
        let before = self.snapshot.attached.get(&service);
        if before.map_or(&[][..], |before| before) == &*routes {
            return;
        }
        let routes = (!routes.is_empty()).then_some(routes);
        self.snapshot.attached.set(service.clone(), routes);
        self.dirty.touched.snapshot = true;
        self.dirty.touched.routed.insert(service);
    }

    /// Namespaces of routes that name one of `namespace`.
    pub(in crate::discovery) fn naming(&self, namespace: &Name) -> impl Iterator<Item = &Name> {
        self.referring.to(namespace).map(|id| &id.namespace)
    }

    fn route(&self, id: &ObjectId) -> Option<&Arc<Route>> {
        self.effective(id)?.kind.route()
    }
}
