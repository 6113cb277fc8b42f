mod advisories;
mod check;
mod choice;
mod cost;
mod early;
mod examples;
mod files;
mod guesses;
mod istio;
mod kinds;
mod kubernetes;
mod kubernetes_policies;
mod lists;
mod odd;
mod oracle;
mod parts;
mod peers;
mod plaintext;
mod policies;
mod recover;
mod resources;
mod routes;
mod sandboxes;
mod slices;
mod targets;
mod traffic;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::objects::Object;
use super::store::{Said, Store};
use super::{build, parse};
use crate::model::{Endpoint, Enrolment, OnAgentDown, OrigDst, Outside, RefuseReason, Snapshot};
use crate::route::{self, RouteDecision};
use proptest::prelude::*;

const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {mesh-agent.io/enrolled: "true"}}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}, annotations: {mesh-agent.io/netns: /run/netns/web-0}}
spec: {nodeName: n1, containers: [{ports: [{name: http, containerPort: 8080}]}]}
status: {phase: Running, podIP: 10.0.0.5, podIPs: [{ip: 10.0.0.5}, {ip: "fd00::5"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, "fd96::1"]
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
"#;

fn load(text: &str) -> (Snapshot, Vec<String>) {
    let (objects, mut problems) = parse(Path::new("shop.yaml"), text.as_bytes());
    let (snapshot, more) = build(objects.iter());
    problems.extend(more);
    (snapshot, problems.iter().map(ToString::to_string).collect())
}

#[test]
fn an_enrolled_pod_needs_an_address_unless_it_is_starting() {
    let problems = |phase: &str| {
        let (_, problems) = load(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: shop, labels: {{mesh-agent.io/enrolled: \"true\"}}}}\n\
             spec: {{nodeName: n1}}\nstatus: {{{phase}}}\n"
        ));
        problems
    };
    assert_eq!(problems("phase: Pending"), Vec::<String>::new());
    for told in ["phase: Running", ""] {
        let problems = problems(told);
        let [one] = &problems[..] else {
            panic!("{told:?}: {problems:?}");
        };
        assert!(one.contains("needs an address"), "{one}");
    }
}

#[test]
fn an_application_is_told_who_calls_where_its_pod_or_namespace_says_so() {
    const ASKS: &str = "mesh-agent.io/forward-client-cert-details";
    let annotated = |of_pod: Option<&str>, of_namespace: Option<&str>| {
        let line = |value: &str| format!("annotations: {{{ASKS}: {value}");
        let mut text = SHOP.to_owned();
        if let Some(value) = of_pod {
            text = text.replace("annotations: {", &format!("{}, ", line(value)));
        }
        if let Some(value) = of_namespace {
            let before = "name: shop, labels";
            assert!(text.contains(before), "the namespace's metadata");
            text = text.replace(before, &format!("name: shop, {}}}, labels", line(value)));
        }
        let (snapshot, problems) = load(&text);
        let pod = snapshot.workloads.values().next().expect("a pod");
        (pod.on_node.forwards_client_cert, problems.len())
    };
    for (of_pod, of_namespace, expected) in [
        (None, None, (false, 0)),
        (Some("SANITIZE_SET"), None, (true, 0)),
        (None, Some("SANITIZE_SET"), (true, 0)),
        (Some("SANITIZE"), Some("SANITIZE_SET"), (false, 0)),
        (Some("APPEND_FORWARD"), Some("SANITIZE_SET"), (false, 1)),
    ] {
        let found = annotated(of_pod, of_namespace);
        assert_eq!(found, expected, "{of_pod:?} {of_namespace:?}");
    }
}

#[test]
fn requests_of_connect_may_come_where_a_pod_says_so_in_so_many_words() {
    for (value, expected) in [
        (None, (false, 0)),
        (Some("true"), (true, 0)),
        (Some("false"), (false, 0)),
        (Some("yes"), (false, 1)),
    ] {
        let line = value.map(|value| format!("mesh-agent.io/allow-connect: \"{value}\", "));
        let line = format!("annotations: {{{}", line.unwrap_or_default());
        let (snapshot, problems) = load(&SHOP.replace("annotations: {", &line));
        let pod = snapshot.workloads.values().next().expect("a pod");
        let found = (pod.on_node.allows_connect, problems.len());
        assert_eq!(found, expected, "{value:?}");
    }
}

#[test]
fn only_addresses_that_are_not_the_pods_own_can_be_left_alone() {
    let annotated = |list: &str| {
        let text = SHOP.replace(
            "annotations: {",
            &format!("annotations: {{mesh-agent.io/exclude-addresses: \"{list}\", "),
        );
        let (snapshot, problems) = load(&text);
        let pod = snapshot.workloads.values().next().expect("a pod");
        (pod.on_node.excluded.clone(), problems.len())
    };
    let other = |text: &str| text.parse::<std::net::IpAddr>().expect("an address");
    let two = vec![other("10.9.0.5"), other("fd09::5")];
    assert_eq!(annotated("10.9.0.5, fd09::5"), (two, 0));
    for refused in [
        "10.0.0.5",
        "::ffff:10.0.0.5",
        "fd00::5",
        "10.9.0.0/24",
        "all",
    ] {
        assert_eq!(annotated(refused), (vec![], 1), "{refused}");
        let mixed = annotated(&format!("{refused}, 10.9.0.5"));
        assert_eq!(mixed, (vec![other("10.9.0.5")], 1), "{refused}");
    }
}

#[test]
fn a_service_finds_its_pods_on_both_families_by_named_port() {
    let (snapshot, problems) = load(SHOP);
    assert_eq!(problems, Vec::<String>::new());
    for vip in ["10.96.0.1:80", "[fd96::1]:80"] {
        let dst = OrigDst::new(vip.parse().expect("an address"));
        let RouteDecision::Service { port, .. } = route::resolve(&snapshot, dst) else {
            panic!("{vip} is a service");
        };
        let is_family = |e: &&Endpoint| e.addr.ip().is_ipv4() == dst.ip().is_ipv4();
        let endpoint = port.endpoints.iter().find(is_family).expect("one");
        assert_eq!(endpoint.addr.port(), 8080);
    }
    let unknown = OrigDst::new("10.96.0.1:81".parse().expect("an address"));
    assert!(matches!(
        route::resolve(&snapshot, unknown),
        RouteDecision::Refused(RefuseReason::UnknownServicePort)
    ));
}

#[test]
fn a_misspelt_field_is_named_with_file_line_object_and_path() {
    let (_, problems) = load(&SHOP.replace("targetPort", "targetport"));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("shop.yaml:12: warning: Service shop/web: spec.ports[0]"),
        "{problems:?}"
    );
    assert!(problems[0].contains("targetport"), "{problems:?}");
}

#[test]
fn an_enrolment_label_that_is_not_understood_never_means_plaintext() {
    let (snapshot, problems) = load(&SHOP.replace("\"true\"", "\"yes\""));
    assert_eq!(problems.len(), 1);
    let pod = snapshot.workloads.values().next().expect("the pod");
    assert_eq!(pod.enrolment, Enrolment::Yes(OnAgentDown::Closed));
}

#[test]
fn why_a_pod_is_outside_of_the_mesh_is_known() {
    let pod = |name: &str, label: &str, spec: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{{label}}}}}\n\
             spec: {{nodeName: n1{spec}}}\nstatus: {{phase: Running}}\n---\n"
        )
    };
    let (asked, refused) = (
        "mesh-agent.io/enrolled: \"true\"",
        "mesh-agent.io/enrolled: \"false\"",
    );
    let on_host = ", hostNetwork: true";
    let pods = [
        pod("plain", "", ""),
        pod("out", refused, ""),
        pod("other", asked, ", containers: [{name: istio-proxy}]"),
        pod("asked", asked, on_host),
        pod("unasked", "", on_host),
    ];
    let (snapshot, problems) = load(&pods.concat());
    assert_eq!(problems, [""; 0]);
    let of = |name: &str| {
        let found = snapshot
            .workloads
            .values()
            .find(|pod| *pod.key.name == *name);
        found.expect("a pod").enrolment
    };
    assert_eq!(of("plain"), Enrolment::No(Outside::NotAsked));
    assert_eq!(of("out"), Enrolment::No(Outside::OptedOut));
    assert_eq!(of("other"), Enrolment::No(Outside::AnotherMesh));
    let on_host = snapshot.asked_on_host.iter();
    let on_host: Vec<_> = on_host.map(|(key, node)| format!("{key} {node}")).collect();
    assert_eq!(on_host, ["shop/asked n1"]);
}

