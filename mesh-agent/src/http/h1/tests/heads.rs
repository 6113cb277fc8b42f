use crate::http::h1::*;
use crate::model::{Path, PathProblem};

/// What is seen of a request, or why it is refused.
fn parse<T>(bytes: &[u8], look: impl FnOnce(&Request<'_>) -> T) -> Result<Option<T>, Bad> {
    let mut lines = Lines::new();
    match request_head(bytes, &mut Scan::default(), &mut lines)? {
        Parsed::NeedMore => Ok(None),
        Parsed::Head { head, len } => {
            assert_eq!(len, bytes.len());
            Ok(Some(look(&head)))
        }
    }
}

fn framing(head: &str) -> Result<Framing, Bad> {
    let framing = parse(head.as_bytes(), |request| request.framing)?;
    Ok(framing.expect("the head is whole"))
}

/// A POST with more lines.
fn with(lines: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: x\r\n{lines}\r\n")
}

#[test]
fn the_parts_of_a_request_are_as_they_came() {
    let head = b"\r\nPATCH /A%20b?x=\"<>&y=\xff#z HTTP/1.1\r\nhOsT: \tShop.:80 \r\nX_y:\xe9\r\nEmpty:\r\n\r\n";
    let seen = parse(head, |request| {
        assert_eq!(request.start, 2);
        assert_eq!(request.head.method, "PATCH");
        assert_eq!(request.head.target, b"/A%20b?x=\"<>&y=\xff#z");
        assert_eq!(request.head.query, Some(b"x=\"<>&y=\xff".as_slice()));
        let Path::Normal(path) = &request.head.path else {
            panic!("{request:?}")
        };
        assert_eq!(
            (&*path.normal, &*path.decoded),
            ("/A%20b", b"/A b".as_slice())
        );
        let host = request.head.host.as_ref().expect("a host");
        assert_eq!((&*host.name, host.port), ("shop", Some(80)));
        let lines: Vec<_> = request
            .head
            .headers
            .iter()
            .map(|l| (l.name, l.value))
            .collect();
        assert_eq!(
            lines,
            [
                ("hOsT", b"Shop.:80".as_slice()),
                ("X_y", b"\xe9"),
                ("Empty", b"")
            ]
        );
        assert!(request.persistent);
    });
    assert_eq!(seen, Ok(Some(())));
}

#[test]
fn a_body_has_one_way_to_end_or_the_request_is_refused() {
    let good: &[(&str, Framing)] = &[
        ("", Framing::None),
        ("Content-Length: 0\r\n", Framing::None),
        ("Content-Length: 5\r\n", Framing::Length(5)),
        ("content-length:\t05 \r\n", Framing::Length(5)),
        ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
        ("transfer-encoding:\tCHUNKED \r\n", Framing::Chunked),
        (
            "Content-Length: 9223372036854775807\r\n",
            Framing::Length(i64::MAX as u64),
        ),
    ];
    for (lines, wanted) in good {
        assert_eq!(framing(&with(lines)), Ok(*wanted), "{lines:?}");
    }
    let bad: &[(&str, Bad)] = &[
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            Bad::LengthAndChunked,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: x\r\n",
            Bad::LengthAndChunked,
        ),
        (
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            Bad::SeveralLengths,
        ),
        (
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            Bad::SeveralLengths,
        ),
        ("Content-Length: 5, 5\r\n", Bad::ContentLength),
        ("Content-Length: +5\r\n", Bad::ContentLength),
        ("Content-Length: -5\r\n", Bad::ContentLength),
        ("Content-Length: 0x5\r\n", Bad::ContentLength),
        ("Content-Length: 5 6\r\n", Bad::ContentLength),
        ("Content-Length:\r\n", Bad::ContentLength),
        (
            "Content-Length: 9223372036854775808\r\n",
            Bad::ContentLength,
        ),
        (
            "Content-Length: 18446744073709551616\r\n",
            Bad::ContentLength,
        ),
        (
            "Transfer-Encoding: chunked, chunked\r\n",
            Bad::TransferEncoding,
        ),
        (
            "Transfer-Encoding: identity, chunked\r\n",
            Bad::TransferEncoding,
        ),
        (
            "Transfer-Encoding: gzip, chunked\r\n",
            Bad::TransferEncoding,
        ),
        ("Transfer-Encoding: , chunked\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding: chunked,\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding: chunked;q=1\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding: \"chunked\"\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding: xchunked\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding: identity\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding:\r\n", Bad::TransferEncoding),
        (
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
            Bad::TransferEncoding,
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            Bad::TransferEncoding,
        ),
        ("Transfer_Encoding: chunked\r\n", Bad::FramingName),
        ("Content_Length: 5\r\n", Bad::FramingName),
    ];
    for (lines, wanted) in bad {
        assert_eq!(framing(&with(lines)), Err(*wanted), "{lines:?}");
    }
}

