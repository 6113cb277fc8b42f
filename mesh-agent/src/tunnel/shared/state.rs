//! A shared connection's channels, without any I/O.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use smallvec::SmallVec;

use super::frame::{self, Frame, Kind};
use super::outbox::Outbox;
use super::pipe::Pipe;
use crate::io::Account;
use crate::tunnel::ProtocolError;
use crate::tunnel::broken::Broken;
use crate::tunnel::stream::Role;

/// Channels that are open at once.
pub(in crate::tunnel) const MAX_CHANNELS: usize = 1024;

/// What a channel of this end's goes by until it says something, from here on: ids are given
/// in the order in which channels speak, which need not be that in which they were opened.
pub(in crate::tunnel) const UNSAID: u32 = 1 << 31;

/// Those that are to run, once the state is let go of.
pub(super) type Wakers = SmallVec<[Waker; 16]>;

#[derive(Debug)]
pub(super) struct State {
    role: Role,
    pipes: HashMap<u32, Pipe, foldhash::fast::RandomState>,
    /// The id of the next channel, as both ends know it.
    next: u32,
    /// What the next channel of this end's goes by at first.
    unsaid: u32,
    /// Of the peer's, not handed out yet.
    opened: VecDeque<u32>,
    pub(super) outbox: Outbox,
    /// Channels whose writers wait for room in the outbox, in the order that they came.
    blocked: VecDeque<u32>,
    /// Channels of this end's have begun since the peer last said something.
    is_asked: bool,
    /// No channel is opened or taken any more, and it ends with the last one.
    is_closing: bool,
    /// That is the peer's word.
    was_told: bool,
    /// Why nothing more goes or comes.
    broken: Option<Broken>,
    /// What a channel that is not taken any more is answered by.
    refusal: Vec<u8>,
    /// Of the pod whose channels they are.
    account: Arc<Account>,
    /// Channels of which nothing was sealed before.
    fresh: Vec<u32>,
    driver: Option<Waker>,
}

impl State {
    pub(super) fn new(role: Role, refusal: Vec<u8>, account: Arc<Account>) -> Self {
        Self {
            role,
            pipes: HashMap::default(),
            next: 1,
            unsaid: UNSAID,
            opened: VecDeque::new(),
            outbox: Outbox::default(),
            blocked: VecDeque::new(),
            is_asked: false,
            is_closing: false,
            was_told: false,
            broken: None,
            refusal,
            account,
            fresh: Vec::new(),
            driver: None,
        }
    }

    pub(super) fn open_channels(&self) -> usize {
        self.pipes.len()
    }

    /// Those that are open, and how many were ever opened, which changes with each.
    pub(super) fn channels(&self) -> (usize, u32) {
        (self.pipes.len(), self.next.wrapping_add(self.unsaid))
    }

    pub(super) fn is_asked(&self) -> bool {
        self.is_asked
    }

    /// The peer takes no channel that says something only now, and knows nothing of it.
    pub(super) fn is_too_late(&self, id: u32) -> bool {
        id >= UNSAID && self.was_told
    }

    pub(super) fn is_closing(&self) -> bool {
        self.is_closing
    }

    pub(super) fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// May another channel be opened on it?
    pub(super) fn has_room(&self) -> bool {
        self.broken.is_none()
            && !self.is_closing
            && self.pipes.len() < MAX_CHANNELS
            && self.next < UNSAID - MAX_CHANNELS as u32
            && self.unsaid < u32::MAX
    }

    /// A channel of this end's.
    pub(super) fn open(&mut self) -> Option<u32> {
        if self.role != Role::Client || !self.has_room() {
            return None;
        }
        let id = self.unsaid;
        self.unsaid += 1;
        self.pipes.insert(id, Pipe::new(&self.account));
        Some(id)
    }

