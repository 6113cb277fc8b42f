//! Mirrors, CORS, rewrites, and filters that are not served.

use super::world::*;
use crate::model::http_route::{Backend, Cors, Filter, Mirror, PathModifier, Rewrite};
use crate::model::{HeaderEdit, PathProblem};

fn mirror(name: &str, share: (u32, u32)) -> Filter {
    let Backend { to, .. } = backend(name, 1);
    Filter::Mirror(Mirror { to, share })
}

fn mirrors(got: &Got) -> Vec<String> {
    match got {
        Got::To { mirrors, .. } => mirrors.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn copies_go_to_each_mirror_in_its_share_beside_the_backend() {
    let filters = [mirror("echo-v2", (100, 100)), mirror("echo", (1, 10))];
    let world = World::new([route(
        "mirror",
        [filtered(rule(&[("echo-v1", 1)]), filters)],
    )]);
    let got = |number| world.ask_at(("echo", 80), NS, &get("/"), number);
    assert_eq!(mirrors(&got(0)), ["echo-v2", "echo"]);
    assert_eq!(mirrors(&got(1)), ["echo-v2"]);
    assert_eq!(got(1).brief(), "echo-v1");
    let none = [mirror("echo-v2", (0, 100))];
    let world = World::new([route("mirror", [filtered(rule(&[("echo-v1", 1)]), none)])]);
    assert_eq!(mirrors(&world.ask(&get("/"))), [] as [&str; 0]);
}

fn cors(origins: &[&str], credentials: bool) -> Filter {
    let texts = |all: &[&str]| all.iter().map(|text| (*text).into()).collect();
    Filter::Cors(Cors {
        origins: texts(origins),
        credentials,
        methods: texts(&["PUT"]),
        headers: texts(&["x-a", "x-b"]),
        expose: texts(&["x-c"]),
        max_age: 5,
    })
}

fn preflight(origin: &str, method: &str) -> Asked {
    let request = get("/").method("OPTIONS").header("Origin", origin);
    request.header("Access-Control-Request-Method", method)
}

fn answer(got: &Got) -> (u16, String) {
    let Got::Answer {
        status, headers, ..
    } = got
    else {
        panic!("{got:?}");
    };
    let lines: Vec<String> = headers.iter().map(|(n, v)| format!("{n}: {v}")).collect();
    (*status, lines.join("\n"))
}

#[test]
fn a_preflight_is_answered_and_other_origins_are_told_nothing() {
    let filter = cors(&["https://a.example", "https://*.b.example"], true);
    let world = World::new([route("cors", [filtered(rule(&[("echo-v1", 1)]), [filter])])]);
    for origin in [
        "https://a.example",
        "HTTPS://A.example",
        "https://x.y.b.example",
    ] {
        let (status, lines) = answer(&world.ask(&preflight(origin, "PUT")));
        assert_eq!(status, 204);
        let expected = format!(
            "vary: Origin\naccess-control-allow-origin: {origin}\naccess-control-allow-methods: PUT, GET, HEAD, POST\n\
             access-control-allow-headers: x-a, x-b\naccess-control-allow-credentials: true\naccess-control-max-age: 5"
        );
        assert_eq!(lines, expected);
    }
    for origin in [
        "https://b.example",
        "http://a.example",
        "https://a.example:8443",
        "https://evil/.b.example",
        "null",
    ] {
        let (status, lines) = answer(&world.ask(&preflight(origin, "PUT")));
        assert_eq!((status, &*lines), (204, "vary: Origin"), "{origin}");
    }
    let (_, lines) = answer(&world.ask(&preflight("https://a.example", "DELETE")));
    assert!(!lines.contains("allow-methods"), "{lines}");
    // What is no preflight is a request as any other.
    assert_eq!(world.ask(&get("/").method("OPTIONS")).brief(), "echo-v1");
}

/// What a browser sees of an answer in which the server itself allows everything.
fn marked(filters: Vec<Filter>, origin: Option<&str>) -> Vec<String> {
    let world = World::new([route("cors", [filtered(rule(&[("echo-v1", 1)]), filters)])]);
    let mut request = get("/");
    if let Some(origin) = origin {
        request = request.header("origin", origin);
    }
    let Got::To { response, .. } = world.ask(&request) else {
        panic!("not forwarded");
    };
    let servers = [
        ("access-control-allow-origin", "the-servers"),
        ("Access-Control-Allow-Credentials", "true"),
        ("access-control-expose-headers", "the-servers"),
        ("access-control-allow-methods", "the-servers"),
        ("access-control-allow-headers", "the-servers"),
        ("access-control-max-age", "1"),
        ("access-control-allow-private-network", "true"),
        ("vary", "accept"),
    ];
    let all = edited(&response, &servers);
    all.iter().map(|(n, v)| format!("{n}: {v}")).collect()
}

#[test]
fn answers_to_an_allowed_origin_are_marked_instead_of_the_servers_own_marks() {
    let one = || cors(&["https://a.example"], true);
    let any = || cors(&["*"], false);
    assert_eq!(
        marked(vec![one()], Some("https://a.example")),
        [
            "access-control-allow-credentials: true",
            "access-control-allow-origin: https://a.example",
            "access-control-expose-headers: x-c",
            "vary: Origin",
            "vary: accept",
        ]
    );
    // The server's word that cookies may go along is not the route's.
    assert_eq!(
        marked(vec![any()], Some("https://x")),
        [
            "access-control-allow-origin: *",
            "access-control-expose-headers: x-c",
            "vary: Origin",
            "vary: accept",
        ]
    );
    let Filter::Cors(mut without) = one() else {
        panic!("another filter")
    };
    without.expose = [].into();
    let without = Filter::Cors(without);
    assert_eq!(
        marked(vec![without], Some("https://a.example"))[1],
        "access-control-allow-origin: https://a.example"
    );
}

/// A cache that has such an answer must not give it to an allowed one, nor the
/// other way round.
#[test]
fn an_answer_to_any_other_request_allows_nothing_and_says_that_it_depends_on_the_origin() {
    let one = || cors(&["https://a.example"], true);
    for origin in [
        Some("https://x"),
        Some("null"),
        Some("https://a.example\u{e4}"),
        None,
    ] {
        let got = marked(vec![one()], origin);
        assert_eq!(got, ["vary: Origin", "vary: accept"], "{origin:?}");
    }
}

#[test]
fn of_two_filters_that_speak_of_an_origin_the_one_of_cors_holds() {
    let sets = [("Access-Control-Allow-Credentials", "true"), ("x-a", "b")];
    let adds = [("access-control-allow-origin", "*")];
    let sets = || Filter::ResponseHeaders(modifier(&sets, &adds, &[]));
    for filters in [[sets(), cors(&["*"], false)], [cors(&["*"], false), sets()]] {
        let got = marked(filters.into(), Some("https://x"));
        assert_eq!(
            got,
            [
                "access-control-allow-origin: *",
                "access-control-expose-headers: x-c",
                "vary: Origin",
                "vary: accept",
                "x-a: b",
            ]
        );
    }
}

#[test]
fn a_rewrite_changes_host_and_path_and_a_backends_own_goes_last() {
    let rewrite = |host: &str, path: &str| {
        Filter::Rewrite(Rewrite {
            host: Some(host.into()),
            path: Some(PathModifier::Prefix(path.into())),
        })
    };
    let mut with = filtered(
        rule(&[("echo-v1", 1), ("echo-v2", 1)]),
        [rewrite("one.example", "/one")],
    );
    with.matches = [prefix("/api")].into();
    with.backends[1].filters = [rewrite("two.example", "/two")].into();
    let world = World::new([route("rewrite", [with])]);
    let got = |number| {
        let got = world.ask_at(("echo", 80), NS, &get("/api/x?y"), number);
        let edits = got.request();
        (edits.host.clone(), edits.target.clone())
    };
    let some = |host: &str, target: &str| (Some(host.to_owned()), Some(target.to_owned()));
    assert_eq!(got(0), some("one.example", "/one/x?y"));
    assert_eq!(got(1), some("two.example", "/two/x?y"));
}

#[test]
fn a_header_modifier_for_host_changes_the_host() {
    let filter = Filter::RequestHeaders(modifier(&[("Host", "other.example")], &[], &[]));
    let world = World::new([route("host", [filtered(rule(&[("echo-v1", 1)]), [filter])])]);
    let got = world.ask(&get("/"));
    assert_eq!(got.request().host.as_deref(), Some("other.example"));
    assert_eq!(got.request().headers, [] as [HeaderEdit; 0]);
}

#[test]
fn a_filter_that_is_not_served_is_an_error_and_never_passed_over() {
    let unsupported = || Filter::Unsupported("ExtensionRef".into());
    let of_rule = filtered(to("echo-v1", [prefix("/rule")]), [unsupported()]);
    let mut of_backend = rule(&[("echo-v1", 1), ("echo-v2", 1)]);
    of_backend.backends[0].filters = [unsupported()].into();
    let world = World::new([route("odd", [of_rule, of_backend])]);
    assert_eq!(world.ask(&get("/rule")).brief(), "500");
    let of = |number| world.ask_at(("echo", 80), NS, &get("/"), number).brief();
    assert_eq!((of(0), of(1)), ("500".to_owned(), "echo-v2".to_owned()));
}

#[test]
fn where_rules_go_by_the_path_the_server_gets_the_form_that_they_saw() {
    let target = |got: &Got| got.request().target.clone();
    let by_path = World::new([route("path", [to("echo-v1", [prefix("/a")])])]);
    let got = by_path.ask(&get("/a/./b?x=./"));
    assert_eq!(target(&got).as_deref(), Some("/a/b?x=./"));
    assert_eq!(target(&by_path.ask(&get("/a/b"))), None);
    let any = World::new([route("any", [rule(&[("echo-v1", 1)])])]);
    assert_eq!(target(&any.ask(&get("/a/./b"))), None, "byte for byte");
}

/// The rules take any path, and what stays of one is put behind another all the same.
#[test]
fn what_is_put_behind_a_prefix_leads_out_of_it_for_nobody() {
    let rewrite = |path| {
        Filter::Rewrite(Rewrite {
            host: None,
            path: Some(path),
        })
    };
    let prefix = || rewrite(PathModifier::Prefix("/tenant".into()));
    let of_rule = filtered(rule(&[("echo-v1", 1)]), [prefix()]);
    let mut of_backend = rule(&[("echo-v1", 1)]);
    of_backend.backends[0].filters = [prefix()].into();
    let odd = || Asked {
        problem: Some(PathProblem::EncodedSeparator),
        ..get("/..%2fadmin")
    };
    for rule in [of_rule, of_backend] {
        let world = World::new([route("r", [rule])]);
        assert_eq!(world.ask(&odd()).brief(), "400");
        let got = world.ask(&get("/a"));
        assert_eq!(got.request().target.as_deref(), Some("/tenant/a"));
    }
    // Nothing of the request's own path is left.
    let full = rewrite(PathModifier::Full("/all".into()));
    let world = World::new([route("r", [filtered(rule(&[("echo-v1", 1)]), [full])])]);
    let got = world.ask(&odd());
    assert_eq!(got.request().target.as_deref(), Some("/all"));
}
