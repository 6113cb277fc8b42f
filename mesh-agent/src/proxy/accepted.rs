//! A connection that was accepted, until it ends.

use std::rc::Rc;

use tokio::net::TcpStream;

use super::context::{ConnectionContext, Exchange};
use super::forward::{ForwardEnd, forward_plain};
use super::report::Report;
use crate::model::{ByteCounts, CloseReason, Refused};
use crate::sys::socket;

/// The first stage: a connection that was steered to this agent.
pub(super) struct Accepted {
    pub(super) client: TcpStream,
    pub(super) exchange: Exchange,
}

impl Accepted {
    pub(super) fn context(&self) -> &ConnectionContext {
        &self.exchange.context
    }

    pub(super) fn context_rc(&self) -> &Rc<ConnectionContext> {
        &self.exchange.context
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
        if reason != CloseReason::Finished {
            socket::reset_on_close(&self.client);
        }
        drop(self.client);
        report.ended(bytes, reason);
    }
}

pub(super) async fn forward_between(
    accepted: &Accepted,
    report: &mut Report,
    upstream: &TcpStream,
) -> ForwardEnd {
    let of_all = accepted.context().worker.agent.config.idle_timeout;
    let idle = report.timeouts().idle.or(of_all);
    let cut = &accepted.context().entry().cut;
    forward_plain(&accepted.client, upstream, cut, report, idle).await
}
