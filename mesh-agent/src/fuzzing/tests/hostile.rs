//! A destination's side of a connection from elsewhere, from its first bytes to
//! its streams, and clients that send anything. Time is virtual: it moves only
//! when nobody has anything to do, so that deadlines are met exactly or not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::corpus;
use crate::detect::{Hello, client_hello};
use crate::fuzzing::mutate::Mutator;
use crate::fuzzing::{FRAMES, HELLO};
use crate::proxy::{Sniffed, sniff};
use crate::tls::tests::support::{Issuer, credentials, id, root, sockets};
use crate::tls::{Credentials, HEAD, Session, TAIL, accept, connect, warm};
use crate::tunnel::Connection;
use crate::tunnel::tests::support::settle;

/// Of the first bytes, of the handshake, and of the wait for a stream.
const DEADLINE: Duration = Duration::from_secs(5);
/// The timer counts in milliseconds, and rounds up.
const TICK: Duration = Duration::from_millis(2);
/// Connections at once.
const BATCH: usize = 32;

/// How far a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Came {
    NotOurs,
    Refused,
    Streams,
}

async fn within<T>(what: &str, stage: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let value = stage.await;
    let took = start.elapsed();
    assert!(took <= DEADLINE + TICK, "{what} took {took:?}");
    value
}

async fn serve(tcp: TcpStream, own: Arc<Credentials>, backend: SocketAddr) -> Came {
    if within("the look", sniff(&tcp, DEADLINE)).await != Sniffed::Mesh {
        return Came::NotOurs;
    }
    let handshake = accept(&tcp, &own, DEADLINE);
    let Ok(session) = within("the handshake", handshake).await else {
        return Came::Refused;
    };
    let until = SystemTime::now() + DEADLINE;
    let mut connection = Connection::new(tcp, session, until, Instant::now().into_std());
    while let Ok(Ok(Some(mut taken))) = timeout(DEADLINE, connection.accept()).await {
        let relay = &mut taken.relay;
        let application = TcpStream::connect(backend).await.expect("the backend");
        relay.accept();
        let end = relay.run(&application, &mut connection).await;
        drop(application);
        if !settle(&end, relay, &mut connection).await {
            break;
        }
    }
    Came::Streams
}

/// An application that reads all and says little.
async fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buf = vec![0; 4096];
                // Its end is the relay's to find.
                let _said = stream.write_all(b"hello").await;
                while stream.read(&mut buf).await.is_ok_and(|n| n > 0) {}
            });
        }
    });
    address
}

/// What a client does when it has sent its bytes.
#[derive(Clone, Copy, Debug)]
enum After {
    Stay,
    HalfClose,
    Close,
    Reset,
}

/// Bytes in pieces, then an end; gives back what must not be closed yet.
async fn send(mut tcp: TcpStream, pieces: Vec<Vec<u8>>, after: After) -> Option<TcpStream> {
    for piece in pieces {
        // The server may have enough of it before the end.
        if !matches!(timeout(DEADLINE, tcp.write_all(&piece)).await, Ok(Ok(()))) {
            return None;
        }
        tokio::task::yield_now().await;
    }
    match after {
        After::Stay => Some(tcp),
        After::HalfClose => {
            let _gone = tcp.shutdown().await;
            Some(tcp)
        }
        After::Close => None,
        After::Reset => {
            let now = Some(Duration::ZERO);
            socket2::SockRef::from(&tcp)
                .set_linger(now)
                .expect("linger");
            None
        }
    }
}

fn pieces(mutator: &mut Mutator, bytes: &[u8]) -> Vec<Vec<u8>> {
    let size = [1, 5, 100, usize::MAX][mutator.below(4)];
    // Not a thousand pieces of one byte.
    let size = size.max(bytes.len() / 64).max(1);
    bytes.chunks(size).map(<[u8]>::to_vec).collect()
}

fn after(mutator: &mut Mutator) -> After {
    [After::Stay, After::HalfClose, After::Close, After::Reset][mutator.below(4)]
}

/// Records with any plaintext, sealed with the keys of a good handshake.
fn sealed(session: &mut Session, mutator: &mut Mutator, plaintext: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    for part in plaintext.chunks(1 + mutator.below(600)) {
        let mut record = [&[0; HEAD], part, &[0; TAIL]].concat();
        let len = session.records.seal(&mut record, part.len());
        len.expect("a record");
        all.extend(record);
    }
    all
}

struct World {
    root: Issuer,
    own: Arc<Credentials>,
    backend: SocketAddr,
    mutator: Mutator,
    came: Vec<Came>,
}

impl World {
    async fn new(seed: u64) -> Self {
        warm();
        let root = root("root");
        Self {
            own: credentials(&root, "db"),
            root,
            backend: backend().await,
            mutator: Mutator::new(seed),
            came: Vec::new(),
        }
    }

