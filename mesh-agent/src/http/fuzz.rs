//! Any bytes as requests, as answers, and as targets.

use super::h1::*;
use super::{answer, hygiene, oracle};
use crate::model::{Host, NormalPath};

/// What of one request goes on to the application.
struct Forwarded {
    /// With the body, as far as it came.
    bytes: Vec<u8>,
    seen: oracle::Seen,
    /// Its body came to its end, and another request may follow.
    goes_on: bool,
}

/// A connection of any bytes: what is sent on is what the application reads, and
/// it never reads more requests than were counted.
pub(crate) fn request(bytes: &[u8]) {
    let mut rest = bytes;
    let mut sent = Vec::new();
    let mut seen = Vec::new();
    while let Some((forwarded, taken)) = forward(rest) {
        sent.extend_from_slice(&forwarded.bytes);
        seen.push(forwarded.seen);
        if !forwarded.goes_on {
            break;
        }
        rest = &rest[taken..];
    }
    if seen.is_empty() {
        return;
    }
    let read = oracle::requests(&sent);
    assert!(read.len() <= seen.len(), "{read:?} of {seen:?}");
    for (read, seen) in read.iter().zip(&seen) {
        assert_eq!(read.method, seen.method);
        // It may have narrower limits, and never another body.
        assert!(
            read.body.is_none() || read.body == seen.body,
            "{read:?}, {seen:?}"
        );
    }
}

/// `None`: no request, or one that ends the connection for HTTP.
fn forward(bytes: &[u8]) -> Option<(Forwarded, usize)> {
    in_halves(bytes);
    let mut lines = Lines::new();
    let parsed = request_head(bytes, &mut Scan::default(), &mut lines);
    let Ok(Parsed::Head { head, len }) = parsed else {
        return None;
    };
    assert!(head.start < len && len <= bytes.len().min(MAX_HEAD));
    assert!(head.head.headers.len() <= MAX_LINES);
    // The way of each answer of the agent's own.
    let _bytes = answer::Client::of(&head.head, true);
    let edits = hygiene::of_request(&head);
    let mut out = Vec::new();
    encode_request(&bytes[..len], &edits, &mut out).expect("its own edits are good");
    if edits.is_empty() {
        assert_eq!(out, bytes[head.start..len]);
    }
    is_clean(&out);
    if head.upgrade || head.head.method == "CONNECT" {
        return None;
    }
    let mut body = Body::new(head.framing, Side::Request);
    let followed = body.follow(&bytes[len..]);
    let (taken, is_whole) = match followed {
        Ok(followed) => (followed.len, followed.ended || body.has_ended()),
        Err(_) => (0, false),
    };
    let seen = oracle::Seen {
        method: head.head.method.to_owned(),
        body: is_whole.then(|| content(head.framing, &bytes[len..len + taken])),
    };
    out.extend_from_slice(&bytes[len..len + taken]);
    let forwarded = Forwarded {
        bytes: out,
        seen,
        goes_on: is_whole && head.persistent,
    };
    Some((forwarded, len + taken))
}

/// The bytes of a body without what says where it ends: read in another way than
/// `Body` reads it.
fn content(framing: Framing, body: &[u8]) -> Vec<u8> {
    if framing != Framing::Chunked {
        return body.to_vec();
    }
    let (mut content, mut rest) = (Vec::new(), body);
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n').expect("a size");
        let digits = rest.iter().position(|byte| !byte.is_ascii_hexdigit());
        let digits = std::str::from_utf8(&rest[..digits.expect("an end")]).expect("digits");
        let size = usize::from_str_radix(digits, 16).expect("a size");
        if size == 0 {
            return content;
        }
        content.extend_from_slice(&rest[end + 1..end + 1 + size]);
        rest = &rest[end + 1 + size + 2..];
    }
}

/// What is sent on is taken again, as the same, with nothing left to clean.
fn is_clean(head: &[u8]) {
    let mut lines = Lines::new();
    let again = request_head(head, &mut Scan::default(), &mut lines);
    let Ok(Parsed::Head { head: again, len }) = again else {
        panic!("{again:?}")
    };
    assert_eq!(len, head.len());
    let edits = hygiene::of_request(&again);
    assert!(edits.is_empty(), "{edits:?}");
}

