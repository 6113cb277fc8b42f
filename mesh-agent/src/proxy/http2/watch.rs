//! What may end a try from outside, while it runs.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::{Duration, Instant};

use super::broken::Broken;
use super::transfer::Stop;
use super::view::View;
use crate::http::h2::Reason;
use crate::proxy::http::Held;
use crate::proxy::registry::{Cut, CutReason};
use crate::proxy::request_report::RequestReport;
use crate::proxy::silence::Silence;

/// How often a try is looked at whose answer is held.
const HELD: Duration = Duration::from_millis(100);

pub(super) struct Watch<'w> {
    /// Of the connection, and of this request's own leave.
    pub(super) cuts: (&'w Cut, Option<&'w Cut>),
    /// Longest silence.
    pub(super) idle: Option<Duration>,
    /// It has to be over then, but for what it waits behind its answer; and all of the request.
    pub(super) ends: Option<Instant>,
    pub(super) whole: Option<Instant>,
    /// The answer behind which it waits for its next try: it is over, and its time with it. So it
    /// is where it waits for what the second try beside it has.
    pub(super) waits_behind: &'w Cell<Option<Held>>,
}

impl Watch<'_> {
    /// To the end of `running`; `Some`: it does not end well.
    pub(super) async fn run(
        self,
        mut running: Pin<&mut impl Future<Output = Result<(), Stop>>>,
        (told, view): (&mut RequestReport, &View),
    ) -> Option<Broken> {
        let Self {
            cuts: (all, alone),
            idle,
            ends,
            whole,
            waits_behind,
        } = self;
        let mut silence = Silence::new(idle, view.bytes());
        let before = view.waited.get();
        let is_answered = || waits_behind.get().is_some() || view.has_failed().is_some();
        let ends = || {
            let ends = ends.map(|ends| ends + view.waited.get().saturating_sub(before));
            [ends, whole].into_iter().flatten().min()
        };
        let is_late = || ends().is_some_and(|ends| ends <= Instant::now());
        loop {
            let pause = match is_answered() {
                // Nothing tells when it goes on, and with it its time.
                true => HELD.min(told.turn()),
                false => told.turn(),
            };
            let left = silence.wait(pause);
            let since = tokio::time::Instant::now();
            let ended = poll_fn(|cx| {
                let ended = running.as_mut().poll(cx);
                if let Some(held) = waits_behind.get() {
                    told.failed(held);
                }
                ended
            });
            tokio::select! {
                biased; // a cut must not wait for a busy exchange
                reason = all.wait() => break Some(Broken::Cut(reason)),
                reason = cut(alone) => break Some(Broken::Cut(reason)),
                ended = ended => match ended {
                    Ok(()) => break None,
                    Err(stop) => break Some(Broken::from(stop)),
                },
                () = until(ends().filter(|_| !is_answered())) => {
                    if !is_answered() && is_late() {
                        break Some(Broken::TimedOut { is_sent: true });
                    }
                }
                () = tokio::time::sleep(left) => {}
            }
            told.answers(&view.carried());
            // What it was to be over by may have come, and it may go on behind its answer.
            if silence.is_too_long(since.elapsed(), view.bytes()) {
                break Some(Broken::Idle);
            }
        }
    }
}

/// What its server is told of a try that does not end well: it must not take what it got
/// for all there was.
pub(super) fn code(broken: &Broken) -> Reason {
    let said = match broken {
        Broken::Stopped(stop) => stop.client_code(),
        Broken::NoLine(_)
        | Broken::Cut(_)
        | Broken::Idle
        | Broken::TimedOut { .. }
        | Broken::NotOffered => None,
    };
    said.unwrap_or(Reason::CANCEL)
}

pub(super) async fn cut(cut: Option<&Cut>) -> CutReason {
    match cut {
        Some(cut) => cut.wait().await,
        None => std::future::pending().await,
    }
}

pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
