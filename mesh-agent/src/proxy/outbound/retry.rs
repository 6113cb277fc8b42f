//! A request that goes elsewhere: where its endpoint was not reached nobody can have
//! seen it; else the route asks for it, by the answer's status.

use super::decided::{Decided, Limits};
use super::http::Requests;
use super::reach::{may_again, may_retry};
use super::sent::{Fresh, Sent};
use crate::balance::Attempt;
use crate::http::h1::{Lines, Parsed, Request, Scan, request_head};
use crate::model::{RefuseReason, Refused};
use crate::proxy::http::{Held, Next, Side, Transfer, Waited};
use crate::proxy::registry::CutReason;

impl Requests<'_> {
    /// The same request for an endpoint that was not tried: this one was not reached.
    pub(super) async fn elsewhere(
        &mut self,
        client: &mut Side<'_>,
        refused: &Refused,
        (is_off, attempt): (bool, &mut Attempt),
    ) -> Option<Decided> {
        if !self.told.may_help_elsewhere(refused) || is_off || attempt.is_second() {
            return None;
        }
        let context = self.accepted.context_rc();
        let decide =
            |asked: &Request<'_>, bytes: &[u8]| Decided::of(context, asked, bytes, attempt);
        // It is in the inbox still.
        let Next::Request(decided) = client.next(decide).await else {
            return None;
        };
        let load = decided.found.target.as_ref()?.load.as_ref()?;
        may_retry(context, load, attempt).then_some(decided)
    }

    /// Another upstream for a request that was sent, and whose answer is held; `None`: it
    /// is to have that answer.
    pub(super) async fn again_elsewhere(
        &mut self,
        client: &mut Side<'_>,
        transfer: &mut Transfer,
        (sent, limits, held): (&mut Sent, Limits, Held),
    ) -> Result<Option<Fresh>, Refused> {
        let context = self.accepted.context();
        let random = |limit| context.worker.dice.below(limit);
        let by = (random, &context.entry().cut);
        let waited = sent.tries.wait(held, limits.whole(), by).await;
        let Some(waited) = waited.map_err(CutReason::refuse)? else {
            return Ok(None);
        };
        // Who left in the meantime may have asked anew: nobody waits for this one.
        transfer.look_for(client).await;
        let Some((bytes, head_len)) = transfer.recall() else {
            return Ok(None);
        };
        let Some(decided) = self.decided_again(sent, (&bytes[..head_len], held), waited) else {
            return Ok(None);
        };
        self.told.failed(held.lost);
        let again = (&*sent, &bytes[..], head_len);
        let fresh = self.begin_again(client, transfer, (decided, limits), again);
        let fresh = fresh.await?;
        sent.tries.count += 1;
        Ok(Some(fresh))
    }

    /// Where it goes now; the budget allows it.
    fn decided_again(
        &self,
        sent: &mut Sent,
        (head, held): (&[u8], Held),
        _waited: Waited,
    ) -> Option<Decided> {
        let context = self.accepted.context_rc();
        let head = sent.original.as_deref().unwrap_or(head);
        let (mut scan, mut lines) = (Scan::default(), Lines::new());
        let parsed = request_head(head, &mut scan, &mut lines);
        let Ok(Parsed::Head { head: request, len }) = parsed else {
            return None;
        };
        let attempt = &mut sent.tries.attempt;
        let decided = Decided::of(context, &request, &head[..len], attempt);
        let load = decided.found.target.as_ref()?.load.as_ref()?;
        let may = decided.course.is_ok() && may_again(context, load, (held, attempt));
        may.then_some(decided)
    }

    async fn begin_again(
        &mut self,
        client: &Side<'_>,
        transfer: &mut Transfer,
        (mut decided, limits): (Decided, Limits),
        (sent, bytes, head_len): (&Sent, &[u8], usize),
    ) -> Result<Fresh, Refused> {
        let before = self.begin(client, &mut decided);
        let going = decided.course.map_err(|_| RefuseReason::Internal)?;
        self.told.attempt();
        let is_reused = before.is_some();
        let upstream = match before {
            Some(upstream) => upstream,
            None => self.connect(&going.way, limits).await?,
        };
        let original = sent.original.as_deref().unwrap_or(&bytes[..head_len]);
        let planned = going.planned.of_grpc(decided.client.is_grpc);
        transfer.restart((planned, going.response), (bytes, head_len), original);
        Ok(Fresh {
            way: going.way,
            upstream,
            is_reused,
        })
    }
}
