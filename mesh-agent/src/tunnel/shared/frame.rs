//! Frames of a shared connection, byte by byte as `docs/protocol.md` says.

use crate::tunnel::ProtocolError;

/// Type, a reserved byte, length, channel.
pub(in crate::tunnel) const HEADER: usize = 8;
/// Length of a WINDOW's payload.
pub(super) const WINDOW: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Bytes of a channel; the first ones open it.
    Data = 1,
    /// Neither side sends or takes any more on the channel.
    Close = 2,
    /// So many bytes more may be sent on the channel.
    Window = 3,
    /// No more channels: what is open goes on.
    Goaway = 4,
}

/// One frame's header, and where its payload stands in the record's plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) channel: u32,
    pub(super) start: usize,
    pub(super) len: usize,
}

pub(super) fn header(kind: Kind, channel: u32, len: usize) -> [u8; HEADER] {
    // A record's plaintext has at most 16,384 bytes, so `len` fits.
    let [high, low] = (len as u16).to_be_bytes();
    let [a, b, c, d] = channel.to_be_bytes();
    [kind as u8, 0, high, low, a, b, c, d]
}

/// The frame at `at` of a record's plaintext; frames never span records.
pub(super) fn parse(plaintext: &[u8], at: usize) -> Result<Frame, ProtocolError> {
    let rest = plaintext.get(at..).unwrap_or_default();
    let Some([kind, reserved, high, low, a, b, c, d]) = rest.first_chunk::<HEADER>() else {
        return Err(ProtocolError::BadFrame);
    };
    let kind = match kind {
        1 => Kind::Data,
        2 => Kind::Close,
        3 => Kind::Window,
        4 => Kind::Goaway,
        _ => return Err(ProtocolError::UnknownFrame),
    };
    let channel = u32::from_be_bytes([*a, *b, *c, *d]);
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    let start = at + HEADER;
    let fits = start + len <= plaintext.len();
    let right = match kind {
        Kind::Data => len > 0,
        Kind::Close => len == 0,
        Kind::Window => len == WINDOW,
        Kind::Goaway => len == 0 && channel == 0,
    };
    if *reserved != 0 || !fits || !right {
        return Err(ProtocolError::BadFrame);
    }
    Ok(Frame {
        kind,
        channel,
        start,
        len,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, reserved: u8, len: u16, channel: u32, payload: &[u8]) -> Vec<u8> {
        let [high, low] = len.to_be_bytes();
        let header = [&[kind, reserved, high, low], &channel.to_be_bytes()[..]];
        [&header.concat(), payload].concat()
    }

    #[test]
    fn a_frame_of_each_type_is_read_where_it_stands() {
        for (kind, channel, payload) in [
            (Kind::Data, 1, &b"a"[..]),
            (Kind::Data, u32::MAX, &[7; 300]),
            (Kind::Close, 0x0102_0304, b""),
            (Kind::Window, 7, &[0, 0, 0x40, 0]),
            (Kind::Goaway, 0, b""),
        ] {
            let header = header(kind, channel, payload.len());
            let len = payload.len() as u16;
            let whole = frame(kind as u8, 0, len, channel, payload);
            assert_eq!([&header, payload].concat(), whole);
            let plaintext = [b"before", &whole[..], b"behind"].concat();
            let found = Frame {
                kind,
                channel,
                start: 6 + HEADER,
                len: payload.len(),
            };
            assert_eq!(parse(&plaintext, 6), Ok(found));
        }
    }

    #[test]
    fn a_frame_that_is_not_as_its_type_says_is_refused() {
        let bad = Err(ProtocolError::BadFrame);
        let unknown = Err(ProtocolError::UnknownFrame);
        for (what, bytes, refused) in [
            ("type 0", frame(0, 0, 1, 1, b"a"), unknown),
            ("type 5", frame(5, 0, 0, 1, b""), unknown),
            ("type 255", frame(255, 0, 0, 1, b""), unknown),
            ("a reserved bit", frame(1, 1, 1, 1, b"a"), bad),
            ("the upper one", frame(1, 0x80, 1, 1, b"a"), bad),
            ("data of nothing", frame(1, 0, 0, 1, b""), bad),
            ("data that is cut", frame(1, 0, 2, 1, b"a"), bad),
            (
                "the longest, cut",
                frame(1, 0, u16::MAX, 1, &[0; 60_000]),
                bad,
            ),
            ("a close with a payload", frame(2, 0, 1, 1, b"a"), bad),
            ("a short window", frame(3, 0, 3, 1, b"abc"), bad),
            ("a long window", frame(3, 0, 5, 1, b"abcde"), bad),
            ("a window that is cut", frame(3, 0, 4, 1, b"abc"), bad),
            ("a goaway with a payload", frame(4, 0, 1, 0, b"a"), bad),
            ("a goaway of a channel", frame(4, 0, 0, 1, b""), bad),
        ] {
            assert_eq!(parse(&bytes, 0), refused, "{what}");
        }
        let whole = frame(2, 0, 0, 1, b"");
        for len in 0..whole.len() {
            assert_eq!(parse(&whole[..len], 0), bad, "{len} bytes of a header");
        }
        assert_eq!(parse(&whole, 9), bad, "behind the end");
    }

    proptest! {
        #[test]
        fn what_is_taken_for_a_frame_is_within_the_record(
            bytes in proptest::collection::vec(prop_oneof![0_u8..5, any::<u8>()], 0..40),
            at in 0_usize..45,
        ) {
            if let Ok(found) = parse(&bytes, at) {
                prop_assert_eq!(found.start, at + HEADER);
                prop_assert!(found.start + found.len <= bytes.len());
                let again = header(found.kind, found.channel, found.len);
                prop_assert_eq!(&bytes[at..found.start], &again);
            }
        }
    }
}
