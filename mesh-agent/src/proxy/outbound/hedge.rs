//! A second try of a request of HTTP/1 beside its first, at another endpoint, where the
//! first takes long: the first answer that will do is the client's, and the connection of
//! the other try is closed.
//!
//! Each try has an exchange of its own. That of the second sends what the first has sent,
//! has no client, and stops at the head of its answer; if that wins it is the client's from
//! there on. While both run no answer is passed on before it is looked at.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::decided::{Http1Decision, Limits};
use super::http::Requests;
use super::sent::Sent;
use super::upstreams::{Transport, Upstream, Upstreams};
use crate::balance::{Failure, Outcome};
use crate::http::h1::{Lines, Parsed, Scan, request_head};
use crate::io::spare;
use crate::proxy::context::ConnectionContext;
use crate::proxy::hedge::{self, Beside, Patience};
use crate::proxy::http::{
    ByteStream, Driven, Fail, Hold, Inbox, Replayable, Side, Transfer, silence,
};
use crate::proxy::load::Load;
use crate::proxy::request_report::Begun;
use crate::tunnel::{ResetReason, StreamEnd};

/// The second try.
struct Second {
    via: Transport,
    limits: Limits,
    /// Of this try.
    ends: Option<Instant>,
    upstream: Lent,
    /// It has carried requests before.
    is_reused: bool,
    transfer: Transfer,
    /// What is sent, until it is.
    inbox: Inbox,
    beside: Beside,
    begun: Begun,
}

/// A connection that is reset where this is dropped: its exchange is not over.
struct Lent {
    context: Rc<ConnectionContext>,
    upstream: Option<Upstream>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(upstream) = self.upstream.take() {
            let upstreams = Upstreams::new(&self.context, None);
            upstreams.leave(upstream, Some(ResetReason::Aborted));
        }
    }
}

/// On a connection that waited the application may have closed just then.
const CLOSED_IDLE: Outcome = Outcome::Neutral;

/// What is known first of two tries.
enum Raced {
    First(Driven),
    Second(Option<Box<Second>>),
}

