use crate::http::h1::*;
use crate::http::hygiene;
use crate::model::{Edits, HeaderEdit};

fn set(name: &str, value: &str) -> HeaderEdit {
    let (name, value) = (name.to_owned(), value.to_owned());
    HeaderEdit::Set { name, value }
}

fn add(name: &str, value: &str) -> HeaderEdit {
    let (name, value) = (name.to_owned(), value.to_owned());
    HeaderEdit::Add { name, value }
}

fn remove(name: &str) -> HeaderEdit {
    HeaderEdit::Remove {
        name: name.to_owned(),
    }
}

fn headers(headers: impl Into<Vec<HeaderEdit>>) -> Edits {
    Edits {
        headers: headers.into(),
        ..Edits::default()
    }
}

fn encoded(head: &str, edits: &Edits) -> String {
    let mut out = Vec::new();
    encode_request(head.as_bytes(), edits, &mut out).expect("good edits");
    String::from_utf8(out).expect("text")
}

#[test]
fn what_is_not_named_stays_byte_for_byte() {
    let head = "gEt  /x HTTP/1.1\r\nhOST:  x \r\nA:b\r\na: c\r\nX_y:\t\u{e9}\r\nCookie: 1\r\n\r\n";
    assert_eq!(encoded(head, &Edits::default()), head);
    let edits = headers([
        set("a", "new"),
        remove("cookie"),
        add("A", "more"),
        set("z", ""),
    ]);
    assert_eq!(
        encoded(head, &edits),
        "gEt  /x HTTP/1.1\r\nhOST:  x \r\na: new\r\nX_y:\t\u{e9}\r\nA: more\r\nz: \r\n\r\n"
    );
}

#[test]
fn target_and_host_are_replaced() {
    let head = "\r\nGET http://x/a?b HTTP/1.1\r\nA: b\r\nHoSt: x\r\n\r\n";
    let edits = Edits {
        target: Some("/n?b".to_owned()),
        host: Some("y:1".to_owned()),
        headers: Vec::new(),
    };
    assert_eq!(
        encoded(head, &edits),
        "GET /n?b HTTP/1.1\r\nA: b\r\nHoSt: y:1\r\n\r\n"
    );
    let without = "GET / HTTP/1.0\r\n\r\n";
    assert_eq!(
        encoded(without, &edits),
        "GET /n?b HTTP/1.0\r\nhost: y:1\r\n\r\n"
    );
}

/// A rule decided by the host, and the application must see the same one.
#[test]
fn the_host_of_an_absolute_target_stays_when_the_target_is_another() {
    let edits = Edits {
        target: Some("/n".to_owned()),
        ..Edits::default()
    };
    for (head, sent) in [
        (
            "GET http://x:81/a HTTP/1.0\r\nA: b\r\n\r\n",
            "GET /n HTTP/1.0\r\nA: b\r\nhost: x:81\r\n\r\n",
        ),
        (
            "GET HTTPS://x?a HTTP/1.0\r\n\r\n",
            "GET /n HTTP/1.0\r\nhost: x\r\n\r\n",
        ),
        (
            "GET http://x/a HTTP/1.1\r\nHOST: x:80\r\n\r\n",
            "GET /n HTTP/1.1\r\nHOST: x:80\r\n\r\n",
        ),
        ("GET /a HTTP/1.0\r\n\r\n", "GET /n HTTP/1.0\r\n\r\n"),
    ] {
        assert_eq!(encoded(head, &edits), sent);
    }
}

#[test]
fn beside_another_host_no_absolute_target_contradicts_it() {
    let edits = Edits {
        host: Some("y".to_owned()),
        ..Edits::default()
    };
    for (target, sent) in [
        ("http://x/a/../b?c#d", "/a/../b?c"),
        ("http://x?c", "/?c"),
        ("http://x", "/"),
        ("http://x#d", "/"),
        ("/a?b", "/a?b"),
        ("*", "*"),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(
            encoded(&head, &edits),
            format!("GET {sent} HTTP/1.1\r\nHost: y\r\n\r\n")
        );
    }
}

