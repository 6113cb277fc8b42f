//! A request that goes elsewhere: where its endpoint was not reached nobody can have
//! seen it; else the route asks for it, by the answer's status.

use std::time::{Duration, Instant};

use super::decided::{Decided, Limits};
use super::http::Requests;
use super::reach::{may_repeat, may_retry};
use super::tries::{Fresh, Tries};
use crate::balance::Attempt;
use crate::http::h1::{Lines, Parsed, Request, Scan, request_head};
use crate::model::{RefuseReason, Refused};
use crate::proxy::http::{Held, Next, Side, Transfer};

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
        client: &Side<'_>,
        transfer: &mut Transfer,
        (tries, limits, held): (&mut Tries, Limits, Held),
    ) -> Result<Option<Fresh>, Refused> {
        let worker = &self.accepted.context().worker;
        let is_asked_for = tries
            .retry
            .as_ref()
            .is_some_and(|retry| retry.codes.contains(&held.status));
        let pause = match held.unseen {
            Some(_) if !tries.attempt.is_second() => Some(Duration::ZERO),
            _ if is_asked_for => tries.pause(held, |limit| worker.dice.below(limit)),
            _ => None,
        };
        let now = Instant::now();
        let is_in_time = |pause: &Duration| limits.whole().is_none_or(|ends| now + *pause < ends);
        let Some(pause) = pause.filter(is_in_time) else {
            return Ok(None);
        };
        let Some((sent, head_len)) = transfer.recall() else {
            return Ok(None);
        };
        let Some(decided) = self.decided_again(tries, &sent[..head_len], held) else {
            return Ok(None);
        };
        if !pause.is_zero() {
            let cut = &self.accepted.context().entry().cut;
            tokio::select! {
                biased; // a cut must not wait
                reason = cut.wait() => return Err(reason.refuse()),
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.told.failed(held.unseen);
        self.begin_again(
            client,
            transfer,
            (decided, limits),
            (tries, &sent, head_len),
        )
        .await
        .map(Some)
    }

    /// Where it goes now; the budget allows it.
    fn decided_again(&self, tries: &mut Tries, head: &[u8], held: Held) -> Option<Decided> {
        let context = self.accepted.context_rc();
        let head = tries.original.as_deref().unwrap_or(head);
        let (mut scan, mut lines) = (Scan::default(), Lines::new());
        let parsed = request_head(head, &mut scan, &mut lines);
        let Ok(Parsed::Head { head: request, len }) = parsed else {
            return None;
        };
        let decided = Decided::of(context, &request, &head[..len], &mut tries.attempt);
        let load = decided.found.target.as_ref()?.load.as_ref()?;
        let may = match held.unseen {
            Some(_) => may_retry(context, load, &tries.attempt),
            // By its route also where there is no other.
            None => may_repeat(context, load),
        };
        (may && decided.course.is_ok()).then_some(decided)
    }

    async fn begin_again(
        &mut self,
        client: &Side<'_>,
        transfer: &mut Transfer,
        (mut decided, limits): (Decided, Limits),
        (tries, sent, head_len): (&mut Tries, &[u8], usize),
    ) -> Result<Fresh, Refused> {
        tries.count += 1;
        let before = self.begin(client, &mut decided);
        let going = decided.course.map_err(|_| RefuseReason::Internal)?;
        self.told.attempt();
        let is_reused = before.is_some();
        let upstream = match before {
            Some(upstream) => upstream,
            None => self.connect(&going.way, limits).await?,
        };
        let original = tries.original.as_deref().unwrap_or(&sent[..head_len]);
        let planned = going.planned.of_grpc(decided.client.is_grpc);
        transfer.restart((planned, going.response), (sent, head_len), original);
        Ok(Fresh {
            way: going.way,
            upstream,
            is_reused,
        })
    }
}
