//! Istio's documented examples and advisories, as far as they concern matching.

use super::super::lint::Lint;
use super::super::parse;
use super::super::store::{Said, Store};
use crate::model::policy::MeshSettings;
use crate::model::{Snapshot, SpiffeId, WorkloadKey};
use crate::policy::{Authorizer, Request};
use proptest::prelude::*;
use std::path::Path;
use std::time::Instant;

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: httpbin, namespace: foo, labels: {app: httpbin}}
status: {podIP: 10.0.0.5}
---
apiVersion: v1
kind: Pod
metadata: {name: sleep, namespace: bar, labels: {app: sleep}}
status: {podIP: 10.0.0.6}
---
apiVersion: v1
kind: Service
metadata: {name: httpbin, namespace: foo}
spec: {selector: {app: httpbin}, ports: [{port: 80}]}
---
"#;

/// A policy in `namespace`.
pub(super) fn policy(namespace: &str, spec: &str) -> String {
    named("p", namespace, spec)
}

pub(super) fn named(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n"
    )
}

pub(super) fn compile(text: &str) -> (Snapshot, Authorizer, Vec<String>) {
    let (objects, mut problems) = parse(Path::new("p.yaml"), format!("{PODS}{text}").as_bytes());
    let mut store = Store::new(MeshSettings::default());
    store.replace(&Said::NOTHING, &Said::here(&objects));
    let mut touched = store.commit(Instant::now());
    touched.all = true;
    problems.extend(store.problems().cloned());
    let snapshot = store.snapshot().clone();
    let authorizer = Authorizer::compile(&snapshot);
    let mut lint = Lint::default();
    lint.update(&store, (&snapshot, &authorizer), &touched);
    let found = lint.problems().filter(|problem| problem.is_mistake());
    problems.extend(found.cloned());
    let problems = problems.iter().map(ToString::to_string).collect();
    (snapshot, authorizer, problems)
}

/// May `source` (`namespace/account`, or nobody) connect to a port of a pod?
pub(super) fn may(
    compiled: &(Snapshot, Authorizer, Vec<String>),
    source: &str,
    to: (&str, u16),
) -> bool {
    let id = source.split_once('/').map(|(ns, sa)| {
        let uri = format!("spiffe://cluster.local/ns/{ns}/sa/{sa}");
        SpiffeId::parse(&uri).expect("an identity")
    });
    let (namespace, name) = to.0.split_once('/').expect("a pod");
    let key = WorkloadKey::new(namespace, name);
    let request = Request {
        source: id.as_ref(),
        source_ip: "10.0.0.9".parse().expect("an address"),
        destination: &compiled.0.workloads[&key],
        destination_ip: "10.0.0.5".parse().expect("an address"),
        destination_port: to.1,
        sni: None,
        http: None,
    };
    compiled.1.check(&request).is_permit()
}

pub(super) const HTTPBIN: &str = "foo/httpbin";
pub(super) const SOURCES: [&str; 4] = ["foo/web", "bar/sleep", "dev-a/x", "nobody"];

