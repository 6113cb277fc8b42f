//! Policies as a real API server (v1.33, with Istio's own definitions) prints them,
//! beside the dumps of its core kinds: lists, one object with managed fields, JSON.

use std::path::Path;

use super::super::{build, check, parse};
use super::kubernetes::DUMPS;
use crate::model::policy::{MeshSettings, PeerMode};
use crate::model::{Snapshot, SpiffeId, Workload};
use crate::policy::{Authorizer, Request};

const POLICIES: &str = include_str!("kubernetes/policies.yaml");
/// Of one kind each, `--raw`: of `v1`, and of `v1beta1` with what was written as `v1`.
const RAW: [&str; 2] = [
    include_str!("kubernetes/authorizationpolicies.json"),
    include_str!("kubernetes/peerauthentications.json"),
];

/// The core kinds, and policies from these files.
fn authorizer(policies: &[&str]) -> (Snapshot, Authorizer) {
    let mut objects = Vec::new();
    let core = DUMPS.iter().map(|(_, text)| text);
    for text in core.chain(policies) {
        let (more, problems) = parse(Path::new("dump"), text.as_bytes());
        assert!(problems.iter().all(|p| !p.is_mistake()), "{problems:?}");
        objects.extend(more);
    }
    let (snapshot, problems) = build(objects.iter());
    assert!(problems.iter().all(|p| !p.is_mistake()), "{problems:?}");
    let authorizer = Authorizer::compile(&snapshot);
    (snapshot, authorizer)
}

#[test]
fn policies_of_a_real_cluster_have_no_mistake_and_no_warning() {
    let dir = tempfile::tempdir().expect("a directory");
    let told = |with_policies: bool| {
        let policies = [("policies.yaml", POLICIES)].into_iter();
        let policies = policies.filter(|_| with_policies);
        for (name, text) in DUMPS.into_iter().chain(policies) {
            std::fs::write(dir.path().join(name), text).expect("write");
        }
        let update = check(dir.path(), MeshSettings::default()).expect("a directory");
        assert_eq!(update.mistakes().count(), 0);
        let told = update.problems.iter().map(ToString::to_string);
        told.collect::<Vec<String>>()
    };
    let without = told(false);
    assert_eq!(told(true), without);
}

#[test]
fn one_policy_with_managed_fields_is_read() {
    let one = include_str!("kubernetes/policy.yaml");
    assert!(one.contains("managedFields:"));
    let (objects, problems) = parse(Path::new("policy.yaml"), one.as_bytes());
    assert_eq!((objects.len(), problems.len()), (1, 0), "{problems:?}");
}

#[test]
fn they_mean_what_was_applied_in_whichever_form_they_are_printed() {
    for policies in [&[POLICIES][..], &RAW] {
        let (snapshot, authorizer) = authorizer(policies);
        let pod = |name: &str| {
            let pods = snapshot.workloads.values();
            let mut pods = pods.filter(|w| w.key.name.starts_with(name));
            pods.next().expect("the pod").clone()
        };
        let (web, db) = (pod("web-"), pod("db-"));
        // The mesh's, as the namespace's says nothing; its own, and its port's.
        assert_eq!(authorizer.peer_mode(&web, 8080), PeerMode::Strict);
        assert_eq!(authorizer.peer_mode(&db, 80), PeerMode::Permissive);
        assert_eq!(authorizer.peer_mode(&db, 5432), PeerMode::Strict);
        let outside = pod("plain");
        assert_eq!(authorizer.peer_mode(&outside, 80), PeerMode::Strict);
        let may = |who: &str, to: &Workload, port: u16| {
            let id = format!("spiffe://cluster.local/ns/{}", who.replace('/', "/sa/"));
            let id = SpiffeId::parse(&id).expect("an identity");
            let request = Request {
                source: Some(&id),
                source_ip: "10.244.1.9".parse().expect("an address"),
                destination: to,
                destination_ip: to.ips.iter().next().expect("an address"),
                destination_port: port,
                sni: None,
                http: None,
            };
            authorizer.check(&request).is_permit()
        };
        assert!(may("shop/web", &db, 5432));
        assert!(!may("shop/web", &db, 80), "another port");
        assert!(!may("shop/default", &db, 5432), "another account");
        assert!(may("outside/agent", &db, 5432));
        assert!(!may("outside/default", &db, 5432), "not that account");
        assert!(may("outside/agent", &web, 8080), "anybody, by the Service");
        assert!(!may("kube-system/x", &web, 8080), "a stranger");
        // Of the root namespace: it allows nobody.
        assert!(!may("shop/web", &outside, 80));
    }
}
