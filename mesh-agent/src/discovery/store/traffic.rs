//! TrafficPolicies: which of them there are, and which Services they are for.

use std::sync::Arc;

use super::id::ObjectId;
use super::state::Store;
use crate::discovery::kinds::KindId;
use crate::discovery::objects::Object;
use crate::model::traffic_policy::TrafficPolicy;
use crate::model::{Name, ServiceKey};

impl Store {
    pub(super) fn settle_traffic_policy(
        &mut self,
        id: &ObjectId,
        before: Option<&Object>,
        now: Option<&Object>,
    ) {
        for (object, is_there) in [(before, false), (now, true)] {
            let Some(policy) = object.and_then(|object| object.kind.traffic_policy()) else {
                continue;
            };
            for service in policy.targets.iter().map(|target| policy.target(target)) {
                self.govern(&service, (id.kind, &id.name), is_there);
                self.dirty.services.insert(service);
            }
        }
        self.dirty.traffic.insert(id.namespace.clone());
    }

    fn govern(&mut self, service: &ServiceKey, policy: (KindId, &Name), is_there: bool) {
        let policy = (policy.0, policy.1.clone());
        if is_there {
            let policies = self.governed.entry(service.clone()).or_default();
            policies.insert(policy);
            return;
        }
        let is_empty = self.governed.get_mut(service).is_some_and(|policies| {
            policies.remove(&policy);
            policies.is_empty()
        });
        if is_empty {
            self.governed.remove(service);
        }
    }

    /// Those that name the Service.
    pub(super) fn traffic_policies(&self, service: &ServiceKey) -> Vec<Arc<TrafficPolicy>> {
        let names = self.governed.get(service).into_iter().flatten();
        let policy = |(kind, name): &(KindId, Name)| {
            let id = ObjectId {
                kind: *kind,
                namespace: service.namespace.clone(),
                name: name.clone(),
            };
            self.effective(&id)?.kind.traffic_policy().cloned()
        };
        names.filter_map(policy).collect()
    }

    pub(super) fn settle_traffic(&mut self) {
        for namespace in std::mem::take(&mut self.dirty.traffic) {
            self.work += 1;
            let kinds = KindId::TRAFFIC.into_iter();
            let entries = kinds.flat_map(|kind| self.entries(kind, &namespace));
            let policies = entries.filter_map(|(_, entry)| {
                let object = entry.effective.as_ref()?;
                object.kind.traffic_policy().cloned()
            });
            let policies = policies.collect();
            let all = &mut self.snapshot.traffic_policies;
            self.dirty.touched.snapshot |=
                all.put(&namespace, policies, |one| (one.kind, one.name.clone()));
            // What is told of one may be of another file now.
            self.dirty.touched.told.insert(namespace);
        }
    }
}