#[test]
fn documented_examples_decide_as_documented() {
    // Of foo/web, bar/sleep, dev-a/x and plaintext, to port 80 of httpbin.
    let cases: [(&str, &str, [bool; 4]); 17] = [
        ("allow-nothing", "{}", [false; 4]),
        ("deny-all", "{action: DENY, rules: [{}]}", [false; 4]),
        ("allow-all", "{rules: [{}]}", [true; 4]),
        ("a DENY without rules", "{action: DENY}", [true; 4]),
        (
            "isolation",
            "{rules: [{from: [{source: {namespaces: [foo]}}]}]}",
            [true, false, false, false],
        ),
        (
            "principal",
            "{rules: [{from: [{source: {principals: [cluster.local/ns/bar/sa/sleep]}}]}]}",
            [false, true, false, false],
        ),
        (
            "mTLS",
            "{rules: [{from: [{source: {principals: [\"*\"]}}]}]}",
            [true, true, true, false],
        ),
        (
            "only mTLS",
            "{action: DENY, rules: [{from: [{source: {notPrincipals: [\"*\"]}}]}]}",
            [true, true, true, false],
        ),
        (
            "all but one",
            "{action: DENY, rules: [{from: [{source: {notPrincipals: [cluster.local/ns/foo/sa/web]}}]}]}",
            [true, false, false, false],
        ),
        (
            "no identity is no negation",
            "{rules: [{from: [{source: {notNamespaces: [bar]}}]}]}",
            [true, false, true, false],
        ),
        (
            "accounts",
            "{rules: [{from: [{source: {serviceAccounts: [web, bar/sleep]}}]}]}",
            [true, true, false, false],
        ),
        (
            "port",
            "{rules: [{to: [{operation: {ports: [\"80\"]}}]}]}",
            [true; 4],
        ),
        (
            "other port",
            "{action: DENY, rules: [{to: [{operation: {notPorts: [\"80\"]}}]}]}",
            [true; 4],
        ),
        (
            "prefix",
            "{rules: [{from: [{source: {namespaces: [\"dev-*\"]}}]}]}",
            [false, false, true, false],
        ),
        (
            "from and when",
            "{rules: [{from: [{source: {namespaces: [foo, bar]}}], when: [{key: source.ip, values: [10.0.0.0/8]}, {key: source.namespace, notValues: [foo]}]}]}",
            [false, true, false, false],
        ),
        (
            "a method is no leave for a connection",
            "{rules: [{to: [{operation: {methods: [GET]}}]}]}",
            [false; 4],
        ),
        (
            "a connection may carry what is denied",
            "{action: DENY, rules: [{from: [{source: {namespaces: [foo]}}], to: [{operation: {methods: [GET]}}]}]}",
            [false, true, true, true],
        ),
    ];
    for (name, spec, expected) in cases {
        let compiled = compile(&policy("foo", spec));
        assert_eq!(compiled.2, Vec::<String>::new(), "{name}");
        let got = SOURCES.map(|s| may(&compiled, s, (HTTPBIN, 80)));
        assert_eq!(got, expected, "{name}");
        assert!(
            may(&compiled, "nobody", ("bar/sleep", 80)),
            "{name}: other namespaces"
        );
    }
}

#[test]
fn the_root_namespace_reaches_the_mesh_and_deny_comes_first() {
    let mesh = named(
        "m",
        "istio-system",
        "{action: DENY, rules: [{from: [{source: {namespaces: [bar]}}]}]}",
    );
    let compiled = compile(&(mesh + &policy("foo", "{rules: [{}]}")));
    assert!(!may(&compiled, "bar/sleep", (HTTPBIN, 80)));
    assert!(!may(&compiled, "bar/sleep", ("bar/sleep", 80)));
    assert!(may(&compiled, "foo/web", (HTTPBIN, 80)));
}

#[test]
fn a_suffix_in_a_deny_matches_suffixes() {
    // CVE-2020-16844: "*-suffix" was taken as an exact text.
    let deny = "{action: DENY, rules: [{from: [{source: {principals: [\"*/sa/sleep\"]}}]}]}";
    let compiled = compile(&policy("foo", deny));
    assert!(!may(&compiled, "bar/sleep", (HTTPBIN, 80)));
    assert!(may(&compiled, "bar/sleepy", (HTTPBIN, 80)));
}

#[test]
fn dots_in_names_are_no_pattern() {
    // CVE-2026-39350: names went into a regular expression unescaped.
    let spec = "{rules: [{from: [{source: {serviceAccounts: [foo/my.app]}}]}]}";
    let compiled = compile(&policy("foo", spec));
    assert!(may(&compiled, "foo/my.app", (HTTPBIN, 80)));
    assert!(!may(&compiled, "foo/myxapp", (HTTPBIN, 80)));
}

#[test]
fn a_missing_service_opens_nothing() {
    let target = |service: &str, more: &str| {
        let target = format!("targetRefs: [{{kind: Service, name: {service}}}]");
        compile(&policy("foo", &format!("{{{target}, {more}}}")))
    };
    let allow = "rules: [{from: [{source: {namespaces: [foo]}}]}]";
    let deny = "action: DENY, rules: [{from: [{source: {namespaces: [bar]}}]}]";
    for (more, found, missing) in [
        (allow, [true, false], [false, false]),
        (deny, [true, false], [true, false]),
    ] {
        for (service, expected) in [("httpbin", found), ("gone", missing)] {
            let compiled = target(service, more);
            let got = ["foo/web", "bar/sleep"].map(|s| may(&compiled, s, (HTTPBIN, 80)));
            assert_eq!(got, expected, "{service} {more}");
            let told = compiled
                .2
                .iter()
                .any(|p| p.contains("there is no Service foo/gone"));
            assert_eq!(told, service == "gone", "{:?}", compiled.2);
        }
    }
}