#[test]
fn http_1_0_has_no_chunks_and_no_host() {
    let chunked = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(framing(chunked), Err(Bad::TransferEncodingVersion));
    assert_eq!(framing("GET / HTTP/1.0\r\n\r\n"), Ok(Framing::None));
}

#[test]
fn a_head_is_strict() {
    let bad: &[(&[u8], Bad)] = &[
        (b"GET / HTTP/1.1\nHost: x\r\n\r\n", Bad::LineEnd),
        (b"GET / HTTP/1.1\r\nHost: x\n\r\n", Bad::LineEnd),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nA: b\nC: d\r\n\r\n",
            Bad::LineEnd,
        ),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\n", Bad::LineEnd),
        (b"GET / HTTP/1.1\n\n", Bad::LineEnd),
        (b"\r\n\r\nGET / HTTP/1.1\r\n", Bad::EmptyLines),
        (b"\nGET / HTTP/1.1\r\n\r\n", Bad::RequestLine),
        (b" GET / HTTP/1.1\r\n\r\n", Bad::RequestLine),
        (b"GET  / HTTP/1.1\r\n\r\n", Bad::RequestLine),
        (b"GET\t/ HTTP/1.1\r\n\r\n", Bad::RequestLine),
        (b"G@T / HTTP/1.1\r\n\r\n", Bad::RequestLine),
        (b"GET /\x00 HTTP/1.1\r\n\r\n", Bad::RequestLine),
        (b"GET /\x7f HTTP/1.1\r\n\r\n", Bad::RequestLine),
        (b"GET /\r\n\r\n", Bad::RequestLine),
        (b"GET / x HTTP/1.1\r\n\r\n", Bad::Version),
        (b"GET /  HTTP/1.1\r\n\r\n", Bad::Version),
        (b"GET / HTTP/1.1 \r\n\r\n", Bad::Version),
        (b"GET / HTTP/1.2\r\n\r\n", Bad::Version),
        (b"GET / HTTP/2.0\r\n\r\n", Bad::Version),
        (b"GET / http/1.1\r\n\r\n", Bad::Version),
        (b"PRI * HTTP/2.0\r\n\r\n", Bad::Version),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
            Bad::HeaderName,
        ),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n",
            Bad::HeaderName,
        ),
        (b"GET / HTTP/1.1\r\nHost: x\r\n: c\r\n\r\n", Bad::HeaderName),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA\r\n\r\n", Bad::HeaderName),
        (b"GET / HTTP/1.1\r\n Host: x\r\n\r\n", Bad::HeaderName),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
            Bad::HeaderName,
        ),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nA:\r\n\tc\r\n\r\n",
            Bad::HeaderName,
        ),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n",
            Bad::HeaderValue,
        ),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x0bc\r\n\r\n",
            Bad::HeaderValue,
        ),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x7fc\r\n\r\n",
            Bad::HeaderValue,
        ),
    ];
    for (head, wanted) in bad {
        let shown = String::from_utf8_lossy(head);
        assert_eq!(parse(head, |_| ()), Err(*wanted), "{shown:?}");
    }
    // A CR alone, whatever it is called.
    assert!(parse(b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", |_| ()).is_err());
}

#[test]
fn a_request_is_for_one_host() {
    let bad: &[(&str, Bad)] = &[
        ("GET / HTTP/1.1\r\n\r\n", Bad::NoHost),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            Bad::SeveralHosts,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
            Bad::SeveralHosts,
        ),
        ("GET / HTTP/1.1\r\nHost: \r\n\r\n", Bad::Host),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Bad::Host),
        ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", Bad::Host),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Bad::Host),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Bad::Host),
        ("GET / HTTP/1.0\r\nHost: a:99999\r\n\r\n", Bad::Host),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Bad::OtherHost),
        (
            "GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n",
            Bad::OtherHost,
        ),
        ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", Bad::Host),
        ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Bad::Target),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", Bad::Target),
        ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", Bad::Target),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Bad::Target),
        ("CONNECT /p HTTP/1.1\r\nHost: a\r\n\r\n", Bad::Target),
        ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", Bad::Target),
        ("CONNECT a:443 HTTP/1.1\r\nHost: b\r\n\r\n", Bad::OtherHost),
        (
            "CONNECT a:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
            Bad::ConnectBody,
        ),
        (
            "GET /a%00 HTTP/1.1\r\nHost: a\r\n\r\n",
            Bad::Path(PathProblem::Control),
        ),
    ];
    for (head, wanted) in bad {
        assert_eq!(parse(head.as_bytes(), |_| ()), Err(*wanted), "{head:?}");
    }
    let good: &[(&str, &str, Option<&str>)] = &[
        (
            "GET http://A.:80/b/../c?d HTTP/1.1\r\nHost: a\r\n\r\n",
            "a",
            Some("/c"),
        ),
        (
            "GET https://a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
            "a",
            Some("/"),
        ),
        ("GET http://a?x HTTP/1.0\r\n\r\n", "a", Some("/")),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "a", None),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", "a", None),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "a", None),
    ];
    for (head, host, path) in good {
        let seen = parse(head.as_bytes(), |request| {
            let found = match &request.head.path {
                Path::Normal(path) => Some(path.normal.clone().into_owned()),
                Path::Ambiguous(_) | Path::None => None,
            };
            (
                request
                    .head
                    .host
                    .as_ref()
                    .expect("a host")
                    .name
                    .clone()
                    .into_owned(),
                found,
            )
        });
        let wanted = (host.to_string(), path.map(str::to_owned));
        assert_eq!(seen, Ok(Some(wanted)), "{head:?}");
    }
}

