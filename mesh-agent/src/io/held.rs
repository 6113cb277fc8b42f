//! What is held of bytes that one side sent and the other did not take, counted
//! for the whole process and bounded: the more is held, the less is read at once.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Read at least this much: a TLS record.
const LEAST: usize = 16 * 1024;
/// One read takes at most this part of what is free.
const PART: usize = 64;
/// And what is reserved for one connection is at most this part of it.
const SHARE: usize = 8;
/// All that is reserved for one pod's is at most this part of what is free and what it
/// has: alone half of all, and n pods together leave one part of n + 1.
const POD_SHARE: usize = 2;
/// Less than this part of all is little.
const LITTLE: usize = 16;

#[derive(Debug)]
pub(crate) struct Budget {
    held: AtomicUsize,
    limit: AtomicUsize,
}

/// Of this process: its memory is one.
static BUDGET: Budget = Budget::new();

impl Budget {
    const fn new() -> Self {
        Self {
            held: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
        }
    }

    fn change(&self, before: usize, after: usize) {
        change(&self.held, before, after);
    }

    fn free(&self) -> usize {
        let limit = self.limit.load(Ordering::Relaxed);
        limit.saturating_sub(self.held.load(Ordering::Relaxed))
    }

    fn room(&self, wanted: usize) -> usize {
        wanted.min((self.free() / PART).max(LEAST))
    }

    fn spare(&self, wanted: usize) -> usize {
        wanted.min(self.free() / PART)
    }

    fn leisure(&self, wanted: usize) -> usize {
        wanted.min(self.idle() / (PART / 2))
    }

    /// What is free of half of all.
    fn idle(&self) -> usize {
        let half = self.limit.load(Ordering::Relaxed) / 2;
        self.free().saturating_sub(half)
    }

    /// What one who has so much may have at most.
    fn share(&self, has: usize, part: usize) -> usize {
        self.free().saturating_add(has) / part
    }

    fn is_scarce(&self) -> bool {
        self.free() < self.limit.load(Ordering::Relaxed) / LITTLE
    }
}

/// One that counts for `before` counts for `after` from now on.
fn change(count: &AtomicUsize, before: usize, after: usize) {
    match after.checked_sub(before) {
        Some(more) => count.fetch_add(more, Ordering::Relaxed),
        None => count.fetch_sub(before - after, Ordering::Relaxed),
    };
}

/// Sets the bound. What is held may be more by a record for each direction of a
/// connection, for one that is carried at all must be able to read.
pub(crate) fn limit_held(bytes: usize) {
    BUDGET.limit.store(bytes, Ordering::Relaxed);
}

/// Bytes held now.
#[must_use]
pub(crate) fn held() -> usize {
    BUDGET.held.load(Ordering::Relaxed)
}

/// How much of `wanted` may be read now, whether or not the other side takes it.
#[must_use]
pub(crate) fn room(wanted: usize) -> usize {
    BUDGET.room(wanted)
}

/// How much of `wanted` may wait that does not have to; nothing, where all is held.
#[must_use]
pub(crate) fn spare(wanted: usize) -> usize {
    BUDGET.spare(wanted)
}

/// Little is left: who may wait, or come again, is to.
#[must_use]
pub(crate) fn is_scarce() -> bool {
    BUDGET.is_scarce()
}

/// Counted as held: what waits elsewhere.
#[derive(Debug)]
pub(crate) struct Reserved(usize);

impl Reserved {
    /// So much, whatever is left.
    pub(crate) fn of(bytes: usize) -> Self {
        BUDGET.change(0, bytes);
        Self(bytes)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        BUDGET.change(self.0, 0);
    }
}

/// What may come to all connections of one pod without being asked for: however many
/// they are, others find room.
#[derive(Debug)]
pub(crate) struct Account {
    of: &'static Budget,
    held: AtomicUsize,
}

impl Default for Account {
    fn default() -> Self {
        Self::of(&BUDGET)
    }
}

impl Account {
    fn of(budget: &'static Budget) -> Self {
        Self {
            of: budget,
            held: AtomicUsize::new(0),
        }
    }

