use std::path::Path;

use super::{Directory, build, parse};
use crate::model::policy::MeshSettings;
use crate::model::{Enrolment, OnAgentDown, OrigDst, RefuseReason, Snapshot};
use crate::route::{self, Decision};
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
fn a_service_finds_its_pods_on_both_families_by_named_port() {
    let (snapshot, problems) = load(SHOP);
    assert_eq!(problems, Vec::<String>::new());
    for vip in ["10.96.0.1:80", "[fd96::1]:80"] {
        let dst = OrigDst::new(vip.parse().expect("an address"));
        let Decision::Service { port, .. } = route::resolve(&snapshot, dst) else {
            panic!("{vip} is a service");
        };
        let endpoint = crate::balance::round_robin(&port.endpoints, dst.ip(), 7).expect("one");
        assert_eq!(endpoint.addr.port(), 8080);
        assert_eq!(endpoint.addr.ip().is_ipv4(), dst.ip().is_ipv4());
    }
    let unknown = OrigDst::new("10.96.0.1:81".parse().expect("an address"));
    assert!(matches!(
        route::resolve(&snapshot, unknown),
        Decision::Refused(RefuseReason::UnknownServicePort)
    ));
}

#[test]
fn a_misspelt_field_is_named_with_file_line_object_and_path() {
    let (_, problems) = load(&SHOP.replace("targetPort", "targetport"));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("shop.yaml:12: Service shop/web: spec.ports[0]"),
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
fn an_address_of_two_pods_belongs_to_neither() {
    let twin = SHOP.replace("web-0", "web-1");
    let (snapshot, problems) = load(&format!("{SHOP}\n---\n{twin}"));
    assert!(
        problems.iter().any(|p| p.contains("none of them gets it")),
        "{problems:?}"
    );
    assert!(snapshot.by_ip.is_empty());
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

#[test]
fn a_file_that_breaks_keeps_what_it_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("shop.yaml");
    std::fs::write(&file, SHOP).expect("write");
    let (mut directory, updates) =
        Directory::start(dir.path().to_owned(), MeshSettings::default()).expect("load");
    assert_eq!(updates.borrow().snapshot.generation, 1);
    std::fs::write(&file, SHOP.replace("kind: Service", "kind: [")).expect("write");
    directory.load().expect("load");
    let update = updates.borrow().clone();
    assert_eq!(update.snapshot.services.len(), 1);
    assert_eq!(update.snapshot.generation, 1, "nothing changed");
    assert_eq!(update.problems.len(), 1, "{:?}", update.problems);
    std::fs::remove_file(&file).expect("remove");
    directory.load().expect("load");
    assert_eq!(updates.borrow().snapshot.services.len(), 0);
    assert_eq!(updates.borrow().snapshot.generation, 2);
}

/// What `web-0` says to a peer of shop, another one and one without identity.
fn allowed(text: &str) -> [bool; 3] {
    let (snapshot, _) = load(&format!("{SHOP}\n---\n{text}"));
    let engine = crate::policy::Engine::compile(&snapshot);
    let pod = snapshot.workloads.values().next().expect("the pod");
    let ids = ["shop", "other"].map(|ns| {
        let uri = format!("spiffe://cluster.local/ns/{ns}/sa/web");
        crate::model::SpiffeId::parse(&uri).expect("an identity")
    });
    [Some(&ids[0]), Some(&ids[1]), None].map(|source| {
        let request = crate::policy::Request {
            source,
            source_ip: "10.0.0.9".parse().expect("an address"),
            destination: pod,
            destination_ip: "10.0.0.5".parse().expect("an address"),
            destination_port: 8080,
            sni: None,
        };
        engine.check(&request).is_ok()
    })
}

const ALLOW: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec:
  action: ALLOW
  selector: {matchLabels: {app: web}}
  rules:
  - from: [{source: {namespaces: [shop], ipBlocks: ["10.0.0.0/8"]}}]
    to: [{operation: {ports: ["8080"]}}]
"#;

#[test]
fn no_misspelling_of_a_policy_lets_more_through() {
    let deny = ALLOW
        .replace("ALLOW", "DENY")
        .replace("namespaces", "notNamespaces");
    for policy in [ALLOW.to_owned(), deny] {
        let before = allowed(&policy);
        assert_eq!(before, [true, false, false], "{policy}");
        for (from, to) in [
            ("apiVersion", "apiversion"),
            ("security.istio.io/v1", "security.istio.io/v7"),
            ("AuthorizationPolicy", "AuthorisationPolicy"),
            ("namespace: shop", "namespac: shop"),
            ("namespace: shop", "namespace: [shop]"),
            ("spec", "spce"),
            ("action:", "acton:"),
            ("action: ", "action: X"),
            ("selector", "selectr"),
            ("matchLabels", "matchLabel"),
            ("app: web", "app: [web]"),
            ("rules", "rule"),
            ("- from", "- form"),
            ("source:", "sauce:"),
            ("ipBlocks", "ipBlock"),
            ("amespaces", "amespace"),
            ("10.0.0.0/8", "10.0.0.0/88"),
            ("8080", "80800"),
            ("ports", "prots"),
            ("operation", "operations"),
            ("[\"8080\"]", "8080"),
            ("rules:", "rules: ["),
        ] {
            let broken = policy.replace(from, to);
            assert_ne!(load(&broken).1.len(), 0, "{from} -> {to} is reported");
            for (now, before) in allowed(&broken).into_iter().zip(before) {
                assert!(before || !now, "{from} -> {to} lets more through: {broken}");
            }
        }
    }
}

#[test]
fn peer_authentication_goes_from_port_to_workload_to_namespace_to_mesh() {
    use crate::model::policy::PeerMode::{self, Disable, Permissive, Strict};
    let peer = |namespace: &str, name: &str, spec: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
             metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
        )
    };
    let mesh = peer("istio-system", "m", "{mtls: {mode: STRICT}}");
    let shop = peer("shop", "all", "{mtls: {mode: PERMISSIVE}}");
    let web = "selector: {matchLabels: {app: web}}";
    let port = format!("{{{web}, mtls: {{mode: UNSET}}, portLevelMtls: {{9: {{mode: DISABLE}}}}}}");
    let port = peer("shop", "w", &port);
    let later = peer("shop", "x", &format!("{{{web}, mtls: {{mode: DISABLE}}}}"));
    let broken = peer("shop", "z", "{mtls: {mode: STRIKT}}");
    let cases: [(String, [PeerMode; 2]); 7] = [
        (String::new(), [Permissive; 2]),
        (mesh.clone(), [Strict; 2]),
        (format!("{mesh}{shop}"), [Permissive; 2]),
        (format!("{mesh}{port}"), [Strict, Disable]),
        (format!("{mesh}{shop}{port}"), [Permissive, Disable]),
        (format!("{mesh}{later}{port}"), [Strict, Disable]),
        (format!("{shop}{port}{broken}"), [Strict; 2]),
    ];
    for (text, expected) in cases {
        let (snapshot, problems) = load(&format!("{SHOP}{text}"));
        let engine = crate::policy::Engine::compile(&snapshot);
        let pod = snapshot.workloads.values().next().expect("the pod");
        let modes = [8080, 9].map(|port| engine.peer_mode(pod, port));
        assert_eq!(modes, expected, "{text} {problems:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _parsed = parse(Path::new("x.yaml"), &bytes);
    }
}
