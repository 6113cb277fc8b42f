//! Which rule, and where it leads.

use super::asks::{Case, get};
use super::route;

pub(crate) fn cases() -> Vec<Case> {
    vec![simple(), basic(), matching(), split(), query(), named()]
}

fn basic() -> Case {
    Case {
        name: "MeshBasic",
        yaml: String::new(),
        rows: vec![
            get("/").gets("any"),
            get("/any").at("echo", 8080).gets("any"),
        ],
    }
}

fn simple() -> Case {
    Case {
        name: "MeshHTTPRouteSimpleSameNamespace",
        yaml: route("HTTPRoute", "  - {backendRefs: [$V1]}"),
        rows: ["/", "/any/path?x"]
            .map(|path| get(path).gets("echo-v1"))
            .into(),
    }
}

fn matching() -> Case {
    let rules = "  \
  - matches:
    - {path: {type: PathPrefix, value: /}}
    - {headers: [{name: version, value: one}]}
    backendRefs: [$V1]
  - matches:
    - {path: {type: PathPrefix, value: /v2}}
    - {headers: [{name: version, value: two}]}
    backendRefs: [$V2]";
    let plain = [
        ("/", "echo-v1"),
        ("/example", "echo-v1"),
        ("/v2", "echo-v2"),
        ("/v2/", "echo-v2"),
        ("/v2/example", "echo-v2"),
        ("/v2example", "echo-v1"),
        ("/foo/v2/example", "echo-v1"),
    ];
    let plain = plain.map(|(path, name)| get(path).gets(name));
    let by_header = [("one", "echo-v1"), ("two", "echo-v2")]
        .map(|(version, name)| get("/").with(&format!("Version: {version}")).gets(name));
    Case {
        name: "MeshHTTPRouteMatching",
        yaml: route("HTTPRoute", rules),
        rows: plain.into_iter().chain(by_header).collect(),
    }
}

fn split() -> Case {
    let rules = "  \
  - {matches: [{path: {type: Exact, value: /v1}}], backendRefs: [$V1]}
  - {matches: [{path: {type: Exact, value: /v2}}], backendRefs: [$V2]}";
    let rows = [
        ("/v1", "echo-v1"),
        ("/v2", "echo-v2"),
        ("/v2/", "404"),
        ("/", "404"),
    ];
    Case {
        name: "MeshTrafficSplit",
        yaml: route("HTTPRoute", rules),
        rows: rows.map(|(path, wanted)| get(path).gets(wanted)).into(),
    }
}

fn query() -> Case {
    let rules = "  \
  - {matches: [{queryParams: [{name: animal, value: whale}]}], backendRefs: [$V1]}
  - {matches: [{queryParams: [{name: animal, value: dolphin}]}], backendRefs: [$V2]}
  - {matches: [{path: {value: /path1}, queryParams: [{name: animal, value: whale}]}], backendRefs: [$V1]}
  - {matches: [{headers: [{name: version, value: one}], queryParams: [{name: animal, value: whale}]}], backendRefs: [$V2]}
  - matches:
    - {path: {value: /path2}, queryParams: [{name: animal, value: whale}]}
    - {path: {value: /path2}, queryParams: [{name: animal, value: dolphin}]}
    backendRefs: [$V1]
  - matches:
    - {path: {value: /path5}, queryParams: [{name: animal, value: whale}, {name: color, value: blue}]}
    backendRefs: [$V2]
  - {matches: [{path: {value: /path6}}], backendRefs: [$ECHO]}";
    let rows = [
        ("/?animal=whale", "echo-v1"),
        ("/?animal=dolphin", "echo-v2"),
        ("/?animal=whale&otherparam=irrelevant", "echo-v1"),
        ("/?animal=dolphin&color=yellow", "echo-v2"),
        ("/?animal=whale&animal=dolphin", "echo-v1"),
        ("/path1?animal=whale", "echo-v1"),
        ("/path2?animal=dolphin", "echo-v1"),
        ("/path5?animal=whale&color=blue", "echo-v2"),
        ("/path5?animal=whale&color=red", "echo-v1"),
        ("/path6?animal=dolphin", "any"),
        ("/", "404"),
        ("/?animal=horse", "404"),
        ("/?animal=horse&color=blue", "404"),
        ("/?Animal=whale", "404"),
        ("/path2", "404"),
    ];
    let rows = rows.map(|(path, wanted)| get(path).gets(wanted));
    let with_header = get("/?animal=whale").with("version: one").gets("echo-v2");
    Case {
        name: "MeshHTTPRouteQueryParamMatching",
        yaml: route("HTTPRoute", rules),
        rows: rows.into_iter().chain([with_header]).collect(),
    }
}

fn named() -> Case {
    let rules = "  \
  - {name: named-rule, matches: [{path: {value: /named}}], backendRefs: [$V1]}
  - {matches: [{path: {value: /unnamed}}], backendRefs: [$V2]}";
    Case {
        name: "MeshHTTPRouteNamedRule",
        yaml: route("HTTPRoute", rules),
        rows: vec![
            get("/named").gets("echo-v1"),
            get("/unnamed").gets("echo-v2"),
        ],
    }
}
