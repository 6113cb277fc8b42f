//! Heads of requests.

use super::framing::{Framing, Said};
use super::lines::{Lines, Parsed, Scan, ends_are_strict, header_lines, need_more};
use super::{Bad, MAX_HEAD};
use crate::http::names;
use crate::model::{HeaderLine, Host, HttpVersion, Path, RequestHead};

/// One request, as far as its head tells.
#[derive(Debug)]
pub(crate) struct Request<'b> {
    pub(crate) head: RequestHead<'b>,
    /// Where its first line begins: an empty line may stand before.
    pub(crate) start: usize,
    pub(crate) framing: Framing,
    /// The client wants another request on the connection.
    pub(crate) persistent: bool,
    /// It offers another protocol, which an answer may take.
    pub(crate) upgrade: bool,
}

/// What of a request its answers depend on, and what outlives its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) version: HttpVersion,
    pub(crate) is_head: bool,
    pub(crate) is_connect: bool,
    pub(crate) persistent: bool,
    /// The protocols offered.
    pub(super) upgrade: Option<Box<[u8]>>,
}

impl Asked {
    /// What follows may be another protocol.
    pub(crate) fn may_become_another(&self) -> bool {
        self.is_connect || self.upgrade.is_some()
    }
}

impl Request<'_> {
    pub(crate) fn asked(&self) -> Asked {
        let offered = || {
            let offers = self.head.values("upgrade").flat_map(names::list);
            let offers: Vec<&[u8]> = offers.filter(|offer| is_offer(offer)).collect();
            offers.join(&b", "[..]).into()
        };
        Asked {
            version: self.head.version,
            is_head: self.head.method == "HEAD",
            is_connect: self.head.method == "CONNECT",
            persistent: self.persistent,
            upgrade: self.upgrade.then(offered),
        }
    }
}

/// Of a head that is not whole yet the first line is looked at up to here: what is
/// no HTTP is known early, and one that dribbles costs little.
const WORTH_A_LOOK: usize = 1024;

/// A protocol that may be taken. HTTP/2 is spoken from the first byte, or not at all.
pub(crate) fn is_offer(offer: &[u8]) -> bool {
    let is_name = |byte: &u8| names::is_token(*byte) || *byte == b'/';
    !offer.eq_ignore_ascii_case(b"h2c") && offer.iter().all(is_name)
}

/// The head at the begin of `bytes`; `scan` belongs to the connection, and is new
/// for each head.
pub(crate) fn request_head<'l, 'b: 'l>(
    bytes: &'b [u8],
    scan: &mut Scan,
    lines: &'l mut Lines<'b>,
) -> Result<Parsed<Request<'l>>, Bad> {
    let bytes = &bytes[..bytes.len().min(MAX_HEAD)];
    let start = match bytes {
        [] | [b'\r'] => return Ok(Parsed::NeedMore),
        [b'\r', b'\n', b'\r' | b'\n', ..] => return Err(Bad::EmptyLines),
        [b'\r', b'\n', ..] => 2,
        _ => 0,
    };
    let parsed = scan
        .may_be_whole(bytes)
        .then(|| whole_head(bytes, start, lines));
    match parsed {
        Some(Ok(head @ Parsed::Head { .. })) => {
            scan.restart();
            Ok(head)
        }
        Some(parsed) if scan.has_end(bytes) => parsed,
        _ => {
            let looked = bytes.len().min(WORTH_A_LOOK);
            first_line(&bytes[start..looked.max(start)])?;
            Ok(Parsed::NeedMore)
        }
    }
}

fn whole_head<'l, 'b: 'l>(
    bytes: &'b [u8],
    start: usize,
    lines: &'l mut Lines<'b>,
) -> Result<Parsed<Request<'l>>, Bad> {
    let Some((line, line_len)) = first_line(&bytes[start..])? else {
        return need_more(bytes);
    };
    let rest = &bytes[start + line_len..];
    let Some(rest_len) = header_lines(rest, lines)? else {
        return need_more(bytes);
    };
    let len = start + line_len + rest_len;
    if !ends_are_strict(&rest[..rest_len], &lines.0) {
        return Err(Bad::LineEnd);
    }
    let head = request(&line, start, &lines.0)?;
    Ok(Parsed::Head { head, len })
}

struct FirstLine<'b> {
    method: &'b str,
    target: &'b [u8],
    is_http10: bool,
}

/// The request line and its length; a wrong one is known before the head has ended.
fn first_line(bytes: &[u8]) -> Result<Option<(FirstLine<'_>, usize)>, Bad> {
    let is_method = |byte: &u8| names::is_token(*byte);
    let Some(method_len) = bytes.iter().position(|byte| !is_method(byte)) else {
        return Ok(None);
    };
    if method_len == 0 || bytes[method_len] != b' ' {
        return Err(Bad::RequestLine);
    }
    let behind = &bytes[method_len + 1..];
    let Some(target_len) = behind
        .iter()
        .position(|byte| matches!(byte, 0..=0x20 | 0x7F))
    else {
        return Ok(None);
    };
    if target_len == 0 || behind[target_len] != b' ' {
        return Err(Bad::RequestLine);
    }
    let version = &behind[target_len + 1..];
    let Some(end) = version.iter().take(16).position(|byte| *byte == b'\n') else {
        return if version.len() > 10 {
            Err(Bad::Version)
        } else {
            Ok(None)
        };
    };
    let is_http10 = match &version[..end] {
        b"HTTP/1.1\r" => false,
        b"HTTP/1.0\r" => true,
        b"HTTP/1.1" | b"HTTP/1.0" => return Err(Bad::LineEnd),
        _ => return Err(Bad::Version),
    };
    let line = FirstLine {
        method: std::str::from_utf8(&bytes[..method_len]).map_err(|_| Bad::RequestLine)?,
        target: &behind[..target_len],
        is_http10,
    };
    Ok(Some((line, method_len + 1 + target_len + 1 + end + 1)))
}

