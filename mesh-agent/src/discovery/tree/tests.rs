//! The tree says what serde-saphyr makes of a document, which read it before.

mod generated;

use std::path::Path;

use serde_json::Value;

use super::{MAX_DEPTH, Node, agree, json::json, plain::plain, read, yaml};
use crate::discovery::documents::documents;
use crate::discovery::fuzz::seeds;
use crate::fuzzing::mutate::Mutator;

fn oracle(document: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: super::MAX_NODES,
            max_events: 3 * super::MAX_NODES,
            max_depth: MAX_DEPTH,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: document.len() },
    };
    serde_saphyr::from_str_with_options(document, options)
        .map_err(|e: serde_saphyr::Error| e.without_snippet().to_string())
}

/// Both read it and find the same, or neither reads it.
fn holds(document: &str) -> Result<(), String> {
    let own = |node: Result<Node<'_>, super::Error>| match node {
        Ok(node) => Ok(node.to_value()),
        Err(e) => Err(format!("{:?} {}", e.place, e.message)),
    };
    let expected = oracle(document);
    let (both, only_yaml) = (own(read(document)), own(yaml(document)));
    for found in [&both, &only_yaml] {
        match (&expected, found) {
            (Ok(expected), Ok(found)) if expected == found => {}
            (Err(_), Err(_)) => {}
            (Ok(_), Err(message)) if message.contains(" is not served") => {}
            _ => return Err(format!("{document:?}: {expected:?}, and here {found:?}")),
        }
    }
    agree(document)
}

fn corpus() -> Vec<Vec<u8>> {
    let kubernetes = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/discovery/tests/kubernetes");
    let dumps = std::fs::read_dir(kubernetes).expect("the dumps");
    let dumps = dumps.map(|file| std::fs::read(file.expect("an entry").path()).expect("a file"));
    let seeds = seeds().into_iter().map(|(_, bytes)| bytes);
    seeds.chain(dumps).collect()
}

fn each_document(bytes: &[u8], check: &mut dyn FnMut(&str)) {
    let text = String::from_utf8_lossy(bytes);
    // Also undivided, as a list of one kind is.
    check(&text);
    documents(&text).iter().for_each(|(_, text)| check(text));
}

#[test]
fn known_documents_are_read_as_before() {
    let mut count = 0;
    for bytes in corpus() {
        each_document(&bytes, &mut |text| {
            count += 1;
            assert_eq!(holds(text), Ok(()));
        });
    }
    assert!(count > 60, "{count}");
}

#[test]
fn changed_documents_are_read_as_before() {
    let corpus = corpus();
    let mut mutator = Mutator::new(7);
    for _ in 0..400 {
        each_document(&mutator.next(&corpus), &mut |text| {
            assert_eq!(holds(text), Ok(()));
        });
    }
}

#[test]
fn what_yaml_has_beside_mappings_and_lists_is_read_as_before() {
    for text in [
        "a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}\n",
        "a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  b: 3\n",
        "a: [&x {b: 1}, &y {b: 2, c: 3}]\nd: {<<: [*x, *y], c: 4}\n",
        "<<: {a: 1}\n<<: {a: 2, b: 3}\n",
        "a: {<<: null}\nb: {<<: [null, {c: 1}]}\n",
        "a: {<<: 1}\n",
        "a: {<<: [x]}\n",
        "\"<<\": {a: 1}\n",
        "!!merge <<: {a: 1}\n",
        "a: &a [*a]\n",
        "a: *b\n",
        "? [a, b]\n: 1\n",
        "? {a: b}\n: 1\n",
        "~: 1\n",
        "null: 1\n",
        "\"\": 1\n",
        "80: a\nTrue: b\n1.50: c\n",
        "a: 1\na: 2\n",
        "a: 1\n\"a\": 2\n",
        "&k key: 1\nother: *k\n*k : 2\n",
        "&k key: 1\nother: {*k : 2}\n",
        "a: !!str 1\nb: !!int \"7\"\nc: !!bool \"on\"\nd: !!null x\ne: ! 5\nf: !own 5\ng: !own [1]\n",
        "a: !!str\nb: !!map {}\nc: !!seq []\n",
        "a: !!map []\n",
        "a: !!seq x\n",
        "a: !!str {}\n",
        "a: !!int x\n",
        "a: !!bool 1\n",
        "a: !!float x\n",
        "a: !!float 1.5\n",
        "a: |\n  b\n   c\n\nd: >-\n  e\n  f\n",
        "a: 'it''s'\nb: \"\\u00e9\\n\\x41\"\nc: d e\n  f\n",
        "a: .inf\n",
        "a: -.NaN\n",
        "a: 1e999\n",
        "a:\n- b\n- - c\n  - d\n-\n",
        "- \n-\n",
        "a: [1, [2, {b: 3}], c: 4]\n",
        "{a, b: , \"c\":1, ? d : e}\n",
        "a: b: c\n",
        "\ta: 1\n",
        "a: @b\n",
        "%YAML 1.2\n---\na: 1\n",
        "%FOO\n---\na: 1\n",
        "a: 1\n...\nb: 2\n",
        "a\n---\nb\n",
        "# nothing\n",
        "",
        "\u{feff}a: 1\n",
        "a: \u{feff}b\n",
        "a: \"\u{1F600}\"\n",
        "a: \u{7f}\n",
    ] {
        assert_eq!(holds(text), Ok(()));
    }
}

