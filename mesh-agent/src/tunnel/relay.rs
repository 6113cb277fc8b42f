//! Carries one stream between an application's socket and a connection.
//!
//! One future for both directions. Bytes are read into the worker's scratch
//! buffers, sealed or opened in place and written out in one call; memory of
//! its own is needed only for what one of the sockets did not take.

mod bytes;
mod receiving;
mod sending;
mod taker;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, timeout};

#[cfg(test)]
pub(super) use {receiving::FRAMES_PER_POLL, sending::CREDIT_BYTES};

use super::ProtocolError;
use super::broken::Broken;
use super::connection::Connection;
use super::frame::{self, HEADER, Kind, Prefix, ResetReason};
use super::reset::{self, Reset};
use super::stream::{Event, Role, Stream};
use crate::io::Held;
use crate::model::{ByteCounts, ByteMeter, PeerRule};

/// An ACCEPT that no data follows for this long travels alone.
pub(super) const ACCEPT_DELAY: Duration = Duration::from_millis(5);
/// A stream that sends this much before anything came back is an upload: its
/// client waits for the ACCEPT.
pub(super) const UPLOAD_BYTES: u64 = 8 * 1024;
/// A stream is begun again this often: an agent that ends may refuse on more
/// than one of its workers.
pub(super) const MAX_REPLAYS: u8 = 3;
/// The peer's answer to a RESET is waited for this long.
pub(super) const RESET_TIMEOUT: Duration = Duration::from_secs(1);

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// Both directions ended with FIN, and everything was passed on.
    Finished,
    /// The application's socket failed.
    ResetByApplication,
    /// The peer reset the stream.
    ResetByPeer(ResetReason),
    /// The peer provably did not take the stream: it may be replayed.
    NotTaken,
    /// The connection broke; the peer may have acted on what was sent.
    Lost,
    /// The peer ended TLS with an alert.
    Refused,
    Protocol(ProtocolError),
}

/// Which socket failed, and how.
enum Fail {
    Application,
    Connection(Broken),
    End(StreamEnd),
}

impl From<Broken> for Fail {
    fn from(broken: Broken) -> Self {
        Self::Connection(broken)
    }
}

impl From<ProtocolError> for Fail {
    fn from(error: ProtocolError) -> Self {
        Self::Connection(Broken::Protocol(error))
    }
}

impl Fail {
    fn end(self) -> StreamEnd {
        match self {
            Self::Application => StreamEnd::ResetByApplication,
            Self::Connection(Broken::Lost) => StreamEnd::Lost,
            Self::Connection(Broken::Refused) => StreamEnd::Refused,
            Self::Connection(Broken::Protocol(error)) => StreamEnd::Protocol(error),
            Self::End(end) => end,
        }
    }
}

/// What an application sent to another one that did not get it.
#[derive(Debug, Default)]
pub(crate) struct Unseen {
    pub(crate) bytes: Vec<u8>,
    /// And then its FIN.
    pub(crate) ended: bool,
}

/// One stream's state.
#[derive(Debug)]
pub(crate) struct Relay {
    stream: Stream,
    role: Role,
    /// OPEN or ACCEPT, until it was sent.
    prefix: Prefix,
    /// Send the prefix now, without waiting for data.
    prefix_due: bool,
    /// Opened bytes that the application did not take yet.
    rest: Held,
    rest_at: usize,
    /// The peer's RESET, until it is reported.
    peer_reset: Option<ResetReason>,
    /// How it failed for who reads and writes it itself.
    failed: Option<StreamEnd>,
    /// FIN was passed on to the application.
    fin_passed: bool,
    /// The application's FIN was read.
    application_ended: bool,
    /// What was sent and may have to be sent again; `None` where it need not.
    replay: Option<Vec<u8>>,
    /// No more than can be kept is sent before the ACCEPT.
    held_back: bool,
    /// To be sent before anything is read: what a former attempt had read.
    resend: Vec<u8>,
    /// Connections that it was begun again on.
    replays: u8,
    /// The last read filled a record: read many next time.
    wide: bool,
    bytes: ByteCounts,
    /// Where the bytes are shown, once somebody looks at the connection.
    meter: Option<Arc<ByteMeter>>,
    /// The rule that the peer's RESET named.
    denied_by: Option<Box<PeerRule>>,
}

impl Relay {
    fn new(role: Role, generation: u8, prefix: Prefix) -> Self {
        Self {
            stream: Stream::new(role, generation),
            role,
            prefix,
            prefix_due: false,
            rest: Held::default(),
            rest_at: 0,
            peer_reset: None,
            failed: None,
            fin_passed: false,
            application_ended: false,
            replay: None,
            held_back: false,
            resend: Vec::new(),
            replays: 0,
            wide: false,
            bytes: ByteCounts::default(),
            meter: None,
            denied_by: None,
        }
    }

