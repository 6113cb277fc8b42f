//! What the API's text says of matches, precedence and backends.

use super::world::*;
use crate::model::PathProblem;
use crate::model::http_route::TextMatch;
use crate::model::route::{BackendTarget, RouteKind};
use crate::route::http::RouteReason;

#[test]
fn a_path_goes_by_its_elements_and_in_decoded_form() {
    let world = World::new([route(
        "paths",
        [
            to("echo-v1", [prefix("/foo/"), exact("/a b")]),
            to("echo-v2", [regex("/r[0-9]+(/.*)?")]),
        ],
    )]);
    for (path, expected) in [
        ("/foo", "echo-v1"),
        ("/foo/", "echo-v1"),
        ("/foo/bar", "echo-v1"),
        ("/foobar", "404"),
        ("/Foo", "404"),
        ("/a%20b", "echo-v1"),
        ("/a%20b/", "404"),
        ("/r12/x", "echo-v2"),
        ("/x/r12", "404"),
    ] {
        assert_eq!(world.ask(&get(path)).brief(), expected, "{path}");
    }
}

#[test]
fn exact_goes_before_patterns_before_prefixes_and_longer_before_shorter() {
    let world = World::new([
        route(
            "z",
            [to("echo", [prefix("/")]), to("echo-v1", [prefix("/api")])],
        ),
        route(
            "y",
            [
                to("echo-v2", [regex("/api/.*")]),
                to("echo", [prefix("/api/v1/x")]),
            ],
        ),
        route("x", [to("echo-v1", [exact("/api/exact")])]),
    ]);
    for (path, expected) in [
        ("/", "echo"),
        ("/api", "echo-v1"),
        ("/api/v1/x", "echo-v2"),
        ("/api/exact", "echo-v1"),
        ("/api/exactly", "echo-v2"),
    ] {
        assert_eq!(world.ask(&get(path)).brief(), expected, "{path}");
    }
}

#[test]
fn then_a_method_then_more_headers_then_more_parameters() {
    let any = || prefix("/");
    let rich = || headers(any(), &[("a", "1"), ("b", "1")]);
    let world = World::new([route(
        "ties",
        [
            to("echo", [query(any(), &[("q", "1"), ("r", "1")])]),
            to("echo-v1", [rich()]),
            to("echo-v2", [method(any(), "POST")]),
        ],
    )]);
    let request = || get("/?q=1&r=1").header("a", "1").header("b", "1");
    assert_eq!(world.ask(&request().method("POST")).brief(), "echo-v2");
    assert_eq!(world.ask(&request()).brief(), "echo-v1");
    assert_eq!(
        world.ask(&get("/?q=1&r=1").header("a", "1")).brief(),
        "echo"
    );
}

#[test]
fn then_the_older_route_then_the_first_name_then_the_first_rule() {
    let one = |name: &str, to: &str| route(name, [rule(&[(to, 1)])]);
    let first = |routes: [crate::model::route::Route; 2]| World::new(routes).ask(&get("/")).brief();
    assert_eq!(
        first([aged(one("a", "echo"), 20), aged(one("b", "echo-v1"), 10)]),
        "echo-v1"
    );
    assert_eq!(
        first([one("a", "echo"), aged(one("b", "echo-v1"), 10)]),
        "echo-v1",
        "a file's is the youngest"
    );
    assert_eq!(first([one("b", "echo"), one("a", "echo-v1")]), "echo-v1");
    let world = World::new([route("a", [rule(&[("echo", 1)]), rule(&[("echo-v1", 1)])])]);
    assert_eq!(world.ask(&get("/")).brief(), "echo");
}

#[test]
fn headers_go_by_any_case_of_their_name_and_several_lines_are_one_value() {
    let mut pattern = headers(prefix("/"), &[("X-Pattern", "")]);
    pattern.headers[0].value = TextMatch::Regex("v[0-9]".into());
    let world = World::new([route(
        "headers",
        [
            to("echo-v1", [headers(prefix("/"), &[("X-Some", "a,b")])]),
            to("echo-v2", [pattern]),
            to(
                "echo",
                [headers(prefix("/"), &[("Host", "shop.example:8080")])],
            ),
        ],
    )]);
    let some = |values: &[&str]| {
        let request = values
            .iter()
            .fold(get("/"), |request, value| request.header("x-SOME", value));
        world.ask(&request).brief()
    };
    assert_eq!(some(&["a,b"]), "echo-v1");
    assert_eq!(some(&["a", "b"]), "echo-v1");
    assert_eq!(some(&["a"]), "404");
    assert_eq!(some(&["b", "a"]), "404");
    assert_eq!(
        world.ask(&get("/").header("x-pattern", "v1")).brief(),
        "echo-v2"
    );
    assert_eq!(
        world.ask(&get("/").header("x-pattern", "xv1")).brief(),
        "404"
    );
    assert_eq!(
        world.ask(&get("/").host("shop.example:8080")).brief(),
        "echo"
    );
    assert_eq!(world.ask(&get("/").host("shop.example")).brief(), "404");
}

#[test]
fn cookies_that_came_in_several_lines_are_those_of_one() {
    let world = World::new([route(
        "cookies",
        [to(
            "echo-v1",
            [headers(prefix("/"), &[("Cookie", "a=1; b=2")])],
        )],
    )]);
    let with = |lines: &[&str]| {
        let add = |request: Asked, line: &&str| request.header("cookie", line);
        world.ask(&lines.iter().fold(get("/"), add)).brief()
    };
    assert_eq!(with(&["a=1; b=2"]), "echo-v1");
    assert_eq!(with(&["a=1", "b=2"]), "echo-v1");
    assert_eq!(with(&["b=2", "a=1"]), "404");
}

