//! What filters change of requests.

use super::asks::{Case, call, get};
use super::route;

pub(crate) fn cases() -> Vec<Case> {
    vec![headers(), of_backends(), rewrites(), of_calls()]
}

/// A rule for one match with one change of the request's header lines.
fn changing(matches: &str, change: &str) -> String {
    format!(
        "  - {{matches: [{matches}], backendRefs: [$V1], filters: [\
         {{type: RequestHeaderModifier, requestHeaderModifier: {{{change}}}}}]}}"
    )
}

const SET: &str = "set: [{name: X-Header-Set, value: set}]";
const ADD: &str = "add: [{name: X-Header-Add, value: add}]";
const REMOVE: &str = "remove: [X-Header-Remove]";

fn headers() -> Case {
    let several = "set: [{name: X-Header-Set-1, value: one}, {name: x-header-set-2, value: two}], \
         add: [{name: X-Header-Add, value: add}], remove: [x-header-remove-1, X-HEADER-REMOVE-2]";
    let of = |path: &str, change: &str| changing(&format!("{{path: {{value: {path}}}}}"), change);
    let rules = [
        of("/set", SET),
        of("/add", ADD),
        of("/remove", REMOVE),
        of("/multiple", several),
    ];
    let many = get("/multiple")
        .with("X-Header-Set-2: old")
        .with("X-Header-Remove-1: old")
        .with("x-header-remove-2: old");
    Case {
        name: "MeshHTTPRouteRequestHeaderModifier",
        yaml: route("HTTPRoute", &rules.join("\n")),
        rows: vec![
            get("/set")
                .with("x-some: y")
                .lines_seen("echo-v1 x-header-set: set, x-some: y"),
            get("/set")
                .with("x-HEADER-set: old")
                .lines_seen("echo-v1 x-header-set: set"),
            get("/add")
                .with("x-header-add: old")
                .lines_seen("echo-v1 x-header-add: add, x-header-add: old"),
            get("/remove")
                .with("x-header-REMOVE: old")
                .with("x-a: b")
                .lines_seen("echo-v1 x-a: b"),
            many.lines_seen("echo-v1 x-header-add: add, x-header-set-1: one, x-header-set-2: two"),
        ],
    }
}

fn of_backends() -> Case {
    let of_rule = "{type: RequestHeaderModifier, requestHeaderModifier: \
         {set: [{name: X-Rule, value: rule}, {name: X-Both, value: rule}]}}";
    let of_backend = "{type: RequestHeaderModifier, requestHeaderModifier: \
         {set: [{name: X-Both, value: backend}], add: [{name: X-Add, value: more}], remove: [X-Remove]}}";
    let with = format!("{{name: echo-v1, port: 80, filters: [{of_backend}]}}");
    let rules = format!(
        "  - {{matches: [{{path: {{value: /with}}}}], backendRefs: [{with}], filters: [{of_rule}]}}\n  \
         - {{backendRefs: [$V2], filters: [{of_rule}]}}"
    );
    let asks = |path| get(path).with("x-remove: x").with("x-add: one");
    Case {
        name: "MeshHTTPRouteBackendRequestHeaderModifier",
        yaml: route("HTTPRoute", &rules),
        rows: vec![
            asks("/with")
                .lines_seen("echo-v1 x-add: more, x-add: one, x-both: backend, x-rule: rule"),
            asks("/").lines_seen("echo-v2 x-add: one, x-both: rule, x-remove: x, x-rule: rule"),
        ],
    }
}

fn rewrites() -> Case {
    let of = |from: &str, to: &str| {
        format!(
            "  - {{matches: [{{path: {{value: {from}}}}}], backendRefs: [$V1], filters: [\
             {{type: URLRewrite, urlRewrite: {{path: {to}}}}}]}}"
        )
    };
    let start = |to: &str| format!("{{type: ReplacePrefixMatch, replacePrefixMatch: {to}}}");
    let rules = [
        of("/prefix/one", &start("/one")),
        of("/strip-prefix", &start("/")),
        of(
            "/full/one",
            "{type: ReplaceFullPath, replaceFullPath: /one}",
        ),
    ];
    let rows = [
        ("/prefix/one/two", "echo-v1 /one/two"),
        ("/prefix/one", "echo-v1 /one"),
        ("/prefix/one/?q=1", "echo-v1 /one/?q=1"),
        ("/strip-prefix/three", "echo-v1 /three"),
        ("/strip-prefix", "echo-v1 /"),
        ("/full/one/two?q", "echo-v1 /one?q"),
    ];
    Case {
        name: "MeshHTTPRouteRewritePath",
        yaml: route("HTTPRoute", &rules.join("\n")),
        rows: rows
            .map(|(path, wanted)| get(path).path_seen(wanted))
            .into(),
    }
}

fn of_calls() -> Case {
    let of = |case: &str, change: &str| {
        let matches = format!("{{headers: [{{name: x-test-case, value: {case}}}]}}");
        changing(&matches, change)
    };
    let rules = [
        of("set", SET),
        of("add", ADD),
        of("remove", REMOVE),
        of("multi", &[SET, ADD, REMOVE].join(", ")),
    ];
    let asks = |case: &str| {
        let lines = [
            "x-header-set: old",
            "x-header-add: old",
            "x-header-remove: old",
        ];
        lines.iter().fold(call(case), |asks, line| asks.with(line))
    };
    let rows = [
        (
            "set",
            "x-header-add: old, x-header-remove: old, x-header-set: set",
        ),
        (
            "add",
            "x-header-add: add, x-header-add: old, x-header-remove: old, x-header-set: old",
        ),
        ("remove", "x-header-add: old, x-header-set: old"),
        (
            "multi",
            "x-header-add: add, x-header-add: old, x-header-set: set",
        ),
    ];
    let rows = rows.map(|(case, lines)| asks(case).lines_seen(&format!("echo-v1 {lines}")));
    Case {
        name: "MeshGRPCRouteRequestHeaderModifier",
        yaml: route("GRPCRoute", &rules.join("\n")),
        rows: rows.into(),
    }
}
