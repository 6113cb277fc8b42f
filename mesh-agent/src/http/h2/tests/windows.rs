//! Windows: what nobody reads stalls no other, and a long way makes nothing slow.

use std::sync::atomic::Ordering;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::*;

#[tokio::test]
async fn downloads_that_nobody_reads_stall_no_other() {
    for hop in [Hop::Edge, Hop::Agents] {
        let mut pair = pair(hop).await;
        let mut stalled = Vec::new();
        for _ in 0..20 {
            let (mut answered, sender, exchange) = pair.exchange(true).await;
            let mut down = exchange.respond.answer(ok(), false).expect("sent");
            let flood = tokio::spawn(async move {
                let _cut = down.send(Bytes::from(vec![0; 4 << 20])).await;
            });
            stalled.push((
                answer(&mut answered).await.expect("an answer"),
                sender,
                flood,
            ));
        }
        let (mut answered, _sender, exchange) = pair.exchange(true).await;
        let mut down = exchange.respond.answer(ok(), false).expect("sent");
        let (_, mut body) = answer(&mut answered).await.expect("an answer");
        let send = async {
            down.send(Bytes::from(vec![1; 1 << 20]))
                .await
                .expect("taken");
            down.finish().expect("taken");
        };
        let ((), received) = tokio::join!(send, whole(&mut body));
        assert_eq!(received.expect("whole").len(), 1 << 20);
        for (_, _, flood) in stalled {
            flood.abort();
        }
    }
}

/// Both ends of a way of so much there and so much back, however wide.
fn long_way(one_way: Duration) -> (DuplexStream, DuplexStream) {
    const WIDE: usize = 64 * 1024 * 1024;
    let ((near, a), (b, far)) = (tokio::io::duplex(WIDE), tokio::io::duplex(WIDE));
    let (from_near, to_near) = tokio::io::split(a);
    let (from_far, to_far) = tokio::io::split(b);
    tokio::spawn(later(from_near, to_far, one_way));
    tokio::spawn(later(from_far, to_near, one_way));
    (near, far)
}

async fn later(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    one_way: Duration,
) {
    let (sender, mut waiting) = mpsc::channel(16 * 1024);
    let reading = async {
        let mut bytes = vec![0; 1024 * 1024];
        while let Ok(n) = from.read(&mut bytes).await
            && n > 0
        {
            let due = Instant::now() + one_way;
            if sender.send((due, bytes[..n].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writing = async {
        while let Some((due, bytes)) = waiting.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}

/// Of one stream of 100 MB.
async fn time_over(one_way: Duration, is_upload: bool) -> Duration {
    const ALL: usize = 100_000_000;
    let (near, far) = long_way(one_way);
    let mut pair = over([near, far], Hop::Agents, Default::default()).await;
    let (mut answered, mut up, came) = pair.exchange(false).await;
    let begin = Instant::now();
    let mut down = came.respond.answer(ok(), false).expect("sent");
    let (_, mut from_far) = answer(&mut answered).await.expect("an answer");
    let (sender, mut reader) = match is_upload {
        true => (&mut up, came.body),
        false => {
            std::mem::swap(&mut up, &mut down);
            (&mut up, std::mem::replace(&mut from_far, came.body))
        }
    };
    let piece = Bytes::from(vec![7; 64 * 1024]);
    let sending = async {
        let mut left = ALL;
        while left > 0 {
            let part = piece.slice(..left.min(piece.len()));
            left -= part.len();
            sender.send(part).await.expect("taken");
        }
        sender.finish().expect("taken");
    };
    let reading = async {
        let mut read = 0;
        while let Some(data) = reader.data().await {
            let data = data.expect("data");
            read += data.len();
            reader.written(data.len()).expect("room");
        }
        read
    };
    let ((), read) = tokio::join!(sending, reading);
    assert_eq!(read, ALL);
    begin.elapsed()
}

/// With the window that it begins with it would take 15 s.
#[tokio::test(start_paused = true)]
async fn a_long_way_makes_no_stream_slow_that_is_read() {
    const WAY: Duration = Duration::from_millis(10);
    for is_upload in [true, false] {
        let time = time_over(WAY, is_upload).await;
        // 15 s with the windows of the begin.
        assert!(time < Duration::from_secs(6), "{time:?}");
    }
}

/// One stream fills the connection's window and nobody reads it: its neighbour waits for
/// budget, and goes on when others have given it back, though nothing comes any more.
#[tokio::test(start_paused = true)]
async fn a_stream_that_waits_for_budget_goes_on_when_it_is_there_again() {
    const LIMIT: usize = 64 << 20;
    for hop in [Hop::Edge, Hop::Agents] {
        let (client, held) = Account::alone(LIMIT, LIMIT);
        let mut pair = pair_of(hop, Arc::new(client), Arc::default()).await;
        let (mut answered, _slow, exchange) = pair.exchange(true).await;
        let mut down = exchange.respond.answer(ok(), false).expect("sent");
        let unread = answer(&mut answered).await.expect("an answer");
        let flood = tokio::spawn(async move {
            let _cut = down.send(Bytes::from(vec![0; 4 << 20])).await;
        });
        let (mut answered, _sender, exchange) = pair.exchange(true).await;
        let mut down = exchange.respond.answer(ok(), false).expect("sent");
        let (_, mut body) = answer(&mut answered).await.expect("an answer");
        let mut send = tokio::spawn(async move {
            down.send(Bytes::from(vec![1; 1 << 20]))
                .await
                .expect("taken");
            down.finish().expect("taken");
        });
        let mut received = Box::pin(whole(&mut body));
        let waited = tokio::time::timeout(Duration::from_mins(1), &mut received).await;
        assert!(waited.is_err(), "no budget");
        assert!(!send.is_finished());
        held.store(0, Ordering::Relaxed);
        let received = tokio::time::timeout(Duration::from_secs(1), received).await;
        let received = received.expect("soon").expect("whole");
        assert_eq!(received.len(), 1 << 20);
        (&mut send).await.expect("sent");
        flood.abort();
        drop(unread);
    }
}
