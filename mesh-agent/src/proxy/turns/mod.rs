//! A worker's time, dealt out to the pods that have connections there.
//!
//! Whatever a worker does for a pod runs in tasks that take turns: bytes, requests,
//! handshakes, and taking new connections. Tasks of the runtime go in the order that
//! they came up, so that without this a pod with many has its neighbours wait for
//! each. What a task costs where nobody waits: a look at the clock before and after.

mod queue;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;
use prometheus_client::metrics::counter::Counter;
use smallvec::SmallVec;
use tokio::task::yield_now;

use self::queue::{Member, Ticket, Turn};

/// What was waited for, of all workers.
#[derive(Clone, Debug, Default)]
pub(super) struct Waited {
    pub(super) times: Counter,
    pub(super) seconds: Counter<f64, AtomicU64>,
}

impl Waited {
    fn note(&self, time: Duration) {
        self.times.inc();
        self.seconds.inc_by(time.as_secs_f64());
    }
}

/// The turns of one worker.
#[derive(Debug)]
pub(super) struct Turns {
    queue: RefCell<queue::Turns<Waker>>,
    /// Of [`deal`](Self::deal), while nobody waits.
    dealer: RefCell<Option<Waker>>,
    waited: Waited,
}

impl Turns {
    pub(super) fn new(waited: Waited) -> Rc<Self> {
        Rc::new(Self {
            queue: RefCell::default(),
            dealer: RefCell::default(),
            waited,
        })
    }

    /// A pod's share of them.
    pub(super) fn join(self: &Rc<Self>) -> Rc<Share> {
        Rc::new(Share {
            member: self.queue.borrow_mut().join(),
            turns: self.clone(),
        })
    }

    /// Begins one round after the other, for as long as some wait.
    pub(super) async fn deal(&self) {
        loop {
            poll_fn(|cx| self.poll_awaited(cx)).await;
            // What has become ready meanwhile goes first: behind that the runtime
            // looks at its sockets.
            yield_now().await;
            let mut called = SmallVec::<[Waker; 32]>::new();
            let mut queue = self.queue.borrow_mut();
            queue.next_round(|waker| called.push(waker));
            drop(queue);
            called.into_iter().for_each(Waker::wake);
        }
    }

    fn poll_awaited(&self, cx: &Context<'_>) -> Poll<()> {
        if self.queue.borrow().is_awaited() {
            return Poll::Ready(());
        }
        self.dealer.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}

/// What a pod's tasks have together.
#[derive(Debug)]
pub(super) struct Share {
    turns: Rc<Turns>,
    member: Member,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.turns.queue.borrow_mut().leave(self.member);
    }
}

/// A task's place among those of its pod.
struct Seat {
    share: Rc<Share>,
    waits: Option<(Ticket, Instant)>,
}

impl Seat {
    fn take(&mut self, cx: &Context<'_>) -> Option<(Turn, Instant)> {
        let Share { turns, member } = &*self.share;
        let mut queue = turns.queue.borrow_mut();
        let now = Instant::now();
        if let Some((ticket, since)) = self.waits {
            let Some(turn) = queue.is_called(*member, ticket) else {
                if let Some(waker) = queue.waker(*member, ticket) {
                    waker.clone_from(cx.waker());
                }
                return None;
            };
            self.waits = None;
            turns.waited.note(now.saturating_duration_since(since));
            return Some((turn, now));
        }
        if let Some(turn) = queue.may_run(*member) {
            return Some((turn, now));
        }
        let ticket = queue.wait(*member, cx.waker().clone());
        drop(queue);
        self.waits = Some((ticket, now));
        if let Some(dealer) = turns.dealer.take() {
            dealer.wake();
        }
        None
    }
}

/// Notes the time, also of a task that panics: others wait for its end.
struct Running<'s> {
    seat: &'s Seat,
    turn: Turn,
    since: Instant,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let Share { turns, member } = &*self.seat.share;
        let took = self.since.elapsed();
        let next = turns.queue.borrow_mut().ran(*member, self.turn, took);
        if let Some(next) = next {
            next.wake();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((ticket, _)) = self.waits else {
            return;
        };
        let Share { turns, member } = &*self.share;
        let next = turns.queue.borrow_mut().gone(*member, ticket);
        if let Some(next) = next {
            next.wake();
        }
    }
}

pin_project! {
    /// A task that takes its turns.
    pub(super) struct ByTurns<F> {
        #[pin]
        what: F,
        seat: Seat,
    }
}

/// Runs only when it is the pod's turn.
pub(super) fn by_turns<F: Future>(share: Rc<Share>, what: F) -> ByTurns<F> {
    let seat = Seat { share, waits: None };
    ByTurns { what, seat }
}

impl<F: Future> Future for ByTurns<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let Some((turn, since)) = this.seat.take(cx) else {
            return Poll::Pending;
        };
        let seat = &*this.seat;
        let _running = Running { seat, turn, since };
        this.what.poll(cx)
    }
}

#[cfg(test)]
mod tests;
