//! One request and its answers, between a client and an upstream.
//!
//! Both directions at once, and either may be interrupted between any two bytes.
//! Bytes go on as they came, but for heads that were written anew. A message that
//! does not end where it says is never made to look as if it did: that is for the
//! caller to tell by a reset.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::byte_stream::Side;
use super::hold::{Held, Hold};
use super::kept::{Kept, MAX_KEPT};
use super::plan::Planned;
use super::pump::{Message, Stuck};
use super::tee::{SendCopies, Tee};
use crate::http::h1::{
    Asked, Bad, Framing, Lines, MAX_INFORMATIONAL, Parsed, Scan, Side as Of, response_head,
};
use crate::model::{ByteCounts, Edits, HttpVersion};
use crate::tunnel::StreamEnd;

mod answer_head;
mod replay;
#[cfg(test)]
mod tests;

use answer_head::{Answered, answered, ends_early, grpc_status, held, is_overflow};

/// Why an exchange does not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Fail {
    /// The client failed; or it ended (`None`), within its request, or behind it where its
    /// upstream then had no answer.
    Client(Option<StreamEnd>),
    /// The client's body is none.
    Request(Bad),
    /// The upstream failed, or ended before its answer did (`None`).
    Upstream(Option<StreamEnd>),
    /// The upstream's answer is none.
    Answer(Bad),
    /// An edit of the answer that cannot be made.
    Edit,
    /// An answer that is not passed on yet.
    Held(Held),
}

impl Fail {
    /// What is wrong with a message, in a word.
    pub(in crate::proxy) fn detail(self) -> Option<&'static str> {
        match self {
            Self::Request(bad) | Self::Answer(bad) => Some(bad.detail()),
            Self::Client(_) | Self::Upstream(_) | Self::Edit | Self::Held(_) => None,
        }
    }
}

/// What both connections are good for after the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) struct KeptOpen {
    pub(in crate::proxy) keep_client: bool,
    pub(in crate::proxy) keep_upstream: bool,
}

/// What is told of an exchange.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::proxy) struct Carried {
    /// 0 when no answer began.
    pub(in crate::proxy) status: u16,
    pub(in crate::proxy) grpc_status: Option<u32>,
    /// That is an agent's word, in the place of the rest of an answer which had begun.
    pub(in crate::proxy) is_broken_off: bool,
    /// It says of itself that it is an agent's, which had no room for the request.
    pub(in crate::proxy) is_overflow: bool,
    pub(in crate::proxy) bytes: ByteCounts,
    /// Of gRPC.
    pub(in crate::proxy) messages: ByteCounts,
    /// When the request was whole.
    pub(in crate::proxy) request: Option<Instant>,
    /// When the answer began.
    pub(in crate::proxy) answered: Option<Instant>,
    /// When the client ended its side, behind a whole request that had no answer.
    pub(in crate::proxy) left: Option<Instant>,
}

#[derive(Debug)]
enum Answering {
    /// Its head is waited for.
    Head,
    /// `last`: no other answer to the request follows.
    Passing {
        message: Message,
        last: bool,
    },
    Over,
}

/// The exchange's state.
#[derive(Debug)]
pub(in crate::proxy) struct Transfer {
    asked: Asked,
    request: Message,
    /// The upstream takes no more of the request; it may still answer.
    is_stuck: bool,
    was_reset: bool,
    answering: Answering,
    scan: Scan,
    /// Of the last answer whose head has come.
    status: Option<u16>,
    /// Answers before the answer.
    informed: u32,
    /// What is to change of the final answer.
    edits: Edits,
    kept: Kept,
    /// Of the request's head, as it is sent.
    head_len: usize,
    hold: Option<Hold>,
    /// Bytes of answers that are passed on.
    received: u64,
    /// Another protocol is spoken from now on.
    is_tunnel: bool,
    /// When it was seen.
    client_ended: Option<Instant>,
    upstream_finished: bool,
    ended: KeptOpen,
    is_grpc: bool,
    grpc_status: Option<u32>,
    is_overflow: bool,
    whole: Option<Instant>,
    answered: Option<Instant>,
}

