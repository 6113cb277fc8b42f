//! Heads of answers.

use httparse::{EMPTY_HEADER, Error};

use super::framing::{Framing, Said};
use super::lines::{Lines, Parsed, Scan, header_lines, need_more};
use super::request::Asked;
use super::{Bad, MAX_HEAD};
use crate::http::names;
use crate::model::{HeaderLine, HttpVersion};

/// One answer, as far as its head tells.
#[derive(Debug)]
pub(crate) struct Response<'b> {
    pub(crate) status: u16,
    pub(crate) headers: &'b [HeaderLine<'b>],
    pub(crate) framing: Framing,
    /// 1xx but 101: another answer to the same request follows.
    pub(crate) informational: bool,
    /// The application takes another request on the connection.
    pub(crate) persistent: bool,
}

/// The answer at the begin of `bytes` to the request `asked`. Its lines may end
/// with LF alone, which is odd but clear.
pub(crate) fn response_head<'l, 'b: 'l>(
    bytes: &'b [u8],
    asked: &Asked,
    scan: &mut Scan,
    lines: &'l mut Lines<'b>,
) -> Result<Parsed<Response<'l>>, Bad> {
    let bytes = &bytes[..bytes.len().min(MAX_HEAD)];
    if bytes.is_empty() {
        return Ok(Parsed::NeedMore);
    }
    let parsed = scan
        .may_be_whole(bytes)
        .then(|| whole_head(bytes, asked, lines));
    match parsed {
        Some(Ok(head @ Parsed::Head { .. })) => {
            scan.restart();
            Ok(head)
        }
        Some(parsed) if scan.has_end(bytes) => parsed,
        _ => check(bytes).map(|()| Parsed::NeedMore),
    }
}

fn whole_head<'l, 'b: 'l>(
    bytes: &'b [u8],
    asked: &Asked,
    lines: &'l mut Lines<'b>,
) -> Result<Parsed<Response<'l>>, Bad> {
    let Some((version, status, line_len)) = status_line(bytes)? else {
        return need_more(bytes);
    };
    let Some(rest_len) = header_lines(&bytes[line_len..], lines)? else {
        return need_more(bytes);
    };
    let len = line_len + rest_len;
    let head = response(version, status, asked, &lines.0)?;
    Ok(Parsed::Head { head, len })
}

fn status_line(bytes: &[u8]) -> Result<Option<(HttpVersion, u16, usize)>, Bad> {
    let Some(line_len) = bytes.iter().position(|byte| *byte == b'\n') else {
        return Ok(None);
    };
    let line = &bytes[..=line_len];
    let mut none = [EMPTY_HEADER; 0];
    let mut response = httparse::Response::new(&mut none);
    match response.parse(line) {
        Ok(_) => {}
        Err(Error::Version) => return Err(Bad::Version),
        Err(_) => return Err(Bad::StatusLine),
    }
    let version = match response.version {
        Some(0) => HttpVersion::Http10,
        Some(1) => HttpVersion::Http11,
        _ => return Err(Bad::Version),
    };
    match response.code {
        Some(status) if status >= 100 => Ok(Some((version, status, line.len()))),
        _ => Err(Bad::StatusLine),
    }
}

/// What cannot become a status line is known at once.
fn check(bytes: &[u8]) -> Result<(), Bad> {
    let begin = b"HTTP/1.";
    let shown = bytes.len().min(begin.len());
    if bytes[..shown] == begin[..shown] {
        Ok(())
    } else {
        Err(Bad::StatusLine)
    }
}

fn response<'b>(
    version: HttpVersion,
    status: u16,
    asked: &Asked,
    lines: &'b [HeaderLine<'b>],
) -> Result<Response<'b>, Bad> {
    let said = Said::of(lines);
    let is_http10 = version == HttpVersion::Http10;
    let informational = (100..200).contains(&status) && status != 101;
    let framing = match status {
        101 => {
            upgrade(asked, lines, is_http10)?;
            Framing::Tunnel
        }
        200..300 if asked.is_connect => Framing::Tunnel,
        100..200 | 204 | 304 => Framing::None,
        _ => {
            // Checked also where no body comes: the client of a HEAD reads it, too.
            let framing = said.of_response(is_http10, lines)?;
            if asked.is_head {
                Framing::None
            } else {
                framing
            }
        }
    };
    let ends_by_close = matches!(framing, Framing::UntilClose | Framing::Tunnel);
    Ok(Response {
        status,
        headers: lines,
        framing,
        informational,
        persistent: !said.close && !ends_by_close && (!is_http10 || said.keep_alive),
    })
}

/// A 101 answers an upgrade that was asked for, with protocols that were offered.
fn upgrade(asked: &Asked, lines: &[HeaderLine<'_>], is_http10: bool) -> Result<(), Bad> {
    let offered = asked.upgrade.as_deref().ok_or(Bad::Upgrade)?;
    let is_offered =
        |taken: &[u8]| names::list(offered).any(|offer| offer.eq_ignore_ascii_case(taken));
    let named = lines
        .iter()
        .filter(|line| line.name.eq_ignore_ascii_case("upgrade"));
    let mut taken = named.flat_map(|line| names::list(line.value)).peekable();
    let is_named = taken.peek().is_some();
    if is_http10 || !is_named || !taken.all(is_offered) {
        return Err(Bad::Upgrade);
    }
    Ok(())
}
