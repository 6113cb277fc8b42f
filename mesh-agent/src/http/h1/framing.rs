//! Where the body of a message ends, by its header lines.

use super::Bad;
use crate::http::names;
use crate::model::HeaderLine;

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// No body, or one of no bytes.
    None,
    Length(u64),
    Chunked,
    /// At the end of the connection (answers only).
    UntilClose,
    /// No HTTP any more, both ways (a 101, a 2xx to CONNECT).
    Tunnel,
}

/// What the lines say about the body and the connection; one pass.
#[derive(Debug, Default)]
pub(super) struct Said<'b> {
    pub(super) lengths: Option<&'b [u8]>,
    /// More than one `Content-Length` line.
    pub(super) more_lengths: bool,
    /// Each says the same as the first.
    pub(super) lengths_agree: bool,
    pub(super) encoding: Option<&'b [u8]>,
    pub(super) more_encodings: bool,
    pub(super) host: Option<&'b [u8]>,
    pub(super) more_hosts: bool,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) connection_upgrade: bool,
    pub(super) upgrade: bool,
    /// A name that some servers read as one of the framing's.
    pub(super) near_name: bool,
}

impl<'b> Said<'b> {
    pub(super) fn of(lines: &[HeaderLine<'b>]) -> Self {
        let mut said = Self {
            lengths_agree: true,
            ..Self::default()
        };
        for line in lines {
            said.line(line);
        }
        said
    }

    fn line(&mut self, line: &HeaderLine<'b>) {
        let is = |name: &str| line.name.eq_ignore_ascii_case(name);
        // By length first: nearly every line is none of these.
        match line.name.len() {
            4 if is("host") => self.more_hosts |= self.host.replace(line.value).is_some(),
            7 if is("upgrade") => self.upgrade = true,
            10 if is("connection") => {
                for option in names::list(line.value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    self.connection_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                }
            }
            14 if is("content-length") => {
                if let Some(first) = self.lengths {
                    self.more_lengths = true;
                    self.lengths_agree &= first == line.value;
                } else {
                    self.lengths = Some(line.value);
                }
            }
            17 if is("transfer-encoding") => {
                self.more_encodings |= self.encoding.replace(line.value).is_some();
            }
            14 | 17 if names::is_framing(line.name) => self.near_name = true,
            _ => {}
        }
    }

    /// Exactly one way, said once.
    pub(super) fn of_request(&self, is_http10: bool) -> Result<Framing, Bad> {
        if self.near_name {
            return Err(Bad::FramingName);
        }
        match (self.lengths, self.encoding) {
            (Some(_), Some(_)) => Err(Bad::LengthAndChunked),
            (Some(_), None) if self.more_lengths => Err(Bad::SeveralLengths),
            (Some(length), None) => Ok(of_length(length)?),
            (None, Some(_)) if is_http10 => Err(Bad::TransferEncodingVersion),
            (None, Some(coding)) if self.more_encodings || !is_chunked(coding) => {
                Err(Bad::TransferEncoding)
            }
            (None, Some(_)) => Ok(Framing::Chunked),
            (None, None) => Ok(Framing::None),
        }
    }

    /// Of an answer that may have a body.
    pub(super) fn of_response(
        &self,
        is_http10: bool,
        lines: &[HeaderLine<'_>],
    ) -> Result<Framing, Bad> {
        match (self.lengths, self.encoding) {
            (Some(_), Some(_)) => Err(Bad::LengthAndChunked),
            (Some(_), None) if !self.lengths_agree => Err(Bad::SeveralLengths),
            (Some(length), None) => of_equal_lengths(length),
            (None, Some(_)) if is_http10 => Err(Bad::TransferEncodingVersion),
            (None, Some(_)) => of_codings(lines),
            (None, None) => Ok(Framing::UntilClose),
        }
    }
}

fn is_chunked(coding: &[u8]) -> bool {
    coding.eq_ignore_ascii_case(b"chunked")
}

/// Digits only, below 2^63.
fn of_length(value: &[u8]) -> Result<Framing, Bad> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Bad::ContentLength);
    }
    let digits = std::str::from_utf8(value).map_err(|_| Bad::ContentLength)?;
    match digits.parse::<i64>().map(u64::try_from) {
        Ok(Ok(0)) => Ok(Framing::None),
        Ok(Ok(length)) => Ok(Framing::Length(length)),
        _ => Err(Bad::ContentLength),
    }
}

/// An answer may say its length again, on one line, too.
fn of_equal_lengths(value: &[u8]) -> Result<Framing, Bad> {
    let mut lengths = value.split(|byte| *byte == b',').map(names::trim);
    let first = of_length(lengths.next().unwrap_or_default())?;
    for other in lengths {
        if of_length(other)? != first {
            return Err(Bad::SeveralLengths);
        }
    }
    Ok(first)
}

/// Chunked once and last, or not at all: then until the end of the connection. One that is no
/// word, or has parameters, has some clients read nothing of the line.
fn of_codings(lines: &[HeaderLine<'_>]) -> Result<Framing, Bad> {
    let mut chunked = 0;
    let mut last = false;
    let named = lines
        .iter()
        .filter(|line| line.name.eq_ignore_ascii_case("transfer-encoding"));
    for coding in named.flat_map(|line| names::list(line.value)) {
        if !coding.iter().all(|byte| names::is_token(*byte)) {
            return Err(Bad::TransferEncoding);
        }
        last = is_chunked(coding);
        chunked += usize::from(last);
    }
    match (chunked, last) {
        (0, _) => Ok(Framing::UntilClose),
        (1, true) => Ok(Framing::Chunked),
        _ => Err(Bad::TransferEncoding),
    }
}