    /// Connections at once, each with its client; all have ended at its end.
    async fn batch<A>(&mut self, mut attack: impl FnMut(&mut Mutator, TcpStream) -> A)
    where
        A: Future<Output = Option<TcpStream>> + Send + 'static,
    {
        let before = Handle::current().metrics().num_alive_tasks();
        let mut served = JoinSet::new();
        let mut clients = JoinSet::new();
        for _ in 0..BATCH {
            let (client, server) = sockets().await;
            served.spawn_local(serve(server, self.own.clone(), self.backend));
            clients.spawn(attack(&mut self.mutator, client));
        }
        // What clients hold open is held until every server has ended.
        let mut held = Vec::new();
        while let Some(came) = served.join_next().await {
            self.came.push(came.expect("no panic"));
        }
        while let Some(client) = clients.join_next().await {
            held.extend(client.expect("no panic"));
        }
        drop(held);
        let tasks = || Handle::current().metrics().num_alive_tasks();
        let gone = timeout(DEADLINE, async {
            while tasks() > before {
                tokio::time::sleep(TICK).await;
            }
        });
        gone.await.expect("every task has ended");
    }

    fn count(&self, came: Came) -> usize {
        self.came.iter().filter(|c| **c == came).count()
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn changed_first_flights_end_by_the_deadline() {
    let mut world = World::new(1).await;
    let hellos = corpus(HELLO);
    let ours = |hello: &&Vec<u8>| client_hello(hello) == Hello::Mesh;
    let ours: Vec<Vec<u8>> = hellos.iter().filter(ours).cloned().collect();
    for _ in 0..6 {
        world
            .batch(|mutator, tcp| {
                let bytes = match mutator.below(4) {
                    0 => hellos[mutator.below(hellos.len())].clone(),
                    1 => mutator.next(&hellos),
                    2 => ours[mutator.below(ours.len())].clone(),
                    _ => mutator.next(&ours),
                };
                send(tcp, pieces(mutator, &bytes), after(mutator))
            })
            .await;
    }
    // Nobody has a certificate.
    assert_eq!(world.count(Came::Streams), 0);
    for came in [Came::NotOurs, Came::Refused] {
        assert!(world.count(came) > 20, "{:?}", world.came);
    }
}

/// Passes bytes on, but for one piece, which is changed.
async fn tamper(client: TcpStream, server: TcpStream, mut mutator: Mutator, piece: usize) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::spawn(async move {
        let _ended = tokio::io::copy(&mut from_server, &mut to_client).await;
    });
    let mut buf = vec![0; 8192];
    let mut at = 0;
    while let Ok(n) = from_client.read(&mut buf).await {
        let mut bytes = buf[..n].to_vec();
        if at == piece {
            bytes = mutator.next(&[bytes]);
        }
        at += 1;
        if n == 0 || to_server.write_all(&bytes).await.is_err() {
            break;
        }
    }
    drop(to_server);
    back.abort();
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn changed_second_flights_end_by_the_deadline() {
    let mut world = World::new(2).await;
    let client = credentials(&world.root, "web");
    for _ in 0..3 {
        let client = client.clone();
        world
            .batch(move |mutator, tcp| {
                let (client, seed) = (client.clone(), mutator.below(1 << 30) as u64);
                async move {
                    let (near, far) = sockets().await;
                    let harm = Mutator::new(seed);
                    let network = tokio::spawn(tamper(far, tcp, harm, 1));
                    let expected = [id("db")];
                    let session = connect(
                        &near,
                        &client,
                        &expected,
                        crate::model::PeerProtocol::Mesh1,
                        DEADLINE,
                    )
                    .await;
                    drop((session, near));
                    network.await.expect("no panic");
                    None
                }
            })
            .await;
    }
    assert!(world.count(Came::Refused) > 60, "{:?}", world.came);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_peer_with_a_good_certificate_may_send_anything_and_holds_nothing_up() {
    let mut world = World::new(3).await;
    let client = credentials(&world.root, "web");
    // What the fuzzer calls steps is read as plaintext here: frames with noise between.
    let mut plain: Vec<Vec<u8>> = corpus(FRAMES);
    plain.extend(corpus(FRAMES).into_iter().map(|mut bytes| {
        bytes.drain(..3.min(bytes.len()));
        bytes
    }));
    let plain = Arc::new(plain);
    for _ in 0..4 {
        let (client, plain) = (client.clone(), plain.clone());
        world
            .batch(move |mutator, tcp| {
                let (client, plain) = (client.clone(), plain.clone());
                let mut mutator = Mutator::new(mutator.below(1 << 30) as u64);
                async move {
                    let expected = [id("db")];
                    let session = connect(
                        &tcp,
                        &client,
                        &expected,
                        crate::model::PeerProtocol::Mesh1,
                        DEADLINE,
                    )
                    .await;
                    let mut session = session.expect("a session");
                    let bytes = match mutator.below(3) {
                        0 => plain[mutator.below(plain.len())].clone(),
                        _ => mutator.next(&plain),
                    };
                    let mut bytes = sealed(&mut session, &mut mutator, &bytes);
                    if mutator.below(4) == 0 {
                        bytes = mutator.next(&[bytes]);
                    }
                    let pieces = pieces(&mut mutator, &bytes);
                    let end = [After::HalfClose, After::Close, After::Reset];
                    let end = end[mutator.below(end.len())];
                    send(tcp, pieces, end).await
                }
            })
            .await;
    }
    assert_eq!(world.count(Came::Streams), world.came.len());
}
