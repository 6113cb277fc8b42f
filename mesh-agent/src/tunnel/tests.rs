//! Two agents' ends over a real socket and real TLS, and applications that
//! check every byte.

mod bytes;
mod floods;
mod replay;
mod shared;
pub(crate) mod support;
mod told;

use std::net::SocketAddr;
use std::time::Instant;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::model::PeerProtocol;
use crate::tls::Session;
use crate::tls::tests::support::{DEADLINE, sockets};
use support::{open, sessions, settle, until};

fn reset_on_close(stream: &TcpStream) {
    let linger = Some(std::time::Duration::ZERO);
    socket2::SockRef::from(stream)
        .set_linger(linger)
        .expect("linger");
}

async fn connections() -> (Connection, Connection) {
    let (client, server) = sessions(PeerProtocol::Mesh1).await;
    (alone(client), alone(server))
}

fn alone((tcp, session): (TcpStream, Session)) -> Connection {
    Connection::new(tcp, session, until(), Instant::now())
}

/// The stream that the other end opens.
async fn taken(connection: &mut Connection) -> Relay {
    let stream = connection.accept().await.expect("a stream");
    stream.expect("a stream").relay
}

/// The destination's agent: every stream goes to `backend`.
async fn serve(mut connection: Connection, backend: SocketAddr) -> Result<(), ProtocolError> {
    while let Some(stream) = connection.accept().await? {
        let IncomingStream {
            open: taken,
            mut relay,
        } = *stream;
        assert_eq!(taken.hops, open().hops);
        let application = TcpStream::connect(backend).await.expect("the backend");
        relay.accept();
        let end = relay.run(&application, &mut connection).await;
        if end != StreamEnd::Finished {
            reset_on_close(&application);
        }
        drop(application);
        let whole = settle(&end, &mut relay, &mut connection).await;
        if let StreamEnd::Protocol(error) = end {
            return Err(error);
        }
        if !whole {
            return Ok(());
        }
    }
    Ok(())
}

/// The client's agent: one stream from `application`; true when the
/// connection may be used again.
async fn carry(connection: &mut Connection, application: TcpStream) -> (StreamEnd, bool) {
    let mut relay = connection.open(&open());
    let end = relay.run(&application, connection).await;
    if end != StreamEnd::Finished {
        reset_on_close(&application);
    }
    drop(application);
    let whole = settle(&end, &mut relay, connection).await;
    (end, whole)
}

/// Bytes that name their stream and place: a byte of another stream shows.
fn pattern(seed: u64, from: usize, len: usize) -> Vec<u8> {
    let byte = |i: usize| {
        (seed
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(i as u32 % 61)
            >> 7) as u8
    };
    (from..from + len)
        .map(|i| byte(i) ^ (i >> 8) as u8)
        .collect()
}

/// What the two applications of a stream do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    /// Both send all and end with FIN.
    Whole,
    /// The client resets after some bytes.
    ClientResets,
    ServerResets,
}

/// The stream's terms, sent first: seed, bytes each way, script.
fn terms(seed: u64, up: u32, down: u32, script: Script) -> [u8; 17] {
    let mut bytes = [0; 17];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    bytes[8..12].copy_from_slice(&up.to_be_bytes());
    bytes[12..16].copy_from_slice(&down.to_be_bytes());
    bytes[16] = script as u8;
    bytes
}

/// An application that keeps to the terms; panics on any wrong byte.
async fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

async fn answer(mut stream: TcpStream) {
    let mut head = [0; 17];
    if stream.read_exact(&mut head).await.is_err() {
        return;
    }
    let number = |range: std::ops::Range<usize>| {
        u32::from_be_bytes(head[range].try_into().expect("four bytes")) as usize
    };
    let seed = u64::from_be_bytes(head[..8].try_into().expect("eight bytes"));
    let (up, down) = (number(8..12), number(12..16));
    let (mut read, mut write) = stream.split();
    let receive = async {
        let mut got = Vec::new();
        let whole = read.read_to_end(&mut got).await;
        assert_eq!(got, pattern(seed, 0, got.len()), "bytes of another stream");
        if head[16] == Script::Whole as u8 {
            whole.expect("a whole stream");
            assert_eq!(got.len(), up);
        }
    };
    let send = async {
        let data = pattern(!seed, 0, down);
        if head[16] == Script::ServerResets as u8 {
            let _gone = write.write_all(&data[..down / 2]).await;
            return true;
        }
        let _gone = write.write_all(&data).await;
        let _gone = write.shutdown().await;
        false
    };
    let resets = tokio::select! {
        ((), resets) = async { tokio::join!(receive, send) } => resets,
        // A server that resets does not wait for the client's end.
        () = tokio::time::sleep(std::time::Duration::from_millis(2)), if head[16] == Script::ServerResets as u8 => true,
    };
    if resets {
        reset_on_close(&stream);
    }
}

