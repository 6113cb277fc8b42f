//! A connection that was accepted, until it ends.

use tokio::net::TcpStream;

use super::carry::{Ended, carry_plain};
use super::context::{At, Exchange};
use super::report::Report;
use crate::model::{ByteCounts, CloseReason, RefuseReason};
use crate::sys::socket;

/// The first stage: a connection that was steered to this agent.
pub(super) struct Accepted {
    pub(super) client: TcpStream,
    pub(super) exchange: Exchange,
}

impl Accepted {
    pub(super) fn at(&self) -> &At {
        &self.exchange.at
    }

    /// Closes the client the way that fits the end, then tells of it.
    pub(super) fn conclude(self, mut report: Report, result: Result<Ended, RefuseReason>) {
        let (bytes, reason) = match result {
            Ok(ended) => ended,
            Err(reason) => (ByteCounts::default(), CloseReason::Refused(reason)),
        };
        if reason != CloseReason::Finished {
            socket::reset_on_close(&self.client);
        }
        if let CloseReason::Refused(RefuseReason::Tls(_)) = reason {
            report.shown(self.at().entry().take_shown());
        }
        drop(self.client);
        report.ended(bytes, reason);
    }
}

pub(super) async fn carry_between(
    accepted: &Accepted,
    report: &mut Report,
    upstream: &TcpStream,
) -> Ended {
    let idle = accepted.at().local.shared.config.idle_timeout;
    let cut = &accepted.at().entry().cut;
    carry_plain(&accepted.client, upstream, cut, report, idle).await
}
