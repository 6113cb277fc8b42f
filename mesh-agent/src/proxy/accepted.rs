//! A connection that was accepted, until it ends.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::context::{ConnectionContext, Exchange};
use super::forward::{ForwardEnd, forward_plain};
use super::report::Report;
use crate::model::{ByteCounts, CloseReason, Refused};
use crate::plan::InForce;
use crate::sys::socket;

/// How often it is looked whether a client has taken all, as the agent ends.
const LOOK: Duration = Duration::from_millis(20);
/// And before that, if it does not take it soon.
const LATER: Duration = Duration::from_secs(1);
/// A client that takes nothing for so long before that is left to the kernel.
const STUCK: Duration = Duration::from_secs(60);

/// The first stage: a connection that was steered to this agent.
pub(super) struct Accepted {
    pub(super) client: TcpStream,
    context: Rc<ConnectionContext>,
    /// What it is decided by, until it is.
    in_force: Cell<Option<Arc<InForce>>>,
}

impl Accepted {
    pub(super) fn new(client: TcpStream, context: Rc<ConnectionContext>) -> Self {
        let in_force = Exchange::begin(&context).in_force;
        Self {
            client,
            context,
            in_force: Cell::new(Some(in_force)),
        }
    }

    pub(super) fn context(&self) -> &ConnectionContext {
        &self.context
    }

    pub(super) fn context_rc(&self) -> &Rc<ConnectionContext> {
        &self.context
    }

    /// Its stages see one configuration; what is asked of it once it is decided, as where it
    /// goes instead, is decided by the one that holds then.
    pub(super) fn exchange(&self) -> Exchange {
        let in_force = self.in_force.take();
        self.in_force.set(in_force.clone());
        match in_force {
            Some(in_force) => Exchange {
                context: self.context.clone(),
                in_force,
            },
            None => Exchange::begin(&self.context),
        }
    }

    /// By the configuration that holds now, from here on.
    pub(super) fn begin_anew(&self) {
        let now = Exchange::begin(&self.context).in_force;
        self.in_force.set(Some(now));
    }

    /// It is carried from here on, for hours as that may be: a configuration that is kept for
    /// it would be one more in memory for each change between two connections.
    pub(super) fn is_decided(&self) {
        self.in_force.take();
    }

    /// Closes the client the way that fits the end, then tells of it.
    pub(super) fn conclude(self, mut report: Report, result: Result<ForwardEnd, Refused>) {
        let (bytes, reason) = match result {
            Ok(ended) => ended,
            Err(refused) => {
                report.blame(&refused);
                (ByteCounts::default(), CloseReason::Refused(refused.reason))
            }
        };
        if reason == CloseReason::Finished && self.untaken() > 0 {
            self.is_decided();
            let (worker, pod) = (self.context().worker.clone(), self.context().pod.clone());
            worker.spawn(&pod, async move {
                let reason = self.taken().await;
                self.close(report, bytes, reason);
            });
            return;
        }
        self.close(report, bytes, reason);
    }

    fn close(self, report: Report, bytes: ByteCounts, reason: CloseReason) {
        if reason != CloseReason::Finished {
            socket::reset_on_close(&self.client);
        }
        drop(self.client);
        report.ended(bytes, reason);
    }

    /// What the kernel holds for a client when the capture ends comes to nobody, and the client
    /// is told nothing: so its socket stays known here, and an agent that ends waits for it.
    fn untaken(&self) -> usize {
        socket::unacknowledged(&self.client).unwrap_or(0)
    }

    async fn taken(&self) -> CloseReason {
        tokio::select! {
            biased; // the drain's end wins
            reason = self.context().entry().cut.wait() => reason.close(),
            reason = self.acknowledged() => reason,
        }
    }

    async fn acknowledged(&self) -> CloseReason {
        let worker = &self.context().worker;
        let draining = &worker.draining;
        let (mut least, mut since) = (usize::MAX, Instant::now());
        let mut pause = LOOK;
        loop {
            let left = self.untaken();
            if left == 0 {
                return CloseReason::Finished;
            }
            if socket::is_closed(&self.client) {
                return CloseReason::ResetByClient;
            }
            if left < least {
                (least, since) = (left, Instant::now());
            }
            if draining.is_cancelled() {
                if worker.capture_stays.get() {
                    // The kernel goes on with it.
                    return CloseReason::Finished;
                }
                sleep(LOOK).await;
                continue;
            }
            if since.elapsed() >= STUCK {
                return CloseReason::Finished;
            }
            let _earlier = timeout(pause, draining.cancelled()).await;
            pause = (2 * pause).min(LATER);
        }
    }
}

pub(super) async fn forward_between(
    accepted: &Accepted,
    report: &mut Report,
    upstream: &TcpStream,
) -> ForwardEnd {
    accepted.is_decided();
    let of_all = accepted.context().worker.agent.config.idle_timeout;
    let idle = report.timeouts().idle.or(of_all);
    let cut = &accepted.context().entry().cut;
    forward_plain(&accepted.client, upstream, cut, report, idle).await
}
