//! Ways in which rules by identity were passed elsewhere. ISTIO-SECURITY-2021-004:
//! fields that only mutual TLS fills, read on plaintext; and what looks like the
//! name that is meant and is not.

use super::istio::{HTTPBIN, compile, may, policy};

/// Fields of a source and keys of a condition that need an identity.
const SOURCE: [(&str, &str); 3] = [
    ("rincipals", "cluster.local/ns/bar/sa/sleep"),
    ("amespaces", "bar"),
    ("erviceAccounts", "bar/sleep"),
];
const KEYS: [(&str, &str); 3] = [
    ("source.principal", "cluster.local/ns/bar/sa/sleep"),
    ("source.namespace", "bar"),
    ("source.serviceAccount", "bar/sleep"),
];

/// A rule of each way to say "not bar/sleep", and more in the same source.
fn negated(more: &str) -> Vec<String> {
    let first = ["P", "N", "S"];
    let from = SOURCE.iter().zip(first).map(|((field, value), first)| {
        format!("{{from: [{{source: {{not{first}{field}: [\"{value}\"]{more}}}}}]}}")
    });
    let when = KEYS
        .iter()
        .map(|(key, value)| format!("{{when: [{{key: {key}, notValues: [\"{value}\"]}}]}}"));
    from.chain(when).collect()
}

#[test]
fn plaintext_is_not_somebody_else() {
    for more in ["", ", ipBlocks: [\"10.0.0.0/8\"]"] {
        for rule in negated(more) {
            let allow = compile(&policy("foo", &format!("{{rules: [{rule}]}}")));
            assert_eq!(allow.2, Vec::<String>::new(), "{rule}");
            let verdicts =
                ["foo/web", "bar/sleep", "nobody"].map(|s| may(&allow, s, (HTTPBIN, 80)));
            assert_eq!(verdicts, [true, false, false], "ALLOW {rule}");
            let deny = compile(&policy(
                "foo",
                &format!("{{action: DENY, rules: [{rule}]}}"),
            ));
            let verdicts = ["foo/web", "bar/sleep", "nobody"].map(|s| may(&deny, s, (HTTPBIN, 80)));
            assert_eq!(verdicts, [false, true, false], "DENY {rule}");
        }
    }
}

/// As documented: who must not come in by taking off the TLS is kept out by
/// STRICT, or by a DENY of all without identity.
#[test]
fn a_deny_by_name_does_not_name_plaintext() {
    let bar = "{from: [{source: {namespaces: [bar]}}]}";
    let nobody = "{from: [{source: {notPrincipals: [\"*\"]}}]}";
    let by_name = compile(&policy("foo", &format!("{{action: DENY, rules: [{bar}]}}")));
    assert!(may(&by_name, "nobody", (HTTPBIN, 80)));
    let both = compile(&policy(
        "foo",
        &format!("{{action: DENY, rules: [{bar}, {nobody}]}}"),
    ));
    let verdicts = ["foo/web", "bar/sleep", "nobody"].map(|s| may(&both, s, (HTTPBIN, 80)));
    assert_eq!(verdicts, [true, false, false]);
}

