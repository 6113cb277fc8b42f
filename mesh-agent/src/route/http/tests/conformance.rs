//! The cases of the Gateway API's mesh profiles, under their names, as decisions.

mod redirects;

use super::world::*;
use crate::model::http_route::{Filter, HttpRule, PathModifier, Rewrite};
use crate::model::route::{Route, RouteKind};

fn response_header() -> Filter {
    Filter::ResponseHeaders(modifier(&[("x-header-set", "set")], &[], &[]))
}

fn is_marked(got: &Got) -> bool {
    let Got::To { response, .. } = got else {
        return false;
    };
    edited(response, &[]).contains(&("x-header-set".to_owned(), "set".to_owned()))
}

/// MeshBasic
#[test]
fn mesh_basic() {
    let world = World::new([]);
    assert_eq!(world.ask(&get("/")).brief(), "implicit");
}

/// MeshHTTPRouteSimpleSameNamespace
#[test]
fn mesh_http_route_simple_same_namespace() {
    let world = World::new([route("simple", [rule(&[("echo-v1", 1)])])]);
    assert_eq!(world.ask(&get("/")).brief(), "echo-v1");
    assert_eq!(world.ask(&get("/any/path?x")).brief(), "echo-v1");
}

/// MeshHTTPRouteMatching
#[test]
fn mesh_http_route_matching() {
    let world = World::new([route(
        "matching",
        [
            to(
                "echo-v1",
                [prefix("/"), headers(prefix("/"), &[("version", "one")])],
            ),
            to(
                "echo-v2",
                [prefix("/v2"), headers(prefix("/"), &[("version", "two")])],
            ),
        ],
    )]);
    for (path, version, expected) in [
        ("/", None, "echo-v1"),
        ("/example", None, "echo-v1"),
        ("/", Some("one"), "echo-v1"),
        ("/v2", None, "echo-v2"),
        ("/v2/", None, "echo-v2"),
        ("/v2/example", None, "echo-v2"),
        ("/", Some("two"), "echo-v2"),
        ("/v2example", None, "echo-v1"),
        ("/foo/v2/example", None, "echo-v1"),
    ] {
        let mut request = get(path);
        if let Some(version) = version {
            request = request.header("Version", version);
        }
        assert_eq!(world.ask(&request).brief(), expected, "{path} {version:?}");
    }
}

/// MeshHTTPRouteRequestHeaderModifier
#[test]
fn mesh_http_route_request_header_modifier() {
    let of = |path: &str, set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]| {
        let filter = Filter::RequestHeaders(modifier(set, add, remove));
        filtered(to("echo-v1", [prefix(path)]), [filter])
    };
    let set = [("X-Header-Set", "set-overwrites-values")];
    let add = [("X-Header-Add", "add-appends-values")];
    let several = [("X-Header-Set-1", "1"), ("x-header-set-2", "2")];
    let world = World::new([route(
        "modifier",
        [
            of("/set", &set, &[], &[]),
            of("/add", &[], &add, &[]),
            of("/remove", &[], &[], &["X-Header-Remove"]),
            of(
                "/multiple",
                &several,
                &add,
                &["x-header-remove-1", "X-HEADER-REMOVE-2"],
            ),
        ],
    )]);
    let after = |path: &str, lines: &[(&str, &str)]| {
        let all = edited(world.ask(&get(path)).request(), lines);
        let all: Vec<String> = all.iter().map(|(n, v)| format!("{n}: {v}")).collect();
        all.join(", ")
    };
    assert_eq!(
        after("/set", &[("some", "x")]),
        "some: x, x-header-set: set-overwrites-values"
    );
    assert_eq!(
        after("/set", &[("x-HEADER-set", "old")]),
        "x-header-set: set-overwrites-values"
    );
    let added = after("/add", &[("x-header-add", "already")]);
    assert_eq!(
        added,
        "x-header-add: add-appends-values, x-header-add: already"
    );
    assert_eq!(
        after("/remove", &[("x-header-REMOVE", "x"), ("a", "b")]),
        "a: b"
    );
    let lines = [
        ("X-Header-Set-2", "x"),
        ("X-Header-Remove-1", "x"),
        ("x-header-remove-2", "y"),
    ];
    assert_eq!(
        after("/multiple", &lines),
        "x-header-add: add-appends-values, x-header-set-1: 1, x-header-set-2: 2"
    );
}

