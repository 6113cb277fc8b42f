//! The head of a request, compared with what rules name.
//!
//! `None` everywhere: it depends on how the server reads it.

use crate::model::policy::{HostPattern, PathPattern, Pattern};
use crate::model::traffic::RequestMatch;
use crate::model::{HttpVersion, Path, RequestHead, is_cookie};

/// Is it one of those? Also where that depends on how the server reads it.
pub(crate) fn may_be(of: &RequestMatch, head: &RequestHead<'_>) -> bool {
    let by_method = of.methods.is_empty() || method(&of.methods, head) != Some(false);
    by_method && (of.paths.is_empty() || path(&of.paths, head) != Some(false))
}

/// One that surely matches is enough; else one that may.
fn either(each: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut said = Some(false);
    for one in each {
        match one {
            Some(true) => return Some(true),
            Some(false) => {}
            None => said = None,
        }
    }
    said
}

/// What has no one path is compared with none: `OPTIONS *` and CONNECT as little as
/// what servers read differently.
pub(super) fn path(patterns: &[PathPattern], head: &RequestHead<'_>) -> Option<bool> {
    match &head.path {
        Path::Normal(path) => either(patterns.iter().map(|p| p.matches(path))),
        Path::Ambiguous(_) | Path::None => None,
    }
}

/// Without a host the server takes one that it has.
pub(super) fn host(patterns: &[HostPattern], head: &RequestHead<'_>) -> Option<bool> {
    let host = head.host.as_ref()?;
    either(patterns.iter().map(|p| p.matches(host)))
}

/// Some servers take `get` for `GET`.
pub(super) fn method(patterns: &[Pattern], head: &RequestHead<'_>) -> Option<bool> {
    let is_odd = head.method.bytes().any(|b| b.is_ascii_lowercase());
    let matches = || patterns.iter().any(|p| p.matches(head.method));
    (!is_odd).then(matches)
}

/// Each line by itself. A name with `_` for `-` is the same to servers that make a variable
/// of it, and another to the rest; several lines are one to some, joined in one way or
/// another; one without a value is there to some, and to others it is not.
pub(super) fn header(name: &str, patterns: &[Pattern], head: &RequestHead<'_>) -> Option<bool> {
    let any = |value: &[u8]| patterns.iter().any(|p| p.matches(value));
    let mut seen = Seen::default();
    let asks_presence = patterns.iter().any(|p| matches!(p, Pattern::Present));
    for line in head.headers {
        let exact = line.name.eq_ignore_ascii_case(name);
        if exact || is_alike(line.name, name) {
            let matches = any(line.value);
            seen.lines += 1;
            seen.matching |= matches || asks_presence;
            seen.other |= !matches || !exact;
        }
    }
    let is_one = is_cookie(name) && head.version == HttpVersion::Http2;
    if is_one && head.joined(name).is_some_and(|value| any(&value)) {
        // Clients split them, and every server puts them together again.
        return Some(true);
    }
    match (seen.matching, seen.other) {
        (true, false) => Some(true),
        (true, true) => None,
        (false, _) if seen.lines > 1 && joined_matches(name, any, head) => None,
        (false, _) => Some(false),
    }
}

#[derive(Default)]
struct Seen {
    lines: usize,
    matching: bool,
    other: bool,
}

/// In any way in which servers make one value of several lines.
fn joined_matches(name: &str, any: impl Fn(&[u8]) -> bool, head: &RequestHead<'_>) -> bool {
    let values = |is_of: fn(&str, &str) -> bool| -> Vec<&[u8]> {
        let lines = head.headers.iter();
        let named = lines.filter(|line| is_of(line.name, name));
        named.map(|line| line.value).collect()
    };
    let exact: fn(&str, &str) -> bool = str::eq_ignore_ascii_case;
    let ways = [&b","[..], b", ", b"; ", b";"];
    // The last two are for cookies alone.
    let ways = &ways[..if is_cookie(name) { 4 } else { 2 }];
    [values(exact), values(is_alike)]
        .iter()
        .filter(|lines| lines.len() > 1)
        .any(|lines| ways.iter().any(|way| any(&lines.join(*way))))
}

fn is_alike(one: &str, other: &str) -> bool {
    let fold = |b: u8| match b {
        b'_' => b'-',
        b => b.to_ascii_lowercase(),
    };
    one.len() == other.len() && one.bytes().map(fold).eq(other.bytes().map(fold))
}
