//! The end that clients, or another agent, opened.

use std::future::poll_fn;
use std::task::{Context, Poll};

use ::h2::server::{Connection, SendResponse};
use ::h2::{Error, Reason};
use bytes::Bytes;
use http::{Request, Response, request};
use tokio::io::{AsyncRead, AsyncWrite};

use super::limits::Leg;
use super::stream::{Receiver, Sender};

/// Dropping it ends every stream.
#[derive(Debug)]
pub(crate) struct Server<T>(Connection<T, Bytes>);

/// A request that came in.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) head: request::Parts,
    pub(crate) body: Receiver,
    pub(crate) respond: Respond,
}

/// After the preface and the settings of both sides.
pub(crate) async fn serve<T>(io: T, leg: Leg) -> Result<Server<T>, Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    leg.server().handshake(io).await.map(Server)
}

impl<T: AsyncRead + AsyncWrite + Unpin> Server<T> {
    /// The next request; `None` when the connection is at its end. Does all of the
    /// connection's I/O: to be called until then, also while nothing is awaited.
    pub(crate) async fn accept(&mut self) -> Option<Result<Exchange, Error>> {
        let accepted = poll_fn(|cx| self.0.poll_accept(cx)).await?;
        Some(accepted.map(|(request, respond)| Exchange::of(request, respond)))
    }

    /// GOAWAY in two steps: no request is lost. [`Server::accept`] gives those that
    /// are on their way, then `None`. A peer that never answers the PING keeps it
    /// open: whoever calls has a deadline.
    pub(crate) fn drain(&mut self) {
        self.0.graceful_shutdown();
    }

    /// GOAWAY, and the end of all streams.
    pub(crate) fn abort(&mut self, code: Reason) {
        self.0.abrupt_shutdown(code);
    }

    pub(crate) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_closed(cx)
    }
}

impl Exchange {
    fn of(request: Request<::h2::RecvStream>, respond: SendResponse<Bytes>) -> Self {
        let (head, body) = request.into_parts();
        Self {
            head,
            body: Receiver::new(body),
            respond: Respond {
                stream: respond,
                answered: false,
            },
        }
    }
}

/// Dropped without an answer, the stream is reset with CANCEL.
#[derive(Debug)]
pub(crate) struct Respond {
    stream: SendResponse<Bytes>,
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
        Ok(Sender::new(stream, end))
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
