//! Our records against rustls' own, and against what an attacker may do.

use std::io::{Read, Write};

use proptest::prelude::*;
use rustls::{ClientConnection, ServerConnection};

use super::handshakes::{pair, pass};
use super::support::{with_rustls_client, with_rustls_server};
use crate::tls::{HEAD, MAX_CIPHERTEXT, MAX_PLAINTEXT, Opened, RecordError, Records, TAIL};

const UPDATE_AFTER: u64 = 1 << 23;
const MAX_RECORDS: u64 = 1 << 24;

/// The same calls on both of rustls' connection types.
trait Peer {
    fn send(&mut self, data: &[u8]) -> Vec<u8>;
    fn receive(&mut self, records: &[u8]) -> Vec<u8>;
    fn change_keys(&mut self);
    fn close(&mut self) -> Vec<u8>;
}

macro_rules! peer {
    ($kind:ty) => {
        impl Peer for $kind {
            fn send(&mut self, data: &[u8]) -> Vec<u8> {
                self.writer().write_all(data).expect("room");
                let mut records = Vec::new();
                while self.wants_write() {
                    self.write_tls(&mut records).expect("records");
                }
                records
            }

            fn receive(&mut self, mut records: &[u8]) -> Vec<u8> {
                let mut data = Vec::new();
                while !records.is_empty() {
                    self.read_tls(&mut records).expect("room");
                    let state = self.process_new_packets().expect("good records");
                    let start = data.len();
                    data.resize(start + state.plaintext_bytes_to_read(), 0);
                    self.reader().read_exact(&mut data[start..]).expect("data");
                }
                data
            }

            fn change_keys(&mut self) {
                self.refresh_traffic_keys().expect("new keys");
            }

            fn close(&mut self) -> Vec<u8> {
                self.send_close_notify();
                self.send(&[])
            }
        }
    };
}
peer!(ClientConnection);
peer!(ServerConnection);

fn seal(records: &mut Records, data: &[u8]) -> Vec<u8> {
    let mut all = records.take_outgoing().expect("keys").unwrap_or_default();
    for part in data.chunks(MAX_PLAINTEXT) {
        let mut buf = [&[0; HEAD], part, &[0; TAIL]].concat();
        assert_eq!(records.seal(&mut buf, part.len()), Ok(buf.len()));
        all.extend(buf);
    }
    all
}

/// Opens what is whole in `buf` and removes it.
fn open(records: &mut Records, buf: &mut Vec<u8>) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let consumed = match records.open(buf).expect("good records") {
            Opened::NeedMore => return data,
            Opened::Handled { consumed } => consumed,
            Opened::Data {
                plaintext,
                consumed,
            } => {
                data.extend(&buf[plaintext]);
                consumed
            }
            Opened::Closed => panic!("closed"),
        };
        buf.drain(..consumed);
    }
}

#[derive(Clone, Debug)]
enum Turn {
    WeSend(usize),
    TheySend(usize, usize),
    WeAsk,
    TheyChange,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let size = prop_oneof![1..64_usize, 1..40_000_usize, Just(MAX_PLAINTEXT)];
    let turn = prop_oneof![
        4 => size.clone().prop_map(Turn::WeSend),
        4 => (size, 1..20_000_usize).prop_map(|(size, step)| Turn::TheySend(size, step)),
        1 => Just(Turn::WeAsk),
        1 => Just(Turn::TheyChange),
    ];
    proptest::collection::vec(turn, 1..24)
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 % 251) as u8).collect()
}