impl Requests<'_> {
    /// One try, and another one where that has no answer `delay` later. If that wins it
    /// takes the place of the first.
    pub(super) async fn hedged(
        &mut self,
        client: &mut Side<'_>,
        (transfer, sent): (&mut Transfer, &mut Sent),
        (upstream, via, replayable): (&mut Upstream, &mut Transport, &mut Replayable),
        (delay, ends, limits): (Duration, &mut Option<Instant>, Limits),
    ) -> Driven {
        let (by, patience) = ((*ends, limits), Patience::new(delay, limits.whole()));
        let soon = tokio::select! {
            biased; // most are answered by then
            driven = self.drive(client, transfer, upstream, by) => Some(driven),
            () = tokio::time::sleep(delay) => None,
        };
        if let Some(driven) = soon {
            return driven;
        }
        // Once for a request.
        sent.hedging = None;
        let Some(second) = self.second(transfer, sent, limits) else {
            return self.drive(client, transfer, upstream, by).await;
        };
        self.told.hedged();
        let mut second = Box::pin(Box::new(second).run());
        transfer.races(true);
        let raced = tokio::select! {
            biased; // of two at once that which was asked first
            driven = self.drive(client, transfer, upstream, by) => Raced::First(driven),
            won = second.as_mut() => Raced::Second(won),
        };
        transfer.races(false);
        let (won, failed) = match raced {
            // An answer before the answer may have passed meanwhile.
            Raced::Second(Some(won)) if !transfer.has_answered() => (won, None),
            Raced::Second(late) => {
                // It is cancelled now, and not when the first is over.
                drop(late);
                return self.drive(client, transfer, upstream, by).await;
            }
            Raced::First(driven) => {
                let Some(failed) = mended(&driven, transfer, replayable.is_reused) else {
                    // It is cancelled before anything is passed on.
                    drop(second);
                    if !matches!(driven, Driven::Failed(Fail::Held(_))) {
                        return driven;
                    }
                    return self.drive(client, transfer, upstream, by).await;
                };
                let since = Instant::now();
                let by = (patience.left(since), limits);
                let waits = (&mut *client, &mut *transfer);
                let alone = self.second_alone(waits, second, by).await;
                // Its own time goes on behind that.
                *ends = limits.behind(*ends, since.elapsed());
                match alone {
                    Ok(Some(won)) => (won, Some(failed)),
                    Ok(None) => return driven,
                    Err(other) => return other,
                }
            }
        };
        let Second {
            via: its_way,
            limits,
            ends,
            upstream: mut lent,
            transfer: own,
            mut inbox,
            beside,
            begun,
            ..
        } = *won;
        let Some(fresh) = lent.upstream.take() else {
            return Driven::Failed(Fail::Edit);
        };
        self.told.hedge_won(failed);
        let observe = &self.accepted.context().worker.observe;
        self.told.begin(observe, begun);
        self.told.goes_to(beside.won());
        self.upstreams.leave(
            std::mem::replace(upstream, fresh),
            Some(ResetReason::Aborted),
        );
        (*transfer, *via, replayable.is_reused) = (own, its_way, false);
        transfer.wins(&mut inbox);
        self.describe();
        self.show(upstream);
        self.drive(client, transfer, upstream, (ends, limits)).await
    }

    /// The first try is over, and has nothing for the client that would do. `None`: nor has
    /// the second, in time.
    async fn second_alone(
        &mut self,
        (client, transfer): (&mut Side<'_>, &mut Transfer),
        second: impl Future<Output = Option<Box<Second>>>,
        (patience, limits): (Duration, Limits),
    ) -> Result<Option<Box<Second>>, Driven> {
        let context = self.accepted.context();
        let config = &context.worker.agent.config;
        tokio::select! {
            biased; // removal and drain win
            reason = context.entry().cut.wait() => Err(Driven::Cut(reason)),
            left = transfer.left(client) => Err(Driven::Failed(left)),
            () = tokio::time::sleep(patience) => Ok(None),
            () = silence(limits.times.idle.or(config.idle_timeout)) => Err(Driven::Idle),
            won = second => Ok(won),
        }
    }

    /// Where it goes, if it may.
    fn second(&mut self, transfer: &Transfer, sent: &mut Sent, limits: Limits) -> Option<Second> {
        let context = self.accepted.context_rc();
        let (bytes, head_len) = transfer.whole()?;
        if spare(bytes.len()) < bytes.len() {
            return None;
        }
        let mut attempt = sent.tries.attempt.beside();
        let leave = hedge::ask(context, &mut attempt)?;
        let (head, body) = bytes.split_at(head_len);
        let head = sent.original.as_deref().unwrap_or(head);
        let (mut scan, mut lines) = (Scan::default(), Lines::new());
        let parsed = request_head(head, &mut scan, &mut lines);
        let Ok(Parsed::Head { head: request, len }) = parsed else {
            return None;
        };
        let mut decided = Http1Decision::of(context, &request, &head[..len], &mut attempt);
        let target = decided.found.target.as_mut();
        let load = target.and_then(|target| target.load.take());
        let load = load.filter(|_| decided.forward.is_ok());
        if !hedge::may_go(context, load.as_ref(), (leave, &attempt)) {
            return None;
        }
        if let Some(at) = attempt.last() {
            sent.tries.attempt.was_tried_beside(at);
        }
        let (before, begun) = self.begun(Instant::now(), &mut decided);
        let (going, load) = (decided.forward.ok()?, load?);
        let mut inbox = Inbox::default();
        inbox.extend(&head[..len]);
        inbox.extend(body);
        let is_mesh = matches!(going.via, Transport::Mesh(_));
        let hold = Hold::of(going.retry.as_ref(), is_mesh, decided.is_safe);
        let hold = hold.of_probe(load.is_probe());
        let client = &mut Side {
            stream: ByteStream::Nobody(&mut 0),
            inbox: &mut inbox,
        };
        let planned = going.planned.of_grpc(decided.client.is_grpc);
        let mut transfer = Transfer::new(planned, going.response, false, client);
        transfer.second(hold);
        let beside = Beside::new(Load::new(load, context.clone()), begun.flow.clone());
        let limits = Limits {
            began: limits.began,
            ..going.limits
        };
        Some(Second {
            ends: limits.attempt(Instant::now()),
            via: going.via,
            limits,
            is_reused: before.is_some(),
            upstream: Lent {
                context: context.clone(),
                upstream: before,
            },
            transfer,
            inbox,
            beside,
            begun,
        })
    }
}

