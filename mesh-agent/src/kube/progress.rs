//! How far the following of a kind is: for people, metrics, and who decides
//! whether anything can be believed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;

use super::fault::{Fault, Reason};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// It is being listed, or will be.
    #[default]
    Listing,
    /// Listed; changes are told.
    Watching,
    /// Not installed.
    Absent,
    /// Neither is known, or nothing new: see the fault.
    Failing,
}

/// Shared with who shows it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    seen: Mutex<Seen>,
    /// Somebody missed something: all is to be told again.
    asked: AtomicBool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) phase: Phase,
    pub(crate) since: Option<SystemTime>,
    /// Anything at all, also that there was nothing.
    pub(crate) heard: Option<SystemTime>,
    pub(crate) last_event: Option<SystemTime>,
    pub(crate) events: u64,
    pub(crate) lists: u64,
    /// The newest, until something works again.
    pub(crate) fault: Option<Fault>,
    pub(crate) faults: [u64; Reason::ALL.len()],
}

impl Progress {
    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().clone()
    }

    /// Soon: when the watch ends.
    pub(crate) fn ask_for_list(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    pub(super) fn take_asked(&self) -> bool {
        self.asked.swap(false, Ordering::Relaxed)
    }

    pub(super) fn phase(&self, phase: Phase) {
        let mut seen = self.seen.lock();
        let now = Some(SystemTime::now());
        if phase != Phase::Listing {
            seen.heard = now;
            seen.fault = None;
        }
        if seen.phase != phase || seen.since.is_none() {
            seen.phase = phase;
            seen.since = now;
        }
    }

    pub(super) fn listed(&self) {
        let mut seen = self.seen.lock();
        seen.lists += 1;
        seen.heard = Some(SystemTime::now());
    }

    pub(super) fn heard(&self) {
        self.seen.lock().heard = Some(SystemTime::now());
    }

    pub(super) fn event(&self) {
        let mut seen = self.seen.lock();
        seen.events += 1;
        seen.last_event = Some(SystemTime::now());
        seen.heard = seen.last_event;
    }

    /// Also where it changes nothing of what is shown.
    pub(super) fn count(&self, fault: &Fault) {
        let reason = fault.reason() as usize;
        self.seen.lock().faults[reason] += 1;
    }

    pub(super) fn failing(&self, fault: &Fault) {
        let mut seen = self.seen.lock();
        if seen.phase != Phase::Failing {
            seen.phase = Phase::Failing;
            seen.since = Some(SystemTime::now());
        }
        seen.fault = Some(fault.clone());
    }
}
