//! How much of what a peer sends may wait here, unread: of one connection.
//!
//! A peer may send as much at once as it was given room for, and that cannot be taken
//! back: what it is given beyond the protocol's own 64 KiB is reserved of the process's
//! budget for bytes that wait, for as long as the peer may use it. It is given more when
//! what nobody reads fills what it has, so that a slow reader stalls no other stream,
//! and less when that was read. Without budget a slow reader may stall its neighbours on
//! its own connection, and nobody else.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};

use ::h2::{FlowControl, RecvStream};
use parking_lot::Mutex;

use crate::io::{Reserved, is_scarce};

/// The protocol's own: a peer may send so much before it is told anything.
pub(super) const BASE: usize = 65_535;
/// There is to be room for as much again as is unread, and for no more than this.
const SPARE: usize = 1024 * 1024;

/// What is unread of a connection: for its streams, and for its own task.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// The streams that somebody may read of.
    streams: Mutex<HashMap<usize, FlowControl, foldhash::fast::RandomState>>,
    next: AtomicUsize,
    /// Bytes that were passed on, ever.
    released: AtomicUsize,
    /// Bytes that were read off the connection, ever.
    read: AtomicUsize,
    /// Bytes that were there before their stream was known here, since the last look.
    early: AtomicUsize,
    task: Mutex<Option<Waker>>,
}

/// One stream, as long as somebody may read of it.
#[derive(Debug)]
pub(super) struct Part {
    of: Arc<Unread>,
    number: usize,
}

impl Unread {
    pub(super) fn part(self: &Arc<Self>, stream: &mut RecvStream) -> Part {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
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
            number,
        }
    }

    pub(super) fn read(&self, bytes: usize) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
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
}

impl Drop for Part {
    fn drop(&mut self) {
        let control = self.of.streams.lock().remove(&self.number);
        drop(control);
    }
}

/// What the connection's task knows of it.
#[derive(Debug)]
pub(super) struct Window {
    unread: Arc<Unread>,
    most: usize,
    /// What the peer is to have.
    size: usize,
    /// What it may use of that, or still of more, beyond [`BASE`].
    reserved: Reserved,
    shrunk: Option<Shrunk>,
    /// It would have more, and there was no budget.
    is_short: bool,
    /// Of [`Unread::read`]: at the last look, and how much more makes the next one due.
    looked: usize,
    due: usize,
}

/// When it was made smaller.
#[derive(Clone, Copy, Debug)]
struct Shrunk {
    before: usize,
    /// Of [`Unread::released`], with what was to be passed on still.
    released: usize,
}

impl Window {
    pub(super) fn new(unread: Arc<Unread>, most: usize) -> Self {
        Self {
            unread,
            most,
            size: BASE,
            reserved: Reserved::default(),
            shrunk: None,
            is_short: false,
            looked: 0,
            due: BASE / 4,
        }
    }

    /// The connection's task has had a turn. Gives what its window is to be from now on,
    /// where that changes.
    pub(super) fn look(&mut self, cx: &Context<'_>) -> Option<u32> {
        self.wait(cx);
        let read = self.unread.read.load(Ordering::Relaxed);
        let is_due = read.wrapping_sub(self.looked) >= self.due
            || self.unread.early.load(Ordering::Relaxed) >= BASE / 4
            || (self.is_short && !is_scarce());
        if !is_due {
            return None;
        }
        self.looked = read;
        self.unread.early.store(0, Ordering::Relaxed);
        let unread = self.unread.bytes();
        let before = self.size;
        self.fit(unread);
        self.due = (self.size.saturating_sub(unread) / 4).max(BASE / 16);
        let size = u32::try_from(self.size).ok()?;
        (self.size != before).then_some(size)
    }

    fn wait(&self, cx: &Context<'_>) {
        let mut task = self.unread.task.lock();
        if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
    }

    fn fit(&mut self, unread: usize) {
        let released = self.unread.released.load(Ordering::Relaxed);
        self.settle(released);
        let spare = unread.clamp(BASE, SPARE);
        let wanted = (unread + spare).min(self.most);
        self.is_short = false;
        if self.size < wanted && self.size < unread + spare / 2 {
            self.reserved.grow(wanted - BASE);
            self.size = wanted.min(BASE + self.reserved.bytes());
            self.is_short = self.size < unread + spare / 2;
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
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn a_window_grows_with_what_is_unread_and_is_kept_reserved_until_it_is_used() {
        let unread = Arc::<Unread>::default();
        let mut window = Window::new(unread.clone(), 64 * MIB);
        let mut fit = |bytes, released| {
            unread.released.fetch_add(released, Ordering::Relaxed);
            window.fit(bytes);
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
}
