//! Any bytes as what a client of HTTP/2 sends, held to what crate h2 reads in it.

use std::collections::BTreeMap;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use ::h2::ext::Protocol;
use bytes::Bytes;
use http::{Method, request};
use tokio::io::{AsyncRead, ReadBuf, join, sink};

use super::*;

const ENDLESS: Most = Most {
    lines: usize::MAX,
    bytes: usize::MAX,
    kept: usize::MAX,
};
/// So that some block has more.
const SMALL: [Most; 2] = [
    Most {
        lines: 2,
        bytes: 1_000,
        kept: usize::MAX,
    },
    Most {
        lines: 1_000,
        bytes: 20,
        kept: usize::MAX,
    },
];
/// The preface, and empty settings.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The first byte says in which pieces the others come.
pub(crate) fn blocks(bytes: &[u8]) {
    let [piece, frames @ ..] = bytes else {
        return;
    };
    let (piece, all) = (usize::from(*piece).max(1), frames.len().max(1));
    let passed = |piece, most| {
        let mut blocks = Blocks::new(most, 0);
        // Of each block that ends its stream: what is kept of it, as told last.
        let mut ended = BTreeMap::new();
        let mut told = |stream, kept| {
            ended.insert(stream, kept);
        };
        let is_taken = frames
            .chunks(piece)
            .all(|bytes| blocks.pass(bytes, &mut told));
        (is_taken, (blocks, ended))
    };
    let ((is_taken, whole), (_, pieces)) = (passed(all, ENDLESS), passed(piece, ENDLESS));
    assert!(is_taken, "nothing is too much");
    assert_eq!(format!("{whole:?}"), format!("{pieces:?}"), "by {piece}");
    for most in SMALL {
        let (whole, _) = passed(all, most);
        assert_eq!(whole, passed(piece, most).0, "by {piece}: {most:?}");
    }
    let counted = heads(frames);
    for (stream, lines) in read(frames) {
        // Of a name that may stand once h2 keeps one.
        let counted = counted.get(&stream).copied().unwrap_or(0);
        assert!(counted >= lines, "of stream {stream}: {counted} of {lines}");
    }
}

/// Lines of each stream's first block.
fn heads(mut rest: &[u8]) -> BTreeMap<u32, usize> {
    let (mut blocks, mut stream) = (Blocks::new(ENDLESS, 0), 0);
    let mut heads = BTreeMap::new();
    while let [a, b, c, kind, flags, d, e, f, g, ..] = *rest {
        let whole = HEAD + u32::from_be_bytes([0, a, b, c]) as usize;
        let Some((frame, behind)) = rest.split_at_checked(whole) else {
            break;
        };
        assert!(blocks.pass(frame, |_, _| {}));
        if kind == HEADERS {
            stream = u32::from_be_bytes([d & 0x7f, e, f, g]);
        }
        if matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0 {
            heads.entry(stream).or_insert(blocks.lines);
        }
        rest = behind;
    }
    heads
}

/// A client that says this, and waits: of one that ends h2 hands nothing on.
struct Said<'b>(&'b [u8]);

impl AsyncRead for Said<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Pending;
        }
        let (now, rest) = self.0.split_at(self.0.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.0 = rest;
        Poll::Ready(Ok(()))
    }
}

/// The streams that h2 has requests of, with how many lines their heads have.
fn read(frames: &[u8]) -> Vec<(u32, usize)> {
    let bytes = [GREETING, frames].concat();
    let mut builder = ::h2::server::Builder::new();
    builder.enable_connect_protocol();
    let io = join(Said(&bytes), sink());
    let mut handshake = pin!(builder.handshake::<_, Bytes>(io));
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(mut connection)) = handshake.as_mut().poll(&mut cx) else {
        return Vec::new();
    };
    let mut heads = Vec::new();
    while let Poll::Ready(Some(Ok((request, respond)))) = connection.poll_accept(&mut cx) {
        let stream = respond.stream_id().as_u32();
        let lines = lines(&request.into_parts().0);
        heads.extend(lines.map(|lines| (stream, lines)));
    }
    heads
}

