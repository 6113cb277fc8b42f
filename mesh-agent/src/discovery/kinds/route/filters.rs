//! What a rule changes of requests and answers.

use super::reading::Reading;
use super::targets::target;
use crate::discovery::tree::{Node, View};
use crate::model::http_route::{
    Cors, Filter, HeaderModifier, Mirror, PathModifier, Redirect, Rewrite, Scheme,
};
use crate::model::{Host, header_name};

const MAX_FILTERS: usize = 16;
const MAX_HEADERS: usize = 16;
const MAX_CORS: usize = 64;
const MAX_PATH: usize = 1_024;

/// Whose filters they are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Http,
    Grpc,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    RequestHeaders,
    ResponseHeaders,
    Mirror,
    Redirect,
    Rewrite,
    Cors,
    ExternalAuth,
    Extension,
}

/// With the field that goes with each; the first three and the last are gRPC's too.
const KINDS: [(&str, &str, Kind); 8] = [
    (
        "RequestHeaderModifier",
        "requestHeaderModifier",
        Kind::RequestHeaders,
    ),
    (
        "ResponseHeaderModifier",
        "responseHeaderModifier",
        Kind::ResponseHeaders,
    ),
    ("RequestMirror", "requestMirror", Kind::Mirror),
    ("RequestRedirect", "requestRedirect", Kind::Redirect),
    ("URLRewrite", "urlRewrite", Kind::Rewrite),
    ("CORS", "cors", Kind::Cors),
    ("ExternalAuth", "externalAuth", Kind::ExternalAuth),
    ("ExtensionRef", "extensionRef", Kind::Extension),
];

impl Of {
    fn kinds(self) -> Vec<(&'static str, Kind)> {
        let is_grpc = |kind: Kind| {
            let others = [
                Kind::Redirect,
                Kind::Rewrite,
                Kind::Cors,
                Kind::ExternalAuth,
            ];
            !others.contains(&kind)
        };
        let kinds = KINDS
            .iter()
            .filter(|(_, _, kind)| self == Self::Http || is_grpc(*kind));
        kinds.map(|(name, _, kind)| (*name, *kind)).collect()
    }
}

/// Of a rule, or of one of its backends.
pub(super) fn filters(
    reading: &mut Reading<'_>,
    of: &Node<'_>,
    at: &str,
    namespace: &str,
    whose: Of,
) -> Box<[Filter]> {
    let at = format!("{at}.filters");
    let list = reading.list(&of["filters"], &at, MAX_FILTERS);
    let mut all = Vec::new();
    let mut seen = Vec::new();
    for (i, value) in list.iter().enumerate() {
        let at = format!("{at}[{i}]");
        if value["type"].is_null() {
            reading.wrong(&format!("{at}.type"), "is missing");
            continue;
        }
        let kinds = whose.kinds();
        let Some(kind) = reading.one_of(&value["type"], &format!("{at}.type"), &kinds) else {
            continue;
        };
        let named = KINDS.iter().find(|(_, _, other)| *other == kind);
        let field = named.map_or("", |(_, field, _)| *field);
        reading.known(value, &at, &["type", field]);
        let may_repeat = matches!(kind, Kind::Mirror | Kind::Extension);
        if seen.contains(&kind) && !may_repeat {
            reading.wrong(
                &at,
                "a filter of this type stands before: each may be there once",
            );
        }
        seen.push(kind);
        if !value[field].is_mapping() {
            reading.wrong(&format!("{at}.{field}"), "is missing");
            continue;
        }
        let at = format!("{at}.{field}");
        all.extend(filter(reading, kind, &value[field], &at, namespace));
    }
    all.into()
}

fn filter(
    reading: &mut Reading<'_>,
    kind: Kind,
    value: &Node<'_>,
    at: &str,
    namespace: &str,
) -> Option<Filter> {
    let unserved = |reading: &mut Reading<'_>, what: &str| {
        let message =
            format!("{what} is not served: requests that it is for are answered with an error");
        reading.advise(at, message);
        Some(Filter::Unsupported(what.into()))
    };
    match kind {
        Kind::RequestHeaders => {
            let modifier = modifier(reading, value, at);
            one_host(reading, &modifier, at);
            nobody_else(reading, &modifier, at);
            Some(Filter::RequestHeaders(modifier))
        }
        Kind::ResponseHeaders => Some(Filter::ResponseHeaders(modifier(reading, value, at))),
        Kind::Mirror => mirror(reading, value, at, namespace).map(Filter::Mirror),
        Kind::Redirect => Some(Filter::Redirect(redirect(reading, value, at))),
        Kind::Rewrite => {
            reading.known(value, at, &["hostname", "path"]);
            Some(Filter::Rewrite(Rewrite {
                host: reading.hostname(&value["hostname"], &format!("{at}.hostname")),
                path: path(reading, &value["path"], &format!("{at}.path")),
            }))
        }
        Kind::Cors => Some(Filter::Cors(cors(reading, value, at))),
        Kind::ExternalAuth => unserved(reading, "ExternalAuth"),
        Kind::Extension => {
            let text = |field: &str| value[field].as_text().unwrap_or("?");
            let what = format!("{}/{} {}", text("group"), text("kind"), text("name"));
            unserved(reading, &format!("ExtensionRef to {what}"))
        }
    }
}