impl Second {
    /// `None`: it has no answer that will do.
    async fn run(mut self: Box<Self>) -> Option<Box<Self>> {
        let ends = self.ends;
        let left = ends.map(|ends| ends.saturating_duration_since(Instant::now()));
        let ended = tokio::select! {
            biased; // an answer that is there counts
            ended = self.answered() => ended,
            () = silence(left) => Err(Outcome::Failure(Failure::Timeout)),
        };
        match ended {
            Ok(()) => Some(self),
            Err(outcome) => {
                self.beside.failed(outcome);
                None
            }
        }
    }

    async fn answered(&mut self) -> Result<(), Outcome> {
        if self.upstream.upstream.is_none() {
            let context = self.upstream.context.clone();
            let upstreams = Upstreams::new(&context, None);
            let within = self.limits.times.connect;
            let fresh = upstreams.connect(&self.via, within).await;
            let fresh = fresh.map_err(|refused| Outcome::of_reason(refused.reason))?;
            self.upstream.upstream = Some(fresh);
        }
        let Some(upstream) = &mut self.upstream.upstream else {
            return Err(Outcome::Neutral);
        };
        self.beside.connected(Instant::now());
        let nobody = &mut Side {
            stream: ByteStream::Nobody(&mut 0),
            inbox: &mut self.inbox,
        };
        let ran = self
            .transfer
            .run(nobody, &mut upstream.side(), || false)
            .await;
        match ran {
            Err(Fail::Held(held)) if self.transfer.will_do(&held) => Ok(()),
            Err(Fail::Upstream(_)) if self.is_reused => Err(CLOSED_IDLE),
            Err(fail) => Err(outcome(fail)),
            Ok(_) => Err(Outcome::Neutral),
        }
    }
}

/// How a try failed, where another one may have an answer for all that.
fn mended(driven: &Driven, transfer: &Transfer, is_reused: bool) -> Option<Outcome> {
    match driven {
        Driven::Failed(Fail::Held(held)) if transfer.will_do(held) => None,
        Driven::Failed(Fail::Upstream(_)) if is_reused && !transfer.has_answered() => {
            Some(CLOSED_IDLE)
        }
        Driven::Failed(fail @ (Fail::Held(_) | Fail::Upstream(_) | Fail::Answer(_))) => {
            (!transfer.has_answered()).then(|| outcome(*fail))
        }
        Driven::TimedOut if !transfer.has_answered() => Some(Outcome::Failure(Failure::Timeout)),
        // Closed behind the end of its client's side, who may wait for an answer yet.
        Driven::Failed(Fail::Client(None)) if transfer.is_closed_behind_end() => {
            Some(Outcome::Abandoned)
        }
        Driven::Failed(Fail::Client(_) | Fail::Request(_) | Fail::Edit)
        | Driven::TimedOut
        | Driven::Ended(_)
        | Driven::Cut(_)
        | Driven::Idle => None,
    }
}

/// What it says of its endpoint.
fn outcome(fail: Fail) -> Outcome {
    let failure = match fail {
        Fail::Held(held) if held.is_overflow => return Outcome::of_answer(held.said()),
        Fail::Held(held) => Failure::of_answer(held.status, held.grpc),
        Fail::Upstream(Some(StreamEnd::NotTaken))
        | Fail::Client(_)
        | Fail::Request(_)
        | Fail::Edit => None,
        Fail::Upstream(_) => Some(Failure::Reset),
        Fail::Answer(_) => Some(Failure::Status),
    };
    Outcome::of_failure(failure)
}