impl Transfer {
    /// `again`: a request that nobody can have seen may have to be sent once more.
    pub(in crate::proxy) fn new(
        planned: Planned,
        edits: Edits,
        again: bool,
        client: &mut Side<'_>,
    ) -> Self {
        let Planned {
            asked,
            head,
            skip,
            checked,
            framing,
            is_grpc,
        } = planned;
        client.inbox.consume(skip);
        let head_len = head.as_ref().map_or(checked, Vec::len);
        Self {
            head_len,
            hold: None,
            request: Message::new(head, checked, framing, Of::Request),
            is_stuck: false,
            was_reset: false,
            answering: Answering::Head,
            scan: Scan::default(),
            status: None,
            informed: 0,
            edits,
            kept: if again {
                Kept::begin(MAX_KEPT)
            } else {
                Kept::default()
            },
            received: 0,
            is_tunnel: false,
            client_ended: None,
            upstream_finished: false,
            ended: KeptOpen {
                keep_client: asked.persistent,
                keep_upstream: false,
            },
            is_grpc,
            grpc_status: None,
            is_overflow: false,
            whole: None,
            answered: None,
            asked,
        }
    }

    /// Copies go when all of the request has gone. Before any of it goes, and behind
    /// [`Transfer::hold`].
    pub(in crate::proxy) fn copy_to(&mut self, then: SendCopies) {
        self.kept.tee = Some(Tee::new(self.request.head_left(), then));
    }

    /// Bytes passed on to the upstream, and to the client.
    pub(in crate::proxy) fn bytes(&self) -> (u64, u64) {
        let passing = match &self.answering {
            Answering::Passing { message, .. } => message.passed(),
            Answering::Head | Answering::Over => 0,
        };
        (self.request.passed(), self.received + passing)
    }

    pub(in crate::proxy) fn carried(&self) -> Carried {
        let (sent, received) = self.bytes();
        let is_final = |status: &u16| *status >= 200 || *status == 101;
        Carried {
            status: self.status.filter(is_final).unwrap_or_default(),
            grpc_status: self.grpc_status,
            is_broken_off: false,
            is_overflow: self.is_overflow,
            bytes: ByteCounts { sent, received },
            // Frames of gRPC are not looked into on HTTP/1, which it does not speak.
            messages: ByteCounts::default(),
            request: self.whole,
            answered: self.answered,
            left: self.client_ended,
        }
    }

    /// Something of an answer has reached the client.
    pub(in crate::proxy) fn has_answered(&self) -> bool {
        self.bytes().1 > 0
    }

    /// A write has found that the upstream reset its connection, and took that off the socket.
    pub(in crate::proxy) fn was_reset(&self) -> bool {
        self.was_reset
    }

    /// There is no answer, behind the end of the client's side, and what ended it may follow
    /// from that; see [`Fail::Client`].
    pub(in crate::proxy) fn is_closed_behind_end(&self) -> bool {
        self.client_ended.is_some() && !self.has_answered()
    }

    /// To the end. Cancel-safe. An answer that begins when `is_last` says so is the last one
    /// of its connection, and says that itself: whoever asks on does so on another.
    pub(in crate::proxy) async fn run(
        &mut self,
        client: &mut Side<'_>,
        upstream: &mut Side<'_>,
        is_last: impl Fn() -> bool,
    ) -> Result<KeptOpen, Fail> {
        poll_fn(|cx| {
            if is_last() {
                self.is_the_last();
            }
            self.poll(client, upstream, cx)
        })
        .await
    }