/// A name stands in one of the three only.
fn modifier(reading: &mut Reading<'_>, value: &Node<'_>, at: &str) -> HeaderModifier {
    reading.known(value, at, &["set", "add", "remove"]);
    let mut names: Vec<String> = Vec::new();
    let mut once = |reading: &mut Reading<'_>, name: &str, at: &str| {
        let name = name.to_ascii_lowercase();
        if names.contains(&name) {
            reading.wrong(at, format!("{name:?} stands there twice"));
        }
        if !header_name::is_a_routes(&name) {
            let message =
                "where a message ends and what is about one connection is not a route's to change";
            reading.wrong(at, format!("{name:?}: {message}"));
        }
        names.push(name);
    };
    let mut pairs = |reading: &mut Reading<'_>, field: &str| {
        let at = format!("{at}.{field}");
        let list = reading.list(&value[field], &at, MAX_HEADERS);
        let mut all: Vec<(Box<str>, Box<str>)> = Vec::new();
        for (i, pair) in list.iter().enumerate() {
            let at = format!("{at}[{i}]");
            reading.known(pair, &at, &["name", "value"]);
            let name = reading.header(&pair["name"], &format!("{at}.name"));
            let value_at = format!("{at}.value");
            let value = reading.text(&pair["value"], &value_at).unwrap_or_default();
            if value.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
                reading.wrong(&value_at, "has a control character");
            }
            if let Some(name) = name {
                once(reading, name, &at);
                all.push((name.into(), value.trim().into()));
            }
        }
        all.into_boxed_slice()
    };
    let (set, add) = (pairs(reading, "set"), pairs(reading, "add"));
    let at = format!("{at}.remove");
    let list = reading.list(&value["remove"], &at, MAX_HEADERS);
    let mut remove: Vec<Box<str>> = Vec::new();
    for (i, name) in list.iter().enumerate() {
        let at = format!("{at}[{i}]");
        if let Some(name) = reading.header(name, &at) {
            once(reading, name, &at);
            remove.push(name.into());
        }
    }
    HeaderModifier {
        set,
        add,
        remove: remove.into(),
    }
}

/// Who asks is shown by what no route may make.
fn nobody_else(reading: &mut Reading<'_>, modifier: &HeaderModifier, at: &str) {
    let mut made = modifier.set.iter().chain(&modifier.add);
    if let Some((name, _)) = made.find(|(name, _)| header_name::is_identity(name)) {
        let message = "only the mesh says who asks: it may be removed";
        reading.wrong(at, format!("{name:?}: {message}"));
    }
}

/// It is there once, and a host.
fn one_host(reading: &mut Reading<'_>, modifier: &HeaderModifier, at: &str) {
    let is_host = |name: &str| name.eq_ignore_ascii_case("host");
    if modifier.add.iter().any(|(name, _)| is_host(name)) {
        reading.wrong(&format!("{at}.add"), "a request has one Host: set it");
    }
    if modifier.remove.iter().any(|name| is_host(name)) {
        reading.wrong(&format!("{at}.remove"), "a request has a Host");
    }
    let mut hosts = modifier.set.iter().filter(|(name, _)| is_host(name));
    if let Some((_, value)) = hosts.find(|(_, value)| Host::parse(value.as_bytes()).is_none()) {
        reading.wrong(&format!("{at}.set"), format!("{value:?} is no host"));
    }
}

fn mirror(
    reading: &mut Reading<'_>,
    value: &Node<'_>,
    at: &str,
    namespace: &str,
) -> Option<Mirror> {
    reading.known(value, at, &["backendRef", "percent", "fraction"]);
    let (of, of_at) = (&value["backendRef"], format!("{at}.backendRef"));
    reading.known(of, &of_at, &["group", "kind", "name", "namespace", "port"]);
    let to = target(reading, of, &of_at, namespace);
    let percent = reading.number(&value["percent"], &format!("{at}.percent"), 0..=100);
    let (fraction, fraction_at) = (&value["fraction"], format!("{at}.fraction"));
    let mut share = (percent.unwrap_or(100), 100);
    if !fraction.is_null() {
        reading.known(fraction, &fraction_at, &["numerator", "denominator"]);
        if percent.is_some() {
            reading.wrong(&fraction_at, "does not go together with percent");
        }
        let most = 0..=u32::MAX;
        let of = format!("{fraction_at}.numerator");
        let some = reading.number(&fraction["numerator"], &of, most);
        if fraction["numerator"].is_null() {
            reading.wrong(&of, "is missing");
        }
        let of = format!("{fraction_at}.denominator");
        let all = reading.number(&fraction["denominator"], &of, 1..=u32::MAX);
        share = (some.unwrap_or(0), all.unwrap_or(100));
        if share.0 > share.1 {
            reading.wrong(&fraction_at, "is more than all");
        }
    }
    Some(Mirror { to: to?, share })
}

