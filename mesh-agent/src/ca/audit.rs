//! The trail of what was done, and the log of what was refused.
//!
//! They are apart: refusals can be caused by anybody, and must not roll away the
//! lines of certificates. Those are bounded for each caller (`book`).

use std::time::{Instant, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;

use super::errors::{Error, Refusal};
use super::limit::Limit;
use super::records::Issued;
use super::store::{Log, Store};
use super::token::{Caller, Denied};
use super::units::{seconds, time};

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

/// A command that changes the state.
pub(super) fn command(store: &dyn Store, event: &str, what: &str) -> Result<(), Error> {
    let time = time(seconds(SystemTime::now()));
    write(store, Log::Audit, &Command { time, event, what })
}

fn write(store: &dyn Store, log: Log, line: &impl Serialize) -> Result<(), Error> {
    let line = serde_json::to_vec(line).map_err(|error| Error::Broken {
        path: store.path("the log's line"),
        error,
    })?;
    store.write_down(log, &line)
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
}

impl Default for Trail {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            refusals: Mutex::new((Limit::new(WRITTEN, WRITTEN), 0)),
        }
    }
}

impl Trail {
    pub(super) fn issued(
        &self,
        store: &dyn Store,
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
        write(store, Log::Audit, &line)
    }

    pub(super) fn refused(
        &self,
        store: &dyn Store,
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
        if let Err(error) = write(store, Log::Refused, &line) {
            tracing::error!(%error, "cannot write down a refusal");
        }
    }
}