#[test]
fn a_dry_run_is_told_and_not_enforced() {
    let text = policy("foo", "{action: DENY, rules: [{}]}").replace(
        "namespace: foo",
        "namespace: foo, annotations: {istio.io/dry-run: \"true\"}",
    );
    let compiled = compile(&text);
    assert!(may(&compiled, "nobody", (HTTPBIN, 80)));
    let line = compiled.1.status()[0].to_string();
    assert_eq!(
        line,
        "AuthorizationPolicy foo/p: accepted; selects 1 workloads, dry run"
    );
}

#[test]
fn typical_mistakes_are_told_so() {
    let cases = [
        (
            "{rules: [{form: []}]}",
            "p.yaml:17: AuthorizationPolicy foo/p: spec.rules[0].form: unknown field `form`",
        ),
        (
            "{action: DENNY}",
            "p.yaml:17: AuthorizationPolicy foo/p: spec.action: \"DENNY\" is not served",
        ),
        (
            "{rules: [{to: [{operation: {ports: [\"http\"]}}]}]}",
            "p.yaml:17: AuthorizationPolicy foo/p: spec.rules[0].to[0].operation.ports[0]: \"http\" is not a port from 1 to 65535",
        ),
        (
            "{rules: [{from: [{source: {ipBlocks: [\"10.0.0.0/33\"]}}]}]}",
            "p.yaml:17: AuthorizationPolicy foo/p: spec.rules[0].from[0].source.ipBlocks[0]: \"10.0.0.0/33\" is neither an address nor a CIDR block",
        ),
        (
            "{rules: [{from: []}]}",
            "p.yaml:17: AuthorizationPolicy foo/p: spec.rules[0].from: must not be empty",
        ),
    ];
    for (spec, expected) in cases {
        let told = compile(&policy("foo", spec)).2;
        assert!(told[0].starts_with(expected), "{told:?}\n{expected}");
    }
}

/// A mutation of one line: removed, doubled, moved in, cut, or with a letter changed.
fn mutate(text: &str, line: usize, how: u8, at: usize) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let line = line % lines.len();
    let chars: Vec<char> = lines[line].chars().collect();
    let at = at % chars.len().max(1);
    let tail = |from: usize| chars.iter().skip(from).collect::<String>();
    let head: String = chars.iter().take(at).collect();
    match how % 6 {
        0 => drop(lines.remove(line)),
        1 => lines.insert(line, lines[line].clone()),
        2 => lines[line].insert_str(0, "  "),
        3 => lines[line] = head,
        4 => lines[line] = format!("{head}x{}", tail(at + 1)),
        _ => lines[line] = head + &tail(at + 1),
    }
    lines.join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]
    #[test]
    fn no_reported_mutation_of_a_line_lets_more_through(
        line in any::<usize>(), how in any::<u8>(), at in any::<usize>(),
    ) {
        let text = MUTATED;
        let before = compile(text);
        prop_assert_eq!(&before.2, &Vec::<String>::new());
        let mutated = mutate(text, line, how, at);
        let now = compile(&mutated);
        if !now.2.is_empty() {
            for source in SOURCES {
                for to in [(HTTPBIN, 80), (HTTPBIN, 81), ("bar/sleep", 80)] {
                    let (was, is) = (may(&before, source, to), may(&now, source, to));
                    prop_assert!(was || !is, "{source} to {to:?}: {:?}\n{mutated}", now.2);
                }
            }
        }
    }
}

const MUTATED: &str = r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: allow
  namespace: foo
spec:
  selector:
    matchLabels:
      app: httpbin
  rules:
  - from:
    - source:
        namespaces: ["foo"]
    to:
    - operation:
        ports: ["80"]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: deny
  namespace: bar
spec:
  action: DENY
  rules:
  - from:
    - source:
        notPrincipals: ["cluster.local/ns/foo/sa/*"]
"#;
