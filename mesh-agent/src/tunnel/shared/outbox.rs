//! What goes out of a shared connection next: frames of one turn of its channels, laid out as
//! records that are sealed where they lie, and sent together.

use smallvec::SmallVec;

use super::frame::{self, HEADER, Kind};
use crate::io::Held;
use crate::tls::{HEAD, MAX_PLAINTEXT, RecordError, Records, TAIL};

/// More frames of data than this are not taken before it was sent.
pub(in crate::tunnel) const FULL: usize = 128 * 1024;
/// What is small goes all the same: else each waits behind all that are large.
const SMALL: usize = 4 * 1024;
/// For that.
pub(in crate::tunnel) const RESERVED: usize = 64 * 1024;
/// Nor is anything read that could be answered, beyond this.
pub(in crate::tunnel) const FLOODED: usize = 2 * FULL;
/// Most data of one frame.
const MAX_DATA: usize = MAX_PLAINTEXT - HEADER;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Held,
    /// Where each record begins, and its plaintext's length; the last one grows.
    records: SmallVec<[(usize, usize); 2]>,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Is there room for something of who has `len` bytes to send?
    pub(super) fn takes(&self, len: usize) -> bool {
        let room = match len {
            ..=SMALL => FULL + RESERVED,
            _ => FULL,
        };
        self.bytes.len() < room
    }

    /// The peer makes us answer, and does not read.
    pub(super) fn is_flooded(&self) -> bool {
        self.bytes.len() >= FLOODED
    }

    /// Of `data` as much as one frame takes; how much.
    pub(super) fn data(&mut self, channel: u32, data: &[u8]) -> usize {
        let len = data.len().min(MAX_DATA);
        self.push(Kind::Data, channel, &data[..len]);
        len
    }

    pub(super) fn push(&mut self, kind: Kind, channel: u32, payload: &[u8]) {
        let size = HEADER + payload.len();
        match self.records.last_mut() {
            Some((_, len)) if *len + size <= MAX_PLAINTEXT => *len += size,
            last => {
                if last.is_some() {
                    self.bytes.extend(&[0; TAIL]);
                }
                self.records.push((self.bytes.len(), size));
                self.bytes.extend(&[0; HEAD]);
            }
        }
        self.bytes
            .extend(&frame::header(kind, channel, payload.len()));
        self.bytes.extend(payload);
    }

    /// All of it, sealed; nothing is left.
    pub(super) fn seal(&mut self, records: &mut Records) -> Result<Held, RecordError> {
        let mut sealed = std::mem::take(&mut self.bytes);
        sealed.extend(&[0; TAIL]);
        let bytes = sealed.as_mut_slice();
        for (start, len) in std::mem::take(&mut self.records) {
            records.seal(&mut bytes[start..], len)?;
        }
        Ok(sealed)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// All of it as it would be sealed, each record's plaintext; nothing is left.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn take_plaintext(&mut self) -> Vec<Vec<u8>> {
        let bytes = std::mem::take(&mut self.bytes);
        let plaintext = |(start, len)| bytes[start + HEAD..start + HEAD + len].to_vec();
        let records = std::mem::take(&mut self.records);
        records.into_iter().map(plaintext).collect()
    }

    /// Room for the next turn in what was sent.
    pub(super) fn reuse(&mut self, sent: Held) {
        const KEPT: usize = 16 * 1024;
        if self.bytes.is_empty() && !sent.is_empty() {
            self.bytes = sent.emptied(KEPT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Opened;
    use proptest::prelude::*;

    /// Of each record the plaintext, as the other end reads it.
    fn opened(mut sealed: Held, records: &mut Records) -> Vec<Vec<u8>> {
        let (bytes, mut at, mut all) = (sealed.as_mut_slice(), 0, Vec::new());
        while at < bytes.len() {
            let Opened::Data {
                plaintext,
                consumed,
            } = records.open(&mut bytes[at..]).expect("a good record")
            else {
                panic!("something else than data at {at}");
            };
            all.push(bytes[at..][plaintext].to_vec());
            at += consumed;
        }
        all
    }

    type Pushed = (Kind, u32, Vec<u8>);

    fn frames(plaintext: &[u8]) -> Vec<Pushed> {
        let (mut at, mut all) = (0, Vec::new());
        while at < plaintext.len() {
            let found = frame::parse(plaintext, at).expect("whole frames");
            at = found.start + found.len;
            let payload = plaintext[found.start..at].to_vec();
            all.push((found.kind, found.channel, payload));
        }
        all
    }

    fn turn() -> impl Strategy<Value = Vec<(u8, u32, usize)>> {
        let len = prop_oneof![1_usize..100, 16_360_usize..16_400, 1_usize..40_000];
        proptest::collection::vec((0_u8..6, 0_u32..9, len), 1..30)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_sealed_opens_to_the_frames_that_were_pushed_in_their_order(
            turns in proptest::collection::vec(turn(), 1..4),
        ) {
            let (mut near, mut far) = Records::pair();
            let mut outbox = Outbox::default();
            for turn in turns {
                let mut pushed: Vec<Pushed> = Vec::new();
                for (kind, channel, len) in turn {
                    let (kind, payload) = match kind {
                        0 => (Kind::Close, vec![]),
                        1 => (Kind::Window, vec![len as u8; 4]),
                        2 => (Kind::Goaway, vec![]),
                        _ => (Kind::Data, vec![len as u8; len]),
                    };
                    let channel = if kind == Kind::Goaway { 0 } else { channel };
                    let taken = match kind {
                        Kind::Data => outbox.data(channel, &payload),
                        _ => {
                            outbox.push(kind, channel, &payload);
                            payload.len()
                        }
                    };
                    prop_assert_eq!(taken, payload.len().min(MAX_PLAINTEXT - HEADER));
                    pushed.push((kind, channel, payload[..taken].to_vec()));
                }
                prop_assert!(!outbox.is_empty());
                let sealed = outbox.seal(&mut near).expect("sealed");
                prop_assert!(outbox.is_empty() && outbox.bytes.is_empty());
                let mut came = Vec::new();
                for plaintext in opened(Held::copied(&sealed), &mut far) {
                    prop_assert!(!plaintext.is_empty() && plaintext.len() <= MAX_PLAINTEXT);
                    came.extend(frames(&plaintext));
                }
                prop_assert_eq!(came, pushed);
                outbox.reuse(sealed);
                prop_assert!(outbox.is_empty() && outbox.bytes.is_empty());
            }
        }
    }

    #[test]
    fn small_frames_go_in_one_record_and_one_that_does_not_fit_begins_the_next() {
        let mut outbox = Outbox::default();
        outbox.data(1, &[1; MAX_DATA - 2 * HEADER]);
        outbox.push(Kind::Close, 1, &[]);
        outbox.push(Kind::Close, 2, &[]);
        outbox.push(Kind::Close, 3, &[]);
        let lengths: Vec<usize> = outbox.take_plaintext().iter().map(Vec::len).collect();
        assert_eq!(lengths, [MAX_PLAINTEXT, HEADER]);
    }

    #[test]
    fn much_memory_is_not_kept_for_the_next_turn() {
        let (mut near, _far) = Records::pair();
        let mut outbox = Outbox::default();
        for (len, is_kept) in [(MAX_DATA, false), (100, true)] {
            outbox.data(1, &vec![0; len]);
            outbox.data(1, &vec![0; len]);
            let sealed = outbox.seal(&mut near).expect("sealed");
            outbox.reuse(sealed);
            assert_eq!(outbox.bytes.capacity() > 0, is_kept, "{len}");
        }
    }
}