#[test]
fn of_two_that_set_one_name_the_later_stands() {
    let head = "GET / HTTP/1.1\r\nA: 1\r\nA: 2\r\n\r\n";
    let edits = headers([set("a", "x"), set("A", "y")]);
    assert_eq!(encoded(head, &edits), "GET / HTTP/1.1\r\nA: y\r\n\r\n");
    let head = "GET / HTTP/1.1\r\n\r\n";
    assert_eq!(encoded(head, &edits), "GET / HTTP/1.1\r\nA: y\r\n\r\n");
    // What is removed and set anew: the new one is there.
    let edits = headers([set("a", "x"), remove("a")]);
    assert_eq!(encoded(head, &edits), "GET / HTTP/1.1\r\na: x\r\n\r\n");
}

#[test]
fn no_edit_can_make_another_line() {
    let head = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let target = |target: &str| Edits {
        target: Some(target.to_owned()),
        ..Edits::default()
    };
    for edits in [
        headers([set("a", "b\r\nc: d")]),
        headers([add("a", "b\n")]),
        headers([add("a", "\0")]),
        headers([set("a\r\nb", "c")]),
        headers([set("a:b", "c")]),
        headers([set("", "c")]),
        headers([remove("a b")]),
        headers(vec![add("a", "b"); 600]),
        target("/ HTTP/1.1\r\n\r\n"),
        target("/a b"),
        target(""),
        Edits {
            host: Some("a\r\nb: c".to_owned()),
            ..Edits::default()
        },
    ] {
        let mut out = Vec::new();
        assert_eq!(encode_request(head, &edits, &mut out), Err(InvalidEdit));
        assert!(out.is_empty());
    }
}

#[test]
fn an_answer_with_bare_line_feeds_is_written_anew_too() {
    let mut out = Vec::new();
    let head = b"HTTP/1.1 200 OK\nA: b\nC: d\n\n";
    encode_response(head, &headers([set("a", "x")]), &mut out).expect("good edits");
    assert_eq!(out, b"HTTP/1.1 200 OK\na: x\r\nC: d\n\n");
}

/// The lines of a GET as they go on to the application.
fn cleaned(lines: &str) -> String {
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
    let mut parsed = Lines::new();
    let request = request_head(head.as_bytes(), &mut Scan::default(), &mut parsed);
    let Ok(Parsed::Head { head: request, .. }) = request else {
        panic!("{head:?}: {request:?}")
    };
    let edits = hygiene::of_request(&request);
    let out = encoded(&head, &edits);
    assert_eq!(edits.is_empty(), out == head, "{out:?}");
    let start = "GET / HTTP/1.1\r\nHost: x\r\n";
    let rest = out.strip_prefix(start).expect("the rest is as it was");
    rest.strip_suffix("\r\n").expect("an end").to_owned()
}

#[test]
fn most_requests_go_on_as_they_came() {
    for lines in [
        "",
        "Accept: */*\r\nUser-Agent: curl/8\r\n",
        "Connection: keep-alive\r\n",
        "Connection: Keep-Alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n",
        "TE: trailers\r\nConnection: te\r\nTrailer: x\r\n",
        "X-Forwarded-For: 1.2.3.4\r\nForwarded: for=x\r\nX_Custom: y\r\n",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
        "Proxy-Authorization: Basic x\r\nExpect: 100-continue\r\nContent-Length: 10\r\n",
    ] {
        assert_eq!(cleaned(lines), lines);
    }
}

