//! Which streams share a connection: where a pod has several clients' streams to one address
//! at once, all but the first of them.
//!
//! The first has one to itself, as if nobody ever shared: alone, nothing is gained. Whoever
//! comes while a shared one is being made waits for it, and is told with the others what became
//! of it. Forgotten with its last user and its connection.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::model::{RefuseReason, Refused};
use crate::tunnel::{Key, SharedConnection};

/// Those of one worker.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    pairs: RefCell<HashMap<Key, Rc<Pair>, foldhash::fast::RandomState>>,
}

#[derive(Debug)]
struct Pair {
    key: Key,
    users: Cell<usize>,
    state: RefCell<Found>,
}

/// What a pair has.
#[derive(Clone, Debug, Default)]
pub(crate) enum Found {
    #[default]
    Nothing,
    Pending(Rc<Pending>),
    Open(Rc<SharedConnection>),
    /// The other agent carried one stream at a time when it was asked.
    Unknown(Instant),
}

/// Such a one is asked again later: it may be another one by then.
const ASKED_AGAIN: Duration = Duration::from_secs(60);

/// One that is being made.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    made: OnceCell<Result<(), Refused>>,
    notify: Notify,
}

impl Pending {
    /// Cancel-safe: what was told stays.
    pub(crate) async fn wait(&self) -> Result<(), Refused> {
        loop {
            let notified = self.notify.notified();
            if let Some(made) = self.made.get() {
                return made.clone();
            }
            notified.await;
        }
    }
}

/// One that has, or waits for, a stream of the pair.
#[derive(Debug)]
pub(crate) struct Sharer {
    sharing: Rc<Sharing>,
    pair: Rc<Pair>,
}

impl Sharing {
    pub(crate) fn join(self: &Rc<Self>, key: Key) -> Sharer {
        let mut pairs = self.pairs.borrow_mut();
        let new = || {
            Rc::new(Pair {
                key,
                users: Cell::default(),
                state: RefCell::default(),
            })
        };
        let pair = pairs.entry(key).or_insert_with(new).clone();
        pair.users.set(pair.users.get() + 1);
        Sharer {
            sharing: self.clone(),
            pair,
        }
    }

    /// Closes all of a pod, each behind its last stream.
    pub(crate) fn remove_pod(&self, netns: u64) {
        for (key, pair) in &*self.pairs.borrow() {
            if let Found::Open(shared) = &*pair.state.borrow()
                && key.netns == netns
            {
                shared.close_when_empty();
            }
        }
    }

    /// The same of all pods.
    pub(crate) fn clear(&self) {
        for pair in self.pairs.borrow().values() {
            if let Found::Open(shared) = &*pair.state.borrow() {
                shared.close_when_empty();
            }
        }
    }
}

impl Sharer {
    /// Nobody else has a stream there.
    pub(crate) fn is_alone(&self) -> bool {
        self.pair.users.get() == 1
    }

    pub(crate) fn found(&self) -> Found {
        match self.pair.state.borrow().clone() {
            Found::Unknown(asked) if asked.elapsed() >= ASKED_AGAIN => Found::Nothing,
            found => found,
        }
    }

    /// Begins one; who makes it holds the other half until it is made.
    pub(crate) fn begin(&self) -> (Rc<Pending>, Making) {
        let pending = Rc::<Pending>::default();
        self.pair.state.replace(Found::Pending(pending.clone()));
        let making = Making {
            pending: pending.clone(),
            by: self.sharing.join(self.pair.key),
        };
        (pending, making)
    }

    /// That one is of no use any more.
    pub(crate) fn forget(&self, shared: &Rc<SharedConnection>) {
        let mut state = self.pair.state.borrow_mut();
        if matches!(&*state, Found::Open(open) if Rc::ptr_eq(open, shared)) {
            *state = Found::Nothing;
        }
    }
}

impl Drop for Sharer {
    fn drop(&mut self) {
        let users = self.pair.users.get() - 1;
        self.pair.users.set(users);
        if users == 0 {
            self.sharing.pairs.borrow_mut().remove(&self.pair.key);
        }
    }
}

/// Of who makes a shared connection: those that wait are told, whatever becomes of it.
pub(crate) struct Making {
    pending: Rc<Pending>,
    by: Sharer,
}

impl Making {
    /// It is there: as long as the sharer lives that it is given back with, it is found.
    pub(crate) fn made(self, shared: Rc<SharedConnection>) -> Sharer {
        self.end(Found::Open(shared), Ok(()))
    }

    /// The other agent does not know how to.
    pub(crate) fn unknown(self) {
        self.end(Found::Unknown(Instant::now()), Ok(()));
    }

    pub(crate) fn failed(self, refused: Refused) {
        self.end(Found::Nothing, Err(refused));
    }

    /// Who made it was cut, which is nothing to those that wait.
    pub(crate) fn given_up(self) {
        self.end(Found::Nothing, Ok(()));
    }

    fn end(mut self, found: Found, told: Result<(), Refused>) -> Sharer {
        self.tell(found, told);
        self.by.sharing.join(self.by.pair.key)
    }

