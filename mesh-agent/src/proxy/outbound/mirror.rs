//! Copies of requests, for where a route wants them too.
//!
//! A copy goes its own way beside its request, which never waits for it and never fails
//! by it. It is sent when all of the request has gone to its own server. Copies are
//! bounded in number, size and time: one too many is left out, and counted. What is
//! answered is read and thrown away.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::time::{sleep_until, timeout_at};

use super::upstreams::{Upstream, Upstreams, Way};
use crate::balance::InFlight;
use crate::http::h2::request;
use crate::model::Edits;
use crate::proxy::context::{ConnectionContext, Exchange, PodState, WorkerState};
use crate::proxy::http::{Fail, Inbox, Leg, Planned, Rest, SendCopies, Side, Transfer};
use crate::proxy::http2::{Uncopied, Whole, copy};
use crate::proxy::metrics::CopyEnd;
use crate::tunnel::{ResetReason, StreamEnd};

/// Most that are under way on a worker, and of one pod there.
const MAX: usize = 256;
const MAX_OF_POD: usize = 64;
/// Of an answer; what follows is not waited for.
const MAX_ANSWER: u64 = 1 << 20;
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
        Some(Self {
            worker: worker.clone(),
            pod: pod.clone(),
            end: CopyEnd::Abandoned,
        })
    }

    /// A connection's context of its own: it lives longer than the request, and is cut
    /// by itself.
    pub(super) fn exchange(&self, of: &Exchange) -> Exchange {
        let context = &of.context;
        let (worker, pod) = (self.worker.clone(), self.pod.clone());
        let (client, to) = (context.client_addr.get(), context.orig_dst.get());
        Exchange {
            context: ConnectionContext::new(worker, pod, client, to),
            in_force: of.in_force.clone(),
        }
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
        self.worker.agent.metrics.copied(self.end);
    }
}

/// A copy that is decided on.
pub(super) struct Mirror<C> {
    pub(super) ticket: Ticket,
    pub(super) context: Rc<ConnectionContext>,
    pub(super) way: Way,
    /// Of the configuration that the way is by.
    pub(super) generation: u64,
    /// Counts as load of its endpoint. What becomes of a copy says nothing of that.
    pub(super) load: Option<InFlight>,
    pub(super) request: C,
}

/// The request of a copy, without what follows its head.
pub(super) trait Copied: 'static {
    /// With all of that.
    type Whole;

    fn whole(self, rest: &Rest<'_>) -> Self::Whole;

    /// To the end of its answer, over one upstream. `None`: nobody took it.
    async fn exchange(
        whole: &mut Self::Whole,
        upstream: &mut Upstream,
        way: &Way,
    ) -> Option<CopyEnd>;
}

/// What sends them, with what follows the request's head.
pub(super) fn sending<C: Copied>(copies: SmallVec<[Mirror<C>; 1]>) -> SendCopies {
    Box::new(move |rest| {
        for copy in copies {
            match &rest {
                Some(rest) => copy.send(rest),
                None => copy.ticket.ends(CopyEnd::TooLong),
            }
        }
    })
}

impl<C: Copied> Mirror<C> {
    fn send(self, rest: &Rest<'_>) {
        let Self {
            ticket,
            context,
            way,
            generation,
            load,
            request,
        } = self;
        // The request may have taken hours. What goes over the mesh asks for an identity,
        // and what stays on the node is watched: in clear there is nothing like it.
        let now = context.worker.agent.published.load().snapshot.generation;
        if matches!(way, Way::Plain(_)) && generation != now {
            return ticket.ends(CopyEnd::Refused);
        }
        let whole = request.whole(rest);
        let tracked = context.worker.tasks.clone();
        let tasks = context.pod.tasks.clone();
        let carrying = async move {
            let end = Box::pin(carry::<C>(&context, &way, whole)).await;
            drop(load);
            ticket.ends(end);
        };
        tasks.spawn_local(tracked.track_future(carrying));
    }
}

