//! Who speaks first on a connection, and what: neither side is waited for, unless
//! something depends on the requests there.

use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::net::TcpStream;

use super::context::{ConnectionContext, Exchange};
use super::http::{HEAD_TIMEOUT, silence};
use super::peek::{peek_now, peek_until};
use super::registry::CutReason;
use crate::detect::{self, Expected, MAX_REQUEST_LINE, Spoken};
use crate::model::{AppProtocol, OrigDst, RefuseReason, Refused};
use crate::route::{self, RouteDecision};

/// A client of HTTP sends its request by then; else the application is called.
const HTTP_WAIT: Duration = Duration::from_secs(1);
/// Where both are silent for so long, the connection is bytes.
const RACE: Duration = Duration::from_secs(10);

/// Whoever begins like a request has sent its first line by then, where nothing
/// depends on it.
pub(super) const PART: Duration = Duration::from_secs(1);
/// A client that asks within this time of a refusal gets an answer instead of a reset.
/// All others wait for it: `docs/failures.md` says how soon they are told.
pub(super) const SOON: Duration = Duration::from_millis(15);

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// A request of HTTP/1.
    Http,
    /// The preface of HTTP/2.
    Http2,
    /// Another protocol: nobody's to look at.
    Bytes,
    /// Nothing has come yet.
    Silence,
    /// What came may become a request yet, and nobody waits for it any longer.
    Unfinished,
    /// Whoever was to speak has ended before it could be told.
    Ended,
}

impl From<Spoken> for First {
    fn from(spoken: Spoken) -> Self {
        match spoken {
            Spoken::Http1 => Self::Http,
            Spoken::Http2 => Self::Http2,
            Spoken::Other => Self::Bytes,
            Spoken::NeedMore => Self::Silence,
        }
    }
}

impl First {
    pub(super) fn is_http(self) -> bool {
        match self {
            Self::Http | Self::Http2 => true,
            Self::Bytes | Self::Silence | Self::Unfinished | Self::Ended => false,
        }
    }
}

/// What is to be expected of a connection to `to`, which the peer's agent may only claim:
/// what is learned goes by where it comes to here.
pub(super) fn expected(exchange: &Exchange, to: OrigDst) -> Expected {
    let (context, in_force) = (&exchange.context, &exchange.in_force);
    let worker = &context.worker;
    let by_number = |is_asked| detect::expected(AppProtocol::Unspecified, [to.port(); 2], is_asked);
    let expected = match route::resolve(&in_force.snapshot, to) {
        RouteDecision::Service { service, port, .. } => {
            let namespace = context.pod.workload.key.namespace.as_str();
            in_force.expected_of((service, port), (to.port(), namespace))
        }
        RouteDecision::Workload(workload) => {
            by_number(worker.is_for_requests((workload, to.port())))
        }
        RouteDecision::External | RouteDecision::Refused(_) => by_number(false),
    };
    expected.unwrap_or_else(|| {
        let mut learned = worker.learned.borrow_mut();
        learned.next(context.orig_dst.get())
    })
}

/// Of what arrives at the pod: what its own port is for holds, whatever the peer says
/// of where its client wanted to go.
pub(super) fn expected_here(exchange: &Exchange, to: OrigDst) -> Expected {
    let context = &exchange.context;
    let own = (&*context.pod.workload, context.orig_dst.port());
    match context.worker.is_for_requests(own) {
        true => Expected::Requests,
        false => expected(exchange, to),
    }
}

/// For the next one to the same destination: what was looked at, and is no HTTP. What
/// might have become a request says nothing.
fn learn(context: &ConnectionContext, first: First) {
    if first == First::Bytes {
        let mut learned = context.worker.learned.borrow_mut();
        learned.was_bytes(context.orig_dst.get());
    }
}

/// What the client begins with, without taking it; `patience`: for all of the first line
/// once it has begun.
pub(super) async fn spoken(client: &TcpStream, patience: Duration) -> First {
    let begun = peek_until(client, MAX_REQUEST_LINE, |bytes| Some(detect::http(bytes))).await;
    match begun {
        Some(Spoken::NeedMore) => tokio::time::timeout(patience, whole(client))
            .await
            .unwrap_or(First::Unfinished),
        Some(told @ (Spoken::Http1 | Spoken::Http2 | Spoken::Other)) => First::from(told),
        None => First::Ended,
    }
}

/// The same of what is there already, if anything is.
pub(super) fn spoken_already(client: &TcpStream) -> Option<First> {
    let judge = |bytes: &[u8]| Some(First::from(detect::http(bytes)));
    peek_now(client, MAX_REQUEST_LINE, judge)
}

async fn whole(client: &TcpStream) -> First {
    let judge = |bytes: &[u8]| match detect::http(bytes) {
        Spoken::NeedMore => None,
        told @ (Spoken::Http1 | Spoken::Http2 | Spoken::Other) => Some(First::from(told)),
    };
    peek_until(client, MAX_REQUEST_LINE, judge)
        .await
        .unwrap_or(First::Ended)
}

