//! What a connection writes in one turn, sent together.
//!
//! h2 writes and flushes each frame of data by itself, which is a system call, a record between
//! agents, and a wake of the peer for every 16 KiB. So its flushes do nothing as long as there
//! is room here, and whoever drives the connection sends what has come together behind each
//! turn. Nothing waits longer than that turn, and nothing beyond [`MOST`].

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::limits::{FRAME, FRAME_HEAD};
use crate::io::{Held, is_scarce};

/// Four frames of data.
const MOST: usize = 4 * (FRAME as usize + FRAME_HEAD);
/// A write of more than this is one of several.
const LARGE: usize = 4 * 1024;
/// Memory that stays for the next turn.
const KEPT: usize = 1024;

/// For h2, and for who drives it.
#[derive(Debug)]
pub(super) struct Batched<T>(Arc<Mutex<Batch<T>>>);

#[derive(Debug)]
struct Batch<T> {
    io: T,
    waits: Held,
    /// So much of it was written.
    at: usize,
    /// All of it was written, and not all of that was sent.
    must_flush: bool,
    /// Somebody drives it.
    is_driven: bool,
    /// There is little memory for what waits.
    is_scarce: fn() -> bool,
    /// How a turn's end failed, which h2 learns in its next turn.
    failed: Option<ErrorKind>,
}

impl<T> Batched<T> {
    /// Every write goes at once until it is driven.
    pub(super) fn new(io: T) -> Self {
        Self(Arc::new(Mutex::new(Batch {
            io,
            waits: Held::default(),
            at: 0,
            must_flush: false,
            is_driven: false,
            is_scarce,
            failed: None,
        })))
    }

    /// For h2. There is one of them.
    pub(super) fn handle(&self) -> Self {
        Self(self.0.clone())
    }

    /// From now on every turn ends with [`Self::end_turn`].
    pub(super) fn driven(self) -> Self {
        self.0.lock().is_driven = true;
        self
    }
}

impl<T: AsyncWrite + Unpin> Batched<T> {
    /// Sends what waits, as far as it is taken; the rest wakes the task.
    pub(super) fn end_turn(&self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(_)) = self.0.lock().poll_out(cx) {
            // h2 does not know yet.
            cx.waker().wake_by_ref();
        }
    }

    /// h2 takes it for sent, and the peer has not taken it yet.
    pub(super) fn has_unsent(&self) -> bool {
        !self.0.lock().is_empty()
    }
}

