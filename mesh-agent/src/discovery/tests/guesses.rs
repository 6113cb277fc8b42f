//! What stands for a policy of which it cannot be told which one it is.

use std::path::Path;
use std::sync::Arc;

use super::super::documents::{Parsed, parse_file};
use super::super::last_good::keep_last_good;

const DENY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
    metadata: {name: deny, namespace: shop}\n\
    spec: {action: DENY, rules: [{}]}\n";
const STRICT: &str = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
    metadata: {name: strict, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n";

/// One version of a file after the other; of the last one the names of its policies, with a
/// mark at what is guessed.
fn after(versions: &[&str]) -> Vec<String> {
    let mut before = Parsed::default();
    for text in versions {
        let mut now = parse_file(Path::new("t.yaml"), text.as_bytes());
        if now.problems.iter().any(|problem| problem.is_mistake()) {
            keep_last_good(&mut now, &before.objects);
        }
        before = now;
    }
    let policies = before.objects.iter().filter(|o| o.kind.is_policy());
    let mut names: Vec<_> = policies
        .map(|object: &Arc<_>| {
            let mark = if object.is_guess() { "?" } else { "" };
            format!("{}{mark}", object.name())
        })
        .collect();
    names.sort();
    names
}

/// Up to within its metadata.
fn half(text: &str) -> &str {
    text.split_once(", namespace").expect("it has one").0
}

#[test]
fn what_breaks_within_its_name_is_what_the_file_said_before() {
    let template = DENY.replace("shop", "{{ .Values.namespace }}");
    let upper = DENY.replace("shop", "Shop_X");
    for broken in [half(DENY), &template, &upper] {
        assert_eq!(after(&[DENY, broken]), ["AuthorizationPolicy shop/deny"]);
        assert_eq!(after(&[DENY, broken, half(DENY), broken]).len(), 1);
        // Of a file that said nothing before, it may be any.
        let guessed = after(&[broken]);
        assert!(
            guessed.len() == 1 && guessed[0].ends_with('?'),
            "{guessed:?}"
        );
    }
    let both = [DENY, STRICT].concat();
    let strict = "PeerAuthentication shop/strict";
    let broken = [DENY, half(STRICT)].concat();
    assert_eq!(
        after(&[&both, &broken]),
        ["AuthorizationPolicy shop/deny", strict]
    );
}

#[test]
fn what_is_new_and_broken_is_guessed_beside_what_is_still_said() {
    let more = [DENY, "---\n", half(&DENY.replace("deny", "more"))].concat();
    let all = after(&[DENY, &more]);
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all.iter().any(|name| name.ends_with('?')), "{all:?}");
}

#[test]
fn a_guess_ends_when_it_is_known_what_it_stood_for_also_with_another_mistake() {
    let misspelt = DENY.replace("DENY", "DENNY");
    let known = ["AuthorizationPolicy shop/deny"];
    for before in [&[half(DENY)][..], &[DENY, half(DENY)]] {
        assert_eq!(after(&[before, &[&misspelt]].concat()), known);
        assert_eq!(after(&[before, &[DENY]].concat()), known);
    }
}

/// In force beside another policy.
#[test]
fn a_guess_stands_whatever_becomes_of_what_stood_beside_it() {
    let both = [half(DENY), "\n", STRICT].concat();
    let strict = "PeerAuthentication shop/strict";
    let is_guess = |name: &String| name.ends_with('?');
    let begun = after(&[&both]);
    assert_eq!(begun.iter().filter(|n| is_guess(n)).count(), 1, "{begun:?}");
    // The other one goes, or is called by another name.
    for next in [half(DENY).to_owned(), both.replace("strict", "other")] {
        let all = after(&[&both, &next]);
        assert_eq!(all.iter().filter(|n| is_guess(n)).count(), 1, "{all:?}");
    }
    // More breaks, or nothing can be read.
    for next in ["{", "kind: ["] {
        let all = after(&[&both, next]);
        assert_eq!(all.iter().filter(|n| is_guess(n)).count(), 1, "{all:?}");
        assert!(all.iter().any(|name| name == strict), "{all:?}");
        let all = after(&[&both, next, next, &both]);
        assert_eq!(all.iter().filter(|n| is_guess(n)).count(), 1, "{all:?}");
    }
    // One of another kind is not it.
    let all = after(&[STRICT, half(DENY)]);
    assert_eq!(all.iter().filter(|n| is_guess(n)).count(), 1, "{all:?}");
    // Nor where another one has come in the place of what is named no more.
    let renamed = [&DENY.replace("deny", "denies"), "---\n", half(DENY)].concat();
    let all = after(&[DENY, &renamed]);
    assert_eq!(all.iter().filter(|n| is_guess(n)).count(), 1, "{all:?}");
}

#[test]
fn what_was_only_tried_says_nothing_for_what_is_to_hold() {
    let tried = "namespace: shop, annotations: {istio.io/dry-run: \"true\"}";
    let tried = DENY.replace("namespace: shop", tried);
    let all = after(&[&tried, half(DENY)]);
    assert!(all.iter().any(|name| name.ends_with('?')), "{all:?}");
}

#[test]
fn a_guess_is_not_taken_for_one_of_the_default_namespace() {
    let known = DENY.replace(", namespace: shop", "");
    let all = [&known, "---\n", half(DENY)].concat();
    for order in [all, [half(DENY), "\n---\n", &known].concat()] {
        let all = after(&[&known, &order]);
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(all.iter().any(|name| name.ends_with('?')), "{all:?}");
    }
}

#[test]
fn a_guess_holds_while_nothing_more_is_known() {
    let guessed = after(&[half(DENY)]);
    assert_eq!(after(&[half(DENY), "kind: ["]), guessed);
    assert_eq!(after(&[half(DENY), "kind: [", "{"]), guessed);
}
