//! Serves HTTP/1 within bounds: few connections, each with deadlines.
//!
//! Anybody on the node can open connections to the metrics page. So each of the
//! two ports has its own few; a newer one takes the place of the oldest that has
//! not asked for anything yet, one request each, and whatever a client does it is
//! over at its deadline.

use std::collections::VecDeque;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// Connections of one port at once: the descriptors it may take.
pub(super) const MAX: usize = 32;
/// How long a connection may take.
#[derive(Clone, Copy)]
pub(super) struct Deadlines {
    /// From accept to the last byte of the request's head.
    head: Duration,
    /// From accept to the last byte of the answer, taken by the client.
    whole: Duration,
}

pub(super) const DEADLINES: Deadlines = Deadlines {
    head: Duration::from_secs(2),
    whole: Duration::from_secs(10),
};
/// Longest head of a request.
pub(super) const HEAD_BYTES: usize = 16 * 1024;
/// After an accept that failed, for want of memory for example.
const PAUSE: Duration = Duration::from_millis(100);
/// Descriptors that each port holds for the time when there is no other.
const SPARE: usize = 4;
/// What was asked before the end is answered for as long.
const GRACE: Duration = Duration::from_secs(1);

pub(super) trait Accept {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Descriptors that are given up for connections: when the process has used up
/// what it may have, an operator must be able to ask why.
struct Spare(Vec<File>);

impl Spare {
    fn new() -> Self {
        let mut spare = Self(Vec::with_capacity(SPARE));
        spare.refill();
        spare
    }

    fn refill(&mut self) {
        while self.0.len() < SPARE
            && let Ok(file) = File::open("/dev/null")
        {
            self.0.push(file);
        }
    }

    /// Gives one up; false where it was not for want of one, or there is none.
    fn make_room(&mut self, error: &io::Error) -> bool {
        let used_up = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
        used_up && self.0.pop().is_some()
    }
}

/// Who is connected.
struct Client {
    task: AbortHandle,
    /// The request is read: it is being answered.
    has_asked: Arc<AtomicBool>,
}

/// Those that are connected, the oldest first.
#[derive(Default)]
struct Clients(VecDeque<Client>);

impl Clients {
    fn forget_ended(&mut self) {
        self.0.retain(|client| !client.task.is_finished());
    }

    /// Ends the oldest that says nothing; where all have asked, the oldest.
    fn end_one(&mut self) {
        let silent = |c: &Client| !c.has_asked.load(Ordering::Relaxed);
        let at = self.0.iter().position(silent).unwrap_or(0);
        if let Some(client) = self.0.remove(at) {
            client.task.abort();
        }
    }

    fn admit(&mut self, client: Client) {
        self.forget_ended();
        if self.0.len() >= MAX {
            self.end_one();
        }
        self.0.push_back(client);
    }
}

/// What it gives without waiting.
async fn at_once<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let once = |cx: &mut Context<'_>| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Poll::Ready(None),
    };
    poll_fn(once).await
}

/// Until cancelled.
pub(super) async fn serve(
    listener: impl Accept,
    pages: Router,
    deadlines: Deadlines,
    cancel: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    let mut clients = Clients::default();
    let mut spare = Spare::new();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listener.next() => accepted,
            Some(_ended) = tasks.join_next() => {
                clients.forget_ended();
                spare.refill();
                continue;
            }
        };
        let accepted = match accepted {
            // The kernel asks for a descriptor before it looks whether anybody waits.
            Err(error) if spare.make_room(&error) => {
                let waiting = at_once(listener.next()).await;
                spare.refill();
                match waiting {
                    Some(accepted) => accepted,
                    None => continue,
                }
            }
            accepted => accepted,
        };
        match accepted {
            Ok(stream) => {
                let has_asked = Arc::<AtomicBool>::default();
                let answer = answer(stream, pages.clone(), deadlines, has_asked.clone());
                let task = tasks.spawn(answer);
                clients.admit(Client { task, has_asked });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin pages cannot accept");
                clients.end_one();
                tokio::time::sleep(PAUSE).await;
                spare.refill();
            }
        }
    }
    let ended = async { while tasks.join_next().await.is_some() {} };
    let _over = tokio::time::timeout(GRACE, ended).await;
    tasks.shutdown().await;
}

