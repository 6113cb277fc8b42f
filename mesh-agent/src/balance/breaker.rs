//! When an endpoint is left out, and when it is tried again.
//!
//! Closed: it is used. Open: it is left out until a time. Then one real request goes
//! there as a probe: its success closes the breaker, its failure opens it for twice as
//! long. One word for all workers; each change of it is made once.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::outcome::{Cause, Failure, Kind};
use crate::limit::{SLOTS, Window};
use crate::model::traffic::OutlierDetection;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Closed,
    Open,
    /// A request is under way that shows whether it works again.
    HalfOpen,
}

/// All times are in ms since the agent's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) phase: Phase,
    /// Ejections in a row.
    times: u8,
    /// Open: until when. Half open: when another probe may go. Closed: since when.
    pub(super) at: u64,
}

impl Word {
    fn of(word: u64) -> Self {
        Self {
            phase: match word & 3 {
                0 => Phase::Closed,
                1 => Phase::Open,
                _ => Phase::HalfOpen,
            },
            times: (word >> 2) as u8 & 63,
            at: word >> 8,
        }
    }

    fn word(self) -> u64 {
        let phase = match self.phase {
            Phase::Closed => 0,
            Phase::Open => 1,
            Phase::HalfOpen => 2,
        };
        phase | (u64::from(self.times & 63) << 2) | (self.at << 8)
    }
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Left out from now on, for so long.
    Ejected {
        cause: Cause,
        failure: Failure,
        lasts: Duration,
    },
    /// The probe failed: for so long again.
    StillFailing { failure: Failure, lasts: Duration },
    /// The probe succeeded: it is used again.
    Returned,
}

/// A random number below what is given.
pub(crate) type Random<'r> = &'r dyn Fn(u64) -> u64;

#[derive(Debug)]
pub(super) struct Breaker {
    word: AtomicU64,
    /// When it left the closed state, or came back to it.
    since: AtomicU64,
    /// Of failures, of requests and of connections.
    in_a_row: [AtomicU32; 2],
    /// Successes and failures.
    window: Window,
    cause: AtomicU8,
    last: AtomicU8,
}

impl Breaker {
    pub(super) fn new(now: u64) -> Self {
        Self {
            word: AtomicU64::new(0),
            since: AtomicU64::new(now),
            in_a_row: Default::default(),
            window: Window::default(),
            cause: AtomicU8::new(0),
            last: AtomicU8::new(0),
        }
    }

    pub(super) fn word(&self) -> Word {
        Word::of(self.word.load(Ordering::Acquire))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.word().phase == Phase::Closed
    }

    pub(super) fn since(&self) -> u64 {
        self.since.load(Ordering::Relaxed)
    }

    /// Why it is open.
    pub(super) fn cause(&self) -> (Cause, Failure) {
        let cause = Cause::of(self.cause.load(Ordering::Relaxed));
        (cause, Failure::of(self.last.load(Ordering::Relaxed)))
    }

    /// Successes and failures of late.
    pub(super) fn lately(&self, of: &OutlierDetection, now: u64) -> [u64; 2] {
        self.window.sum(now, slot(of))
    }

    /// Is there to be a probe? Then the caller's request is it.
    pub(super) fn probe(&self, of: &OutlierDetection, now: u64) -> bool {
        let found = self.word();
        if found.phase == Phase::Closed || now < found.at {
            return false;
        }
        let next = Word {
            phase: Phase::HalfOpen,
            // One that says nothing for so long is one of several.
            at: now.saturating_add(millis(ejection(of, found.times.saturating_add(1)))),
            ..found
        };
        self.change(found, next)
    }

    pub(super) fn succeeded(
        &self,
        (of, kind, is_probe): (&OutlierDetection, Kind, bool),
        now: u64,
    ) -> Option<Change> {
        for row in &self.in_a_row {
            // Nearly always there is nothing to write.
            if row.load(Ordering::Relaxed) != 0 {
                row.store(0, Ordering::Relaxed);
            }
        }
        if kind == Kind::Request {
            self.window.add(now, slot(of), [1, 0]);
        }
        let found = self.word();
        if !is_probe || found.phase == Phase::Closed {
            return None;
        }
        let next = Word {
            phase: Phase::Closed,
            times: found.times,
            at: now,
        };
        self.window.clear();
        let closed = self.change(found, next);
        self.since.store(now, Ordering::Relaxed);
        closed.then_some(Change::Returned)
    }

