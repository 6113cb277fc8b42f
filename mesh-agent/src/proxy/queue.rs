//! The wait of what goes nowhere yet: a TrafficPolicy delays it on purpose, or its
//! destination has as much in flight as its limits allow.

use std::future::{Future, poll_fn};
use std::time::Instant;

use tokio::time::{sleep, timeout_at};

use super::context::ConnectionContext;
use super::metrics::{Metrics, PendingEnd};
use super::registry::CutReason;
use super::request_report::RequestReport;
use crate::balance::Attempt;
use crate::model::RefuseReason;

/// How the wait ended; `L`: what told that the client has left.
pub(super) enum WaitEnd<L> {
    /// It is to be decided on anew.
    Over,
    /// There was no place in time.
    Late(RefuseReason),
    Cut(CutReason),
    Left(L),
}

/// Until the attempt may be decided on anew, as long as its client has not `left`. Whoever
/// drops this or the attempt leaves the queue.
pub(super) async fn wait<L>(
    attempt: &mut Attempt,
    context: &ConnectionContext,
    left: impl Future<Output = L>,
) -> WaitEnd<L> {
    let waiting = async {
        match attempt.delayed() {
            Some(lasts) => {
                sleep(lasts).await;
                Ok(())
            }
            None => place(attempt, &context.worker.agent.metrics).await,
        }
    };
    let ended = tokio::select! {
        biased; // removal and drain win
        reason = context.entry().cut.wait() => WaitEnd::Cut(reason),
        left = left => WaitEnd::Left(left),
        waited = waiting => waited.map_or_else(WaitEnd::Late, |()| WaitEnd::Over),
    };
    if !matches!(ended, WaitEnd::Over) {
        // Whom it is told may take its time.
        attempt.leave_queue();
    }
    ended
}

/// The same of a request, which is told how long it was.
pub(super) async fn wait_of_request<L>(
    attempt: &mut Attempt,
    (context, told): (&ConnectionContext, &mut RequestReport),
    left: impl Future<Output = L>,
) -> WaitEnd<L> {
    if let Some(lasts) = attempt.delayed() {
        told.delayed(lasts);
    }
    let since = attempt.queued_since();
    let ended = wait(attempt, context, left).await;
    if let Some(since) = since {
        told.queued(since.elapsed());
    }
    ended
}

/// Until the attempt has a place; an error is what it gets instead.
async fn place(attempt: &mut Attempt, metrics: &Metrics) -> Result<(), RefuseReason> {
    let Some((since, longest)) = attempt.queued() else {
        return Ok(());
    };
    metrics.waits();
    let mut waiting = Waiting {
        metrics,
        since,
        end: PendingEnd::Left,
    };
    let late = since + longest;
    let (until, reason) = match attempt.ends() {
        Some(ends) if ends < late => (ends, RefuseReason::RequestTimeout),
        Some(_) | None => (late, RefuseReason::MaxPendingTime),
    };
    let placed = poll_fn(|cx| attempt.poll_place(cx));
    let placed = timeout_at(until.into(), placed).await;
    let (end, ended) = match placed {
        Ok(Ok(())) => (PendingEnd::Placed, Ok(())),
        Ok(Err(displaced)) => (PendingEnd::Displaced, Err(displaced)),
        Err(_late) => (PendingEnd::Late, Err(reason)),
    };
    waiting.end = end;
    ended
}

/// Tells how long it was, and how it ended.
struct Waiting<'m> {
    metrics: &'m Metrics,
    since: Instant,
    end: PendingEnd,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.metrics.pending(self.end, self.since.elapsed());
    }
}