/// With those that became a part of something else. `None`: of a head without authority and
/// path nobody knows what it had.
fn lines(parts: &request::Parts) -> Option<usize> {
    if parts.uri.authority().is_none() && parts.uri.path().is_empty() {
        return None;
    }
    let protocol = parts.extensions.get::<Protocol>();
    // All others have a scheme and a path.
    let is_tunnel = parts.method == Method::CONNECT && protocol.is_none();
    let target = if is_tunnel { 0 } else { 2 };
    let own = usize::from(parts.uri.authority().is_some()) + usize::from(protocol.is_some());
    Some(1 + target + own + parts.headers.len())
}

#[cfg(test)]
pub(crate) fn block_seeds() -> Vec<(&'static str, Vec<u8>)> {
    const END: u8 = END_HEADERS | 1;
    let frame = |stream: u8, kind: u8, flags: u8, payload: &[u8]| {
        let length = u16::try_from(payload.len()).expect("a small one");
        let [a, b] = length.to_be_bytes();
        [&[0, a, b, kind, flags, 0, 0, 0, stream][..], payload].concat()
    };
    let get = b"\x82\x86\x84\x41\x04shop";
    let whole = |stream, block: &[u8]| frame(stream, HEADERS, END, block);
    // Names: kept, not kept, never to be kept; and one that was kept.
    let names = [&get[..], b"\x40\x01a\x01b\x00\x01c\x00\x10\x01d\x01e\xbe"].concat();
    let long = [&get[..], b"\x40\x01x\x7f\x80\x01", &[b'y'; 255]].concat();
    let huffman = b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
    let many = [&get[..], b"\x40\x01a\x01b", &[0xbe; 60]].concat();
    let seeds: [(&str, u8, Vec<Vec<u8>>); 12] = [
        ("get", 255, vec![whole(1, get)]),
        ("bytes", 1, vec![whole(1, get), whole(3, &names)]),
        ("names", 5, vec![whole(1, &names)]),
        ("long", 100, vec![whole(1, &long)]),
        ("huffman", 3, vec![whole(1, huffman)]),
        ("many", 9, vec![whole(1, &many)]),
        (
            "padded",
            4,
            vec![frame(
                1,
                HEADERS,
                END | PADDED,
                &[&[2][..], get, &[0, 0]].concat(),
            )],
        ),
        (
            "priority",
            6,
            vec![frame(
                1,
                HEADERS,
                END | PRIORITY | PADDED,
                &[&[1, 0, 0, 0, 0, 15][..], get, &[0]].concat(),
            )],
        ),
        (
            "continued",
            2,
            vec![
                frame(1, HEADERS, 1, &names[..6]),
                frame(1, CONTINUATION, 0, &names[6..12]),
                frame(1, CONTINUATION, END_HEADERS, &names[12..]),
            ],
        ),
        (
            "sizes",
            8,
            vec![whole(1, &[&b"\x20\x3f\xe1\x1f"[..], get].concat())],
        ),
        (
            "trailers",
            7,
            vec![
                frame(1, HEADERS, END_HEADERS, b"\x83\x86\x84\x41\x04shop"),
                frame(1, 0, 0, b"body"),
                frame(1, HEADERS, END, b"\x40\x01t\x01u"),
                whole(3, b"\x82\x86\x84\xbf\xbe"),
            ],
        ),
        (
            "tunnels",
            11,
            vec![
                frame(1, HEADERS, END_HEADERS, b"\x42\x07CONNECT\x41\x05a:443"),
                frame(
                    3,
                    HEADERS,
                    END_HEADERS,
                    b"\xbf\x86\x84\xbe\x40\x09:protocol\x09websocket",
                ),
            ],
        ),
    ];
    seeds
        .map(|(name, piece, frames)| (name, [vec![piece], frames.concat()].concat()))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2_has_a_request_of_each_seed() {
        for (name, bytes) in block_seeds() {
            assert!(!read(&bytes[1..]).is_empty(), "{name}");
        }
    }
}
