//! How much of what a peer sends may wait here, unread: of one connection.
//!
//! A peer may send as much at once as it was given room for, and that cannot be taken
//! back: what it is given beyond the protocol's own 64 KiB is reserved of the process's
//! budget for bytes that wait, for as long as the peer may use it. It is given more when
//! what nobody reads fills what it has, so that a slow reader stalls no other stream,
//! and less when that was read. Without budget a slow reader may stall its neighbours on
//! its own connection, and nobody else, until there is budget again.
//!
//! Where the reader keeps up the peer is given what it may have on its way, by the rate
//! at which bytes are passed on: else a long way would be slow, however wide.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use ::h2::{FlowControl, RecvStream};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep};

use crate::io::{Account, Share};

/// The protocol's own: a peer may send so much before it is told anything.
pub(super) const BASE: usize = 65_535;
/// There is to be room for as much again as is unread, and for no more than this.
const SPARE: usize = 1024 * 1024;
/// What is on its way comes within this time, there and back: of most ways.
const REACH: Duration = Duration::from_millis(250);
/// And is no more than this: a reader that stops has so much more unread.
const FLIGHT: usize = 352 * 1024;
/// The rate is looked at no more often.
const TURN: Duration = Duration::from_millis(10);
/// Nothing comes that would wake a connection whose window is full: it looks by itself
/// for budget that others gave back, this often.
const AGAIN: Duration = Duration::from_millis(250);
/// Streams are told of less no more often: a rate may go up and down.
const CALM: Duration = Duration::from_secs(1);
/// What is kept by a connection of no streams is looked at this often.
const IDLE: Duration = Duration::from_secs(5);
/// A budget by which nothing is read, and whose end is known to who asked for it.
pub(super) const PAUSED: usize = usize::MAX;
/// So much is read of a client before its requests are looked at.
pub(super) const READ_BUDGET: usize = 64 * 1024;
/// While so much of the most is unread, streams have no more than at their begin.
const CROWDED: usize = 8;

/// What is unread of a connection: for its streams, and for its own task.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// The streams that somebody may read of.
    streams: Mutex<HashMap<u32, FlowControl, foldhash::fast::RandomState>>,
    /// What of large trailers may wait behind unread data: of which stream, and how much.
    trailers: Mutex<Vec<(u32, usize)>>,
    /// Bytes that were passed on, ever.
    released: AtomicUsize,
    /// Bytes that were read off the connection, ever.
    read: AtomicUsize,
    /// Bytes that were there before their stream was known here, since the last look.
    early: AtomicUsize,
    task: Mutex<Option<Waker>>,
    /// A head, or trailers, of more than is taken from anybody: nothing is read any more.
    has_too_much: AtomicBool,
    /// Of a client's: what may still be read of it before its requests are looked at.
    budget: Option<AtomicUsize>,
}

/// One stream, as long as somebody may read of it.
#[derive(Debug)]
pub(super) struct Part {
    of: Arc<Unread>,
    stream: u32,
}

impl Unread {
    /// Of a connection that is read by budgets.
    pub(super) fn by_budget() -> Self {
        Self {
            budget: Some(AtomicUsize::new(READ_BUDGET)),
            ..Self::default()
        }
    }

    /// So many bytes may be read now.
    pub(super) fn allow(&self, bytes: usize) {
        if let Some(budget) = &self.budget {
            budget.store(bytes, Ordering::Relaxed);
        }
    }

    /// Else whoever drives the connection has to look at what came before.
    pub(super) fn may_read(&self, cx: &Context<'_>) -> bool {
        if self.is_too_much() {
            return false;
        }
        let budget = self
            .budget
            .as_ref()
            .map(|budget| budget.load(Ordering::Relaxed));
        if budget == Some(0) {
            cx.waker().wake_by_ref();
        }
        !matches!(budget, Some(0 | PAUSED))
    }

