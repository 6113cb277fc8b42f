//! Objects to one consistent snapshot.

mod pods;
mod services;

use std::collections::{BTreeMap, BTreeSet};

use super::Problem;
use super::kinds::{EndpointSlice, Meta};
use super::objects::{Kind, Object};
use crate::model::policy::{Action, AuthorizationPolicy, Scope};
use crate::model::{ServiceKey, Snapshot, WorkloadKey};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Builds the snapshot; what contradicts itself is left out and reported.
pub fn build<'o>(objects: impl Iterator<Item = &'o Object>) -> (Snapshot, Vec<Problem>) {
    let mut objects: Vec<&Object> = objects.collect();
    // The order of files and documents never matters.
    objects.sort_by_key(|o| o.name());
    let mut builder = Builder::default();
    builder.reject_duplicates(&mut objects);
    for object in &objects {
        if let Kind::Namespace = object.kind {
            builder.namespaces.insert(&object.meta.name, object);
        }
    }
    for object in &objects {
        if let Kind::Pod(pod) = &object.kind {
            builder.pod(object, pod);
        }
    }
    builder.index_pods();
    let mut slices: BTreeMap<ServiceKey, Vec<(&Object, &EndpointSlice)>> = BTreeMap::new();
    for object in &objects {
        if let Kind::EndpointSlice(slice) = &object.kind {
            match object.meta.labels.get(SERVICE_NAME) {
                Some(name) => {
                    let key = key(&object.meta, name);
                    slices.entry(key).or_default().push((object, slice));
                }
                None => builder.report(
                    object,
                    "metadata.labels",
                    format!("the label {SERVICE_NAME} is missing: it names the Service"),
                ),
            }
        }
    }
    for object in &objects {
        if let Kind::Service(spec) = &object.kind {
            let own = slices.remove(&key(&object.meta, &object.meta.name));
            builder.service(object, spec, own.as_deref());
        }
    }
    for object in &objects {
        match &object.kind {
            Kind::Policy(policy) => builder.policy(object, policy),
            Kind::Peer(peer) => builder.snapshot.peer_authentications.push(peer.clone()),
            _ => {}
        }
    }
    (builder.snapshot, builder.problems)
}

fn key(meta: &Meta, name: &str) -> ServiceKey {
    ServiceKey {
        namespace: meta.namespace().to_owned(),
        name: name.to_owned(),
    }
}

#[derive(Default)]
struct Builder<'o> {
    snapshot: Snapshot,
    problems: Vec<Problem>,
    namespaces: BTreeMap<&'o str, &'o Object>,
    origins: BTreeMap<WorkloadKey, &'o Object>,
}

impl<'o> Builder<'o> {
    fn report(&mut self, object: &Object, field: &str, message: String) {
        self.problems.push(object.problem(field, message));
    }

    /// A Service that is not there would leave its pods open. So the policy
    /// holds for its namespace: a DENY with its rules, an ALLOW without grants.
    fn policy(&mut self, object: &Object, policy: &AuthorizationPolicy) {
        let mut policy = policy.clone();
        if let Scope::Services(services) = &policy.scope {
            let missing = services
                .iter()
                .find(|s| !self.snapshot.services.contains_key(s));
            if let Some(service) = missing {
                let message = format!("there is no Service {service}");
                self.report(object, "spec.targetRefs", message.clone());
                policy.scope = Scope::Namespace;
                if policy.action == Action::Allow {
                    policy.rules.clear();
                    policy.broken.get_or_insert(message);
                }
            }
        }
        self.snapshot.policies.push(policy);
    }

    fn reject_duplicates(&mut self, objects: &mut Vec<&'o Object>) {
        let mut seen = BTreeSet::new();
        objects.retain(|object| {
            let first = seen.insert(object.name());
            if !first {
                self.report(
                    object,
                    "metadata.name",
                    "the object is given twice; this one is ignored".to_owned(),
                );
            }
            // What only restricts stays.
            first
                || match &object.kind {
                    Kind::Policy(policy) => policy.action == Action::Deny,
                    Kind::Peer(peer) => peer.broken.is_some(),
                    _ => false,
                }
        });
    }
}