impl<T: AsyncWrite + Unpin> Batch<T> {
    fn check(&self) -> io::Result<()> {
        self.failed.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn is_empty(&self) -> bool {
        self.waits.is_empty() && !self.must_flush
    }

    /// May be otherwise a moment later: others hold memory, too.
    fn takes(&self, len: usize) -> bool {
        self.is_driven && self.waits.len() + len <= MOST && !(self.is_scarce)()
    }

    fn push(&mut self, parts: &[IoSlice<'_>], len: usize) {
        if len > LARGE && self.waits.capacity() < MOST {
            self.waits.reserve_exact(MOST - self.waits.len());
        }
        parts.iter().for_each(|part| self.waits.extend(part));
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        if self.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let sent = ready!(self.poll_send(cx));
        if let Err(error) = &sent {
            self.failed = Some(error.kind());
        }
        Poll::Ready(sent)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.waits.len() {
            let waits = &self.waits[self.at..];
            match ready!(Pin::new(&mut self.io).poll_write(cx, waits))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                written => self.at += written,
            }
        }
        if self.at > 0 {
            self.at = 0;
            self.must_flush = true;
            self.waits = std::mem::take(&mut self.waits).emptied(KEPT);
        }
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.must_flush = false;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Batched<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut batch = self.0.lock();
        batch.check()?;
        Pin::new(&mut batch.io).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Batched<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut batch = self.0.lock();
        batch.check()?;
        let len = parts.iter().map(|part| part.len()).sum();
        if !batch.takes(len) {
            // Before anything goes past it.
            ready!(batch.poll_out(cx))?;
            if !batch.takes(len) {
                return Pin::new(&mut batch.io).poll_write_vectored(cx, parts);
            }
        }
        batch.push(parts, len);
        Poll::Ready(Ok(len))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut batch = self.0.lock();
        batch.check()?;
        match batch.is_empty() {
            true => Pin::new(&mut batch.io).poll_flush(cx),
            // The turn's end does.
            false => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut batch = self.0.lock();
        ready!(batch.poll_out(cx))?;
        Pin::new(&mut batch.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// Takes what it is allowed to, and notes each write.
    #[derive(Debug, Default)]
    struct Wire {
        room: usize,
        writes: Vec<Vec<u8>>,
        is_over: bool,
        fails: bool,
        keeps: bool,
    }

    thread_local! {
        static SCARCE: Cell<bool> = const { Cell::new(false) };
    }

    impl Wire {
        fn all(&self) -> Vec<u8> {
            self.writes.concat()
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.fails {
                return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
            }
            let n = bytes.len().min(self.room);
            if n == 0 {
                return Poll::Pending;
            }
            self.room -= n;
            self.writes.push(bytes[..n].to_vec());
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            match self.keeps {
                true => Poll::Pending,
                false => Poll::Ready(Ok(())),
            }
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.is_over = true;
            Poll::Ready(Ok(()))
        }
    }

    /// h2's end, and its driver's.
    fn batched(room: usize) -> (Batched<Wire>, Batched<Wire>) {
        let wire = Wire {
            room,
            ..Wire::default()
        };
        let out = Batched::new(wire).driven();
        out.0.lock().is_scarce = || SCARCE.get();
        (out.handle(), out)
    }

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn write(of: &mut Batched<Wire>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *of).poll_write(&mut cx(), bytes);
        let _later = Pin::new(of).poll_flush(&mut cx());
        written
    }

    #[test]
    fn what_a_turn_writes_goes_together_at_its_end() {
        let (mut h2, out) = batched(usize::MAX);
        for part in ["one ", "two ", "three"] {
            assert!(write(&mut h2, part.as_bytes()).is_ready());
        }
        assert!(out.0.lock().io.writes.is_empty());
        out.end_turn(&mut cx());
        assert_eq!(out.0.lock().io.writes, [b"one two three"]);
        out.end_turn(&mut cx());
        assert_eq!(out.0.lock().io.writes.len(), 1, "nothing is left");
    }

    #[test]
    fn no_more_waits_than_a_few_frames() {
        let (mut h2, out) = batched(0);
        let frame = [7; FRAME as usize + FRAME_HEAD];
        let taken = (0..10).filter(|_| write(&mut h2, &frame).is_ready());
        assert_eq!(taken.count(), 4);
        out.0.lock().io.room = usize::MAX;
        assert!(write(&mut h2, &frame).is_ready());
        let lengths: Vec<usize> = out.0.lock().io.writes.iter().map(Vec::len).collect();
        assert_eq!(lengths, [MOST]);
    }

    #[test]
    fn what_the_wire_has_taken_and_keeps_takes_no_room_and_is_unsent() {
        let (mut h2, out) = batched(usize::MAX);
        out.0.lock().io.keeps = true;
        assert!(write(&mut h2, &[7; MOST]).is_ready());
        out.end_turn(&mut cx());
        assert!(out.has_unsent());
        assert!(out.0.lock().waits.capacity() <= KEPT);
        assert!(write(&mut h2, &[8; MOST]).is_ready(), "there is room");
        out.0.lock().io.keeps = false;
        out.end_turn(&mut cx());
        assert!(!out.has_unsent());
        assert_eq!(out.0.lock().io.writes.len(), 2);
    }

    #[test]
    fn before_somebody_drives_it_every_write_goes_at_once() {
        let wire = Wire {
            room: 100,
            ..Wire::default()
        };
        let mut of = Batched::new(wire);
        assert!(write(&mut of, b"hello").is_ready());
        assert_eq!(of.0.lock().io.writes, [b"hello"]);
    }

    #[test]
    fn a_turn_that_fails_at_its_end_is_known_in_the_next() {
        let (mut h2, out) = batched(usize::MAX);
        assert!(write(&mut h2, b"hello").is_ready());
        out.0.lock().io.fails = true;
        out.end_turn(&mut cx());
        let error = Pin::new(&mut h2).poll_flush(&mut cx());
        assert!(matches!(error, Poll::Ready(Err(e)) if e.kind() == ErrorKind::ConnectionReset));
        assert!(matches!(write_only(&mut h2), Poll::Ready(Err(_))));
    }

    fn write_only(of: &mut Batched<Wire>) -> Poll<io::Result<usize>> {
        Pin::new(of).poll_write(&mut cx(), b"more")
    }

    #[test]
    fn nothing_goes_past_what_waits_where_memory_gets_scarce_in_between() {
        let (mut h2, out) = batched(usize::MAX);
        assert!(write(&mut h2, b"first ").is_ready());
        out.0.lock().is_scarce = || SCARCE.replace(true);
        for part in ["then ", "last"] {
            assert!(write(&mut h2, part.as_bytes()).is_ready());
        }
        out.end_turn(&mut cx());
        assert_eq!(out.0.lock().io.all(), b"first then last");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(usize),
        EndTurn,
        Room(usize),
        Scarce(bool),
        Keeps(bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (1_usize..40_000).prop_map(Step::Write),
            (1_usize..200).prop_map(Step::Write),
            Just(Step::EndTurn),
            (0_usize..100_000).prop_map(Step::Room),
            any::<bool>().prop_map(Step::Scarce),
            any::<bool>().prop_map(Step::Keeps),
        ];
        proptest::collection::vec(step, 1..60)
    }

    proptest! {
        #[test]
        fn what_was_taken_arrives_in_its_order_and_all_of_it_before_the_end(steps in steps()) {
            SCARCE.set(false);
            let (mut h2, out) = batched(0);
            let (mut taken, mut next) = (vec![], 0_u8);
            for step in steps {
                match step {
                    Step::Write(len) => {
                        next = next.wrapping_add(1);
                        let bytes = vec![next; len];
                        if let Poll::Ready(Ok(n)) = write(&mut h2, &bytes) {
                            taken.extend(&bytes[..n]);
                        }
                    }
                    Step::EndTurn => out.end_turn(&mut cx()),
                    Step::Room(room) => out.0.lock().io.room = room,
                    Step::Scarce(is_scarce) => SCARCE.set(is_scarce),
                    Step::Keeps(keeps) => out.0.lock().io.keeps = keeps,
                }
                let batch = out.0.lock();
                prop_assert!(batch.waits.len() <= MOST);
                prop_assert!(taken.starts_with(&batch.io.all()));
            }
            out.0.lock().io.room = usize::MAX;
            out.0.lock().io.keeps = false;
            prop_assert!(Pin::new(&mut h2).poll_shutdown(&mut cx()).is_ready());
            let batch = out.0.lock();
            prop_assert!(batch.io.is_over && batch.io.all() == taken);
        }
    }
}