/// A head that comes in two parts is the same.
fn in_halves(bytes: &[u8]) {
    let mut lines = Lines::new();
    let whole = request_head(bytes, &mut Scan::default(), &mut lines);
    let mut scan = Scan::default();
    let mut before = Lines::new();
    match request_head(&bytes[..bytes.len() / 2], &mut scan, &mut before) {
        Ok(Parsed::NeedMore) => {
            let mut lines = Lines::new();
            let halves = request_head(bytes, &mut scan, &mut lines);
            assert_eq!(format!("{halves:?}"), format!("{whole:?}"));
        }
        Ok(Parsed::Head { len, .. }) => {
            let is_same = matches!(&whole, Ok(Parsed::Head { len: all, .. }) if *all == len);
            assert!(is_same, "{whole:?}");
        }
        Err(bad) => assert_eq!(whole.err(), Some(bad)),
    }
}

/// Any bytes as an answer to each kind of request.
pub(crate) fn response(bytes: &[u8]) {
    for request in [
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "HEAD / HTTP/1.0\r\n\r\n",
        "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let mut lines = Lines::new();
        let parsed = request_head(request.as_bytes(), &mut Scan::default(), &mut lines);
        let Ok(Parsed::Head { head, .. }) = parsed else {
            panic!("{request:?} is good")
        };
        answer_to(&head.asked(), bytes);
    }
}

fn answer_to(asked: &Asked, bytes: &[u8]) {
    let mut lines = Lines::new();
    let parsed = response_head(bytes, asked, &mut Scan::default(), &mut lines);
    let Ok(Parsed::Head { head, len }) = parsed else {
        return;
    };
    let edits = hygiene::of_response(&head, asked, false);
    let mut out = Vec::new();
    encode_response(&bytes[..len], &edits, &mut out).expect("its own edits are good");
    let mut lines = Lines::new();
    let again = response_head(&out, asked, &mut Scan::default(), &mut lines);
    let Ok(Parsed::Head { head: again, .. }) = again else {
        panic!("{again:?}")
    };
    assert_eq!((again.status, again.framing), (head.status, head.framing));
    if !asked.is_connect && !head.informational && head.status != 101 {
        let method = if asked.is_head { "HEAD" } else { "GET" };
        is_read_so(method, head.status, (&out, head.framing), &bytes[len..]);
    }
    let mut whole = Body::new(head.framing, Side::Response);
    let mut halves = Body::new(head.framing, Side::Response);
    let body = &bytes[len..];
    let (first, second) = body.split_at(body.len() / 2);
    let whole = whole.follow(body);
    let halves = halves.follow(first).and_then(|one| {
        let two = halves.follow(second)?;
        let len = one.len + two.len;
        Ok(Followed { len, ..two })
    });
    assert_eq!(whole, halves);
}

/// A client reads the same status in what is sent back, and no other body.
fn is_read_so(method: &str, status: u16, (head, framing): (&[u8], Framing), body: &[u8]) {
    let mut follows = Body::new(framing, Side::Response);
    let (len, is_whole) = match follows.follow(body) {
        Ok(followed) => (followed.len, followed.ended || follows.has_ended()),
        Err(_) => (0, false),
    };
    let is_whole = is_whole || framing == Framing::UntilClose;
    let sent = [head, &body[..len]].concat();
    let Some((read, content_read)) = oracle::answer(method, &sent) else {
        return;
    };
    assert_eq!(read, status);
    let content = is_whole.then(|| content(framing, &body[..len]));
    // It may have narrower limits.
    assert!(
        content_read.is_none() || content_read == content,
        "{content_read:?}, {content:?}"
    );
}

