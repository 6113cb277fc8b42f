//! When an endpoint is left out, and when it is tried again.
//!
//! Closed: it is used. Open: it is left out until a time. Then one real request goes
//! there as a probe: its success closes the breaker (up to five in a row, where it was opened
//! for a share of failures), its failure opens it for twice as long, and for four times
//! where that was a client's loss and came soon. One word for all workers; each change of it
//! is made once.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
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

/// A breaker at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Glance {
    pub(super) word: Word,
    /// When it left the closed state, or came back to it.
    pub(super) since: u64,
}

impl Glance {
    /// Of an endpoint that nobody knows.
    pub(super) const CLOSED: Self = Self {
        word: Word {
            phase: Phase::Closed,
            times: 0,
            at: 0,
        },
        since: 0,
    };

    pub(super) fn is_closed(&self) -> bool {
        self.word.phase == Phase::Closed
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
    /// The probe succeeded; so many more have to, and the next may go at once.
    Works { more: u8 },
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
    /// Successes and failures: of requests, and of connections that carry none.
    window: Window,
    /// What was counted last.
    is_asked: AtomicBool,
    cause: AtomicU8,
    last: AtomicU8,
    /// Probes in a row that succeeded.
    good: AtomicU8,
}

impl Breaker {
    pub(super) fn new(now: u64) -> Self {
        Self {
            word: AtomicU64::new(0),
            since: AtomicU64::new(now),
            in_a_row: Default::default(),
            window: Window::default(),
            is_asked: AtomicBool::new(false),
            cause: AtomicU8::new(0),
            last: AtomicU8::new(0),
            good: AtomicU8::new(0),
        }
    }

    pub(super) fn word(&self) -> Word {
        Word::of(self.word.load(Ordering::Acquire))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.word().phase == Phase::Closed
    }

    pub(super) fn glance(&self) -> Glance {
        Glance {
            word: self.word(),
            since: self.since(),
        }
    }

    /// For how long it is open at least, from its last failure on.
    pub(super) fn lasts(&self, of: &OutlierDetection) -> Duration {
        ejection(of, self.word().times)
    }

    /// Probes of it that failed since it was last used, or since it began to be open.
    pub(super) fn failed_probes(&self) -> u32 {
        u32::from(self.word().times.saturating_sub(1))
    }

    /// Requests in a row that failed.
    pub(super) fn failed_requests(&self) -> u32 {
        self.in_a_row[0].load(Ordering::Relaxed)
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

    /// Of late it was asked by requests.
    pub(super) fn is_asked(&self, of: &OutlierDetection, now: u64) -> bool {
        self.is_asked.load(Ordering::Relaxed) && self.lately(of, now) != [0, 0]
    }

    fn counts(&self, kind: Kind) {
        let is_request = kind == Kind::Request;
        // Nearly always it is what it was.
        if self.is_asked.load(Ordering::Relaxed) != is_request {
            self.is_asked.store(is_request, Ordering::Relaxed);
        }
    }

    /// Is there to be a probe? Then the caller's request is it.
    pub(super) fn probe(&self, of: &OutlierDetection, now: u64) -> bool {
        let found = self.word();
        if found.phase == Phase::Closed || now < found.at {
            return false;
        }
        let next = Word {
            phase: Phase::HalfOpen,
            // One that says nothing for so long, which clients bear no longer, is one of several.
            at: now.saturating_add(millis(ejection(of, found.times.saturating_add(2)))),
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
        self.counts(kind);
        self.window.add(now, slot(of), [1, 0]);
        let found = self.word();
        if !is_probe || found.phase == Phase::Closed {
            return None;
        }
        let good = self.good.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let more = self.has_to_show(of).saturating_sub(good);
        if more > 0 {
            let next = Word {
                phase: Phase::Open,
                at: now,
                ..found
            };
            return self.change(found, next).then_some(Change::Works { more });
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

    /// `is_loss`: its client has lost what it asked.
    pub(super) fn failed(
        &self,
        (of, kind, is_probe): (&OutlierDetection, Kind, bool),
        (failure, is_loss): (Failure, bool),
        now: u64,
        random: Random<'_>,
    ) -> Option<Change> {
        let in_a_row = self.count(kind, failure);
        self.counts(kind);
        self.window.add(now, slot(of), [0, 1]);
        let found = self.word();
        let (times, cause) = match found.phase {
            _ if !of.is_on => return None,
            Phase::Closed => {
                let cause = self.is_too_much(of, found, (in_a_row, now))?;
                // One that fails again soon has not recovered.
                let well = now.saturating_sub(found.at);
                let before = millis(ejection(of, found.times)).saturating_mul(2);
                let times = match well > before.max(PROBATION) {
                    true => 1,
                    false => found.times.saturating_add(1),
                };
                (times, Some(cause))
            }
            Phase::Open | Phase::HalfOpen if is_probe => {
                let is_soon = ejection(of, found.times) < RARE;
                let more = 1 + u8::from(is_loss && is_soon);
                (found.times.saturating_add(more), None)
            }
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
        self.good.store(0, Ordering::Relaxed);
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
        self.is_open_until(self.word(), now)
    }

    /// The same, and another one may when it has been open for as long again.
    pub(super) fn put_off(&self, of: &OutlierDetection, now: u64, random: Random<'_>) -> bool {
        let found = self.word();
        let lasts = jittered(ejection(of, found.times), random);
        self.is_open_until(found, now.saturating_add(millis(lasts)))
    }

    fn is_open_until(&self, found: Word, at: u64) -> bool {
        let next = Word {
            phase: Phase::Open,
            at,
            ..found
        };
        found.phase == Phase::HalfOpen && self.change(found, next)
    }

    /// So many probes in a row: what fails now and then answers some of them by chance.
    fn has_to_show(&self, of: &OutlierDetection) -> u8 {
        match (self.cause().0, of.success_rate) {
            (Cause::InARow, _) | (Cause::SuccessRate, None) => 1,
            // It was asked often, and so they come soon.
            (Cause::SuccessRate, Some(rate)) => probes(rate.threshold_percent),
        }
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
        of: &OutlierDetection,
        found: Word,
        (in_a_row, now): ([u32; 2], u64),
    ) -> Option<Cause> {
        let most = [of.consecutive_errors, of.consecutive_local_origin_failures];
        let mut rows = in_a_row.into_iter().zip(most);
        if rows.any(|(count, most)| most.is_some_and(|most| count >= most.get())) {
            return Some(Cause::InARow);
        }
        let rate = of.success_rate?;
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

/// Probes that are so far apart are few, whomever they cost.
const RARE: Duration = Duration::from_secs(8);

/// A share of this much is added by chance, in percent.
const JITTER: u64 = 50;

/// So many that succeed in a row that one which does as well as it has to shows it with one
/// of three tries, about; it would never with many of these where it may fail often.
fn probes(threshold_percent: u32) -> u8 {
    let (mut chance, mut probes) = (1.0, 0);
    let each = f64::from(threshold_percent.min(100)) / 100.0;
    while probes < MOST_PROBES && chance * each >= LIKELY {
        chance *= each;
        probes += 1;
    }
    probes.max(1)
}

const MOST_PROBES: u8 = 5;
/// Five of what answers four of five are as likely.
const LIKELY: f64 = 0.32;

/// One that fails is left out some time, by what fails of it there.
pub(super) fn ejects(of: &OutlierDetection, kind: Kind) -> bool {
    let in_a_row = match kind {
        Kind::Request => of.consecutive_errors,
        Kind::Connection => of.consecutive_local_origin_failures,
    };
    of.is_on && (in_a_row.is_some() || of.success_rate.is_some())
}

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
