//! What the log is told of a connection.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::connections::LiveConnection;
use crate::model::{ByteCounts, CloseReason, Outcome, RefuseReason};

/// What happened to a connection.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Event {
    Open,
    Progress {
        bytes: ByteCounts,
        duration: Duration,
    },
    Close(CloseRecord),
}

#[derive(Clone, Copy, Debug)]
pub(in super::super) struct CloseRecord {
    pub(in super::super) bytes: ByteCounts,
    pub(in super::super) connect_time: Option<Duration>,
    pub(in super::super) duration: Duration,
    pub(in super::super) reason: CloseReason,
}

impl CloseRecord {
    pub(in super::super) fn of(outcome: &Outcome) -> Self {
        Self {
            bytes: outcome.bytes,
            connect_time: outcome.connect_time,
            duration: outcome.duration,
            reason: outcome.reason,
        }
    }

    /// It was carried, and no policy cut it.
    pub(super) fn was_allowed(&self) -> bool {
        verdict(Some(*self)) == ALLOWED
    }
}

#[derive(Debug)]
pub(super) struct Record {
    pub(super) at: SystemTime,
    pub(super) live: Arc<LiveConnection>,
    pub(super) event: Event,
}

pub(super) const ALLOWED: &str = "allowed";

/// Of a refusal.
pub(super) fn verdict_of(reason: RefuseReason) -> &'static str {
    let denials = [
        RefuseReason::Denied,
        RefuseReason::RefusedByPeer,
        RefuseReason::UndecidedProtocol,
    ];
    if denials.contains(&reason) {
        "denied"
    } else {
        "refused"
    }
}

/// `denied`: a policy said no, here or at the destination; `refused`: it was not
/// carried for another reason.
pub(super) fn verdict(end: Option<CloseRecord>) -> &'static str {
    let Some(end) = end else { return ALLOWED };
    match end.reason.refused() {
        Some(reason) => verdict_of(reason),
        None if end.reason == CloseReason::PolicyChanged => "denied",
        None if end.connect_time.is_some() => ALLOWED,
        None => "refused",
    }
}
