//! One connection between two agents, between its streams.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpStream;

use super::ProtocolError;
use super::broken::{Broken, LINGER, RECEIVE_BYTES, with_received};
use super::frame::{self, GENERATIONS, HEADER, Kind, MAX_RESET, Open};
use super::layer::Layer;
use super::relay::Relay;
use super::shared::Channel;
use super::stream::{self, Between};
use super::wire::{Carrier, Wire};
use crate::io::Held;
use crate::model::TlsParameters;
use crate::tls::{HEAD, MAX_CIPHERTEXT, Opened, PeerId, Session, TAIL};

/// Ciphertext read in one go between streams: an OPEN and what follows it, no more than is
/// looked at before others run.
const BETWEEN_BYTES: usize = 2 * MAX_CIPHERTEXT;

/// A stream that the peer opened.
#[derive(Debug)]
pub(crate) struct IncomingStream {
    pub(crate) open: Open,
    pub(crate) relay: Relay,
}

/// A verified TLS connection that carries streams one after the other.
pub(crate) struct Connection {
    wire: Wire,
    pub(super) layer: Layer,
    peer: PeerId,
    tls: TlsParameters,
    /// Ciphertext received and not opened yet; without memory when empty.
    pub(super) received: Held,
    /// Sealed bytes that the socket did not take yet, from `unsent_at` on.
    pub(super) unsent: Held,
    unsent_at: usize,
    /// Of the last stream.
    pub(super) generation: u8,
    /// A stream was begun on it before.
    used: bool,
    /// A RESET of the last stream came after its end.
    crossed: bool,
    /// Either side said that there will be no more streams.
    pub(super) going_away: bool,
    opened: Instant,
    /// Neither certificate is valid any more after this.
    expires: SystemTime,
}

impl Connection {
    /// `own_not_after`: end of the own certificate's validity.
    #[must_use]
    pub(crate) fn new(
        tcp: TcpStream,
        session: Session,
        own_not_after: SystemTime,
        now: Instant,
    ) -> Self {
        Self {
            wire: Wire::Socket(Arc::new(tcp)),
            expires: own_not_after.min(session.peer.not_after()),
            layer: Layer::Tls(Box::new(session.records)),
            peer: session.peer,
            tls: session.parameters,
            received: session.early.into(),
            unsent: Held::default(),
            unsent_at: 0,
            // The first stream's is 0.
            generation: GENERATIONS - 1,
            used: false,
            crossed: false,
            going_away: false,
            opened: now,
        }
    }

    /// One whose streams a channel of a shared connection carries.
    #[must_use]
    pub(crate) fn on(channel: Channel) -> Self {
        let shared = channel.connection();
        Self {
            expires: shared.expires(),
            layer: Layer::Bare,
            peer: shared.peer().clone(),
            tls: shared.tls(),
            received: Held::default(),
            unsent: Held::default(),
            unsent_at: 0,
            generation: GENERATIONS - 1,
            // What carries it may have been there for long.
            used: true,
            crossed: false,
            going_away: false,
            opened: shared.opened(),
            wire: Wire::Channel(channel),
        }
    }

