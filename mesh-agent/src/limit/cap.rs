//! How much may be there at once, and who waits for a place.

use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::line::{Line, Number, Stand, WaiterOf, Was};

/// Of one destination, for all workers of the node.
///
/// Those that wait get places before who comes later: their sources in turn, and those of
/// one in the order in which they came. So one that has many wait for long does so itself.
/// The lock is taken by them, and by who leaves while somebody waits.
#[derive(Debug, Default)]
pub(crate) struct Cap {
    count: AtomicU32,
    /// How many wait: changed under the lock alone.
    waiting: AtomicU32,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// How many may be there, as who came last knew it.
    most: u32,
    line: Line,
}

/// Others have its room among those that wait: of its source there were the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Evicted;

type Wakers = SmallVec<[Waker; 2]>;

impl Cap {
    /// One more, until it leaves; false where that is more than there may be, or others
    /// wait.
    #[must_use]
    pub(crate) fn enter(&self, most: u32) -> bool {
        // In one order with `leave`: who sees nobody wait is seen by who comes to wait.
        self.waiting.load(Ordering::SeqCst) == 0 && self.take(most)
    }

    /// One more, however many there are.
    pub(crate) fn enter_anyway(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn leave(&self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            let wakers = self.hand_over(&mut self.queue.lock());
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// So many may be there from now on: who waits need not wait for somebody to come.
    pub(crate) fn allow(&self, most: u32) {
        // Who comes to wait says it anyway.
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut queue = self.queue.lock();
        queue.most = most;
        let wakers = self.hand_over(&mut queue);
        drop(queue);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Waits, by the number that it gives; `None`: they are `room` already, and this
    /// source's no fewer than another one's.
    pub(crate) fn wait(&self, most: u32, room: u32, source: WaiterOf) -> Option<Number> {
        let mut queue = self.queue.lock();
        queue.most = most;
        let mut wakers = self.hand_over(&mut queue);
        let entered = queue.line.enter(source, room as usize);
        self.count_waiting(&queue);
        let number = entered.map(|(number, evicted)| {
            wakers.extend(evicted);
            number
        });
        // Somebody may have left before it was seen to wait.
        wakers.extend(self.hand_over(&mut queue));
        drop(queue);
        wakers.into_iter().for_each(Waker::wake);
        number
    }

    /// It has a place; else its task is woken then.
    pub(crate) fn poll(&self, number: Number, cx: &mut Context<'_>) -> Poll<Result<(), Evicted>> {
        match self.queue.lock().line.stand(number) {
            Stand::Waits(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Stand::HasPlace => Poll::Ready(Ok(())),
            Stand::Evicted => Poll::Ready(Err(Evicted)),
        }
    }

    pub(crate) fn has_place(&self, number: Number) -> bool {
        let mut queue = self.queue.lock();
        matches!(queue.line.stand(number), Stand::HasPlace)
    }

    /// It waits no more; a place that it has by now is the next one's.
    pub(crate) fn forget(&self, number: Number) {
        let mut queue = self.queue.lock();
        let was = queue.line.forget(number);
        self.count_waiting(&queue);
        drop(queue);
        match was {
            Was::Placed => self.leave(),
            Was::Waiting(_) | Was::Evicted => {}
        }
    }

    fn take(&self, most: u32) -> bool {
        let one_more = |count: u32| (count < most).then(|| count + 1);
        let taken = self
            .count
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
        taken.is_ok()
    }

    fn hand_over(&self, queue: &mut Queue) -> Wakers {
        let mut wakers = Wakers::new();
        while queue.line.len() > 0 && self.take(queue.most) {
            wakers.extend(queue.line.place_next().flatten());
        }
        self.count_waiting(queue);
        wakers
    }

    fn count_waiting(&self, queue: &Queue) {
        // No more than `room`.
        let waiting = u32::try_from(queue.line.len()).unwrap_or(u32::MAX);
        self.waiting.store(waiting, Ordering::SeqCst);
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> u32 {
        self.count.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests;
