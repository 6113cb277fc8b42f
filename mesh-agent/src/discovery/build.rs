//! Objects to one consistent snapshot.

mod pods;
mod services;
mod twice;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::kinds::{EndpointSlice, Meta, Part, Unknown};
use super::objects::{Kind, Object};
use super::{Code, Problem};
use crate::model::policy::{Action, AuthorizationPolicy};
use crate::model::{ServiceKey, Snapshot, Withheld, WorkloadKey};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Builds the snapshot; what contradicts itself is left out and reported.
pub fn build<'o>(objects: impl Iterator<Item = &'o Object>) -> (Snapshot, Vec<Problem>) {
    let mut objects: Vec<&Object> = objects.collect();
    let mut builder = Builder::default();
    builder.reject_duplicates(&mut objects);
    for object in &objects {
        match &object.kind {
            Kind::Namespace => drop(builder.namespaces.insert(&object.meta.name, object)),
            Kind::Unknown(unknown) => builder.unknown.push(unknown),
            _ => {}
        }
    }
    for object in &objects {
        if let Kind::Pod(pod) = &object.kind {
            builder.pod(object, pod);
        }
    }
    builder.index_pods();
    let mut slices: BTreeMap<ServiceKey, Vec<&EndpointSlice>> = BTreeMap::new();
    for object in &objects {
        if let Kind::EndpointSlice(slice) = &object.kind {
            builder.withhold_of_unknown_pods(slice);
            match object.meta.labels.get(SERVICE_NAME) {
                Some(name) => {
                    let key = key(&object.meta, name);
                    slices.entry(key).or_default().push(slice);
                }
                None if object.unread.contains(&Part::Labels) => builder.hides_slices = true,
                None => builder.advise(
                    object,
                    "metadata.labels",
                    format!("the label {SERVICE_NAME} is missing: it names the Service"),
                ),
            }
            builder.hides_slices |= builder.is_doubtful(object);
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
            Kind::Peer(peer) => {
                let mut peer = peer.clone();
                if let Some(reason) = builder.doubt(object) {
                    peer.broken.get_or_insert(reason);
                }
                builder.snapshot.peer_authentications.push(peer);
            }
            _ => {}
        }
    }
    builder.withhold_unknown();
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
    /// Pods that have the addresses of their node.
    on_host_network: BTreeSet<WorkloadKey>,
    unknown: Vec<&'o Unknown>,
    /// Objects that are given twice, and differently.
    doubtful: BTreeSet<String>,
    /// What two versions of a pod say differently.
    contradicted: BTreeMap<String, BTreeSet<Part>>,
    /// A slice cannot be read, or not whose it is.
    hides_slices: bool,
    /// Addresses of objects that are not taken over.
    left_out: Vec<IpAddr>,
}

impl<'o> Builder<'o> {
    fn report(&mut self, object: &Object, field: &str, message: String) {
        self.problems.push(object.problem(field, message));
    }

    fn advise(&mut self, object: &Object, field: &str, message: String) {
        let problem = object.problem_of(Code::Advisory, field, message);
        self.problems.push(problem);
    }

    /// No plaintext to what an object is about that cannot be read, or that
    /// is not taken over. Whose the address is by another object, stays so.
    fn withhold_unknown(&mut self) {
        let unknown = self.unknown.iter().flat_map(|u| &u.addresses).copied();
        for ip in unknown.chain(self.left_out.iter().copied()) {
            let snapshot = &mut self.snapshot;
            if !snapshot.by_ip.contains_key(&ip) && !snapshot.by_vip.contains_key(&ip) {
                snapshot.withheld.entry(ip).or_insert(Withheld::Unreadable);
            }
        }
        for unknown in &self.unknown {
            let pods = unknown.pods.iter().cloned();
            self.snapshot.unreadable_pods.extend(pods);
            self.snapshot.hides_pods |= unknown.hides_pods;
        }
    }

    fn policy(&mut self, object: &Object, policy: &AuthorizationPolicy) {
        let mut policy = policy.clone();
        if let Some(reason) = self.doubt(object)
            && policy.action == Action::Allow
        {
            policy.rules.clear();
            policy.broken.get_or_insert(reason);
        }
        self.snapshot.policies.push(policy);
    }
}
