//! Policies in odd places: none vanishes.

use super::policies::{ALLOW, allowed};
use super::{SHOP, load};
use crate::model::policy::PeerMode;

fn deny() -> String {
    ALLOW
        .replace("ALLOW", "DENY")
        .replace("namespaces", "notNamespaces")
}

#[test]
fn a_spec_beside_items_or_under_the_name_of_a_list_counts() {
    for policy in [ALLOW.to_owned(), deny()] {
        for odd in [
            policy.replace("spec:", "items: []\nspec:"),
            policy.replace("kind: AuthorizationPolicy", "kind: AuthorizationPolicyList"),
            policy
                .replace("kind: AuthorizationPolicy", "kind: AuthorizationPolicyList")
                .replace("spec:", "items: []\nspec:"),
        ] {
            assert_eq!(allowed(&odd), [false; 3], "{odd}");
            assert!(!load(&odd).1.is_empty(), "{odd}");
        }
    }
}

#[test]
fn a_namespace_in_quotes_is_the_namespace_and_what_is_no_name_is_the_whole_mesh() {
    let broken = ALLOW.replace("rules:", "rules: [");
    for namespace in [
        "\"shop\"",
        "'shop'",
        "shop",
        "Shop",
        "shop # of ours",
        "\"shop",
        "-",
    ] {
        let text = broken.replace("namespace: shop", &format!("namespace: {namespace}"));
        assert_eq!(allowed(&text), [false; 3], "{namespace}");
    }
    let other = broken.replace("namespace: shop", "namespace: \"other\"");
    assert_eq!(allowed(&other), [true; 3], "of another namespace alone");
}

#[test]
fn policies_behind_other_line_ends_and_marks_count() {
    let all = format!("{SHOP}---{}", deny());
    let marks = [
        all.replace('\n', "\r"),
        all.replace("---\n", "\u{feff}---\n"),
        all.replace("---\n", "...\n%YAML 1.2\n---\n"),
    ];
    for text in marks {
        let (snapshot, problems) = load(&text);
        assert_eq!(problems, Vec::<String>::new(), "{text}");
        assert_eq!(snapshot.policies.len(), 1, "{text}");
    }
}

#[test]
fn of_two_that_differ_the_stricter_one_holds_in_either_order() {
    let wider = ALLOW
        .replace("\"8080\"", "\"8080\", \"9\"")
        .replace("[shop]", "[shop, other]");
    for (a, b) in [
        (ALLOW, wider.as_str()),
        (&wider, ALLOW),
        (ALLOW, &deny()),
        (&deny(), ALLOW),
    ] {
        assert_eq!(allowed(&format!("{a}---{b}")), [false; 3], "{a}{b}");
    }
    assert_eq!(
        allowed(&format!("{ALLOW}---{ALLOW}")),
        [true, false, false],
        "the same"
    );
    let peer = |mode: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
             metadata: {{name: p, namespace: shop}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
        )
    };
    for (a, b) in [
        ("STRICT", "DISABLE"),
        ("DISABLE", "STRICT"),
        ("DISABLE", "PERMISSIVE"),
    ] {
        let (snapshot, problems) = load(&format!("{SHOP}{}{}", peer(a), peer(b)));
        assert_eq!(problems.len(), 1, "{problems:?}");
        let authorizer = crate::policy::Authorizer::compile(&snapshot);
        let pod = snapshot.workloads.values().next().expect("the pod");
        assert_eq!(authorizer.peer_mode(pod, 8080), PeerMode::Strict, "{a} {b}");
    }
}
