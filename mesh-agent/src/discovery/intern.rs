//! One copy of each text that objects have in common.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::model::{Labels, Name, NamedPort, OnNode, Place};

/// What is in use, and some of what was a while ago.
#[derive(Debug, Default)]
pub(super) struct Interner {
    names: Set<Name>,
    labels: Set<Labels>,
    ports: Set<Arc<[NamedPort]>>,
    on_node: Set<Arc<OnNode>>,
    places: Set<Arc<Place>>,
}

#[derive(Debug)]
struct Set<T> {
    all: HashSet<T, foldhash::fast::RandomState>,
    /// How many there were after the last sweep.
    kept: usize,
}

impl<T> Default for Set<T> {
    fn default() -> Self {
        Self {
            all: HashSet::default(),
            kept: 0,
        }
    }
}

/// Below it is not worth the walk.
const SWEPT_ABOVE: usize = 1_024;

impl<T: Clone + Eq + Hash> Set<T> {
    fn share(&mut self, value: &mut T, is_unshared: fn(&T) -> bool) {
        if let Some(known) = self.all.get(value) {
            return value.clone_from(known);
        }
        // What nobody has any more goes when there are twice as many as then: a
        // source that invents names takes no more than it holds.
        if self.all.len() >= SWEPT_ABOVE.max(2 * self.kept) {
            self.all.retain(|value| !is_unshared(value));
            self.kept = self.all.len();
        }
        self.all.insert(value.clone());
    }
}

impl Interner {
    pub(super) fn name(&mut self, text: &str) -> Name {
        match self.names.all.get(text) {
            Some(known) => known.clone(),
            None => {
                let mut name = Name::from(text);
                self.share(&mut name);
                name
            }
        }
    }

    pub(super) fn share(&mut self, name: &mut Name) {
        self.names.share(name, Name::is_unshared);
    }

    pub(super) fn share_labels(&mut self, labels: &mut Labels) {
        self.labels.share(labels, Labels::is_unshared);
    }

    pub(super) fn share_place(&mut self, place: &mut Arc<Place>) {
        self.places
            .share(place, |place| Arc::strong_count(place) == 1);
    }

    pub(super) fn share_ports(&mut self, ports: &mut Arc<[NamedPort]>) {
        self.ports
            .share(ports, |ports| Arc::strong_count(ports) == 1);
    }

    pub(super) fn share_on_node(&mut self, all: &mut Arc<OnNode>) {
        self.on_node.share(all, |all| Arc::strong_count(all) == 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::objects::Kind;

    #[test]
    fn names_that_nobody_has_are_dropped_and_those_in_use_stay_one() {
        let mut names = Interner::default();
        let held: Vec<Name> = (0..10).map(|n| names.name(&format!("held-{n}"))).collect();
        for n in 0..10_000 {
            names.name(&format!("passing-{n}"));
            assert!(names.names.all.len() <= 2 * SWEPT_ABOVE, "after {n}");
        }
        for name in &held {
            assert!(std::ptr::eq(name.as_str(), names.name(name).as_str()));
        }
    }

    #[test]
    fn pods_of_one_deployment_share_what_is_the_same() {
        let pod = |name: &str| {
            let text = format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: web, tier: front}}, \
                 annotations: {{example.com/checksum: {name}}}}}\nspec: {{nodeName: n1, containers: [{{ports: [{{name: http, containerPort: 80}}], readinessProbe: {{httpGet: {{port: http}}}}}}]}}\n"
            );
            let (objects, _) = super::super::parse(std::path::Path::new("a"), text.as_bytes());
            (*objects[0]).clone()
        };
        let mut names = Interner::default();
        let [a, b] = ["a", "b"].map(|name| {
            let mut pod = pod(name);
            pod.share(&mut names);
            pod
        });
        assert!(a.meta.labels.is_same(&b.meta.labels));
        assert!(a.meta.annotations.is_same(&b.meta.annotations));
        assert!(std::ptr::eq(a.meta.namespace(), b.meta.namespace()));
        let (Kind::Pod(a), Kind::Pod(b)) = (&a.kind, &b.kind) else {
            panic!("pods");
        };
        assert!(Arc::ptr_eq(&a.ports, &b.ports));
        assert!(Arc::ptr_eq(&a.on_node, &b.on_node) && !a.on_node.probe_ports.is_empty());
        assert!(std::ptr::eq(a.node_name.as_str(), b.node_name.as_str()));
    }
}