    pub(super) fn failed(
        &self,
        (of, kind, is_probe): (&OutlierDetection, Kind, bool),
        failure: Failure,
        now: u64,
        random: Random<'_>,
    ) -> Option<Change> {
        let in_a_row = self.count(kind, failure);
        if kind == Kind::Request {
            self.window.add(now, slot(of), [0, 1]);
        }
        let found = self.word();
        let (times, cause) = match found.phase {
            _ if !of.is_on => return None,
            Phase::Closed => {
                let cause = self.is_too_much((of, kind), found, (in_a_row, now))?;
                // One that fails again soon has not recovered.
                let well = now.saturating_sub(found.at);
                let before = millis(ejection(of, found.times)).saturating_mul(2);
                let times = match well > before.max(PROBATION) {
                    true => 1,
                    false => found.times.saturating_add(1),
                };
                (times, Some(cause))
            }
            Phase::Open | Phase::HalfOpen if is_probe => (found.times.saturating_add(1), None),
            // It began before.
            Phase::Open | Phase::HalfOpen => return None,
        };
        let times = times.min(63);
        let lasts = jittered(ejection(of, times), random);
        let next = Word {
            phase: Phase::Open,
            times,
            at: now.saturating_add(millis(lasts)),
        };
        if !self.change(found, next) {
            return None;
        }
        self.last.store(failure as u8, Ordering::Relaxed);
        self.in_a_row
            .iter()
            .for_each(|row| row.store(0, Ordering::Relaxed));
        Some(match cause {
            Some(cause) => {
                self.cause.store(cause as u8, Ordering::Relaxed);
                self.since.store(now, Ordering::Relaxed);
                Change::Ejected {
                    cause,
                    failure,
                    lasts,
                }
            }
            None => Change::StillFailing { failure, lasts },
        })
    }

    /// The probe has shown nothing: another one may, at once.
    pub(super) fn shown_nothing(&self, now: u64) -> bool {
        let found = self.word();
        let next = Word {
            phase: Phase::Open,
            at: now,
            ..found
        };
        found.phase == Phase::HalfOpen && self.change(found, next)
    }

    /// Failures in a row, of requests and of connections: a request that got none, or
    /// lost it before an answer, is of both.
    fn count(&self, kind: Kind, failure: Failure) -> [u32; 2] {
        let is_local = match failure {
            Failure::Connect | Failure::Tls | Failure::Reset => true,
            Failure::Status | Failure::Timeout | Failure::Silent => kind == Kind::Connection,
        };
        let counts = [kind == Kind::Request, is_local];
        [0, 1].map(|of| match counts[of] {
            true => self.in_a_row[of]
                .fetch_add(1, Ordering::Relaxed)
                .saturating_add(1),
            false => 0,
        })
    }

    fn is_too_much(
        &self,
        (of, kind): (&OutlierDetection, Kind),
        found: Word,
        (in_a_row, now): ([u32; 2], u64),
    ) -> Option<Cause> {
        let most = [of.consecutive_errors, of.consecutive_local_origin_failures];
        let mut rows = in_a_row.into_iter().zip(most);
        if rows.any(|(count, most)| most.is_some_and(|most| count >= most.get())) {
            return Some(Cause::InARow);
        }
        let rate = of.success_rate.filter(|_| kind == Kind::Request)?;
        let [good, bad] = self.lately(of, now);
        let is_on_probation = found.times > 0 && now.saturating_sub(found.at) < PROBATION;
        let volume = match is_on_probation {
            true => rate.request_volume.div_ceil(4),
            false => rate.request_volume,
        };
        let all = good + bad;
        let is_too_few = good * 100 < all * u64::from(rate.threshold_percent);
        (all >= u64::from(volume) && is_too_few).then_some(Cause::SuccessRate)
    }

    fn change(&self, from: Word, to: Word) -> bool {
        let (from, to) = (from.word(), to.word());
        let changed = self
            .word
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
        changed.is_ok()
    }
}

/// One that has come back is judged by a quarter of the requests for so long, in ms.
const PROBATION: u64 = 10_000;

/// A share of this much is added by chance, in percent.
const JITTER: u64 = 50;

/// The `times`th in a row; without jitter.
fn ejection(of: &OutlierDetection, times: u8) -> Duration {
    let doubled = 1_u32.checked_shl(u32::from(times.saturating_sub(1)));
    let lasts = doubled.and_then(|by| of.base_ejection_time.checked_mul(by));
    lasts
        .unwrap_or(of.max_ejection_time)
        .min(of.max_ejection_time.max(of.base_ejection_time))
}

/// Those that were ejected together are not all tried at the same moment.
fn jittered(lasts: Duration, random: Random<'_>) -> Duration {
    let per_mille = 1000 + random(JITTER * 10 + 1);
    lasts.mul_f64(per_mille as f64 / 1000.0)
}

fn slot(of: &OutlierDetection) -> u64 {
    let interval = of
        .success_rate
        .map_or(Duration::from_secs(10), |rate| rate.interval);
    (millis(interval) / SLOTS as u64).max(1)
}

pub(super) fn millis(time: Duration) -> u64 {
    // So that it fits in a word beside the rest.
    u64::try_from(time.as_millis()).map_or(1 << 50, |ms| ms.min(1 << 50))
}

#[cfg(test)]
mod tests;
