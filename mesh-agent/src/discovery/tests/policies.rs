use super::{SHOP, load};

/// What `web-0` says to a peer of shop, another one and one without identity.
pub(super) fn allowed(text: &str) -> [bool; 3] {
    let (snapshot, _) = load(&format!("{SHOP}\n---\n{text}"));
    let authorizer = crate::policy::Authorizer::compile(&snapshot);
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
            http: None,
        };
        authorizer.check(&request).is_permit()
    })
}

pub(super) const ALLOW: &str = r#"
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
        let authorizer = crate::policy::Authorizer::compile(&snapshot);
        let pod = snapshot.workloads.values().next().expect("the pod");
        let modes = [8080, 9].map(|port| authorizer.peer_mode(pod, port));
        assert_eq!(modes, expected, "{text} {problems:?}");
    }
}

#[test]
fn a_document_of_no_known_kind_that_speaks_as_a_policy_restricts() {
    let named = |spec: &str| {
        format!(
            "apiVersion: security.istoi.io/v1\nkind: AuthorisationPolicy\n\
             metadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
        )
    };
    for spec in [
        "{action: DENY}",
        "{action: ALLOW, rules: [{}]}",
        "{rules: [{from: [{source: {namespaces: [shop]}}]}]}",
    ] {
        assert_eq!(allowed(&named(spec)), [false; 3], "{spec}");
        assert_eq!(load(&named(spec)).1.len(), 2, "kind and apiVersion: {spec}");
    }
    for other in [
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: p, namespace: shop}\n\
         spec: {rules: [{matches: [{path: {value: /}}]}]}\n",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\n\
         spec: {ingress: [{from: []}]}\n",
        "apiVersion: x/v1\nkind: X\nmetadata: {name: p, namespace: shop}\nspec: {}\n",
    ] {
        assert_eq!(allowed(other), [true; 3], "{other}");
        assert_eq!(
            load(&format!("{SHOP}---\n{other}")).1,
            Vec::<String>::new(),
            "{other}"
        );
    }
}

#[test]
fn policies_in_a_list_count_whatever_the_list_is_called() {
    for kind in ["List", "AuthorizationPolicyList", "Lst"] {
        let deny = r#"{"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "p", "namespace": "shop"}, "spec": {"action": "DENY", "rules": [{}]}}"#;
        let list = format!(r#"{{"apiVersion": "v1", "kind": "{kind}", "items": [{deny}]}}"#);
        assert_eq!(allowed(&list), [false; 3], "{kind}");
        let told = load(&list).1;
        assert_eq!(told.len(), usize::from(kind == "Lst"), "{told:?}");
    }
}

#[test]
fn a_document_that_is_not_yaml_and_speaks_as_a_policy_restricts() {
    let kindless = ALLOW
        .replace("AuthorizationPolicy", "AuthorisationPolcy")
        .replace("security.istio.io", "security.istoi.io");
    for broken in [
        kindless.replace("rules:", "rules: ["),
        kindless.replace("action: ALLOW", "action: DENY: ["),
        kindless
            .replace("spec:", "spec: }")
            .replace("action: ALLOW", ""),
    ] {
        assert_eq!(allowed(&broken), [false; 3], "{broken}");
    }
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: shop}\nspec: {ports: [}\n";
    assert_eq!(allowed(service), [true; 3]);
}

#[test]
fn a_lost_separator_loses_no_policy() {
    let deny = ALLOW.replace("ALLOW", "DENY").replace("name: p", "name: q");
    let elsewhere = ALLOW.replace("namespace: shop", "namespace: other");
    for (first, second) in [(ALLOW, deny.as_str()), (elsewhere.as_str(), deny.as_str())] {
        for joint in ["", "--\n", " ---\n"] {
            let text = format!("{first}{joint}{second}");
            assert_eq!(allowed(&text), [false; 3], "{text}");
        }
    }
}

#[test]
fn metadata_that_the_api_writes_to_what_it_deletes_is_known() {
    let text = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                metadata: {name: p, namespace: shop, deletionTimestamp: '2026-01-01T00:00:00Z', deletionGracePeriodSeconds: 0}\n\
                spec: {action: DENY}\n";
    let (_, problems) = super::super::parse(std::path::Path::new("a.yaml"), text.as_bytes());
    assert_eq!(problems, []);
}
