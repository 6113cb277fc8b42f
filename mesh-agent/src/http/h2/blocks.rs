//! The lines of heads and trailers, counted as they come: one byte on the wire may stand for
//! a line, which takes [`LINE`] bytes where h2 keeps it, until somebody takes it from there.
//! What has more than anybody would look at does not get that far.

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;

const HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// What a line takes beside its bytes, where it is kept.
pub(super) const LINE: usize = 72;

/// What one head, or one block of trailers, may have on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    pub(super) lines: usize,
    pub(super) bytes: usize,
    /// What of trailers may be kept of a connection, for what comes before them is not read.
    pub(super) kept: usize,
}

/// What so little is kept of is not counted.
const SMALL: usize = 4096;

/// Of what one peer sends.
#[derive(Debug)]
pub(super) struct Blocks {
    most: Most,
    /// Of a frame's head: what came of it.
    head: [u8; HEAD],
    has: usize,
    /// Bytes of a frame that are still to come: before its part of a block, of that, and
    /// behind it.
    before: usize,
    of_block: usize,
    behind: usize,
    /// The byte that says how long its padding is comes next.
    is_padded: bool,
    lines: usize,
    bytes: usize,
    is_end: bool,
    /// Of a block: its stream, and whether it ends that, as trailers do.
    stream: u32,
    ends: bool,
    at: At,
}

/// Within a block (RFC 7541, 6).
#[derive(Clone, Copy, Debug)]
enum At {
    /// A line, or a new size of the table, begins.
    Begin,
    /// A number goes on.
    Number(Then),
    /// Of a string: how long it is.
    Length(Then),
    /// The same, which goes on.
    Longer(Then, usize, u32),
    String(Then, usize),
}

/// What follows.
#[derive(Clone, Copy, Debug)]
enum Then {
    Begin,
    Name,
    Value,
}

impl Then {
    fn begin(self) -> At {
        match self {
            Self::Begin => At::Begin,
            Self::Name => At::Length(Self::Value),
            Self::Value => At::Length(Self::Begin),
        }
    }
}

impl Blocks {
    /// `preface`: bytes before the first frame.
    pub(super) fn new(most: Most, preface: usize) -> Self {
        Self {
            most,
            head: [0; HEAD],
            has: 0,
            before: preface,
            of_block: 0,
            behind: 0,
            is_padded: false,
            lines: 0,
            bytes: 0,
            is_end: false,
            stream: 0,
            ends: false,
            at: At::Begin,
        }
    }

    pub(super) fn most(&self) -> Most {
        self.most
    }

    /// False: there is a block of more than may be. `ended`: what is kept of one that ends its
    /// stream, as far as it has come, where that is much.
    pub(super) fn pass(&mut self, mut bytes: &[u8], mut ended: impl FnMut(u32, usize)) -> bool {
        while let Some(first) = bytes.first() {
            let came;
            if self.before > 0 {
                came = self.before.min(bytes.len());
                self.before -= came;
            } else if self.is_padded {
                came = 1;
                self.is_padded = false;
                self.behind = usize::from(*first).min(self.of_block);
                self.of_block -= self.behind;
                // A priority is no part of the block either.
                self.before = match self.head[4] & PRIORITY {
                    0 => 0,
                    _ => self.of_block.min(5),
                };
                self.of_block -= self.before;
            } else if self.of_block > 0 {
                came = self.of_block.min(bytes.len());
                self.of_block -= came;
                self.bytes += came;
                self.count(&bytes[..came]);
                if self.lines > self.most.lines || self.bytes > self.most.bytes {
                    return false;
                }
                let kept = self.bytes + self.lines * LINE;
                if self.ends && kept > SMALL {
                    ended(self.stream, kept);
                }
            } else if self.behind > 0 {
                came = self.behind.min(bytes.len());
                self.behind -= came;
            } else {
                came = (HEAD - self.has).min(bytes.len());
                self.head[self.has..self.has + came].copy_from_slice(&bytes[..came]);
                self.has += came;
                if self.has == HEAD {
                    self.has = 0;
                    self.begins();
                }
            }
            bytes = &bytes[came..];
        }
        true
    }

