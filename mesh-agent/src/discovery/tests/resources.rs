//! Objects of the API: each is a place of its own.

use std::sync::Arc;
use std::time::Instant;

use super::super::documents::document;
use super::super::last_good::keep_last_good;
use super::super::objects::Object;
use super::super::origin::{Origin, Place};
use super::super::publish::{Publisher, Update};
use super::super::store::Said;
use crate::model::policy::MeshSettings;
use crate::policy::Here;
use tokio::sync::watch;

const PATH: &str = "/api/v1/namespaces/shop/pods/web-0";

/// A source of one object.
struct Source {
    publisher: Publisher,
    updates: watch::Receiver<Update>,
    objects: Vec<Arc<Object>>,
}

impl Source {
    fn new() -> Self {
        let (publisher, updates) = Publisher::new(MeshSettings::default(), Here::default());
        let objects = Vec::new();
        Self {
            publisher,
            updates,
            objects,
        }
    }

    fn apply(&mut self, version: &str, labels: &str) -> Update {
        let json = format!(
            r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "web-0", "namespace": "shop", "labels": {labels}}},
            "status": {{"podIP": "10.0.0.5"}}}}"#
        );
        let origin = Origin::version(Place::resource(PATH), version.into());
        let mut now = document(&origin, &json, true);
        if !now.problems.is_empty() {
            keep_last_good(&mut now, &self.objects);
        }
        self.publisher
            .replace(&Said::here(&self.objects), &Said::here(&now.objects));
        self.objects = now.objects;
        self.publisher
            .publish(now.problems.iter(), 0, Instant::now());
        self.updates.borrow().clone()
    }

    fn delete(&mut self) -> Update {
        let objects = std::mem::take(&mut self.objects);
        self.publisher
            .replace(&Said::here(&objects), &Said::NOTHING);
        self.publisher.publish([].iter(), 0, Instant::now());
        self.updates.borrow().clone()
    }
}

fn apps(update: &Update) -> Vec<String> {
    let workloads = update.snapshot.workloads.values();
    workloads.map(|w| w.app.to_string()).collect()
}

#[test]
fn an_object_of_the_api_keeps_its_last_good_version_and_is_gone_when_it_is_deleted() {
    let mut source = Source::new();
    let update = source.apply("7", r#"{"app": "web"}"#);
    assert_eq!(
        (apps(&update), update.problems.len()),
        (vec!["web".into()], 0)
    );
    let update = source.apply("8", "[]");
    assert_eq!(apps(&update), ["web"], "what it said before holds");
    let told: Vec<String> = update.problems.iter().map(ToString::to_string).collect();
    let expected =
        format!("{PATH} (version 8): Pod shop/web-0: metadata.labels: expected a mapping");
    assert_eq!(told, [expected]);
    let update = source.delete();
    assert_eq!((apps(&update), update.problems.len()), (vec![], 0));
}

#[test]
fn what_a_source_cannot_read_leaves_in_force_what_was_until_it_is_read_again() {
    let mut source = Source::new();
    let first = source.apply("7", r#"{"app": "web"}"#);
    let origin = Origin::whole(Place::resource("/api/v1/pods"));
    let message = "no answer".to_owned();
    let code = super::super::Code::UnreadableFile;
    let problem = super::super::Problem::new(code, origin, message);
    source.publisher.keep(problem);
    let kept = source.updates.borrow().clone();
    assert_eq!(kept.problems.len(), 1);
    assert_eq!(kept.snapshot.generation, first.snapshot.generation);
    source.publisher.publish([].iter(), 0, Instant::now());
    assert_eq!(source.updates.borrow().problems.len(), 0);
}
