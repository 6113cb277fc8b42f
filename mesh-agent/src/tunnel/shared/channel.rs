//! One channel of a shared connection, for who reads and writes it; closed when dropped.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::task::{Context, Poll};

use super::SharedConnection;
use super::state::UNSAID;
use crate::tls::MAX_PLAINTEXT;
use crate::tunnel::broken::Broken;

#[derive(Debug)]
pub(crate) struct Channel {
    connection: Rc<SharedConnection>,
    /// Another one once it has said something.
    id: Cell<u32>,
}

/// Of a channel, for who waits for its end while nobody reads it.
pub(crate) struct ChannelEnd {
    connection: Rc<SharedConnection>,
    id: u32,
}

impl ChannelEnd {
    /// The peer has closed it, or what carries it has ended. For the task that reads it. Of one
    /// that has said nothing so far its writer hears that.
    pub(crate) async fn closed(&self) {
        poll_fn(
            |cx| match self.connection.state.borrow_mut().pipe(self.id) {
                Some(pipe) if !pipe.is_closed => {
                    pipe.read_by(cx.waker());
                    Poll::Pending
                }
                None if self.id >= UNSAID => Poll::Pending,
                Some(_) | None => Poll::Ready(()),
            },
        )
        .await;
    }
}

impl SharedConnection {
    /// Another channel, where there is room for it.
    pub(crate) fn open(self: &Rc<Self>) -> Option<Channel> {
        if !self.is_whole() {
            return None;
        }
        let id = self.state.borrow_mut().open()?;
        Some(Channel::new(self.clone(), id))
    }

    /// Carries what the channels say, until the peer opens one: `None` at the connection's
    /// end. Has to run all the time, by one task. Cancel-safe.
    pub(crate) async fn next(self: &Rc<Self>) -> Option<Channel> {
        let id = poll_fn(|cx| self.poll_next(true, cx)).await?;
        Some(Channel::new(self.clone(), id))
    }
}

impl Channel {
    pub(super) fn new(connection: Rc<SharedConnection>, id: u32) -> Self {
        let id = Cell::new(id);
        Self { connection, id }
    }

    pub(crate) fn connection(&self) -> &SharedConnection {
        &self.connection
    }

    /// What tells of its end.
    pub(in crate::tunnel) fn end(&self) -> ChannelEnd {
        ChannelEnd {
            connection: self.connection.clone(),
            id: self.id.get(),
        }
    }

    /// 0 once the peer has closed it, or what carries it has ended, and all was read.
    pub(in crate::tunnel) fn poll_read(
        &self,
        buffer: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match self.try_read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if let Some(pipe) = self.connection.state.borrow_mut().pipe(self.id.get()) {
                    pipe.read_by(cx.waker());
                }
                Poll::Pending
            }
            done => Poll::Ready(done),
        }
    }

    pub(in crate::tunnel) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.connection.state.borrow_mut();
        let is_readable = state
            .pipe(self.id.get())
            .is_none_or(|pipe| pipe.is_readable());
        match is_readable {
            true => Ok(state.read(self.id.get(), buffer)),
            false => Err(ErrorKind::WouldBlock.into()),
        }
    }

    pub(in crate::tunnel) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.connection.state.borrow_mut();
        let id = self.id.get();
        if state.is_too_late(id) || state.pipe(id).is_none_or(|pipe| pipe.is_closed) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        match state.write(&self.id, bytes) {
            0 if !bytes.is_empty() => Err(ErrorKind::WouldBlock.into()),
            sent => Ok(sent),
        }
    }

    pub(in crate::tunnel) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.connection.state.borrow_mut();
        match state.may_write(self.id.get(), cx.waker()) {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    /// The peer is told that nothing of what it has opened the channel for was looked at.
    pub(crate) fn refuse(self) {
        self.connection.state.borrow_mut().refuse(self.id.get());
    }

    /// What it takes at once, as far as is known now: more would wait here. At least a record, for
    /// who has nothing to wait for.
    pub(in crate::tunnel) fn takes_at_once(&self) -> usize {
        let mut state = self.connection.state.borrow_mut();
        let to_go = state.pipe(self.id.get()).map_or(0, |pipe| pipe.to_go());
        to_go.max(MAX_PLAINTEXT)
    }

    /// Nothing that was written ever left, and nothing will.
    pub(in crate::tunnel) fn nothing_was_sent(&self) -> bool {
        let mut state = self.connection.state.borrow_mut();
        let id = self.id.get();
        let was_sent = state.pipe(id).is_none_or(|pipe| pipe.was_sent);
        !was_sent && (state.broken().is_some() || state.is_too_late(id))
    }

    /// Why it has ended. Its own end is the peer's word, whatever became of the others; and a
    /// protocol that was broken is told once, of the connection: its streams are lost with it.
    pub(in crate::tunnel) fn broken(&self) -> Broken {
        let mut state = self.connection.state.borrow_mut();
        let was_cut = state.pipe(self.id.get()).is_some_and(|pipe| pipe.was_cut);
        match state.broken() {
            Some(Broken::Refused) if was_cut => Broken::Refused,
            _ => Broken::Lost,
        }
    }

    /// Neither it nor what carries it has ended, as far as that can be known now.
    pub(in crate::tunnel) fn is_whole(&self) -> bool {
        let mut state = self.connection.state.borrow_mut();
        let is_open = state
            .pipe(self.id.get())
            .is_some_and(|pipe| !pipe.is_closed);
        drop(state);
        is_open && self.connection.is_whole()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.connection.state.borrow_mut().close(self.id.get());
    }
}
