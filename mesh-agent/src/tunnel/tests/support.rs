//! What ends of streams have in common.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::net::TcpStream;

use crate::model::PeerProtocol;
use crate::tls::tests::support::{DEADLINE, credentials, id, root, sockets};
use crate::tls::{Session, accept, connect, warm};
use crate::tunnel::{Connection, Open, Relay, ResetReason, SharedConnection, StreamEnd};

/// A client's and a server's verified session, each with its socket.
pub(in crate::tunnel) async fn sessions(
    protocol: PeerProtocol,
) -> ((TcpStream, Session), (TcpStream, Session)) {
    warm();
    let root = root("root");
    let (web, db) = (credentials(&root, "web"), credentials(&root, "db"));
    let (client, server) = sockets().await;
    let expected = [id("db")];
    let (c, s) = tokio::join!(
        connect(&client, &web, &expected, protocol, DEADLINE),
        accept(&server, &db, DEADLINE)
    );
    let (c, s) = (c.expect("a session"), s.expect("a session"));
    assert_eq!((c.protocol, s.protocol), (protocol, protocol));
    ((client, c), (server, s))
}

/// When certificates end.
pub(in crate::tunnel) fn until() -> SystemTime {
    SystemTime::now() + DEADLINE
}

/// A client's and a server's end of one that carries channels.
pub(crate) async fn shared_connections() -> (Rc<SharedConnection>, Rc<SharedConnection>) {
    let ((client, c), (server, s)) = sessions(PeerProtocol::Shared1).await;
    (
        SharedConnection::client(client, c, until(), Arc::default()),
        SharedConnection::server(server, s, until(), Arc::default()),
    )
}

/// What a client says first.
pub(crate) fn open() -> Open {
    Open {
        original: "10.96.0.1:80".parse().expect("an address"),
        source: "10.0.0.5:40000".parse().expect("an address"),
        hops: 1,
        takes_rule: true,
        trace: None,
    }
}

/// Says the stream's end to the other agent; may the connection carry another one?
pub(crate) async fn settle(
    end: &StreamEnd,
    relay: &mut Relay,
    connection: &mut Connection,
) -> bool {
    let reset = match end {
        StreamEnd::Finished => return relay.is_over(connection),
        StreamEnd::ResetByApplication => ResetReason::Aborted,
        StreamEnd::ResetByPeer(_) => ResetReason::Answer,
        _ => return false,
    };
    relay.finish_reset(connection, reset).await
}
