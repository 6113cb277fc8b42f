//! Where a redirect leads.

use std::borrow::Cow;

use super::filters::modified;
use crate::model::http_route::{Redirect, Scheme};
use crate::model::{Host, Path, RequestHead};

/// The value of `Location`. `elements`: of the prefix that matched; `port`: the
/// one that the request came to.
pub(super) fn location(
    redirect: &Redirect,
    head: &RequestHead<'_>,
    elements: usize,
    port: u16,
) -> String {
    let mut to = String::new();
    let scheme = redirect.scheme.unwrap_or(Scheme::Http);
    let host = redirect.host.as_deref();
    let host = host.or(head.host.as_ref().map(|Host { name, .. }| &**name));
    // Without a host there is none to name: the path alone is of the same one.
    if let Some(host) = host {
        to.push_str(scheme.name());
        to.push_str("://");
        to.push_str(host);
        let of_scheme = redirect.scheme.map(Scheme::port);
        let port = redirect.port.or(of_scheme).unwrap_or(port);
        if port != scheme.port() {
            to.push(':');
            to.push_str(&port.to_string());
        }
    }
    let path = path(head);
    match &redirect.path {
        Some(modifier) => to.push_str(&modified(&path, elements, modifier)),
        None => to.push_str(&path),
    }
    if let Some(query) = head.query {
        to.push('?');
        to.push_str(&printable(query));
    }
    to
}

/// In its normal form, where it has one.
pub(super) fn path(head: &RequestHead<'_>) -> String {
    match &head.path {
        Path::Normal(path) => printable(path.normal.as_bytes()),
        Path::Ambiguous(_) | Path::None => {
            let target = head.target;
            let end = target.iter().position(|byte| *byte == b'?');
            match target.first() {
                Some(b'/') => printable(&target[..end.unwrap_or(target.len())]),
                _ => "/".to_owned(),
            }
        }
    }
}

/// As it is; where it is no text, with what is not ASCII escaped.
pub(super) fn text(query: &[u8]) -> Cow<'_, str> {
    let escaped = |byte: &u8| match byte.is_ascii() {
        true => char::from(*byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    match std::str::from_utf8(query) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(query.iter().map(escaped).collect()),
    }
}

/// What may not stand in a header is escaped.
fn printable(text: &[u8]) -> String {
    let mut all = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b'!'..=b'~' if !b"\"<>".contains(byte) => all.push(char::from(*byte)),
            other => all.push_str(&format!("%{other:02X}")),
        }
    }
    all
}