    /// A frame.
    fn begins(&mut self) {
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        let left = u32::from_be_bytes([0, a, b, c]) as usize;
        match kind {
            HEADERS | CONTINUATION => {}
            _other => {
                self.before = left;
                return;
            }
        }
        if kind == HEADERS || self.is_end {
            (self.lines, self.bytes, self.at) = (0, 0, At::Begin);
        }
        if kind == HEADERS {
            self.ends = flags & END_STREAM != 0;
            self.stream = u32::from_be_bytes(stream) & !(1 << 31);
        }
        self.is_end = flags & END_HEADERS != 0;
        self.of_block = left;
        if kind == HEADERS && flags & PADDED != 0 && left > 0 {
            self.is_padded = true;
            self.of_block -= 1;
        } else if kind == HEADERS && flags & PRIORITY != 0 {
            self.before = left.min(5);
            self.of_block -= self.before;
        }
    }

    fn count(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            if let At::String(then, left) = self.at
                && left > 0
            {
                let came = left.min(bytes.len());
                self.at = match left - came {
                    0 => then.begin(),
                    left => At::String(then, left),
                };
                bytes = &bytes[came..];
                continue;
            }
            bytes = rest;
            self.at = self.next(byte);
        }
    }

    fn next(&mut self, byte: u8) -> At {
        let string = |then: Then, left| match left {
            0 => then.begin(),
            left => At::String(then, left),
        };
        // A number that its prefix does not hold goes on.
        let number = |prefix: u8, then: Then| match byte & prefix == prefix {
            true => At::Number(then),
            false => then.begin(),
        };
        match self.at {
            At::Begin => {
                self.lines += usize::from(byte & 0xe0 != 0x20);
                let literal = |prefix: u8| match byte & prefix {
                    0 => Then::Name.begin(),
                    _ => number(prefix, Then::Value),
                };
                match byte {
                    0x80.. => number(0x7f, Then::Begin),
                    0x40..0x80 => literal(0x3f),
                    0x20..0x40 => number(0x1f, Then::Begin),
                    0..0x20 => literal(0x0f),
                }
            }
            At::Number(then) if byte & 0x80 == 0 => then.begin(),
            At::Number(then) => At::Number(then),
            At::Length(then) => match usize::from(byte & 0x7f) {
                0x7f => At::Longer(then, 0x7f, 0),
                length => string(then, length),
            },
            At::Longer(then, length, shift) => {
                // One that is longer than a number of this kind may be, h2 does not take.
                let more = usize::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
                let length = length.saturating_add(more);
                match byte & 0x80 {
                    0 => string(then, length),
                    _ => At::Longer(then, length, shift + 7),
                }
            }
            At::String(then, _) => then.begin(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [_, head @ ..] = u32::try_from(payload.len()).expect("small").to_be_bytes();
        let mut frame = head.to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(payload);
        frame
    }

    /// Lines and bytes of the last block, whatever pieces it comes in.
    fn counted(bytes: &[u8]) -> (usize, usize) {
        let of = |piece: usize| {
            let most = Most {
                lines: usize::MAX,
                bytes: usize::MAX,
                kept: usize::MAX,
            };
            let mut blocks = Blocks::new(most, 3);
            assert!(blocks.pass(b"PRI", |_, _| {}));
            assert!(bytes.chunks(piece).all(|p| blocks.pass(p, |_, _| {})));
            (blocks.lines, blocks.bytes)
        };
        let all = of(bytes.len());
        for piece in 1..40 {
            assert_eq!(of(piece), all, "in pieces of {piece}");
        }
        all
    }

    #[test]
    fn each_kind_of_line_counts_once() {
        let long = [&[0x7f, 0xa1, 0x1e][..], &[b'y'; 4000]].concat();
        for (block, lines) in [
            (&[0x82, 0x86, 0x84][..], 3),
            // An index that goes on.
            (&[0xff, 0x80, 0x01, 0x82], 2),
            // New sizes of the table, and a line.
            (&[0x20, 0x3f, 0xe1, 0x1f, 0x82], 1),
            // New names: kept, not kept, never to be kept.
            (&[0x40, 1, b'a', 1, 0x82], 1),
            (&[0x00, 1, b'a', 0, 0x10, 1, b'a', 2, 0x82, 0x82, 0x82], 3),
            // Known names, of which one goes on.
            (&[0x41, 1, b'b', 0x0f, 0x2f, 0x81, 0x82, 0x82], 3),
            (&[&[0x40, 1, b'x'][..], &long, &[0x82]].concat(), 2),
        ] {
            let whole = frame(HEADERS, END_HEADERS, block);
            assert_eq!(counted(&whole), (lines, block.len()), "{block:x?}");
            let data = frame(0, 0, &[0x82; 30]);
            let (begin, end) = block.split_at(block.len() / 2);
            let padded = [&[4][..], begin, &[0x82; 4]].concat();
            let padded = frame(HEADERS, PADDED, &padded);
            let ends = frame(CONTINUATION, END_HEADERS, end);
            let before = [&data[..], &whole, &padded, &ends].concat();
            assert_eq!(counted(&before), (lines, block.len()), "{block:x?}");
            let both = [&[1, 0, 0, 0, 0, 0][..], block, &[0x82]].concat();
            let both = frame(HEADERS, PADDED | PRIORITY | END_HEADERS, &both);
            assert_eq!(counted(&both), (lines, block.len()), "{block:x?}");
            let first = [&[0, 0, 0, 0, 0][..], block].concat();
            let first = frame(HEADERS, PRIORITY | END_HEADERS, &first);
            assert_eq!(counted(&first), (lines, block.len()), "{block:x?}");
        }
    }

    #[test]
    fn more_than_may_be_is_seen_before_the_block_is_whole() {
        let most = Most {
            lines: 3,
            bytes: 10,
            kept: 0,
        };
        let takes = |bytes: &[u8]| Blocks::new(most, 0).pass(bytes, |_, _| {});
        let three = frame(HEADERS, END_HEADERS, &[0x82; 3]);
        assert!(takes(&three.repeat(9)), "each counts alone");
        assert!(!takes(&frame(HEADERS, 0, &[0x82; 4])));
        let two = frame(HEADERS, 0, &[0x82; 2]);
        assert!(!takes(&[two, frame(CONTINUATION, 0, &[0x82; 2])].concat()));
        assert!(!takes(&frame(
            HEADERS,
            0,
            &[[0, 1].as_slice(), &[b'a'; 9]].concat()
        )));
        assert!(takes(&frame(HEADERS, END_HEADERS, &[])));
        assert!(takes(&frame(HEADERS, PADDED | PRIORITY, &[255])));
    }
    #[test]
    fn much_that_ends_its_stream_is_told_as_it_comes() {
        let most = Most {
            lines: 512,
            bytes: 1 << 20,
            kept: 0,
        };
        let told = |bytes: &[u8]| {
            let mut told = vec![];
            let passed = Blocks::new(most, 0).pass(bytes, |stream, kept| told.push((stream, kept)));
            assert!(passed);
            told
        };
        let line = [&[0x40, 1, b'x', 0x7f, 0xa9, 0x26][..], &[b'y'; 5032]].concat();
        let whole = |flags| frame(HEADERS, flags, &line);
        let kept = line.len() + LINE;
        assert_eq!(told(&whole(END_HEADERS)), [], "a head: somebody takes it");
        assert_eq!(told(&whole(END_HEADERS | END_STREAM)), [(1, kept)]);
        assert_eq!(
            told(&frame(HEADERS, END_HEADERS | END_STREAM, &[0x82; 9])),
            []
        );
        let lines = frame(HEADERS, END_STREAM | END_HEADERS, &[0x82; 100]);
        assert_eq!(
            told(&lines),
            [(1, 100 + 100 * LINE)],
            "lines cost more than bytes"
        );
        // However it is cut, and before its end.
        let parts = [&whole(END_STREAM)[..], &frame(CONTINUATION, 0, &[0x82; 9])].concat();
        assert_eq!(told(&parts), [(1, kept), (1, kept + 9 + 9 * LINE)]);
    }
}