async fn client(mut stream: TcpStream, seed: u64, up: usize, down: usize, script: Script) {
    let head = terms(seed, up as u32, down as u32, script);
    if stream.write_all(&head).await.is_err() {
        return;
    }
    if script == Script::ClientResets {
        let _gone = stream.write_all(&pattern(seed, 0, up / 2)).await;
        let mut some = vec![0; down / 3];
        let n = stream.read(&mut some).await.unwrap_or(0);
        assert_eq!(
            &some[..n],
            &pattern(!seed, 0, n)[..],
            "bytes of another stream"
        );
        reset_on_close(&stream);
        return;
    }
    let (mut read, mut write) = stream.split();
    let send = async {
        let _gone = write.write_all(&pattern(seed, 0, up)).await;
        let _gone = write.shutdown().await;
    };
    let mut got = Vec::new();
    let receive = async { read.read_to_end(&mut got).await };
    let ((), whole) = tokio::join!(send, receive);
    assert_eq!(got, pattern(!seed, 0, got.len()), "bytes of another stream");
    if script == Script::Whole {
        whole.expect("a whole stream");
        assert_eq!(got.len(), down);
    } else {
        whole.expect_err("the reset arrives as a reset");
    }
}

#[tokio::test(flavor = "local")]
async fn streams_follow_each_other_on_one_connection() {
    let (mut near, far) = connections().await;
    let backend = backend().await;
    let served = tokio::task::spawn_local(serve(far, backend));
    for (i, (up, down)) in [
        (0, 0),
        (1, 0),
        (0, 1),
        (100, 100),
        (16_380, 16_380),
        (300_000, 5),
        (5, 300_000),
    ]
    .into_iter()
    .cycle()
    .take(300)
    .enumerate()
    {
        let (app, agent) = sockets().await;
        let (_, (end, whole)) = tokio::join!(
            client(app, i as u64, up, down, Script::Whole),
            carry(&mut near, agent)
        );
        assert_eq!((end, whole), (StreamEnd::Finished, true), "stream {i}");
    }
    drop(near);
    assert_eq!(served.await.expect("no panic"), Ok(()));
}

/// FIN behind a record that it does not fit into was once sent with a gap.
#[tokio::test(flavor = "local")]
async fn every_size_around_a_full_record_arrives_with_its_end() {
    let (mut near, far) = connections().await;
    let served = tokio::task::spawn_local(serve(far, backend().await));
    for size in (16_340..16_400).chain(32_700..32_780) {
        let (app, agent) = sockets().await;
        let (_, (end, whole)) = tokio::join!(
            client(app, size as u64, size, size, Script::Whole),
            carry(&mut near, agent)
        );
        assert_eq!((end, whole), (StreamEnd::Finished, true), "{size} bytes");
    }
    drop(near);
    assert_eq!(served.await.expect("no panic"), Ok(()));
}

#[tokio::test(flavor = "local")]
async fn both_directions_at_once_carry_many_megabytes_unchanged() {
    let (mut near, far) = connections().await;
    let served = tokio::task::spawn_local(serve(far, backend().await));
    let (app, agent) = sockets().await;
    let size = 24 << 20;
    let (_, (end, _)) = tokio::join!(
        client(app, 7, size, size, Script::Whole),
        carry(&mut near, agent)
    );
    assert_eq!(end, StreamEnd::Finished);
    drop(near);
    assert_eq!(served.await.expect("no panic"), Ok(()));
}

/// Resets at random moments, from both sides, between whole streams, on
/// reused connections and eight threads: no byte reaches another stream.
#[test]
fn resets_and_reuse_never_mix_streams() {
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build_local(Default::default())
                    .expect("a runtime");
                runtime.block_on(mix(thread));
            });
        }
    });
}

async fn mix(thread: u64) {
    let mut rng = SmallRng::seed_from_u64(thread);
    let backend = backend().await;
    let mut pooled: Option<Connection> = None;
    let mut reused = 0;
    for i in 0..250 {
        let mut near = match pooled.take() {
            Some(near) => {
                reused += 1;
                near
            }
            None => {
                let (near, far) = connections().await;
                tokio::task::spawn_local(serve(far, backend));
                near
            }
        };
        let script = match rng.random_range(0..4) {
            0 => Script::ClientResets,
            1 => Script::ServerResets,
            _ => Script::Whole,
        };
        let (up, down) = (rng.random_range(0..200_000), rng.random_range(0..200_000));
        let (app, agent) = sockets().await;
        let (_, (end, whole)) = tokio::join!(
            client(app, (thread << 32) | i, up, down, script),
            carry(&mut near, agent)
        );
        if script == Script::Whole {
            assert_eq!(end, StreamEnd::Finished, "stream {i} of thread {thread}");
        }
        pooled = whole.then_some(near);
    }
    assert!(
        reused > 200,
        "connections are reused after resets: {reused}"
    );
}