#[test]
fn a_path_with_two_meanings_is_for_the_rules_to_refuse() {
    let head = b"GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n";
    let path = parse(head, |request| {
        request.head.path.clone() == Path::Ambiguous(PathProblem::EncodedSeparator)
    });
    assert_eq!(path, Ok(Some(true)));
}

#[test]
fn a_connection_persists_by_version_and_option() {
    let table = [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: keep-alive, Close\r\n", false),
        (
            "1.1",
            "Connection: close\r\nConnection: keep-alive\r\n",
            false,
        ),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        (
            "1.0",
            "Connection: keep-alive\r\nConnection: close\r\n",
            false,
        ),
    ];
    for (version, lines, wanted) in table {
        let head = format!("GET / HTTP/{version}\r\nHost: a\r\n{lines}\r\n");
        let seen = parse(head.as_bytes(), |request| request.persistent);
        assert_eq!(seen, Ok(Some(wanted)), "{head:?}");
    }
}

#[test]
fn an_upgrade_is_seen() {
    let is_offered = |lines: &str| {
        let seen = parse(with(lines).as_bytes(), |request| request.upgrade);
        seen.expect("good").expect("whole")
    };
    assert!(is_offered(
        "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    ));
    assert!(!is_offered("Upgrade: websocket\r\n"));
    assert!(!is_offered("Connection: upgrade\r\nUpgrade: h2c\r\n"));
}

#[test]
fn a_head_is_bounded() {
    let long = |target: usize, lines: usize, line: usize| {
        let mut head = format!("GET /{} HTTP/1.1\r\nHost: x\r\n", "a".repeat(target));
        for _ in 0..lines {
            head.push_str(&format!("A: {}\r\n", "b".repeat(line)));
        }
        head + "\r\n"
    };
    assert_eq!(framing(&long(10, MAX_LINES - 1, 10)), Ok(Framing::None));
    assert_eq!(framing(&long(10, MAX_LINES, 10)), Err(Bad::TooManyLines));
    assert_eq!(framing(&long(60_000, 0, 0)), Ok(Framing::None));
    assert_eq!(framing(&long(70_000, 0, 0)), Err(Bad::LineTooLong));
    assert_eq!(framing(&long(10, 30, 2_000)), Ok(Framing::None));
    assert_eq!(framing(&long(10, 40, 2_000)), Err(Bad::TooLong));
    let most = long(MAX_HEAD - long(0, 0, 0).len(), 0, 0);
    assert_eq!(most.len(), MAX_HEAD);
    assert_eq!(framing(&most), Ok(Framing::None));
}

fn asked(head: &str) -> Asked {
    let asked = parse(head.as_bytes(), |request| request.asked());
    asked.expect("good").expect("whole")
}

fn answer(asked: &Asked, head: &str) -> Result<(Framing, bool), Bad> {
    let mut lines = Lines::new();
    match response_head(head.as_bytes(), asked, &mut Scan::default(), &mut lines)? {
        Parsed::NeedMore => panic!("{head:?} is whole"),
        Parsed::Head { head, .. } => Ok((head.framing, head.persistent)),
    }
}

#[test]
fn an_answer_ends_where_its_head_says() {
    let get = asked("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let good: &[(&str, (Framing, bool))] = &[
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
            (Framing::Length(3), true),
        ),
        (
            "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
            (Framing::None, true),
        ),
        (
            "HTTP/1.1 200 OK\nContent-Length: 3\n\n",
            (Framing::Length(3), true),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\nContent-Length: 3, 3\r\n\r\n",
            (Framing::Length(3), true),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            (Framing::Chunked, true),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            (Framing::UntilClose, false),
        ),
        ("HTTP/1.1 200 OK\r\n\r\n", (Framing::UntilClose, false)),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n",
            (Framing::Length(3), false),
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n",
            (Framing::Length(3), false),
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n",
            (Framing::Length(3), true),
        ),
        (
            "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n",
            (Framing::None, true),
        ),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
            (Framing::None, true),
        ),
        ("HTTP/1.1 100 Continue\r\n\r\n", (Framing::None, true)),
        (
            "HTTP/1.1 999 é\r\nContent-Length: 3\r\n\r\n",
            (Framing::Length(3), true),
        ),
    ];
    for (head, wanted) in good {
        assert_eq!(answer(&get, head), Ok(*wanted), "{head:?}");
    }
    let bad: &[(&str, Bad)] = &[
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            Bad::LengthAndChunked,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            Bad::SeveralLengths,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\n",
            Bad::SeveralLengths,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            Bad::TransferEncoding,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
            Bad::TransferEncoding,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gz\u{e9}p, chunked\r\n\r\n",
            Bad::TransferEncoding,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked;q=1\r\n\r\n",
            Bad::TransferEncoding,
        ),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Bad::TransferEncodingVersion,
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            Bad::Upgrade,
        ),
        ("HTTP/1.1 099 \r\n\r\n", Bad::StatusLine),
        ("HTTP/2.0 200 OK\r\n\r\n", Bad::Version),
        ("ICY 200 OK\r\n\r\n", Bad::Version),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Bad::HeaderName),
        ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", Bad::HeaderName),
        ("HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n", Bad::HeaderValue),
    ];
    for (head, wanted) in bad {
        assert_eq!(answer(&get, head), Err(*wanted), "{head:?}");
    }
}