    pub(super) fn has_too_much(&self) {
        self.has_too_much.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_too_much(&self) -> bool {
        self.has_too_much.load(Ordering::Relaxed)
    }

    /// So much is kept of what ends a stream, until somebody takes it or the stream is over;
    /// of one connection no more than `most`.
    pub(super) fn ends(&self, stream: u32, kept: usize, most: usize) {
        let mut trailers = self.trailers.lock();
        match trailers.last_mut() {
            Some(last) if last.0 == stream => last.1 = kept,
            Some(_) | None => trailers.push((stream, kept)),
        }
        let sum = |of: &[(u32, usize)]| of.iter().map(|(_, kept)| kept).sum::<usize>();
        if sum(&trailers) <= most {
            return;
        }
        // Nobody holds a head that ended its stream: it was taken when it came.
        let streams = self.streams.lock();
        trailers.retain(|(of, _)| *of == stream || streams.contains_key(of));
        if sum(&trailers) > most {
            self.has_too_much();
        }
    }

    pub(super) fn part(self: &Arc<Self>, stream: &mut RecvStream) -> Part {
        let number = stream.stream_id().as_u32();
        let control = stream.flow_control().clone();
        let early = control.used_capacity();
        self.streams.lock().insert(number, control);
        if early > 0 && self.early.fetch_add(early, Ordering::Relaxed) + early >= BASE / 4 {
            // Else nobody looks, where the peer may send no more.
            if let Some(task) = &*self.task.lock() {
                task.wake_by_ref();
            }
        }
        Part {
            of: self.clone(),
            stream: number,
        }
    }

    pub(super) fn read(&self, bytes: usize) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
        if let Some(budget) = &self.budget {
            // One task reads, and it alone changes this.
            let left = budget.load(Ordering::Relaxed).saturating_sub(bytes);
            budget.store(left, Ordering::Relaxed);
        }
    }

    /// Bytes that came, and were not passed on.
    fn bytes(&self) -> usize {
        let streams = self.streams.lock();
        streams.values().map(FlowControl::used_capacity).sum()
    }
}

impl Part {
    pub(super) fn released(&self, bytes: usize) {
        self.of.released.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Its trailers are its reader's now.
    pub(super) fn took_trailers(&self) {
        self.of.trailers.lock().retain(|(of, _)| *of != self.stream);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let control = self.of.streams.lock().remove(&self.stream);
        drop(control);
    }
}

/// A connection of crate h2, as its windows go.
pub(super) trait Windows {
    fn set_connection(&mut self, size: u32);
    /// Of each stream. False: the peer has not taken the last one yet.
    fn set_streams(&mut self, size: u32) -> bool;
}

/// How fast bytes are passed on.
#[derive(Debug)]
struct Pace {
    since: Instant,
    /// Of [`Unread::released`], then.
    released: usize,
    /// What may be on its way at that rate.
    flight: usize,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            released: 0,
            flight: 0,
        }
    }

    fn look(&mut self, released: usize, now: Instant) {
        let time = now.saturating_duration_since(self.since);
        if time < TURN {
            return;
        }
        let passed = released.wrapping_sub(self.released) as u128;
        let flight = passed * REACH.as_micros() / time.as_micros();
        self.flight = usize::try_from(flight).unwrap_or(FLIGHT).min(FLIGHT);
        (self.since, self.released) = (now, released);
    }
}

/// What the connection's task knows of it.
#[derive(Debug)]
pub(super) struct Window {
    unread: Arc<Unread>,
    most: usize,
    pace: Pace,
    /// Of each stream: at its begin, and now.
    of_stream: [usize; 2],
    told: Instant,
    /// What the peer is to have.
    size: usize,
    /// What it may use of that, or still of more, beyond [`BASE`].
    reserved: Share,
    shrunk: Option<Shrunk>,
    /// It would have more, and there was no budget.
    is_short: bool,
    /// As long as it is short: the next look, whatever comes.
    again: Option<Pin<Box<Sleep>>>,
    /// Of [`Unread::read`]: at the last look, and how much more makes the next one due.
    looked: usize,
    due: usize,
    /// The next look whether it is wasted; it had streams since the last one.
    idle: Option<Pin<Box<Sleep>>>,
    was_used: bool,
}

/// When it was made smaller.
#[derive(Clone, Copy, Debug)]
struct Shrunk {
    before: usize,
    /// Of [`Unread::released`], with what was to be passed on still.
    released: usize,
}

impl Window {
    pub(super) fn new(
        unread: Arc<Unread>,
        account: Arc<Account>,
        [most, of_stream]: [usize; 2],
    ) -> Self {
        let now = Instant::now();
        Self {
            unread,
            most,
            pace: Pace::new(now),
            of_stream: [of_stream; 2],
            told: now,
            size: BASE,
            reserved: Share::new(account),
            shrunk: None,
            is_short: false,
            again: None,
            looked: 0,
            due: BASE / 4,
            idle: None,
            was_used: false,
        }
    }

