//! What may end a try from outside, while it runs.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::broken::Broken;
use super::transfer::Stop;
use super::view::View;
use crate::http::h2::Reason;
use crate::proxy::registry::{Cut, CutReason};
use crate::proxy::request_report::RequestReport;
use crate::proxy::silence::Silence;

pub(super) struct Watch<'w> {
    /// Of the connection, and of this request's own leave.
    pub(super) cuts: (&'w Cut, Option<&'w Cut>),
    /// Longest silence.
    pub(super) idle: Option<Duration>,
    /// It has to be over then.
    pub(super) ends: Option<Instant>,
    /// It is answered, and waits for its next try: it is over, and its time with it.
    pub(super) is_waiting: &'w Cell<bool>,
}

impl Watch<'_> {
    /// To the end of `running`; `Some`: it does not end well.
    pub(super) async fn run(
        self,
        running: impl Future<Output = Result<(), Stop>>,
        (told, view): (&mut RequestReport, &View),
    ) -> Option<Broken> {
        let Self {
            cuts: (all, alone),
            idle,
            ends,
            is_waiting,
        } = self;
        let mut silence = Silence::new(idle, view.bytes());
        let mut run = std::pin::pin!(running);
        loop {
            let left = silence.wait(told.turn());
            tokio::select! {
                biased; // a cut must not wait for a busy exchange
                reason = all.wait() => break Some(Broken::Cut(reason)),
                reason = cut(alone) => break Some(Broken::Cut(reason)),
                ended = &mut run => match ended {
                    Ok(()) => break None,
                    Err(stop) => break Some(Broken::from(stop)),
                },
                () = until(ends.filter(|_| !is_waiting.get())) => {
                    if !is_waiting.get() {
                        break Some(Broken::TimedOut { is_sent: true });
                    }
                }
                () = tokio::time::sleep(left) => {}
            }
            told.answers(&view.carried());
            if silence.is_too_long(left, view.bytes()) {
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
