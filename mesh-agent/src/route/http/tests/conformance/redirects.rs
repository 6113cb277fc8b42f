//! Answers that send the client elsewhere.

use super::*;
use crate::model::http_route::{Redirect, Scheme};

const NOTHING: Redirect = Redirect {
    scheme: None,
    host: None,
    path: None,
    port: None,
    status: 302,
};

fn redirecting(path: &str, redirect: Redirect) -> HttpRule {
    HttpRule {
        matches: [prefix(path)].into(),
        ..filtered(rule(&[]), [Filter::Redirect(redirect)])
    }
}

/// MeshHTTPRouteRedirectHostAndStatus
#[test]
fn mesh_http_route_redirect_host_and_status() {
    let host = Some("example.org".into());
    let world = World::new([route(
        "redirect",
        [
            redirecting(
                "/hostname-redirect",
                Redirect {
                    host: host.clone(),
                    ..NOTHING
                },
            ),
            redirecting(
                "/host-and-status",
                Redirect {
                    host,
                    status: 301,
                    ..NOTHING
                },
            ),
        ],
    )]);
    let got = world.ask(&get("/hostname-redirect"));
    assert_eq!(
        got.location(),
        (302, "http://example.org/hostname-redirect")
    );
    let got = world.ask(&get("/host-and-status"));
    assert_eq!(got.location(), (301, "http://example.org/host-and-status"));
}

fn redirects_with(status: u16) {
    let to = Redirect {
        path: Some(PathModifier::Full("/to".into())),
        status,
        ..NOTHING
    };
    let world = World::new([route("redirect", [redirecting("/from", to)])]);
    assert_eq!(
        world.ask(&get("/from")).location(),
        (status, "http://echo/to")
    );
}

/// MeshHTTPRoute303Redirect
#[test]
fn mesh_http_route_303_redirect() {
    redirects_with(303);
}

/// MeshHTTPRoute307Redirect
#[test]
fn mesh_http_route_307_redirect() {
    redirects_with(307);
}

/// MeshHTTPRoute308Redirect
#[test]
fn mesh_http_route_308_redirect() {
    redirects_with(308);
}

/// MeshHTTPRouteRedirectPath
#[test]
fn mesh_http_route_redirect_path() {
    let full = |path: &str| Some(PathModifier::Full(path.into()));
    let start = |path: &str| Some(PathModifier::Prefix(path.into()));
    let host = || Some("example.org".into());
    let world = World::new([route(
        "redirect",
        [
            redirecting(
                "/original-prefix",
                Redirect {
                    path: start("/replacement-prefix"),
                    ..NOTHING
                },
            ),
            redirecting(
                "/full",
                Redirect {
                    path: full("/full-path-replacement"),
                    ..NOTHING
                },
            ),
            redirecting(
                "/prefix-and-host",
                Redirect {
                    path: start("/replaced"),
                    host: host(),
                    ..NOTHING
                },
            ),
            redirecting(
                "/prefix-and-status",
                Redirect {
                    path: start("/replaced"),
                    status: 301,
                    ..NOTHING
                },
            ),
            redirecting(
                "/full-and-host",
                Redirect {
                    path: full("/replaced"),
                    host: host(),
                    ..NOTHING
                },
            ),
        ],
    )]);
    for (path, expected) in [
        (
            "/original-prefix/lemon",
            (302, "http://echo/replacement-prefix/lemon"),
        ),
        (
            "/original-prefix/lemon?a=b",
            (302, "http://echo/replacement-prefix/lemon?a=b"),
        ),
        (
            "/full/path/original",
            (302, "http://echo/full-path-replacement"),
        ),
        (
            "/prefix-and-host/lemon",
            (302, "http://example.org/replaced/lemon"),
        ),
        (
            "/prefix-and-status/lemon",
            (301, "http://echo/replaced/lemon"),
        ),
        (
            "/full-and-host/lemon?q",
            (302, "http://example.org/replaced?q"),
        ),
    ] {
        assert_eq!(world.ask(&get(path)).location(), expected, "{path}");
    }
}

/// MeshHTTPRouteRedirectPort
#[test]
fn mesh_http_route_redirect_port() {
    let port = Some(8083);
    let host = || Some("example.org".into());
    let world = World::new([route(
        "redirect",
        [
            redirecting("/port", Redirect { port, ..NOTHING }),
            redirecting(
                "/port-and-host",
                Redirect {
                    port,
                    host: host(),
                    ..NOTHING
                },
            ),
            redirecting(
                "/port-and-status",
                Redirect {
                    port,
                    status: 301,
                    ..NOTHING
                },
            ),
            redirecting(
                "/port-80",
                Redirect {
                    port: Some(80),
                    host: host(),
                    ..NOTHING
                },
            ),
        ],
    )]);
    for (path, expected) in [
        ("/port", (302, "http://echo:8083/port")),
        (
            "/port-and-host",
            (302, "http://example.org:8083/port-and-host"),
        ),
        (
            "/port-and-status",
            (301, "http://echo:8083/port-and-status"),
        ),
        ("/port-80", (302, "http://example.org/port-80")),
    ] {
        assert_eq!(world.ask(&get(path)).location(), expected, "{path}");
    }
    // Nothing said: the one that it came to.
    let plain = World::new([route("plain", [redirecting("/", NOTHING)])]);
    let got = plain.ask_at(("echo", 8080), NS, &get("/x"), 0);
    assert_eq!(got.location(), (302, "http://echo:8080/x"));
}

/// MeshHTTPRouteSchemeRedirect
#[test]
fn mesh_http_route_scheme_redirect() {
    let scheme = Some(Scheme::Https);
    let world = World::new([route(
        "redirect",
        [
            redirecting("/scheme", Redirect { scheme, ..NOTHING }),
            redirecting(
                "/scheme-and-host",
                Redirect {
                    scheme,
                    host: Some("example.org".into()),
                    ..NOTHING
                },
            ),
            redirecting(
                "/scheme-and-port",
                Redirect {
                    scheme,
                    port: Some(8443),
                    ..NOTHING
                },
            ),
        ],
    )]);
    for (path, expected) in [
        ("/scheme", "https://echo/scheme"),
        ("/scheme-and-host", "https://example.org/scheme-and-host"),
        ("/scheme-and-port", "https://echo:8443/scheme-and-port"),
    ] {
        assert_eq!(world.ask(&get(path)).location(), (302, expected), "{path}");
    }
}
