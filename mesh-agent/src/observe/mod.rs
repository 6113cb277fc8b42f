//! Counters, the Prometheus page and the access log.
//!
//! Fed by one [`Opening`] and one [`Outcome`] per connection; never blocks
//! the caller: a full log queue drops and counts.

use std::sync::Arc;

use crate::model::{ByteCounts, Opening, Outcome};

/// Handle shared by all workers.
#[derive(Clone, Debug, Default)]
pub struct Observe {
    inner: Arc<()>,
}

impl Observe {
    /// A connection reached its upstream.
    pub fn opened(&self, _opening: &Opening) {
        let _ = &self.inner;
    }

    /// A long-lived connection still runs; `bytes` are totals since it opened.
    pub fn progress(&self, _opening: &Opening, _bytes: ByteCounts) {}

    /// Exactly once per accepted connection, carried or refused.
    pub fn closed(&self, _outcome: &Outcome) {}
}