    /// It says something now, and waits no more by its former name: for more room, that may be,
    /// than what it says now takes.
    fn say_first(&mut self, id: &Cell<u32>) {
        if let Some(mut pipe) = self.pipes.remove(&id.get()) {
            if std::mem::take(&mut pipe.is_blocked) {
                self.blocked.retain(|other| *other != id.get());
            }
            id.set(self.next);
            self.next += 1;
            self.pipes.insert(id.get(), pipe);
            self.is_asked = true;
        }
    }

    /// The peer's next one.
    pub(super) fn take_opened(&mut self) -> Option<u32> {
        self.opened.pop_front()
    }

    pub(super) fn pipe(&mut self, id: u32) -> Option<&mut Pipe> {
        self.pipes.get_mut(&id)
    }

    /// All frames of a record; how many.
    pub(super) fn take(
        &mut self,
        plaintext: &[u8],
        wakers: &mut Wakers,
    ) -> Result<usize, ProtocolError> {
        self.is_asked = false;
        let (mut at, mut frames) = (0, 0);
        while at < plaintext.len() {
            let found = frame::parse(plaintext, at)?;
            let payload = &plaintext[found.start..found.start + found.len];
            at = found.start + found.len;
            frames += 1;
            self.take_frame(&found, payload, wakers)?;
        }
        Ok(frames)
    }

    fn take_frame(
        &mut self,
        found: &Frame,
        payload: &[u8],
        wakers: &mut Wakers,
    ) -> Result<(), ProtocolError> {
        if found.kind == Kind::Goaway {
            return self.goes_away();
        }
        let id = found.channel;
        if id == self.next && found.kind == Kind::Data && self.role == Role::Server {
            if id >= UNSAID {
                return Err(ProtocolError::OutOfPlace);
            }
            self.next = id + 1;
            if self.is_closing || self.pipes.len() >= MAX_CHANNELS {
                self.refuse(id);
                return Ok(());
            }
            self.pipes.insert(id, Pipe::new(&self.account));
            self.opened.push_back(id);
        }
        if id == 0 || id >= self.next {
            return Err(ProtocolError::OutOfPlace);
        }
        // Closed here, while it was on its way.
        let Some(pipe) = self.pipes.get_mut(&id) else {
            return Ok(());
        };
        match found.kind {
            Kind::Data => wakers.extend(pipe.take(payload)?),
            Kind::Window => {
                let bytes = payload.first_chunk().copied().map(u32::from_be_bytes);
                wakers.extend(pipe.grant(bytes.ok_or(ProtocolError::BadFrame)?)?);
            }
            Kind::Close if pipe.is_closed => return Err(ProtocolError::AfterEnd),
            Kind::Close => wakers.extend(pipe.close().into_iter().flatten()),
            Kind::Goaway => {}
        }
        Ok(())
    }

    /// Only who takes channels says, once, that it takes no more.
    fn goes_away(&mut self) -> Result<(), ProtocolError> {
        if self.role == Role::Server || std::mem::replace(&mut self.was_told, true) {
            return Err(ProtocolError::OutOfPlace);
        }
        self.is_closing = true;
        Ok(())
    }

    /// Nobody has seen what it was opened for, and its client is told so.
    pub(super) fn refuse(&mut self, id: u32) {
        self.pipes.remove(&id);
        let refusal = std::mem::take(&mut self.refusal);
        self.outbox.data(id, &refusal);
        self.outbox.push(Kind::Close, id, &[]);
        self.refusal = refusal;
        self.wake_driver();
    }

    /// No channel is opened or taken any more, and the peer's are told so.
    pub(super) fn close_when_empty(&mut self) {
        if std::mem::replace(&mut self.is_closing, true) {
            return;
        }
        if self.role == Role::Server {
            self.outbox.push(Kind::Goaway, 0, &[]);
        }
        self.wake_driver();
    }

    /// There will be no more to say.
    pub(super) fn is_over(&self) -> bool {
        self.is_closing && self.pipes.is_empty()
    }

