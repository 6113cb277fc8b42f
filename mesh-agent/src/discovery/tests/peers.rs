//! Which of several PeerAuthentications holds, as Istio merges them.

use super::{SHOP, load};
use crate::model::policy::PeerMode::{self, Disable, Permissive, Strict};

const WEB: &str = "selector: {matchLabels: {app: web}}";

fn peer(namespace: &str, name: &str, more: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{name: {name}, namespace: {namespace}{more}}}\nspec: {{{spec}}}\n"
    )
}

fn created(day: u8) -> String {
    format!(", creationTimestamp: \"2026-01-{day:02}T00:00:00Z\"")
}

/// Of port 8080 and of port 9 of the pod, whose label is `app: web`.
fn modes(text: &str) -> [PeerMode; 2] {
    let (snapshot, _) = load(&format!("{SHOP}{text}"));
    let authorizer = crate::policy::Authorizer::compile(&snapshot);
    let pod = snapshot.workloads.values().next().expect("the pod");
    [8080, 9].map(|port| authorizer.peer_mode(pod, port))
}

#[test]
fn a_selector_in_the_root_namespace_selects_nothing() {
    let root = peer(
        "istio-system",
        "web",
        "",
        &format!("{WEB}, mtls: {{mode: DISABLE}}"),
    );
    let shop = peer("shop", "all", "", "mtls: {mode: STRICT}");
    assert_eq!(modes(&format!("{root}{shop}")), [Strict; 2]);
    let mesh = peer("istio-system", "all", "", "mtls: {mode: STRICT}");
    assert_eq!(modes(&format!("{root}{mesh}")), [Strict; 2]);
    // What it says is not understood: then it may have been meant for all.
    let broken = root.replace("DISABLE", "DISABEL");
    assert_eq!(modes(&broken), [Strict; 2]);
}

#[test]
fn an_empty_selector_is_no_selector() {
    for empty in ["selector: {}", "selector: {matchLabels: {}}"] {
        let all = peer(
            "shop",
            "a",
            "",
            &format!("{empty}, mtls: {{mode: DISABLE}}"),
        );
        let web = peer("shop", "z", "", &format!("{WEB}, mtls: {{mode: STRICT}}"));
        assert_eq!(modes(&format!("{all}{web}")), [Strict; 2], "{empty}");
        let mesh = peer(
            "istio-system",
            "m",
            "",
            &format!("{empty}, mtls: {{mode: STRICT}}"),
        );
        assert_eq!(modes(&mesh), [Strict; 2], "{empty} for the mesh");
    }
}

#[test]
fn of_equals_the_oldest_holds_and_of_one_age_the_first_by_name() {
    for (namespace, selector) in [("shop", ""), ("istio-system", ""), ("shop", WEB)] {
        let of = |name: &str, day, mode: &str| {
            let comma = if selector.is_empty() { "" } else { ", " };
            let spec = format!("{selector}{comma}mtls: {{mode: {mode}}}");
            peer(namespace, name, &created(day), &spec)
        };
        let old_and_new = [of("z", 1, "PERMISSIVE"), of("a", 2, "STRICT")].concat();
        assert_eq!(
            modes(&old_and_new),
            [Permissive; 2],
            "{namespace} {selector}"
        );
        let twins = [of("z", 1, "STRICT"), of("a", 1, "DISABLE")].concat();
        assert_eq!(modes(&twins), [Disable; 2], "{namespace} {selector}");
    }
}

#[test]
fn of_equals_without_an_age_the_strictest_holds_port_by_port() {
    let two = |first: &str, second: &str| {
        let web = |name: &str, spec: &str| peer("shop", name, "", &format!("{WEB}, {spec}"));
        modes(&[web("a", first), web("b", second)].concat())
    };
    let (open, strict) = ("mtls: {mode: DISABLE}", "mtls: {mode: STRICT}");
    assert_eq!(two(open, strict), [Strict; 2]);
    assert_eq!(two(strict, open), [Strict; 2]);
    let port = "mtls: {mode: PERMISSIVE}, portLevelMtls: {9: {mode: STRICT}}";
    assert_eq!(two(open, port), [Permissive, Strict]);
    let opened = "mtls: {mode: STRICT}, portLevelMtls: {9: {mode: DISABLE}}";
    assert_eq!(
        two(opened, "mtls: {mode: PERMISSIVE}"),
        [Strict, Permissive]
    );
    // One age alone says nothing of the other.
    let aged = peer("shop", "b", &created(1), "mtls: {mode: PERMISSIVE}");
    let ageless = peer("shop", "a", "", "mtls: {mode: STRICT}");
    assert_eq!(modes(&[aged, ageless].concat()), [Strict; 2]);
}