#[test]
fn what_is_about_the_connection_stays_on_it() {
    let table = [
        ("Connection: close\r\nA: b\r\n", "A: b\r\n"),
        (
            "Connection: close, x-hop\r\nX-Hop: 1\r\nA: b\r\n",
            "A: b\r\n",
        ),
        (
            "Connection: x-hop\r\nconnection: y-hop\r\nY-Hop: 1\r\nx-hop: 2\r\n",
            "",
        ),
        ("Keep-Alive: 300\r\nProxy-Connection: keep-alive\r\n", ""),
        (
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n",
            "",
        ),
        ("Upgrade: websocket\r\n", ""),
        ("Connection: upgrade\r\nUpgrade: a\u{e9}\r\n", ""),
        (
            "Connection: close, upgrade\r\nUpgrade: h2c, websocket\r\n",
            "connection: upgrade\r\nupgrade: websocket\r\n",
        ),
        ("TE: gzip, trailers;q=1\r\n", ""),
        ("TE: gzip, trailers\r\n", "te: trailers\r\n"),
        // It may not take away what says who asks.
        (
            "Connection: close, authorization, traceparent, x-forwarded-for, host\r\nAuthorization: b\r\nTraceparent: x\r\nX-Forwarded-For: y\r\n",
            "Authorization: b\r\nTraceparent: x\r\nX-Forwarded-For: y\r\n",
        ),
    ];
    for (lines, wanted) in table {
        assert_eq!(cleaned(lines), wanted, "{lines:?}");
    }
}

#[test]
fn a_client_cannot_speak_for_another() {
    let lines = "x-forwarded-client-cert: By=x\r\nX_Forwarded_Client_Cert: y\r\nX-Envoy-Original-Path: /\r\nx_envoy_attempt_count: 1\r\nX-ISTIO-Attributes: z\r\nl5d-client-id: w\r\nx-mesh-source: v\r\nX-MESH-source: u\r\nA: b\r\n";
    assert_eq!(cleaned(lines), "A: b\r\n");
}

#[test]
fn the_framing_is_spelled_in_one_way() {
    assert_eq!(
        cleaned("Content-Length:\t007 \r\n"),
        "content-length: 7\r\n"
    );
    assert_eq!(cleaned("Content-Length: 000\r\n"), "content-length: 0\r\n");
    assert_eq!(
        cleaned("Transfer-Encoding: CHUNKED\r\n"),
        "transfer-encoding: chunked\r\n"
    );
}

fn answered(request: &str, head: &str, close: bool) -> String {
    let mut parsed = Lines::new();
    let request = request_head(request.as_bytes(), &mut Scan::default(), &mut parsed);
    let Ok(Parsed::Head { head: request, .. }) = request else {
        panic!("{request:?}")
    };
    let asked = request.asked();
    let mut parsed = Lines::new();
    let response = response_head(head.as_bytes(), &asked, &mut Scan::default(), &mut parsed);
    let Ok(Parsed::Head { head: response, .. }) = response else {
        panic!("{response:?}")
    };
    let edits = hygiene::of_response(&response, &asked, close);
    let mut out = Vec::new();
    encode_response(head.as_bytes(), &edits, &mut out).expect("good edits");
    String::from_utf8(out).expect("text")
}

#[test]
fn an_answer_keeps_all_but_what_is_about_the_connection() {
    let get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let same = "HTTP/1.1 200 Fine by me\r\nserver: X\r\nContent-Length: 0\r\nconnection: keep-alive\r\n\r\n";
    assert_eq!(answered(get, same, false), same);
    let close = "HTTP/1.1 200 OK\r\nConnection: close\r\nKeep-Alive: timeout=5\r\nx-mesh-reason: no\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(
        answered(get, close, false),
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    );
    assert_eq!(
        answered(get, close, true),
        "HTTP/1.1 200 OK\r\nconnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    let offers = "HTTP/1.1 200 OK\r\nUpgrade: h2,h2c\r\nConnection: Upgrade, Keep-Alive\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(
        answered(get, offers, false),
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    );
    let connect = "CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n";
    let tunnel = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(answered(connect, tunnel, false), "HTTP/1.1 200 OK\r\n\r\n");
    let upgrade = "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let switched = "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    assert_eq!(answered(upgrade, switched, true), switched);
}
