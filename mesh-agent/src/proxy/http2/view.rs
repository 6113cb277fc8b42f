//! What is seen of an exchange from outside, while it runs: how much of it has gone, what
//! it was answered, and what a second try of it needs.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::balance::Said;
use crate::http::answer::REASON;
use crate::http::grpc::Messages;
use crate::http::h2::{HeaderMap, response};
use crate::io::{Held, spare};
use crate::model::{ByteCounts, UpstreamAddr};
use crate::proxy::hedge::Patience;
use crate::proxy::http::{Carried, says_overflow, silence};

/// What is seen of it from outside.
#[derive(Default)]
pub(super) struct View {
    sent: Cell<u64>,
    received: Cell<u64>,
    /// Of gRPC: both ways' messages.
    pub(super) is_grpc: Cell<bool>,
    messages: [Cell<Messages>; 2],
    pub(super) status: Cell<u16>,
    grpc_status: Cell<Option<u32>>,
    /// That is an agent's word.
    is_broken_off: Cell<bool>,
    /// It says of itself that it is an agent's, which had no room for the request.
    is_overflow: Cell<bool>,
    pub(super) whole: Cell<Option<Instant>>,
    pub(super) answered: Cell<Option<Instant>>,
    /// More of the request has gone than can be kept.
    pub(super) is_past_keeping: Cell<bool>,
    /// It is a head and no more.
    pub(super) is_bare: Cell<bool>,
    /// An answer before the answer was passed on.
    pub(super) is_informed: Cell<bool>,
    /// For so long its answer waited for what a second try had.
    pub(super) waited: Cell<Duration>,
    rival: Rival,
}

/// A second try beside the first, as far as that has to know.
#[derive(Default)]
struct Rival {
    /// It may be sent: what it needs is kept for it. How long it is waited for.
    wanted: Cell<Option<Patience>>,
    /// What followed the head of a request that is whole.
    rest: RefCell<Option<Box<Whole>>>,
    /// Where it was sent, until the tries that follow know it.
    went: Cell<Option<UpstreamAddr>>,
    /// It is under way.
    runs: Cell<bool>,
    /// The first has got an answer that will not do, which says this, and waits for that of
    /// the second.
    has_failed: Cell<Option<Said>>,
}

/// What follows a request's head, all of it.
#[derive(Default)]
pub(super) struct Whole {
    pub(super) data: Held,
    pub(super) trailers: Option<HeaderMap>,
}

impl View {
    /// All that has gone of the request could go once more.
    pub(super) fn is_kept(&self) -> bool {
        !self.is_past_keeping.get()
    }

    /// A second try may be sent beside the first, before that goes; `None`: not any more, and
    /// what goes is not waited for.
    pub(super) fn wants_rival(&self, wanted: Option<Patience>) {
        self.rival.wanted.set(wanted);
        if wanted.is_none() {
            self.rival.rest.take();
        }
    }

    /// It may be the client's.
    pub(super) fn is_rival_wanted(&self) -> bool {
        self.rival.wanted.get().is_some() && !self.has_begun()
    }

    /// It goes there.
    pub(super) fn rival_goes(&self, to: Option<UpstreamAddr>) {
        self.rival.went.set(to);
        self.rival.runs.set(true);
    }

    /// Where it went, told once.
    pub(super) fn take_rivals(&self) -> Option<UpstreamAddr> {
        self.rival.went.take()
    }

    /// What follows its head, if a second try may be sent now: of a request that is whole.
    pub(super) fn take_whole(&self) -> Option<Box<Whole>> {
        match (self.rival.wanted.get(), self.is_bare.get()) {
            (None, _) => None,
            (Some(_), true) => Some(Box::default()),
            (Some(_), false) => self.rival.rest.take(),
        }
    }

    /// The request is whole; `data`: what is kept of it.
    pub(super) fn is_whole(&self, data: Option<&[u8]>, trailers: Option<&HeaderMap>) {
        self.whole.set(Some(Instant::now()));
        let is_wanted = self.rival.wanted.get().is_some();
        if let Some(data) = data.filter(|data| is_wanted && has_room(data)) {
            self.rival.rest.replace(Some(Box::new(Whole {
                data: Held::copied(data),
                trailers: trailers.cloned(),
            })));
        }
    }

    /// Something of an answer has reached the client.
    pub(super) fn has_begun(&self) -> bool {
        self.answered.get().is_some() || self.is_informed.get()
    }

    pub(super) fn set_rival(&self, runs: bool) {
        self.rival.runs.set(runs);
    }

    pub(super) fn has_rival(&self) -> bool {
        self.rival.runs.get()
    }

