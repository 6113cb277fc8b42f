//! The rules of a route.

use std::collections::BTreeSet;

use super::backends::backends;
use super::filters::{Of, filters};
use super::matches::matches;
use super::reading::Reading;
use crate::discovery::tree::Node;
use crate::model::http_route::{
    Filter, HttpMatch, HttpRule, Longest, PathMatch, PathModifier, Retry, SessionBy,
    SessionPersistence, Timeouts,
};
use crate::model::route::{ConnectionRule, RouteKind};
use crate::model::{Name, cookie, header_name};

const MAX_RULES: usize = 16;
const MAX_MATCHES: usize = 128;
const MAX_CODES: usize = 200;
/// Of retries.
const MAX_ATTEMPTS: u32 = 1_000;

pub(super) fn http(
    reading: &mut Reading<'_>,
    spec: &Node<'_>,
    kind: RouteKind,
    namespace: &str,
) -> Box<[HttpRule]> {
    let mut rules = Vec::new();
    each(reading, spec, |reading, value, at| {
        rules.push(match kind {
            RouteKind::Grpc => grpc_rule(reading, value, at, namespace),
            _ => http_rule(reading, value, at, namespace),
        });
    });
    let all: usize = rules.iter().map(|rule| rule.matches.len()).sum();
    if all > MAX_MATCHES {
        let message = format!("{all} matches are more than the {MAX_MATCHES} that are served");
        reading.wrong("spec.rules", message);
    }
    rules.into()
}

pub(super) fn connections(
    reading: &mut Reading<'_>,
    spec: &Node<'_>,
    namespace: &str,
) -> Box<[ConnectionRule]> {
    let mut rules = Vec::new();
    each(reading, spec, |reading, value, at| {
        reading.known(value, at, &["name", "backendRefs"]);
        rules.push(ConnectionRule {
            name: name(reading, value, at),
            backends: backends(reading, value, at, namespace, None),
        });
    });
    if rules.len() > 1 {
        let message = "a route for connections has one rule: the others have no effect";
        reading.advise("spec.rules", message);
    }
    rules.into()
}

/// Names of rules are unique in a route.
fn each(
    reading: &mut Reading<'_>,
    spec: &Node<'_>,
    mut read: impl FnMut(&mut Reading<'_>, &Node<'_>, &str),
) {
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let list = reading.list(&spec["rules"], "spec.rules", MAX_RULES);
    for (i, value) in list.iter().enumerate() {
        let at = format!("spec.rules[{i}]");
        if let Some(name) = value["name"].as_text().filter(|name| !name.is_empty())
            && !names.insert(name)
        {
            reading.wrong(
                &format!("{at}.name"),
                format!("{name:?} is another rule's name"),
            );
        }
        read(reading, value, &at);
    }
}

fn name(reading: &mut Reading<'_>, value: &Node<'_>, at: &str) -> Option<Name> {
    let name = reading.text(&value["name"], &format!("{at}.name"))?;
    (!name.is_empty()).then(|| name.into())
}

fn grpc_rule(reading: &mut Reading<'_>, value: &Node<'_>, at: &str, namespace: &str) -> HttpRule {
    reading.known(
        value,
        at,
        &[
            "name",
            "matches",
            "filters",
            "backendRefs",
            "sessionPersistence",
        ],
    );
    HttpRule {
        name: name(reading, value, at),
        matches: matches(reading, value, at, RouteKind::Grpc),
        filters: filters(reading, value, at, namespace, Of::Grpc),
        backends: backends(reading, value, at, namespace, Some(Of::Grpc)),
        timeouts: Timeouts::default(),
        retry: None,
        session: session(reading, value, at),
    }
}

fn http_rule(reading: &mut Reading<'_>, value: &Node<'_>, at: &str, namespace: &str) -> HttpRule {
    let fields = [
        "name",
        "matches",
        "filters",
        "backendRefs",
        "timeouts",
        "retry",
        "sessionPersistence",
    ];
    reading.known(value, at, &fields);
    let rule = HttpRule {
        name: name(reading, value, at),
        matches: matches(reading, value, at, RouteKind::Http),
        filters: filters(reading, value, at, namespace, Of::Http),
        backends: backends(reading, value, at, namespace, Some(Of::Http)),
        timeouts: timeouts(reading, value, at),
        retry: retry(reading, value, at),
        session: session(reading, value, at),
    };
    together(reading, &rule, at);
    rule
}

/// What does not go together.
fn together(reading: &mut Reading<'_>, rule: &HttpRule, at: &str) {
    let of_backends = rule
        .backends
        .iter()
        .flat_map(|backend| backend.filters.iter());
    let mut filters = rule.filters.iter().chain(of_backends);
    let redirects = rule
        .filters
        .iter()
        .any(|f| matches!(f, Filter::Redirect(_)));
    let rewrites = rule.filters.iter().any(|f| matches!(f, Filter::Rewrite(_)));
    if redirects && rewrites {
        let message = "RequestRedirect and URLRewrite do not go together";
        reading.wrong(&format!("{at}.filters"), message);
    }
    if redirects && !rule.backends.is_empty() {
        let message = "RequestRedirect does not go together with backends";
        reading.wrong(&format!("{at}.filters"), message);
    }
    let replaces = filters.any(|filter| {
        let path = match filter {
            Filter::Redirect(redirect) => &redirect.path,
            Filter::Rewrite(rewrite) => &rewrite.path,
            _ => return false,
        };
        matches!(path, Some(PathModifier::Prefix(_)))
    });
    let has_one_prefix = matches!(
        &*rule.matches,
        [HttpMatch {
            path: PathMatch::Prefix(_),
            ..
        }]
    );
    if replaces && !has_one_prefix {
        let message = "ReplacePrefixMatch needs exactly one match of the rule, by PathPrefix";
        reading.wrong(&format!("{at}.filters"), message);
    }
}

