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

#[test]
fn a_guess_holds_while_nothing_more_is_known() {
    let guessed = after(&[half(DENY)]);
    assert_eq!(after(&[half(DENY), "kind: ["]), guessed);
    assert_eq!(after(&[half(DENY), "kind: [", "{"]), guessed);
}
