//! What is remembered of probers and of other agents.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::links::Link;

/// What is attached to the cgroups of probers, each by its name, and the ports that
/// the kernel knows, by namespace.
#[derive(Debug, Default)]
pub(super) struct Probers {
    pub(super) links: BTreeMap<String, (u64, Link)>,
    pub(super) ports: BTreeMap<u64, BTreeSet<u16>>,
}

/// Other agents, and where their cgroups were seen.
#[derive(Debug, Default)]
pub(super) struct Others(pub(super) BTreeMap<u64, Option<PathBuf>>);

/// Sockets that nobody has any more close within this time: the kernel repeats what they
/// have not sent for a quarter of an hour at most.
const CLOSED_WITHIN: Duration = Duration::from_secs(20 * 60);
/// Nearly all that do not close with their agent do so within this time.
const MOST_WITHIN: Duration = Duration::from_secs(30);
/// Between looks for those that have: a client that is given such a port is not answered
/// until then.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The same, later.
const LOOK_LATER: Duration = Duration::from_secs(5);

/// When agents were found to be gone whose sockets may be there still.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// The agents that were there at the last look.
    known: BTreeSet<u64>,
    until: Option<Instant>,
    next: Option<Instant>,
}

impl Lost {
    /// Of the agents of the last look those that are not among `now`.
    pub(super) fn left(&mut self, now: &BTreeSet<u64>) -> Vec<u64> {
        let before = std::mem::replace(&mut self.known, now.clone());
        let left: Vec<u64> = before.difference(now).copied().collect();
        if !left.is_empty() {
            self.again();
        }
        left
    }

    pub(super) fn again(&mut self) {
        self.until = Some(Instant::now() + CLOSED_WITHIN);
        self.next = None;
    }

    pub(super) fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_over = self.until.is_none_or(|until| until < now);
        if is_over || self.next.is_some_and(|next| now < next) {
            return false;
        }
        let soon = self
            .until
            .is_some_and(|until| until - now > CLOSED_WITHIN - MOST_WITHIN);
        self.next = Some(now + if soon { LOOK_AGAIN } else { LOOK_LATER });
        true
    }
}
