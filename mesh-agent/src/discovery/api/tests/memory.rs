//! What a pod costs in memory.

use super::super::places::{Places, Staging, To};
use super::*;
use crate::discovery::intern::Interner;
use crate::discovery::publish::Publisher;
use crate::kube::{Item, Resource};
use crate::sys::heap;

/// As a Deployment's, of ten: what the API server has of it, but for what nobody reads.
fn json(n: usize, version: usize) -> String {
    let (app, namespace) = (n / 10, n / 100);
    json!({
        "metadata": {
            "name": format!("app-{app}-5d8f6c7b9d-x{n:05}"), "namespace": format!("ns-{namespace}"),
            "uid": format!("3b2f7c1e-8d5a-4c6b-9e0f-{n:012}"), "resourceVersion": format!("{}", version + n),
            "labels": {"app": format!("app-{app}"), "pod-template-hash": "5d8f6c7b9d"},
        },
        "spec": {
            "nodeName": format!("node-{}", n % 500), "serviceAccountName": format!("app-{app}"),
            "containers": [{"name": "app", "image": "x", "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}}}],
        },
        "status": {
            "phase": "Running", "podIPs": [{"ip": format!("10.{}.{}.{}", n / 60_000, n / 250 % 250, n % 250)}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
    .to_string()
}

/// Pods that are not this node's: as many lists of them, and what is in force.
fn held(pods: usize, lists: usize) -> isize {
    let resource = resources::served().into_iter().find(|r| r.plural == "pods");
    let resource: Resource = resource.expect("pods");
    let (mut publisher, _updates) =
        Publisher::new(MeshSettings::default(), Here::Node("this".to_owned()));
    let (mut names, mut problems) = (Interner::default(), std::collections::BTreeMap::new());
    let before = heap::held();
    let mut places = Places::new(resource);
    for list in 1..=lists {
        let mut staging = Staging::default();
        for n in 0..pods {
            let item = Item::read(&resource, json(n, list * 1_000_000).as_bytes());
            places.stage(&item, (&mut staging, None), &mut names);
        }
        let mut to = To {
            publisher: &mut publisher,
            names: &mut names,
            problems: &mut problems,
        };
        assert!(places.take(staging, &mut to));
        publisher.publish([].iter(), 0, Instant::now());
    }
    assert_eq!(publisher.published().load().snapshot.workloads.len(), pods);
    heap::held() - before
}

/// The aim for each pod of the cluster. It varies by some bytes: seeds of hash tables decide
/// which of them double, and in which order trees are filled.
const MOST: isize = 1_024;

#[test]
fn what_a_pod_takes_is_bounded() {
    let (few, many) = (held(2_000, 1), held(10_000, 1));
    let each = (many - few) / 8_000;
    println!("{each} bytes a pod");
    assert!(each <= MOST, "{each} bytes a pod");
}

/// A start from disk, a list anew, a change of what nobody reads.
#[test]
fn a_pod_that_is_told_again_takes_no_more() {
    let (once, twice) = (held(2_000, 1), held(2_000, 2));
    let more = (twice - once) / 2_000;
    println!("{more} bytes more a pod");
    assert!(more <= 40, "{more} bytes more a pod");
}