#[test]
fn a_path_with_two_meanings_is_refused_where_rules_go_by_it_and_only_there() {
    let odd = Asked {
        problem: Some(PathProblem::EncodedSeparator),
        ..get("/a%2fb")
    };
    let by_path = World::new([route(
        "p",
        [to("echo-v1", [prefix("/a")]), rule(&[("echo", 1)])],
    )]);
    let got = by_path.ask(&odd);
    assert!(
        matches!(
            got,
            Got::Answer {
                status: 400,
                reason: RouteReason::AmbiguousPath,
                ..
            }
        ),
        "{got:?}"
    );
    let any = World::new([route("p", [rule(&[("echo", 1)])])]);
    assert_eq!(any.ask(&odd).brief(), "echo");
}

#[test]
fn what_has_no_path_matches_rules_that_say_none() {
    let star = get("*").method("OPTIONS");
    let world = World::new([route(
        "p",
        [to("echo-v1", [exact("/")]), to("echo-v2", [prefix("/")])],
    )]);
    assert_eq!(world.ask(&star).brief(), "echo-v2");
    let world = World::new([route(
        "p",
        [to("echo-v1", [exact("/"), regex(".*"), prefix("/x")])],
    )]);
    assert_eq!(world.ask(&star).brief(), "404");
}

#[test]
fn an_invalid_backend_keeps_its_share_and_is_an_error() {
    let mut invalid = backend("x", 3);
    invalid.to = BackendTarget::Invalid("apps/Deployment x".into());
    let mut with = rule(&[("echo-v1", 1)]);
    with.backends = with.backends.iter().cloned().chain([invalid]).collect();
    let world = World::new([route("shares", [with])]);
    let of = |number| world.ask_at(("echo", 80), NS, &get("/"), number).brief();
    assert_eq!([0, 1, 2, 3].map(of), ["echo-v1", "500", "500", "500"]);
}

#[test]
fn no_backend_at_all_and_only_weights_of_0_are_an_error() {
    for backends in [&[][..], &[("echo-v1", 0), ("echo-v2", 0)]] {
        let world = World::new([route("none", [rule(backends)])]);
        let got = world.ask(&get("/"));
        assert!(
            matches!(
                got,
                Got::Answer {
                    status: 500,
                    reason: RouteReason::NoBackend,
                    ..
                }
            ),
            "{got:?}"
        );
    }
}

#[test]
fn of_ten_thousand_requests_each_backend_gets_its_share_within_one_percent() {
    let world = World::new([route(
        "w",
        [rule(&[
            ("echo", 1),
            ("echo-v1", 199_999),
            ("echo-v2", 800_000),
        ])],
    )]);
    let shares = world.shares(&get("/"));
    for (name, share) in [("echo", 0.0), ("echo-v1", 0.2), ("echo-v2", 0.8)] {
        let got = f64::from(shares.get(name).copied().unwrap_or(0)) / 10_000.0;
        assert!((got - share).abs() <= 0.01, "{name} {got}");
    }
}

#[test]
fn of_calls_the_longer_service_goes_first_then_the_method_then_headers() {
    let world = World::new([route_of(
        RouteKind::Grpc,
        (NS, "grpc"),
        None,
        [
            to("echo", [call(None, Some("Echo"))]),
            to("echo-v1", [call(Some("pkg.Echo"), None)]),
            to(
                "echo-v2",
                [
                    call(Some("pkg.Echo"), Some("Two")),
                    headers(call(Some("pkg.Echo"), None), &[("v", "2")]),
                ],
            ),
        ],
    )]);
    for (path, version, expected) in [
        ("/pkg.Echo/Echo", None, "echo-v1"),
        ("/pkg.Echo/Two", None, "echo-v2"),
        ("/pkg.Echo/Echo", Some("2"), "echo-v2"),
        ("/pkg.Other/Echo", None, "echo"),
        ("/pkg.Other/Two", None, "404"),
        ("/pkg.Echo/Two/More", None, "404"),
        ("/pkg.Echo", None, "404"),
    ] {
        let mut request = get(path).method("POST");
        if let Some(version) = version {
            request = request.header("v", version);
        }
        assert_eq!(world.ask(&request).brief(), expected, "{path} {version:?}");
    }
    assert_eq!(RouteReason::NoRouteMatched.grpc_status(), 12);
    assert_eq!(RouteReason::InvalidBackend.grpc_status(), 14);
}

#[test]
fn a_route_that_is_not_understood_and_never_was_has_no_part_in_it() {
    let mut broken = route("broken", [to("echo-v2", [prefix("/x")])]);
    broken.is_known = false;
    broken.fault = Some("odd".into());
    assert_eq!(World::new([broken.clone()]).ask(&get("/")), Got::Implicit);
    let good = route("good", [rule(&[("echo-v1", 1)])]);
    assert_eq!(
        World::new([broken.clone(), good]).ask(&get("/x")).brief(),
        "echo-v1"
    );
    // What is told by the last version that was understood.
    broken.is_known = true;
    assert_eq!(World::new([broken]).ask(&get("/x")).brief(), "echo-v2");
}
