//! Who goes next on a worker: rounds in which each pod gets the same time.
//!
//! A deficit round robin. As long as nobody is kept waiting, a pod's tasks just run,
//! and what they take is noted. A pod that has used its time waits with all of its
//! tasks that come up for the next round, where those of its own go in the order
//! that they came, one after the other.

use std::collections::VecDeque;
use std::time::Duration;

/// What each pod gets in a round. Between two rounds the worker looks for what has
/// become ready: so long does one that is not greedy wait for each that is.
pub(super) const TURN: Duration = Duration::from_micros(200);
/// What one that uses less than its turns may have saved.
pub(super) const SAVED: Duration = TURN.saturating_mul(TURNS_SAVED);
const TURNS_SAVED: u32 = 10;
/// The most that one which has gone on beyond its turn pays back: the machine may
/// have had other things to do meanwhile.
pub(super) const OWED: Duration = Duration::from_millis(2);

/// So many tasks the runtime runs before it looks at its sockets by itself.
const RUNS: u32 = 61;
/// Where these take no longer together, one that is alone need not be stopped for others
/// to be seen.
const SHORT: Duration = Duration::from_micros(500);

/// A pod's number here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member(usize);

/// Of a task that waits, by the order in which those of its pod came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// A task may run now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nobody of its pod waits.
    Free,
    /// It has waited and was called.
    Called,
}

#[derive(Debug)]
struct Pod<W> {
    /// Nanoseconds, as of `round`.
    credit: i64,
    round: u64,
    /// What wakes the tasks that wait; none of one that has gone.
    waiting: VecDeque<Option<W>>,
    /// Ticket of the first of these.
    first: u64,
    /// Of those that were called, how many have not run yet.
    called: usize,
    in_ring: bool,
}

impl<W> Pod<W> {
    fn new(round: u64) -> Self {
        Self {
            credit: nanos(SAVED),
            round,
            waiting: VecDeque::new(),
            first: 0,
            called: 0,
            in_ring: false,
        }
    }

    /// Gets what it is due of the rounds until this one.
    fn settle(&mut self, round: u64) {
        let rounds = i64::try_from(round - self.round).unwrap_or(i64::MAX);
        let due = rounds.saturating_mul(nanos(TURN));
        self.credit = self.credit.saturating_add(due).min(nanos(SAVED));
        self.round = round;
    }

    /// Rounds until it may run.
    fn rounds_left(&self, round: u64) -> u64 {
        let due = u64::try_from(1 - self.credit).unwrap_or(0);
        let rounds = due.div_ceil(nanos(TURN).unsigned_abs());
        rounds.saturating_sub(round - self.round)
    }

    /// The next one that waits, if it may run now.
    fn call(&mut self, round: u64) -> Option<W> {
        if self.called > 0 || self.waiting.is_empty() {
            return None;
        }
        self.settle(round);
        if self.credit <= 0 {
            return None;
        }
        self.call_next()
    }

    fn call_next(&mut self) -> Option<W> {
        while let Some(next) = self.waiting.pop_front() {
            self.first += 1;
            if next.is_some() {
                self.called += 1;
                return next;
            }
        }
        None
    }
}

/// All pods of a worker. `W`: what wakes a task.
#[derive(Debug)]
pub(super) struct Turns<W> {
    pods: Vec<Pod<W>>,
    /// Numbers of pods that have left.
    free: Vec<usize>,
    /// Pods of which some wait, the next one first.
    ring: VecDeque<usize>,
    round: u64,
    /// In this round, of all pods: how often tasks ran, and their time.
    runs: u32,
    spent: Duration,
    /// And whose they were, where all were of one.
    only: Option<usize>,
}

impl<W> Default for Turns<W> {
    fn default() -> Self {
        Self {
            pods: Vec::new(),
            free: Vec::new(),
            ring: VecDeque::new(),
            round: 0,
            runs: 0,
            spent: Duration::ZERO,
            only: None,
        }
    }
}

impl<W> Turns<W> {
    pub(super) fn join(&mut self) -> Member {
        let new = Pod::new(self.round);
        match self.free.pop() {
            Some(number) => {
                self.pods[number] = new;
                Member(number)
            }
            None => {
                self.pods.push(new);
                Member(self.pods.len() - 1)
            }
        }
    }

    /// None of its tasks is left.
    pub(super) fn leave(&mut self, Member(number): Member) {
        self.pods[number] = Pod::new(self.round);
        self.ring.retain(|other| *other != number);
        self.free.push(number);
    }

