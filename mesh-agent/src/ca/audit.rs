//! The trail of what was done, and the log of what was refused.
//!
//! They are apart: refusals can be caused by anybody, and must not roll away the
//! lines of certificates. Those are bounded for each caller (`book`).

use std::time::{Instant, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;

use super::errors::{Error, Refusal};
use super::limit::Limit;
use super::state::{AUDIT, Issued, REFUSED};
use super::store::Store;
use super::token::{Caller, Denied};
use super::units::{seconds, time};

const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// Former parts that are kept.
const AUDIT_PARTS: u32 = 8;
const REFUSED_PARTS: u32 = 1;
/// Refusals per second that are written down; more are only counted.
const WRITTEN: u32 = 20;

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    event: &'a str,
    caller: &'a str,
    node: &'a str,
    identity: &'a str,
    serial: &'a str,
    not_after: String,
    reason: String,
    peer: &'a str,
}

#[derive(Serialize)]
struct Command<'a> {
    time: String,
    event: &'a str,
    what: &'a str,
}

/// A command that changes the state; the state's lock is held.
pub(super) fn command(store: &Store, event: &str, what: &str) -> Result<(), Error> {
    let time = time(seconds(SystemTime::now()));
    store.append(AUDIT, &Command { time, event, what })
}

/// Who was refused, as far as that is known.
#[derive(Clone, Copy, Default)]
pub(super) struct Who<'a> {
    caller: &'a str,
    node: &'a str,
}

impl<'a> From<&'a Caller> for Who<'a> {
    fn from(caller: &'a Caller) -> Self {
        Self {
            caller: &caller.name,
            node: &caller.node,
        }
    }
}

impl<'a> From<&'a Denied> for Who<'a> {
    fn from(denied: &'a Denied) -> Self {
        denied
            .token
            .as_ref()
            .map_or_else(Self::default, |token| Self {
                caller: &token.id,
                node: &token.node,
            })
    }
}

pub(super) struct Trail {
    started: Instant,
    /// Which refusals are written, and how many were not since the last one.
    refusals: Mutex<(Limit, u64)>,
    /// One at a time: the file is begun anew when it is too large.
    writing: Mutex<()>,
}

impl Default for Trail {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            refusals: Mutex::new((Limit::new(WRITTEN, WRITTEN), 0)),
            writing: Mutex::default(),
        }
    }
}

impl Trail {
    pub(super) fn issued(
        &self,
        store: &Store,
        caller: &Caller,
        peer: &str,
        issued: &Issued,
    ) -> Result<(), Error> {
        let line = Line {
            time: time(seconds(SystemTime::now())),
            event: "issued",
            caller: &caller.name,
            node: &caller.node,
            identity: &issued.identity,
            serial: &issued.serial,
            not_after: time(issued.not_after),
            reason: String::new(),
            peer,
        };
        let _writing = self.writing.lock();
        store.rotate_log(AUDIT, MAX_BYTES, AUDIT_PARTS)?;
        store.append(AUDIT, &line)
    }

    pub(super) fn refused(
        &self,
        store: &Store,
        who: Who<'_>,
        identity: &str,
        refusal: Refusal,
        peer: &str,
    ) {
        let mut refusals = self.refusals.lock();
        if !refusals.0.admits("", self.started.elapsed()) {
            refusals.1 += 1;
            return;
        }
        let unwritten = std::mem::take(&mut refusals.1);
        drop(refusals);
        let line = Line {
            time: time(seconds(SystemTime::now())),
            event: "refused",
            caller: who.caller,
            node: who.node,
            identity,
            serial: "",
            not_after: String::new(),
            reason: match unwritten {
                0 => refusal.to_string(),
                n => format!("{refusal} (and {n} refusals before that were not written)"),
            },
            peer,
        };
        let _writing = self.writing.lock();
        let written = store
            .rotate_log(REFUSED, MAX_BYTES, REFUSED_PARTS)
            .and_then(|()| store.append(REFUSED, &line));
        if let Err(error) = written {
            tracing::error!(%error, "cannot write down a refusal");
        }
    }
}