#[test]
fn an_address_of_two_pods_belongs_to_neither() {
    let twin = SHOP.replace("web-0", "web-1");
    let (snapshot, problems) = load(&format!("{SHOP}\n---\n{twin}"));
    assert!(
        problems.iter().any(|p| p.contains("none of them gets it")),
        "{problems:?}"
    );
    assert!(snapshot.by_ip.is_empty());
    let ip = "10.0.0.5".parse().expect("an address");
    assert!(
        snapshot.withholds(ip, Instant::now()).is_some(),
        "nor to plaintext"
    );
    let outside = |text: &str| text.replace("\"true\"", "\"false\"");
    let (snapshot, _) = load(&format!("{}\n---\n{}", outside(SHOP), outside(&twin)));
    assert!(
        snapshot.withholds(ip, Instant::now()).is_none(),
        "not of the mesh"
    );
}

#[test]
fn no_plaintext_goes_to_an_address_that_a_mesh_pod_has_just_left() {
    let ip = "10.0.0.5".parse().expect("an address");
    let now = Instant::now();
    let after = |seconds| now + Duration::from_secs(seconds);
    let mut config = Changing::default();
    config.say("shop", SHOP, now);
    let left = config.say("shop", "", now);
    assert!(left.withholds(ip, now).is_some() && left.withholds(ip, after(59)).is_some());
    assert!(left.withholds(ip, after(60)).is_none());
    // Other changes do not begin the minute again.
    let later = config.say("other", OTHER, after(30));
    assert!(later.withholds(ip, after(59)).is_some() && later.withholds(ip, after(60)).is_none());
    let back = config.say("shop", SHOP, after(31));
    assert!(back.withholds(ip, after(31)).is_none(), "known again");
    config.say("shop", "", after(32));
    assert!(config.say("other", "", after(92)).withheld.is_empty());
    let mut config = Changing::default();
    config.say("shop", &SHOP.replace("\"true\"", "\"false\""), now);
    let never = config.say("shop", "", now);
    assert!(never.withholds(ip, now).is_none(), "not of the mesh");
}

