//! Any bytes as a server's frames, and as heads.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use ::h2::ext::Protocol;
use http::{Request, Version, request};
use tokio::io::{AsyncRead, ReadBuf};

#[cfg(test)]
pub(crate) use super::blocks::fuzz::block_seeds;
pub(crate) use super::blocks::fuzz::blocks;
use super::edit::forwarded;
use super::frames::Frames;
use super::head::{Head, HeadLines};
use crate::http::{h1, names};
use crate::model::{Edits, HeaderLine, RequestHead};

/// Bytes that are there in pieces of so many.
struct Pieces<'b> {
    rest: &'b [u8],
    piece: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n = self.rest.len().min(self.piece).min(buffer.remaining());
        let (now, rest) = self.rest.split_at(n);
        buffer.put_slice(now);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

/// Two bytes say in which pieces the others come and how much is read at once.
pub(crate) fn frames(bytes: &[u8]) {
    let [piece, room, frames @ ..] = bytes else {
        return;
    };
    let (piece, room) = (usize::from(*piece).max(1), usize::from(*room).max(1));
    let (wanted, is_greeted) = without_empty(frames);
    let greeted = Arc::<AtomicBool>::default();
    let came = read(frames, (piece, room), Frames::new(greeted.clone()));
    assert_eq!(came, wanted, "{piece} into {room}");
    assert_eq!(greeted.load(Ordering::Relaxed), is_greeted);
}

fn read(bytes: &[u8], (piece, room): (usize, usize), mut frames: Frames) -> Vec<u8> {
    let mut io = Pieces { rest: bytes, piece };
    let mut cx = Context::from_waker(Waker::noop());
    let (mut all, mut buffer) = (Vec::new(), vec![0; room]);
    // Whoever is asked again once more than there are bytes reads none of them.
    for _ in 0..=2 * bytes.len() + 2 {
        let mut into = ReadBuf::new(&mut buffer);
        match frames.poll_read(Pin::new(&mut io), &mut cx, &mut into) {
            Poll::Pending => {}
            Poll::Ready(read) => {
                read.expect("nothing fails");
                if into.filled().is_empty() {
                    return all;
                }
                all.extend_from_slice(into.filled());
            }
        }
    }
    panic!("it reads nothing, and there is no end")
}

/// The same by looking at all of it at once; and whether the first frame is whole.
fn without_empty(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let (mut kept, mut is_greeted) = (Vec::new(), false);
    while let [a, b, c, kind, flags, ..] = *rest
        && rest.len() >= 9
    {
        let whole = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
        let is_nothing = whole == 9 && kind == 0 && flags & 1 == 0;
        is_greeted |= rest.len() >= whole;
        let (frame, behind) = rest.split_at(whole.min(rest.len()));
        if !is_nothing {
            kept.extend_from_slice(frame);
        }
        rest = behind;
    }
    kept.extend_from_slice(rest);
    (kept, is_greeted)
}

/// METHOD, target, and maybe a protocol in the first line; then a line each. What is taken
/// goes on as the same, and an HTTP/1 server would read nothing else in it.
pub(crate) fn head(bytes: &[u8]) {
    let Some(parts) = parts(bytes) else {
        return;
    };
    let mut lines = HeadLines::default();
    let Ok(came) = Head::of(&parts, &mut lines) else {
        return;
    };
    let sent = forwarded(&parts, &Edits::default()).expect("no edit is bad");
    let mut lines = HeadLines::default();
    let again = Head::of(&sent.parts, &mut lines).expect("it was taken before");
    assert_eq!(said(&again.head), said(&came.head));
    assert!(
        !again
            .head
            .headers
            .iter()
            .any(|l| names::is_identity(l.name))
    );
    let third = forwarded(&sent.parts, &Edits::default()).expect("no edit is bad");
    assert!(!third.is_changed, "{:?}", sent.parts);
    is_the_same_on_http1(&again.head);
    renamed(&parts);
}

fn parts(bytes: &[u8]) -> Option<request::Parts> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut words = lines.next()?.split(|byte| *byte == b' ');
    let mut request = Request::builder()
        .version(Version::HTTP_2)
        .method(words.next()?)
        .uri(words.next()?);
    if let Some(protocol) = words.next() {
        let protocol = std::str::from_utf8(protocol).ok()?;
        request = request.extension(Protocol::from(protocol));
    }
    for line in lines.filter(|line| !line.is_empty()) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        request = request.header(&line[..colon], &line[colon + 1..]);
    }
    Some(request.body(()).ok()?.into_parts().0)
}

/// What rules see, but for the header lines.
fn said(head: &RequestHead<'_>) -> String {
    let RequestHead {
        method,
        target,
        path,
        query,
        host,
        ..
    } = head;
    format!("{method} {target:?} {path:?} {query:?} {host:?}")
}

