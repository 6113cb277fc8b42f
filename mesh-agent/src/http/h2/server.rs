//! The end that clients, or another agent, opened.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::h2::server::{Connection, SendResponse};
use ::h2::{Error, Reason};
use http::{HeaderMap, Request, Response, Uri, request};
use tokio::io::{AsyncRead, AsyncWrite};

use super::batch::Batched;
use super::counted::Counted;
use super::edit::size;
use super::limits::Hop;
use super::queue::{Piece, Queue};
use super::stream::{Receiver, Sender};
use super::window::{PAUSED, READ_BUDGET, Unread, Window, Windows};
use crate::http::h1::Bad;
use crate::io::Account;

/// As h2 gives it.
type Accepted = (Request<::h2::RecvStream>, SendResponse<Piece>);

/// Dropping it ends every stream.
#[derive(Debug)]
pub(crate) struct Server<T> {
    connection: Connection<Counted<Batched<T>>, Piece>,
    out: Batched<T>,
    window: Window,
    unread: Arc<Unread>,
    queue: Arc<Queue>,
    hop: Hop,
    /// There may be requests that were read and are not given yet.
    has_more: bool,
}

/// What is on its way to the client and was not taken yet.
#[derive(Debug)]
pub(crate) struct Unsent<T> {
    queue: Arc<Queue>,
    out: Batched<T>,
}

impl<T: AsyncWrite + Unpin> Unsent<T> {
    pub(crate) fn is_none(&self) -> bool {
        self.queue.is_empty() && !self.out.has_unsent()
    }
}

/// A request that came in.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// Without its lines and its target where their number or size is wrong.
    pub(crate) head: request::Parts,
    /// Bytes that it came with.
    pub(crate) size: usize,
    pub(crate) body: Receiver,
    pub(crate) respond: Respond,
    /// What is wrong with the size of its head.
    pub(crate) bad: Option<Bad>,
}

/// After the preface and the settings of both sides. `account`: of the pod that it is for.
pub(crate) async fn serve<T>(io: T, hop: Hop, account: Arc<Account>) -> Result<Server<T>, Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let unread = Arc::new(Unread::by_budget());
    let out = Batched::new(io);
    let io = Counted::of_client(out.handle(), unread.clone(), hop.block());
    let connection = hop.server().handshake(io).await?;
    Ok(Server {
        connection,
        out: out.driven(),
        window: hop.window(unread.clone(), account),
        unread,
        queue: Arc::default(),
        hop,
        has_more: false,
    })
}

impl<T: AsyncRead + AsyncWrite + Unpin> Server<T> {
    /// The next request; `None` when the connection is at its end. Does all of the
    /// connection's I/O: to be called until then, also while nothing is awaited.
    pub(crate) async fn accept(&mut self) -> Option<Result<Exchange, Error>> {
        let accepted = poll_fn(|cx| self.poll_accept(cx)).await?;
        Some(accepted.map(|(request, respond)| self.exchange(request, respond)))
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Accepted, Error>>> {
        let accepted = self.poll_turn(cx);
        self.out.end_turn(cx);
        accepted
    }

    /// More is read when all that came before is given: what h2 keeps meanwhile is a budget's.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Accepted, Error>>> {
        let mut accepted = Poll::Pending;
        if self.has_more {
            self.unread.allow(PAUSED);
            accepted = self.connection.poll_accept(cx);
        }
        if accepted.is_pending() {
            self.unread.allow(READ_BUDGET);
            accepted = self.connection.poll_accept(cx);
        }
        self.has_more = matches!(accepted, Poll::Ready(Some(Ok(_))));
        self.window.look(&mut self.connection, cx);
        if accepted.is_pending() && self.unread.is_too_much() {
            self.abort(Reason::ENHANCE_YOUR_CALM);
            // It goes out if there is room for it.
            let _late = self.connection.poll_accept(cx);
            return Poll::Ready(Some(Err(Reason::ENHANCE_YOUR_CALM.into())));
        }
        accepted
    }

    pub(crate) fn unsent(&self) -> Unsent<T> {
        Unsent {
            queue: self.queue.clone(),
            out: self.out.handle(),
        }
    }

    /// GOAWAY in two steps: no request is lost. [`Server::accept`] gives those that
    /// are on their way, then `None`. A peer that never answers the PING keeps it
    /// open: whoever calls has a deadline.
    pub(crate) fn drain(&mut self) {
        self.connection.graceful_shutdown();
    }

    /// GOAWAY, and the end of all streams.
    pub(crate) fn abort(&mut self, code: Reason) {
        self.connection.abrupt_shutdown(code);
    }

    fn exchange(
        &self,
        request: Request<::h2::RecvStream>,
        respond: SendResponse<Piece>,
    ) -> Exchange {
        let (mut head, body) = request.into_parts();
        let bad = self.hop.check(&head.headers, first_line(&head)).err();
        let size = head.method.as_str().len() + head.uri.path().len() + size(&head.headers);
        if bad.is_some() {
            // Nobody looks at them, and who does not take its answer keeps the rest.
            (head.headers, head.uri) = (HeaderMap::new(), Uri::default());
        }
        Exchange {
            bad,
            head,
            size,
            body: Receiver::new(body, (&self.unread, self.hop)),
            respond: Respond {
                stream: respond,
                queue: self.queue.clone(),
                answered: false,
            },
        }
    }
}

/// Bytes of what HTTP/1 has in its first line: of none of it there is a bound in HTTP/2.
fn first_line(head: &http::request::Parts) -> usize {
    let protocol = head.extensions.get::<::h2::ext::Protocol>();
    let authority = head.uri.authority().map_or(0, |of| of.as_str().len());
    let target = head.uri.path_and_query().map_or(0, |to| to.as_str().len());
    let protocol = protocol.map_or(0, |of| of.as_str().len());
    head.method.as_str().len() + authority + target + protocol
}

impl<T: AsyncRead + AsyncWrite + Unpin> Windows for Connection<Counted<T>, Piece> {
    fn set_connection(&mut self, size: u32) {
        self.set_target_window_size(size);
    }

    fn set_streams(&mut self, size: u32) -> bool {
        self.set_initial_window_size(size).is_ok()
    }
}

/// Dropped without an answer, the stream is reset with CANCEL.
#[derive(Debug)]
pub(crate) struct Respond {
    stream: SendResponse<Piece>,
    queue: Arc<Queue>,
    answered: bool,
}

impl Respond {
    /// 1xx, any number of them before the answer.
    pub(crate) fn inform(&mut self, head: Response<()>) -> Result<(), Error> {
        self.stream.send_informational(head)
    }

    /// The answer's head; with `end` it is all of it.
    pub(crate) fn answer(mut self, head: Response<()>, end: bool) -> Result<Sender, Error> {
        self.answered = true;
        let stream = self.stream.send_response(head, end)?;
        Ok(Sender::new(stream, end, self.queue.clone()))
    }

    pub(crate) fn reset(mut self, code: Reason) {
        self.answered = true;
        self.stream.send_reset(code);
    }

    /// Until the client resets the stream.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, Error>> {
        self.stream.poll_reset(cx)
    }
}

impl Drop for Respond {
    fn drop(&mut self) {
        if !self.answered {
            self.stream.send_reset(Reason::CANCEL);
        }
    }
}
