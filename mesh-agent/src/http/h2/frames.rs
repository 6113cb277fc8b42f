//! The frames in what a server sends, as far as their heads tell.
//!
//! Empty frames of data say nothing, and crate h2 ends a connection for the 101st of its
//! life: they are taken out before it sees them. Its first frame are its settings: until
//! it is there, nobody knows what it offers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

const HEAD: usize = 9;
const DATA: u8 = 0;
const END_STREAM: u8 = 1;
/// Reads of nothing but empty frames, before others have their turn.
const TURNS: u32 = 16;

#[derive(Debug)]
pub(super) struct Frames {
    /// Of a frame's head: what came of it and did not go on.
    head: [u8; HEAD],
    has: usize,
    /// It goes on next, from here.
    goes: Option<usize>,
    /// Bytes of a frame behind its head, that are still to come.
    left: usize,
    /// The first frame has come.
    greeted: Arc<AtomicBool>,
}

impl Frames {
    pub(super) fn new(greeted: Arc<AtomicBool>) -> Self {
        Self {
            head: [0; HEAD],
            has: 0,
            goes: None,
            left: 0,
            greeted,
        }
    }

    /// Reads of `io` what says something.
    pub(super) fn poll_read(
        &mut self,
        mut io: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        for _ in 0..TURNS {
            if let Some(from) = self.goes {
                self.goes_on(from, buffer);
                return Poll::Ready(Ok(()));
            }
            if self.has > 0 {
                let mut bytes = [0; HEAD];
                let mut rest = ReadBuf::new(&mut bytes[self.has..]);
                ready!(io.as_mut().poll_read(cx, &mut rest))?;
                self.add(rest.filled());
                continue;
            }
            let before = buffer.filled().len();
            ready!(io.as_mut().poll_read(cx, buffer))?;
            let came = &mut buffer.filled_mut()[before..];
            if came.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let kept = self.pass(came);
            buffer.set_filled(before + kept);
            if kept > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn goes_on(&mut self, from: usize, buffer: &mut ReadBuf<'_>) {
        let n = buffer.remaining().min(self.has - from);
        buffer.put_slice(&self.head[from..from + n]);
        self.goes = (from + n < self.has).then_some(from + n);
        if self.goes.is_none() {
            self.has = 0;
        }
    }

    /// More of a head that has begun.
    fn add(&mut self, more: &[u8]) {
        self.head[self.has..self.has + more.len()].copy_from_slice(more);
        self.has += more.len();
        if self.has == HEAD {
            match self.begins(self.head) {
                true => self.goes = Some(0),
                false => self.has = 0,
            }
        } else if more.is_empty() {
            // Its end, within a head: that is not for this side to judge.
            self.goes = Some(0);
        }
    }

    /// What goes on of these bytes, which it moves to their begin. A head at their end
    /// that is not whole is kept back.
    fn pass(&mut self, bytes: &mut [u8]) -> usize {
        let (mut at, mut kept) = (0, 0);
        while at < bytes.len() {
            let rest = &bytes[at..];
            let n = match (self.left, rest.first_chunk::<HEAD>()) {
                (0, None) => {
                    self.head[..rest.len()].copy_from_slice(rest);
                    self.has = rest.len();
                    break;
                }
                (0, Some(head)) if !self.begins(*head) => {
                    at += HEAD;
                    continue;
                }
                (0, Some(_)) => HEAD,
                (left, _) => {
                    let n = left.min(rest.len());
                    self.comes(n);
                    n
                }
            };
            if at > kept {
                bytes.copy_within(at..at + n, kept);
            }
            (at, kept) = (at + n, kept + n);
        }
        kept
    }

    /// A frame; false: it says nothing.
    fn begins(&mut self, head: [u8; HEAD]) -> bool {
        let [a, b, c, kind, flags, ..] = head;
        self.left = u32::from_be_bytes([0, a, b, c]) as usize;
        let is_nothing = self.left == 0 && kind == DATA && flags & END_STREAM == 0;
        self.comes(0);
        !is_nothing
    }

    fn comes(&mut self, bytes: usize) {
        self.left -= bytes;
        if self.left == 0 && !self.greeted.load(Ordering::Relaxed) {
            self.greeted.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::counted::Counted;
    use super::super::limits::Hop;
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).expect("a small one");
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        frame.extend(payload);
        frame
    }

    /// What is read of these bytes, that come in pieces of so many, into buffers of so many.
    async fn read(bytes: &[u8], piece: usize, room: usize) -> Vec<u8> {
        let (near, mut far) = tokio::io::duplex(piece);
        let written = async {
            far.write_all(bytes).await.expect("taken");
            drop(far);
        };
        let greeted = Arc::<AtomicBool>::default();
        let mut near = Counted::of_server(near, (Arc::default(), greeted), Hop::Edge.block());
        let reading = async {
            let (mut all, mut buffer) = (Vec::new(), vec![0; room]);
            loop {
                match near.read(&mut buffer).await.expect("bytes") {
                    0 => return all,
                    n => all.extend(&buffer[..n]),
                }
            }
        };
        tokio::join!(reading, written).0
    }

    #[tokio::test]
    async fn empty_frames_of_data_are_taken_out_however_they_come() {
        let nothing = frame(DATA, 0, &[]);
        let told = [
            frame(4, 0, &[]),
            frame(1, 4, b"head"),
            frame(DATA, 0, b"data"),
            frame(DATA, 8, &[0]),
            frame(9, 0, &[]),
            frame(DATA, END_STREAM, &[]),
        ];
        let mut bytes = nothing.repeat(3);
        for frame in &told {
            bytes.extend(frame);
            bytes.extend(nothing.repeat(2));
        }
        for end in [&[][..], &[0, 0, 5, 0]] {
            let sent = [&bytes[..], end].concat();
            for piece in [1, 2, 5, 8, 9, 10, 31, 1000] {
                for room in [1, 4, 9, 100] {
                    let came = read(&sent, piece, room).await;
                    let wanted = [&told.concat()[..], end].concat();
                    assert_eq!(came, wanted, "{piece} into {room}, behind {end:?}");
                }
            }
        }
    }

    #[test]
    fn a_server_has_said_what_it_offers_when_its_first_frame_is_whole() {
        let greeted = Arc::<AtomicBool>::default();
        let is = || greeted.load(Ordering::Relaxed);
        let mut frames = Frames::new(greeted.clone());
        let mut settings = frame(4, 0, &[0, 8, 0, 0, 0, 1]);
        assert_eq!(frames.pass(&mut settings[..12]), 12);
        assert!(!is());
        assert_eq!(frames.pass(&mut settings[12..]), 3);
        assert!(is());
        let none = Arc::<AtomicBool>::default();
        Frames::new(none.clone()).pass(&mut frame(4, 0, &[]));
        assert!(none.load(Ordering::Relaxed), "they may be empty");
    }
}
