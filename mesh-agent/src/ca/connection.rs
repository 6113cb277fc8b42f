//! One connection to the authority, from its handshake to its end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use super::calls::Peer;
use super::seats::{PROVE, Seat};

/// The time that begins at accept.
pub(super) fn proof() -> Pin<Box<Sleep>> {
    Box::pin(sleep(PROVE))
}

/// Holds its slot until it ends; ends soon where nothing is proven.
pub(super) struct Connection<S> {
    stream: S,
    peer: SocketAddr,
    seat: Arc<Seat>,
    displaced: Pin<Box<WaitForCancellationFutureOwned>>,
    proof: Pin<Box<Sleep>>,
    _slot: OwnedSemaphorePermit,
}

impl<S> Connection<S> {
    pub(super) fn new(
        stream: S,
        peer: SocketAddr,
        seat: Arc<Seat>,
        proof: Pin<Box<Sleep>>,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            stream,
            peer,
            displaced: Box::pin(seat.displaced()),
            seat,
            proof,
            _slot: slot,
        }
    }

    /// An error where it has proven nothing, and its time is over or its place is
    /// another's. Of each direction: who does not read keeps the other side from
    /// reading as well.
    fn may_go_on(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.seat.is_proven() {
            return Ok(());
        }
        let is_displaced = self.displaced.as_mut().poll(cx).is_ready();
        if is_displaced || self.proof.as_mut().poll(cx).is_ready() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer {
            address: self.peer,
            seat: self.seat.clone(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.may_go_on(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.may_go_on(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.may_go_on(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.may_go_on(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::sync::Semaphore;

    use super::super::seats::Seats;
    use super::*;

    /// Room for one that proved nothing.
    const ALL: usize = 2;

    /// A connection that nobody reads from, with room for one byte.
    async fn connection(seats: &Arc<Seats>) -> (Connection<DuplexStream>, DuplexStream) {
        let (stream, other) = tokio::io::duplex(1);
        let slot = Arc::new(Semaphore::new(1)).acquire_owned().await;
        let peer = SocketAddr::from(([10, 0, 0, 1], 1));
        let seat = seats.take(peer.ip()).expect("a place");
        let connection = Connection::new(stream, peer, seat, proof(), slot.expect("a slot"));
        (connection, other)
    }

    /// The `n`th from another address: those before it have had their time.
    fn another(n: u32, seats: &Arc<Seats>) -> Arc<Seat> {
        let later = std::time::Instant::now() + n * PROVE;
        let seat = seats.take_at([10, 0, 0, 2].into(), later);
        seat.expect("a place")
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_displaced_ends_while_it_reads_and_while_it_writes() {
        let seats = Seats::new(ALL);
        let begun = tokio::time::Instant::now();
        let (mut reads, _other) = connection(&seats).await;
        let mut byte = [0];
        let (ended, seat) = tokio::join!(reads.read(&mut byte), async { another(1, &seats) });
        ended.expect_err("its place is another's");
        drop(seat);
        let (mut writes, _other) = connection(&seats).await;
        let (ended, _seat) = tokio::join!(writes.write_all(b"ab"), async { another(1, &seats) });
        ended.expect_err("its place is another's");
        assert_eq!(begun.elapsed().as_millis(), 0, "at once");
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_has_no_more_time_to_prove_something() {
        let seats = Seats::new(ALL);
        let begun = tokio::time::Instant::now();
        let (mut writes, _other) = connection(&seats).await;
        writes.write_all(b"ab").await.expect_err("its time is over");
        assert!(begun.elapsed() >= PROVE);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_proved_itself_stays() {
        let seats = Seats::new(ALL);
        let (mut proven, mut other) = connection(&seats).await;
        assert!(proven.seat.prove("t"));
        let _more = [another(1, &seats), another(2, &seats)];
        tokio::time::sleep(2 * PROVE).await;
        proven.write_all(b"a").await.expect("written");
        other.write_all(b"b").await.expect("written");
        assert_eq!(proven.read_u8().await.expect("read"), b'b');
    }
}
