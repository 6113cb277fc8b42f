//! From the connection to the application.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use smallvec::SmallVec;

use super::taker::Taker;
use super::{Fail, Relay, StreamEnd};
use crate::io::{BYTES_PER_POLL, room};
use crate::tls::Opened;
use crate::tunnel::ProtocolError;
use crate::tunnel::broken::{Broken, with_received};
use crate::tunnel::connection::Connection;
use crate::tunnel::frame;
use crate::tunnel::stream::{Event, Role, previous};

/// Reads before neighbours run, where they are less than [`BYTES_PER_POLL`].
const READS_PER_POLL: usize = 4;
/// Frames, and records without any, before neighbours run: small ones cost by
/// their number and not by their bytes.
pub(in crate::tunnel) const FRAMES_PER_POLL: usize = 1024;
/// Ranges of one gathered write.
const GATHER: usize = 64;

/// Ranges of opened bytes in the worker's buffer.
type Gathered = SmallVec<[(usize, usize); GATHER]>;

impl Relay {
    /// Connection to application, or to nowhere. Ready when this direction has
    /// ended and is passed on.
    pub(super) fn poll_receive(
        &mut self,
        application: Option<&impl Taker>,
        connection: &mut Connection,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fail>> {
        let (mut budget, begun) = (FRAMES_PER_POLL, self.carried());
        for _ in 0..READS_PER_POLL {
            if let Some(application) = application {
                ready!(self.poll_rest(application, cx)).map_err(|_| Fail::Application)?;
            }
            if !self.stream.may_receive() {
                // Where the other direction is done too, the socket is closed
                // at once: its FIN needs no call of its own.
                let closing = !self.stream.may_send() && connection.is_flushed();
                if let Some(application) = application.filter(|_| !closing) {
                    self.pass_fin(application);
                }
                if !self.stream.may_send() {
                    return Poll::Ready(Ok(()));
                }
                // A RESET may still come, and the peer's end of the connection.
            }
            ready!(self.poll_records(application, connection, &mut budget, cx))?;
            if budget == 0 || self.carried() - begun >= BYTES_PER_POLL {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn pass_fin(&mut self, application: &impl Taker) {
        if !self.fin_passed {
            self.fin_passed = true;
            application.end();
        }
    }

    pub(super) fn poll_rest(
        &mut self,
        to: &impl Taker,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest_at < self.rest.len() {
            ready!(to.poll_ready(cx))?;
            let n = to.take(&[IoSlice::new(&self.rest[self.rest_at..])])?;
            self.rest_at += n;
            self.count_received(n as u64);
        }
        if !self.rest.is_empty() {
            self.rest.clear();
            self.rest_at = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// One read of ciphertext, and everything in it.
    fn poll_records(
        &mut self,
        application: Option<&impl Taker>,
        connection: &mut Connection,
        budget: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fail>> {
        with_received(|buffer| {
            let mut len = connection.restore(buffer);
            let mut at = 0;
            let input = &mut buffer[..len];
            let mut opened = self.open_all(application, connection, input, &mut at, budget);
            if opened.is_ok() && at == 0 {
                // Nothing, or a part of a record.
                let end = buffer.len().min(len + room(buffer.len()));
                match connection.poll_receive(&mut buffer[len..end], cx) {
                    Poll::Ready(Ok(n)) => len += n,
                    Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken.into())),
                    Poll::Pending => {
                        connection.store(&buffer[..len]);
                        return Poll::Pending;
                    }
                }
                let input = &mut buffer[..len];
                opened = self.open_all(application, connection, input, &mut at, budget);
            }
            // Also when the application failed: the connection lives on.
            connection.store(&buffer[at..len]);
            opened?;
            match self.peer_reset.take() {
                Some(reason) => Poll::Ready(Err(Fail::End(StreamEnd::ResetByPeer(reason)))),
                None => Poll::Ready(Ok(())),
            }
        })
    }

    /// A connection that takes nothing more may have brought bytes, a GOAWAY or a RESET.
    pub(super) fn last_words(
        &mut self,
        application: &impl Taker,
        connection: &mut Connection,
    ) -> Fail {
        connection.receive_rest();
        let heard = with_received(|buffer| {
            let len = connection.restore(buffer);
            // Once for a connection, so all of it.
            let (input, mut budget) = (&mut buffer[..len], usize::MAX);
            self.open_all(Some(application), connection, input, &mut 0, &mut budget)
        });
        match (heard, self.peer_reset.take()) {
            (Err(told @ Fail::End(_)), _) => told,
            (_, Some(reason)) => Fail::End(StreamEnd::ResetByPeer(reason)),
            // An alert, say.
            (Err(told @ Fail::Connection(_)), None) => told,
            _ => Fail::Connection(connection.broken()),
        }
    }

    /// Opens records until they end, the stream ends, the application is full,
    /// or the budget is used up. `at`: bytes used so far.
    fn open_all(
        &mut self,
        application: Option<&impl Taker>,
        connection: &mut Connection,
        buffer: &mut [u8],
        at: &mut usize,
        budget: &mut usize,
    ) -> Result<(), Fail> {
        let mut gathered = Gathered::new();
        loop {
            // A stream that has ended leaves the rest to the next one.
            let ended = self.stream.is_over() || self.peer_reset.is_some();
            let spent = *budget == 0;
            let opened = if ended || spent || gathered.len() >= GATHER {
                Ok(Opened::NeedMore)
            } else {
                connection.layer.open(&mut buffer[*at..])
            };
            let failed = match opened {
                Ok(Opened::Handled { consumed }) => {
                    *at += consumed;
                    *budget = budget.saturating_sub(1);
                    continue;
                }
                Ok(Opened::Data {
                    plaintext,
                    consumed,
                }) => {
                    let range = *at + plaintext.start..*at + plaintext.end;
                    *at += consumed;
                    match self.take(connection, buffer, range, &mut gathered) {
                        Ok(frames) => {
                            *budget = budget.saturating_sub(frames);
                            continue;
                        }
                        Err(fail) => fail,
                    }
                }
                Ok(Opened::NeedMore) => {
                    let more = gathered.len() >= GATHER;
                    let full = self.pass(application, buffer, &gathered)?;
                    gathered.clear();
                    if ended || full || spent || !more {
                        return Ok(());
                    }
                    continue;
                }
                Ok(Opened::Closed) => Fail::Connection(Broken::Lost),
                Err(error) => Broken::from(error).into(),
            };
            // What came before it is the application's all the same.
            self.pass(application, buffer, &gathered)?;
            return Err(failed);
        }
    }

    /// The frames of one record; how many.
    fn take(
        &mut self,
        connection: &mut Connection,
        buffer: &[u8],
        range: std::ops::Range<usize>,
        gathered: &mut Gathered,
    ) -> Result<usize, Fail> {
        let plaintext = &buffer[range.clone()];
        let (mut at, mut frames) = (0, 0);
        while at < plaintext.len() {
            let found = frame::parse(plaintext, at)?;
            let payload = &plaintext[found.start..found.start + found.len];
            at = found.start + found.len;
            frames += 1;
            match self.stream.receive(&found, payload)? {
                Event::Data => {
                    let start = range.start + found.start;
                    gathered.push((start, start + found.len));
                }
                Event::Fin => self.ends_record(at, plaintext.len())?,
                Event::Accepted => self.replay = None,
                Event::Skip => {}
                Event::Goaway { last } => self.going_away(connection, last)?,
                Event::Reset(reason) => {
                    self.reset_by_peer(reason, payload);
                    self.ends_record(at, plaintext.len())?;
                }
            }
        }
        Ok(frames)
    }

    fn going_away(&mut self, connection: &mut Connection, last: u8) -> Result<(), Fail> {
        connection.goes_away()?;
        let current = self.stream.generation();
        if last == current || self.role == Role::Server {
            return Ok(());
        }
        if last == previous(current) && !self.stream.is_accepted() {
            let may = self.replay.is_some();
            return Err(Fail::End(if may {
                StreamEnd::NotTaken
            } else {
                StreamEnd::Lost
            }));
        }
        Err(ProtocolError::BadGeneration.into())
    }

    /// Writes the gathered ranges; true when the application took not all.
    fn pass(
        &mut self,
        application: Option<&impl Taker>,
        buffer: &[u8],
        gathered: &[(usize, usize)],
    ) -> Result<bool, Fail> {
        let Some(application) = application.filter(|_| !gathered.is_empty()) else {
            return Ok(false);
        };
        let parts: SmallVec<[IoSlice<'_>; GATHER]> = gathered
            .iter()
            .map(|(start, end)| IoSlice::new(&buffer[*start..*end]))
            .collect();
        let mut taken = if self.rest.is_empty() {
            application.take(&parts).map_err(|_| Fail::Application)?
        } else {
            0
        };
        self.count_received(taken as u64);
        let all: usize = parts.iter().map(|part| part.len()).sum();
        // Exactly: growing by and by could hold twice as much.
        self.rest.reserve_exact(all - taken);
        for part in &parts {
            let skip = taken.min(part.len());
            taken -= skip;
            self.rest.extend(&part[skip..]);
        }
        Ok(!self.rest.is_empty())
    }
}