fn share(world: &World, request: &Asked, name: &str) -> f64 {
    f64::from(world.shares(request).get(name).copied().unwrap_or(0)) / 10_000.0
}

/// MeshHTTPRouteWeight
#[test]
fn mesh_http_route_weight() {
    let world = World::new([route(
        "weight",
        [rule(&[("echo-v1", 70), ("echo-v2", 30), ("echo", 0)])],
    )]);
    let share = |name| share(&world, &get("/"), name);
    assert!(
        (share("echo-v1") - 0.7).abs() <= 0.01,
        "{}",
        share("echo-v1")
    );
    assert!(
        (share("echo-v2") - 0.3).abs() <= 0.01,
        "{}",
        share("echo-v2")
    );
    assert!(share("echo") == 0.0);
}

/// MeshTrafficSplit
#[test]
fn mesh_traffic_split() {
    let world = World::new([route(
        "split",
        [to("echo-v1", [exact("/v1")]), to("echo-v2", [exact("/v2")])],
    )]);
    assert_eq!(world.ask(&get("/v1")).brief(), "echo-v1");
    assert_eq!(world.ask(&get("/v2")).brief(), "echo-v2");
    assert_eq!(world.ask(&get("/v2/")).brief(), "404");
    assert_eq!(world.ask(&get("/")).brief(), "404");
}

/// MeshHTTPRouteQueryParamMatching
#[test]
fn mesh_http_route_query_param_matching() {
    let any = || prefix("/");
    let world = World::new([route(
        "query",
        [
            to("echo-v1", [query(any(), &[("animal", "whale")])]),
            to("echo-v2", [query(any(), &[("animal", "dolphin")])]),
            to("echo-v1", [query(prefix("/path1"), &[("animal", "whale")])]),
            to(
                "echo-v2",
                [headers(
                    query(any(), &[("animal", "whale")]),
                    &[("version", "one")],
                )],
            ),
            to(
                "echo-v1",
                [
                    query(prefix("/path2"), &[("animal", "whale")]),
                    query(prefix("/path2"), &[("animal", "dolphin")]),
                ],
            ),
            to(
                "echo-v2",
                [query(
                    prefix("/path5"),
                    &[("animal", "whale"), ("color", "blue")],
                )],
            ),
            to("echo", [prefix("/path6")]),
        ],
    )]);
    for (path, header, expected) in [
        ("/?animal=whale", None, "echo-v1"),
        ("/?animal=dolphin", None, "echo-v2"),
        ("/?animal=whale&otherparam=irrelevant", None, "echo-v1"),
        ("/?animal=dolphin&color=yellow", None, "echo-v2"),
        ("/?animal=whale&animal=dolphin", None, "echo-v1"),
        ("/?animal=whale", Some(("version", "one")), "echo-v2"),
        ("/path1?animal=whale", None, "echo-v1"),
        ("/path2?animal=dolphin", None, "echo-v1"),
        ("/path5?animal=whale&color=blue", None, "echo-v2"),
        ("/path5?animal=whale&color=red", None, "echo-v1"),
        ("/path6?animal=dolphin", None, "echo"),
        ("/", None, "404"),
        ("/?animal=horse", None, "404"),
        ("/?animal=horse&color=blue", None, "404"),
        ("/?Animal=whale", None, "404"),
        ("/path2", None, "404"),
    ] {
        let mut request = get(path);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        assert_eq!(world.ask(&request).brief(), expected, "{path} {header:?}");
    }
}