    fn poll(
        &mut self,
        client: &mut Side<'_>,
        upstream: &mut Side<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<KeptOpen, Fail>> {
        let before = (upstream.stream.is_accepted(), self.is_tunnel);
        let mut request = self.poll_request(client, upstream, cx)?;
        if request.is_ready() {
            self.whole.get_or_insert_with(Instant::now);
            if !self.is_stuck
                && let Some(tee) = self.kept.tee.take()
            {
                tee.finish(None);
            }
        }
        if self.is_stuck {
            self.is_the_last();
        }
        let mut answer = self.poll_answer(client, upstream, cx)?;
        let (was_accepted, was_tunnel) = before;
        let is_lifted = request.is_pending() && upstream.stream.is_accepted() != was_accepted;
        if is_lifted || self.is_tunnel != was_tunnel {
            // The credit is lifted, or the client may speak on: that its request was
            // whole says nothing of the other protocol's bytes.
            request = self.poll_request(client, upstream, cx)?;
        }
        if let Poll::Ready(Err(end)) = upstream.stream.poll_flush(cx) {
            self.stuck(end)?;
            answer = self.poll_answer(client, upstream, cx)?;
        }
        let told = client.stream.poll_flush(cx);
        let told = told.map_err(|end| Fail::Client(Some(end)))?;
        if answer.is_ready() && (!self.is_tunnel || request.is_ready()) {
            ready!(told);
            return Poll::Ready(Ok(self.end(upstream)));
        }
        if answer.is_pending() && request.is_ready() && !self.is_tunnel {
            self.watch(client, upstream, cx)?;
        }
        Poll::Pending
    }

    /// The answer says so, where it has not begun.
    fn is_the_last(&mut self) {
        if matches!(self.answering, Answering::Head) {
            self.asked.persistent = false;
            self.ended.keep_client = false;
        }
    }

    fn end(&self, upstream: &Side<'_>) -> KeptOpen {
        let whole = !self.is_tunnel && self.request.is_over();
        KeptOpen {
            // What was taken of it and did not reach the upstream is for the answer to tell.
            keep_client: self.ended.keep_client && whole,
            keep_upstream: self.ended.keep_upstream
                && whole
                && !self.is_stuck
                && !self.upstream_finished
                && upstream.inbox.is_empty(),
        }
    }

    fn poll_request(
        &mut self,
        client: &mut Side<'_>,
        upstream: &mut Side<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fail>> {
        if self.is_stuck {
            return Poll::Ready(Ok(()));
        }
        let polled = self
            .request
            .poll(client, &mut upstream.stream, &mut self.kept, cx);
        match ready!(polled) {
            Ok(()) if self.is_tunnel => self.poll_finish(upstream, cx),
            Ok(()) => Poll::Ready(Ok(())),
            Err(Stuck::Sender(end)) => Poll::Ready(Err(Fail::Client(end))),
            Err(Stuck::Bad(bad)) => Poll::Ready(Err(Fail::Request(bad))),
            Err(Stuck::Receiver(end)) => Poll::Ready(self.stuck(end)),
        }
    }

    /// The upstream takes no more. It may have answered before that: who reads it
    /// finds out.
    fn stuck(&mut self, end: StreamEnd) -> Result<(), Fail> {
        if end == StreamEnd::NotTaken {
            // On another connection it goes on where it is.
            return Err(Fail::Upstream(Some(end)));
        }
        self.is_stuck = true;
        self.was_reset = end == StreamEnd::ResetByApplication;
        Ok(())
    }

    /// Passes the client's FIN on.
    fn poll_finish(
        &mut self,
        upstream: &mut Side<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fail>> {
        if !self.upstream_finished {
            self.upstream_finished = ready!(upstream.stream.poll_finish(cx)).is_ok();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_answer(
        &mut self,
        client: &mut Side<'_>,
        upstream: &mut Side<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fail>> {
        loop {
            match &mut self.answering {
                Answering::Over => return Poll::Ready(Ok(())),
                Answering::Head => ready!(self.poll_head(upstream, cx))?,
                Answering::Passing { message, last } => {
                    let kept = &mut Kept::default();
                    let passed = ready!(message.poll(upstream, &mut client.stream, kept, cx));
                    passed.map_err(|stuck| match stuck {
                        Stuck::Sender(end) => Fail::Upstream(end),
                        Stuck::Bad(bad) => Fail::Answer(bad),
                        Stuck::Receiver(end) => Fail::Client(Some(end)),
                    })?;
                    self.received += message.passed();
                    let last = *last;
                    if last && self.is_tunnel {
                        let told = ready!(client.stream.poll_finish(cx));
                        told.map_err(|end| Fail::Client(Some(end)))?;
                    }
                    self.answering = match last {
                        true => Answering::Over,
                        false => Answering::Head,
                    };
                }
            }
        }
    }

    /// The head of an answer.
    fn poll_head(
        &mut self,
        upstream: &mut Side<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fail>> {
        loop {
            if let Some((passed, len)) = self.parse(upstream.inbox.bytes())? {
                if passed.0.informational && self.is_unheard() {
                    upstream.inbox.consume(len);
                    continue;
                }
                self.begin_answer(passed, len, upstream);
                return Poll::Ready(Ok(()));
            }
            let end = match ready!(upstream.poll_fill(cx)) {
                Ok(true) => continue,
                Ok(false) => None,
                Err(end) => Some(end),
            };
            return Poll::Ready(Err(self.unanswered(end)));
        }
    }

    /// The upstream has ended, and there is no answer. Who closes behind the client's FIN may
    /// do so for that: most servers take it for a client that has left. What else ends a
    /// stream is the other agent's word, or a connection that broke.
    fn unanswered(&self, end: Option<StreamEnd>) -> Fail {
        let may_follow = match end {
            None | Some(StreamEnd::ResetByApplication) => true,
            Some(StreamEnd::ResetByPeer(reason)) => reason.is_of_application(),
            Some(
                StreamEnd::Finished
                | StreamEnd::NotTaken
                | StreamEnd::Lost
                | StreamEnd::Refused
                | StreamEnd::Protocol(_),
            ) => false,
        };
        match may_follow && self.client_ended.is_some() {
            true => Fail::Client(None),
            false => Fail::Upstream(end),
        }
    }

    /// `None` while the head is not whole; else with its length.
    fn parse(&mut self, bytes: &[u8]) -> Result<Option<(Answered, usize)>, Fail> {
        let mut lines = Lines::new();
        let parsed = response_head(bytes, &self.asked, &mut self.scan, &mut lines);
        match parsed.map_err(Fail::Answer)? {
            Parsed::NeedMore => Ok(None),
            Parsed::Head { head, len } => {
                let is_first = self.status.is_none() && !head.informational;
                let hold = self.hold.as_ref().filter(|_| is_first);
                if let Some(held) = hold.and_then(|hold| held(hold, &head)) {
                    return Err(Fail::Held(held));
                }
                if head.informational {
                    self.informed += 1;
                    if self.informed > MAX_INFORMATIONAL {
                        return Err(Fail::Answer(Bad::Informational));
                    }
                }
                let is_last = !self.request.is_over() && ends_early(&head, &bytes[len..]);
                let asked = (&self.asked, is_last);
                let mut answered =
                    answered(asked, &self.edits, &head, &bytes[..len]).map_err(|_| Fail::Edit)?;
                if self.is_grpc {
                    answered.0.grpc_status = grpc_status(head.headers);
                }
                // With one of these an agent says that there is no room, or what its caller may not.
                if self.is_grpc || matches!(head.status, 429 | 503) {
                    self.is_overflow = is_overflow(head.headers);
                }
                Ok(Some((answered, len)))
            }
        }
    }

    /// An answer before the answer is for nobody: HTTP/1.0 knows none.
    fn is_unheard(&self) -> bool {
        let is_second = self.hold.as_ref().is_some_and(|hold| hold.is_second);
        is_second || self.asked.version == HttpVersion::Http10
    }

    fn begin_answer(&mut self, (passed, head): Answered, len: usize, upstream: &mut Side<'_>) {
        self.status = Some(passed.status);
        self.grpc_status = passed.grpc_status;
        self.answered.get_or_insert_with(Instant::now);
        let framing = match passed.informational {
            true => Framing::None,
            false => passed.framing,
        };
        let checked = match &head {
            None => len,
            Some(_) => {
                upstream.inbox.consume(len);
                0
            }
        };
        self.answering = Answering::Passing {
            message: Message::new(head, checked, framing, Of::Response),
            last: !passed.informational,
        };
        if passed.informational {
            return;
        }
        self.ended = KeptOpen {
            keep_client: passed.keeps,
            keep_upstream: passed.persistent,
        };
        if framing == Framing::Tunnel {
            self.is_tunnel = true;
            self.request = self.request.as_tunnel();
        }
    }

    /// Takes note of a client that has left, as far as that is known now.
    pub(in crate::proxy) async fn look_for(&mut self, client: &mut Side<'_>) {
        if poll_fn(|cx| Poll::Ready(self.poll_end(client, cx).is_err())).await {
            self.client_ended.get_or_insert_with(Instant::now);
        }
    }

    /// Until the client has failed, while its answer is waited for elsewhere: one that has only
    /// ended its side waits on. Cancel-safe.
    pub(in crate::proxy) async fn left(&mut self, client: &mut Side<'_>) -> Fail {
        poll_fn(|cx| match self.poll_end(client, cx) {
            Err(end) => Poll::Ready(Fail::Client(Some(end))),
            Ok(()) => Poll::Pending,
        })
        .await
    }

    /// The request is whole, its answer is not: does the client still wait for it?
    fn watch(
        &mut self,
        client: &mut Side<'_>,
        upstream: &mut Side<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), Fail> {
        let seen = self.poll_end(client, cx);
        seen.map_err(|end| Fail::Client(Some(end)))?;
        if self.client_ended.is_some() && !self.upstream_finished {
            // To most servers it says that nobody waits any more.
            let _later = self.poll_finish(upstream, cx)?;
        }
        Ok(())
    }

    fn poll_end(&mut self, client: &mut Side<'_>, cx: &mut Context<'_>) -> Result<(), StreamEnd> {
        if self.client_ended.is_none() && client.poll_ended(cx)? {
            self.client_ended = Some(Instant::now());
        }
        Ok(())
    }
}
