use super::support::{DEADLINE, credentials, id, root, sockets};
use crate::detect;
use crate::model::{CipherSuite, KeyExchange, TlsFailure, TlsParameters};
use crate::tls::{HEAD, Opened, Records, Session, TAIL, accept, connect, warm};

pub(super) async fn pair() -> (Session, Session) {
    warm();
    let root = root("root");
    let (client, server) = (credentials(&root, "web"), credentials(&root, "db"));
    let (c, s) = sockets().await;
    let expected = [id("db")];
    let (c, s) = tokio::join!(
        connect(
            &c,
            &client,
            &expected,
            crate::model::PeerProtocol::Mesh1,
            DEADLINE
        ),
        accept(&s, &server, DEADLINE)
    );
    (
        c.expect("a client's session"),
        s.expect("a server's session"),
    )
}

pub(super) fn pass(from: &mut Records, to: &mut Records, text: &[u8]) {
    let mut buf = vec![0; HEAD + text.len() + TAIL];
    buf[HEAD..HEAD + text.len()].copy_from_slice(text);
    let sealed = from.seal(&mut buf, text.len()).expect("a record");
    assert_eq!(sealed, buf.len());
    let opened = to.open(&mut buf).expect("a record");
    let Opened::Data {
        plaintext,
        consumed,
    } = opened
    else {
        panic!("{opened:?}");
    };
    assert_eq!(&buf[plaintext], text);
    assert_eq!(consumed, sealed);
}

#[tokio::test]
async fn two_workloads_of_one_root_know_each_other() {
    let (mut client, mut server) = pair().await;
    assert_eq!(client.peer.spiffe_id(), &id("db"));
    assert_eq!(server.peer.spiffe_id(), &id("web"));
    let parameters = TlsParameters {
        group: KeyExchange::X25519MlKem768,
        cipher: CipherSuite::Aes128Gcm,
    };
    assert_eq!(
        (client.parameters, server.parameters),
        (parameters, parameters)
    );
    assert!(client.early.is_empty() && server.early.is_empty());
    for round in 0..3 {
        pass(
            &mut client.records,
            &mut server.records,
            format!("to {round}").as_bytes(),
        );
        pass(
            &mut server.records,
            &mut client.records,
            format!("back {round}").as_bytes(),
        );
    }
    let mut close = client.records.close_notify().expect("a record");
    assert_eq!(server.records.open(&mut close), Ok(Opened::Closed));
}

#[tokio::test]
async fn another_workload_than_expected_is_refused_and_told() {
    warm();
    let root = root("root");
    let (client, server) = (credentials(&root, "web"), credentials(&root, "db"));
    let (c, s) = sockets().await;
    let expected = [id("cache"), id("web")];
    let (c, s) = tokio::join!(
        connect(
            &c,
            &client,
            &expected,
            crate::model::PeerProtocol::Mesh1,
            DEADLINE
        ),
        accept(&s, &server, DEADLINE)
    );
    assert_eq!(
        c.as_ref().err().map(|f| f.failure),
        Some(TlsFailure::UnexpectedIdentity)
    );
    // The log can say whom the address has instead.
    let shown = c.err().and_then(|f| f.shown).expect("a certificate");
    assert_eq!(shown.principal, Some(id("db")));
    assert_eq!(&*shown.serial, server.serial());
    let told = s.err().map(|f| (f.failure, f.shown));
    assert_eq!(told, Some((TlsFailure::RefusedByPeer, None)));
}

#[tokio::test]
async fn a_refused_client_learns_it_with_its_first_read() {
    warm();
    let (ours, other) = (root("root"), root("other"));
    let (server, stranger) = (credentials(&ours, "db"), credentials(&other, "web"));
    // The stranger trusts us; we do not trust it.
    let stranger = stranger
        .with_trust(super::support::trust(&ours))
        .expect("credentials");
    let (c, s) = sockets().await;
    let expected = [id("db")];
    let (client, server) = tokio::join!(
        connect(
            &c,
            &stranger,
            &expected,
            crate::model::PeerProtocol::Mesh1,
            DEADLINE
        ),
        accept(&s, &server, DEADLINE)
    );
    assert_eq!(
        server.err().map(|f| f.failure),
        Some(TlsFailure::UnknownIssuer)
    );
    drop(s);
    let mut client = client.expect("the client has not heard yet");
    let mut buf = client.early;
    loop {
        c.readable().await.expect("readable");
        match c.try_read_buf(&mut buf) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => panic!("{e}"),
        }
    }
    let unknown_ca = 48;
    assert_eq!(
        client.records.open(&mut buf),
        Err(crate::tls::RecordError::Alert(unknown_ca))
    );
}

#[tokio::test]
async fn the_first_bytes_of_a_handshake_are_known_as_ours() {
    warm();
    let client = credentials(&root("root"), "web");
    let (c, s) = sockets().await;
    let expected = [id("db")];
    let hello = async {
        let mut bytes = Vec::new();
        while detect::client_hello(&bytes) == detect::Hello::NeedMore {
            s.readable().await.expect("readable");
            let _ = s.try_read_buf(&mut bytes);
        }
        bytes
    };
    let hello = tokio::select! {
        bytes = hello => bytes,
        ended = connect(&c, &client, &expected, crate::model::PeerProtocol::Mesh1, DEADLINE) => panic!("{ended:?}"),
    };
    assert_eq!(detect::client_hello(&hello), detect::Hello::Mesh);
}