/// MeshHTTPRouteBackendRequestHeaderModifier
#[test]
fn mesh_http_route_backend_request_header_modifier() {
    let of_rule = Filter::RequestHeaders(modifier(
        &[("X-Rule", "rule"), ("X-Both", "rule")],
        &[],
        &[],
    ));
    let of_backend = modifier(
        &[("X-Both", "backend")],
        &[("X-Add", "more")],
        &["X-Remove"],
    );
    let mut with = filtered(rule(&[("echo-v1", 1), ("echo-v2", 1)]), [of_rule]);
    with.backends[0].filters = [Filter::RequestHeaders(of_backend)].into();
    let world = World::new([route("backend", [with])]);
    let after = |number| {
        let got = world.ask_at(("echo", 80), NS, &get("/"), number);
        let lines = [("x-remove", "x"), ("x-add", "one")];
        let all = edited(got.request(), &lines);
        let all: Vec<String> = all.iter().map(|(n, v)| format!("{n}: {v}")).collect();
        format!("{} {}", got.brief(), all.join(", "))
    };
    assert_eq!(
        after(0),
        "echo-v1 x-add: more, x-add: one, x-both: backend, x-rule: rule"
    );
    assert_eq!(
        after(1),
        "echo-v2 x-add: one, x-both: rule, x-remove: x, x-rule: rule"
    );
}

/// MeshHTTPRouteRewritePath
#[test]
fn mesh_http_route_rewrite_path() {
    let of = |path: &str, with: PathModifier| {
        let rewrite = Rewrite {
            host: None,
            path: Some(with),
        };
        filtered(to("echo-v1", [prefix(path)]), [Filter::Rewrite(rewrite)])
    };
    let world = World::new([route(
        "rewrite",
        [
            of("/prefix/one", PathModifier::Prefix("/one".into())),
            of("/strip-prefix", PathModifier::Prefix("/".into())),
            of("/full/one", PathModifier::Full("/one".into())),
        ],
    )]);
    for (path, expected) in [
        ("/prefix/one/two", "/one/two"),
        ("/prefix/one", "/one"),
        ("/prefix/one/?q=1", "/one/?q=1"),
        ("/strip-prefix/three", "/three"),
        ("/strip-prefix", "/"),
        ("/full/one/two?q", "/one?q"),
    ] {
        let got = world.ask(&get(path));
        assert_eq!(got.request().target.as_deref(), Some(expected), "{path}");
    }
}

/// MeshHTTPRouteNamedRule
#[test]
fn mesh_http_route_named_rule() {
    let named = HttpRule {
        name: Some("named-rule".into()),
        ..to("echo-v1", [prefix("/named")])
    };
    let world = World::new([route("names", [named, to("echo-v2", [prefix("/unnamed")])])]);
    let rule = |path| match world.ask(&get(path)) {
        Got::To { rule, backend, .. } => format!("{backend}: {rule}"),
        other => panic!("{other:?}"),
    };
    let route = format!("HTTPRoute {NS}/names");
    assert_eq!(
        rule("/named"),
        format!("echo-v1: {route} rule \"named-rule\"")
    );
    assert_eq!(rule("/unnamed"), format!("echo-v2: {route} rule 1"));
}

/// MeshConsumerRoute
#[test]
fn mesh_consumer_route() {
    let consumer = filtered(rule(&[("echo-v1", 1)]), [response_header()]);
    let consumer = route_of(RouteKind::Http, (CONSUMER, "consumer"), None, [consumer]);
    let alone = World::new([consumer.clone()]);
    assert!(is_marked(&alone.ask_at(
        ("echo", 80),
        CONSUMER,
        &get("/"),
        0
    )));
    assert_eq!(alone.ask(&get("/")), Got::Implicit);
    let both = World::new([consumer, route("producer", [to("echo-v2", [prefix("/p")])])]);
    let of_consumer = |path| both.ask_at(("echo", 80), CONSUMER, &get(path), 0).brief();
    let of_other = |path| {
        both.ask_at(("echo", 80), "elsewhere", &get(path), 0)
            .brief()
    };
    assert_eq!(
        (of_consumer("/p"), of_consumer("/")),
        ("echo-v1".into(), "echo-v1".into())
    );
    assert_eq!(
        (of_other("/p"), of_other("/")),
        ("echo-v2".into(), "404".into())
    );
}