fn timeouts(reading: &mut Reading<'_>, rule: &Node<'_>, at: &str) -> Timeouts {
    let (value, at) = (&rule["timeouts"], format!("{at}.timeouts"));
    reading.known(value, &at, &["request", "backendRequest"]);
    let mut duration = |field: &str| reading.duration(&value[field], &format!("{at}.{field}"));
    // 0s switches it off.
    let request = duration("request").map(|time| match time.is_zero() {
        true => Longest::Endless,
        false => Longest::Within(time),
    });
    let backend_request = duration("backendRequest").filter(|time| !time.is_zero());
    if let (Some(all), Some(one)) = (request.and_then(Longest::time), backend_request)
        && one > all
    {
        reading.wrong(
            &format!("{at}.backendRequest"),
            "is longer than the whole request may take",
        );
    }
    Timeouts {
        request,
        backend_request,
    }
}

fn retry(reading: &mut Reading<'_>, rule: &Node<'_>, at: &str) -> Option<Retry> {
    let (value, at) = (&rule["retry"], format!("{at}.retry"));
    if value.is_null() {
        return None;
    }
    reading.known(value, &at, &["codes", "attempts", "backoff"]);
    let mut codes = BTreeSet::new();
    let list = reading.list(&value["codes"], &format!("{at}.codes"), MAX_CODES);
    for (i, code) in list.iter().enumerate() {
        let code = reading.number(code, &format!("{at}.codes[{i}]"), 400..=599);
        codes.extend(code.and_then(|code| u16::try_from(code).ok()));
    }
    let attempts = &value["attempts"];
    Some(Retry {
        codes: codes.into_iter().collect(),
        attempts: reading.number(attempts, &format!("{at}.attempts"), 0..=MAX_ATTEMPTS),
        backoff: reading.duration(&value["backoff"], &format!("{at}.backoff")),
    })
}

/// Of a cookie, or of a header that is a route's to set.
fn session_name(
    reading: &mut Reading<'_>,
    (value, at): (&Node<'_>, String),
    is_cookie: bool,
) -> Option<Box<str>> {
    if value.is_null() {
        return None;
    }
    let name = reading.header(value, &at)?;
    let is_free = header_name::is_a_routes(name) && !header_name::is_identity(name);
    if !is_cookie && (!is_free || name.eq_ignore_ascii_case("host")) {
        reading.wrong(&at, format!("{name:?} is not a route's to set"));
        return None;
    }
    Some(name.into())
}

fn session(reading: &mut Reading<'_>, rule: &Node<'_>, at: &str) -> Option<SessionPersistence> {
    let (value, at) = (
        &rule["sessionPersistence"],
        format!("{at}.sessionPersistence"),
    );
    if value.is_null() {
        return None;
    }
    let fields = [
        "sessionName",
        "absoluteTimeout",
        "idleTimeout",
        "type",
        "cookieConfig",
        "cookie",
        "header",
    ];
    reading.known(value, &at, &fields);
    let kinds = [("Cookie", true), ("Header", false)];
    let is_cookie = reading.one_of(&value["type"], &format!("{at}.type"), &kinds)?;
    let mut absolute = |field: &str| reading.duration(&value[field], &format!("{at}.{field}"));
    let (absolute, idle) = (absolute("absoluteTimeout"), absolute("idleTimeout"));
    let (config, config_at) = (&value["cookieConfig"], format!("{at}.cookieConfig"));
    reading.known(config, &config_at, &["lifetimeType"]);
    let lifetimes = [("Session", false), ("Permanent", true)];
    let lifetime = &config["lifetimeType"];
    let lifetime_at = format!("{config_at}.lifetimeType");
    let is_permanent = reading.one_of(lifetime, &lifetime_at, &lifetimes) == Some(true);
    if is_permanent && absolute.is_none() {
        reading.wrong(&lifetime_at, "Permanent needs an absoluteTimeout");
    }
    // The name was the session's before it was the cookie's or the header's.
    let part = if is_cookie { "cookie" } else { "header" };
    let part_at = format!("{at}.{part}");
    reading.known(&value[part], &part_at, &["name", "path"]);
    let name = match value[part]["name"].is_null() {
        true => (&value["sessionName"], format!("{at}.sessionName")),
        false => (&value[part]["name"], format!("{part_at}.name")),
    };
    let name = session_name(reading, name, is_cookie);
    let path_at = format!("{part_at}.path");
    let path = reading.text(&value[part]["path"], &path_at);
    if path.is_some_and(|path| !cookie::is_path(path.as_bytes())) {
        reading.wrong(&path_at, "is no path of a cookie, such as /shop");
    }
    Some(SessionPersistence {
        name,
        by: match is_cookie {
            false => SessionBy::Header,
            true => SessionBy::Cookie {
                path: path.map(Into::into),
                is_permanent,
            },
        },
        absolute,
        idle,
    })
}
