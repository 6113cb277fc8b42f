//! HTTP by the first bytes of a client.
//!
//! As strict as it need be to tell HTTP from another protocol, and no stricter: a
//! request that a server might read is for the codec to judge.

/// Most bytes a caller need hold before the verdict is certain.
pub(crate) const MAX_REQUEST_LINE: usize = 8 * 1024;
/// No method is longer (`BASELINE-CONTROL` has 16).
const MAX_METHOD: usize = 32;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The head of a frame of settings, with which a server of HTTP/2 may begin before its
/// client has said anything; `None`: too few bytes to tell.
#[must_use]
pub(crate) fn http2_settings(bytes: &[u8]) -> Option<bool> {
    const HEAD: usize = 9;
    const SETTINGS: u8 = 4;
    let shape = |(at, byte): (usize, &u8)| match at {
        1 | 2 => true,
        3 => *byte == SETTINGS,
        _ => *byte == 0,
    };
    let begin = &bytes[..bytes.len().min(HEAD)];
    match begin.iter().enumerate().all(shape) {
        true if begin.len() < HEAD => None,
        // Each of them has 6 bytes.
        is_shaped => Some(is_shaped && u16::from_be_bytes([begin[1], begin[2]]).is_multiple_of(6)),
    }
}

/// The first bytes of an answer of HTTP/1, as far as they have come.
#[must_use]
pub(crate) fn may_be_answer(bytes: &[u8]) -> bool {
    const BEGIN: &[u8] = b"HTTP/1.";
    let shown = bytes.len().min(BEGIN.len());
    bytes[..shown] == BEGIN[..shown]
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// Begins as a request of HTTP/1.0 or 1.1.
    Http1,
    /// The preface of HTTP/2.
    Http2,
    /// Another protocol.
    Other,
    /// Too few bytes to tell.
    NeedMore,
}

/// Any prefix gives [`Spoken::NeedMore`], or the verdict of the whole.
#[must_use]
pub(crate) fn http(bytes: &[u8]) -> Spoken {
    let shown = bytes.len().min(PREFACE.len());
    if bytes[..shown] == PREFACE[..shown] {
        return match shown == PREFACE.len() {
            true => Spoken::Http2,
            false => Spoken::NeedMore,
        };
    }
    // Servers skip an empty line in front of a request.
    let bytes = match bytes {
        [b'\r'] | [b'\r', b'\n'] => return Spoken::NeedMore,
        [b'\r', b'\n', rest @ ..] => rest,
        _ => bytes,
    };
    let bytes = &bytes[..bytes.len().min(MAX_REQUEST_LINE - 2)];
    let Some(blank) = bytes.iter().position(|b| !is_of_method(*b)) else {
        return match bytes.len() > MAX_METHOD {
            true => Spoken::Other,
            false => Spoken::NeedMore,
        };
    };
    if !(1..=MAX_METHOD).contains(&blank) || bytes[blank] != b' ' {
        return Spoken::Other;
    }
    request_line(&bytes[blank + 1..], bytes.len() == MAX_REQUEST_LINE - 2)
}

/// What stands behind the method and its blank; `cut`: it is longer than is looked at.
fn request_line(rest: &[u8], cut: bool) -> Spoken {
    let is_control = |b: &u8| (*b < b' ' && *b != b'\t') || *b == 0x7f;
    let Some(end) = rest.iter().position(is_control) else {
        return match cut {
            true => Spoken::Http1,
            false => Spoken::NeedMore,
        };
    };
    match &rest[end..] {
        [b'\r'] if !cut => return Spoken::NeedMore,
        [b'\r', b'\n', ..] | [b'\n', ..] => {}
        _ => return Spoken::Other,
    }
    match ends_with_version(&rest[..end]) {
        true => Spoken::Http1,
        false => Spoken::Other,
    }
}

/// A target, a blank, and `HTTP/1.` with a digit.
fn ends_with_version(line: &[u8]) -> bool {
    let Some((minor, line)) = line.split_last() else {
        return false;
    };
    let target = line.strip_suffix(b" HTTP/1.");
    minor.is_ascii_digit() && target.is_some_and(|target| !target.is_empty())
}

/// Any token is a method, but none that is in use has another sign. So bytes of another
/// protocol are hardly ever waited for.
fn is_of_method(byte: u8) -> bool {
    byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_')
}