    /// Until there is no second try any more, or it has taken too long; whoever runs both looks
    /// at this one then.
    pub(super) async fn rival_over(&self, said: Said) {
        let Rival {
            runs,
            wanted,
            has_failed,
            ..
        } = &self.rival;
        has_failed.set(Some(said));
        let since = Instant::now();
        let is_over = poll_fn(|_| match runs.get() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        });
        let patience = wanted.get().map(|patience| patience.left(since));
        tokio::select! {
            biased; // what is over is not waited for
            () = is_over => {}
            () = silence(patience) => self.wants_rival(None),
        }
        self.waited.set(self.waited.get() + since.elapsed());
        has_failed.set(None);
    }

    /// The first has an answer that will not do.
    pub(super) fn has_failed(&self) -> Option<Said> {
        self.rival.has_failed.get()
    }

    /// The same of a first try that is over.
    pub(super) fn take_failed(&self) -> Option<Said> {
        self.rival.has_failed.take()
    }

    pub(super) fn sent_data(&self, data: &[u8]) {
        self.sent(data.len());
        self.pass(0, data);
    }

    pub(super) fn received_data(&self, data: &[u8]) {
        self.received(data.len());
        self.pass(1, data);
    }

    fn pass(&self, way: usize, data: &[u8]) {
        if self.is_grpc.get() {
            let mut messages = self.messages[way].get();
            messages.pass(data);
            self.messages[way].set(messages);
        }
    }

    pub(super) fn sent(&self, n: usize) {
        self.sent.set(self.sent.get() + n as u64);
    }

    pub(super) fn received(&self, n: usize) {
        self.received.set(self.received.get() + n as u64);
    }

    pub(super) fn bytes(&self) -> ByteCounts {
        ByteCounts {
            sent: self.sent.get(),
            received: self.received.get(),
        }
    }

    pub(super) fn carried(&self) -> Carried {
        Carried {
            status: self.status.get(),
            grpc_status: self.grpc_status.get(),
            is_broken_off: self.is_broken_off.get(),
            is_overflow: self.is_overflow.get(),
            bytes: self.bytes(),
            messages: ByteCounts {
                sent: self.messages[0].get().count(),
                received: self.messages[1].get().count(),
            },
            request: self.whole.get(),
            answered: self.answered.get(),
            left: None,
        }
    }

    /// An answer that had begun ends with these: of an agent where they say why.
    pub(super) fn ends_with(&self, trailers: &HeaderMap) {
        self.look(trailers);
        self.is_broken_off.set(trailers.contains_key(REASON));
    }

    /// The same, and it is this agent that ends it.
    pub(super) fn breaks_off_with(&self, trailers: &HeaderMap) {
        self.look(trailers);
        self.is_broken_off.set(true);
    }

    /// The head of its answer.
    pub(super) fn begins_with(&self, head: &response::Parts) {
        self.answered.set(Some(Instant::now()));
        self.status.set(head.status.as_u16());
        self.is_overflow.set(is_overflow(head));
        self.look(&head.headers);
    }

    fn look(&self, lines: &HeaderMap) {
        let status = grpc_status(lines);
        if status.is_some() {
            self.grpc_status.set(status);
        }
    }
}

pub(super) fn grpc_status(lines: &HeaderMap) -> Option<u32> {
    lines.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// An agent says that it had no room for the request.
pub(super) fn is_overflow(head: &response::Parts) -> bool {
    let reason = head
        .headers
        .get(REASON)
        .and_then(|value| value.to_str().ok());
    reason.is_some_and(says_overflow)
}

fn has_room(data: &[u8]) -> bool {
    spare(data.len()) == data.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_says_in_the_place_of_an_answer_is_told_from_the_servers_own_word() {
        let trailers = |reason: Option<&'static str>| {
            let value = |value: &'static str| value.parse().expect("a value");
            let reason = reason.map(|reason| (REASON, reason));
            let lines = reason.into_iter().chain([("grpc-status", "14")]);
            lines.fold(HeaderMap::new(), |mut lines, (name, said)| {
                lines.append(name, value(said));
                lines
            })
        };
        for (reason, is_own, is_broken_off) in [
            (None, false, false),
            (Some("draining"), false, true),
            (None, true, true),
        ] {
            let view = View::default();
            match is_own {
                true => view.breaks_off_with(&trailers(reason)),
                false => view.ends_with(&trailers(reason)),
            }
            let carried = view.carried();
            let told = (carried.grpc_status, carried.is_broken_off);
            assert_eq!(told, (Some(14), is_broken_off), "{reason:?}");
        }
    }

    #[test]
    fn what_a_second_try_needs_is_kept_as_long_as_there_may_be_one() {
        let kept = |view: &View| view.rival.rest.borrow().is_some();
        let view = View::default();
        view.is_whole(Some(b"body"), None);
        assert!(!kept(&view), "nobody asked for one");
        view.wants_rival(Some(Patience::new(Duration::ZERO, None)));
        view.is_whole(Some(b"body"), None);
        assert!(kept(&view));
        view.wants_rival(None);
        assert!(!kept(&view), "an answer takes its time");
        assert!(view.take_whole().is_none());
    }
}