    pub(super) fn client(generation: u8, open: Prefix, reused: bool) -> Self {
        let mut relay = Self::new(Role::Client, generation, open);
        relay.replay = Some(Vec::new());
        relay.held_back = reused;
        relay
    }

    pub(super) fn server(generation: u8) -> Self {
        Self::new(Role::Server, generation, Prefix::new())
    }

    /// The application accepted: the peer is told with the first data back.
    pub(crate) fn accept(&mut self) {
        let mut prefix = Prefix::new();
        prefix.resize(HEADER, 0);
        frame::put_header(&mut prefix, Kind::Accept, self.stream.generation(), 0);
        self.prefix = prefix;
        self.stream.accept();
    }

    /// After [`StreamEnd::NotTaken`]: begins again on another connection with what was read so far.
    pub(crate) fn replay_on(&mut self, connection: &mut Connection, open: &super::Open) {
        let mut next = connection.open(open);
        next.resend = self.replay.take().unwrap_or_default();
        next.application_ended = self.application_ended;
        next.replays = self.replays + 1;
        // A miss after the last one is the application's to see.
        next.replay = (next.replays < MAX_REPLAYS).then(|| next.resend.clone());
        *self = next;
    }

    /// What the peer's application provably did not get, for another one. `None`: not
    /// all of it is known any more.
    pub(crate) fn take_unseen(&mut self) -> Option<Unseen> {
        let bytes = self.replay.take().filter(|_| !self.is_accepted())?;
        Some(Unseen {
            bytes,
            ended: self.application_ended,
        })
    }

    /// Of a stream that has not begun: this goes first.
    pub(crate) fn begin_with(&mut self, unseen: Unseen) {
        self.replay = Some(unseen.bytes.clone());
        self.resend = unseen.bytes;
        self.application_ended = unseen.ended;
    }

    /// Application bytes passed on so far. `sent`: from the stream's client to its server.
    #[must_use]
    pub(crate) fn bytes(&self) -> ByteCounts {
        self.bytes
    }

    /// The application here has ended its side.
    #[must_use]
    pub(crate) fn application_has_ended(&self) -> bool {
        self.application_ended
    }

    /// The peer's application accepted the stream.
    #[must_use]
    pub(crate) fn is_accepted(&self) -> bool {
        self.stream.is_accepted()
    }

    /// Shows the bytes there from now on, after each turn.
    pub(crate) fn show(&mut self, meter: Arc<ByteMeter>) {
        meter.set(self.bytes);
        self.meter = Some(meter);
    }

    /// The rule of the peer's policy that denied the stream, if it named one.
    pub(crate) fn take_denied_by(&mut self) -> Option<Box<PeerRule>> {
        self.denied_by.take()
    }

    /// Frames behind an OPEN in the same record.
    pub(super) fn take_early(
        &mut self,
        plaintext: &[u8],
        mut at: usize,
    ) -> Result<(), ProtocolError> {
        while at < plaintext.len() {
            let found = frame::parse(plaintext, at)?;
            let payload = &plaintext[found.start..found.start + found.len];
            at = found.start + found.len;
            match self.stream.receive(&found, payload)? {
                Event::Data => self.rest.extend(payload),
                Event::Fin => self.ends_record(at, plaintext.len())?,
                Event::Reset(reason) => {
                    self.reset_by_peer(reason, payload);
                    self.ends_record(at, plaintext.len())?;
                }
                Event::Skip => {}
                Event::Accepted | Event::Goaway { .. } => return Err(ProtocolError::OutOfPlace),
            }
        }
        Ok(())
    }

    /// Only a denial is somebody's rule.
    fn reset_by_peer(&mut self, reason: ResetReason, payload: &[u8]) {
        self.peer_reset = Some(reason);
        if reason == ResetReason::Denied && self.role == Role::Client {
            self.denied_by = reset::rule(payload).map(Box::new);
        }
    }

    /// FIN and RESET are the last frames of their record.
    fn ends_record(&self, at: usize, len: usize) -> Result<(), ProtocolError> {
        if at == len {
            Ok(())
        } else {
            Err(ProtocolError::AfterEnd)
        }
    }

    /// Carries until both directions ended or something failed; gives `None`
    /// where it goes on, for the peer has just accepted the stream. Cancel-safe:
    /// what was read and not passed on stays here and in the connection.
    pub(crate) async fn advance(
        &mut self,
        application: &TcpStream,
        connection: &mut Connection,
    ) -> Option<StreamEnd> {
        let opens = self.role == Role::Client && !self.prefix.is_empty();
        if opens && self.resend.is_empty() {
            // The request is often a moment behind the connect: it then
            // travels with the OPEN, in one record and one packet.
            tokio::task::yield_now().await;
            self.prefix_due = true;
        }
        self.step(application, connection).await
    }