#[test]
fn json_is_read_as_the_yaml_that_it_is() {
    for (text, is_read) in [
        ("{}", true),
        (" [1, -2, true, null, \"a\\n\\u00e9\"] ", true),
        ("{\"a\": {\"b\\t\": [\"c\"]}, \"80\": 80}", true),
        // How it is written would be lost.
        ("{\"a\": 1.10}", false),
        ("[-0]", false),
        ("[18446744073709551616]", false),
        // YAML says where.
        ("{\"a\": 1, \"a\": 2}", false),
        ("{\"a\": 1,}", false),
        ("{a: 1}", false),
        ("[1] # one", false),
        ("[1] [2]", false),
    ] {
        assert_eq!(json(text).is_some(), is_read, "{text}");
        assert_eq!(holds(text), Ok(()));
    }
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for (depth, is_read) in [(MAX_DEPTH, true), (MAX_DEPTH + 1, false)] {
        assert_eq!(json(&nested(depth)).is_some(), is_read, "{depth}");
        assert_eq!(yaml(&nested(depth)).is_ok(), is_read, "{depth}");
        assert_eq!(holds(&nested(depth)), Ok(()));
    }
}

#[test]
fn what_kubernetes_tools_write_is_plain() {
    for name in ["default.yaml", "shop.yaml", "single.yaml", "outside.yaml"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/discovery/tests/kubernetes");
        let text = std::fs::read_to_string(file.join(name)).expect("a dump");
        for (line, document) in documents(&text) {
            assert!(plain(&document).is_some(), "{name}:{line}");
        }
    }
    for text in [
        "a: 1\nb:\n  c: \"x\" # why\n  d: 'y'\n# end\ne: {f: [1, { g: h } ], i: \"j,\"}\n",
        "- a: b\n  c:\n  - d\n  - - e\n    - f: g\n-\n- h\n",
        "a: |\n  b\n   c\n\n  d\n\ne: |-\n  f\ng:\n- |+\n  h\n\n",
        "a: b\n  - c\n d\n",
        "- 1\n 2\n- a\n  b\n\n- c\n",
        "  a: fd00::1\n  \"b\": \"\\\"c\\\"\"\n  d.e/f: http://g:80/#h\n  i:\n",
    ] {
        assert!(plain(text).is_some(), "{text}");
        assert_eq!(holds(text), Ok(()));
    }
    for text in [
        "a: b\n\n c\n",
        "a: b\n c: d\n",
        "a: b # c\n  d\n",
        "a: b: c\n",
        "a: [b\n  ]\n",
        "a: &b c\n",
        "a: 1\na: 2\n",
        "a: \u{e9}\n",
        "a: >\n  b\n",
        "a:\n  - b\n  c: d\n",
        "a: 1\n b: 2\n",
        "<<: {a: 1}\n",
        "null: 1\n",
        "a: |\n",
        "",
    ] {
        assert!(plain(text).is_none(), "{text}");
        assert_eq!(holds(text), Ok(()));
    }
}