/// What the client sent with its connect, or soon where that is expected.
pub(super) async fn at_once(
    context: &ConnectionContext,
    client: &TcpStream,
    expected: Expected,
) -> Result<First, Refused> {
    let wait = match expected {
        Expected::Opaque | Expected::OpaqueSoFar => return Ok(First::Bytes),
        Expected::Requests => {
            return Box::pin(insist(context, spoken(client, HEAD_TIMEOUT))).await;
        }
        Expected::Http => Some(HTTP_WAIT),
        Expected::Anything => None,
    };
    let moment = async {
        match wait {
            Some(wait) => tokio::time::sleep(wait).await,
            // The request is often a moment behind the connect.
            None => tokio::task::yield_now().await,
        }
    };
    tokio::select! {
        biased; // removal and drain win
        reason = context.entry().cut.wait() => Err(reason.refuse()),
        first = spoken(client, PART) => {
            learn(context, first);
            Ok(first)
        }
        () = moment => Ok(First::Silence),
    }
}

/// Both are connected: who speaks first? What is waited for stays with who asks: a future
/// that is given away takes its room twice, for as long as the connection is silent.
pub(super) async fn race(
    context: &ConnectionContext,
    client_spoke: Pin<&mut impl Future<Output = First>>,
    application_spoke: Pin<&mut impl Future<Output = First>>,
) -> Result<First, CutReason> {
    let idle = context.worker.agent.config.idle_timeout;
    let longest = idle.map_or(RACE, |idle| RACE.min(idle / 4));
    let first = tokio::select! {
        biased; // removal and drain win
        reason = context.entry().cut.wait() => return Err(reason),
        first = client_spoke => first,
        first = application_spoke => first,
        () = tokio::time::sleep(longest) => First::Unfinished,
    };
    learn(context, first);
    Ok(first)
}

/// The same of a client and an application that are both at sockets.
pub(super) async fn race_between(
    context: &ConnectionContext,
    client: &TcpStream,
    application: &TcpStream,
) -> Result<First, CutReason> {
    let client_spoke = pin!(spoken(client, PART));
    let application_spoke = pin!(application_begins(application));
    race(context, client_spoke, application_spoke).await
}

/// Until the application begins, or ends. A server of HTTP/2 that sends its settings
/// waits for its client all the same.
pub(super) async fn application_begins(application: &TcpStream) -> First {
    const HEAD: usize = 9;
    let judge = |bytes: &[u8]| match detect::http2_settings(bytes) {
        None => None,
        Some(true) => Some(First::Silence),
        Some(false) => Some(begun_by_application(bytes)),
    };
    match peek_until(application, HEAD, judge).await {
        Some(First::Silence) => std::future::pending().await,
        first => first.unwrap_or(First::Ended),
    }
}

/// The first bytes of an application that has not heard of its client: an answer of HTTP
/// (it has waited for too long, or has no room) makes no other protocol of the port.
pub(super) fn begun_by_application(bytes: &[u8]) -> First {
    match detect::may_be_answer(bytes) {
        true => First::Unfinished,
        false => First::Bytes,
    }
}

/// Something depends on each request there: only a connection of HTTP goes on. It may be
/// silent as long as one between two requests.
pub(super) async fn insist(
    context: &ConnectionContext,
    client_spoke: impl Future<Output = First>,
) -> Result<First, Refused> {
    let idle = context.worker.agent.config.idle_timeout;
    let first = tokio::select! {
        biased; // removal and drain win
        reason = context.entry().cut.wait() => return Err(reason.refuse()),
        first = client_spoke => first,
        () = context.worker.idle_is_over() => First::Ended,
        () = silence(idle) => First::Unfinished,
    };
    match first {
        First::Http | First::Http2 => Ok(first),
        // Who looks for its first request sees to the end.
        First::Ended => Ok(First::Http),
        First::Bytes | First::Silence | First::Unfinished => {
            Err(RefuseReason::UndecidedProtocol.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::tls::tests::support::sockets;

    #[tokio::test(start_paused = true)]
    async fn who_begins_like_a_request_is_waited_for_and_never_taken_for_bytes() {
        for begun in [
            &b"G"[..],
            b"GET / HTTP/1.1",
            b"\r\n",
            b"PRI * HTTP/2.0\r\n\r\n",
            b"A-METHOD",
        ] {
            for patience in [PART, HEAD_TIMEOUT] {
                let (mut client, server) = sockets().await;
                client.write_all(begun).await.expect("write");
                let now = tokio::time::Instant::now();
                assert_eq!(spoken(&server, patience).await, First::Unfinished);
                assert!(now.elapsed() >= patience, "{begun:?}");
            }
            let (mut client, server) = sockets().await;
            client.write_all(begun).await.expect("write");
            client.shutdown().await.expect("end");
            assert_eq!(spoken(&server, PART).await, First::Ended, "{begun:?}");
        }
    }

    #[tokio::test]
    async fn an_application_that_ends_or_answers_unasked_speaks_no_other_protocol() {
        for (said, is) in [
            (&b"220 ready\r\n"[..], First::Bytes),
            (b"\x4a\0\0\0\x0a8.0", First::Bytes),
            (b"HTTP/1.1 408 Request Timeout\r\n", First::Unfinished),
            (b"H", First::Unfinished),
            (b"", First::Ended),
        ] {
            let (mut application, agent) = sockets().await;
            application.write_all(said).await.expect("write");
            application.shutdown().await.expect("end");
            assert_eq!(application_begins(&agent).await, is, "{said:?}");
        }
    }
}
