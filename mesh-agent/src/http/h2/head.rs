//! Heads: as rules see them, and as h2 sends them.

use ::h2::ext::Protocol;
use http::header::CONTENT_LENGTH;
use http::uri::Scheme;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, Version, request,
};
use smallvec::SmallVec;

use crate::http::answer::Answer;
use crate::http::h1::{Bad, split_target};
use crate::http::names;
use crate::model::{HeaderLine, Host, HttpVersion, Path, RequestHead};

/// The header lines of one head: of the caller, so that a head can borrow them.
#[derive(Debug, Default)]
pub(crate) struct HeadLines<'p>(SmallVec<[HeaderLine<'p>; 32]>);

/// One request, as far as its head tells.
#[derive(Debug)]
pub(crate) struct Head<'h> {
    /// An extended CONNECT (RFC 8441), HTTP/2's form of an upgrade, is a GET there as in
    /// HTTP/1.
    pub(crate) head: RequestHead<'h>,
}

impl<'p> Head<'p> {
    /// Checks what h2 lets through and an application could read in another way.
    pub(crate) fn of<'l>(
        parts: &'p request::Parts,
        lines: &'l mut HeadLines<'p>,
    ) -> Result<Head<'l>, Bad>
    where
        'p: 'l,
    {
        lines.0.clear();
        for (name, value) in &parts.headers {
            // h2 takes that for 0, if what comes behind the head is not there yet.
            if *name == CONTENT_LENGTH && value.is_empty() {
                return Err(Bad::ContentLength);
            }
            lines.0.push(line(name, value)?);
        }
        let protocol = parts.extensions.get::<Protocol>().map(Protocol::as_str);
        let is_connect = parts.method == Method::CONNECT;
        if is_connect && parts.headers.contains_key("content-length") {
            return Err(Bad::ConnectBody);
        }
        if !protocol.is_none_or(is_protocol) {
            return Err(Bad::Upgrade);
        }
        let is_tunnel = is_connect && protocol.is_none();
        let host = host(&parts.uri, &parts.headers)?;
        let target = parts.uri.path_and_query();
        let target = match (target, is_tunnel) {
            (Some(target), false) => target.as_str().as_bytes(),
            _ => parts.uri.authority().map_or("", |a| a.as_str()).as_bytes(),
        };
        let (path, query) = match (parts.method.as_str(), target) {
            _ if is_tunnel => {
                host.port.ok_or(Bad::Target)?;
                (Path::None, None)
            }
            ("OPTIONS", b"*") => (Path::None, None),
            (_, [b'/', ..]) => {
                let (path, query) = split_target(target);
                (Path::of(path), query)
            }
            _ => return Err(Bad::Target),
        };
        if let Path::Ambiguous(problem) = path
            && problem.is_malformed()
        {
            return Err(Bad::Path(problem));
        }
        let is_web = |scheme: &Scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS;
        if !is_tunnel && !parts.uri.scheme().is_none_or(is_web) {
            return Err(Bad::Target);
        }
        let head = RequestHead {
            version: HttpVersion::Http2,
            method: match protocol {
                Some(_) => "GET",
                None => parts.method.as_str(),
            },
            target,
            path,
            query,
            host: Some(host),
            headers: &lines.0,
        };
        Ok(Head { head })
    }
}

/// Behind its head there is another protocol.
pub(crate) fn is_tunnel(parts: &request::Parts) -> bool {
    parts.extensions.get::<Protocol>().is_some()
}

/// As in `Upgrade` of HTTP/1: a name, and maybe its version.
fn is_protocol(protocol: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(names::is_token);
    let mut words = protocol.splitn(2, '/');
    words.all(is_word)
}

fn line<'p>(name: &'p HeaderName, value: &'p HeaderValue) -> Result<HeaderLine<'p>, Bad> {
    let (name, value) = (name.as_str(), value.as_bytes());
    // An HTTP/1 application would see another value than the rules did.
    if value != names::trim(value) {
        return Err(Bad::HeaderValue);
    }
    if names::HOP_BY_HOP.contains(&name) {
        return Err(Bad::HeaderName);
    }
    // `content_length` and the like.
    if name.contains('_') && names::is_framing(name) {
        return Err(Bad::FramingName);
    }
    Ok(HeaderLine { name, value })
}

/// `:authority` and `Host` are the same, or only one is there.
fn host<'p>(uri: &'p Uri, headers: &'p HeaderMap) -> Result<Host<'p>, Bad> {
    let mut lines = headers.get_all("host").iter();
    let (line, more) = (lines.next(), lines.next());
    if more.is_some() {
        return Err(Bad::SeveralHosts);
    }
    let parse = |bytes: &'p [u8]| Host::parse(bytes).ok_or(Bad::Host);
    let line = line.map(|line| parse(line.as_bytes())).transpose()?;
    let asked = uri
        .authority()
        .map(|authority| parse(authority.as_str().as_bytes()));
    let default_port = if uri.scheme() == Some(&Scheme::HTTPS) {
        443
    } else {
        80
    };
    match (asked.transpose()?, line) {
        (Some(asked), Some(line)) if !asked.is_same(&line, default_port) => Err(Bad::OtherHost),
        (Some(host), _) | (None, Some(host)) => Ok(host),
        (None, None) => Err(Bad::NoHost),
    }
}

/// The head of an answer for an HTTP/2 hop. `None` of what HTTP/2 cannot say.
pub(crate) fn response_of(status: u16, lines: &[HeaderLine<'_>]) -> Option<Response<()>> {
    let mut response = Response::new(());
    *response.version_mut() = Version::HTTP_2;
    *response.status_mut() = StatusCode::from_u16(status).ok()?;
    *response.headers_mut() = map(lines)?;
    Some(response)
}

/// Of an answer of the agent itself, whose body is sent behind it.
pub(crate) fn answer_head(answer: &Answer) -> Option<Response<()>> {
    let lines: Vec<HeaderLine<'_>> = answer
        .headers
        .iter()
        .map(|(name, value)| HeaderLine {
            name,
            value: value.as_bytes(),
        })
        .collect();
    response_of(answer.status, &lines)
}

/// In their order, names in lower case, several `Cookie` lines each as it came; what
/// is about an HTTP/1 connection, and `Host`, stays behind.
fn map(lines: &[HeaderLine<'_>]) -> Option<HeaderMap> {
    let mut map = HeaderMap::with_capacity(lines.len());
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        let is_left = matches!(name.as_str(), "host" | "transfer-encoding" | "upgrade")
            || names::HOP_BY_HOP.contains(&name.as_str())
            || (name == "te" && !line.value.eq_ignore_ascii_case(b"trailers"));
        if !is_left {
            map.append(name, HeaderValue::from_bytes(line.value).ok()?);
        }
    }
    Some(map)
}