fn play(records: &mut Records, peer: &mut dyn Peer, turns: &[Turn]) {
    let mut incoming = Vec::new();
    for turn in turns {
        match turn {
            Turn::WeSend(size) => {
                let data = pattern(*size);
                assert_eq!(peer.receive(&seal(records, &data)), data);
            }
            Turn::TheySend(size, step) => {
                let data = pattern(*size);
                let mut got = Vec::new();
                for part in peer.send(&data).chunks(*step) {
                    incoming.extend(part);
                    got.extend(open(records, &mut incoming));
                }
                assert!(incoming.is_empty());
                assert_eq!(got, data);
            }
            Turn::WeAsk => {
                let update = records.ask_for_update().expect("a record");
                assert!(peer.receive(&update).is_empty());
            }
            Turn::TheyChange => peer.change_keys(),
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_server_of_ours_and_a_client_of_rustls_agree(turns in turns()) {
        let (mut session, mut peer) = runtime().block_on(with_rustls_client());
        play(&mut session.records, &mut peer, &turns);
    }

    #[test]
    fn a_client_of_ours_and_a_server_of_rustls_agree(turns in turns()) {
        let (mut session, mut peer) = runtime().block_on(with_rustls_server());
        let mut early = session.early.clone();
        assert!(open(&mut session.records, &mut early).is_empty());
        play(&mut session.records, &mut peer, &turns);
    }
}

#[tokio::test]
async fn each_side_understands_the_others_end() {
    let (mut session, mut peer) = with_rustls_client().await;
    let mut end = peer.close();
    assert_eq!(session.records.open(&mut end), Ok(Opened::Closed));
    // What follows an end does not count.
    assert_eq!(session.records.open(&mut [23, 3, 3]), Ok(Opened::Closed));
    let end = session.records.close_notify().expect("a record");
    peer.read_tls(&mut &end[..]).expect("room");
    assert!(
        peer.process_new_packets()
            .expect("an end")
            .peer_has_closed()
    );
    assert_eq!(
        session.records.seal(&mut [0; 64], 4),
        Err(RecordError::Closed)
    );
}

#[tokio::test]
async fn a_request_for_new_keys_is_answered_once() {
    let (mut session, mut peer) = with_rustls_client().await;
    for _ in 0..3 {
        peer.change_keys();
    }
    let mut updates = peer.send(b"x");
    assert_eq!(open(&mut session.records, &mut updates), b"x");
    assert!(session.records.take_outgoing().expect("keys").is_some());
    assert_eq!(session.records.take_outgoing(), Ok(None));
}

#[tokio::test]
async fn a_record_changed_in_any_byte_is_refused_for_good() {
    let (mut client, mut server) = pair().await;
    let sealed = seal(&mut client.records, b"hello");
    // Each attempt uses up a number: the sender's is the same for all.
    for place in 0..sealed.len() {
        server.records.skip_receiving(0);
        server.records.forget_end();
        let mut changed = sealed.clone();
        changed[place] ^= 0x01;
        let first = server.records.open(&mut changed);
        match first {
            Err(error) => assert_eq!(
                server.records.open(&mut sealed.clone()),
                Err(error),
                "an error is final"
            ),
            // A longer length waits for bytes that never authenticate.
            Ok(Opened::NeedMore) => assert!((3..5).contains(&place), "{place}"),
            Ok(other) => panic!("{other:?} at {place}"),
        }
    }
}

#[tokio::test]
async fn replayed_reordered_and_reflected_records_are_refused() {
    let (mut client, mut server) = pair().await;
    let first = seal(&mut client.records, b"first");
    let second = seal(&mut client.records, b"second");
    assert_eq!(
        server.records.open(&mut second.clone()),
        Err(RecordError::NotAuthentic)
    );
    server.records.skip_receiving(0);
    server.records.forget_end();
    assert!(server.records.open(&mut first.clone()).is_ok());
    assert_eq!(
        server.records.open(&mut first.clone()),
        Err(RecordError::NotAuthentic)
    );
    assert_eq!(
        client.records.open(&mut second.clone()),
        Err(RecordError::NotAuthentic)
    );
    let (_, mut stranger) = pair().await;
    assert_eq!(
        stranger.records.open(&mut first.clone()),
        Err(RecordError::NotAuthentic)
    );
}

#[tokio::test]
async fn part_of_a_record_is_waited_for() {
    let (mut client, mut server) = pair().await;
    let sealed = seal(&mut client.records, &pattern(300));
    for end in 0..sealed.len() {
        let mut part = sealed[..end].to_vec();
        assert_eq!(server.records.open(&mut part), Ok(Opened::NeedMore));
        assert_eq!(part, sealed[..end], "left alone");
    }
    assert_eq!(open(&mut server.records, &mut sealed.clone()), pattern(300));
}

#[tokio::test]
async fn records_that_have_no_place_are_refused() {
    for (header, error) in [
        ([21, 3, 3, 0, 2], RecordError::Unexpected),
        ([22, 3, 3, 0, 40], RecordError::Unexpected),
        ([20, 3, 3, 0, 1], RecordError::Unexpected),
        ([23, 3, 3, 0, 16], RecordError::Unexpected),
        ([23, 3, 3, 0x41, 1], RecordError::TooLong),
        ([23, 3, 3, 0xff, 0xff], RecordError::TooLong),
    ] {
        let (_, mut server) = pair().await;
        assert_eq!(
            server.records.open(&mut header.clone()),
            Err(error),
            "{header:?}"
        );
    }
    assert_eq!(MAX_CIPHERTEXT, 5 + 16_384 + 256);
}

/// Seals `content` as an inner record of this kind and opens it at the other side.
async fn from_client(kind: u8, content: &[u8]) -> Result<Opened, RecordError> {
    let (mut client, mut server) = pair().await;
    let mut buf = [&[0; HEAD], content, &[0; TAIL]].concat();
    client
        .records
        .seal_as(kind, &mut buf, content.len())
        .expect("a record");
    server.records.open(&mut buf)
}

#[tokio::test]
async fn messages_after_the_handshake_are_held_to_the_protocol() {
    let handled = |content: &[u8]| {
        Ok(Opened::Handled {
            consumed: HEAD + content.len() + TAIL,
        })
    };
    let unexpected = Err(RecordError::Unexpected);
    let (update, request) = ([24, 0, 0, 1, 0], [24, 0, 0, 1, 1]);
    assert_eq!(from_client(22, &update).await, handled(&update));
    assert_eq!(from_client(22, &request).await, handled(&request));
    for bad in [
        &[][..],
        &[24],
        &[24, 0, 0, 1],
        &[24, 0, 0, 1, 2],
        &[24, 0, 0, 0],
        &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0],
        &[4, 0, 0, 0],
        &[1, 0, 0, 0],
        &[20, 0, 0, 0],
        &[24, 0xff, 0xff, 0xff, 0],
    ] {
        assert_eq!(from_client(22, bad).await, unexpected, "{bad:?}");
    }
    assert_eq!(from_client(21, &[1, 0]).await, Ok(Opened::Closed));
    assert_eq!(from_client(21, &[2, 40]).await, Err(RecordError::Alert(40)));
    assert_eq!(from_client(21, &[1, 90]).await, handled(&[1, 90]));
    for (kind, content) in [
        (21, &[2][..]),
        (21, &[]),
        (20, &[1]),
        (24, &[1]),
        (99, &[1]),
    ] {
        assert_eq!(from_client(kind, content).await, unexpected, "{kind}");
    }
    // Padding only: a kind of 0 is padding too.
    assert_eq!(from_client(0, &[0; 20]).await, unexpected);
    // Padded data: the content type stands before the zeros.
    let padded = [b"hi".as_slice(), &[23], &[0; 30]].concat();
    assert_eq!(
        from_client(0, &padded).await,
        Ok(Opened::Data {
            plaintext: HEAD..HEAD + 2,
            consumed: HEAD + padded.len() + TAIL
        })
    );
}

#[tokio::test]
async fn a_flood_of_records_without_data_ends() {
    let (mut client, mut server) = pair().await;
    let mut counted = 0;
    let error = loop {
        let mut buf = [0; HEAD + TAIL];
        client.records.seal(&mut buf, 0).expect("a record");
        match server.records.open(&mut buf) {
            Ok(_) => counted += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((error, counted), (RecordError::IdleFlood, 32));
}

#[tokio::test]
async fn data_in_between_pays_for_little_that_is_none() {
    let (mut client, mut server) = pair().await;
    let mut counted = 0;
    let error = loop {
        pass(&mut client.records, &mut server.records, b"data");
        let mut update = client.records.ask_for_update().expect("a record");
        match server.records.open(&mut update) {
            Ok(_) => counted += 1,
            Err(error) => break error,
        }
        assert!(counted <= 100, "without end");
    };
    assert_eq!((error, counted), (RecordError::IdleFlood, 32));
    // A peer that changes its keys now and then goes on.
    let (mut client, mut server) = pair().await;
    for _ in 0..100 {
        for _ in 0..1024 {
            pass(&mut client.records, &mut server.records, b"data");
        }
        let mut update = client.records.ask_for_update().expect("a record");
        let opened = server.records.open(&mut update);
        assert!(matches!(opened, Ok(Opened::Handled { .. })), "{opened:?}");
    }
}

#[tokio::test]
async fn keys_are_changed_well_before_their_limit() {
    let (mut client, mut server) = pair().await;
    client.records.skip_sending(UPDATE_AFTER - 1);
    server.records.skip_receiving(UPDATE_AFTER - 1);
    assert_eq!(client.records.take_outgoing(), Ok(None));
    pass(
        &mut client.records,
        &mut server.records,
        b"the last of these keys",
    );
    let mut update = client
        .records
        .take_outgoing()
        .expect("keys")
        .expect("an update is due");
    assert_eq!(
        server.records.open(&mut update),
        Ok(Opened::Handled {
            consumed: update.len()
        })
    );
    pass(
        &mut client.records,
        &mut server.records,
        b"the first of the next",
    );
    pass(&mut server.records, &mut client.records, b"back");
}

#[tokio::test]
async fn nothing_is_sealed_beyond_the_limit() {
    let (mut client, _) = pair().await;
    client.records.skip_sending(MAX_RECORDS);
    let mut buf = [0; HEAD + 1 + TAIL];
    assert_eq!(
        client.records.seal(&mut buf, 1),
        Err(RecordError::Exhausted)
    );
    assert_eq!(buf, [0; HEAD + 1 + TAIL]);
}

#[tokio::test]
async fn a_buffer_without_room_is_refused() {
    let (mut client, _) = pair().await;
    let mut small = [0; HEAD + 4 + TAIL];
    assert_eq!(client.records.seal(&mut small, 5), Err(RecordError::NoRoom));
    let mut large = vec![0; HEAD + MAX_PLAINTEXT + 1 + TAIL];
    let too_long = client.records.seal(&mut large, MAX_PLAINTEXT + 1);
    assert_eq!(too_long, Err(RecordError::NoRoom));
}