    /// With a budget of its own, of which `held` is held by others.
    #[cfg(test)]
    pub(crate) fn alone(limit: usize, held: usize) -> (Self, &'static AtomicUsize) {
        let budget = Box::leak(Box::new(Budget::new()));
        budget.limit.store(limit, Ordering::Relaxed);
        budget.held.store(held, Ordering::Relaxed);
        (Self::of(budget), &budget.held)
    }

    /// Bytes.
    #[must_use]
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn change(&self, before: usize, after: usize) {
        self.of.change(before, after);
        change(&self.held, before, after);
    }

    /// What one of its connections that has so much may have at most.
    fn share(&self, has: usize) -> usize {
        let all = self.held();
        let others = all.saturating_sub(has);
        let of_pod = self.of.share(all, POD_SHARE).saturating_sub(others);
        self.of.share(has, SHARE).min(of_pod)
    }

    /// The same of what only makes things faster: of half of all.
    fn leisure(&self, has: usize, wanted: usize) -> usize {
        let all = self.held();
        let others = all.saturating_sub(has);
        let of_pod = self.of.idle().saturating_add(all) / POD_SHARE;
        self.of.leisure(wanted).min(of_pod.saturating_sub(others))
    }
}

/// A connection's part of its pod's.
#[derive(Debug)]
pub(crate) struct Share {
    of: Arc<Account>,
    bytes: usize,
}

