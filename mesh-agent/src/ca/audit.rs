//! The trail of what was done, and the log of what was refused.
//!
//! They are apart: refusals can be caused by anybody, and must not roll away the
//! lines of certificates. Those are bounded for each caller (`book`).

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;

use super::errors::{Error, Refusal};
use super::records::Issued;
use super::refusals::{Refusals, Writing};
use super::store::{Log, Store};
use super::token::{Caller, Denied};
use super::units::{seconds, time};

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

#[derive(Default)]
pub(super) struct Trail {
    refusals: Refusals,
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

    /// Until then refusals are only counted.
    pub(super) fn begin(&self, store: Arc<dyn Store>) -> io::Result<Writing> {
        let write = move |line: &[u8]| store.write_down(Log::Refused, line);
        self.refusals.begin(write)
    }

    /// Waits, for a while, until the last ones are written.
    pub(super) async fn end(&self, writing: Writing) {
        self.refusals.end(writing).await;
    }

    /// Refusals without a line.
    pub(super) fn unwritten(&self) -> Counter {
        self.refusals.unwritten()
    }

    /// Waits for nothing: anybody can cause it.
    pub(super) fn refused(&self, who: Who<'_>, identity: &str, refusal: Refusal, peer: &str) {
        self.refusals.tell(|unwritten| {
            serde_json::to_vec(&Line {
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
            })
        });
    }
}
