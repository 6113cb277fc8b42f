//! A request that goes elsewhere: where its endpoint was not reached nobody can have
//! seen it; else the route asks for it, by the answer's status.

use super::decided::{Decided, Limits};
use super::http::Requests;
use super::reach::may_again;
use super::sent::{Fresh, Sent};
use crate::http::h1::{Lines, Parsed, Request, Scan, request_head};
use crate::model::{RefuseReason, Refused};
use crate::proxy::http::{Held, Next, Side, Transfer, Tries, Waited, Whither};
use crate::proxy::registry::CutReason;

impl Requests<'_> {
    /// The same request once more: its endpoint was not reached. `None`: that is what the
    /// client is told.
    pub(super) async fn elsewhere(
        &mut self,
        client: &mut Side<'_>,
        refused: &Refused,
        (tries, limits): (&mut Tries, Limits),
    ) -> Result<Option<Decided>, Refused> {
        if !self.told.may_help_elsewhere(refused) || tries.is_off() {
            return Ok(None);
        }
        let held = Held::unreached(refused);
        let mut next = Some(tries.first(held));
        while let Some(whither) = next {
            let waited = self.wait(tries, (held, whither), limits).await?;
            let Some(waited) = waited else {
                return Ok(None);
            };
            // Who has only said all of it still waits, as far as anybody knows: what goes at
            // once goes for that one too.
            if whither == Whither::Anywhere && client.has_ended().await {
                return Ok(None);
            }
            if let Some(decided) = self.decided_in_inbox(client, tries, &waited).await {
                tries.count += 1;
                return Ok(Some(decided));
            }
            next = tries.next(whither);
        }
        Ok(None)
    }

    /// Another upstream for a request that was sent, and whose answer is held; `None`: it
    /// is to have that answer.
    pub(super) async fn again_elsewhere(
        &mut self,
        client: &mut Side<'_>,
        transfer: &mut Transfer,
        (sent, limits, mut held): (&mut Sent, Limits, Held),
    ) -> Result<Option<Fresh>, Refused> {
        let mut last = None;
        loop {
            let again = self.decided_again(client, transfer, (sent, limits, held));
            let Some(decided) = again.await? else {
                return last.map_or(Ok(None), Err);
            };
            self.told.failed(held.lost);
            sent.tries.count += 1;
            let begun = self.begin_again(client, transfer, (decided, limits), sent);
            match begun.await {
                Ok(fresh) => return Ok(Some(fresh)),
                Err(refused) if self.told.may_help_elsewhere(&refused) => {
                    held = Held::unreached(&refused);
                    last = Some(refused);
                }
                Err(refused) => return Err(refused),
            }
        }
    }

    async fn wait(
        &self,
        tries: &Tries,
        held: (Held, Whither),
        limits: Limits,
    ) -> Result<Option<Waited>, Refused> {
        let context = self.accepted.context();
        let random = |limit| context.worker.dice.below(limit);
        let by = (random, &context.entry().cut);
        let waited = tries.wait(held, limits.whole(), by).await;
        waited.map_err(CutReason::refuse)
    }

    /// Where a request goes now of which nothing was sent; the budget allows it.
    async fn decided_in_inbox(
        &self,
        client: &mut Side<'_>,
        tries: &mut Tries,
        waited: &Waited,
    ) -> Option<Decided> {
        let (context, attempt) = (self.accepted.context_rc(), &mut tries.attempt);
        let decide =
            |asked: &Request<'_>, bytes: &[u8]| Decided::of(context, asked, bytes, attempt);
        let Next::Request(decided) = client.next(decide).await else {
            return None;
        };
        let load = decided.found.target.as_ref()?.load.as_ref()?;
        may_again(context, load, (waited, &tries.attempt)).then_some(decided)
    }

    /// Where it goes now, behind a wait; the budget allows it.
    async fn decided_again(
        &self,
        client: &mut Side<'_>,
        transfer: &mut Transfer,
        (sent, limits, held): (&mut Sent, Limits, Held),
    ) -> Result<Option<Decided>, Refused> {
        let mut next = Some(sent.tries.first(held));
        while let Some(whither) = next {
            if transfer.sent().is_none() {
                // Nobody waits for what cannot be sent.
                return Ok(None);
            }
            let waited = self.wait(&sent.tries, (held, whither), limits).await?;
            let Some(waited) = waited else {
                return Ok(None);
            };
            // Who left in the meantime may have asked anew: nobody waits for this one.
            transfer.look_for(client).await;
            let Some((bytes, head_len)) = transfer.sent() else {
                return Ok(None);
            };
            if let Some(decided) = self.decided_of(sent, &bytes[..head_len], &waited) {
                return Ok(Some(decided));
            }
            next = sent.tries.next(whither);
        }
        Ok(None)
    }

    fn decided_of(&self, sent: &mut Sent, head: &[u8], waited: &Waited) -> Option<Decided> {
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
        let may = decided.course.is_ok() && may_again(context, load, (waited, attempt));
        may.then_some(decided)
    }

    async fn begin_again(
        &mut self,
        client: &Side<'_>,
        transfer: &mut Transfer,
        (mut decided, limits): (Decided, Limits),
        sent: &mut Sent,
    ) -> Result<Fresh, Refused> {
        let before = self.begin(client, &mut decided);
        let going = decided.course.map_err(|_| RefuseReason::Internal)?;
        self.told.attempt();
        let is_reused = before.is_some();
        let upstream = match before {
            Some(upstream) => upstream,
            None => self.connect(&going.way, limits).await?,
        };
        if going.planned.is_rewritten() && sent.original.is_none() {
            // The next try is decided on by what came, not by what it was made into.
            let came = transfer.sent().map(|(bytes, len)| &bytes[..len]);
            sent.original = came.map(crate::io::Held::copied);
        }
        let planned = going.planned.of_grpc(decided.client.is_grpc);
        if !transfer.restart((planned, going.response), sent.original.as_deref()) {
            return Err(RefuseReason::Internal.into());
        }
        Ok(Fresh {
            way: going.way,
            upstream,
            is_reused,
        })
    }
}
