//! What `check-config` says: each thing once, and exactly where.

use super::super::Checked;
use super::SHOP;
use crate::model::TrustDomain;
use crate::model::policy::MeshSettings;

fn checked(files: &[(&str, &str)], settings: MeshSettings) -> (Vec<String>, serde_json::Value) {
    let root = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        std::fs::write(root.path().join(name), text).expect("written");
    }
    let checked = Checked::of(root.path(), settings).expect("a directory");
    let dir = format!("{}", root.path().display());
    let text = checked
        .to_string()
        .replace(&format!("{dir}/"), "")
        .replace(&dir, "DIR");
    let lines = text.lines().map(str::to_owned).collect();
    (lines, serde_json::to_value(&checked).expect("JSON"))
}

fn lines(files: &[(&str, &str)]) -> Vec<String> {
    checked(files, MeshSettings::default()).0
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata:\n  name: p\n  namespace: shop\nspec:\n{spec}"
    )
}

#[test]
fn a_mistake_is_told_once_with_line_column_and_code() {
    let shop = SHOP.replace("targetPort", "targetport");
    let deny =
        policy("  action: DENY\n  rules:\n  - from:\n    - source:\n        principles: [x]\n");
    let said = lines(&[("a.yaml", &deny), ("shop.yaml", &shop)]);
    assert!(
        said[0].starts_with("a.yaml:11:9: AuthorizationPolicy shop/p: spec.rules[0].from[0].source.principles: unknown field"),
        "{said:#?}"
    );
    assert!(said[0].ends_with("[unknown-field]"), "{said:#?}");
    assert!(
        said[1].starts_with("shop.yaml:19:34: warning: Service shop/web: spec.ports[0]"),
        "{said:#?}"
    );
    assert_eq!(
        said[2..],
        [
            "AuthorizationPolicy shop/p: DENY, selects 1 workload; it has a mistake, so it denies all connections to what it selects",
            "DIR: 1 mistake, 1 warning"
        ],
    );
}

#[test]
fn a_field_in_a_list_of_objects_is_found_too() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a}\n- apiVersion: security.istio.io/v1\n  kind: PeerAuthentication\n  metadata: {name: p, namespace: a}\n  spec:\n    mtls: {mode: STRIKT}\n";
    let said = lines(&[("l.yaml", list)]);
    let expected = "l.yaml:11:12: PeerAuthentication a/p: spec.mtls.mode: \"STRIKT\" is not";
    assert!(said[0].starts_with(expected), "{said:#?}");
}

/// A Service of the pod, with a port that carries no HTTP.
const TCP: &str = "---\napiVersion: v1\nkind: Service\nmetadata: {name: tcp, namespace: shop}\nspec: {selector: {app: web}, ports: [{port: 1, targetPort: 5432, appProtocol: tcp}]}\n";

#[test]
fn a_rule_that_leaves_a_port_out_is_no_rule_for_it() {
    let text = policy("  rules: [{to: [{operation: {methods: [GET], notPorts: [\"5432\"]}}]}]\n");
    let said = lines(&[("a.yaml", &format!("{text}{TCP}")), ("shop.yaml", SHOP)]);
    assert!(
        !said.iter().any(|line| line.contains("not-http")),
        "{said:#?}"
    );
}

#[test]
fn what_may_not_be_meant_is_a_warning_and_no_failure() {
    let named = |spec: &str| policy(spec);
    let peer = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: m, namespace: istio-system}\nspec: {selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}\n";
    let port = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: w, namespace: shop}\nspec: {selector: {matchLabels: {app: web}}, portLevelMtls: {80: {mode: STRICT}}}\n";
    for (text, code) in [
        (named("  selector: {matchLabels: {app: wbe}}\n"), "selects-nothing"),
        (named("  rules: [{from: [{source: {namespaces: [sho]}}]}]\n"), "nobody-is-that"),
        (named("  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/wbe]}}]}]\n"), "nobody-is-that"),
        (named("  rules: [{from: [{source: {requestPrincipals: [\"*\"]}}]}]\n"), "not-decided"),
        (named("  rules: [{when: [{key: remote.ip, values: [10.0.0.1]}]}]\n"), "not-decided"),
        (format!("{}{TCP}", named("  action: DENY\n  rules: [{to: [{operation: {methods: [GET]}}]}]\n")), "not-http"),
        (format!("{}{TCP}", named("  targetRefs: [{kind: Service, name: tcp}]\n  rules: [{to: [{operation: {paths: [/x], ports: [\"1\"]}}]}]\n")), "not-http"),
        (named("  targetRefs: [{kind: Service, name: web}]\n  rules: [{to: [{operation: {ports: [\"8080\"]}}]}]\n"), "no-such-port"),
        (peer.to_owned(), "ignored"),
        (format!("{port}{}", port.replace("name: w", "name: x").replace("80", "8080")), "shadowed"),
        (port.to_owned(), "no-such-port"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: shop}\nspec: {selector: {app: x}, ports: [{port: 1}]}\n".to_owned(), "service-without-pods"),
    ] {
        let (said, json) = checked(&[("a.yaml", &text), ("shop.yaml", SHOP)], MeshSettings::default());
        let found = said.iter().filter(|line| line.ends_with(&format!("[{code}]"))).count();
        assert!(found >= 1, "{code}: {said:#?}");
        let first = &said[0];
        assert!(first.starts_with("a.yaml:") && first.contains(": warning: "), "{said:#?}");
        let column = first.split(':').nth(2).and_then(|c| c.parse::<u32>().ok());
        assert!(column.is_some(), "{code} has a column: {said:#?}");
        assert_eq!(json["mistakes"], 0, "{said:#?}");
        assert_eq!(json["problems"][0]["severity"], "warning");
    }
    assert_eq!(
        lines(&[]),
        [
            "DIR: warning: no *.yaml, *.yml or *.json in it has an object [empty-directory]",
            "DIR: no mistakes, 1 warning"
        ]
    );
    assert_eq!(
        lines(&[("shop.yaml", SHOP)]),
        ["DIR: no mistakes, no warnings"]
    );
}

#[test]
fn a_principal_is_held_to_the_trust_domain_and_its_aliases() {
    let deny = policy(
        "  action: DENY\n  rules:\n  - from: [{source: {principals: [\"old-td/ns/shop/sa/default\"]}}]\n",
    );
    let files = [("a.yaml", deny.as_str()), ("shop.yaml", SHOP)];
    let domain = |name| TrustDomain::new(name).expect("a trust domain");
    let mut settings = MeshSettings {
        trust_domain: domain("example.org"),
        ..MeshSettings::default()
    };
    let (said, json) = checked(&files, settings.clone());
    assert!(said[0].starts_with("a.yaml:9:35: "), "{said:#?}");
    assert!(said[0].contains("old-td is no alias"), "{said:#?}");
    assert!(said[0].ends_with("[impossible-principal]"), "{said:#?}");
    assert_eq!(json["mistakes"], 1);
    settings.trust_domain_aliases = vec![domain("old-td")];
    let (said, _) = checked(&files, settings);
    assert_eq!(
        said.last().expect("a total"),
        "DIR: no mistakes, no warnings"
    );
}

#[test]
fn a_directory_that_is_not_there_is_told_once() {
    let root = tempfile::tempdir().expect("a directory");
    let absent = root.path().join("absent");
    let error = Checked::of(&absent, MeshSettings::default()).expect_err("there is none");
    let said = format!("{:#}", anyhow::Error::new(error));
    assert_eq!(said.matches("No such file").count(), 1, "{said}");
}
