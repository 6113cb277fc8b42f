//! Which requests a rule is for.

use super::reading::Reading;
use crate::discovery::tree::Node;
use crate::model::http_route::{HttpMatch, NamedMatch, PathMatch};
use crate::model::route::RouteKind;

const MAX_MATCHES: usize = 64;
const MAX_NAMED: usize = 16;
const MAX_PATH: usize = 1_024;

const METHODS: [(&str, &str); 9] = [
    ("GET", "GET"),
    ("HEAD", "HEAD"),
    ("POST", "POST"),
    ("PUT", "PUT"),
    ("DELETE", "DELETE"),
    ("CONNECT", "CONNECT"),
    ("OPTIONS", "OPTIONS"),
    ("TRACE", "TRACE"),
    ("PATCH", "PATCH"),
];

/// Never empty.
pub(super) fn matches(
    reading: &mut Reading<'_>,
    rule: &Node<'_>,
    at: &str,
    kind: RouteKind,
) -> Box<[HttpMatch]> {
    let at = format!("{at}.matches");
    let list = reading.list(&rule["matches"], &at, MAX_MATCHES);
    let mut all = Vec::new();
    for (i, value) in list.iter().enumerate() {
        let at = format!("{at}[{i}]");
        all.extend(match kind {
            RouteKind::Grpc => grpc(reading, value, &at),
            _ => http(reading, value, &at),
        });
    }
    if all.is_empty() {
        let path = match kind {
            RouteKind::Grpc => any_call(),
            _ => PathMatch::Prefix("/".into()),
        };
        all.push(HttpMatch {
            path,
            method: None,
            headers: Box::default(),
            query: Box::default(),
        });
    }
    all.into()
}

fn any_call() -> PathMatch {
    PathMatch::Grpc {
        service: None,
        method: None,
    }
}

fn http(reading: &mut Reading<'_>, value: &Node<'_>, at: &str) -> Option<HttpMatch> {
    reading.known(value, at, &["path", "headers", "queryParams", "method"]);
    let path = path(reading, &value["path"], &format!("{at}.path"));
    let headers = named(reading, &value["headers"], &format!("{at}.headers"), true);
    let query = named(
        reading,
        &value["queryParams"],
        &format!("{at}.queryParams"),
        false,
    );
    let method = match value["method"].is_null() {
        true => None,
        false => reading.one_of(&value["method"], &format!("{at}.method"), &METHODS),
    };
    Some(HttpMatch {
        path: path?,
        method: method.map(Into::into),
        headers,
        query,
    })
}

#[derive(Clone, Copy)]
enum PathKind {
    Prefix,
    Exact,
    Regex,
}

fn path(reading: &mut Reading<'_>, value: &Node<'_>, at: &str) -> Option<PathMatch> {
    reading.known(value, at, &["type", "value"]);
    let kinds = [
        ("PathPrefix", PathKind::Prefix),
        ("Exact", PathKind::Exact),
        ("RegularExpression", PathKind::Regex),
    ];
    let kind = reading.one_of(&value["type"], &format!("{at}.type"), &kinds);
    let at = format!("{at}.value");
    let text = reading.text(&value["value"], &at).unwrap_or("/");
    if text.len() > MAX_PATH {
        reading.wrong(&at, format!("is longer than {MAX_PATH} bytes"));
    }
    Some(match kind? {
        PathKind::Regex => {
            reading.pattern(text, &at);
            PathMatch::Regex(text.into())
        }
        kind => {
            plain(reading, text, &at);
            match kind {
                PathKind::Exact => PathMatch::Exact(text.into()),
                _ => PathMatch::Prefix(text.into()),
            }
        }
    })
}

/// A path that can be one in its normal form.
fn plain(reading: &mut Reading<'_>, text: &str, at: &str) {
    let odd = ["//", "/./", "/../", "%2f", "%2F", "#"];
    if !text.starts_with('/') {
        return reading.wrong(at, format!("{text:?} does not begin with a /"));
    }
    if let Some(odd) = odd.iter().find(|odd| text.contains(**odd)) {
        return reading.wrong(at, format!("no path in normal form has {odd:?}"));
    }
    if text.ends_with("/..") || text.ends_with("/.") {
        reading.wrong(at, "no path in normal form ends with dots");
    }
}

/// Of two with one name the first counts.
fn named(
    reading: &mut Reading<'_>,
    value: &Node<'_>,
    at: &str,
    is_header: bool,
) -> Box<[NamedMatch]> {
    let list = reading.list(value, at, MAX_NAMED);
    let mut all: Vec<NamedMatch> = Vec::new();
    for (i, value) in list.iter().enumerate() {
        let at = format!("{at}[{i}]");
        reading.known(value, &at, &["type", "name", "value"]);
        let name_at = format!("{at}.name");
        let name = match is_header {
            true => reading.header(&value["name"], &name_at),
            false => reading.some(&value["name"], &name_at),
        };
        let test = reading.text_match(
            (&value["type"], &format!("{at}.type")),
            (&value["value"], &format!("{at}.value")),
        );
        let (Some(name), Some(test)) = (name, test) else {
            continue;
        };
        let is_same = |one: &NamedMatch| match is_header {
            true => one.name.eq_ignore_ascii_case(name),
            false => *one.name == *name,
        };
        if all.iter().any(is_same) {
            reading.advise(
                &name_at,
                format!("{name:?} is named before: this one has no effect"),
            );
            continue;
        }
        all.push(NamedMatch {
            name: name.into(),
            value: test,
        });
    }
    all.into()
}

fn grpc(reading: &mut Reading<'_>, value: &Node<'_>, at: &str) -> Option<HttpMatch> {
    reading.known(value, at, &["method", "headers"]);
    let method = &value["method"];
    let method_at = format!("{at}.method");
    reading.known(method, &method_at, &["type", "service", "method"]);
    let mut part = |field: &str| match method[field].is_null() || method[field] == "" {
        true => None,
        false => reading.text_match(
            (&method["type"], &format!("{method_at}.type")),
            (&method[field], &format!("{method_at}.{field}")),
        ),
    };
    let (service, of_method) = (part("service"), part("method"));
    if !method.is_null() && service.is_none() && of_method.is_none() {
        reading.wrong(&method_at, "needs a service or a method");
    }
    let path = match method.is_null() {
        true => any_call(),
        false => PathMatch::Grpc {
            service,
            method: of_method,
        },
    };
    let headers = named(reading, &value["headers"], &format!("{at}.headers"), true);
    Some(HttpMatch {
        path,
        method: None,
        headers,
        query: Box::default(),
    })
}
