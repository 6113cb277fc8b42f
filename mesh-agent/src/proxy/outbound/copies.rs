//! What copies are made of, by the version of HTTP.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::mirror::{Copied, Mirror, Sent, Ticket, sending};
use super::routed::{Http1, Http2, IncomingRequest, Wanted, routed_copy};
use super::upstreams::{Transport, Upstream};
use crate::http::h1::{Lines, Parsed, Scan, request_head};
use crate::http::h2 as http2;
use crate::http::h2::{Head, HeadLines, request};
use crate::io::{Account, Held, Reserved, spare};
use crate::model::Edits;
use crate::model::route::BackendRef;
use crate::proxy::context::Exchange;
use crate::proxy::http::{ByteStream, Fail, Inbox, Rest, SendCopies, Side, Transfer};
use crate::proxy::http2::{Uncopied, Whole, copy};
use crate::proxy::metrics::CopyEnd;
use crate::tunnel::{ResetReason, StreamEnd};

/// Of an answer; what follows is not waited for.
const MAX_ANSWER: u64 = 1 << 20;

/// A request that can be copied.
pub(super) trait Copyable: IncomingRequest {
    type Copy: Copied;

    /// Its head as it came; `None`: there is no room to keep it.
    fn copy(&self) -> Option<Self::Copy>;
}

impl Copyable for Http1<'_> {
    type Copy = Copy1;

    fn copy(&self) -> Option<Copy1> {
        let head = self.1;
        has_room(head.len()).then(|| Copy1(Held::copied(head)))
    }
}

impl Copyable for Http2<'_> {
    type Copy = Copy2;

    fn copy(&self) -> Option<Copy2> {
        let parts = self.1;
        let size = http2::size(&parts.headers) + parts.uri.path().len();
        has_room(size).then(|| Copy2 {
            parts: parts.clone(),
            size,
            _kept: Reserved::of(size),
        })
    }
}

/// What sends those for which there is room.
pub(super) fn copies<C: Copyable>(
    exchange: &Exchange,
    came: &C,
    wanted: Wanted,
) -> Option<SendCopies> {
    if exchange.context.pod.is_retired() {
        return None;
    }
    let Wanted { to, edits } = wanted;
    let one = |to| mirror(exchange, came, (to, edits.clone()));
    let copies: smallvec::SmallVec<_> = to.into_iter().filter_map(one).collect();
    (!copies.is_empty()).then(|| sending(copies))
}

fn mirror<C: Copyable>(
    exchange: &Exchange,
    came: &C,
    (to, edits): (BackendRef, Rc<Edits>),
) -> Option<Mirror<C::Copy>> {
    let ticket = Ticket::take(exchange)?;
    let Some(request) = came.copy() else {
        ticket.ends(CopyEnd::Full);
        return None;
    };
    Some(Mirror {
        context: ticket.context(exchange),
        ticket,
        to,
        edits,
        request,
    })
}

/// A request of HTTP/1: its head.
pub(super) struct Copy1(Held);

/// One that is on its way.
pub(super) struct Copying {
    transfer: Transfer,
    inbox: Inbox,
    /// Bytes more of the answer that are taken.
    answer: u64,
}

impl Copied for Copy1 {
    type Whole = Copying;

    fn whole(
        &self,
        exchange: &Exchange,
        to: (&BackendRef, &Edits),
        rest: &Rest<'_>,
    ) -> Result<Sent<Copying>, CopyEnd> {
        let Self(head) = self;
        if !has_room(head.len() + rest.body.len()) {
            return Err(CopyEnd::Full);
        }
        let (mut scan, mut lines) = (Scan::default(), Lines::new());
        let parsed = request_head(head, &mut scan, &mut lines);
        let Ok(Parsed::Head { head: request, .. }) = parsed else {
            return Err(CopyEnd::Failed);
        };
        let routed = routed_copy(exchange, &Http1(&request, head), to);
        let (routed, load) = routed.ok_or(CopyEnd::Refused)?;
        let (mut inbox, mut answer) = (Inbox::default(), MAX_ANSWER);
        inbox.extend(head);
        inbox.extend(rest.body);
        let client = &mut Side {
            stream: ByteStream::Nobody(&mut answer),
            inbox: &mut inbox,
        };
        let transfer = Transfer::new(routed.planned, Edits::default(), false, client);
        Ok(Sent {
            whole: Copying {
                transfer,
                inbox,
                answer,
            },
            via: routed.via,
            load,
        })
    }

    async fn exchange(
        copying: &mut Copying,
        upstream: &mut Upstream,
        (_via, _account): (&Transport, &Arc<Account>),
    ) -> Option<CopyEnd> {
        let client = &mut Side {
            stream: ByteStream::Nobody(&mut copying.answer),
            inbox: &mut copying.inbox,
        };
        match copying
            .transfer
            .run(client, &mut upstream.side(), || false)
            .await
        {
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

/// A request of HTTP/2: its head.
pub(super) struct Copy2 {
    parts: request::Parts,
    size: usize,
    _kept: Reserved,
}

impl Copied for Copy2 {
    type Whole = (Whole, Reserved);

    fn whole(
        &self,
        exchange: &Exchange,
        to: (&BackendRef, &Edits),
        rest: &Rest<'_>,
    ) -> Result<Sent<Self::Whole>, CopyEnd> {
        let size = self.size + rest.body.len();
        if !has_room(size) {
            return Err(CopyEnd::Full);
        }
        let mut lines = HeadLines::default();
        let head = Head::of(&self.parts, &mut lines).map_err(|_| CopyEnd::Failed)?;
        let routed = routed_copy(exchange, &Http2(&head.head, &self.parts), to);
        let (routed, load) = routed.ok_or(CopyEnd::Refused)?;
        let whole = Whole {
            head: routed.planned.parts,
            body: Bytes::copy_from_slice(rest.body),
            trailers: rest.trailers.clone(),
        };
        Ok(Sent {
            whole: (whole, Reserved::of(size)),
            via: routed.via,
            load,
        })
    }

    async fn exchange(
        (whole, _): &mut Self::Whole,
        upstream: &mut Upstream,
        (via, account): (&Transport, &Arc<Account>),
    ) -> Option<CopyEnd> {
        let hop = (via.hop(), account.clone());
        match copy(&mut upstream.side(), hop, whole.clone(), MAX_ANSWER).await {
            Ok(()) => Some(CopyEnd::Answered),
            Err(Uncopied::Enough) => Some(CopyEnd::TooLong),
            Err(Uncopied::Failed(end)) => failed(end),
        }
    }
}

/// So much more may be held for a copy.
fn has_room(bytes: usize) -> bool {
    bytes <= spare(bytes)
}

/// `None`: nobody took it.
fn failed(end: Option<StreamEnd>) -> Option<CopyEnd> {
    match end {
        Some(StreamEnd::NotTaken) => None,
        Some(StreamEnd::ResetByPeer(ResetReason::Denied)) => Some(CopyEnd::Refused),
        Some(_) | None => Some(CopyEnd::Failed),
    }
}
