//! HTTP/2 as the load has it: frames, heads that are the same each time, and the
//! windows. What the other side's heads say is looked at no further than for the
//! status, so there is no decoder of HPACK.

/// A client begins with it.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame before what it carries.
const HEADER: usize = 9;
/// Of DATA, unless the other side says more.
pub(super) const MAX_DATA: usize = 16 * 1024;
/// Both windows that this side gives: no wait is ever for the reader.
const WINDOW: u32 = 1 << 30;
/// What was read of it is given back in such parts.
const PART: u32 = 1 << 20;

pub(super) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const HEADER_TABLE_SIZE: u16 = 1;
const INITIAL_WINDOW_SIZE: u16 = 4;
/// What a peer's table of lines has at least, for ours to fit in.
const TABLE: u32 = 4096;

/// A line with both parts written out; it is in the table of lines behind that.
fn kept(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0x40);
    for text in [name, value] {
        // All are shorter than what one byte can say.
        block.push(text.len() as u8);
        block.extend_from_slice(text.as_bytes());
    }
}

/// `lines`: written out at first, and by the table later on, where the last one is 62.
fn head(is_first: bool, fixed: &[u8], lines: &[(&str, &str)]) -> Vec<u8> {
    let mut block = fixed.to_vec();
    for (at, (name, value)) in lines.iter().enumerate() {
        match is_first {
            true => kept(&mut block, name, value),
            false => block.push(0x80 | (62 + lines.len() - 1 - at) as u8),
        }
    }
    block
}

/// POST by `http`.
const ASKED: &[u8] = &[0x83, 0x86];
const REQUEST: &[(&str, &str)] = &[
    (":path", "/bench.Bench/Call"),
    (":authority", "server.shop"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
    ("user-agent", "mesh-app"),
];

/// `:status` 200 of the fixed table.
const OK: u8 = 0x88;
/// The last two are of its end.
const ANSWER: &[(&str, &str)] = &[
    ("content-type", "application/grpc"),
    ("server", "mesh-app"),
    ("grpc-status", "0"),
];

/// Appends a frame.
pub(super) fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = (payload.len() as u32).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Settings, and the window of all streams together.
pub(super) fn greeting(out: &mut Vec<u8>) {
    let mut settings = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
    settings.extend_from_slice(&WINDOW.to_be_bytes());
    frame(out, kind::SETTINGS, 0, 0, &settings);
    frame(out, kind::WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
}

/// No error, and `last` is the last stream that is answered.
pub(super) fn goodbye(out: &mut Vec<u8>, last: u32) {
    let payload = [last.to_be_bytes(), [0; 4]].concat();
    frame(out, kind::GOAWAY, 0, 0, &payload);
}

/// A head of a request; the first one of its connection is longer.
pub(super) fn request(out: &mut Vec<u8>, stream: u32) {
    let block = head(stream == 1, ASKED, REQUEST);
    frame(out, kind::HEADERS, END_HEADERS, stream, &block);
}

pub(super) fn data(out: &mut Vec<u8>, stream: u32, bytes: &[u8], ends: bool) {
    let flags = if ends { END_STREAM } else { 0 };
    frame(out, kind::DATA, flags, stream, bytes);
}

/// A whole answer: head, `body`, and the status of gRPC behind it.
pub(super) fn answer(out: &mut Vec<u8>, stream: u32, body: &[u8], is_first: bool) {
    let (begin, end) = ANSWER.split_at(2);
    // Those that came in later have the lower numbers.
    let [begin, end] = match is_first {
        true => [head(true, &[OK], begin), head(true, &[], end)],
        false => [vec![OK, 0x80 | 64, 0x80 | 63], vec![0x80 | 62]],
    };
    frame(out, kind::HEADERS, END_HEADERS, stream, &begin);
    data(out, stream, body, false);
    frame(out, kind::HEADERS, END_HEADERS | END_STREAM, stream, &end);
}

/// A frame that is whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'b> {
    pub(super) kind: u8,
    flags: u8,
    pub(super) stream: u32,
    pub(super) payload: &'b [u8],
}

impl<'b> Frame<'b> {
    /// The first one, and the bytes behind it.
    pub(super) fn split(bytes: &'b [u8]) -> Option<(Self, &'b [u8])> {
        let (header, rest) = bytes.split_at_checked(HEADER)?;
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| header[at + i]));
        let (payload, rest) = rest.split_at_checked((word(0) >> 8) as usize)?;
        let frame = Self {
            kind: header[3],
            flags: header[4],
            stream: word(5) & 0x7fff_ffff,
            payload,
        };
        Some((frame, rest))
    }

    /// Nothing of its stream follows.
    pub(super) fn ends(&self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.flags & END_STREAM != 0
    }

    /// A head of status 200, but for sizes of the table that may stand before it.
    pub(super) fn is_ok(&self) -> bool {
        let mut block = self.payload.iter();
        block.find(|byte| *byte & 0xe0 != 0x20) == Some(&OK)
    }
}

