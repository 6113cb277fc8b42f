//! Copies of requests, for where a route wants them too.
//!
//! A copy goes its own way beside its request, which never waits for it and never fails
//! by it. It is sent when all of the request has gone to its own server: only then is an
//! endpoint picked, and the way to it, by what holds then. Copies are
//! bounded in number, size and time: one too many is left out, and counted. What is
//! answered is read and thrown away.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::{sleep_until, timeout_at};

use super::upstreams::{Transport, Upstream, Upstreams};
use crate::balance::InFlight;
use crate::io::Account;
use crate::model::Edits;
use crate::model::route::BackendRef;
use crate::proxy::context::{ConnectionContext, Exchange, PodState, WorkerState};
use crate::proxy::http::{Rest, SendCopies, Unkept};
use crate::proxy::metrics::CopyEnd;
use crate::tunnel::ResetReason;

/// Most that are under way on a worker, and of one pod there.
const MAX: usize = 256;
const MAX_OF_POD: usize = 64;
/// From the request's end to the answer's.
const LONGEST: Duration = Duration::from_secs(15);

/// A place among the copies under way. What becomes of the copy is counted when it ends.
pub(super) struct Ticket {
    worker: Rc<WorkerState>,
    pod: Rc<PodState>,
    end: CopyEnd,
}

impl Ticket {
    /// `None`: there are too many.
    pub(super) fn take(exchange: &Exchange) -> Option<Self> {
        let context = &exchange.context;
        let (worker, pod) = (&context.worker, &context.pod);
        if worker.mirrors.get() >= MAX || pod.mirrors.get() >= MAX_OF_POD {
            worker.agent.metrics.copied(CopyEnd::Full);
            return None;
        }
        worker.mirrors.set(worker.mirrors.get() + 1);
        pod.mirrors.set(pod.mirrors.get() + 1);
        worker.agent.metrics.copies_active.inc();
        Some(Self {
            worker: worker.clone(),
            pod: pod.clone(),
            end: CopyEnd::Abandoned,
        })
    }

    /// A connection's context of its own: it lives longer than the request, and is cut
    /// by itself.
    pub(super) fn context(&self, of: &Exchange) -> Rc<ConnectionContext> {
        of.context.beside()
    }

    pub(super) fn ends(mut self, end: CopyEnd) {
        self.end = end;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let (all, of_pod) = (&self.worker.mirrors, &self.pod.mirrors);
        all.set(all.get() - 1);
        of_pod.set(of_pod.get() - 1);
        self.worker.agent.metrics.copies_active.dec();
        self.worker.agent.metrics.copied(self.end);
    }
}

/// A copy that waits for the end of its request.
pub(super) struct Mirror<C> {
    pub(super) ticket: Ticket,
    pub(super) context: Rc<ConnectionContext>,
    pub(super) to: BackendRef,
    /// Of the request.
    pub(super) edits: Rc<Edits>,
    /// As it came.
    pub(super) request: C,
}

/// The request of a copy, without what follows its head.
pub(super) trait Copied: 'static {
    /// With all of that.
    type Whole;

    /// All of it, and where it goes; else how it ends.
    fn whole(
        &self,
        exchange: &Exchange,
        to: (&BackendRef, &Edits),
        rest: &Rest<'_>,
    ) -> Result<Sent<Self::Whole>, CopyEnd>;

    /// To the end of its answer, over one upstream, by the account of the pod. `None`:
    /// nobody took it.
    async fn exchange(
        whole: &mut Self::Whole,
        upstream: &mut Upstream,
        to: (&Transport, &Arc<Account>),
    ) -> Option<CopyEnd>;
}

/// A copy that is sent.
pub(super) struct Sent<W> {
    pub(super) whole: W,
    pub(super) via: Transport,
    /// Counts as load of its endpoint. What becomes of a copy says nothing of that.
    pub(super) load: Option<InFlight>,
}

/// What sends them, with what follows the request's head.
pub(super) fn sending<C: Copied>(copies: SmallVec<[Mirror<C>; 1]>) -> SendCopies {
    Box::new(move |rest| {
        for copy in copies {
            match &rest {
                Ok(rest) => copy.send(rest),
                Err(Unkept::TooLong) => copy.ticket.ends(CopyEnd::TooLong),
                Err(Unkept::NoRoom) => copy.ticket.ends(CopyEnd::Full),
            }
        }
    })
}

impl<C: Copied> Mirror<C> {
    fn send(self, rest: &Rest<'_>) {
        let Self {
            ticket,
            context,
            to,
            edits,
            request,
        } = self;
        let whole = request.whole(&Exchange::begin(&context), (&to, &edits), rest);
        drop(request);
        let Sent { whole, via, load } = match whole {
            Ok(sent) => sent,
            Err(end) => return ticket.ends(end),
        };
        context.spawn(|context| async move {
            let end = Box::pin(send_copy::<C>(&context, &via, whole)).await;
            drop(load);
            ticket.ends(end);
        });
    }
}

async fn send_copy<C: Copied>(
    context: &Rc<ConnectionContext>,
    via: &Transport,
    mut whole: C::Whole,
) -> CopyEnd {
    let ends = tokio::time::Instant::now() + LONGEST;
    let (upstreams, to) = (Upstreams::new(context, None), (via, &context.pod.account));
    let mut upstream = match timeout_at(ends, upstreams.connect(via, None)).await {
        Ok(Ok(upstream)) => upstream,
        Ok(Err(_)) => return CopyEnd::Failed,
        Err(_late) => return CopyEnd::TimedOut,
    };
    loop {
        let end = tokio::select! {
            biased; // removal and drain win
            _reason = context.entry().cut.wait() => Some(CopyEnd::Abandoned),
            end = C::exchange(&mut whole, &mut upstream, to) => end,
            () = sleep_until(ends) => Some(CopyEnd::TimedOut),
        };
        let Some(end) = end else {
            // The other agent did not take it: on another connection it goes on.
            match timeout_at(ends, upstreams.replay(upstream, via)).await {
                Ok(Ok(fresh)) => upstream = fresh,
                Ok(Err(_)) => return CopyEnd::Failed,
                Err(_late) => return CopyEnd::TimedOut,
            }
            continue;
        };
        // A pod's ports are not spent on the ends of copies.
        let is_stream = matches!(via, Transport::Mesh(_));
        let in_order = is_stream && end == CopyEnd::Answered;
        upstreams.leave(upstream, (!in_order).then_some(ResetReason::Aborted));
        // There is more of an answer than anybody wants to know.
        let is_long = end == CopyEnd::TooLong;
        return if is_long { CopyEnd::Answered } else { end };
    }
}