impl Share {
    pub(crate) fn new(of: Arc<Account>) -> Self {
        Self { of, bytes: 0 }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// As much, or what a fair share of what is free allows of it.
    pub(crate) fn grow(&mut self, to: usize) {
        self.set(to.min(self.of.share(self.bytes)).max(self.bytes));
    }

    /// How much of `wanted` there is for what only makes things faster.
    pub(crate) fn leisure(&self, wanted: usize) -> usize {
        self.of.leisure(self.bytes, wanted)
    }

    pub(crate) fn shrink(&mut self, to: usize) {
        self.set(to.min(self.bytes));
    }

    fn set(&mut self, to: usize) {
        self.of.change(self.bytes, to);
        self.bytes = to;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Bytes that wait; counted by the memory that they take.
#[derive(Debug, Default)]
pub(crate) struct Held(Vec<u8>);

impl Held {
    /// Exactly as large as it must be.
    #[must_use]
    pub(crate) fn copied(bytes: &[u8]) -> Self {
        Self::from(bytes.to_vec())
    }

    /// Makes room for exactly so many more: growing by and by could take twice as much.
    pub(crate) fn reserve_exact(&mut self, more: usize) {
        self.change(|bytes| bytes.reserve_exact(more));
    }

    pub(crate) fn extend(&mut self, more: &[u8]) {
        self.change(|bytes| bytes.extend_from_slice(more));
    }

    /// Without its first so many bytes.
    pub(crate) fn drop_front(&mut self, bytes: usize) {
        self.0.drain(..bytes);
    }

    /// Gives the memory back.
    pub(crate) fn clear(&mut self) {
        self.change(|bytes| *bytes = Vec::new());
    }

    /// Without its bytes; the memory stays for the next ones where it is no more than `most`.
    #[must_use]
    pub(crate) fn emptied(mut self, most: usize) -> Self {
        if self.0.capacity() > most {
            return Self::default();
        }
        self.0.clear();
        self
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.0
    }

    pub(crate) fn capacity(&self) -> usize {
        self.0.capacity()
    }

    fn change(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let before = self.0.capacity();
        change(&mut self.0);
        let after = self.0.capacity();
        if after != before {
            BUDGET.change(before, after);
        }
    }
}

impl From<Vec<u8>> for Held {
    fn from(bytes: Vec<u8>) -> Self {
        BUDGET.change(0, bytes.capacity());
        Self(bytes)
    }
}

impl Deref for Held {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        BUDGET.change(self.0.capacity(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: usize = 256 * 1024;

    /// A connection of a pod that has as much as it gets.
    fn grown(of: &Arc<Account>, wanted: impl Fn(&Share) -> usize) -> Share {
        let mut share = Share::new(of.clone());
        share.grow(wanted(&share));
        share
    }

    #[test]
    fn the_more_is_held_the_less_is_read_and_always_a_record() {
        let budget = Budget::new();
        assert_eq!(budget.room(WANTED), WANTED, "without a limit");
        budget.limit.store(64 << 20, Ordering::Relaxed);
        let mut before = usize::MAX;
        while budget.room(WANTED) > LEAST {
            let room = budget.room(WANTED);
            assert!(room <= before, "{room} after {before}");
            before = room;
            budget.change(0, room);
        }
        assert!(budget.held.load(Ordering::Relaxed) <= 64 << 20);
        budget.change(0, usize::MAX / 2);
        assert_eq!(budget.room(WANTED), LEAST, "full");
    }

    #[test]
    fn what_is_reserved_is_a_share_of_what_is_free_and_never_all_of_it() {
        let budget = Budget::new();
        budget.limit.store(64 << 20, Ordering::Relaxed);
        assert!(!budget.is_scarce());
        for _ in 0..100 {
            let share = budget.share(0, SHARE);
            assert!(share <= (64 << 20) / SHARE);
            assert!(
                budget.share(share, SHARE) > budget.share(0, SHARE),
                "one that has may keep it"
            );
            budget.change(0, share);
        }
        assert!(budget.held.load(Ordering::Relaxed) <= 64 << 20);
        assert!(budget.is_scarce());
        budget.change(0, usize::MAX / 2);
        assert_eq!(
            (budget.share(0, SHARE), budget.spare(WANTED)),
            (0, 0),
            "full"
        );
    }

    #[test]
    fn however_many_connections_a_pod_has_other_pods_find_room() {
        const LIMIT: usize = 64 << 20;
        let (first, held) = Account::alone(LIMIT, 0);
        let first = Arc::new(first);
        let grown = |of: &Arc<Account>| grown(of, |_| LIMIT);
        let many: Vec<Share> = (0..4_000).map(|_| grown(&first)).collect();
        assert_eq!(first.held(), LIMIT / POD_SHARE, "alone");
        assert_eq!(held.load(Ordering::Relaxed), first.held());
        let second = Arc::new(Account::of(first.of));
        let other = grown(&second);
        let free = LIMIT - first.held();
        assert_eq!(other.bytes(), free / SHARE, "as if the first had one");
        drop((many, other));
        assert_eq!((first.held(), held.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn what_only_makes_things_faster_takes_half_of_all_at_most() {
        let budget = Budget::new();
        assert_eq!(budget.leisure(WANTED), WANTED, "without a limit");
        budget.limit.store(64 << 20, Ordering::Relaxed);
        assert_eq!(budget.leisure(64 << 20), 1 << 20);
        for _ in 0..1_000 {
            budget.change(0, budget.leisure(64 << 20));
        }
        assert!(budget.free() >= 32 << 20);
        budget.change(0, 1 << 20);
        assert_eq!(budget.leisure(WANTED), 0);
    }

    #[test]
    fn however_many_connections_a_pod_has_others_are_fast_too() {
        const LIMIT: usize = 64 << 20;
        let (first, _held) = Account::alone(LIMIT, 0);
        let first = Arc::new(first);
        let grown = |of: &Arc<Account>| grown(of, |share| share.leisure(WANTED));
        let _many: Vec<Share> = (0..4_000).map(|_| grown(&first)).collect();
        let half_of_half = LIMIT / 2 / POD_SHARE;
        assert!(first.held() <= half_of_half, "{}", first.held());
        assert!(first.held() > half_of_half - WANTED, "{}", first.held());
        let other = grown(&Arc::new(Account::of(first.of)));
        assert_eq!(other.bytes(), WANTED, "as if the first had none");
    }

    #[test]
    fn what_is_held_is_counted_by_its_memory() {
        // Other tests hold bytes meanwhile: only that it is whole can be told.
        let mut bytes = Held::copied(&[7; 1_000]);
        assert_eq!((bytes.capacity(), bytes.len()), (1_000, 1_000));
        bytes.reserve_exact(500);
        bytes.extend(&[8; 500]);
        assert_eq!(bytes.capacity(), 1_500);
        assert!(held() >= 1_500);
        bytes.clear();
        assert_eq!(bytes.capacity(), 0);
    }
}
