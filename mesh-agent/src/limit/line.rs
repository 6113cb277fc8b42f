//! Those who wait for a place, by whom they are of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::Waker;

/// Whom it is of who waits. Two that have the same one share a turn.
pub(crate) type WaiterOf = u64;

/// One that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Number {
    source: WaiterOf,
    number: u64,
}

/// How one stands that came to wait.
#[derive(Debug)]
pub(super) enum Stand<'l> {
    Waits(&'l mut Option<Waker>),
    HasPlace,
    /// Another one has its room.
    Evicted,
}

/// What one was that waits no more.
#[derive(Debug)]
pub(super) enum Was {
    /// To be dropped where nothing is locked.
    Waiting(#[expect(dead_code, reason = "until it is dropped")] Option<Waker>),
    Placed,
    Evicted,
}

/// Sources come in turn, those of one in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Line {
    next: u64,
    len: usize,
    /// By number. None is empty.
    sources: BTreeMap<WaiterOf, BTreeMap<u64, Option<Waker>>>,
    /// All of them, each once; whose turn is next comes first.
    turns: VecDeque<WaiterOf>,
    /// Who does not know it yet.
    evicted: BTreeSet<u64>,
}

impl Line {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// At its end, if there is room. Where there is none, the last one of the source with
    /// the most makes some for a source that has fewer: that is to be woken.
    pub(super) fn enter(
        &mut self,
        source: WaiterOf,
        room: usize,
    ) -> Option<(Number, Option<Waker>)> {
        let evicted = match self.len < room {
            true => None,
            false => self.evict(source)?,
        };
        let number = self.next;
        self.next += 1;
        self.len += 1;
        let of = self.sources.entry(source).or_default();
        if of.is_empty() {
            self.turns.push_back(source);
        }
        of.insert(number, None);
        Some((Number { source, number }, evicted))
    }

    /// `None`: none has more than this source would have.
    fn evict(&mut self, by: WaiterOf) -> Option<Option<Waker>> {
        let own = self.sources.get(&by).map_or(0, BTreeMap::len);
        let greedy = self.sources.iter_mut().max_by_key(|(_, of)| of.len());
        let (_, of) = greedy.filter(|(_, of)| of.len() > own + 1)?;
        let (number, waker) = of.pop_last()?;
        self.evicted.insert(number);
        self.len -= 1;
        Some(waker)
    }

    /// Whose turn it is has a place, and is to be woken; `None`: nobody waits.
    pub(super) fn place_next(&mut self) -> Option<Option<Waker>> {
        let source = self.turns.pop_front()?;
        let of = self.sources.get_mut(&source)?;
        let (_, waker) = of.pop_first()?;
        self.len -= 1;
        match of.is_empty() {
            true => drop(self.sources.remove(&source)),
            false => self.turns.push_back(source),
        }
        Some(waker)
    }

    pub(super) fn stand(&mut self, Number { source, number }: Number) -> Stand<'_> {
        let waits = self.sources.get_mut(&source);
        match waits.and_then(|of| of.get_mut(&number)) {
            Some(waker) => Stand::Waits(waker),
            None if self.evicted.contains(&number) => Stand::Evicted,
            None => Stand::HasPlace,
        }
    }

    /// It is out of the line.
    pub(super) fn forget(&mut self, Number { source, number }: Number) -> Was {
        if self.evicted.remove(&number) {
            return Was::Evicted;
        }
        let Some(of) = self.sources.get_mut(&source) else {
            return Was::Placed;
        };
        let Some(waker) = of.remove(&number) else {
            return Was::Placed;
        };
        self.len -= 1;
        if of.is_empty() {
            self.sources.remove(&source);
            self.turns.retain(|other| *other != source);
        }
        Was::Waiting(waker)
    }
}