async fn carry<C: Copied>(
    context: &Rc<ConnectionContext>,
    way: &Way,
    mut whole: C::Whole,
) -> CopyEnd {
    let ends = tokio::time::Instant::now() + LONGEST;
    let upstreams = Upstreams::new(context, None);
    let mut upstream = match timeout_at(ends, upstreams.connect(way, None)).await {
        Ok(Ok(upstream)) => upstream,
        Ok(Err(_)) => return CopyEnd::Failed,
        Err(_late) => return CopyEnd::TimedOut,
    };
    loop {
        let end = tokio::select! {
            biased; // removal and drain win
            _reason = context.entry().cut.wait() => Some(CopyEnd::Abandoned),
            end = C::exchange(&mut whole, &mut upstream, way) => end,
            () = sleep_until(ends) => Some(CopyEnd::TimedOut),
        };
        let Some(end) = end else {
            // The other agent did not take it: on another connection it goes on.
            match timeout_at(ends, upstreams.replay(upstream, way)).await {
                Ok(Ok(fresh)) => upstream = fresh,
                Ok(Err(_)) => return CopyEnd::Failed,
                Err(_late) => return CopyEnd::TimedOut,
            }
            continue;
        };
        // A pod's ports are not spent on the ends of copies.
        let is_stream = matches!(way, Way::Mesh(_));
        let in_order = is_stream && end == CopyEnd::Answered;
        upstreams.leave(upstream, (!in_order).then_some(ResetReason::Aborted));
        // There is more of an answer than anybody wants to know.
        let is_long = end == CopyEnd::TooLong;
        return if is_long { CopyEnd::Answered } else { end };
    }
}

/// `None`: nobody took it.
fn failed(end: Option<StreamEnd>) -> Option<CopyEnd> {
    match end {
        Some(StreamEnd::NotTaken) => None,
        Some(StreamEnd::ResetByPeer(ResetReason::Denied)) => Some(CopyEnd::Refused),
        Some(_) | None => Some(CopyEnd::Failed),
    }
}

/// A request of HTTP/1.
pub(super) struct Copy1 {
    pub(super) planned: Planned,
    /// As it came.
    pub(super) inbox: Inbox,
}

/// One that is on its way.
pub(super) struct Copying {
    transfer: Transfer,
    inbox: Inbox,
    /// Bytes more of the answer that are taken.
    answer: u64,
}

impl Copied for Copy1 {
    type Whole = Copying;

    fn whole(self, rest: &Rest<'_>) -> Copying {
        let Self { planned, mut inbox } = self;
        inbox.extend(rest.body);
        let mut answer = MAX_ANSWER;
        let client = &mut Side {
            leg: Leg::Nobody(&mut answer),
            inbox: &mut inbox,
        };
        let transfer = Transfer::new(planned, Edits::default(), false, client);
        Copying {
            transfer,
            inbox,
            answer,
        }
    }

    async fn exchange(
        copying: &mut Copying,
        upstream: &mut Upstream,
        _way: &Way,
    ) -> Option<CopyEnd> {
        let client = &mut Side {
            leg: Leg::Nobody(&mut copying.answer),
            inbox: &mut copying.inbox,
        };
        match copying.transfer.run(client, &mut upstream.side()).await {
            Ok(_) => Some(CopyEnd::Answered),
            // Nobody reads on: it is longer than anybody wants to know.
            Err(Fail::Client(_)) => Some(CopyEnd::TooLong),
            Err(Fail::Upstream(end)) => failed(end),
            Err(Fail::Request(_) | Fail::Answer(_) | Fail::Edit | Fail::Held(_)) => {
                Some(CopyEnd::Failed)
            }
        }
    }
}

/// A request of HTTP/2.
impl Copied for request::Parts {
    type Whole = Whole;

    fn whole(self, rest: &Rest<'_>) -> Whole {
        Whole {
            head: self,
            body: Bytes::copy_from_slice(rest.body),
            trailers: rest.trailers.clone(),
        }
    }

    async fn exchange(whole: &mut Whole, upstream: &mut Upstream, way: &Way) -> Option<CopyEnd> {
        let leg = way.http2_leg();
        match copy(&mut upstream.side(), leg, whole.clone(), MAX_ANSWER).await {
            Ok(()) => Some(CopyEnd::Answered),
            Err(Uncopied::Enough) => Some(CopyEnd::TooLong),
            Err(Uncopied::Failed(end)) => failed(end),
        }
    }
}
