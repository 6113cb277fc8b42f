//! Kinds beside each other, and rules for connections.

use super::world::*;
use crate::model::http_route::Backend;
use crate::model::route::{
    BackendTarget, ConnectionRule, GrantFrom, ReferenceGrant, Route, RouteKind, Rules,
};

fn connections(kind: RouteKind, name: &str, hosts: &[&str], backends: Vec<Backend>) -> Route {
    let mut route = route_of(kind, (NS, name), Some(9090), []);
    route.hostnames = hosts.iter().map(|host| (*host).into()).collect();
    let rule = ConnectionRule {
        name: None,
        backends: backends.into(),
    };
    route.rules = Rules::Connections([rule].into());
    route
}

#[test]
fn tcp_goes_by_weight_and_an_invalid_share_is_refused() {
    let mut lost = backend("x", 1);
    lost.to = BackendTarget::Invalid("apps/Deployment x".into());
    let backends = vec![
        backend("echo-v1", 2),
        backend("echo-v2", 1),
        backend("echo", 0),
        lost,
    ];
    let world = World::new([connections(RouteKind::Tcp, "tcp", &[], backends)]);
    let to = |number| world.connect(9090, None, number);
    assert_eq!(
        [0, 1, 2, 3].map(to),
        ["echo-v1", "echo-v1", "echo-v2", "InvalidBackend"]
    );
    assert_eq!(world.connect(8080, None, 0), "implicit");
    let none = World::new([connections(
        RouteKind::Tcp,
        "tcp",
        &[],
        vec![backend("echo", 0)],
    )]);
    assert_eq!(none.connect(9090, None, 0), "NoBackend");
}

#[test]
fn tls_goes_by_the_longest_name_that_the_client_asks_for() {
    let to = |name: &str, hosts: &[&str], backend: Backend| {
        connections(RouteKind::Tls, name, hosts, vec![backend])
    };
    let world = World::new([
        to(
            "a",
            &["a.example.com", "*.example.com"],
            backend("echo-v1", 1),
        ),
        to("b", &["*.deep.example.com"], backend("echo-v2", 1)),
    ]);
    for (sni, expected) in [
        (Some("a.example.com"), "echo-v1"),
        (Some("b.example.com"), "echo-v1"),
        (Some("x.y.example.com"), "echo-v1"),
        (Some("x.deep.example.com"), "echo-v2"),
        (Some("deep.example.com"), "echo-v1"),
        (Some("example.com"), "NoRouteMatched"),
        (Some("other.org"), "NoRouteMatched"),
        (None, "NoRouteMatched"),
    ] {
        assert_eq!(world.connect(9090, sni, 0), expected, "{sni:?}");
    }
}

#[test]
fn of_the_kinds_on_one_port_the_first_holds_and_the_others_do_not() {
    let tcp = || connections(RouteKind::Tcp, "tcp", &[], vec![backend("echo", 1)]);
    let tls = || connections(RouteKind::Tls, "tls", &["a.b"], vec![backend("echo-v1", 1)]);
    let http = || {
        route_of(
            RouteKind::Http,
            (NS, "http"),
            None,
            [rule(&[("echo-v2", 1)])],
        )
    };
    let grpc = || {
        let one = to("echo", [call(Some("pkg.Echo"), None)]);
        route_of(RouteKind::Grpc, (NS, "grpc"), Some(9090), [one])
    };
    assert_eq!(
        World::new([tcp(), tls()]).connect(9090, Some("a.b"), 0),
        "echo-v1"
    );
    let world = World::new([tcp(), tls(), http()]);
    assert_eq!(
        world.connect(9090, Some("a.b"), 0),
        "implicit",
        "no request is known"
    );
    let ask = |world: &World, path: &str| world.ask_at(("echo", 9090), NS, &get(path), 0).brief();
    assert_eq!(ask(&world, "/"), "echo-v2");
    let world = World::new([tcp(), http(), grpc()]);
    assert_eq!(
        (ask(&world, "/pkg.Echo/A"), ask(&world, "/")),
        ("echo".into(), "404".into())
    );
    assert_eq!(
        world.ask(&get("/")).brief(),
        "echo-v2",
        "its other ports are its own"
    );
}

#[test]
fn a_callers_own_route_is_of_whatever_kind_it_likes() {
    let producer = route_of(
        RouteKind::Grpc,
        (NS, "grpc"),
        None,
        [to("echo", [call(None, None)])],
    );
    let consumer = route_of(
        RouteKind::Http,
        (CONSUMER, "http"),
        None,
        [rule(&[("echo-v2", 1)])],
    );
    let world = World::new([producer, consumer]);
    assert_eq!(world.ask(&get("/a/b")).brief(), "echo");
    assert_eq!(
        world
            .ask_at(("echo", 80), CONSUMER, &get("/a/b"), 0)
            .brief(),
        "echo-v2"
    );
}

#[test]
fn a_backend_of_a_third_namespace_needs_a_grant() {
    let third = |name: &str| {
        let mut rule = rule(&[(name, 1)]);
        if let BackendTarget::Service(to) = &mut rule.backends[0].to {
            to.service.namespace = "third".into();
        }
        route_of(RouteKind::Http, (CONSUMER, "far"), None, [rule])
    };
    let grant = |kind, namespace: &str, name: Option<&str>| ReferenceGrant {
        namespace: "third".into(),
        name: "grant".into(),
        from: [GrantFrom {
            kind,
            namespace: namespace.into(),
        }]
        .into(),
        to: [name.map(Into::into)].into(),
    };
    let ask = |grants| {
        let world = World::with([third("db")], grants);
        world.ask_at(("echo", 80), CONSUMER, &get("/"), 0).brief()
    };
    assert_eq!(ask(Vec::new()), "500");
    assert_eq!(ask(vec![grant(RouteKind::Grpc, CONSUMER, None)]), "500");
    assert_eq!(ask(vec![grant(RouteKind::Http, NS, None)]), "500");
    assert_eq!(
        ask(vec![grant(RouteKind::Http, CONSUMER, Some("other"))]),
        "500"
    );
    assert_eq!(
        ask(vec![grant(RouteKind::Http, CONSUMER, Some("db"))]),
        "db"
    );
    assert_eq!(ask(vec![grant(RouteKind::Http, CONSUMER, None)]), "db");
}
