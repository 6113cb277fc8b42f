//! What stands for a policy of which it cannot be told which one it is.

use std::path::Path;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::super::documents::{Parsed, parse_file};
use super::super::last_good::keep_last_good;
use super::super::objects::{Kind, Object};
use crate::model::policy::{Action, Scope};

const DENY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
    metadata: {name: deny, namespace: shop}\n\
    spec: {action: DENY, rules: [{}]}\n";
const STRICT: &str = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
    metadata: {name: strict, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n";
/// Cut before its name.
const NAMELESS: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {\n";
const GUESS: &str = "AuthorizationPolicy default/deny?";

/// What counts of a file that is `text` now.
fn then(before: &Parsed, text: &str) -> Parsed {
    let mut now = parse_file(Path::new("t.yaml"), text.as_bytes());
    if now.problems.iter().any(|problem| problem.is_mistake()) {
        keep_last_good(&mut now, &before.objects);
    }
    now
}

/// One version of a file after the other; of the last one the policies that count.
fn in_force(versions: &[&str]) -> Vec<Arc<Object>> {
    let first = Parsed::default();
    let last = versions
        .iter()
        .fold(first, |before, text| then(&before, text));
    let policies = last.objects.into_iter().filter(|o| o.kind.is_policy());
    policies.collect()
}

/// Their names, with a mark at what is guessed.
fn after(versions: &[&str]) -> Vec<String> {
    let mut names: Vec<_> = in_force(versions)
        .iter()
        .map(|object: &Arc<_>| {
            let mark = if object.is_guess() { "?" } else { "" };
            format!("{}{mark}", object.name())
        })
        .collect();
    names.sort();
    names
}

/// A file of these documents.
fn file(documents: &[&str]) -> String {
    documents.join("\n---\n")
}

fn named(name: &str) -> String {
    DENY.replace("deny", name)
}

/// In a namespace that cannot be one.
fn odd(text: &str) -> String {
    text.replace("shop", "Shop_X")
}

fn guesses(of: &[String]) -> usize {
    of.iter().filter(|name| name.ends_with('?')).count()
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
    // Nor one without a name, where another has come in the place of what is named no more.
    let renamed = [&DENY.replace("deny", "denies"), "---\n", NAMELESS].concat();
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

#[test]
fn a_policy_that_went_long_ago_is_not_what_breaks_now() {
    let misspelt = named("other").replace("DENY", "DENNY");
    let new = named("new");
    let first = file(&[DENY, &named("other")]);
    for new in [half(&new), NAMELESS] {
        let last = file(&[&misspelt, new]);
        let all = after(&[&first, &misspelt, &last]);
        assert_eq!(guesses(&all), 1, "{all:?}");
        // Nor where it was broken between: it went then.
        let broken = file(&[&misspelt, half(DENY)]);
        let all = after(&[&first, &broken, &misspelt, &last]);
        assert_eq!(guesses(&all), 1, "{all:?}");
    }
    // Where it may be what cannot be read, its name says whether it is.
    let hidden = file(&[&misspelt, "kind: ["]);
    let all = after(&[&first, &hidden, &file(&[&misspelt, half(DENY)])]);
    assert_eq!(guesses(&all), 0, "{all:?}");
    let all = after(&[&first, &hidden, &file(&[&misspelt, half(&new)])]);
    assert_eq!(guesses(&all), 1, "{all:?}");
}

#[test]
fn a_guess_is_not_taken_for_a_weaker_one() {
    let allow = named("x").replace("DENY", "ALLOW");
    let dry = "namespace: shop, annotations: {istio.io/dry-run: \"true\"}";
    let dry = named("x").replace("namespace: shop", dry);
    for weak in [&allow, &dry] {
        let both = file(&[half(DENY), weak]);
        let both_odd = file(&[half(DENY), &odd(weak)]);
        let hidden = file(&["kind: [", &odd(weak)]);
        for versions in [[&both, &both_odd], [&both_odd, &hidden], [&both, &hidden]] {
            let all = after(&versions.map(String::as_str));
            assert!(all.iter().any(|name| name == GUESS), "{all:?}");
        }
        // Not even where it is called the same.
        let same = odd(&weak.replace("name: x", "name: deny"));
        let all = in_force(&[half(DENY), &file(&["kind: [", &same])]);
        let is_strict = |object: &Arc<Object>| match &object.kind {
            Kind::AuthorizationPolicy(policy) => {
                policy.action == Action::Deny && !policy.dry_run && policy.scope == Scope::Mesh
            }
            _ => false,
        };
        assert!(all.iter().any(is_strict), "{all:?}");
    }
}

#[test]
fn each_of_two_policies_of_one_name_is_as_it_was() {
    let [one, two] = ["1", "2"].map(|port| {
        let rule = format!("[{{to: [{{operation: {{ports: [\"{port}\"]}}}}]}}]");
        DENY.replace("[{}]", &rule)
    });
    let broken = |text: &str| text.replace("DENY", "DENNY");
    let both = file(&[&one, &two]);
    for next in [
        file(&[&one, &broken(&two)]),
        file(&[&broken(&two), &one]),
        file(&[&broken(&one), &two]),
        file(&[&broken(&one), &broken(&two)]),
        file(&[&two, "kind: ["]),
        file(&[&one, half(DENY)]),
    ] {
        let all = in_force(&[&both, &next, &next, &next]);
        for port in ["1", "2"] {
            assert!(all.iter().any(|o| denies(o, port)), "{next}: {all:?}");
        }
        assert!(all.len() <= 2, "{next}: {all:?}");
    }
}

/// Requests to the port in the namespace of DENY.
fn denies(object: &Object, port: &str) -> bool {
    let Kind::AuthorizationPolicy(policy) = &object.kind else {
        return false;
    };
    let is_about = policy.scope == Scope::Mesh || policy.namespace == "shop";
    let ports = policy.rules.iter().flat_map(|rule| &rule.to);
    let mut ports = ports.flat_map(|to| &to.ports.values);
    let is_denied = policy.broken.is_some() || ports.any(|known| known.to_string() == port);
    policy.action == Action::Deny && !policy.dry_run && is_about && is_denied
}

#[test]
fn a_lost_separator_hides_no_policy() {
    let new = named("new");
    for joined in [[DENY, &new].concat(), [&*new, DENY].concat()] {
        let known = [
            "AuthorizationPolicy shop/deny",
            "AuthorizationPolicy shop/new",
        ];
        assert_eq!(after(&[DENY, &joined]), known);
        assert_eq!(after(&[&file(&[DENY, &new]), &joined]), known);
    }
    // Where it cannot be told which part is whose.
    let flow = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, \
        metadata: {name: deny, namespace: shop}, spec: {action: DENY}}";
    let json = flow.replace("shop", "\"shop\"").replace("deny", "\"deny\"");
    let json = [
        "apiVersion",
        "kind",
        "metadata",
        "name",
        "namespace",
        "spec",
    ]
    .iter()
    .fold(json, |json, key| {
        json.replace(&format!("{key}:"), &format!("\"{key}\":"))
    });
    for text in [flow, &json, DENY] {
        let other = text.replace("deny", "new");
        for joined in [format!("{text} {other}"), format!(" {text}{other}")] {
            let all = after(&[text, &joined]);
            assert!(
                guesses(&all) == 1 || text == DENY && all.len() == 2,
                "{joined}: {all:?}"
            );
        }
    }
    // Of the second one its namespace is missing.
    let all = after(&[
        DENY,
        &[DENY, &new.replace(", namespace: shop", "")].concat(),
    ]);
    assert_eq!(guesses(&all), 1, "{all:?}");
    // One without metadata.
    let bare = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n";
    let all = after(&[DENY, &[bare, DENY].concat()]);
    assert_eq!(guesses(&all), 1, "{all:?}");
}

/// Its objects are told one by one, also where it does not parse.
#[test]
fn a_list_that_breaks_is_what_it_said_before() {
    let item = |text: &str| format!("- {}", text.trim_end().replace('\n', "\n  ") + "\n");
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n";
    let items = [service, DENY, &named("other")].map(item).concat();
    let list =
        format!("apiVersion: v1\nitems:\n{items}kind: List\nmetadata: {{resourceVersion: \"\"}}\n");
    let known = [
        "AuthorizationPolicy shop/deny",
        "AuthorizationPolicy shop/other",
    ];
    assert_eq!(after(&[&list]), known);
    assert_eq!(
        after(&[&list, &list.replacen("kind: Service", "kind: [", 1)]),
        known
    );
    assert_eq!(
        after(&[
            &list,
            &list.replacen("namespace: shop", "namespace: [shop", 2)
        ]),
        known
    );
}

#[test]
fn what_a_guess_stands_for_is_not_taken_for_what_has_come() {
    let first = file(&[&named("x"), half(DENY)]);
    let renamed = named("x").replace("name: x, namespace: shop", "name: deny, namespace: default");
    let second = file(&[&renamed, half(DENY), half(&named("e"))]);
    let all = after(&[&first, &second]);
    assert_eq!(guesses(&all), 2, "{all:?}");
    let all = after(&[&first, &file(&[&renamed, "kind: ["])]);
    assert_eq!(guesses(&all), 1, "{all:?}");
}

#[test]
fn what_breaks_within_its_metadata_is_known_by_its_name_beside_what_is_new() {
    let known = [
        "AuthorizationPolicy shop/c",
        "AuthorizationPolicy shop/deny",
    ];
    for broken in [half(DENY), &odd(DENY)] {
        let both = file(&[&named("c"), broken]);
        assert_eq!(after(&[DENY, &both]), known);
        assert_eq!(after(&[DENY, &both, &both]), known);
    }
    // Not where what has come may be it: it is called the same.
    let moved = DENY.replace("shop", "elsewhere");
    let all = after(&[DENY, &file(&[&moved, half(DENY)])]);
    assert_eq!(guesses(&all), 1, "{all:?}");
}

/// A policy of a file that is edited at random.
struct Edited {
    name: String,
    namespace: &'static str,
    action: &'static str,
    port: u16,
    slip: Slip,
    /// Whom it denies for certain, as was told last.
    owed: Owed,
}

#[derive(Clone, Copy, PartialEq)]
enum Slip {
    None,
    Action,
    Syntax,
    Half,
    Namespace,
    Nameless,
    Hidden,
}

#[derive(Clone, Copy, Debug)]
enum Owed {
    /// What one action and port of a namespace come to.
    Known(&'static str, &'static str, u16),
    Namespace(&'static str),
    Mesh,
}

impl Edited {
    fn text(&self) -> String {
        let rule = format!("[{{to: [{{operation: {{ports: [\"{}\"]}}}}]}}]", self.port);
        let text = DENY.replace("[{}]", &rule).replace("DENY", self.action);
        let text = text.replace("deny", &self.name);
        let text = text.replace(": shop", &format!(": {}", self.namespace));
        match self.slip {
            Slip::None => text,
            Slip::Action => text.replace("action: ", "action: X"),
            Slip::Syntax => text.replace("rules: ", "rules: [["),
            Slip::Half => half(&text).to_owned(),
            Slip::Namespace => text.replace("namespace: ", "namespace: X_"),
            Slip::Nameless => NAMELESS.to_owned(),
            Slip::Hidden => "kind: [".to_owned(),
        }
    }

    /// It is read again, after it was changed.
    fn tell(&mut self) {
        self.owed = match (self.slip, self.owed) {
            (Slip::None, _) => Owed::Known(self.namespace, self.action, self.port),
            (Slip::Action | Slip::Syntax, Owed::Mesh) => Owed::Namespace(self.namespace),
            (_, owed) => owed,
        };
    }

    fn is_paid(&self, objects: &[Arc<Object>]) -> bool {
        objects.iter().any(|object| {
            let Kind::AuthorizationPolicy(policy) = &object.kind else {
                return false;
            };
            let is_of = |name: &str| policy.scope == Scope::Mesh || policy.namespace == name;
            let is_closed = policy.broken.is_some();
            let is_deny = policy.action == Action::Deny;
            match self.owed {
                Owed::Known(of, "ALLOW", _) if self.slip != Slip::None => is_of(of) && is_closed,
                Owed::Known(of, "ALLOW", _) => is_of(of),
                Owed::Known(of, _, port) => {
                    let ports = policy.rules.iter().flat_map(|rule| &rule.to);
                    let mut ports = ports.flat_map(|to| &to.ports.values);
                    is_of(of) && is_deny && (is_closed || ports.any(|known| *known == port))
                }
                Owed::Namespace(of) => is_of(of) && is_closed,
                Owed::Mesh => {
                    let is_strict = is_deny || self.action == "ALLOW";
                    policy.scope == Scope::Mesh && is_closed && is_strict
                }
            }
        })
    }
}

/// Whatever its last readable version denied is denied while a policy cannot be read, and
/// whatever it could deny that never could be, however the others are edited meanwhile.
#[test]
fn no_edit_of_others_lifts_what_a_policy_denies_that_cannot_be_read() {
    const SLIPS: [Slip; 7] = [
        Slip::None,
        Slip::Action,
        Slip::Syntax,
        Slip::Half,
        Slip::Namespace,
        Slip::Nameless,
        Slip::Hidden,
    ];
    for seed in 0..600 {
        let mut dice = StdRng::seed_from_u64(seed);
        let mut below = |end: usize| -> usize { dice.random_range(0..end) };
        let mut policies: Vec<Edited> = Vec::new();
        let (mut before, mut past) = (Parsed::default(), Vec::new());
        for count in 0..14_u16 {
            // What is new comes by itself: beside something that goes nobody could tell
            // which of the two it is.
            if policies.is_empty() || below(3) == 0 {
                let mut new = Edited {
                    name: format!("p{count}"),
                    namespace: ["shop", "other"][below(2)],
                    action: ["DENY", "DENY", "ALLOW"][below(3)],
                    port: 1000 + count,
                    slip: SLIPS[below(6)],
                    owed: Owed::Mesh,
                };
                // Of two of one name that cannot be told, one could be the other.
                let mut told = policies
                    .iter()
                    .map(|policy| SLIPS[..3].contains(&policy.slip));
                let other = policies.get(below(4 * policies.len().max(1)));
                if let Some(other) = other.filter(|_| told.all(|is_told| is_told)) {
                    new.name.clone_from(&other.name);
                    (new.namespace, new.action) = (other.namespace, other.action);
                    new.slip = SLIPS[below(3)];
                }
                policies.insert(below(policies.len() + 1), new);
            } else {
                for _ in 0..=below(2) {
                    let at = below(policies.len().max(1));
                    let to = below(policies.len().max(1));
                    match (below(7), policies.get_mut(at)) {
                        (_, None) => {}
                        (0, Some(_)) => drop(policies.remove(at)),
                        (1, Some(policy)) if SLIPS[..5].contains(&policy.slip) => {
                            policy.name = format!("r{count}-{at}");
                        }
                        (2, Some(_)) => policies.swap(at, to),
                        (3, Some(policy)) => {
                            policy.slip = Slip::None;
                            policy.port = 2000 + count;
                        }
                        (_, Some(policy)) => policy.slip = SLIPS[below(7)],
                    }
                }
            }
            policies.iter_mut().for_each(Edited::tell);
            let texts: Vec<String> = policies.iter().map(Edited::text).collect();
            let text = file(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            past.push(text.clone());
            // Now and then it cannot be read at all for a while.
            if below(6) == 0 {
                before = then(&before, "{");
                past.push("{".to_owned());
            }
            before = then(&before, &text);
            for policy in &policies {
                let owed = policy.owed;
                assert!(
                    policy.is_paid(&before.objects),
                    "{seed}: {} owes {owed:?}\n{}\n{:#?}",
                    policy.name,
                    past.join("\n=====\n"),
                    before.objects
                );
            }
            if policies
                .iter()
                .all(|p| matches!(p.slip, Slip::None | Slip::Action))
            {
                assert!(
                    before.objects.iter().all(|o| !o.is_guess()),
                    "{seed}: {past:?}"
                );
            }
        }
    }
}
