//! What an agent takes out of every head: what is about one connection only, and
//! what speaks for somebody else. Mostly nothing: then the bytes go on as they came.

use super::h1::{Asked, Framing, InvalidEdit, Request, Response, encode_request, is_offer};
use super::names;
use crate::model::{Edits, HeaderEdit, HeaderLine};

/// What is to change of a request before it goes to the application.
pub(crate) fn of_request(request: &Request<'_>) -> Edits {
    let mut edits = Edits::default();
    let lines = request.head.headers;
    connection(lines, request.upgrade, &mut edits);
    for line in lines {
        request_line(line, request, &mut edits);
    }
    edits
}

/// The head that goes on, where it is not the one that came: with what always changes,
/// and `more`. `bytes`: as it came.
pub(crate) fn rewritten(
    request: &Request<'_>,
    bytes: &[u8],
    more: Option<&Edits>,
) -> Result<Option<Vec<u8>>, InvalidEdit> {
    let mut edits = of_request(request);
    if let Some(more) = more {
        edits.headers.extend(more.headers.iter().cloned());
        edits.target.clone_from(&more.target);
        edits.host.clone_from(&more.host);
    }
    if edits.is_empty() {
        return Ok(None);
    }
    let mut head = Vec::with_capacity(bytes.len() + 64);
    encode_request(bytes, &edits, &mut head)?;
    Ok(Some(head))
}

/// What is to change of an answer before it goes to the client, whose connection
/// ends behind it if `close` says so.
pub(crate) fn of_response(response: &Response<'_>, asked: &Asked, close: bool) -> Edits {
    let mut edits = Edits::default();
    let lines = response.headers;
    connection(lines, response.status == 101, &mut edits);
    for line in lines {
        let is_tunnel = response.framing == Framing::Tunnel && asked.is_connect;
        let is_framing = names::is_framing(line.name);
        // A 426 says what the application would take.
        let is_offer =
            line.name.eq_ignore_ascii_case("upgrade") && !matches!(response.status, 101 | 426);
        if is_mesh_only(line.name) || is_offer || (is_tunnel && is_framing) {
            remove(line.name, &mut edits);
        }
    }
    if close && !response.informational && response.status != 101 {
        set("connection", "close", &mut edits);
    }
    edits
}

/// Only agents say `x-mesh-…` of an answer.
pub(in crate::http) fn is_mesh_only(name: &str) -> bool {
    let begins = name.as_bytes().get(..7);
    begins.is_some_and(|begins| begins.eq_ignore_ascii_case(b"x-mesh-"))
}

fn request_line(line: &HeaderLine<'_>, request: &Request<'_>, edits: &mut Edits) {
    let is = |name: &str| line.name.eq_ignore_ascii_case(name);
    match line.name.len() {
        _ if names::is_identity(line.name) => remove(line.name, edits),
        2 if is("te") && !line.value.eq_ignore_ascii_case(b"trailers") => {
            let mut codings = request.head.values("te").flat_map(names::list);
            if codings.any(|coding| coding.eq_ignore_ascii_case(b"trailers")) {
                set("te", "trailers", edits);
            } else {
                remove("te", edits);
            }
        }
        // Some servers do not look for `Connection: upgrade`.
        7 if is("upgrade") && !request.upgrade => remove("upgrade", edits),
        7 if is("upgrade") && !names::list(line.value).all(is_offer) => {
            let offers = request.head.values("upgrade").flat_map(names::list);
            let others: Vec<&str> = offers
                .filter(|offer| is_offer(offer))
                .filter_map(|offer| std::str::from_utf8(offer).ok())
                .collect();
            set("upgrade", &others.join(", "), edits);
        }
        // Servers agree on these values, but not on each of their spellings.
        14 if is("content-length") && line.value.len() > 1 && line.value[0] == b'0' => {
            let digits = line.value.iter().position(|byte| *byte != b'0');
            let digits = digits.map_or(&b"0"[..], |at| &line.value[at..]);
            set("content-length", &String::from_utf8_lossy(digits), edits);
        }
        17 if is("transfer-encoding") && line.value != b"chunked" => {
            set("transfer-encoding", "chunked", edits);
        }
        _ => {}
    }
}

/// The lines that are about the connection. `keep-alive` says nothing that harms
/// and is in many requests: alone it stays.
fn connection(lines: &[HeaderLine<'_>], upgrades: bool, edits: &mut Edits) {
    let mut goes = false;
    for line in lines {
        let is = |name: &str| line.name.eq_ignore_ascii_case(name);
        match line.name.len() {
            10 if is("connection") => {
                for option in names::list(line.value) {
                    goes |= connection_option(option, upgrades, lines, edits);
                }
            }
            10..=16 if names::HOP_BY_HOP.iter().any(|name| is(name)) => remove(line.name, edits),
            _ => {}
        }
    }
    match (goes, upgrades) {
        (false, _) => {}
        (true, true) => set("connection", "upgrade", edits),
        (true, false) => remove("connection", edits),
    }
}

/// Does the line have to go for it?
fn connection_option(
    option: &[u8],
    upgrades: bool,
    lines: &[HeaderLine<'_>],
    edits: &mut Edits,
) -> bool {
    let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
    if is("keep-alive") || is("te") || (is("upgrade") && upgrades) {
        return false;
    }
    // By the lines that there are, so that a long list costs no more than them.
    let named = lines.iter().find(|line| is(line.name));
    if let Some(line) = named.filter(|line| names::is_removable(line.name)) {
        remove(line.name, edits);
    }
    true
}

fn remove(name: &str, edits: &mut Edits) {
    let name = name.to_ascii_lowercase();
    push(HeaderEdit::Remove { name }, edits);
}

fn set(name: &str, value: &str, edits: &mut Edits) {
    let (name, value) = (name.to_owned(), value.to_owned());
    push(HeaderEdit::Set { name, value }, edits);
}

/// Once, however many lines ask for it.
fn push(edit: HeaderEdit, edits: &mut Edits) {
    if !edits.headers.contains(&edit) {
        edits.headers.push(edit);
    }
}
