//! Serves HTTP/1 within bounds: few connections, each with deadlines.
//!
//! Anybody on the node can open connections to the metrics page. So each of the
//! two ports has its own few; a newer one takes the place of the oldest, one
//! request each, and whatever a client does it is over at its deadline.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
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
const HEAD_BYTES: usize = 16 * 1024;
/// After an accept that failed: descriptors may be used up.
const PAUSE: Duration = Duration::from_millis(100);
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

/// Until cancelled.
pub(super) async fn serve(
    listener: impl Accept,
    pages: Router,
    deadlines: Deadlines,
    cancel: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listener.next() => accepted,
            Some(_ended) = tasks.join_next() => {
                oldest_first.retain(|task| !task.is_finished());
                continue;
            }
        };
        match accepted {
            Ok(stream) => {
                oldest_first.retain(|task| !task.is_finished());
                if oldest_first.len() >= MAX
                    && let Some(oldest) = oldest_first.pop_front()
                {
                    oldest.abort();
                }
                let task = tasks.spawn(answer(stream, pages.clone(), deadlines));
                oldest_first.push_back(task);
            }
            Err(error) => {
                tracing::warn!(%error, "the admin pages cannot accept");
                tokio::time::sleep(PAUSE).await;
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
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(deadlines.head)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages));
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
            .route("/large", get(|| async { large }));
        let task = tokio::spawn(serve(listener, pages, deadlines, cancel.clone()));
        Served {
            address,
            cancel,
            task,
        }
    }

    async fn ask(served: &Served) -> String {
        let mut stream = TcpStream::connect(served.address).await.expect("connect");
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request).await.expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
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
