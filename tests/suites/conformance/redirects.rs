//! Answers that send the client elsewhere.

use super::asks::{Case, get};
use super::route;

/// Path, what the redirect says, and the answer.
type Row<'r> = (&'r str, &'r str, &'r str);

fn case(name: &'static str, rows: &[Row<'_>]) -> Case {
    let rules: Vec<String> = rows
        .iter()
        .map(|(path, says, _)| {
            let path = path.split(['?', '|']).next().unwrap_or_default();
            format!(
                "  - {{matches: [{{path: {{value: {path}}}}}], filters: [\
                 {{type: RequestRedirect, requestRedirect: {{{says}}}}}]}}"
            )
        })
        .collect();
    let rows = rows.iter().map(|(path, _, wanted)| {
        // What is behind the line is asked for, too, and not matched by.
        get(&path.replace('|', "")).gets(wanted)
    });
    Case {
        name,
        yaml: route("HTTPRoute", &rules.join("\n")),
        rows: rows.collect(),
    }
}

fn start(to: &str) -> String {
    format!("path: {{type: ReplacePrefixMatch, replacePrefixMatch: {to}}}")
}

fn full(to: &str) -> String {
    format!("path: {{type: ReplaceFullPath, replaceFullPath: {to}}}")
}

pub(crate) fn cases() -> Vec<Case> {
    let statuses = [
        ("MeshHTTPRoute303Redirect", 303),
        ("MeshHTTPRoute307Redirect", 307),
        ("MeshHTTPRoute308Redirect", 308),
    ];
    let statuses = statuses.map(|(name, status)| {
        let says = format!("statusCode: {status}, {}", full("/to"));
        let wanted = format!("{status} http://echo/to");
        case(name, &[("/from", &says, &wanted)])
    });
    let others = [host_and_status(), path(), port(), no_port(), scheme()];
    statuses.into_iter().chain(others).collect()
}

fn host_and_status() -> Case {
    let host = "hostname: example.org";
    let both = format!("{host}, statusCode: 301");
    let rows = [
        (
            "/hostname-redirect",
            host,
            "302 http://example.org/hostname-redirect",
        ),
        (
            "/host-and-status",
            &both,
            "301 http://example.org/host-and-status",
        ),
    ];
    case("MeshHTTPRouteRedirectHostAndStatus", &rows)
}

fn path() -> Case {
    let with = |path: &str, more: &str| format!("{path}, {more}");
    let (host, status) = ("hostname: example.org", "statusCode: 301");
    let rows = [
        (
            "/original-prefix|/lemon",
            &start("/replacement-prefix"),
            "302 http://echo/replacement-prefix/lemon",
        ),
        (
            "/with-query|/lemon?a=b",
            &start("/replacement-prefix"),
            "302 http://echo/replacement-prefix/lemon?a=b",
        ),
        (
            "/full|/path/original",
            &full("/full-path-replacement"),
            "302 http://echo/full-path-replacement",
        ),
        (
            "/prefix-and-host|/lemon",
            &with(&start("/replaced"), host),
            "302 http://example.org/replaced/lemon",
        ),
        (
            "/prefix-and-status|/lemon",
            &with(&start("/replaced"), status),
            "301 http://echo/replaced/lemon",
        ),
        (
            "/whole-and-host|/lemon?q",
            &with(&full("/replaced"), host),
            "302 http://example.org/replaced?q",
        ),
    ];
    let rows = rows.map(|(path, says, wanted)| (path, says.as_str(), wanted));
    case("MeshHTTPRouteRedirectPath", &rows)
}

fn port() -> Case {
    let rows = [
        ("/port", "port: 8083", "302 http://echo:8083/port"),
        (
            "/host-and-port",
            "port: 8083, hostname: example.org",
            "302 http://example.org:8083/host-and-port",
        ),
        (
            "/status-and-port",
            "port: 8083, statusCode: 301",
            "301 http://echo:8083/status-and-port",
        ),
        (
            "/its-port-80",
            "port: 80, hostname: example.org",
            "302 http://example.org/its-port-80",
        ),
    ];
    case("MeshHTTPRouteRedirectPort", &rows)
}

/// Nothing said: the one that it came to.
fn no_port() -> Case {
    Case {
        rows: vec![get("/x").at("echo", 8080).gets("302 http://echo:8080/x")],
        ..case("MeshHTTPRouteRedirectPort", &[("/", "statusCode: 302", "")])
    }
}

fn scheme() -> Case {
    let rows = [
        ("/scheme", "scheme: https", "302 https://echo/scheme"),
        (
            "/host-and-scheme",
            "scheme: https, hostname: example.org",
            "302 https://example.org/host-and-scheme",
        ),
        (
            "/port-and-scheme",
            "scheme: https, port: 8443",
            "302 https://echo:8443/port-and-scheme",
        ),
    ];
    case("MeshHTTPRouteSchemeRedirect", &rows)
}