    /// Of a task that comes up.
    pub(super) fn may_run(&mut self, Member(number): Member) -> Option<Turn> {
        let pod = &mut self.pods[number];
        if pod.credit <= 0 {
            pod.settle(self.round);
        }
        let may = pod.credit > 0 && pod.waiting.is_empty();
        may.then_some(Turn::Free)
    }

    /// Of one that has waited.
    pub(super) fn is_called(&self, Member(number): Member, ticket: Ticket) -> Option<Turn> {
        (ticket.0 < self.pods[number].first).then_some(Turn::Called)
    }

    /// It may not run yet.
    pub(super) fn wait(&mut self, Member(number): Member, waker: W) -> Ticket {
        let pod = &mut self.pods[number];
        let ticket = pod.first + pod.waiting.len() as u64;
        pod.waiting.push_back(Some(waker));
        if !std::mem::replace(&mut pod.in_ring, true) {
            self.ring.push_back(number);
        }
        Ticket(ticket)
    }

    /// What wakes a task that waits, where there is need of another one.
    pub(super) fn waker(&mut self, Member(number): Member, ticket: Ticket) -> Option<&mut W> {
        let pod = &mut self.pods[number];
        let at = usize::try_from(ticket.0.checked_sub(pod.first)?).ok()?;
        pod.waiting.get_mut(at)?.as_mut()
    }

    /// Some wait for the next round.
    pub(super) fn is_awaited(&self) -> bool {
        !self.ring.is_empty()
    }

    /// A task has run for so long; gives who of the same pod is to be woken.
    pub(super) fn ran(&mut self, Member(number): Member, turn: Turn, took: Duration) -> Option<W> {
        let pod = &mut self.pods[number];
        pod.credit = pod.credit.saturating_sub(nanos(took)).max(-nanos(OWED));
        if turn == Turn::Called {
            pod.called = pod.called.saturating_sub(1);
        }
        let next = pod.call(self.round);
        let is_only = self.runs == 0 || self.only == Some(number);
        self.only = is_only.then_some(number);
        self.runs += 1;
        self.spent += took;
        if self.runs >= RUNS && self.ring.is_empty() {
            // The sockets were looked at meanwhile.
            self.begin_round();
        }
        next
    }

    fn begin_round(&mut self) {
        // All that may be saved for who keeps nobody waiting.
        let is_easy = self.is_easy();
        self.round += if is_easy { u64::from(TURNS_SAVED) } else { 1 };
        (self.runs, self.spent) = (0, Duration::ZERO);
    }

    /// Only one has run, and not for long at a time.
    fn is_easy(&self) -> bool {
        self.only.is_some() && self.runs > 0 && self.spent / self.runs * RUNS <= SHORT
    }

    /// A task has gone that waited, or was called; gives who is to be woken instead.
    pub(super) fn gone(&mut self, member: Member, ticket: Ticket) -> Option<W> {
        let Member(number) = member;
        if self.is_called(member, ticket).is_some() {
            let pod = &mut self.pods[number];
            pod.called = pod.called.saturating_sub(1);
            return pod.call(self.round);
        }
        let pod = &mut self.pods[number];
        let at = usize::try_from(ticket.0 - pod.first).ok()?;
        *pod.waiting.get_mut(at)? = None;
        // Whoever floods and leaves must not make it long.
        while pod.waiting.back().is_some_and(Option::is_none) {
            pod.waiting.pop_back();
        }
        None
    }

    /// The next round begins: of each pod that may, one is to be woken. There is
    /// always one where any wait: rounds in which none may are passed over.
    pub(super) fn next_round(&mut self, mut wake: impl FnMut(W)) {
        let is_alone = self.is_easy() && self.ring.len() == 1;
        self.begin_round();
        let left = |number: &usize| {
            let pod = &self.pods[*number];
            (!pod.waiting.is_empty()).then(|| pod.rounds_left(self.round))
        };
        self.round += self.ring.iter().filter_map(left).min().unwrap_or(0);
        for _ in 0..self.ring.len() {
            let Some(number) = self.ring.pop_front() else {
                return;
            };
            let pod = &mut self.pods[number];
            if is_alone {
                // Turns would be for nobody.
                while let Some(waker) = pod.call_next() {
                    wake(waker);
                }
            } else if let Some(waker) = pod.call(self.round) {
                wake(waker);
            }
            pod.in_ring = !pod.waiting.is_empty();
            if pod.in_ring {
                self.ring.push_back(number);
            }
        }
    }
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
