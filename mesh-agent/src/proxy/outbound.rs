//! From a local pod to elsewhere: target, transport, permit, upstream.

mod bytes;
mod cookie;
mod copies;
mod decided;
mod delay;
mod fault;
mod flow;
mod hedge;
mod http;
mod http2;
mod mesh;
mod mirror;
mod reach;
mod retry;
mod routed;
mod sent;
mod shared;
mod upstreams;

use super::accepted::Accepted;
use super::first::{self, First};
use super::forward::ForwardEnd;
use super::report::Report;
use crate::detect::Expected;
use crate::model::{RefuseReason, Refused};
use bytes::{Carried, bytes};
use http::Requests;
use mesh::MeshStream;
use reach::source;
use upstreams::Upstream;

/// A block, for what an `async fn` is given is in it twice.
#[expect(clippy::manual_async_fn, reason = "a half as large")]
pub(super) fn serve(accepted: Accepted) -> impl Future<Output = ()> {
    async move {
        let mut report = accepted.exchange().report();
        let mut after = None;
        let result = forwarded(&accepted, &mut report, &mut after).await;
        let context = accepted.context_rc().clone();
        accepted.conclude(report, result);
        if let Some(carrying) = after {
            carrying.give_back(&context).await;
        }
    }
}

async fn forwarded(
    accepted: &Accepted,
    report: &mut Report,
    after: &mut Option<Box<MeshStream>>,
) -> Result<ForwardEnd, Refused> {
    let context = accepted.context();
    if source(context).loops(context.orig_dst) {
        // Who touches the agent's own listeners gets no word out of it, of HTTP neither.
        return Err(RefuseReason::Loop.into());
    }
    let expected = first::expected(&accepted.exchange(), context.orig_dst);
    // On the heap for this moment, so that what lasts has no room for it.
    let first = Box::pin(first::at_once(context, &accepted.client, expected)).await?;
    let (first, open) = if first.is_http() {
        (first, None)
    } else {
        match unless_http(accepted, report, after, (expected, first)).await? {
            Carried::Ended(ended) => return Ok(ended),
            Carried::Http(first, open) => (first, open),
        }
    };
    Ok(requests(accepted, report, (first, open)).await)
}

/// Bytes, until it is known that they are of HTTP.
async fn unless_http(
    accepted: &Accepted,
    report: &mut Report,
    after: &mut Option<Box<MeshStream>>,
    (expected, first): (Expected, First),
) -> Result<Carried, Refused> {
    let context = accepted.context();
    if (expected, first) == (Expected::Http, First::Silence) {
        // One stray request must not have all others wait whose server speaks first.
        let to = context.orig_dst.get();
        context.worker.learned.borrow_mut().forget(to);
    }
    let refused = match Box::pin(bytes(accepted, report, after, first)).await {
        Ok(carried) => return Ok(carried),
        Err(refused) => refused,
    };
    // A client of HTTP is told in its own words, if it is one that asks soon.
    let may_ask = first == First::Silence || expected == Expected::OpaqueSoFar;
    let asked = match may_ask {
        true => Box::pin(asks_soon(accepted)).await,
        false => First::Bytes,
    };
    match asked.is_http() {
        true => Ok(Carried::Http(asked, None)),
        false => Err(refused),
    }
}

/// Of what waits while nobody has spoken: the stage of bytes, and the race for the first
/// word to a mesh pod and to a socket.
#[cfg(test)]
pub(super) fn sizes_of_silence() -> [usize; 3] {
    use super::context::ConnectionContext;
    use tokio::net::TcpStream;

    fn size<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }
    type After = Option<Box<MeshStream>>;
    [
        size(
            |a: &'static Accepted, (r, s): (&'static mut Report, &'static mut After)| {
                bytes(a, r, s, First::Silence)
            },
        ),
        size(
            |(s, a): (&'static mut MeshStream, &'static Accepted), r: &'static mut Report| {
                s.race(a, r)
            },
        ),
        size(
            |c: &'static ConnectionContext, (a, b): (&'static TcpStream, &'static TcpStream)| {
                first::race_between(c, a, b)
            },
        ),
    ]
}

async fn asks_soon(accepted: &Accepted) -> First {
    let spoken = Box::pin(first::spoken(&accepted.client, first::PART));
    tokio::select! {
        biased; // removal and drain win
        _reason = accepted.context().entry().cut.wait() => First::Bytes,
        first = spoken => first,
        () = tokio::time::sleep(first::SOON) => First::Bytes,
    }
}

/// HTTP: each request is decided on by itself.
async fn requests(
    accepted: &Accepted,
    report: &mut Report,
    (first, open): (First, Option<Box<Upstream>>),
) -> ForwardEnd {
    // Each of them has one of its own, and is decided by itself.
    report.goes_to(None);
    accepted.is_decided();
    let context = accepted.context();
    let to = context.orig_dst.get();
    let learned = &context.worker.learned;
    learned.borrow_mut().was_http(to);
    match first {
        First::Http2 => Box::pin(http2::requests(accepted, report, open)).await,
        First::Http | First::Bytes | First::Silence | First::Unfinished | First::Ended => {
            // Kept once: what a future takes with it is in it twice.
            Box::pin(async move { Requests::new(accepted, report, open).serve().await }).await
        }
    }
}