fn request<'b>(
    line: &FirstLine<'b>,
    start: usize,
    lines: &'b [HeaderLine<'b>],
) -> Result<Request<'b>, Bad> {
    let said = Said::of(lines);
    let framing = said.of_request(line.is_http10)?;
    let is_connect = line.method == "CONNECT";
    if is_connect && framing != Framing::None {
        return Err(Bad::ConnectBody);
    }
    let host = match (said.more_hosts, said.host) {
        (true, _) => return Err(Bad::SeveralHosts),
        (false, None) if !line.is_http10 => return Err(Bad::NoHost),
        (false, value) => value.map(|value| Host::parse(value).ok_or(Bad::Host)),
    };
    let (target, host) = Target::of(line, host.transpose()?)?;
    let version = if line.is_http10 {
        HttpVersion::Http10
    } else {
        HttpVersion::Http11
    };
    let offers = || {
        lines
            .iter()
            .filter(|line| line.name.eq_ignore_ascii_case("upgrade"))
    };
    let offers_other = || {
        offers()
            .flat_map(|line| names::list(line.value))
            .any(is_offer)
    };
    Ok(Request {
        head: RequestHead {
            version,
            method: line.method,
            target: line.target,
            path: target.path,
            query: target.query,
            host,
            headers: lines,
        },
        start,
        framing,
        persistent: !said.close && (!line.is_http10 || said.keep_alive),
        upgrade: said.upgrade && said.connection_upgrade && !line.is_http10 && offers_other(),
    })
}

struct Target<'b> {
    path: Path<'b>,
    query: Option<&'b [u8]>,
}

impl<'b> Target<'b> {
    /// With the host that the request is for.
    fn of(line: &FirstLine<'b>, host: Option<Host<'b>>) -> Result<(Self, Option<Host<'b>>), Bad> {
        let nowhere = Self {
            path: Path::None,
            query: None,
        };
        match (line.method, line.target) {
            ("CONNECT", authority) => {
                let asked = Host::parse(authority).ok_or(Bad::Target)?;
                // A tunnel has no default port.
                let port = asked.port.ok_or(Bad::Target)?;
                if host.is_some_and(|host| !asked.is_same(&host, port)) {
                    return Err(Bad::OtherHost);
                }
                Ok((nowhere, Some(asked)))
            }
            ("OPTIONS", b"*") => Ok((nowhere, host)),
            (_, [b'/', ..]) => Ok((Self::of_origin(line.target)?, host)),
            (_, target) => Self::of_absolute(target, host),
        }
    }

    fn of_absolute(
        target: &'b [u8],
        host: Option<Host<'b>>,
    ) -> Result<(Self, Option<Host<'b>>), Bad> {
        let (rest, default_port) = scheme(target).ok_or(Bad::Target)?;
        let (authority, path) = split_authority(rest);
        let asked = Host::parse(authority).ok_or(Bad::Host)?;
        if host.is_some_and(|host| !asked.is_same(&host, default_port)) {
            return Err(Bad::OtherHost);
        }
        let target = match path.first() {
            Some(b'/') => Self::of_origin(path)?,
            // `http://host?query` is for the root.
            _ => Self {
                path: Path::of(b"/"),
                query: split_target(path).1,
            },
        };
        Ok((target, Some(asked)))
    }

    fn of_origin(target: &'b [u8]) -> Result<Self, Bad> {
        let (path, query) = split_target(target);
        match Path::of(path) {
            Path::Ambiguous(problem) if problem.is_malformed() => Err(Bad::Path(problem)),
            path => Ok(Self { path, query }),
        }
    }
}

fn split_authority(rest: &[u8]) -> (&[u8], &[u8]) {
    let end = rest.iter().position(|byte| b"/?#".contains(byte));
    rest.split_at(end.unwrap_or(rest.len()))
}

/// Of a target with a scheme: its authority, and the rest without the fragment.
pub(super) fn split_absolute(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let (authority, rest) = split_authority(scheme(target)?.0);
    let end = rest.iter().position(|byte| *byte == b'#');
    Some((authority, &rest[..end.unwrap_or(rest.len())]))
}

/// Without it, and its own port.
fn scheme(target: &[u8]) -> Option<(&[u8], u16)> {
    let with = |scheme: &[u8]| {
        let (begin, rest) = target.split_at_checked(scheme.len())?;
        begin.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    let http = with(b"http://").map(|rest| (rest, 80));
    http.or_else(|| with(b"https://").map(|rest| (rest, 443)))
}

/// Path and query; the fragment, which is nobody's business, is cut.
pub(in crate::http) fn split_target(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    let end = target.iter().position(|byte| *byte == b'#');
    let target = &target[..end.unwrap_or(target.len())];
    match target.iter().position(|byte| *byte == b'?') {
        None => (target, None),
        Some(at) => (&target[..at], Some(&target[at + 1..])),
    }
}
