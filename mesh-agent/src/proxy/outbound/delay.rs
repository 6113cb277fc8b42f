//! A request that goes nowhere yet: a TrafficPolicy delays it on purpose, or there is no
//! place for it at its destination.

use super::decided::Http1Decision;
use super::http::{GoesOn, Requests};
use crate::balance::Attempt;
use crate::http::h1::Request;
use crate::model::{ByteCounts, CloseReason, RequestEnd};
use crate::proxy::http::{Carried, Next, Side};
use crate::proxy::queue::{WaitEnd, wait_of_request};

impl Requests<'_> {
    /// A request as it is decided on behind all that it has to wait for; or how the
    /// client's connection goes on where it ends before that.
    pub(super) async fn held_back(
        &mut self,
        client: &mut Side<'_>,
        mut decided: Http1Decision,
        attempt: &mut Attempt,
    ) -> Result<Http1Decision, GoesOn> {
        while attempt.is_held_back() {
            let (to, len, may_stay) = (decided.client, decided.len, decided.may_stay);
            // It goes nowhere yet: there is no upstream.
            let _none = self.begin(client, &mut decided);
            let of = (self.accepted.context(), &mut self.told);
            let (ended, close) = match wait_of_request(attempt, of, client.gone()).await {
                WaitEnd::Over => {
                    decided = self
                        .decided_anew(client, attempt)
                        .await
                        .map_err(GoesOn::Err)?;
                    continue;
                }
                WaitEnd::Late(reason) => {
                    client.inbox.consume(len);
                    return Err(self.answer(client, reason.into(), to, may_stay).await);
                }
                WaitEnd::Cut(reason) => {
                    let ended = RequestEnd::Refused(reason.refuse_reason(), None);
                    (ended, reason.close())
                }
                WaitEnd::Left(()) => (RequestEnd::Client, CloseReason::ResetByClient),
            };
            let carried = Carried {
                bytes: ByteCounts {
                    sent: len as u64,
                    ..ByteCounts::default()
                },
                ..Carried::default()
            };
            self.told.forget_rule();
            self.told.finish(carried, ended);
            return Err(Err(close));
        }
        Ok(decided)
    }

    async fn decided_anew(
        &self,
        client: &mut Side<'_>,
        attempt: &mut Attempt,
    ) -> Result<Http1Decision, CloseReason> {
        let context = self.accepted.context_rc();
        let decide =
            |asked: &Request<'_>, bytes: &[u8]| Http1Decision::of(context, asked, bytes, attempt);
        // It is in the inbox still.
        match client.next(decide).await {
            Next::Request(decided) => Ok(decided),
            Next::End | Next::Bad(_) | Next::Slow | Next::Lost => Err(CloseReason::ResetByClient),
        }
    }
}