    /// To the end.
    #[cfg(test)]
    pub(crate) async fn run(
        &mut self,
        application: &TcpStream,
        connection: &mut Connection,
    ) -> StreamEnd {
        loop {
            if let Some(end) = self.advance(application, connection).await {
                return end;
            }
        }
    }

    async fn step(
        &mut self,
        application: &TcpStream,
        connection: &mut Connection,
    ) -> Option<StreamEnd> {
        let mut delay = pin!(sleep(ACCEPT_DELAY));
        let accepted = self.stream.is_accepted();
        poll_fn(|cx| {
            let polled = self.poll(application, connection, delay.as_mut(), cx);
            if let Some(meter) = &self.meter {
                meter.set(self.bytes);
            }
            match polled {
                Poll::Ready(end) => Poll::Ready(Some(end.unwrap_or_else(Fail::end))),
                Poll::Pending if self.stream.is_accepted() != accepted => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    fn poll(
        &mut self,
        application: &TcpStream,
        connection: &mut Connection,
        delay: std::pin::Pin<&mut Sleep>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamEnd, Fail>> {
        if let Some(end) = self.failed {
            return Poll::Ready(Ok(end));
        }
        if let Some(reason) = self.peer_reset.take() {
            return Poll::Ready(Ok(StreamEnd::ResetByPeer(reason)));
        }
        let accepted = self.stream.is_accepted();
        let mut sending = self.poll_send(application, connection, cx)?;
        let receiving = self.poll_receive(Some(application), connection, cx)?;
        if sending.is_pending() && self.stream.is_accepted() != accepted {
            // The credit is lifted.
            sending = self.poll_send(application, connection, cx)?;
        }
        if sending.is_pending() && self.role == Role::Server && !self.prefix.is_empty() {
            self.prefix_due |= self.bytes.sent >= UPLOAD_BYTES || delay.poll_elapsed(cx);
            if self.prefix_due {
                sending = self.poll_send(application, connection, cx)?;
            }
        }
        if sending.is_ready() && receiving.is_ready() {
            Poll::Ready(Ok(StreamEnd::Finished))
        } else {
            Poll::Pending
        }
    }

    /// Both ways.
    fn carried(&self) -> u64 {
        self.bytes.sent + self.bytes.received
    }

    fn count_sent(&mut self, n: u64) {
        match self.role {
            Role::Client => self.bytes.sent += n,
            Role::Server => self.bytes.received += n,
        }
    }

    fn count_received(&mut self, n: u64) {
        match self.role {
            Role::Client => self.bytes.received += n,
            Role::Server => self.bytes.sent += n,
        }
    }

    /// Both directions have ended, and the connection may carry another stream.
    #[must_use]
    pub(crate) fn is_over(&self, connection: &Connection) -> bool {
        self.stream.is_over() && !connection.going_away
    }

    /// Memory held for bytes that the application did not take.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn rest_capacity(&self) -> usize {
        self.rest.capacity()
    }

    /// Ends the stream where it stands and waits for the peer's end of it.
    /// True when the connection may carry another one.
    pub(crate) async fn finish_reset(
        &mut self,
        connection: &mut Connection,
        reset: impl Into<Reset>,
    ) -> bool {
        if !self.prefix.is_empty() && self.role == Role::Client {
            // The OPEN was never sent: the peer knows nothing of the stream.
            return false;
        }
        self.rest.clear();
        self.rest_at = 0;
        self.replay = None;
        if !self.stream.is_over() {
            let generation = self.stream.generation();
            if connection
                .queue(Kind::Reset, generation, &reset.into().encode())
                .is_err()
            {
                return false;
            }
            self.stream.reset();
        }
        let settled = poll_fn(|cx| {
            let flushed = connection.poll_flush(cx).map_err(|_| Fail::Application)?;
            let over = self.poll_receive(None::<&TcpStream>, connection, cx)?;
            if flushed.is_ready() && over.is_ready() {
                Poll::Ready(Ok::<(), Fail>(()))
            } else {
                Poll::Pending
            }
        });
        let settled = matches!(timeout(RESET_TIMEOUT, settled).await, Ok(Ok(())));
        if !settled {
            // The RESET may stand behind bytes that nobody takes.
            connection.reset_on_close();
        }
        settled && self.is_over(connection)
    }
}

/// Has the delay passed? Registers the task otherwise.
trait Elapsed {
    fn poll_elapsed(self, cx: &mut Context<'_>) -> bool;
}

impl Elapsed for std::pin::Pin<&mut Sleep> {
    fn poll_elapsed(mut self, cx: &mut Context<'_>) -> bool {
        if self.deadline() <= Instant::now() {
            return true;
        }
        std::future::Future::poll(self.as_mut(), cx).is_ready()
    }
}