    fn tell(&mut self, found: Found, told: Result<(), Refused>) {
        if self.pending.made.set(told).is_ok() {
            self.by.pair.state.replace(found);
            self.pending.notify.notify_waiters();
        }
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // What made it has ended by itself.
        self.tell(Found::Nothing, Err(RefuseReason::Internal.into()));
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::model::PeerProtocol;
    use crate::tunnel::tests::support::shared_connections;

    fn key(netns: u64) -> Key {
        Key {
            netns,
            destination: "10.0.0.1:80".parse().expect("an address"),
            protocol: PeerProtocol::Mesh1,
        }
    }

    /// Two that have streams of one pair.
    fn two() -> (Rc<Sharing>, Sharer, Sharer) {
        let sharing = Rc::<Sharing>::default();
        let (first, second) = (sharing.join(key(1)), sharing.join(key(1)));
        (sharing, first, second)
    }

    /// What those that wait are told, if anything.
    fn told(pending: &Pending) -> Option<Result<(), Refused>> {
        let mut context = Context::from_waker(Waker::noop());
        match pin!(pending.wait()).poll(&mut context) {
            Poll::Ready(told) => Some(told),
            Poll::Pending => None,
        }
    }

    fn reason(told: Option<Result<(), Refused>>) -> RefuseReason {
        let told = told.expect("they are told");
        told.expect_err("there is none").reason
    }

    #[test]
    fn the_first_of_a_pair_is_alone_and_later_ones_are_not() {
        let sharing = Rc::<Sharing>::default();
        let first = sharing.join(key(1));
        let elsewhere = sharing.join(key(2));
        assert!(first.is_alone() && elsewhere.is_alone());
        assert!(matches!(first.found(), Found::Nothing));
        let second = sharing.join(key(1));
        assert!(!first.is_alone() && !second.is_alone());
        assert!(elsewhere.is_alone(), "another pod's");
        drop(first);
        assert!(second.is_alone());
    }

    #[test]
    fn a_pair_is_forgotten_with_its_last_user() {
        let (sharing, first, second) = two();
        let (_pending, making) = first.begin();
        making.unknown();
        drop(first);
        assert!(
            matches!(second.found(), Found::Unknown(_)),
            "it is still known"
        );
        drop(second);
        assert!(sharing.pairs.borrow().is_empty());
        let next = sharing.join(key(1));
        assert!(next.is_alone() && matches!(next.found(), Found::Nothing));
    }

    #[tokio::test(flavor = "local")]
    async fn whoever_comes_while_it_is_made_waits_and_all_have_the_same() {
        let (sharing, first, second) = two();
        let (near, _far) = shared_connections().await;
        let (pending, making) = first.begin();
        let Found::Pending(waiting) = second.found() else {
            panic!("it is being made");
        };
        assert!(Rc::ptr_eq(&pending, &waiting));
        let waits = tokio::task::spawn_local(async move { waiting.wait().await });
        tokio::task::yield_now().await;
        assert!(told(&pending).is_none() && !waits.is_finished());
        let maker = making.made(near.clone());
        assert!(waits.await.expect("no panic").is_ok());
        assert!(
            told(&pending).is_some_and(|made| made.is_ok()),
            "also who looks late"
        );
        for sharer in [&first, &second, &sharing.join(key(1))] {
            assert!(matches!(sharer.found(), Found::Open(open) if Rc::ptr_eq(&open, &near)));
        }
        drop((first, second));
        let later = sharing.join(key(1));
        assert!(!later.is_alone(), "who drives it keeps it");
        assert!(matches!(later.found(), Found::Open(_)));
        drop((maker, later));
        assert!(sharing.pairs.borrow().is_empty());
    }

    #[test]
    fn those_that_wait_are_told_why_there_is_none_and_the_next_one_tries_again() {
        let (_sharing, first, second) = two();
        let (pending, making) = first.begin();
        assert!(told(&pending).is_none());
        making.failed(RefuseReason::ConnectRefused.into());
        assert_eq!(reason(told(&pending)), RefuseReason::ConnectRefused);
        assert!(matches!(second.found(), Found::Nothing));
        let (again, making) = second.begin();
        assert!(told(&again).is_none());
        making.given_up();
        assert!(told(&again).is_some_and(|told| told.is_ok()));
        assert!(matches!(first.found(), Found::Nothing));
    }

    #[test]
    fn a_maker_that_ends_by_itself_leaves_nobody_waiting() {
        let (sharing, first, second) = two();
        let (pending, making) = first.begin();
        drop(making);
        assert_eq!(reason(told(&pending)), RefuseReason::Internal);
        assert!(matches!(second.found(), Found::Nothing));
        drop((first, second));
        assert!(sharing.pairs.borrow().is_empty());
    }

    #[test]
    fn while_one_is_made_the_pair_is_not_forgotten() {
        let (sharing, first, second) = two();
        let (pending, making) = first.begin();
        drop((first, second));
        let later = sharing.join(key(1));
        let Found::Pending(found) = later.found() else {
            panic!("it is being made");
        };
        assert!(Rc::ptr_eq(&pending, &found));
        making.unknown();
        assert!(told(&found).is_some_and(|told| told.is_ok()));
    }

    #[tokio::test(flavor = "local")]
    async fn only_the_one_that_is_of_no_use_is_forgotten() {
        let (_sharing, first, second) = two();
        let ((one, _), (other, _)) = (shared_connections().await, shared_connections().await);
        let (_pending, making) = first.begin();
        let _maker = making.made(one.clone());
        second.forget(&other);
        assert!(matches!(first.found(), Found::Open(_)));
        second.forget(&one);
        assert!(matches!(first.found(), Found::Nothing));
    }

    #[tokio::test(flavor = "local")]
    async fn a_pod_that_goes_closes_its_own_and_the_end_closes_all() {
        let sharing = Rc::<Sharing>::default();
        let mut made = Vec::new();
        for netns in [1, 2] {
            let (near, far) = shared_connections().await;
            let (_pending, making) = sharing.join(key(netns)).begin();
            made.push((making.made(near.clone()), near, far));
        }
        let closing = || [made[0].1.is_closing(), made[1].1.is_closing()];
        assert_eq!(closing(), [false, false]);
        sharing.remove_pod(1);
        assert_eq!(closing(), [true, false]);
        sharing.clear();
        assert_eq!(closing(), [true, true]);
    }
}
