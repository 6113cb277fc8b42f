//! Callers that have no token, and many connections.

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream};

use super::*;
use crate::tls::{CaClient, CaName, CaStream};

async fn connect(to: SocketAddr, from: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("bound");
    socket.connect(to).await.expect("connected")
}

/// A connection that shook hands and says nothing.
async fn shake(dir: &Path, to: SocketAddr, from: [u8; 4]) -> CaStream {
    let roots = std::fs::read(dir.join("ca").join(BUNDLE)).expect("roots");
    let name = CaName::Server("mesh-ca".to_owned());
    let client = CaClient::new(&roots, &name).expect("a client");
    let stream = connect(to, from).await;
    client.connect(stream).await.expect("a handshake")
}

/// Reads until it is cut.
async fn end(mut stream: CaStream) {
    let mut bytes = [0; 64];
    while matches!(stream.read(&mut bytes).await, Ok(1..)) {}
}

#[tokio::test]
async fn a_client_that_proves_nothing_is_cut_and_one_that_did_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = start(config(dir.path())).await;
    token(dir.path());
    let n1 = agent(dir.path(), ca.address, "n1");
    get(&n1, "web", 10).await.expect("credentials");
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(connect(ca.address, [127, 0, 0, 2]).await);
    }
    // Those that do not even shake hands make room.
    let shaken = shake(dir.path(), ca.address, [127, 0, 0, 1]).await;
    let ended = tokio::time::timeout(seats::PROVE + Duration::from_secs(3), end(shaken)).await;
    assert!(ended.is_ok(), "it is cut after {:?}", seats::PROVE);
    n1.want(&BTreeSet::new());
    get(&n1, "web", 10).await.expect("credentials");
    n1.stop().await;
    ca.cancel.cancel();
    ca.task.await.expect("ended").expect("well");
}

#[tokio::test]
async fn an_agent_gets_in_at_once_while_others_hold_all_places_silently() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = start(config(dir.path())).await;
    token(dir.path());
    let mut silent = Vec::new();
    // Half of 8, all of one address; they are let go after 5 s.
    for _ in 0..4 {
        silent.push(connect(ca.address, [127, 0, 0, 2]).await);
    }
    let n1 = agent(dir.path(), ca.address, "n1");
    get(&n1, "web", 3).await.expect("credentials");
    n1.stop().await;
    ca.cancel.cancel();
    ca.task.await.expect("ended").expect("well");
}

#[tokio::test]
async fn a_silent_connection_that_shook_hands_makes_room_at_once_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = start(config(dir.path())).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(shake(dir.path(), ca.address, [127, 0, 0, 2]).await);
    }
    let newcomer = shake(dir.path(), ca.address, [127, 0, 0, 3]).await;
    let ended = tokio::time::timeout(Duration::from_secs(3), end(silent.remove(0))).await;
    assert!(ended.is_ok(), "the oldest is cut, and before its 6 s");
    drop((silent, newcomer));
    ca.cancel.cancel();
    ca.task.await.expect("ended").expect("well");
}