#[tokio::test(flavor = "local")]
async fn a_reader_that_stalls_stops_the_sender_and_memory_stays_bounded() {
    let (mut near, mut far) = connections().await;
    let (mut app, agent) = sockets().await;
    let (reader, delivered) = sockets().await;
    let far_side = tokio::task::spawn_local(async move {
        let mut relay = taken(&mut far).await;
        relay.accept();
        let stalled = tokio::time::timeout(DEADLINE / 5, relay.run(&delivered, &mut far)).await;
        assert!(stalled.is_err(), "it cannot end");
        (relay.held(), far.held())
    });
    let writer = tokio::task::spawn_local(async move {
        let chunk = vec![1; 64 * 1024];
        let mut written = 0_usize;
        while tokio::time::timeout(DEADLINE / 10, app.write_all(&chunk))
            .await
            .is_ok_and(|r| r.is_ok())
        {
            written += chunk.len();
        }
        written
    });
    let mut relay = near.open(&open());
    let stalled = tokio::time::timeout(DEADLINE / 5, relay.run(&agent, &mut near)).await;
    assert!(stalled.is_err(), "it cannot end");
    let written = writer.await.expect("no panic");
    assert!(written < 128 << 20, "the sender is stopped: {written}");
    let (rest, received) = far_side.await.expect("no panic");
    for held in [rest, received, relay.held(), near.held()] {
        assert!(held <= 300 * 1024, "{held} bytes held");
    }
    drop(reader);
}

#[tokio::test(flavor = "local")]
async fn an_idle_connection_that_the_peer_left_is_not_used() {
    let (mut near, far) = connections().await;
    assert!(near.is_idle_and_whole());
    let leaving = tokio::task::spawn_local(far.go_away());
    let left = async {
        loop {
            near.tcp()
                .expect("a socket")
                .readable()
                .await
                .expect("readable");
            if !near.is_idle_and_whole() {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, left).await.expect("noticed");
    drop(near);
    leaving.await.expect("no panic");
}

/// Frames in records that are well sealed and make no sense.
#[tokio::test(flavor = "local")]
async fn frames_out_of_order_close_the_connection() {
    use frame::Kind;
    let cases: &[&[(Kind, u8)]] = &[
        &[(Kind::Data, 0)],
        &[(Kind::Fin, 0)],
        &[(Kind::Accept, 0)],
        &[(Kind::Reset, 3)],
        &[(Kind::Open, 0), (Kind::Accept, 0)],
        &[(Kind::Open, 0), (Kind::Open, 1)],
        &[(Kind::Open, 0), (Kind::Data, 1)],
        &[(Kind::Open, 0), (Kind::Fin, 0), (Kind::Data, 0)],
        &[(Kind::Open, 1)],
    ];
    for case in cases {
        let (mut near, far) = connections().await;
        let served = tokio::task::spawn_local(serve(far, backend().await));
        for (kind, generation) in *case {
            if *kind == Kind::Open {
                near.inject(&open().encode(*generation));
            } else {
                let len = usize::from(matches!(kind, Kind::Data | Kind::Reset));
                let mut bytes = vec![0; frame::HEADER + len];
                frame::put_header(&mut bytes, *kind, *generation, len);
                near.inject(&bytes);
            }
        }
        std::future::poll_fn(|cx| near.poll_flush(cx))
            .await
            .expect("sent");
        let ended = tokio::time::timeout(DEADLINE, served).await;
        let ended = ended.expect("no hang").expect("no panic");
        assert!(ended.is_err(), "{case:?}: {ended:?}");
    }
}

#[tokio::test(flavor = "local")]
async fn random_frames_neither_panic_nor_hang_the_peer() {
    let mut rng = SmallRng::seed_from_u64(1);
    let backend = backend().await;
    for _ in 0..200 {
        let (mut near, far) = connections().await;
        let served = tokio::task::spawn_local(serve(far, backend));
        for _ in 0..rng.random_range(1..6) {
            let mut bytes = if rng.random_bool(0.5) {
                open().encode(0).to_vec()
            } else {
                let mut bytes: Vec<u8> =
                    (0..rng.random_range(1..60)).map(|_| rng.random()).collect();
                bytes[0] %= 8;
                bytes
            };
            if rng.random_bool(0.3) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
            near.inject(&bytes);
        }
        let _sent = std::future::poll_fn(|cx| near.poll_flush(cx)).await;
        drop(near);
        let ended = tokio::time::timeout(DEADLINE, served).await;
        let _outcome = ended.expect("no hang").expect("no panic");
    }
}

impl Connection {
    /// Seals any plaintext as one record.
    fn inject(&mut self, plaintext: &[u8]) {
        let mut record = vec![0; crate::tls::HEAD];
        record.extend_from_slice(plaintext);
        record.resize(record.len() + crate::tls::TAIL, 0);
        let n = self
            .layer
            .seal(&mut record, plaintext.len())
            .expect("a record");
        self.unsent.extend(&record[..n]);
    }

    fn held(&self) -> usize {
        self.received.capacity() + self.unsent.capacity()
    }
}

impl Relay {
    fn held(&self) -> usize {
        self.rest_capacity()
    }
}