    /// Others' streams have it in common.
    #[must_use]
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.wire, Wire::Channel(_))
    }

    #[must_use]
    pub(crate) fn peer(&self) -> &PeerId {
        &self.peer
    }

    /// Who is at the other end, and when either certificate ends.
    #[must_use]
    pub(crate) fn shown(&self) -> (&PeerId, SystemTime) {
        (&self.peer, self.expires)
    }

    /// What its handshake agreed on.
    #[must_use]
    pub(crate) fn tls(&self) -> TlsParameters {
        self.tls
    }

    /// Its socket, where it has one to itself.
    #[cfg(test)]
    pub(super) fn tcp(&self) -> Option<&Arc<TcpStream>> {
        match &self.wire {
            Wire::Socket(socket) => Some(socket),
            Wire::Channel(_) => None,
        }
    }

    /// What carries it, for who waits for its failure.
    #[must_use]
    pub(crate) fn carrier(&self) -> Carrier {
        self.wire.carrier()
    }

    #[must_use]
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.opened)
    }

    #[must_use]
    pub(crate) fn expires(&self) -> SystemTime {
        self.expires
    }

    /// Begins the next stream. The OPEN travels with the first data.
    pub(crate) fn open(&mut self, open: &Open) -> Relay {
        self.begin(stream::next(self.generation));
        let reused = std::mem::replace(&mut self.used, true);
        Relay::client(self.generation, open.encode(self.generation), reused)
    }

    /// Waits for the peer's next OPEN; `None` when the peer says or shows that
    /// there is none.
    pub(crate) async fn accept(&mut self) -> Result<Option<Box<IncomingStream>>, ProtocolError> {
        loop {
            match poll_fn(|cx| self.poll_accept(cx)).await {
                Ok(Some(taken)) => return Ok(Some(taken)),
                Ok(None) if self.going_away => return Ok(None),
                Ok(None) => {}
                Err(Broken::Protocol(error)) => return Err(error),
                Err(Broken::Lost | Broken::Refused) => return Ok(None),
            }
        }
    }

    /// Takes what comes in place, up to an OPEN or a GOAWAY.
    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Box<IncomingStream>>, Broken>> {
        with_received(|buffer| {
            let mut len = self.restore(buffer);
            let mut at = 0;
            loop {
                match self.layer.open(&mut buffer[at..len])? {
                    Opened::NeedMore => {}
                    Opened::Closed => return Poll::Ready(Err(Broken::Lost)),
                    Opened::Handled { consumed } => {
                        at += consumed;
                        continue;
                    }
                    Opened::Data {
                        plaintext,
                        consumed,
                    } => {
                        let plaintext = at + plaintext.start..at + plaintext.end;
                        at += consumed;
                        let taken = self.take_between(&buffer[plaintext])?;
                        if taken.is_none() && !self.going_away {
                            continue;
                        }
                        self.store(&buffer[at..len]);
                        return Poll::Ready(Ok(taken));
                    }
                }
                // A part of a record is left, at most.
                buffer.copy_within(at..len, 0);
                len -= at;
                at = 0;
                match self.poll_receive(&mut buffer[len..BETWEEN_BYTES], cx) {
                    Poll::Ready(Ok(n)) => len += n,
                    Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                    Poll::Pending => {
                        self.store(&buffer[..len]);
                        return Poll::Pending;
                    }
                }
            }
        })
    }

    fn take_between(&mut self, plaintext: &[u8]) -> Result<Option<Box<IncomingStream>>, Broken> {
        let mut at = 0;
        while at < plaintext.len() {
            let found = frame::parse(plaintext, at)?;
            let payload = &plaintext[found.start..found.start + found.len];
            at = found.start + found.len;
            match stream::between(&found, self.generation)? {
                Between::Skip => self.crossed()?,
                Between::Goaway => self.going_away = true,
                Between::Open => {
                    let open = Open::decode(payload)?;
                    self.begin(found.generation);
                    let mut relay = Relay::server(found.generation);
                    relay.take_early(plaintext, at)?;
                    return Ok(Some(Box::new(IncomingStream { open, relay })));
                }
            }
        }
        Ok(None)
    }

    fn begin(&mut self, generation: u8) {
        self.generation = generation;
        self.crossed = false;
    }

    /// One RESET may cross the end of its stream. Whoever sends more only wants
    /// them read.
    fn crossed(&mut self) -> Result<(), ProtocolError> {
        match std::mem::replace(&mut self.crossed, true) {
            false => Ok(()),
            true => Err(ProtocolError::OutOfPlace),
        }
    }

    /// The peer says once that it takes, or opens, no more streams.
    pub(super) fn goes_away(&mut self) -> Result<(), ProtocolError> {
        match std::mem::replace(&mut self.going_away, true) {
            false => Ok(()),
            true => Err(ProtocolError::OutOfPlace),
        }
    }

    /// May a stream begin on this idle connection? Looks at what came meanwhile.
    pub(crate) fn is_idle_and_whole(&mut self) -> bool {
        if self.going_away || !self.unsent.is_empty() || !self.wire.is_whole() {
            return false;
        }
        with_received(|buffer| {
            let mut len = self.restore(buffer);
            match self.wire.try_read(&mut buffer[len..]) {
                Ok(0) => return false,
                Ok(n) => len += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
            let mut at = 0;
            loop {
                match self.layer.open(&mut buffer[at..len]) {
                    Ok(Opened::NeedMore) => break,
                    Ok(Opened::Handled { consumed }) => at += consumed,
                    Ok(Opened::Data {
                        plaintext,
                        consumed,
                    }) => {
                        let plaintext = &buffer[at + plaintext.start..at + plaintext.end];
                        if !self.only_a_crossed_reset(plaintext) {
                            return false;
                        }
                        at += consumed;
                    }
                    Ok(Opened::Closed) | Err(_) => return false,
                }
            }
            self.store(&buffer[at..len]);
            true
        })
    }

    fn only_a_crossed_reset(&mut self, plaintext: &[u8]) -> bool {
        let mut at = 0;
        while at < plaintext.len() {
            match frame::parse(plaintext, at) {
                Ok(f) if stream::between(&f, self.generation) == Ok(Between::Skip) => {
                    at = f.start + f.len;
                }
                _ => return false,
            }
            if self.crossed().is_err() {
                return false;
            }
        }
        true
    }

    /// Tells the peer that the last stream is the last one taken, ends TLS, and
    /// closes behind the peer: an OPEN that is on its way would, unread, turn
    /// the close into a RST, which may overtake the GOAWAY that it needs.
    pub(crate) async fn go_away(mut self) {
        self.going_away = true;
        let last = self.generation;
        if self.queue(Kind::Goaway, last, &[last, 0]).is_err() {
            return;
        }
        if let Some(alert) = self.layer.close_notify() {
            self.unsent.extend(alert.as_ref());
        }
        // A peer that does not read, or stays, finds the connection closed.
        let _in_time = tokio::time::timeout(LINGER, self.farewell()).await;
    }

    async fn farewell(&mut self) {
        if poll_fn(|cx| self.poll_flush(cx)).await.is_err() {
            return;
        }
        self.hang_up();
        // What still comes was not taken, as the GOAWAY says. One read a turn:
        // whoever goes on sending holds up nobody, and its time runs.
        let closed = |cx: &mut Context<'_>| {
            with_received(|buffer| {
                if ready!(self.poll_receive(buffer, cx)).is_err() {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
        };
        poll_fn(closed).await;
    }

    /// Ends the own direction, so that the peer need not wait for the close.
    pub(crate) fn hang_up(&self) {
        self.wire.hang_up();
    }

    /// Closing will send RST, past what the peer has not read.
    pub(super) fn reset_on_close(&self) {
        self.wire.reset_on_close();
    }

    /// Takes what had arrived before the connection failed, whatever the
    /// readiness says; no more than is ever read in one go.
    pub(super) fn receive_rest(&mut self) {
        let mut room = RECEIVE_BYTES.saturating_sub(self.received.len());
        let mut part = [0; 4096];
        while room > 0 {
            let len = part.len().min(room);
            match self.wire.read_rest(&mut part[..len]) {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    self.received.extend(&part[..n]);
                    room -= n;
                }
            }
        }
    }

    /// Seals one small frame behind what is unsent.
    pub(super) fn queue(
        &mut self,
        kind: Kind,
        generation: u8,
        payload: &[u8],
    ) -> Result<(), Broken> {
        const SMALL: usize = MAX_RESET;
        let mut record = [0; HEAD + HEADER + SMALL + TAIL];
        let len = payload.len().min(SMALL);
        let plaintext = &mut record[HEAD..];
        frame::put_header(plaintext, kind, generation, len);
        plaintext[HEADER..HEADER + len].copy_from_slice(&payload[..len]);
        self.before_seal()?;
        let sealed = self.layer.seal(&mut record, HEADER + len)?;
        self.unsent.extend(&record[..sealed]);
        Ok(())
    }

    /// What the record layer itself must say before anything else is sealed.
    pub(super) fn before_seal(&mut self) -> Result<(), Broken> {
        if let Some(bytes) = self.layer.take_outgoing()? {
            self.unsent.extend(&bytes);
        }
        Ok(())
    }

    /// Sends `sealed` behind what is unsent; what the socket does not take is kept.
    pub(super) fn send(&mut self, sealed: &[u8]) -> io::Result<()> {
        let taken = if self.unsent.is_empty() {
            match self.wire.try_write(sealed) {
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
                Err(e) => return Err(e),
            }
        } else {
            0
        };
        let rest = &sealed[taken..];
        if !rest.is_empty() {
            self.unsent.reserve_exact(rest.len());
            self.unsent.extend(rest);
        }
        Ok(())
    }

    /// Nothing is known of an end of what carries it.
    pub(super) fn is_whole(&self) -> bool {
        self.wire.is_whole()
    }

    /// What is worth being read for it at once: more would wait here.
    pub(crate) fn takes_at_once(&self) -> usize {
        self.wire.takes_at_once()
    }

    /// Why nothing more comes.
    pub(super) fn broken(&self) -> Broken {
        self.wire.broken()
    }

    /// It has ended, and nothing that was written to it ever left.
    pub(super) fn nothing_was_sent(&self) -> bool {
        self.wire.nothing_was_sent()
    }

    /// Everything was handed to the socket.
    pub(super) fn is_flushed(&self) -> bool {
        self.unsent.is_empty()
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.unsent_at < self.unsent.len() {
            ready!(self.wire.poll_write_ready(cx))?;
            match self.wire.try_write(&self.unsent[self.unsent_at..]) {
                Ok(n) => self.unsent_at += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        if !self.unsent.is_empty() {
            self.unsent.clear();
            self.unsent_at = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads ciphertext; the peer's FIN is a loss, for it never comes in order
    /// while more is expected.
    pub(super) fn poll_receive(
        &mut self,
        buffer: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Broken>> {
        Poll::Ready(match ready!(self.wire.poll_read(buffer, cx)) {
            Ok(0) | Err(_) => Err(self.wire.broken()),
            Ok(n) => Ok(n),
        })
    }

    /// Puts what was kept at the front of `buffer`; gives its length.
    pub(super) fn restore(&mut self, buffer: &mut [u8]) -> usize {
        let kept = std::mem::take(&mut self.received);
        buffer[..kept.len()].copy_from_slice(&kept);
        kept.len()
    }

    /// Keeps what is not opened yet.
    pub(super) fn store(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            self.received = Held::copied(rest);
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("peer", self.peer.spiffe_id())
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}
