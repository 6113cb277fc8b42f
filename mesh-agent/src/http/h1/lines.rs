//! The lines of a head, and where it ends.

use httparse::{EMPTY_HEADER, Error, Header, Status};
use smallvec::SmallVec;

use super::Bad;
use crate::model::HeaderLine;

/// Longest head, the first line included.
pub(crate) const MAX_HEAD: usize = 64 * 1024;
/// Most header lines.
pub(crate) const MAX_LINES: usize = 200;
/// As many as nearly every head has at most.
const FEW: usize = 32;

/// The header lines of one head: of the caller, so that a head can borrow them.
#[derive(Debug, Default)]
pub(crate) struct Lines<'b>(pub(super) SmallVec<[HeaderLine<'b>; FEW]>);

impl Lines<'_> {
    pub(crate) fn new() -> Self {
        Self::default()
    }
}

/// How far a head was looked through for its end: kept between reads, so that one
/// that comes byte by byte costs no more than one that comes at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scan {
    /// Before here no empty line begins.
    seen: usize,
    /// Nothing was looked at yet.
    is_old: bool,
}

/// What a head was found to be.
#[derive(Debug)]
pub(crate) enum Parsed<T> {
    NeedMore,
    /// And how many bytes it has.
    Head {
        head: T,
        len: usize,
    },
}

impl Scan {
    /// Is it worth while to parse? Always at the first look, as most heads come whole,
    /// and at the last.
    pub(super) fn may_be_whole(&mut self, bytes: &[u8]) -> bool {
        let is_first = !std::mem::replace(&mut self.is_old, true);
        is_first || self.has_end(bytes)
    }

    /// Is there an empty line, or no room for one? What is wrong before that is told
    /// then, however the bytes came.
    pub(super) fn has_end(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() >= MAX_HEAD {
            return true;
        }
        let start = self.seen.min(bytes.len());
        let mut feeds = bytes[start..]
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n');
        let found = feeds.find(|(at, _)| {
            let behind = &bytes[start + at + 1..];
            matches!(behind, [b'\n', ..] | [b'\r', b'\n', ..])
        });
        // The last two bytes may be the begin of an empty line.
        let looked = found.map_or(bytes.len().saturating_sub(2), |(at, _)| start + at);
        self.seen = self.seen.max(looked);
        found.is_some()
    }

    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }
}

/// What to say while the end has not come.
pub(super) fn need_more<T>(bytes: &[u8]) -> Result<Parsed<T>, Bad> {
    if bytes.len() < MAX_HEAD {
        return Ok(Parsed::NeedMore);
    }
    let is_first_line = !bytes[2..].contains(&b'\n');
    Err(if is_first_line {
        Bad::LineTooLong
    } else {
        Bad::TooLong
    })
}

/// The header lines behind the first line, into `lines`, and how many bytes they
/// have with the empty line; `None` before that has come.
pub(super) fn header_lines<'b>(
    bytes: &'b [u8],
    lines: &mut Lines<'b>,
) -> Result<Option<usize>, Bad> {
    lines.0.clear();
    let mut few = [EMPTY_HEADER; FEW];
    match httparse::parse_headers(bytes, &mut few) {
        Err(Error::TooManyHeaders) => {
            let mut many = [EMPTY_HEADER; MAX_LINES];
            let parsed = httparse::parse_headers(bytes, &mut many);
            take(parsed, lines)
        }
        parsed => take(parsed, lines),
    }
}

fn take<'b>(
    parsed: httparse::Result<(usize, &[Header<'b>])>,
    lines: &mut Lines<'b>,
) -> Result<Option<usize>, Bad> {
    match parsed {
        Ok(Status::Partial) => Ok(None),
        Ok(Status::Complete((len, headers))) => {
            let line = |header: &Header<'b>| HeaderLine {
                name: header.name,
                value: header.value,
            };
            lines.0.extend(headers.iter().map(line));
            Ok(Some(len))
        }
        Err(Error::TooManyHeaders) => Err(Bad::TooManyLines),
        Err(Error::HeaderValue) => Err(Bad::HeaderValue),
        Err(Error::NewLine) => Err(Bad::LineEnd),
        Err(Error::HeaderName | Error::Status | Error::Token | Error::Version) => {
            Err(Bad::HeaderName)
        }
    }
}

/// Each line of `bytes` (the header lines, and the empty one at the end) ends with
/// CR LF. No value has either, so one look in front of each name is enough.
pub(super) fn ends_are_strict(bytes: &[u8], lines: &[HeaderLine<'_>]) -> bool {
    let start = bytes.as_ptr() as usize;
    let begins = lines.iter().map(|line| line.name.as_ptr() as usize - start);
    let is_strict = |end: usize| bytes[..end].ends_with(b"\r\n");
    let last = bytes.len() - 2.min(bytes.len());
    begins.filter(|at| *at > 0).all(is_strict)
        && bytes.ends_with(b"\r\n")
        && (last == 0 || is_strict(last))
}