/// One request of one client; what fails is the client's to see.
async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    pages: Router,
    deadlines: Deadlines,
    has_asked: Arc<AtomicBool>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(deadlines.head)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false);
    let pages = TowerToHyperService::new(pages);
    let pages = service_fn(move |request| {
        has_asked.store(true, Ordering::Relaxed);
        pages.call(request)
    });
    let connection = http.serve_connection(TokioIo::new(stream), pages);
    let _ended = tokio::time::timeout(deadlines.whole, connection).await;
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    struct Served {
        address: std::net::SocketAddr,
        cancel: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    const SHORT: Deadlines = Deadlines {
        head: Duration::from_millis(300),
        whole: Duration::from_millis(900),
    };

    async fn start(deadlines: Deadlines) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let cancel = CancellationToken::new();
        let large = "x".repeat(64 * 1024 * 1024);
        let pages = Router::new()
            .route("/", get(|| async { "ok\n" }))
            .route("/slow", get(|| async { slow().await }))
            .route("/large", get(|| async { large }));
        let task = tokio::spawn(serve(listener, pages, deadlines, cancel.clone()));
        Served {
            address,
            cancel,
            task,
        }
    }

    async fn slow() -> &'static str {
        tokio::time::sleep(Duration::from_millis(500)).await;
        "slow\n"
    }

    #[tokio::test]
    async fn who_is_being_answered_keeps_its_place_whoever_else_comes() {
        let served = start(DEADLINES).await;
        let asking = ask_for(&served, "/slow");
        let crowd = async {
            // Not synchronisation: those come while the page is being made.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let mut crowd = Vec::new();
            for _ in 0..8 * MAX {
                crowd.push(TcpStream::connect(served.address).await.expect("connect"));
            }
            crowd
        };
        let (answer, _crowd) = tokio::join!(asking, crowd);
        assert!(answer.ends_with("slow\n"), "{answer:?}");
        served.cancel.cancel();
        served.task.await.expect("it ends");
    }

    async fn ask(served: &Served) -> String {
        ask_for(served, "/").await
    }

    async fn ask_for(served: &Served, page: &str) -> String {
        let mut stream = TcpStream::connect(served.address).await.expect("connect");
        let request = format!("GET {page} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("write");
        let mut answer = String::new();
        // Cut off where its place was taken.
        let _cut = stream.read_to_string(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn clients_that_say_nothing_hold_few_places_and_nobody_up() {
        let served = start(DEADLINES).await;
        let mut silent = Vec::new();
        for _ in 0..4 * MAX {
            silent.push(TcpStream::connect(served.address).await.expect("connect"));
        }
        let asked = tokio::time::timeout(Duration::from_secs(1), ask(&served)).await;
        assert!(asked.expect("in time").ends_with("ok\n"));
        let mut cut = 0;
        for stream in &mut silent {
            let mut byte = [0];
            let read = stream.read(&mut byte);
            let read = tokio::time::timeout(Duration::from_millis(20), read).await;
            cut += usize::from(matches!(read, Ok(Ok(0) | Err(_))));
        }
        assert!(cut >= 3 * MAX, "{cut} of {} were cut", 4 * MAX);
        served.cancel.cancel();
        served.task.await.expect("it ends");
    }

    #[tokio::test]
    async fn a_head_that_does_not_end_and_an_answer_that_is_not_read_are_cut() {
        let served = start(SHORT).await;
        let mut slow = TcpStream::connect(served.address).await.expect("connect");
        slow.write_all(b"GET / HTTP/1.1\r\nHo")
            .await
            .expect("write");
        let mut deaf = TcpStream::connect(served.address).await.expect("connect");
        let request = b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n";
        deaf.write_all(request).await.expect("write");
        let mut answer = [0; 256];
        let cut = slow.read(&mut answer);
        let cut = tokio::time::timeout(DEADLINES.head, cut).await;
        assert!(cut.is_ok(), "the slow one is cut");
        // Not synchronisation: only time makes the deadline pass.
        tokio::time::sleep(SHORT.whole * 2).await;
        let mut taken = 0;
        let mut buffer = vec![0; 1 << 20];
        while let Ok(n @ 1..) = deaf.read(&mut buffer).await {
            taken += n;
        }
        assert!(
            taken < 64 * 1024 * 1024,
            "all of it was kept for a deaf client"
        );
        served.cancel.cancel();
        served.task.await.expect("it ends");
    }
}
