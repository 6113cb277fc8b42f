//! A request that goes elsewhere: where its endpoint was not reached nobody can have
//! seen it; else the route asks for it, by the answer's status.

use std::time::Instant;

use super::decided::{Http1Decision, Limits};
use super::http::{By, Requests};
use super::reach::leave;
use super::sent::{Fresh, Sent};
use super::upstreams::{Transport, Upstream};
use crate::http::h1::{Lines, Parsed, Request, Scan, request_head};
use crate::model::{RefuseReason, Refused};
use crate::proxy::http::{Held, Next, Replayable, RetryTo, Side, Transfer, Tries, Waited};
use crate::proxy::registry::CutReason;
use crate::proxy::times::in_time;
use crate::tunnel::StreamEnd;

impl Requests<'_> {
    /// The same request once more: its endpoint was not reached. `None`: that is what the
    /// client is told.
    pub(super) async fn elsewhere(
        &mut self,
        client: &mut Side<'_>,
        refused: &Refused,
        (tries, limits): (&mut Tries, Limits),
    ) -> Result<Option<Http1Decision>, Refused> {
        let Some(held) = self.unreached(refused, (tries, limits)) else {
            return Ok(None);
        };
        let mut next = Some(tries.first(held));
        while let Some(to) = next {
            let waited = self.wait(tries, (held, to), limits).await?;
            let Some(waited) = waited else {
                return Ok(None);
            };
            // Who has only said all of it still waits, as far as anybody knows: what goes at
            // once goes for that one too.
            if to == RetryTo::Anywhere && client.has_ended().await {
                return Ok(None);
            }
            if let Some(decided) = self.decided_in_inbox(client, tries, waited).await {
                tries.count += 1;
                return Ok(Some(decided));
            }
            next = tries.next(to);
        }
        Ok(None)
    }

    /// Another upstream for a request that was sent, and whose answer is held; `None`: it
    /// is to have that answer.
    pub(super) async fn retry_elsewhere(
        &mut self,
        client: &mut Side<'_>,
        transfer: &mut Transfer,
        (sent, limits, mut held): (&mut Sent, Limits, Held),
    ) -> Result<Option<Fresh>, Refused> {
        transfer.keep_head(client);
        let mut last = None;
        loop {
            let decided = self.decided_for_retry(client, transfer, (sent, limits, held));
            let Some(decided) = decided.await? else {
                return last.map_or(Ok(None), Err);
            };
            self.told.failed(held);
            sent.tries.count += 1;
            let begun = self.begin_retry(client, transfer, (decided, limits), sent);
            match begun.await {
                Ok(fresh) => {
                    // A try like that has no second one beside it.
                    sent.hedging = None;
                    return Ok(Some(fresh));
                }
                Err(refused) => {
                    let next = self.unreached(&refused, (&sent.tries, limits));
                    let Some(next) = next else {
                        return Err(refused);
                    };
                    held = next;
                    last = Some(refused);
                }
            }
        }
    }

    /// Another upstream for a request whose kept connection was closed, and whose endpoint
    /// was not reached any more; else what the client is told.
    pub(super) async fn instead(
        &mut self,
        client: &mut Side<'_>,
        transfer: &mut Transfer,
        (sent, limits): (&mut Sent, Limits),
        refused: Refused,
    ) -> Result<Fresh, Refused> {
        if !transfer.may_go_elsewhere() {
            return Err(refused);
        }
        let Some(held) = self.unreached(&refused, (&sent.tries, limits)) else {
            return Err(refused);
        };
        let waits = (sent, limits, held);
        let fresh = self.retry_elsewhere(client, transfer, waits).await?;
        fresh.ok_or(refused)
    }

    /// What sends a request elsewhere that nobody there has seen: its endpoint was not reached,
    /// or not within the time of one try.
    fn unreached(&mut self, refused: &Refused, (tries, limits): (&Tries, Limits)) -> Option<Held> {
        let may_help = self.told.may_help_elsewhere(refused);
        if refused.reason == RefuseReason::RequestTimeout && limits.is_left(Instant::now()) {
            return tries.late(true);
        }
        (may_help && !tries.is_off()).then(|| Held::unreached(refused))
    }

    /// A new upstream, that is there before the try is over.
    pub(super) async fn connect(
        &mut self,
        via: &Transport,
        (ends, limits): By,
    ) -> Result<Upstream, Refused> {
        let connecting = self.upstreams.connect(via, limits.times.connect);
        in_time(ends, connecting).await
    }

    /// The same stream on another connection, which is there before the try is over.
    pub(super) async fn replay(
        &mut self,
        upstream: Upstream,
        (via, ends): (&Transport, Option<Instant>),
    ) -> Result<Upstream, Refused> {
        in_time(ends, self.upstreams.replay(upstream, via)).await
    }

    /// Another upstream for a request that this one had not begun to answer, where it
    /// may be sent once more; else gives it back.
    pub(super) async fn replay_on_fresh(
        &mut self,
        transfer: &mut Transfer,
        mut upstream: Upstream,
        (via, replayable, by): (&Transport, Replayable, By),
        end: Option<StreamEnd>,
    ) -> Result<Result<Upstream, Upstream>, Refused> {
        if !replayable.is_reused
            || !upstream.may_replay(end, replayable, transfer)
            || !transfer.may_replay(&upstream.side())
        {
            return Ok(Err(upstream));
        }
        self.upstreams.leave(upstream, None);
        // First: what finds nobody there may go elsewhere.
        let fresh = self.connect(via, by).await?;
        let sent = transfer.replay().ok_or(RefuseReason::Internal)?;
        transfer.resend(sent);
        Ok(Ok(fresh))
    }

    async fn wait(
        &self,
        tries: &Tries,
        held: (Held, RetryTo),
        limits: Limits,
    ) -> Result<Option<Waited>, Refused> {
        let context = self.accepted.context();
        let random = |limit| context.worker.dice.below(limit);
        let by = (
            random,
            || leave(context, &tries.attempt),
            &context.entry().cut,
        );
        let waited = tries.wait(held, limits.whole(), by).await;
        waited.map_err(CutReason::refuse)
    }

    /// Where a request goes now of which nothing was sent; the budget allows it.
    async fn decided_in_inbox(
        &self,
        client: &mut Side<'_>,
        tries: &mut Tries,
        waited: Waited,
    ) -> Option<Http1Decision> {
        let (context, attempt) = (self.accepted.context_rc(), &mut tries.attempt);
        let decide =
            |asked: &Request<'_>, bytes: &[u8]| Http1Decision::of(context, asked, bytes, attempt);
        let Next::Request(decided) = client.next(decide).await else {
            return None;
        };
        decided.may_again(context, (waited, &tries.attempt))
    }

    /// Where it goes now, behind a wait; the budget allows it.
    async fn decided_for_retry(
        &self,
        client: &mut Side<'_>,
        transfer: &mut Transfer,
        (sent, limits, held): (&mut Sent, Limits, Held),
    ) -> Result<Option<Http1Decision>, Refused> {
        let mut next = Some(sent.tries.first(held));
        while let Some(to) = next {
            if transfer.sent().is_none() {
                // Nobody waits for what cannot be sent.
                return Ok(None);
            }
            let waited = self.wait(&sent.tries, (held, to), limits).await?;
            let Some(waited) = waited else {
                return Ok(None);
            };
            // Who left in the meantime may have asked anew: nobody waits for this one.
            transfer.look_for(client).await;
            let Some((bytes, head_len)) = transfer.sent() else {
                return Ok(None);
            };
            if let Some(decided) = self.decided_of(sent, &bytes[..head_len], waited) {
                return Ok(Some(decided));
            }
            next = sent.tries.next(to);
        }
        Ok(None)
    }

    fn decided_of(&self, sent: &mut Sent, head: &[u8], waited: Waited) -> Option<Http1Decision> {
        let context = self.accepted.context_rc();
        let head = sent.original.as_deref().unwrap_or(head);
        let (mut scan, mut lines) = (Scan::default(), Lines::new());
        let parsed = request_head(head, &mut scan, &mut lines);
        let Ok(Parsed::Head { head: request, len }) = parsed else {
            return None;
        };
        let attempt = &mut sent.tries.attempt;
        let decided = Http1Decision::of(context, &request, &head[..len], attempt);
        decided.may_again(context, (waited, attempt))
    }

    async fn begin_retry(
        &mut self,
        client: &Side<'_>,
        transfer: &mut Transfer,
        (mut decided, limits): (Http1Decision, Limits),
        sent: &mut Sent,
    ) -> Result<Fresh, Refused> {
        let before = self.begin(client, &mut decided);
        let going = decided.forward.map_err(|_| RefuseReason::Internal)?;
        self.told.attempt();
        let is_reused = before.is_some();
        let limits = limits.at(going.limits);
        let ends = limits.attempt(Instant::now());
        let upstream = match before {
            Some(upstream) => upstream,
            None => self.connect(&going.via, (ends, limits)).await?,
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
            via: going.via,
            upstream,
            ends,
            limits,
            is_reused,
        })
    }
}
