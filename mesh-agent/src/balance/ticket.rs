//! One that waits for a place among what may be in flight to a destination.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::in_flight::Here;
use super::outcome::Kind;
use crate::limit::{Cap, Evicted, Number};

/// One that waits in the queue of a destination: that is over when this is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    here: Rc<Here>,
    kind: Kind,
    number: Number,
    pub(super) since: Instant,
    is_used: bool,
}

/// Whether an attempt waits for a place: it does once at most.
#[derive(Debug, Default)]
pub(super) enum Queued {
    #[default]
    NotYet,
    Waits(Box<Ticket>),
    /// It has one, and is to be decided on anew.
    Placed(Box<Ticket>),
    /// Since then.
    Waited(Instant),
}

impl Ticket {
    pub(super) fn new(here: &Rc<Here>, kind: Kind, (number, since): (Number, Instant)) -> Self {
        Self {
            here: here.clone(),
            kind,
            number,
            since,
            is_used: false,
        }
    }

    /// For how long it waits at most.
    pub(super) fn longest(&self) -> Duration {
        self.here.traffic.limits.max_pending_time
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<(), Evicted>> {
        self.cap().poll(self.number, cx)
    }

    fn cap(&self) -> &Cap {
        self.here.destination.count(self.kind)
    }

    /// Its place is whose ticket it was, if that is of this destination; else the next one's.
    pub(super) fn become_place(mut self, here: &Here, kind: Kind) -> bool {
        let is_same = Arc::ptr_eq(&self.here.destination, &here.destination);
        self.is_used = is_same && self.kind == kind && self.cap().has_place(self.number);
        self.is_used
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_used {
            self.cap().forget(self.number);
        }
    }
}