    /// The connection's task has had a turn: its windows are as they are to be from now on.
    pub(super) fn look(&mut self, connection: &mut impl Windows, cx: &mut Context<'_>) {
        self.wait(cx);
        let read = self.unread.read.load(Ordering::Relaxed);
        let is_due = read.wrapping_sub(self.looked) >= self.due
            || self.unread.early.load(Ordering::Relaxed) >= BASE / 4
            || self.is_again(cx);
        if !is_due {
            return;
        }
        self.looked = read;
        self.unread.early.store(0, Ordering::Relaxed);
        let (unread, now) = (self.unread.bytes(), Instant::now());
        let before = self.size;
        self.fit(unread, now);
        self.again = self.is_short.then(|| Box::pin(sleep(AGAIN)));
        // Only now it wakes the task; it cannot be over yet.
        self.is_again(cx);
        self.due = (self.size.saturating_sub(unread) / 4).max(BASE / 16);
        if self.size != before
            && let Ok(size) = u32::try_from(self.size)
        {
            connection.set_connection(size);
        }
        let size = self.fit_streams(unread, now);
        if size != self.of_stream[1]
            && let Ok(set) = u32::try_from(size)
            && connection.set_streams(set)
        {
            (self.of_stream[1], self.told) = (size, now);
            // It goes out with the next turn.
            cx.waker().wake_by_ref();
        }
    }

    /// It keeps room that nobody has used for a while, and others find none. A window cannot
    /// be taken back: its connection has to go. `is_used`: it has streams.
    pub(super) fn is_wasted(&mut self, is_used: bool, cx: &mut Context<'_>) -> bool {
        if self.reserved.bytes() == 0 {
            self.idle = None;
            return false;
        }
        self.was_used |= is_used;
        let idle = self.idle.get_or_insert_with(|| Box::pin(sleep(IDLE)));
        if idle.as_mut().poll(cx).is_pending() {
            return false;
        }
        let was_used = std::mem::replace(&mut self.was_used, is_used);
        self.idle = None;
        if was_used || self.reserved.leisure(FLIGHT) >= BASE {
            // The next look.
            cx.waker().wake_by_ref();
            return false;
        }
        true
    }

    /// Streams get more of a window that is wide for its rate, as long as little is unread.
    fn fit_streams(&self, unread: usize, now: Instant) -> usize {
        let [begin, size] = self.of_stream;
        if unread > self.most / CROWDED {
            return begin;
        }
        let wanted = self.size.min(self.pace.flight).max(begin);
        let is_calm = now.saturating_duration_since(self.told) >= CALM;
        match wanted >= size + size / 2 || (wanted <= size / 2 && is_calm) {
            true => wanted,
            false => size,
        }
    }

    fn is_again(&mut self, cx: &mut Context<'_>) -> bool {
        let again = self.again.as_mut();
        again.is_some_and(|again| again.as_mut().poll(cx).is_ready())
    }

    fn wait(&self, cx: &Context<'_>) {
        let mut task = self.unread.task.lock();
        if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
    }

    fn fit(&mut self, unread: usize, now: Instant) {
        let released = self.unread.released.load(Ordering::Relaxed);
        self.settle(released);
        self.pace.look(released, now);
        let has = self.reserved.bytes();
        let flight = self.pace.flight;
        let flight = flight.min(has.max(self.reserved.leisure(FLIGHT)));
        let spare = unread.clamp(BASE, SPARE).max(flight);
        let wanted = (unread + spare).min(self.most);
        self.is_short = false;
        if self.size < wanted && self.size < unread + spare * 2 / 3 {
            self.reserved.grow(wanted - BASE);
            self.size = wanted.min(BASE + self.reserved.bytes());
            self.is_short = self.size < wanted && self.size < unread + spare * 2 / 3;
        } else if self.size / 2 > wanted {
            let before = BASE + self.reserved.bytes();
            self.size = wanted;
            self.shrunk = Some(Shrunk {
                before,
                released: released.wrapping_add(unread),
            });
        }
    }

