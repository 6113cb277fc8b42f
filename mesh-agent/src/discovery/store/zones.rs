//! In which zone each node is. No object that is read here says that of a node
//! itself; endpoints do, and pods by the label that Kubernetes copies from it.

use std::collections::BTreeMap;

use crate::discovery::objects::{Kind, Object};
use crate::model::Name;

/// Of a pod: its node's.
pub(super) const ZONE: &str = "topology.kubernetes.io/zone";

/// How often each zone is said of each node.
#[derive(Debug, Default)]
pub(super) struct Zones(BTreeMap<Name, BTreeMap<Name, usize>>);

impl Zones {
    /// Gives the nodes of which something else is said now.
    pub(super) fn change(&mut self, before: Option<&Object>, now: Option<&Object>) -> Vec<Name> {
        let mut touched = Vec::new();
        for (node, zone) in before.into_iter().flat_map(said) {
            if self.take(&node, &zone) {
                touched.push(node);
            }
        }
        for (node, zone) in now.into_iter().flat_map(said) {
            let count = self.0.entry(node.clone()).or_default().entry(zone);
            let count = count.or_insert(0);
            *count += 1;
            if *count == 1 {
                touched.push(node);
            }
        }
        touched
    }

    /// True: nobody says it any more.
    fn take(&mut self, node: &Name, zone: &Name) -> bool {
        let Some(zones) = self.0.get_mut(node) else {
            return false;
        };
        let Some(count) = zones.get_mut(zone) else {
            return false;
        };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        zones.remove(zone);
        if zones.is_empty() {
            self.0.remove(node);
        }
        true
    }

    /// Where two are said, the first by name.
    pub(super) fn of(&self, node: &Name) -> Option<&Name> {
        self.0.get(node)?.keys().next()
    }
}

fn said(object: &Object) -> Vec<(Name, Name)> {
    match &object.kind {
        Kind::EndpointSlice(slice) => {
            let places = slice.endpoints.iter().filter_map(|e| e.place.as_ref());
            let said = places.filter_map(|place| place.node.clone().zip(place.zone.clone()));
            said.collect()
        }
        Kind::Pod(pod) if !pod.node_name.is_empty() => {
            let zone = object.meta.labels.get(ZONE).filter(|zone| !zone.is_empty());
            let said = zone.map(|zone| (pod.node_name.clone(), Name::from(zone)));
            said.into_iter().collect()
        }
        _ => Vec::new(),
    }
}