#[test]
fn a_mistake_has_its_place() {
    for (text, at, message) in [
        (
            "a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n",
            (5, 3),
            "duplicate mapping key: c",
        ),
        (
            "a: &x [1, 2, 3, 4, 5, 6]\nb: [*x, *x, *x, *x, *x, *x, *x, *x, *x, *x, *x, *x, *x, *x, *x, *x, *x, *x, *x]\n",
            (2, 0),
            "aliases",
        ),
        ("a: &x [*x]\n", (1, 8), "alias"),
        ("a: .inf\n", (1, 4), ".inf is no finite number"),
        ("a: [b\n", (1, 0), ""),
        ("? [a]\n: b\n", (1, 3), "a key must be a text"),
        ("a: {<<: b}\n", (1, 9), "merged"),
        ("a: !!binary aGk=\n", (1, 13), "!!binary is not served"),
    ] {
        let error = read(text).expect_err(text);
        assert!(error.message.contains(message), "{text}: {}", error.message);
        let (line, column) = at;
        assert_eq!(error.place.line, line, "{text}");
        assert!(
            column == 0 || error.place.column == column,
            "{text}: {:?}",
            error.place
        );
    }
}

#[test]
fn aliases_repeat_no_more_than_the_document_is_long() {
    let level = |n: usize| {
        format!(
            "a{n}: &a{n} [{}]\n",
            vec![format!("*a{}", n - 1); 9].join(",")
        )
    };
    let levels: String = (1..9).map(level).collect();
    let bomb = format!("a0: &a0 [lol]\n{levels}");
    assert!(yaml(&bomb).is_err());
    // Each in the one before: deeper than anything may be.
    let deeper = |n: usize| format!("a{n}: &a{n} [[[[[[[[*a{}]]]]]]]]\n", n - 1);
    let levels: String = (1..9).map(deeper).collect();
    let deep = format!("a0: &a0 x\n{levels}# {}\n", "-".repeat(1_000));
    let error = yaml(&deep).expect_err("deep");
    assert!(error.message.contains("deep"), "{}", error.message);
    assert_eq!(holds(&deep), Ok(()));
}

#[test]
fn many_merges_cost_no_more_than_as_many_fields() {
    let fields: String = (0..100_000).map(|n| format!("k{n}: own\n")).collect();
    let merges: String = (0..100_000)
        .map(|n| format!("<<: {{k{n}: a, m{n}: b}}\n"))
        .collect();
    let text = format!("{fields}{merges}<<: {{m7: c}}\n");
    let node = yaml(&text).expect("YAML");
    assert_eq!(node.fields().count(), 200_000);
    assert!(node["k7"] == "own" && node["m7"] == "b");
}

#[test]
fn a_field_is_found_by_its_path() {
    let text = "kind: X\nmetadata:\n  labels: {a.b/c: \"1\"}\nitems:\n- spec:\n    ports:\n    - port: 1\n    - {name: x, port: y}\n";
    let node = yaml(text).expect("YAML");
    for (path, at) in [
        ("kind", (1, 1)),
        ("metadata.labels.a.b/c", (3, 12)),
        ("items[0].spec.ports[0].port", (7, 7)),
        ("items[0].spec.ports[1].port", (8, 17)),
        ("items[0].spec.ports[1]", (8, 7)),
        ("items[0].spec.ports[9].port", (6, 5)),
        ("metadata.name", (2, 1)),
    ] {
        let found = node.find(path).map(|place| (place.line, place.column));
        assert_eq!(found, Some(at), "{path}");
    }
    assert_eq!(node.find("spec"), None);
}

#[test]
fn a_scalar_keeps_how_it_is_written() {
    let node = yaml("a: 1.10\nb: on\nc: \"007\"\nd: 007\ne: ~\nf: [1]\n").expect("YAML");
    let written = ["a", "b", "c", "d", "e", "f"].map(|key| node[key].written());
    let texts = [
        Some("1.10"),
        Some("on"),
        Some("007"),
        Some("007"),
        None,
        None,
    ];
    assert_eq!(written, texts);
    assert_eq!(node["a"].as_text(), None);
    assert_eq!(node["c"].as_text(), Some("007"));
    assert!(node["b"] == true && node["nothing"]["of"]["it"].is_null());
}