#[test]
fn names_are_compared_byte_by_byte() {
    // And those that no peer can have are mistakes.
    for (principal, mistakes) in [
        ("cluster.local/ns/FOO/sa/web", 0),
        ("cluster.local/ns/foo/sa/WEB", 0),
        ("cluster.local./ns/foo/sa/web", 1),
        ("cluster.loca/ns/foo/sa/web", 1),
        ("cluster.local/ns/foo/sa/we", 0),
        ("cluster.local/ns/foo/sa/web/", 1),
        ("cluster.local/ns/foo/sa/webs*", 0),
        ("cluster.local/ns/foo/sa/Web*", 0),
        ("*s/foo/sa/WEB", 0),
        ("*x.local/ns/foo/sa/web", 1),
        ("ns/foo/sa/web", 1),
        ("web", 1),
    ] {
        let spec =
            format!("{{rules: [{{from: [{{source: {{principals: [\"{principal}\"]}}}}]}}]}}");
        let allow = compile(&policy("foo", &spec));
        assert_eq!(allow.2.len(), mistakes, "{principal}: {:?}", allow.2);
        assert!(!may(&allow, "foo/web", (HTTPBIN, 80)), "{principal}");
        // Named by mistake in a negation, it excepts nobody.
        let spec = format!(
            "{{action: DENY, rules: [{{from: [{{source: {{notPrincipals: [\"{principal}\"]}}}}]}}]}}"
        );
        let deny = compile(&policy("foo", &spec));
        assert!(!may(&deny, "foo/web", (HTTPBIN, 80)), "not {principal}");
    }
    for principal in [
        "cluster.local/ns/foo/sa/web",
        "cluster.local/ns/foo/sa/*",
        "cluster.local/ns/f*",
        "*/sa/web",
        "*b",
        "*",
    ] {
        let spec =
            format!("{{rules: [{{from: [{{source: {{principals: [\"{principal}\"]}}}}]}}]}}");
        let allow = compile(&policy("foo", &spec));
        let verdicts = ["foo/web", "nobody"].map(|s| may(&allow, s, (HTTPBIN, 80)));
        assert_eq!(verdicts, [true, false], "{principal}");
    }
}

/// A prefix that a longer name shares is a prefix: the boundary must be written.
#[test]
fn a_prefix_or_suffix_ends_where_it_says() {
    let allow = |principal: &str| {
        let spec =
            format!("{{rules: [{{from: [{{source: {{principals: [\"{principal}\"]}}}}]}}]}}");
        compile(&policy("foo", &spec))
    };
    let with_boundary = allow("cluster.local/ns/dev/*");
    assert!(!may(&with_boundary, "dev-a/x", (HTTPBIN, 80)));
    let without = allow("cluster.local/ns/dev*");
    assert!(may(&without, "dev-a/x", (HTTPBIN, 80)));
    let suffix = allow("*/sa/web");
    assert!(!may(&suffix, "foo/evilweb", (HTTPBIN, 80)));
}

#[test]
fn a_name_that_nobody_can_have_is_a_mistake_and_denies() {
    let source = |field: &str, value: &str| {
        format!("rules: [{{from: [{{source: {{{field}: [\"{value}\"]}}}}]}}]")
    };
    for (field, value) in [
        ("principals", "spiffe://cluster.local/ns/foo/sa/web"),
        ("principals", "spiffe://*"),
        ("principals", " cluster.local/ns/foo/sa/web"),
        ("principals", "cluster.local/ns/foo/sa/web\\n"),
        ("principals", "Cluster.Local/ns/foo/sa/web"),
        ("principals", "Cluster.Local/ns/foo/*"),
        ("principals", "/ns/foo/sa/web"),
        ("principals", "cluster.local/ns/foo/sa/w%65b"),
        ("principals", "cluster.local/ns/foo/*/web"),
        ("principals", "*/ns/foo/*"),
        ("principals", "**"),
        ("principals", "^cluster.local/.*$"),
        ("namespaces", "foo "),
        ("namespaces", "ns/foo"),
        ("namespaces", "f*o"),
        ("serviceAccounts", "foo/web "),
        ("serviceAccounts", "foo/*"),
        ("serviceAccounts", "a/foo/web"),
    ] {
        are_mistakes(&source(field, value));
    }
    for value in [
        "a.example.",
        "https://a",
        "a:443",
        "a/b",
        "\u{e4}.example",
        "a.*.b",
        " a",
    ] {
        let when = format!("{{key: connection.sni, values: [\"{value}\"]}}");
        are_mistakes(&format!("rules: [{{when: [{when}]}}]"));
    }
}

fn are_mistakes(rules: &str) {
    for spec in [format!("{{action: DENY, {rules}}}"), format!("{{{rules}}}")] {
        let compiled = compile(&policy("foo", &spec));
        assert_eq!(compiled.2.len(), 1, "{spec}: {:?}", compiled.2);
        for from in ["foo/web", "bar/sleep", "nobody"] {
            assert!(!may(&compiled, from, (HTTPBIN, 80)), "{spec}: {from}");
        }
    }
}