/// What one side may send and has to give back, of a connection.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Of all streams together.
    pub(super) may_send: i64,
    /// Of each stream at its begin.
    pub(super) of_stream: i64,
    /// And is not given back yet.
    taken: u32,
}

impl Flow {
    pub(super) fn new() -> Self {
        Self {
            may_send: 65_535,
            of_stream: 65_535,
            taken: 0,
        }
    }

    /// What a frame that is about the connection says; answers go to `out`. False for
    /// those of streams.
    pub(super) fn heard(&mut self, said: &Frame<'_>, out: &mut Vec<u8>) -> Result<bool, String> {
        let word = |at: usize| {
            let bytes = said.payload.get(at..at + 4)?;
            Some(u32::from_be_bytes(bytes.try_into().ok()?))
        };
        match (said.kind, said.stream) {
            (kind::SETTINGS, _) if said.flags & ACK == 0 => {
                for (at, id) in said.payload.chunks(6).enumerate() {
                    let value = word(6 * at + 2).ok_or("half a setting")?;
                    match u16::from_be_bytes([id[0], id[1]]) {
                        HEADER_TABLE_SIZE if value < TABLE => {
                            return Err(format!("a table of {value} bytes"));
                        }
                        INITIAL_WINDOW_SIZE => self.of_stream = i64::from(value),
                        _ => {}
                    }
                }
                frame(out, kind::SETTINGS, ACK, 0, &[]);
            }
            (kind::PING, _) if said.flags & ACK == 0 => {
                frame(out, kind::PING, ACK, 0, said.payload);
            }
            (kind::WINDOW_UPDATE, 0) => {
                self.may_send += i64::from(word(0).ok_or("half an update")?);
            }
            (kind::GOAWAY, _) => return Err("the connection is to end".to_owned()),
            (kind::CONTINUATION, _) => return Err("a long head".to_owned()),
            (kind::DATA, _) => {
                self.taken += said.payload.len() as u32;
                if self.taken >= PART {
                    update(out, 0, &mut self.taken);
                }
                return Ok(false);
            }
            (kind::HEADERS | kind::RST_STREAM | kind::WINDOW_UPDATE, _) => return Ok(false),
            _ => {}
        }
        Ok(true)
    }
}

/// Gives a window back.
fn update(out: &mut Vec<u8>, stream: u32, taken: &mut u32) {
    frame(out, kind::WINDOW_UPDATE, 0, stream, &taken.to_be_bytes());
    *taken = 0;
}

/// Bytes that came of one request.
#[derive(Debug, Default)]
pub(super) struct Swallowed {
    pub(super) all: u64,
    taken: u32,
}

impl Swallowed {
    pub(super) fn note(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) {
        let count = frame.payload.len();
        self.all += count as u64;
        self.taken += count as u32;
        if self.taken >= PART {
            update(out, frame.stream, &mut self.taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_and_not_before_they_are_whole() {
        let mut bytes = vec![];
        data(&mut bytes, 7, b"seven", true);
        answer(&mut bytes, 9, b"nine", true);
        for cut in 0..HEADER + 5 {
            assert_eq!(Frame::split(&bytes[..cut]), None, "{cut}");
        }
        let (first, rest) = Frame::split(&bytes).expect("a frame");
        assert_eq!((first.stream, first.payload), (7, b"seven".as_slice()));
        assert!(first.ends());
        let (head, rest) = Frame::split(rest).expect("a head");
        assert!(head.is_ok() && !head.ends());
        let (_body, rest) = Frame::split(rest).expect("a body");
        let (end, rest) = Frame::split(rest).expect("an end");
        assert!(end.ends() && !end.is_ok() && rest.is_empty());
    }

    #[test]
    fn lines_that_were_said_before_are_said_by_their_number() {
        let later = head(false, ASKED, REQUEST);
        assert_eq!(later, [0x83, 0x86, 0xc2, 0xc1, 0xc0, 0xbf, 0xbe]);
    }

    #[test]
    fn windows_are_what_the_other_side_says() {
        let (mut flow, mut out) = (Flow::new(), vec![]);
        let mut hear = |kind, stream, payload: &[u8]| {
            let mut bytes = vec![];
            frame(&mut bytes, kind, 0, stream, payload);
            let (frame, _) = Frame::split(&bytes).expect("a frame");
            flow.heard(&frame, &mut out)
                .map(|_| (flow.may_send, flow.of_stream))
        };
        let wide = [0, 4, 0, 1, 0, 0];
        assert_eq!(hear(kind::SETTINGS, 0, &wide), Ok((65_535, 65_536)));
        let more = 1_u32.to_be_bytes();
        assert_eq!(hear(kind::WINDOW_UPDATE, 0, &more), Ok((65_536, 65_536)));
        assert!(hear(kind::SETTINGS, 0, &[0, 1, 0, 0, 0, 0]).is_err());
        assert!(hear(kind::GOAWAY, 0, &[0; 8]).is_err());
    }
}
