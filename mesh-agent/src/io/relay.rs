//! Copies both directions of one connection.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tokio::net::TcpStream;

use super::pump::{Pump, Side};
use crate::model::{ByteCounts, ByteMeter};

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelayEnd {
    /// Both directions were closed with FIN.
    Finished,
    ResetByClient,
    ResetByUpstream,
}

/// The relay of one connection.
#[derive(Debug, Default)]
pub(crate) struct Relay {
    sent: Pump,
    received: Pump,
    meter: Option<Arc<ByteMeter>>,
}

impl Relay {
    /// Application bytes passed on so far.
    #[must_use]
    pub(crate) fn bytes(&self) -> ByteCounts {
        ByteCounts {
            sent: self.sent.passed(),
            received: self.received.passed(),
        }
    }

    /// The client has ended its side.
    #[must_use]
    pub(crate) fn client_has_ended(&self) -> bool {
        self.sent.has_ended()
    }

    /// Shows the bytes there from now on, after each turn.
    pub(crate) fn show(&mut self, meter: Arc<ByteMeter>) {
        meter.set(self.bytes());
        self.meter = Some(meter);
    }

    /// Copies until both directions have ended or one side failed. Cancel-safe:
    /// what was read and not written stays in the relay.
    pub(crate) async fn run(&mut self, client: &TcpStream, upstream: &TcpStream) -> RelayEnd {
        poll_fn(|cx| {
            let sent = self.sent.poll(client, upstream, cx);
            if let Poll::Ready(Err(side)) = sent {
                return Poll::Ready(match side {
                    Side::From => RelayEnd::ResetByClient,
                    Side::To => RelayEnd::ResetByUpstream,
                });
            }
            let received = self.received.poll(upstream, client, cx);
            if let Some(meter) = &self.meter {
                meter.set(self.bytes());
            }
            if let Poll::Ready(Err(side)) = received {
                return Poll::Ready(match side {
                    Side::From => RelayEnd::ResetByUpstream,
                    Side::To => RelayEnd::ResetByClient,
                });
            }
            if sent.is_ready() && received.is_ready() {
                Poll::Ready(RelayEnd::Finished)
            } else {
                Poll::Pending
            }
        })
        .await
    }
}