fn is_the_same_on_http1(head: &RequestHead<'_>) {
    let host = head.host.as_ref().expect("each has one");
    let port = host.port.map(|port| format!(":{port}")).unwrap_or_default();
    let mut text = [head.method.as_bytes(), b" ", head.target].concat();
    text.extend_from_slice(format!(" HTTP/1.1\r\nHost: {}{port}\r\n", host.name).as_bytes());
    let others = || head.headers.iter().filter(|line| line.name != "host");
    for line in others() {
        text.extend_from_slice(&[line.name.as_bytes(), b": ", line.value, b"\r\n"].concat());
    }
    text.extend_from_slice(b"\r\n");
    let mut lines = h1::Lines::new();
    let parsed = h1::request_head(&text, &mut h1::Scan::default(), &mut lines);
    // It may be too large for that, or have a body that only frames can tell.
    let Ok(parsed) = parsed else { return };
    let h1::Parsed::Head { head: read, len } = parsed else {
        panic!("it has its end: {text:?}")
    };
    assert_eq!(len, text.len());
    let pair = |line: &HeaderLine<'_>| (line.name.to_owned(), line.value.to_vec());
    let behind_host = read.head.headers.iter().skip(1).map(pair);
    assert!(behind_host.eq(others().map(pair)), "{text:?}");
    assert_eq!(said(&read.head), said(head));
}

/// What a route says of the target and the host is what goes on.
fn renamed(parts: &request::Parts) {
    let edits = Edits {
        target: Some("/new?b".to_owned()),
        host: Some("other:81".to_owned()),
        ..Edits::default()
    };
    let Ok(sent) = forwarded(parts, &edits) else {
        return;
    };
    let mut lines = HeadLines::default();
    let Ok(read) = Head::of(&sent.parts, &mut lines) else {
        return;
    };
    let host = read.head.host.expect("each has one");
    assert_eq!((&*host.name, host.port), ("other", Some(81)));
    if parts.method != "CONNECT" || parts.extensions.get::<Protocol>().is_some() {
        assert_eq!(read.head.target, b"/new?b");
    }
}

#[cfg(test)]
pub(crate) fn frame_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let frame = |kind: u8, flags: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).expect("a small one");
        [&[0, 0, length, kind, flags, 0, 0, 0, 1], payload].concat()
    };
    let settings = frame(4, 0, &[0, 3, 0, 0, 0, 100]);
    let nothing = frame(0, 0, &[]);
    let answer = [frame(1, 4, b"\x88"), frame(0, 0, b"text"), frame(0, 1, b"")].concat();
    let seeds: [(&str, [&[u8]; 5]); 6] = [
        ("answer", [&[255, 255], &settings, &answer, &[], &[]]),
        (
            "by-bytes",
            [&[1, 1], &settings, &nothing, &answer, &nothing],
        ),
        ("small", [&[7, 3], &nothing, &settings, &nothing, &answer]),
        (
            "many",
            [
                &[40, 200],
                &settings,
                &nothing.repeat(40),
                &answer,
                &nothing,
            ],
        ),
        (
            "half",
            [&[10, 9], &settings, &answer, &nothing, &[0, 0, 5, 0]],
        ),
        (
            "cut",
            [
                &[9, 20],
                &settings,
                &[0, 1, 0, 0, 0, 0, 0, 0, 3],
                b"abc",
                &[],
            ],
        ),
    ];
    seeds.map(|(name, parts)| (name, parts.concat())).into()
}

#[cfg(test)]
pub(crate) fn head_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let seeds: [(&str, &str); 11] = [
        (
            "get",
            "GET http://shop/a?b=%20\naccept:*/*\ncookie:a=b\ncookie:c=d\n",
        ),
        ("host", "GET /a/../b\nhost:Shop.svc:8080\n"),
        (
            "both",
            "POST http://shop:80/x\nhost:shop\ncontent-length:3\n",
        ),
        (
            "call",
            "POST http://shop/a.B/C\ncontent-type:application/grpc\nte:trailers\ngrpc-timeout:1S\n",
        ),
        ("tunnel", "CONNECT db.shop:5432\n"),
        (
            "socket",
            "CONNECT http://shop/chat websocket\nsec-websocket-version:13\norigin:http://shop\n",
        ),
        ("options", "OPTIONS *\nhost:shop\n"),
        (
            "identity",
            "GET http://shop/\nx-forwarded-client-cert:By=a\nx-envoy-a:b\nx_mesh_source:c\n",
        ),
        (
            "framing",
            "POST http://shop/\ntransfer-encoding:chunked\ncontent_length:3\n",
        ),
        ("blank", "GET http://shop/\nx-a: b\nx-c:d \n"),
        ("v6", "GET http://[2001:db8::1]:80/%61\nx-a:\u{e9}\n"),
    ];
    seeds
        .map(|(name, seed)| (name, seed.as_bytes().to_vec()))
        .into()
}