#[test]
fn an_answer_depends_on_what_was_asked() {
    let head = asked("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(answer(&head, length), Ok((Framing::None, true)));
    assert_eq!(
        answer(&head, "HTTP/1.1 200 OK\r\n\r\n"),
        Ok((Framing::None, true))
    );
    let connect = asked("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n");
    assert_eq!(answer(&connect, length), Ok((Framing::Tunnel, false)));
    let refused = "HTTP/1.1 403 No\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(answer(&connect, refused), Ok((Framing::Length(3), true)));
    let upgrade = asked(&with(
        "Connection: upgrade\r\nUpgrade: h2c, WebSocket, x/1\r\n",
    ));
    let switched =
        |protocol: &str| format!("HTTP/1.1 101 Yes\r\nConnection: upgrade\r\n{protocol}\r\n");
    let tunnel = Ok((Framing::Tunnel, false));
    assert_eq!(
        answer(&upgrade, &switched("Upgrade: websocket\r\n")),
        tunnel
    );
    assert_eq!(
        answer(&upgrade, &switched("Upgrade: h2c\r\n")),
        Err(Bad::Upgrade)
    );
    assert_eq!(
        answer(&upgrade, &switched("Upgrade: y\r\n")),
        Err(Bad::Upgrade)
    );
    assert_eq!(answer(&upgrade, &switched("")), Err(Bad::Upgrade));
    assert_eq!(answer(&upgrade, length), Ok((Framing::Length(3), true)));
}