/// MeshFrontendHostname
#[test]
fn mesh_frontend_hostname() {
    let mut marking = route(
        "host",
        [filtered(rule(&[("echo-v1", 1)]), [response_header()])],
    );
    marking.hostnames = ["elsewhere.example".into()].into();
    let world = World::new([marking]);
    for host in ["echo", "echo-v2", "example.org"] {
        assert!(is_marked(&world.ask(&get("/").host(host))), "{host}");
    }
}

/// MeshFrontend: by the Service; that a pod's address has no routes, resolving says.
#[test]
fn mesh_frontend() {
    let world = World::new([route(
        "frontend",
        [filtered(rule(&[("echo-v1", 1)]), [response_header()])],
    )]);
    assert!(is_marked(&world.ask(&get("/"))));
    assert_eq!(
        world.ask_at(("echo-v1", 80), NS, &get("/"), 0),
        Got::Implicit
    );
}

/// MeshPorts
#[test]
fn mesh_ports() {
    let marking = filtered(rule(&[("echo-v1", 1)]), [response_header()]);
    let of_port = |port| route_of(RouteKind::Http, (NS, "ports"), port, [marking.clone()]);
    let one = World::new([of_port(Some(80))]);
    assert!(is_marked(&one.ask(&get("/"))));
    assert_eq!(one.ask_at(("echo", 8080), NS, &get("/"), 0), Got::Implicit);
    let all = World::new([of_port(None)]);
    for port in [80, 8080, 7070] {
        assert!(
            is_marked(&all.ask_at(("echo", port), NS, &get("/"), 0)),
            "{port}"
        );
    }
}

fn grpc(rules: impl IntoIterator<Item = HttpRule>) -> Route {
    route_of(RouteKind::Grpc, (NS, "grpc"), Some(7070), rules)
}

/// MeshGRPCRouteWeight
#[test]
fn mesh_grpc_route_weight() {
    let mut weight = route_of(
        RouteKind::Grpc,
        (NS, "weight"),
        None,
        [HttpRule {
            matches: [call(None, None)].into(),
            ..rule(&[("echo-v1", 70), ("echo-v2", 30), ("echo", 0)])
        }],
    );
    weight.created = None;
    let world = World::new([weight]);
    let request = get("/gateway_api_conformance.echo_basic.grpcecho.GrpcEcho/Echo").method("POST");
    assert!((share(&world, &request, "echo-v1") - 0.7).abs() <= 0.01);
    assert!((share(&world, &request, "echo-v2") - 0.3).abs() <= 0.01);
    assert!(share(&world, &request, "echo") == 0.0);
}

/// MeshGRPCRouteRequestHeaderModifier
#[test]
fn mesh_grpc_route_request_header_modifier() {
    let of = |case: &str, set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]| {
        let filter = Filter::RequestHeaders(modifier(set, add, remove));
        let one = headers(call(None, None), &[("x-test-case", case)]);
        filtered(to("echo-v1", [one]), [filter])
    };
    let world = World::new([grpc([
        of("set", &[("X-Header-Set", "set")], &[], &[]),
        of("add", &[], &[("X-Header-Add", "add")], &[]),
        of("remove", &[], &[], &["X-Header-Remove"]),
        of(
            "multi",
            &[("X-Header-Set", "set")],
            &[("X-Header-Add", "add")],
            &["X-Header-Remove"],
        ),
    ])]);
    for (case, expected) in [
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
    ] {
        let request = get("/pkg.Echo/Echo")
            .method("POST")
            .header("X-Test-Case", case);
        let got = world.ask_at(("echo", 7070), NS, &request, 0);
        let lines = [
            ("x-header-set", "old"),
            ("x-header-add", "old"),
            ("x-header-remove", "old"),
        ];
        let all = edited(got.request(), &lines);
        let all: Vec<String> = all.iter().map(|(n, v)| format!("{n}: {v}")).collect();
        assert_eq!(all.join(", "), expected, "{case}");
    }
    assert_eq!(
        world
            .ask_at(("echo", 7070), NS, &get("/pkg.Echo/Echo"), 0)
            .brief(),
        "404"
    );
    assert_eq!(world.ask(&get("/")), Got::Implicit);
}
