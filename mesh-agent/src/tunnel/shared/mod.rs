//! One connection for the streams of many clients: channels, each a pipe of bytes both ways
//! that carries a connection's streams, as a socket would.
//!
//! Small messages of many clients go out together, sealed and sent by one call, and come in by
//! one: between two agents that is most of what a small request costs. What it costs: a window
//! for each channel, and one fate for all of them. So big bodies, and what is no request, have
//! connections of their own. Invariants: a byte of one channel never reaches another; what a
//! channel's reader does not take is bounded by its window, what the socket does not take by
//! the outbox; who drives it yields.

mod channel;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod looks;
mod outbox;
mod pipe;
mod state;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant, SystemTime};

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

pub(crate) use self::channel::{Channel, ChannelEnd};
use self::looks::{Doubts, Seen, Use};
use self::state::{State, Wakers};
/// As `docs/protocol.md` has them.
#[cfg(test)]
pub(super) mod limits {
    pub(in crate::tunnel) use super::frame::HEADER as CHANNEL_FRAME;
    pub(in crate::tunnel) use super::looks::{GONE, UNHEARD};
    pub(in crate::tunnel) use super::outbox::{FLOODED, FULL, RESERVED};
    pub(in crate::tunnel) use super::pipe::{MAX_WINDOW, PARTS, WINDOW};
    pub(in crate::tunnel) use super::state::{MAX_CHANNELS, UNSAID};
    pub(in crate::tunnel) use super::tests::example;
    pub(in crate::tunnel) use super::{FRAMES_PER_POLL, LOOK};
}
use super::ProtocolError;
use super::broken::{Broken, LINGER, with_received};
use super::layer::goaway_before_the_first;
use super::stream::Role;
use crate::io::{Account, Held, abort, bound_unsent, poll_read, silence};
use crate::model::TlsParameters;
use crate::tls::{Opened, PeerId, Records, Session};

/// Reads before neighbours run.
const READS_PER_POLL: usize = 4;
/// Frames, and records without any, before neighbours run.
pub(in crate::tunnel) const FRAMES_PER_POLL: usize = 1024;
/// What has been heard of this long ago may have ended meanwhile.
const FRESH: Duration = Duration::from_millis(2);
/// And its peer need not be asked after before this.
const LATELY: Duration = Duration::from_secs(1);
/// It is looked at this often.
pub(in crate::tunnel) const LOOK: Duration = Duration::from_secs(5);

/// A verified TLS connection that carries channels.
pub(crate) struct SharedConnection {
    tcp: TcpStream,
    peer: PeerId,
    tls: TlsParameters,
    opened: Instant,
    /// Neither certificate is valid any more after this.
    expires: SystemTime,
    state: RefCell<State>,
    io: RefCell<Io>,
    heard: Cell<Instant>,
    doubts: Cell<Doubts>,
}

/// What only the driver uses.
struct Io {
    records: Records,
    /// Ciphertext received and not opened yet.
    received: Held,
    /// Sealed bytes that the socket did not take yet, from `unsent_at` on.
    unsent: Held,
    unsent_at: usize,
}

impl SharedConnection {
    /// For who opens channels; `own_not_after`: end of the own certificate's validity;
    /// `account`: of the pod whose connection it is, of what waits unread.
    pub(crate) fn client(
        tcp: TcpStream,
        session: Session,
        own_not_after: SystemTime,
        account: Arc<Account>,
    ) -> Rc<Self> {
        Self::new(Role::Client, tcp, session, own_not_after, account)
    }

    /// For who takes them.
    pub(crate) fn server(
        tcp: TcpStream,
        session: Session,
        own_not_after: SystemTime,
        account: Arc<Account>,
    ) -> Rc<Self> {
        Self::new(Role::Server, tcp, session, own_not_after, account)
    }

    fn new(
        role: Role,
        tcp: TcpStream,
        session: Session,
        own_not_after: SystemTime,
        account: Arc<Account>,
    ) -> Rc<Self> {
        let now = Instant::now();
        // What is small would wait behind megabytes in the kernel.
        bound_unsent(&tcp);
        Rc::new(Self {
            tcp,
            expires: own_not_after.min(session.peer.not_after()),
            peer: session.peer,
            tls: session.parameters,
            opened: now,
            state: RefCell::new(State::new(role, goaway_before_the_first(), account)),
            io: RefCell::new(Io {
                records: session.records,
                received: session.early.into(),
                unsent: Held::default(),
                unsent_at: 0,
            }),
            heard: Cell::new(now),
            doubts: Cell::default(),
        })
    }

    /// Who is at the other end, and when either certificate ends.
    pub(crate) fn shown(&self) -> (&PeerId, SystemTime) {
        (&self.peer, self.expires)
    }

    pub(crate) fn peer(&self) -> &PeerId {
        &self.peer
    }

