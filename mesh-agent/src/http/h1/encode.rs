//! Writes a head anew with what is to change, and all else byte for byte.

use smallvec::SmallVec;

use super::request::split_absolute;
use crate::http::names;
use crate::model::{Edits, HeaderEdit};

/// Most header edits of one head: each line removed, and all filters of a route and
/// its backend.
const MAX_EDITS: usize = 512;

/// An edit that would break the head: a line end in a value, a name that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InvalidEdit;

/// The head of a request, with its empty line, as `request_head` found it.
pub(crate) fn encode_request(
    head: &[u8],
    edits: &Edits,
    out: &mut Vec<u8>,
) -> Result<(), InvalidEdit> {
    check(edits)?;
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let (line, rest) = split_line(head);
    let parts = request_line(line);
    let absolute = parts.and_then(|(_, came, _)| split_absolute(came));
    // An absolute target would speak of another host than the new one.
    let origin = absolute.filter(|_| edits.host.is_some());
    let (root, target): (&[u8], &[u8]) = match (edits.target.as_deref(), origin) {
        (Some(target), _) => (b"", target.as_bytes()),
        (None, Some((_, path @ [b'/', ..]))) => (b"", path),
        (None, Some((_, query))) => (b"/", query),
        (None, None) => (b"", b""),
    };
    match parts {
        _ if edits.target.is_none() && origin.is_none() => out.extend_from_slice(line),
        Some((method, _, version)) => {
            for part in [method, root, target, version] {
                out.extend_from_slice(part);
            }
        }
        None => return Err(InvalidEdit),
    }
    // HTTP/1.0 may say its host there alone: it does not go with the rest.
    let host = absolute.filter(|_| edits.target.is_some());
    lines(rest, edits, host.map(|(authority, _)| authority), out);
    Ok(())
}

/// The head of an answer, with its empty line, as `response_head` found it.
pub(crate) fn encode_response(
    head: &[u8],
    edits: &Edits,
    out: &mut Vec<u8>,
) -> Result<(), InvalidEdit> {
    check(edits)?;
    let (line, rest) = split_line(head);
    out.extend_from_slice(line);
    lines(rest, edits, None, out);
    Ok(())
}

/// Method and version with the blanks on the target's side, and the target between.
fn request_line(line: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let first = line.iter().position(|byte| *byte == b' ')?;
    let last = line.iter().rposition(|byte| *byte == b' ')?;
    (first < last).then(|| {
        let came = line[first..last].trim_ascii();
        (&line[..=first], came, &line[last..])
    })
}

/// `own`: the host where no line says one.
fn lines(mut rest: &[u8], edits: &Edits, own: Option<&[u8]>, out: &mut Vec<u8>) {
    let mut written = Written::default();
    loop {
        let (line, behind) = split_line(rest);
        let end = line.strip_suffix(b"\n").unwrap_or(line);
        if end.is_empty() || end == b"\r" || line.is_empty() {
            written.missing(edits, own, out);
            out.extend_from_slice(line);
            return;
        }
        written.line(line, edits, out);
        rest = behind;
    }
}

/// The first line, with its end.
fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    bytes.split_at(end.map_or(bytes.len(), |at| at + 1))
}

/// Which of the edits that stand instead of a line were written, and whether there was
/// a line of the host.
#[derive(Default)]
struct Written {
    host: bool,
    set: SmallVec<[bool; 32]>,
}

impl Written {
    fn line(&mut self, line: &[u8], edits: &Edits, out: &mut Vec<u8>) {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if name.eq_ignore_ascii_case(b"host") {
            let is_first = !std::mem::replace(&mut self.host, true);
            if let Some(host) = &edits.host {
                if is_first {
                    push_line(name, host.as_bytes(), out);
                }
                return;
            }
        }
        let mut keeps = true;
        for (at, edit) in edits.headers.iter().enumerate() {
            match edit {
                HeaderEdit::Remove { name: gone } if is_name(name, gone) => keeps = false,
                HeaderEdit::Set { name: own, value } if is_name(name, own) => {
                    keeps = false;
                    if !self.was_set(at) && is_last_word(edits, at) {
                        push_line(own.as_bytes(), value.as_bytes(), out);
                        self.set.resize(self.set.len().max(at + 1), false);
                        self.set[at] = true;
                    }
                }
                HeaderEdit::Remove { .. } | HeaderEdit::Set { .. } | HeaderEdit::Add { .. } => {}
            }
        }
        if keeps {
            out.extend_from_slice(line);
        }
    }

    /// Behind the last line: what had no line to stand instead of, and what is new.
    fn missing(&self, edits: &Edits, own: Option<&[u8]>, out: &mut Vec<u8>) {
        let host = edits.host.as_deref().map(str::as_bytes).or(own);
        if let Some(host) = host.filter(|_| !self.host) {
            push_line(b"host", host, out);
        }
        for (at, edit) in edits.headers.iter().enumerate() {
            match edit {
                HeaderEdit::Add { name, value } => {
                    push_line(name.as_bytes(), value.as_bytes(), out);
                }
                HeaderEdit::Set { name, value } if !self.was_set(at) && is_last_word(edits, at) => {
                    push_line(name.as_bytes(), value.as_bytes(), out);
                }
                HeaderEdit::Set { .. } | HeaderEdit::Remove { .. } => {}
            }
        }
    }

    fn was_set(&self, at: usize) -> bool {
        self.set.get(at).copied().unwrap_or(false)
    }
}

/// No later edit sets the name.
fn is_last_word(edits: &Edits, at: usize) -> bool {
    let HeaderEdit::Set { name: own, .. } = &edits.headers[at] else {
        return false;
    };
    let mut later = edits.headers[at + 1..].iter();
    !later
        .any(|edit| matches!(edit, HeaderEdit::Set { name, .. } if name.eq_ignore_ascii_case(own)))
}

fn is_name(name: &[u8], other: &str) -> bool {
    name.eq_ignore_ascii_case(other.as_bytes())
}

pub(in crate::http) fn push_line(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Nothing of an edit can be read as another line.
fn check(edits: &Edits) -> Result<(), InvalidEdit> {
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(names::is_token);
    let is_value = |value: &str| {
        value
            .bytes()
            .all(|b| matches!(b, b'\t' | b' '..=b'~' | 0x80..))
    };
    let is_target = |target: &str| {
        !target.is_empty() && target.bytes().all(|b| matches!(b, b'!'..=b'~' | 0x80..))
    };
    let headers = edits.headers.iter().all(|edit| match edit {
        HeaderEdit::Set { name, value } | HeaderEdit::Add { name, value } => {
            is_name(name) && is_value(value)
        }
        HeaderEdit::Remove { name } => is_name(name),
    });
    let target = edits.target.as_deref().is_none_or(is_target);
    let host = edits.host.as_deref().is_none_or(is_value);
    if headers && target && host && edits.headers.len() <= MAX_EDITS {
        Ok(())
    } else {
        Err(InvalidEdit)
    }
}