    /// What the peer has used of a larger window it may not use again.
    fn settle(&mut self, released: usize) {
        let Some(shrunk) = self.shrunk else {
            return;
        };
        let since = released.wrapping_sub(shrunk.released);
        // Not even what was there then has been passed on.
        let came = if since > usize::MAX / 2 { 0 } else { since };
        let still = self.size.max(shrunk.before.saturating_sub(came));
        self.reserved.shrink(still - BASE);
        if still == self.size {
            self.shrunk = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn a_window_grows_with_what_is_unread_and_is_kept_reserved_until_it_is_used() {
        let unread = Arc::<Unread>::default();
        let mut window = Window::new(unread.clone(), Arc::default(), [64 * MIB, MIB]);
        let now = window.pace.since;
        let mut fit = |bytes, released| {
            unread.released.fetch_add(released, Ordering::Relaxed);
            window.fit(bytes, now);
            (window.size, window.reserved.bytes())
        };
        assert_eq!(fit(0, 0), (BASE, 0));
        assert_eq!(fit(BASE, 0), (2 * BASE, BASE), "full");
        let large = 10 * MIB + SPARE;
        assert_eq!(fit(10 * MIB, 0), (large, large - BASE));
        // It was read, and the peer may still send as much.
        assert_eq!(fit(0, 10 * MIB), (BASE, large - BASE));
        assert_eq!(fit(0, 5 * MIB), (BASE, large - 5 * MIB - BASE));
        // It costs nothing to give again what is reserved still.
        assert_eq!(fit(BASE, 0), (2 * BASE, large - 5 * MIB - BASE));
        assert_eq!(fit(0, 6 * MIB), (2 * BASE, BASE));
        assert_eq!(fit(100 * MIB, 0).0, 64 * MIB, "the most");
    }

    #[tokio::test(start_paused = true)]
    async fn room_that_nobody_uses_is_wasted_only_where_others_have_none() {
        let (account, held) = Account::alone(64 * MIB, 0);
        let mut window = Window::new(Arc::default(), Arc::new(account), [64 * MIB, MIB]);
        let mut looks = async |is_used, after| {
            tokio::time::advance(after).await;
            poll_fn(|cx| Poll::Ready(window.is_wasted(is_used, cx))).await
        };
        held.store(64 * MIB, Ordering::Relaxed);
        assert!(!looks(false, 9 * IDLE).await, "it has no room");
        held.store(0, Ordering::Relaxed);
        window.reserved.grow(MIB);
        let mut looks = async |is_used, after| {
            tokio::time::advance(after).await;
            poll_fn(|cx| Poll::Ready(window.is_wasted(is_used, cx))).await
        };
        assert!(!looks(false, IDLE).await, "its time begins");
        assert!(!looks(false, 2 * IDLE).await, "others have room");
        held.store(64 * MIB, Ordering::Relaxed);
        assert!(!looks(true, IDLE / 2).await, "a stream");
        assert!(!looks(false, 2 * IDLE).await, "that was there until now");
        assert!(!looks(false, IDLE / 2).await);
        assert!(!looks(false, IDLE / 2).await, "a while");
        assert!(looks(false, 2 * IDLE).await);
    }

    #[test]
    fn who_is_read_fast_may_have_more_on_its_way_and_who_is_not_read_may_not() {
        let unread = Arc::<Unread>::default();
        let mut window = Window::new(unread.clone(), Arc::default(), [32 * MIB, 64 * 1024]);
        let mut now = window.pace.since;
        let mut fit = |bytes, released| {
            now += Duration::from_millis(100);
            unread.released.fetch_add(released, Ordering::Relaxed);
            window.fit(bytes, now);
            let size = window.fit_streams(bytes, now);
            if size != window.of_stream[1] {
                (window.of_stream[1], window.told) = (size, now);
            }
            (window.size, size)
        };
        assert_eq!(fit(0, 1000), (BASE, 64 * 1024), "slow");
        assert_eq!(fit(0, 80_000), (200_000, 200_000));
        assert_eq!(fit(0, 100 * MIB), (FLIGHT, FLIGHT), "no more");
        // Many that nobody reads.
        assert_eq!(fit(6 * MIB, 100 * MIB).1, 64 * 1024);
        assert_eq!(fit(0, 100 * MIB).1, FLIGHT);
        assert_eq!(fit(0, 0), (BASE, FLIGHT), "slow for a moment");
        for _ in 0..9 {
            fit(0, 0);
        }
        assert_eq!(fit(0, 0), (BASE, 64 * 1024), "slow for long");
    }
}
