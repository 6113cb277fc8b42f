//! Pods that are told before their namespaces, by a source that tells all of these.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::super::objects::Object;
use super::super::parse;
use super::super::store::{Said, Store};
use super::SHOP;
use crate::model::{RefuseReason, WorkloadKey};

fn objects(text: &str) -> Vec<Arc<Object>> {
    parse(Path::new("shop.yaml"), text.as_bytes()).0
}

struct World {
    store: Store,
    said: Vec<Arc<Object>>,
}

impl World {
    fn new() -> Self {
        let mut store = Store::default();
        store.expect_namespaces();
        Self {
            store,
            said: Vec::new(),
        }
    }

    fn say(&mut self, text: &str) {
        let now = objects(text);
        self.store
            .replace(&Said::here(&self.said), &Said::here(&now));
        self.store.commit(Instant::now());
        self.said = now;
    }

    /// `None`: neither in the mesh nor outside.
    fn is_enrolled(&self) -> Option<bool> {
        let key = WorkloadKey::new("shop", "web-0");
        let known = self.store.snapshot().workloads.get(&key);
        assert_ne!(
            known.is_some(),
            self.store.snapshot().unreadable_pods.contains(&key)
        );
        known.map(|workload| workload.is_enrolled())
    }

    fn why(&self) -> Option<RefuseReason> {
        let ip = "10.0.0.5".parse().expect("an address");
        self.store.snapshot().withholds(ip, Instant::now())
    }
}

fn without_namespace() -> String {
    let (_, rest) = SHOP.split_once("---").expect("two");
    rest.to_owned()
}

#[test]
fn a_pod_that_is_told_before_its_namespace_is_not_known_yet() {
    for (label, is_enrolled) in [("\"true\"", true), ("\"false\"", false)] {
        let mut world = World::new();
        world.say(&without_namespace());
        assert_eq!(world.is_enrolled(), None);
        assert!(world.why().is_some(), "nothing goes to it in plaintext");
        world.say(&SHOP.replace("\"true\"", label));
        assert_eq!(world.is_enrolled(), Some(is_enrolled));
        assert_eq!(world.why(), None);
        // What is enrolled stays so where its namespace is told no more.
        world.say(&without_namespace());
        assert_eq!(world.is_enrolled(), None);
        assert!(world.why().is_some());
    }
}

#[test]
fn what_a_pod_says_itself_needs_no_namespace() {
    for (label, is_enrolled) in [("\"true\"", true), ("\"false\"", false)] {
        let own = format!("labels: {{app: web, mesh-agent.io/enrolled: {label}}}");
        let mut world = World::new();
        world.say(&without_namespace().replace("labels: {app: web}", &own));
        assert_eq!(world.is_enrolled(), Some(is_enrolled));
    }
}

#[test]
fn a_directory_need_not_have_the_namespaces() {
    let mut world = World::new();
    world.store = Store::default();
    world.say(&without_namespace());
    assert_eq!(world.is_enrolled(), Some(false));
}