    /// Of `bytes` as much as may go now; how much. The first of them give a channel of this
    /// end's its `id`.
    pub(super) fn write(&mut self, id: &Cell<u32>, bytes: &[u8]) -> usize {
        if id.get() >= UNSAID && !bytes.is_empty() && self.outbox.takes(bytes.len()) {
            self.say_first(id);
        }
        let id = id.get();
        let Some(pipe) = self.pipes.get_mut(&id) else {
            return 0;
        };
        let mut sent = 0;
        while sent < bytes.len() && pipe.to_go() > 0 && self.outbox.takes(bytes.len()) {
            let part = &bytes[sent..];
            let n = self.outbox.data(id, &part[..part.len().min(pipe.to_go())]);
            pipe.sent(n);
            sent += n;
        }
        pipe.wants = bytes.len() - sent;
        if sent > 0 {
            if !std::mem::replace(&mut pipe.was_sent, true) {
                self.fresh.push(id);
            }
            self.wake_driver();
        }
        sent
    }

    /// The writer may send a byte; else it is woken when it may.
    pub(super) fn may_write(&mut self, id: u32, waker: &Waker) -> bool {
        let is_too_late = self.is_too_late(id);
        let Some(pipe) = self.pipes.get_mut(&id) else {
            return true;
        };
        let is_full = !self.outbox.takes(pipe.wants);
        if pipe.is_closed || is_too_late || (pipe.to_go() > 0 && !is_full) {
            return true;
        }
        pipe.written_by(waker);
        if is_full && !std::mem::replace(&mut pipe.is_blocked, true) {
            self.blocked.push_back(id);
        }
        false
    }

    pub(super) fn read(&mut self, id: u32, buffer: &mut [u8]) -> usize {
        let Some(pipe) = self.pipes.get_mut(&id) else {
            return 0;
        };
        let (n, told) = pipe.read(buffer);
        if let Some(bytes) = told {
            self.outbox.push(Kind::Window, id, &bytes.to_be_bytes());
            self.wake_driver();
        }
        n
    }

    /// This end's handle is gone.
    pub(super) fn close(&mut self, id: u32) {
        let Some(pipe) = self.pipes.remove(&id) else {
            return;
        };
        if pipe.is_blocked {
            self.blocked.retain(|other| *other != id);
        }
        // The peer knows nothing of one that has said nothing.
        if id < UNSAID && !pipe.is_closed && self.broken.is_none() {
            self.outbox.push(Kind::Close, id, &[]);
        }
        // The last one's end is for the driver to know.
        self.wake_driver();
    }

    /// What waited for room has it.
    pub(super) fn sent(&mut self, wakers: &mut Wakers) {
        self.fresh.clear();
        for id in self.blocked.drain(..) {
            wakers.extend(self.pipes.get_mut(&id).and_then(Pipe::unblock));
        }
    }

    /// Only the first reason is one: the others follow from it.
    pub(super) fn broke(&mut self, broken: Broken, wakers: &mut Wakers) {
        self.broken.get_or_insert(broken);
        for id in self.fresh.drain(..) {
            if let Some(pipe) = self.pipes.get_mut(&id) {
                pipe.was_sent = false;
                // Who has it may begin it elsewhere: it must not leave behind that.
                self.outbox = Outbox::default();
            }
        }
        for pipe in self.pipes.values_mut() {
            pipe.was_cut |= !pipe.is_closed;
            wakers.extend(pipe.close().into_iter().flatten());
        }
    }

    pub(super) fn driven_by(&mut self, waker: &Waker) {
        self.driver = Some(waker.clone());
    }

    /// Memory of what the channels' readers have not taken.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn held(&self) -> usize {
        self.pipes.values().map(Pipe::held).sum()
    }

    /// Those that wait for room in the outbox.
    #[cfg(test)]
    pub(super) fn blocked(&self) -> usize {
        self.blocked.len()
    }

    fn wake_driver(&mut self) {
        // Once a turn: it goes behind those that have something to send as well.
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }
}