    pub(crate) fn tls(&self) -> TlsParameters {
        self.tls
    }

    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.opened)
    }

    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    pub(crate) fn expires(&self) -> SystemTime {
        self.expires
    }

    pub(crate) fn open_channels(&self) -> usize {
        self.state.borrow().open_channels()
    }

    /// It ends behind the channels that are open.
    pub(crate) fn is_closing(&self) -> bool {
        self.state.borrow().is_closing()
    }

    /// It has as many channels as there may be.
    pub(crate) fn is_full(&self) -> bool {
        self.open_channels() >= state::MAX_CHANNELS
    }

    /// There are no more channels; those that are open go on, and it ends behind the last.
    pub(crate) fn close_when_empty(&self) {
        self.state.borrow_mut().close_when_empty();
    }

    /// Ends all channels now, also those that nobody looks at.
    pub(crate) fn end(&self) {
        let mut wakers = Wakers::new();
        self.state.borrow_mut().broke(Broken::Lost, &mut wakers);
        // Fails only where the peer has closed already.
        let _gone = SockRef::from(&self.tcp).shutdown(Shutdown::Both);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// From now on until that is dropped somebody drives it: it ends with that.
    pub(crate) fn driven(self: &Rc<Self>) -> Driven {
        Driven(self.clone())
    }

    /// Closes it once it had no channel for `idle`, and ends it where its peer is gone with
    /// what it was sent.
    pub(crate) async fn look_after(&self, idle: Duration) -> Infallible {
        let (mut of, mut was_flooded) = (Use::default(), false);
        loop {
            sleep(LOOK).await;
            let now = Instant::now();
            // Nor one that takes nothing of what it asks for.
            let is_flooded = self.state.borrow().outbox.is_flooded();
            let is_stuck = std::mem::replace(&mut was_flooded, is_flooded) && is_flooded;
            if is_stuck || self.look(now).is_gone(now) {
                // Whose streams are told that they are lost: the kernel must not send what it
                // still has when the network is back. A channel that nobody looks at would keep
                // the socket open.
                abort(&self.tcp);
                self.end();
            }
            let channels = self.state.borrow().channels();
            if of.is_over(channels, idle, now) {
                self.close_when_empty();
            }
        }
    }

    /// What is known of its peer now.
    fn look(&self, now: Instant) -> Doubts {
        let mut doubts = self.doubts.get();
        if let Some(kernel) = silence(&self.tcp) {
            let seen = Seen {
                is_unanswered: kernel.is_unanswered,
                acknowledged: kernel.acknowledged,
                is_asked: self.state.borrow().is_asked(),
                unheard: now.saturating_duration_since(self.heard.get()),
            };
            doubts.look(&seen, now);
            self.doubts.set(doubts);
        }
        doubts
    }

    /// Behind the last channel, for who takes them: the peer closes first, or what it has sent
    /// meanwhile would turn the close into a RST, which may overtake what it has to know.
    pub(crate) async fn farewell(self: &Rc<Self>) {
        let closed = poll_fn(|cx| self.poll_next(false, cx));
        let _in_time = timeout(LINGER, closed).await;
    }

    /// Behind the last channel, for who opens them: what is left is sent.
    pub(crate) async fn flush(&self) {
        let flushed = poll_fn(|cx| {
            let io = &mut *self.io.borrow_mut();
            self.poll_flush(io, &mut Wakers::new(), cx)
        });
        let _in_time = timeout(LINGER, flushed).await;
    }

    /// How the peer broke the protocol.
    pub(crate) fn error(&self) -> Option<ProtocolError> {
        match self.state.borrow().broken() {
            Some(Broken::Protocol(error)) => Some(error),
            Some(Broken::Lost | Broken::Refused) | None => None,
        }
    }

    /// The peer has ended TLS with an alert: it does not want us.
    pub(crate) fn is_refused(&self) -> bool {
        self.state.borrow().broken() == Some(Broken::Refused)
    }

    /// Nothing has come that says that it is over; asks the kernel where nothing was heard of
    /// it lately.
    fn is_whole(&self) -> bool {
        if self.state.borrow().broken().is_some() {
            return false;
        }
        let now = Instant::now();
        let silent = now.saturating_duration_since(self.heard.get());
        if silent < FRESH {
            return true;
        }
        if silent > LATELY && !self.look(now).is_good(now) {
            return false;
        }
        let mut byte = [MaybeUninit::uninit()];
        match SockRef::from(&self.tcp).peek(&mut byte) {
            Ok(n) => n > 0,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    /// `is_last`: it ends with its last channel.
    fn poll_next(&self, is_last: bool, cx: &mut Context<'_>) -> Poll<Option<u32>> {
        let mut wakers = Wakers::new();
        let polled = self.poll_io(is_last, &mut wakers, cx);
        let polled = match polled {
            Poll::Ready(Err(broken)) => {
                self.state.borrow_mut().broke(broken, &mut wakers);
                Poll::Ready(None)
            }
            Poll::Ready(Ok(id)) => Poll::Ready(Some(id)),
            Poll::Pending => Poll::Pending,
        };
        wakers.into_iter().for_each(Waker::wake);
        polled
    }

    fn poll_io(
        &self,
        is_last: bool,
        wakers: &mut Wakers,
        cx: &mut Context<'_>,
    ) -> Poll<Result<u32, Broken>> {
        let io = &mut *self.io.borrow_mut();
        self.state.borrow_mut().driven_by(cx.waker());
        let (mut budget, mut reads) = (FRAMES_PER_POLL, 0);
        loop {
            // What comes is read whether or not the socket takes more, within a bound.
            let flushed = self.poll_flush(io, wakers, cx);
            if let Poll::Ready(Err(broken)) = flushed {
                let heard = self.last_words(io, wakers);
                return Poll::Ready(Err(heard.err().unwrap_or(broken)));
            }
            if is_last && self.state.borrow().is_over() {
                return Poll::Ready(Err(Broken::Lost));
            }
            if flushed.is_pending() && self.state.borrow().outbox.is_flooded() {
                return Poll::Pending;
            }
            if let Some(id) = self.state.borrow_mut().take_opened() {
                return Poll::Ready(Ok(id));
            }
            if reads == READS_PER_POLL || budget == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            reads += 1;
            ready!(self.poll_records(io, &mut budget, wakers, cx))?;
        }
    }

    fn poll_flush(
        &self,
        io: &mut Io,
        wakers: &mut Wakers,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            while io.unsent_at < io.unsent.len() {
                ready!(self.tcp.poll_write_ready(cx))?;
                match self.tcp.try_write(&io.unsent[io.unsent_at..]) {
                    Ok(n) => io.unsent_at += n,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    Err(e) => return Poll::Ready(Err(e.into())),
                }
            }
            let mut state = self.state.borrow_mut();
            state.outbox.reuse(std::mem::take(&mut io.unsent));
            io.unsent_at = 0;
            if let Some(update) = io.records.take_outgoing()? {
                io.unsent.extend(&update);
            }
            if !state.outbox.is_empty() {
                let sealed = state.outbox.seal(&mut io.records)?;
                match io.unsent.is_empty() {
                    true => io.unsent = sealed,
                    false => io.unsent.extend(&sealed),
                }
                state.sent(wakers);
            }
            if io.unsent.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// A socket that takes nothing more may have brought answers, or a word of what was not
    /// taken: no more than is ever read in one go, whatever the readiness says.
    fn last_words(&self, io: &mut Io, wakers: &mut Wakers) -> Result<(), Broken> {
        with_received(|buffer| {
            let before = std::mem::take(&mut io.received);
            let mut len = before.len();
            buffer[..len].copy_from_slice(&before);
            while let Ok(n @ 1..) =
                io::Read::read(&mut &*SockRef::from(&self.tcp), &mut buffer[len..])
            {
                len += n;
            }
            let mut budget = usize::MAX;
            let input = (&mut budget, wakers);
            self.open_all(io, &mut buffer[..len], &mut 0, input)
        })
    }

    /// One read of ciphertext, and everything in it.
    fn poll_records(
        &self,
        io: &mut Io,
        budget: &mut usize,
        wakers: &mut Wakers,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        with_received(|buffer| {
            let before = std::mem::take(&mut io.received);
            let mut len = before.len();
            buffer[..len].copy_from_slice(&before);
            let mut at = 0;
            self.open_all(io, &mut buffer[..len], &mut at, (budget, wakers))?;
            if at == 0 {
                // Nothing, or a part of a record.
                let read = self.poll_receive(&mut buffer[len..], cx);
                match read {
                    Poll::Ready(Ok(n)) => len += n,
                    Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                    Poll::Pending => {
                        if len > 0 {
                            io.received = Held::copied(&buffer[..len]);
                        }
                        return Poll::Pending;
                    }
                }
                self.heard.set(Instant::now());
                self.open_all(io, &mut buffer[..len], &mut at, (budget, wakers))?;
            }
            if at < len {
                io.received = Held::copied(&buffer[at..len]);
            }
            Poll::Ready(Ok(()))
        })
    }

    fn poll_receive(&self, buffer: &mut [u8], cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        Poll::Ready(match ready!(poll_read(&self.tcp, buffer, cx)) {
            Ok(0) | Err(_) => Err(Broken::Lost),
            Ok(n) => Ok(n),
        })
    }

    fn open_all(
        &self,
        io: &mut Io,
        buffer: &mut [u8],
        at: &mut usize,
        (budget, wakers): (&mut usize, &mut Wakers),
    ) -> Result<(), Broken> {
        let mut state = self.state.borrow_mut();
        while *budget > 0 {
            match io.records.open(&mut buffer[*at..])? {
                Opened::NeedMore => return Ok(()),
                Opened::Closed => return Err(Broken::Lost),
                Opened::Handled { consumed } => {
                    *at += consumed;
                    *budget -= 1;
                }
                Opened::Data {
                    plaintext,
                    consumed,
                } => {
                    let plaintext = &buffer[*at + plaintext.start..*at + plaintext.end];
                    let frames = state.take(plaintext, wakers)?;
                    *at += consumed;
                    *budget = budget.saturating_sub(frames);
                }
            }
        }
        Ok(())
    }
}

/// Ends the connection when dropped, whatever ends who drives it.
#[derive(Debug)]
pub(crate) struct Driven(Rc<SharedConnection>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl std::fmt::Debug for SharedConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedConnection")
            .field("peer", self.peer.spiffe_id())
            .finish_non_exhaustive()
    }
}
