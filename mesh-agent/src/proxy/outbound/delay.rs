//! A request that a TrafficPolicy delays on purpose.

use super::decided::Decided;
use super::http::Requests;
use crate::balance::Attempt;
use crate::http::h1::Request;
use crate::model::{ByteCounts, CloseReason, RequestEnd};
use crate::proxy::http::{Carried, Next, Side};

impl Requests<'_> {
    /// A request as it is decided on behind the delay that is injected, if one is; or how
    /// the client's connection ends before that.
    pub(super) async fn delayed(
        &mut self,
        client: &mut Side<'_>,
        mut decided: Decided,
        attempt: &mut Attempt,
    ) -> Result<Decided, CloseReason> {
        let Some(lasts) = attempt.delayed() else {
            return Ok(decided);
        };
        let head = decided.len as u64;
        // It goes nowhere yet: there is no upstream.
        let _none = self.begin(client, &mut decided);
        self.told.delayed(lasts);
        let context = self.accepted.context_rc();
        let broken = tokio::select! {
            biased; // removal and drain win
            reason = context.entry().cut.wait() => {
                let ended = RequestEnd::Refused(reason.refuse_reason(), None);
                Some((ended, reason.close()))
            }
            () = client.gone() => Some((RequestEnd::Client, CloseReason::ResetByClient)),
            () = tokio::time::sleep(lasts) => None,
        };
        if let Some((ended, close)) = broken {
            let carried = Carried {
                bytes: ByteCounts {
                    sent: head,
                    ..ByteCounts::default()
                },
                ..Carried::default()
            };
            self.told.forget_rule();
            self.told.finish(carried, ended);
            return Err(close);
        }
        let decide =
            |asked: &Request<'_>, bytes: &[u8]| Decided::of(context, asked, bytes, attempt);
        // It is in the inbox still.
        match client.next(decide).await {
            Next::Request(decided) => Ok(decided),
            Next::End | Next::Bad(_) | Next::Slow | Next::Lost => Err(CloseReason::ResetByClient),
        }
    }
}