fn redirect(reading: &mut Reading<'_>, value: &Node<'_>, at: &str) -> Redirect {
    reading.known(
        value,
        at,
        &["scheme", "hostname", "path", "port", "statusCode"],
    );
    let scheme = match value["scheme"].is_null() {
        true => None,
        false => {
            let schemes = [("http", Scheme::Http), ("https", Scheme::Https)];
            reading.one_of(&value["scheme"], &format!("{at}.scheme"), &schemes)
        }
    };
    let status_at = format!("{at}.statusCode");
    let status = reading.number(&value["statusCode"], &status_at, 300..=399);
    let status = status
        .and_then(|status| u16::try_from(status).ok())
        .unwrap_or(302);
    if ![301, 302, 303, 307, 308].contains(&status) {
        reading.wrong(
            &status_at,
            format!("{status} is none of 301, 302, 303, 307, 308"),
        );
    }
    Redirect {
        scheme,
        host: reading.hostname(&value["hostname"], &format!("{at}.hostname")),
        path: path(reading, &value["path"], &format!("{at}.path")),
        port: reading.port(&value["port"], &format!("{at}.port")),
        status,
    }
}

fn path(reading: &mut Reading<'_>, value: &Node<'_>, at: &str) -> Option<PathModifier> {
    if value.is_null() {
        return None;
    }
    reading.known(
        value,
        at,
        &["type", "replaceFullPath", "replacePrefixMatch"],
    );
    let kinds = [("ReplaceFullPath", true), ("ReplacePrefixMatch", false)];
    if value["type"].is_null() {
        reading.wrong(&format!("{at}.type"), "is missing");
    }
    let is_full = reading.one_of(&value["type"], &format!("{at}.type"), &kinds)?;
    let (field, other) = match is_full {
        true => ("replaceFullPath", "replacePrefixMatch"),
        false => ("replacePrefixMatch", "replaceFullPath"),
    };
    if !value[other].is_null() {
        reading.wrong(
            &format!("{at}.{other}"),
            "does not go together with the type",
        );
    }
    let at = format!("{at}.{field}");
    let text = reading.text(&value[field], &at);
    if text.is_none() && value[field].is_null() {
        reading.wrong(&at, "is missing");
    }
    let text = text?;
    let is_plain = |b: u8| (b'!'..=b'~').contains(&b) && !b"?#".contains(&b);
    if text.len() > MAX_PATH || !text.bytes().all(is_plain) {
        reading.wrong(&at, format!("{text:?} is no path"));
    }
    Some(match is_full {
        true => PathModifier::Full(text.into()),
        false => PathModifier::Prefix(text.into()),
    })
}

fn cors(reading: &mut Reading<'_>, value: &Node<'_>, at: &str) -> Cors {
    let fields = [
        "allowOrigins",
        "allowCredentials",
        "allowMethods",
        "allowHeaders",
        "exposeHeaders",
        "maxAge",
    ];
    reading.known(value, at, &fields);
    let mut texts = |field: &str| {
        let at = format!("{at}.{field}");
        let list = reading.list(&value[field], &at, MAX_CORS);
        let mut all: Vec<Box<str>> = Vec::new();
        for (i, value) in list.iter().enumerate() {
            let at = format!("{at}[{i}]");
            let text = reading.some(value, &at);
            let is_plain = |b: u8| (b'!'..=b'~').contains(&b) && !b",;".contains(&b);
            match text {
                Some(text) if text.bytes().all(is_plain) => all.push(text.into()),
                Some(text) => reading.wrong(&at, format!("{text:?} cannot stand in a header")),
                None => {}
            }
        }
        all.into_boxed_slice()
    };
    let (origins, methods) = (texts("allowOrigins"), texts("allowMethods"));
    let (headers, expose) = (texts("allowHeaders"), texts("exposeHeaders"));
    for (i, origin) in origins.iter().enumerate() {
        let rest = origin.split_once("://").map(|(_, rest)| rest);
        let is_one = rest.is_some_and(|rest| {
            let host = rest.strip_prefix("*.").unwrap_or(rest);
            !host.is_empty() && !host.contains(['*', '/'])
        });
        if &**origin != "*" && !is_one {
            let message = format!("{origin:?} is no origin, such as https://shop.example");
            reading.wrong(&format!("{at}.allowOrigins[{i}]"), message);
        }
    }
    let max_age = reading.number(&value["maxAge"], &format!("{at}.maxAge"), 1..=u32::MAX);
    // The API server of older versions took a text.
    let credentials = match value["allowCredentials"].view() {
        View::Text("true") => true,
        _ => reading.flag(
            &value["allowCredentials"],
            &format!("{at}.allowCredentials"),
        ),
    };
    Cors {
        origins,
        credentials,
        methods,
        headers,
        expose,
        max_age: max_age.unwrap_or(5),
    }
}
