//! Only so many handshakes with one peer are under way at once; other streams of the
//! pair wait for a permit.
//!
//! What begins together ends together: a burst that is more than two agents get done
//! within a handshake's time would all be late, and none done. Who waits for a permit
//! waits as long as the peer answers at all: one that is silent is not waited for by
//! one after the other.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::model::{RefuseReason, Refused};
use crate::tunnel::Key;

type Queues = HashMap<Key, Rc<Queue>, foldhash::fast::RandomState>;

/// Those of one worker.
#[derive(Debug)]
pub(super) struct Gate {
    at_once: usize,
    /// A peer that takes longer than this to fail is silent.
    silence: Duration,
    /// None without a stream that holds it.
    queues: RefCell<Queues>,
}

/// Of one pair.
#[derive(Debug)]
struct Queue {
    /// Closed when the peer is found silent.
    permits: Arc<Semaphore>,
    /// What was made since the queue began.
    made: Cell<u64>,
    /// Why nobody of this queue is to wait any longer.
    silent: OnceCell<Refused>,
}

/// A stream that is in a queue.
struct Queued<'g> {
    gate: &'g Gate,
    key: Key,
    queue: Rc<Queue>,
}

impl Gate {
    pub(super) fn new(at_once: usize, silence: Duration) -> Self {
        Self {
            at_once,
            silence,
            queues: RefCell::default(),
        }
    }

    /// Makes a connection when it is its turn; fails without one where the peer was
    /// silent to those before it.
    pub(super) async fn in_turn<T>(
        &self,
        key: Key,
        making: impl Future<Output = Result<T, Refused>>,
    ) -> Result<T, Refused> {
        let since = Instant::now();
        let (queued, _permit) = loop {
            let queued = self.enter(key);
            // A permit outlives neither this stream nor its queue.
            match queued.queue.permits.clone().acquire_owned().await {
                Ok(permit) => break (queued, permit),
                // Who came but now has not seen the silence of the others.
                Err(_closed) if since.elapsed() < self.silence => {}
                Err(_closed) => return Err(queued.why()),
            }
        };
        let queue = &*queued.queue;
        let (begun, before) = (Instant::now(), queue.made.get());
        let result = making.await;
        match &result {
            Ok(_) => queue.made.set(queue.made.get().wrapping_add(1)),
            Err(refused) if queue.made.get() == before && begun.elapsed() >= self.silence => {
                queued.give_up(refused);
            }
            Err(_) => {}
        }
        result
    }

    fn enter(&self, key: Key) -> Queued<'_> {
        let mut queues = self.queues.borrow_mut();
        let queue = queues.entry(key).or_insert_with(|| {
            Rc::new(Queue {
                permits: Arc::new(Semaphore::new(self.at_once)),
                made: Cell::new(0),
                silent: OnceCell::new(),
            })
        });
        Queued {
            gate: self,
            key,
            queue: queue.clone(),
        }
    }
}

