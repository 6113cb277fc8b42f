//! Peers that keep to TLS, and send what only costs work.

use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::tunnel::frame::{HEADER, Kind, put_header};
use crate::tunnel::relay::FRAMES_PER_POLL;

/// Most that a connection has received and not looked at.
const READ: usize = broken::RECEIVE_BYTES;

fn frame_of(kind: Kind, generation: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    put_header(&mut bytes, kind, generation, payload.len());
    bytes.extend_from_slice(payload);
    bytes
}

/// What one end has sealed is what the other one has received.
fn hand_over(near: &mut Connection, far: &mut Connection) {
    far.received.extend(&near.unsent);
    near.unsent.clear();
}

/// Fills what the other end reads in one go with records of that plaintext.
fn flood(near: &mut Connection, far: &mut Connection, plaintext: &[u8]) -> usize {
    let record = plaintext.len() + crate::tls::HEAD + crate::tls::TAIL;
    let records = READ / record;
    for _ in 0..records {
        near.inject(plaintext);
    }
    hand_over(near, far);
    records
}

#[tokio::test(flavor = "local")]
async fn more_than_one_reset_between_two_streams_breaks_the_protocol() {
    let (mut near, mut far) = connections().await;
    let last = frame::GENERATIONS - 1;
    let reset = frame_of(Kind::Reset, last, &[0]);
    near.inject(&reset);
    near.inject(&open().encode(0));
    hand_over(&mut near, &mut far);
    let taken = far.accept().await.expect("one may have crossed");
    assert!(taken.is_some());
    let (mut near, mut far) = connections().await;
    flood(&mut near, &mut far, &reset);
    let error = far.accept().await.expect_err("an end");
    assert_eq!(error, ProtocolError::OutOfPlace);
    // Neither has a client more patience with what it has in its pool.
    let (mut near, mut far) = connections().await;
    near.inject(&reset);
    hand_over(&mut near, &mut far);
    assert!(far.is_idle_and_whole());
    near.inject(&reset);
    hand_over(&mut near, &mut far);
    assert!(!far.is_idle_and_whole());
}

#[tokio::test(flavor = "local")]
async fn a_peer_goes_away_once() {
    let (mut near, mut far) = connections().await;
    near.inject(&open().encode(0));
    for _ in 0..2 {
        near.inject(&frame_of(Kind::Goaway, 0, &[0, 0]));
    }
    hand_over(&mut near, &mut far);
    let mut relay = taken(&mut far).await;
    relay.accept();
    let (_app, agent) = sockets().await;
    let end = relay.run(&agent, &mut far).await;
    assert_eq!(end, StreamEnd::Protocol(ProtocolError::OutOfPlace));
}

/// Application bytes that each turn passes on, until all are.
async fn turns(plaintext: &[u8], data: usize) -> Vec<u64> {
    let (mut near, mut far) = connections().await;
    near.inject(&open().encode(0));
    hand_over(&mut near, &mut far);
    let mut relay = taken(&mut far).await;
    relay.accept();
    let all = (flood(&mut near, &mut far, plaintext) * data) as u64;
    let (mut app, agent) = sockets().await;
    let reading = tokio::task::spawn_local(async move { while app.read_u8().await.is_ok() {} });
    let (mut turns, mut passed) = (Vec::new(), 0);
    while passed < all {
        {
            let mut running = pin!(relay.run(&agent, &mut far));
            let mut context = Context::from_waker(Waker::noop());
            assert!(matches!(running.as_mut().poll(&mut context), Poll::Pending));
        }
        turns.push(relay.bytes().sent - passed);
        passed = relay.bytes().sent;
        tokio::task::yield_now().await;
    }
    reading.abort();
    turns
}

#[tokio::test(flavor = "local")]
async fn small_frames_let_the_neighbours_run_by_their_number() {
    let one = frame_of(Kind::Data, 0, &[7]);
    // Each in a record, and as many in a record as it holds.
    for (plaintext, most) in [
        (one.clone(), FRAMES_PER_POLL),
        (one.repeat(3_000), FRAMES_PER_POLL + 3_000),
    ] {
        let data = plaintext.len() / one.len();
        let turns = turns(&plaintext, data).await;
        assert!(turns.iter().all(|n| *n <= most as u64), "{turns:?}");
        assert!(turns.len() > 8, "{turns:?}");
    }
}