const OTHER: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: other}\n---\n\
    apiVersion: v1\nkind: Service\nmetadata: {name: other}\nspec: {clusterIP: None}\n";

/// A configuration that changes, file by file.
#[derive(Default)]
struct Changing {
    store: Store,
    files: BTreeMap<String, Vec<Arc<Object>>>,
}

impl Changing {
    fn say(&mut self, file: &str, text: &str, now: Instant) -> Snapshot {
        let (objects, _) = parse(Path::new(file), text.as_bytes());
        let before = self.files.insert(file.to_owned(), objects.clone());
        let said = |objects: &[Arc<Object>], store: &mut Store| {
            let before = before.unwrap_or_default();
            let (before, now) = (Said::here(&before), Said::here(objects));
            store.replace(&before, &now);
        };
        said(&objects, &mut self.store);
        self.store.commit(now);
        self.store.snapshot().clone()
    }
}

#[test]
fn a_virtual_address_stays_with_its_first_service() {
    let second = SHOP
        .split("---")
        .last()
        .expect("the service")
        .replace("name: web, ", "name: zweb, ");
    let (snapshot, problems) = load(&format!("{SHOP}\n---\n{second}"));
    assert!(
        problems
            .iter()
            .any(|p| p.contains("belongs to Service shop/web already")),
        "{problems:?}"
    );
    assert_eq!(snapshot.by_vip.len(), 2);
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _parsed = parse(Path::new("x.yaml"), &bytes);
    }
}

#[test]
fn aliases_repeat_what_is_written_and_do_not_multiply_it() {
    let again = SHOP
        .replace("labels: {app: web}", "labels: &labels {app: web}")
        .replace("annotations: {", "annotations: {<<: *labels, ");
    let (snapshot, problems) = load(&again);
    assert_eq!((problems, snapshot.workloads.len()), (vec![], 1));
    let level = |n: usize| {
        format!(
            "a{n}: &a{n} [{}]\n",
            vec![format!("*a{}", n - 1); 9].join(",")
        )
    };
    let bomb: String = (1..9).map(level).collect();
    let (_, problems) = load(&format!("a0: &a0 [x]\n{bomb}"));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("alias"), "{problems:?}");
}

#[test]
fn the_sample_for_vms_has_no_mistake() {
    let (snapshot, problems) = load(include_str!("../../../deploy/vm/config.d/shop.yaml"));
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(snapshot.by_ip.len(), 2);
}
