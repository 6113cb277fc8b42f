//! In which zone each node is. No object that is read here says that of a node
//! itself; endpoints do, and pods by the label that Kubernetes copies from it.

use std::collections::BTreeMap;

use crate::discovery::objects::{Kind, Object};
use crate::model::Name;

/// Of a pod: its node's.
pub(super) const ZONE: &str = "topology.kubernetes.io/zone";

/// How often each zone is said of each node, in each namespace. Anybody may say
/// anything in his own: so namespaces are counted, and not how often they say it.
#[derive(Debug, Default)]
pub(super) struct Zones(BTreeMap<Name, BTreeMap<Name, Votes>>);

type Votes = BTreeMap<Name, usize>;

impl Zones {
    /// Gives the nodes of which something else is said now.
    pub(super) fn change(&mut self, before: Option<&Object>, now: Option<&Object>) -> Vec<Name> {
        let mut touched = Vec::new();
        for (namespace, (node, zone)) in before.into_iter().flat_map(said) {
            if self.take(&namespace, &node, &zone) {
                touched.push(node);
            }
        }
        for (namespace, (node, zone)) in now.into_iter().flat_map(said) {
            let votes = self.0.entry(node.clone()).or_default().entry(zone);
            let count = votes.or_default().entry(namespace).or_insert(0);
            *count += 1;
            if *count == 1 {
                touched.push(node);
            }
        }
        touched
    }

    /// True: the namespace does not say it any more.
    fn take(&mut self, namespace: &Name, node: &Name, zone: &Name) -> bool {
        let Some(zones) = self.0.get_mut(node) else {
            return false;
        };
        let Some(votes) = zones.get_mut(zone) else {
            return false;
        };
        let Some(count) = votes.get_mut(namespace) else {
            return false;
        };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        votes.remove(namespace);
        if votes.is_empty() {
            zones.remove(zone);
        }
        if zones.is_empty() {
            self.0.remove(node);
        }
        true
    }

    /// What most namespaces say; of those that as many say, the first by name.
    pub(super) fn of(&self, node: &Name) -> Option<&Name> {
        let zones = self.0.get(node)?.iter();
        let first = zones.min_by_key(|(_, votes)| std::cmp::Reverse(votes.len()));
        first.map(|(zone, _)| zone)
    }
}

fn said(object: &Object) -> impl Iterator<Item = (Name, (Name, Name))> + use<> {
    let namespace = match &object.meta.namespace {
        Some(namespace) => namespace.clone(),
        None => object.meta.namespace().into(),
    };
    let said = match &object.kind {
        Kind::EndpointSlice(slice) => {
            let places = slice.endpoints.iter().filter_map(|e| e.place.as_ref());
            let said = places.filter_map(|place| place.node.clone().zip(place.zone.clone()));
            said.collect::<Vec<_>>()
        }
        Kind::Pod(pod) if !pod.node_name.is_empty() => {
            let zone = object.meta.labels.get(ZONE).filter(|zone| !zone.is_empty());
            let said = zone.map(|zone| (pod.node_name.clone(), Name::from(zone)));
            said.into_iter().collect()
        }
        _ => Vec::new(),
    };
    said.into_iter().map(move |said| (namespace.clone(), said))
}
