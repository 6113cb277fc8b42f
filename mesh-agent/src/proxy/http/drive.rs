//! An exchange under way: what may end it from outside, and what is told of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::byte_stream::Side;
use super::transfer::{Fail, KeptOpen, Transfer};
use crate::model::{ByteCounts, ByteMeter};
use crate::proxy::registry::{Cut, CutReason};
use crate::proxy::report::Report;
use crate::proxy::request_report::RequestReport;
use crate::proxy::silence::Silence;

/// A head that was begun is whole by then.
pub(in crate::proxy) const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// An ACCEPT that no answer follows for this long travels alone.
pub(super) const ACCEPT_DELAY: Duration = Duration::from_millis(5);

/// Why the carrying stopped.
pub(in crate::proxy) enum Driven {
    Ended(KeptOpen),
    Failed(Fail),
    Cut(CutReason),
    Idle,
    /// The route's timeout passed.
    TimedOut,
}

/// Bytes of all exchanges of a connection.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Totals {
    before: ByteCounts,
    meter: Option<Arc<ByteMeter>>,
}

impl Totals {
    pub(in crate::proxy) fn bytes(&self) -> ByteCounts {
        self.before
    }

    /// Bytes that no exchange has passed on: the agent's own answer.
    pub(in crate::proxy) fn answered(&mut self, bytes: usize, report: &mut Report) {
        self.open(report);
        self.before.received += bytes as u64;
        self.show(self.before);
    }

    fn with(&self, transfer: &Transfer) -> ByteCounts {
        let (sent, received) = transfer.bytes();
        ByteCounts {
            sent: self.before.sent + sent,
            received: self.before.received + received,
        }
    }

    fn show(&self, bytes: ByteCounts) {
        if let Some(meter) = &self.meter {
            meter.set(bytes);
        }
    }

    /// The exchange is over.
    pub(in crate::proxy) fn settle(&mut self, transfer: &Transfer) {
        self.before = self.with(transfer);
        self.show(self.before);
    }

    /// Tells of the connection once somebody has taken it.
    fn open(&mut self, report: &mut Report) {
        if self.meter.is_none() {
            self.meter = Some(report.meter().unwrap_or_else(|| report.opened()));
        }
    }
}

/// What an exchange is looked after with.
pub(in crate::proxy) struct Watch<'w> {
    pub(in crate::proxy) cut: &'w Cut,
    pub(in crate::proxy) report: &'w mut Report,
    pub(in crate::proxy) totals: &'w mut Totals,
    /// Of the request.
    pub(in crate::proxy) told: &'w mut RequestReport,
    /// Longest silence.
    pub(in crate::proxy) idle: Option<Duration>,
    /// The whole exchange is over by then.
    pub(in crate::proxy) deadline: Option<Instant>,
    /// Behind an answer that begins then the client's connection ends, and says so.
    pub(in crate::proxy) draining: Option<&'w CancellationToken>,
}

pub(in crate::proxy) async fn drive(
    transfer: &mut Transfer,
    client: &mut Side<'_>,
    upstream: &mut Side<'_>,
    watch: &mut Watch<'_>,
) -> Driven {
    let mut silence = Silence::new(watch.idle, transfer.bytes());
    let mut is_first = client.stream.is_opening();
    let draining = watch.draining;
    let is_last = || draining.is_some_and(CancellationToken::is_cancelled);
    let driven = loop {
        let wait = match std::mem::take(&mut is_first) {
            true => ACCEPT_DELAY,
            false => watch.told.turn(),
        };
        let left = silence.wait(wait);
        tokio::select! {
            biased; // a cut must not wait for a busy exchange
            reason = watch.cut.wait() => break Driven::Cut(reason),
            ended = transfer.run(client, upstream, is_last) => break match ended {
                Ok(ended) => Driven::Ended(ended),
                Err(fail) => Driven::Failed(fail),
            },
            () = until(watch.deadline) => break Driven::TimedOut,
            () = tokio::time::sleep(left) => {}
        }
        client.stream.accept_is_due();
        watch.told.answers(&transfer.carried());
        if silence.is_too_long(left, transfer.bytes()) {
            break Driven::Idle;
        }
        if upstream.stream.is_accepted() {
            watch.totals.open(watch.report);
        }
        let bytes = watch.totals.with(transfer);
        watch.totals.show(bytes);
        watch.report.progress(bytes);
    };
    if upstream.stream.is_accepted() {
        watch.totals.open(watch.report);
    }
    driven
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Returns after that much time; never without one, which is most, so that the time is no part
/// of what waits.
pub(in crate::proxy) async fn silence(idle: Option<Duration>) {
    match idle {
        Some(idle) => Box::pin(tokio::time::sleep(idle)).await,
        None => std::future::pending().await,
    }
}
