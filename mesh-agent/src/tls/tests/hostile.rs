//! A network between the two that cuts, changes and holds back bytes.

use std::io::ErrorKind;
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::support::{DEADLINE, credentials, id, root, sockets};
use crate::model::TlsFailure;
use crate::tls::handshake::Failed;
use crate::tls::{HEAD, Opened, Session, TAIL, accept, connect, warm};

/// What the network does to the bytes of one direction.
#[derive(Clone, Copy, Debug)]
struct Harm {
    /// At most so many bytes at a time.
    step: usize,
    /// The byte at this place is changed.
    flip: Option<(usize, u8)>,
}

const NONE: Harm = Harm {
    step: usize::MAX,
    flip: None,
};

async fn carry(from: &TcpStream, to: &TcpStream, harm: Harm) {
    let mut buf = vec![0; harm.step.min(4096)];
    let mut at = 0;
    while from.readable().await.is_ok() {
        match from.try_read(&mut buf) {
            Ok(0) => return,
            Ok(count) => {
                if let Some((place, mask)) = harm.flip
                    && (at..at + count).contains(&place)
                {
                    buf[place - at] ^= mask;
                }
                at += count;
                if to.writable().await.is_err() || to.try_write(&buf[..count]).is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

type Ended = Result<Session, TlsFailure>;

async fn through(to_server: Harm, to_client: Harm, deadline: Duration) -> (Ended, Ended) {
    warm();
    let root = root("root");
    let (client, server) = (credentials(&root, "web"), credentials(&root, "db"));
    let ((c, c_net), (s_net, s)) = (sockets().await, sockets().await);
    let expected = [id("db")];
    // Each drops its socket at its end, so that the other one hears of it.
    let client = async move {
        connect(
            &c,
            &client,
            &expected,
            crate::model::PeerProtocol::Mesh1,
            deadline,
        )
        .await
        .map_err(|f| f.failure)
    };
    let server = async move { accept(&s, &server, deadline).await.map_err(|f| f.failure) };
    let network = async move {
        tokio::join!(
            async {
                carry(&c_net, &s_net, to_server).await;
                shut(&s_net);
            },
            async {
                carry(&s_net, &c_net, to_client).await;
                shut(&c_net);
            }
        )
    };
    let (client, server, _) = tokio::join!(client, server, network);
    (client, server)
}

fn shut(stream: &TcpStream) {
    // Gone already is as good.
    let _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write);
}

#[tokio::test]
async fn a_handshake_may_arrive_byte_by_byte() {
    for step in [1, 2, 7, 1000] {
        let slow = Harm { step, flip: None };
        // Thousands of wake-ups, which a busy machine may take long for.
        let (client, server) = through(slow, slow, 12 * DEADLINE).await;
        assert!(
            client.is_ok() && server.is_ok(),
            "{step}: {client:?} {server:?}"
        );
    }
}

#[tokio::test]
async fn data_right_behind_the_handshake_is_kept() {
    warm();
    let root = root("root");
    let (client, server) = (credentials(&root, "web"), credentials(&root, "db"));
    let (c, s) = sockets().await;
    let expected = [id("db")];
    let client = async {
        let mut session = connect(
            &c,
            &client,
            &expected,
            crate::model::PeerProtocol::Mesh1,
            DEADLINE,
        )
        .await?;
        let mut buf = [&[0; HEAD], &b"early"[..], &[0; TAIL]].concat();
        let sealed = session.records.seal(&mut buf, 5).expect("a record");
        assert_eq!(c.try_write(&buf[..sealed]).ok(), Some(sealed));
        Ok::<_, Failed>(session)
    };
    let (client, server) = tokio::join!(client, accept(&s, &server, DEADLINE));
    client.expect("a session");
    let mut server = server.expect("a session");
    let mut early = std::mem::take(&mut server.early);
    let opened = server.records.open(&mut early).expect("a record");
    let Opened::Data {
        plaintext,
        consumed,
    } = opened
    else {
        panic!("{opened:?}");
    };
    assert_eq!((&early[plaintext], consumed), (&b"early"[..], early.len()));
}

#[tokio::test]
async fn a_peer_that_floods_the_handshake_is_cut_off() {
    warm();
    let server = credentials(&root("root"), "db");
    let (c, s) = sockets().await;
    // One message of 60 KB, announced in many records of one byte.
    let flood = async {
        let mut bytes = vec![22, 3, 1, 0, 4, 1, 0, 0xe0, 0];
        bytes.extend([22, 3, 1, 0, 1, 0].repeat(20_000));
        let mut rest = &bytes[..];
        while !rest.is_empty() && c.writable().await.is_ok() {
            match c.try_write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let accept = async move {
        let ended = accept(&s, &server, DEADLINE).await;
        drop(s);
        ended
    };
    let (ended, ()) = tokio::join!(accept, flood);
    assert_eq!(
        ended.err().map(|f| f.failure),
        Some(TlsFailure::ChainTooLarge)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_changed_byte_never_makes_a_session_on_both_sides(
        place in 0..2200_usize,
        mask in 1..=255_u8,
        is_to_server: bool,
        step in prop_oneof![Just(1_usize), Just(4096)],
    ) {
        let harm = Harm { step, flip: Some((place, mask)) };
        let (to_server, to_client) = if is_to_server { (harm, NONE) } else { (NONE, harm) };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        // A longer length makes one side wait for what never comes.
        let deadline = Duration::from_millis(300);
        let (client, server) = runtime.block_on(through(to_server, to_client, deadline));
        // Beyond the handshake there is nothing to change; a record header's
        // legacy version and a byte in the change_cipher_spec mean nothing.
        if let (Ok(mut client), Ok(mut server)) = (client, server) {
            super::handshakes::pass(&mut client.records, &mut server.records, b"to");
            super::handshakes::pass(&mut server.records, &mut client.records, b"back");
        }
    }
}

/// A hello in records of one byte each: about 1,500 of them.
#[tokio::test]
async fn a_handshake_of_many_small_records_lets_the_neighbours_run() {
    warm();
    let root = root("root");
    let db = credentials(&root, "db");
    let hello = include_bytes!("../../detect/corpus/rustls-mesh.bin");
    let dribble: Vec<u8> = hello[HEAD..]
        .iter()
        .flat_map(|byte| [22, 3, 1, 0, 1, *byte])
        .collect();
    let (mut client, server) = sockets().await;
    client.write_all(&dribble).await.expect("room");
    let turns = std::rc::Rc::new(std::cell::Cell::new(0));
    let neighbour = async {
        loop {
            turns.set(turns.get() + 1);
            tokio::task::yield_now().await;
        }
    };
    let answered = async {
        tokio::select! {
            ended = accept(&server, &db, DEADLINE) => panic!("{ended:?}"),
            ready = client.readable() => ready.expect("an answer"),
        }
    };
    tokio::select! {
        biased;
        () = answered => {}
        () = neighbour => unreachable!("it goes on"),
    }
    assert!(turns.get() >= hello.len() / 20, "{} turns", turns.get());
}
