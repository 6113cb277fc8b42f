//! CORS: preflights are answered here, and answers to other origins are marked.

use super::filters::forget;
use crate::model::http_route::Cors;
use crate::model::{Edits, HeaderEdit, RequestHead};

const ALLOW_ORIGIN: &str = "access-control-allow-origin";
const ALLOW_CREDENTIALS: &str = "access-control-allow-credentials";
const ALLOW_METHODS: &str = "access-control-allow-methods";
const ALLOW_HEADERS: &str = "access-control-allow-headers";
const EXPOSE_HEADERS: &str = "access-control-expose-headers";
const MAX_AGE: &str = "access-control-max-age";
/// All that browsers read of an answer; none of it is the server's to say.
const OWNED: [&str; 7] = [
    ALLOW_ORIGIN,
    ALLOW_CREDENTIALS,
    ALLOW_METHODS,
    ALLOW_HEADERS,
    EXPOSE_HEADERS,
    MAX_AGE,
    "access-control-allow-private-network",
];
/// Those that no preflight is made for, and that the API always allows.
const SIMPLE: [&str; 3] = ["GET", "HEAD", "POST"];

/// What an `OPTIONS` of a browser asks.
pub(super) fn is_preflight(head: &RequestHead<'_>) -> bool {
    head.method == "OPTIONS"
        && value(head, "origin").is_some()
        && value(head, "access-control-request-method").is_some()
}

/// The answer to a preflight; of an origin that is not allowed it says nothing.
pub(super) fn preflight(cors: &Cors, head: &RequestHead<'_>) -> Vec<(&'static str, String)> {
    let mut headers = vec![("vary", "Origin".to_owned())];
    let Some(origin) = allowed(cors, head) else {
        return headers;
    };
    headers.push((ALLOW_ORIGIN, origin.to_owned()));
    let asked = |name: &str| value(head, name).unwrap_or_default().to_owned();
    let method = asked("access-control-request-method");
    let is_any = |list: &[Box<str>]| list.iter().any(|one| &**one == "*");
    let listed = cors.methods.iter().any(|one| **one == *method);
    if is_any(&cors.methods) {
        headers.push((ALLOW_METHODS, method));
    } else if listed || SIMPLE.contains(&&*method) {
        let more = SIMPLE
            .iter()
            .filter(|m| !cors.methods.iter().any(|one| **one == ***m));
        let all: Vec<&str> = cors
            .methods
            .iter()
            .map(|one| &**one)
            .chain(more.copied())
            .collect();
        headers.push((ALLOW_METHODS, all.join(", ")));
    }
    if is_any(&cors.headers) {
        let asked = asked("access-control-request-headers");
        if !asked.is_empty() {
            headers.push((ALLOW_HEADERS, asked));
        }
    } else if !cors.headers.is_empty() {
        headers.push((ALLOW_HEADERS, cors.headers.join(", ")));
    }
    if cors.credentials {
        headers.push((ALLOW_CREDENTIALS, "true".to_owned()));
    }
    headers.push((MAX_AGE, cors.max_age.to_string()));
    headers
}

/// What every answer loses and gets under a rule with CORS, whoever asks: the filter
/// alone speaks of origins, so nothing that the server or another filter says of them
/// stays; and a cache must not give the answer of one origin to another one, nor to an
/// allowed one what somebody without an origin was told.
pub(super) fn own(edits: &mut Edits) {
    for name in OWNED {
        forget(edits, name);
        edits.headers.push(HeaderEdit::Remove {
            name: name.to_owned(),
        });
    }
    edits.headers.push(HeaderEdit::Add {
        name: "vary".to_owned(),
        value: "Origin".to_owned(),
    });
}

/// What the answer to a request of an allowed origin gets beside that.
pub(super) fn answer(cors: &Cors, origin: &str, edits: &mut Edits) {
    let mut set = |name: &str, value: String| {
        edits.headers.push(HeaderEdit::Set {
            name: name.to_owned(),
            value,
        });
    };
    set(ALLOW_ORIGIN, origin.to_owned());
    if cors.credentials {
        set(ALLOW_CREDENTIALS, "true".to_owned());
    }
    if !cors.expose.is_empty() {
        set(EXPOSE_HEADERS, cors.expose.join(", "));
    }
}

/// What is said of the request's origin, where it is allowed: `*` where every
/// one is and no credentials go with it, else itself.
pub(super) fn allowed<'a>(cors: &Cors, head: &'a RequestHead<'_>) -> Option<&'a str> {
    let origin = value(head, "origin")?;
    if cors.origins.iter().any(|one| &**one == "*") {
        return Some(if cors.credentials { origin } else { "*" });
    }
    let mut all = cors.origins.iter();
    all.any(|one| is_of(one, origin)).then_some(origin)
}

/// Schemes and hosts have no case; `*.` stands for one or more labels.
fn is_of(allowed: &str, origin: &str) -> bool {
    let Some((before, after)) = allowed.split_once('*') else {
        return allowed.eq_ignore_ascii_case(origin);
    };
    let (allowed_before, allowed_after) = (before.as_bytes(), after.as_bytes());
    let origin = origin.as_bytes();
    let fits = origin.len() > allowed_before.len() + allowed_after.len();
    fits && origin[..allowed_before.len()].eq_ignore_ascii_case(allowed_before)
        && origin[origin.len() - allowed_after.len()..].eq_ignore_ascii_case(allowed_after)
        && !origin[allowed_before.len()..origin.len() - allowed_after.len()].contains(&b'/')
}

/// The first line of that name, where it is text.
fn value<'a>(head: &'a RequestHead<'_>, name: &'a str) -> Option<&'a str> {
    let value = head.values(name).next()?;
    let value = std::str::from_utf8(value).ok()?;
    let is_plain = value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    is_plain.then_some(value)
}
