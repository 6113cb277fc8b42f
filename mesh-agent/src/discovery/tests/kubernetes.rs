//! Dumps of a real API server (v1.33, `kubectl get -o yaml` and `--raw`).

use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use super::super::{build, check, parse};
use crate::model::policy::MeshSettings;
use crate::model::{OrigDst, Snapshot};
use crate::route::{self, RouteDecision};

pub(super) const DUMPS: [(&str, &str); 3] = [
    ("default.yaml", include_str!("kubernetes/default.yaml")),
    ("shop.yaml", include_str!("kubernetes/shop.yaml")),
    ("outside.yaml", include_str!("kubernetes/outside.yaml")),
];

pub(super) fn cluster() -> (Snapshot, Vec<String>) {
    let mut objects = Vec::new();
    let mut problems = Vec::new();
    for (name, text) in DUMPS {
        let (more, told) = parse(Path::new(name), text.as_bytes());
        objects.extend(more);
        problems.extend(told);
    }
    let (snapshot, told) = build(objects.iter());
    problems.extend(told);
    (snapshot, problems.iter().map(ToString::to_string).collect())
}

fn resolve(snapshot: &Snapshot, to: &str) -> Result<Vec<String>, String> {
    let dst = OrigDst::new(to.parse().expect("an address"));
    match route::resolve(snapshot, dst) {
        RouteDecision::Service { port, .. } => {
            let names = port.endpoints.iter().map(|e| {
                let pod = e.workload.as_ref().map(|w| w.key.name.to_string());
                pod.unwrap_or_else(|| e.addr.to_string())
            });
            Ok(names.collect())
        }
        RouteDecision::Workload(workload) => Ok(vec![workload.key.name.to_string()]),
        RouteDecision::External => Err("outside".to_owned()),
        RouteDecision::Refused(reason) => Err(format!("{reason:?}")),
    }
}

#[test]
fn a_real_cluster_has_no_mistake_and_only_warnings_that_are_meant() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, text) in DUMPS {
        std::fs::write(dir.path().join(name), text).expect("write");
    }
    let update = check(dir.path(), MeshSettings::default()).expect("a directory");
    let told: Vec<String> = update.problems.iter().map(ToString::to_string).collect();
    assert_eq!(update.mistakes().count(), 0, "{told:?}");
    let about = |what: &str| told.iter().filter(|t| t.contains(what)).count();
    assert_eq!(about("ExternalName"), 1, "{told:?}");
    assert_eq!(about("no pod is behind"), 1, "{told:?}");
    assert_eq!((told.len(), about("unknown field")), (2, 0), "{told:?}");
    // Deployment, StatefulSet, Job, and ConfigMaps.
    assert!(update.skipped >= 5, "{}", update.skipped);
}

#[test]
fn single_objects_with_managed_fields_and_a_list_of_one_kind_are_read() {
    let single = include_str!("kubernetes/single.yaml");
    let raw = include_str!("kubernetes/services.json");
    let (objects, problems) = parse(Path::new("single.yaml"), single.as_bytes());
    assert!(problems.iter().all(|p| !p.is_mistake()), "{problems:?}");
    assert_eq!(objects.len(), 5);
    let (objects, problems) = parse(Path::new("services.json"), raw.as_bytes());
    assert!(problems.iter().all(|p| !p.is_mistake()), "{problems:?}");
    assert_eq!(objects.len(), 6);
}

#[test]
fn no_plaintext_goes_to_a_pod_or_a_service_of_a_real_cluster() {
    let (snapshot, _) = cluster();
    let enrolled = |w: &crate::model::Workload| w.key.namespace == "shop";
    // The Job is over, exporters have their node's address.
    assert_eq!(snapshot.workloads.len(), 5);
    for workload in snapshot.workloads.values() {
        assert_eq!(
            workload.is_enrolled(),
            enrolled(workload),
            "{}",
            workload.key
        );
        assert_eq!(workload.ips.iter().count(), 2, "{}", workload.key);
        for ip in workload.ips.iter() {
            assert!(snapshot.by_ip.contains_key(&ip));
        }
    }
    assert!(snapshot.withheld.is_empty(), "{:?}", snapshot.withheld);
    assert!(snapshot.unreadable_pods.is_empty() && !snapshot.hides_pods);
    let web = snapshot
        .services
        .values()
        .find(|s| s.key.to_string() == "shop/web");
    let web = web.expect("the Service");
    assert_eq!(web.vips.len(), 2);
    let external = ["192.0.2.10", "203.0.113.5"].map(|ip| ip.parse::<IpAddr>().expect("one"));
    for vip in web.vips.iter().chain(&external) {
        for port in [80, 9090] {
            let at = std::net::SocketAddr::new(*vip, port).to_string();
            let pods = resolve(&snapshot, &at).expect("a service");
            let of_the_family = pods.iter().filter(|p| p.starts_with("web-")).count();
            assert_eq!(of_the_family, 4, "{at}: {pods:?}");
        }
    }
    // The other ports of an external address are the node's.
    assert_eq!(
        resolve(&snapshot, "192.0.2.10:22"),
        Err("outside".to_owned())
    );
    for service in snapshot.services.values() {
        for endpoint in service.ports.iter().flat_map(|p| p.endpoints.iter()) {
            let known = endpoint.workload.as_ref().is_some_and(|w| w.is_enrolled());
            let outside = ["shop/legacy", "outside/exporter", "default/kubernetes"];
            assert_eq!(
                known,
                !outside.contains(&service.key.to_string().as_str()),
                "{}",
                service.key
            );
        }
    }
}

#[test]
fn a_service_as_kubernetes_prints_it_keeps_plaintext_from_its_address_whatever_is_wrong_with_it() {
    let (whole, _) = cluster();
    let shop = include_str!("kubernetes/shop.yaml");
    for (from, to) in [
        ("targetPort: http", "targetPort: []"),
        ("port: 80", "port: eighty"),
        ("selector:\n      app: web", "selector: []"),
        (
            "    ports:\n    - appProtocol",
            "    ports: x\n    prots:\n    - appProtocol",
        ),
        ("kind: Service\n", "kind: Servce\n"),
    ] {
        assert!(shop.contains(from), "{from}");
        let (objects, problems) = parse(Path::new("shop.yaml"), shop.replace(from, to).as_bytes());
        assert!(
            problems.iter().any(super::super::Problem::is_mistake),
            "{to}"
        );
        let (snapshot, _) = build(objects.iter());
        for vip in whole
            .by_vip
            .keys()
            .filter(|ip| whole.by_vip[ip].key.namespace == "shop")
        {
            let at = std::net::SocketAddr::new(*vip, 80).to_string();
            let outside = resolve(&snapshot, &at) == Err("outside".to_owned());
            let refused = snapshot.withholds(*vip, Instant::now()).is_some();
            assert!(!outside || refused, "{to}: {at}");
        }
    }
}