impl Queued<'_> {
    /// All that wait are told; who comes later begins a queue anew.
    fn give_up(&self, refused: &Refused) {
        let _first_word_holds = self.queue.silent.set(refused.clone());
        self.queue.permits.close();
        self.leave();
    }

    fn why(&self) -> Refused {
        let refused = self.queue.silent.get().cloned();
        refused.unwrap_or_else(|| RefuseReason::ConnectTimeout.into())
    }

    fn leave(&self) {
        if let Entry::Occupied(entry) = self.gate.queues.borrow_mut().entry(self.key)
            && Rc::ptr_eq(entry.get(), &self.queue)
        {
            entry.remove();
        }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        // The map's and this one.
        if Rc::strong_count(&self.queue) == 2 {
            self.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use futures::future::join_all;
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::model::{PeerProtocol, TlsFailure};

    const MS: Duration = Duration::from_millis(1);
    const DEADLINE: Duration = Duration::from_secs(5);
    const LATE: RefuseReason = RefuseReason::Tls(TlsFailure::Timeout);

    fn gate(at_once: usize) -> Gate {
        Gate::new(at_once, DEADLINE / 2)
    }

    fn key(port: u16) -> Key {
        Key {
            netns: 1,
            destination: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            protocol: PeerProtocol::Mesh1,
        }
    }

    /// A peer that needs so much for each handshake, and does all that are there in turns.
    #[derive(Default)]
    struct Slow {
        busy: Cell<u32>,
        most: Cell<u32>,
    }

    impl Slow {
        async fn handshake(&self) -> Result<(), Refused> {
            self.busy.set(self.busy.get() + 1);
            self.most.set(self.most.get().max(self.busy.get()));
            let done = timeout(DEADLINE, sleep(10 * MS * self.busy.get())).await;
            self.busy.set(self.busy.get() - 1);
            done.map_err(|_| LATE.into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_that_is_too_much_at_once_gets_through_one_part_after_the_other() {
        let (all_at_once, peer) = (gate(usize::MAX >> 4), Slow::default());
        let tries = (0..2_000).map(|_| all_at_once.in_turn(key(1), peer.handshake()));
        let late = join_all(tries).await;
        assert!(late.iter().filter(|made| made.is_err()).count() > 1_000);
        let (gate, peer) = (gate(128), Slow::default());
        let tries = (0..2_000).map(|_| gate.in_turn(key(1), peer.handshake()));
        let made = join_all(tries).await;
        assert!(made.iter().all(Result::is_ok));
        assert_eq!(peer.most.get(), 128);
        assert!(gate.queues.borrow().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_not_waited_for_by_one_after_the_other() {
        let gate = gate(4);
        let silent = || async {
            sleep(DEADLINE).await;
            Err::<(), Refused>(LATE.into())
        };
        let begun = Instant::now();
        let other = gate.in_turn(key(2), async { Ok(begun.elapsed()) });
        let tries = (0..100).map(|_| gate.in_turn(key(1), silent()));
        let (ends, other) = tokio::join!(join_all(tries), other);
        assert_eq!(begun.elapsed(), DEADLINE, "all at once");
        assert!(ends.iter().all(|end| *end == Err(LATE.into())));
        assert_eq!(other, Ok(Duration::ZERO), "another peer's turn is its own");
        // Who comes later tries for itself.
        assert_eq!(gate.in_turn(key(1), async { Ok(1) }).await, Ok(1));
        assert!(gate.queues.borrow().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_came_just_before_a_silence_was_noticed_tries_for_itself() {
        let gate = gate(1);
        let silent = gate.in_turn(key(1), async {
            sleep(DEADLINE).await;
            Err::<(), Refused>(LATE.into())
        });
        let waited = gate.in_turn(key(1), async { Ok(()) });
        let late = async {
            sleep(DEADLINE - 100 * MS).await;
            gate.in_turn(key(1), async { Ok(()) }).await
        };
        let (_silent, waited, late) = tokio::join!(silent, waited, late);
        assert_eq!(waited, Err(LATE.into()));
        assert_eq!(late, Ok(()));
        assert!(gate.queues.borrow().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_late_while_others_get_through_ends_alone() {
        let gate = gate(2);
        let late = gate.in_turn(key(1), async {
            sleep(DEADLINE).await;
            Err::<(), Refused>(LATE.into())
        });
        let others = (0..100).map(|_| {
            gate.in_turn(key(1), async {
                sleep(100 * MS).await;
                Ok(())
            })
        });
        let (late, others) = tokio::join!(late, join_all(others));
        assert_eq!(late, Err(LATE.into()));
        assert!(others.iter().all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_at_once_is_each_ones_own() {
        let gate = gate(1);
        let refused = || async { Err::<(), Refused>(RefuseReason::ConnectRefused.into()) };
        let good = gate.in_turn(key(1), async { Ok(()) });
        let tries = join_all((0..10).map(|_| gate.in_turn(key(1), refused())));
        let (ends, good) = tokio::join!(tries, good);
        assert!(ends.iter().all(Result::is_err));
        assert_eq!(good, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_leaves_its_turn_to_the_next() {
        let gate = gate(1);
        let never = gate.in_turn(key(1), std::future::pending::<Result<(), Refused>>());
        let gone = timeout(100 * MS, never);
        let waits = timeout(50 * MS, gate.in_turn(key(1), async { Ok(()) }));
        let next = gate.in_turn(key(1), async { Ok(()) });
        let (gone, waits, next) = tokio::join!(gone, waits, next);
        assert!(gone.is_err() && waits.is_err());
        assert_eq!(next, Ok(()));
        assert!(gate.queues.borrow().is_empty());
    }
}
