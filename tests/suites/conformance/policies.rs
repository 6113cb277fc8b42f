//! What the official suite has no case of: policies behind routes, and backends that are not there.

use super::asks::{Case, call, get};
use super::{NAMESPACE, route};

pub(crate) fn cases() -> Vec<Case> {
    vec![behind_a_route(), of_calls(), nowhere()]
}

fn denied(of: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: case, namespace: {NAMESPACE}}}\n\
         spec: {{action: DENY, rules: [{{to: [{{operation: {{{of}}}}}]}}]}}\n"
    )
}

/// It is asked about the request that the route made.
fn behind_a_route() -> Case {
    let rules = "  \
  - matches: [{path: {value: /x}}]
    backendRefs: [$V1]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /admin}}}]
  - matches: [{path: {value: /admin/y}}]
    backendRefs: [$V2]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /open}}}]
  - {matches: [{path: {value: /admin}}], backendRefs: [$V2]}
  - {matches: [{path: {value: /open}}], backendRefs: [$V2]}";
    let policy = denied("paths: [\"/admin/*\"]");
    Case {
        name: "a policy behind a route",
        yaml: format!("{}---\n{policy}", route("HTTPRoute", rules)),
        rows: vec![
            get("/x/secret").gets("403"),
            get("/admin/secret").gets("403"),
            get("//admin/%73ecret").gets("403"),
            get("/admin/y/z").path_seen("echo-v2 /open/z"),
            get("/open").gets("echo-v2"),
            get("/administrator").gets("404"),
            get("/admin/x").at("echo-v1", 80).gets("403"),
            get("/open").at("echo-v1", 80).gets("echo-v1"),
        ],
    }
}

fn of_calls() -> Case {
    let rules = "  \
  - {matches: [{method: {service: pkg.Echo, method: Echo}}], backendRefs: [$V2]}";
    Case {
        name: "a route of calls by method, and a policy by method",
        yaml: format!(
            "{}---\n{}",
            route("GRPCRoute", rules),
            denied("methods: [\"DELETE\"]")
        ),
        rows: vec![
            call("x").gets("echo-v2"),
            get("/").method("DELETE").gets("403"),
            get("/").gets("any"),
        ],
    }
}

fn nowhere() -> Case {
    let rules = "  \
  - {matches: [{path: {value: /absent}}], backendRefs: [{name: nobody, port: 80}]}
  - {matches: [{path: {value: /none}}]}
  - {matches: [{path: {value: /v1}}], backendRefs: [$V1]}";
    Case {
        name: "a backend that is not there",
        yaml: route("HTTPRoute", rules),
        rows: vec![
            get("/absent").gets("500"),
            get("/none").gets("500"),
            get("/v1").gets("echo-v1"),
        ],
    }
}
