//! One direction of an exchange: a head, then the bytes of its body as they come.

use std::io::IoSlice;
use std::task::{Context, Poll, ready};

use super::byte_stream::{ByteStream, Side};
use super::inbox::Inbox;
use super::kept::Kept;
use crate::http::h1::{Bad, Body, Framing, Side as Of};
use crate::io::{Held, room, with_scratch};
use crate::tunnel::StreamEnd;

/// Reads before neighbours run.
const READS_PER_POLL: usize = 4;

/// A message on its way.
#[derive(Debug)]
pub(super) struct Message {
    /// A head that was written anew, or what is sent once more, and how much of it has
    /// gone.
    head: Held,
    head_at: usize,
    /// The first bytes of the inbox that belong to the message, and may go.
    checked: usize,
    body: Body,
    /// It ended with its connection, as it may.
    closed: bool,
    passed: u64,
}

/// Why a message does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stuck {
    /// Who sends it failed, or ended within it (`None`).
    Sender(Option<StreamEnd>),
    Bad(Bad),
    /// Who gets it failed.
    Receiver(StreamEnd),
}

impl Message {
    /// `head`: written anew; else the first `checked` bytes of the inbox are it.
    pub(super) fn new(head: Option<Vec<u8>>, checked: usize, framing: Framing, of: Of) -> Self {
        Self {
            head: head.map(Held::from).unwrap_or_default(),
            head_at: 0,
            checked,
            body: Body::new(framing, of),
            closed: false,
            passed: 0,
        }
    }

    /// Of its head, still to be passed on.
    pub(super) fn head_left(&self) -> usize {
        self.head.len() - self.head_at + self.checked
    }

    /// Bytes that were passed on.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// Nothing of it is left to be read or passed on.
    pub(super) fn is_over(&self) -> bool {
        self.is_passed_on() && (self.closed || self.body.has_ended())
    }

    /// What the sender says from now on is of another protocol.
    pub(super) fn as_tunnel(&self) -> Self {
        Self {
            passed: self.passed,
            ..Self::new(None, 0, Framing::Tunnel, Of::Request)
        }
    }

    /// From its begin: these bytes go instead of as many as were sent in vain, and then
    /// what is still to come, be it of what goes once more already.
    pub(super) fn restart(&mut self, mut again: Held, sent: usize) {
        self.passed -= sent as u64;
        again.extend(&self.head[self.head_at..]);
        (self.head, self.head_at) = (again, 0);
    }

    /// What is left of it is in this inbox, and comes from nowhere else. False where that is not
    /// all of it.
    pub(super) fn take_along(&mut self, from: &mut Inbox) -> bool {
        let is_followed = self.follow(from).is_ok();
        let rest = std::mem::take(&mut self.checked);
        self.head.reserve_exact(rest);
        self.head.extend(&from.bytes()[..rest]);
        from.consume(rest);
        is_followed && self.body.has_ended()
    }

    fn is_passed_on(&self) -> bool {
        self.head_at == self.head.len() && self.checked == 0
    }

    /// Passes on what can be. Ready when all of it has gone. `kept`: gets what was
    /// taken, as long as that is of use.
    pub(super) fn poll(
        &mut self,
        from: &mut Side<'_>,
        to: &mut ByteStream<'_>,
        kept: &mut Kept,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stuck>> {
        let mut reads = 0;
        loop {
            // A head and what came of its body with it go on together.
            self.follow(from.inbox)?;
            ready!(self.poll_pass(from, to, kept, cx))?;
            if self.is_over() {
                return Poll::Ready(Ok(()));
            }
            if !from.inbox.is_empty() {
                continue;
            }
            if reads == READS_PER_POLL {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            reads += 1;
            ready!(self.poll_move(from, to, kept, cx))?;
        }
    }

    /// Checks what was read ahead and is not checked yet.
    fn follow(&mut self, from: &Inbox) -> Result<(), Stuck> {
        let ahead = &from.bytes()[self.checked..];
        if !ahead.is_empty() && !self.body.has_ended() {
            self.checked += self.body.follow(ahead).map_err(Stuck::Bad)?.len;
        }
        Ok(())
    }

    /// What is checked.
    fn poll_pass(
        &mut self,
        from: &mut Side<'_>,
        to: &mut ByteStream<'_>,
        kept: &mut Kept,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stuck>> {
        while !self.is_passed_on() {
            let head = &self.head[self.head_at..];
            let parts = [head, &from.inbox.bytes()[..self.checked]];
            let n = ready!(to.poll_write(&parts.map(IoSlice::new), cx)).map_err(Stuck::Receiver)?;
            self.pass(from, kept, n);
        }
        if !self.head.is_empty() {
            (self.head, self.head_at) = (Held::default(), 0);
        }
        Poll::Ready(Ok(()))
    }

    /// So many bytes of what is checked have gone, or are kept as if they had.
    pub(super) fn pass(&mut self, from: &mut Side<'_>, kept: &mut Kept, count: usize) {
        let head = &self.head[self.head_at..];
        let of_head = count.min(head.len());
        kept.note(&[head, &from.inbox.bytes()[..self.checked]], count);
        self.passed += count as u64;
        self.head_at += of_head;
        self.checked -= count - of_head;
        from.inbox.consume(count - of_head);
    }

    /// One read, passed on at once as far as that goes.
    fn poll_move(
        &mut self,
        from: &mut Side<'_>,
        to: &mut ByteStream<'_>,
        kept: &mut Kept,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stuck>> {
        with_scratch(|scratch| {
            let room = room(scratch.len()).min(to.takes_at_once());
            let read = ready!(from.stream.poll_read(&mut scratch[..room], cx));
            let n = read.map_err(|end| Stuck::Sender(Some(end)))?;
            if n == 0 {
                self.closed = self.body.ends_with_the_connection();
                return Poll::Ready(match self.closed {
                    true => Ok(()),
                    false => Err(Stuck::Sender(None)),
                });
            }
            let len = self.body.follow(&scratch[..n]).map_err(Stuck::Bad)?.len;
            let part = [&scratch[..len]];
            let (written, failed) = match to.poll_write(&part.map(IoSlice::new), cx) {
                Poll::Ready(Ok(written)) => (written, None),
                Poll::Ready(Err(end)) => (0, Some(Stuck::Receiver(end))),
                Poll::Pending => (0, None),
            };
            kept.note(&part, written);
            self.passed += written as u64;
            // Also for another receiver: the sender has it no more.
            from.inbox.extend(&scratch[written..n]);
            self.checked = len - written;
            Poll::Ready(failed.map_or(Ok(()), Err))
        })
    }
}
