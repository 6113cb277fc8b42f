//! The end that opened the connection.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use ::h2::client::{Connection, ResponseFuture, SendRequest};
use ::h2::{Error, Reason};
use http::{Request, response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::batch::Batched;
use super::counted::Counted;
use super::limits::Hop;
use super::queue::{Piece, Queue};
use super::stream::{ActiveStream, Receiver, Sender};
use super::window::{Unread, Window, Windows};
use crate::http::h1::Bad;
use crate::io::Account;

/// Opens streams; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    opener: SendRequest<Piece>,
    live: Arc<AtomicUsize>,
    unread: Arc<Unread>,
    queue: Arc<Queue>,
    greeted: watch::Receiver<bool>,
    hop: Hop,
}

/// Does all of the connection's I/O: a task of its own, never awaited by an
/// exchange. Dropping it ends every stream. Ends by itself without any, where it keeps
/// room that others lack.
#[derive(Debug)]
pub(crate) struct Driver<T>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    connection: Connection<Counted<Batched<T>>, Piece>,
    out: Batched<T>,
    window: Window,
    unread: Arc<Unread>,
    /// The server's first frame was read, and its exchanges know of it.
    came: Arc<AtomicBool>,
    greets: Option<watch::Sender<bool>>,
    live: Arc<AtomicUsize>,
    queue: Arc<Queue>,
}

/// `account`: of the pod that it is for.
pub(crate) async fn connect<T>(
    io: T,
    hop: Hop,
    account: Arc<Account>,
) -> Result<(Client, Driver<T>), Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let unread = Arc::<Unread>::default();
    let came = Arc::<AtomicBool>::default();
    let out = Batched::new(io);
    let io = Counted::of_server(out.handle(), (unread.clone(), came.clone()), hop.block());
    let (opener, connection) = hop.client().handshake(io).await?;
    let (greets, greeted) = watch::channel(false);
    let client = Client {
        opener,
        live: Arc::default(),
        unread: unread.clone(),
        queue: Arc::default(),
        greeted,
        hop,
    };
    let driver = Driver {
        connection,
        out: out.driven(),
        window: hop.window(unread.clone(), account),
        unread,
        came,
        greets: Some(greets),
        live: client.live.clone(),
        queue: client.queue.clone(),
    };
    Ok((client, driver))
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.poll_turn(cx);
        self.out.end_turn(cx);
        polled
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let polled = Pin::new(&mut self.connection).poll(cx);
        if polled.is_ready() {
            return polled;
        }
        if self.unread.is_too_much() {
            return Poll::Ready(Err(Reason::ENHANCE_YOUR_CALM.into()));
        }
        self.tell();
        let is_used = self.live.load(Ordering::Relaxed) > 0
            || !self.queue.is_empty()
            || self.out.has_unsent();
        let Self {
            connection, window, ..
        } = self;
        window.look(connection, cx);
        match window.is_wasted(is_used, cx) {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    /// All that was read has been looked at.
    fn tell(&mut self) {
        if self.greets.is_some() && self.came.load(Ordering::Relaxed) {
            // Maybe nobody asks.
            let _nobody = self.greets.take().map(|greets| greets.send(true));
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Windows for Connection<Counted<T>, Piece> {
    fn set_connection(&mut self, size: u32) {
        self.set_target_window_size(size);
    }

    fn set_streams(&mut self, size: u32) -> bool {
        self.set_initial_window_size(size).is_ok()
    }
}

impl Client {
    /// As the peer's settings have it; 0 is legal, and more may come. To be held
    /// against [`Client::streams`] before a request: at the limit another connection
    /// is needed, for a wait here would be in a queue.
    pub(crate) fn max_streams(&self) -> usize {
        self.opener.current_max_send_streams()
    }

    /// Streams that live.
    pub(crate) fn streams(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Until the peer's settings have come, or its connection has ended.
    pub(crate) async fn greeted(&mut self) {
        let _over = self.greeted.wait_for(|came| *came).await.is_err();
    }

    /// RFC 8441; known only when the peer's settings have come.
    pub(crate) fn takes_extended_connect(&self) -> bool {
        self.opener.is_extended_connect_protocol_enabled()
    }

    /// Waits for room; an error where the connection takes no more requests.
    pub(crate) async fn ready(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.opener.poll_ready(cx)).await
    }

    /// Sends a head; with `end` it is all of the request. The caller keeps a copy
    /// of it: a refused one may go elsewhere ([`super::fate()`]).
    pub(crate) fn send(
        &mut self,
        head: Request<()>,
        end: bool,
    ) -> Result<(Answered, Sender), Error> {
        let (response, stream) = self.opener.send_request(head, end)?;
        let live = ActiveStream::new(&self.live);
        let sender = Sender::new(stream, end, self.queue.clone()).holding(live.clone());
        let answered = Answered {
            response,
            live,
            unread: self.unread.clone(),
            hop: self.hop,
        };
        Ok((answered, sender))
    }
}

/// The answer that is waited for. Dropped before it came, the stream is reset with
/// CANCEL as soon as its [`Sender`] is gone, too.
#[derive(Debug)]
pub(crate) struct Answered {
    response: ResponseFuture,
    live: Arc<ActiveStream>,
    unread: Arc<Unread>,
    hop: Hop,
}

/// What comes before an answer's body.
#[derive(Debug)]
pub(crate) enum Informed {
    /// 1xx: the answer is still to come.
    Informational(response::Parts),
    Final(response::Parts, Receiver),
    /// One of them that is not taken. It is the last.
    Bad(Bad),
}

impl Answered {
    /// The next head. Cancel-safe: nothing is lost if the call is dropped.
    pub(crate) async fn next(&mut self) -> Result<Informed, Error> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Informed, Error>> {
        match self.response.poll_informational(cx) {
            Poll::Ready(Some(informational)) => {
                return Poll::Ready(informational.map(|response| {
                    let (parts, ()) = response.into_parts();
                    match self.hop.check(&parts.headers, 0) {
                        Ok(()) => Informed::Informational(parts),
                        Err(bad) => Informed::Bad(bad),
                    }
                }));
            }
            // None are left, or none is there yet: the final one wakes this task, too.
            Poll::Ready(None) | Poll::Pending => {}
        }
        let (live, unread, hop) = (&self.live, &self.unread, self.hop);
        Pin::new(&mut self.response).poll(cx).map_ok(|response| {
            let (parts, body) = response.into_parts();
            match hop.check(&parts.headers, 0) {
                Ok(()) => {
                    let body = Receiver::new(body, (unread, hop)).holding(live.clone());
                    Informed::Final(parts, body)
                }
                Err(bad) => Informed::Bad(bad),
            }
        })
    }
}