/// Any bytes as a path, and as a host.
pub(crate) fn target(bytes: &[u8]) {
    if let Some(host) = Host::parse(bytes) {
        let port = host.port.map(|port| format!(":{port}")).unwrap_or_default();
        let written = format!("{}{port}", host.name);
        assert_eq!(Host::parse(written.as_bytes()), Some(host), "{written}");
    }
    let Ok(path) = NormalPath::of(bytes) else {
        return;
    };
    let normal = path.normal.as_bytes();
    assert_eq!(normal.first(), Some(&b'/'));
    assert!(normal.is_ascii());
    let again = NormalPath::of(normal).expect("a normal form is a path");
    assert_eq!(again, path);
    // No server finds another segment in it, whatever it decodes.
    let segments: Vec<&[u8]> = path.decoded.split(|byte| *byte == b'/').skip(1).collect();
    let (last, before) = segments.split_last().expect("one at least");
    assert!(before.iter().all(|segment| !segment.is_empty()));
    for segment in before.iter().chain([last]) {
        assert!(!matches!(*segment, b"." | b".."), "{segment:?}");
        assert!(!segment.contains(&b'\\') && !segment.contains(&0));
    }
}

#[cfg(test)]
pub(crate) fn request_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let seeds: [(&str, &str); 12] = [
        (
            "get",
            "GET /a/b?c=d HTTP/1.1\r\nHost: shop:80\r\nAccept: */*\r\n\r\n",
        ),
        (
            "length",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        ),
        (
            "chunked",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        ),
        (
            "both",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "underscore",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "http10",
            "POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nxGET / HTTP/1.0\r\n\r\n",
        ),
        (
            "absolute",
            "GET http://x/a/../b HTTP/1.1\r\nHost: x\r\n\r\n",
        ),
        (
            "upgrade",
            "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: h2c, websocket\r\nHTTP2-Settings: AAA\r\n\r\nearly",
        ),
        ("connect", "CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n"),
        (
            "identity",
            "GET / HTTP/1.1\r\nHost: x\r\nX_Forwarded_Client_Cert: y\r\nConnection: close, z\r\nZ: 1\r\nx-envoy-a: b\r\n\r\n",
        ),
        (
            "spelled",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\tCHUNKED \r\n\r\n03\r\nabc\r\n0\r\n\r\n",
        ),
        (
            "lines",
            "\r\nOPTIONS * HTTP/1.1\r\nHost: x\r\nTE: gzip, trailers\r\nContent-Length:\t007\r\nA:\r\n\r\n0123456",
        ),
    ];
    seeds
        .map(|(name, seed)| (name, seed.as_bytes().to_vec()))
        .into()
}

#[cfg(test)]
pub(crate) fn response_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let seeds: [(&str, &str); 10] = [
        ("length", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"),
        (
            "chunked",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3  \r\nabc\r\n0\r\nA: b\r\n\r\n",
        ),
        (
            "close",
            "HTTP/1.0 200 OK\r\nConnection: close\r\nKeep-Alive: 5\r\n\r\nabc",
        ),
        ("feeds", "HTTP/1.1 404 No\nA: b\n\nabc"),
        (
            "switch",
            "HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nabc",
        ),
        (
            "continue",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
        ),
        (
            "both",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            "coding",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gz\u{e9}p, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
        (
            "lengths",
            "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\nContent-Length: 3, 3\r\n\r\nabc",
        ),
        (
            "offer",
            "HTTP/1.1 426 No\r\nUpgrade: h2\r\nConnection: Upgrade\r\nx-mesh-reason: a\r\nContent-Length: 0\r\n\r\n",
        ),
    ];
    seeds
        .map(|(name, seed)| (name, seed.as_bytes().to_vec()))
        .into()
}

#[cfg(test)]
pub(crate) fn target_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let seeds: [(&str, &str); 12] = [
        ("plain", "/api/v1/items"),
        ("dots", "/public/../a/./b/..//c"),
        ("escaped", "/%61dmin/%2e%2e/%2561/%3b"),
        ("separators", "/a%2fb\\c%5c"),
        ("parameters", "/a;x=1/..;/b;"),
        ("overlong", "/%c0%ae%c0%ae/%e0%80%af"),
        ("latin", "/caf\u{e9}|\"<>/%E9"),
        ("host", "Shop.Prod.SVC.:8080"),
        ("v6", "[2001:DB8::1]:80"),
        ("user", "u:p@host"),
        ("labels", "a..b:"),
        ("nul", "/a%00"),
    ];
    seeds
        .map(|(name, seed)| (name, seed.as_bytes().to_vec()))
        .into()
}
