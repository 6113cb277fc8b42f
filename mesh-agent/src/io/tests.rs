use super::{End, Relay};
use crate::sys::socket::reset_on_close;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (near, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.expect("connect"), accepted.expect("accept").0)
}

/// A client and a server with a relay between; the task gives how it ended.
async fn relayed() -> (
    TcpStream,
    TcpStream,
    tokio::task::JoinHandle<(End, crate::model::ByteCounts)>,
) {
    let (client, downstream) = pair().await;
    let (upstream, server) = pair().await;
    let task = tokio::spawn(async move {
        let mut relay = Relay::default();
        let end = relay.run(&downstream, &upstream, None).await;
        if end != End::Finished {
            reset_on_close(&downstream);
            reset_on_close(&upstream);
        }
        (end, relay.bytes())
    });
    (client, server, task)
}

#[tokio::test]
async fn each_side_may_finish_while_the_other_goes_on() {
    let (mut client, mut server, task) = relayed().await;
    client.write_all(b"question").await.expect("write");
    client.shutdown().await.expect("shutdown");
    let mut question = Vec::new();
    server.read_to_end(&mut question).await.expect("read");
    assert_eq!(question, b"question");
    server.write_all(b"answer").await.expect("write");
    server.shutdown().await.expect("shutdown");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("read");
    assert_eq!(answer, b"answer");
    let (end, bytes) = task.await.expect("relay");
    assert_eq!(end, End::Finished);
    assert_eq!((bytes.sent, bytes.received), (8, 6));
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset_both_ways() {
    for by_client in [true, false] {
        let (client, server, task) = relayed().await;
        let (breaker, mut victim) = if by_client {
            (client, server)
        } else {
            (server, client)
        };
        reset_on_close(&breaker);
        drop(breaker);
        let error = victim.read(&mut [0; 8]).await.expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let expected = if by_client {
            End::ResetByClient
        } else {
            End::ResetByUpstream
        };
        assert_eq!(task.await.expect("relay").0, expected);
    }
}

#[tokio::test]
async fn many_bytes_arrive_unchanged_and_in_order() {
    const TOTAL: usize = 20 << 20;
    let (mut client, mut server, task) = relayed().await;
    let data: Vec<u8> = (0..TOTAL).map(|i| (i / 7 + i / 4093) as u8).collect();
    let sent = data.clone();
    let writer = tokio::spawn(async move {
        for chunk in sent.chunks(77_777) {
            client.write_all(chunk).await.expect("write");
        }
        client.shutdown().await.expect("shutdown");
        client
    });
    let mut seen = Vec::new();
    server.read_to_end(&mut seen).await.expect("read");
    assert!(seen == data);
    drop(server);
    drop(writer.await.expect("writer"));
    assert_eq!(task.await.expect("relay").1.sent, TOTAL as u64);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_after_its_time() {
    let (_client, downstream) = pair().await;
    let (upstream, _server) = pair().await;
    let mut relay = Relay::default();
    let end = relay
        .run(
            &downstream,
            &upstream,
            Some(std::time::Duration::from_secs(60)),
        )
        .await;
    assert_eq!(end, End::IdleTimeout);
}

#[tokio::test(start_paused = true)]
async fn asking_often_for_progress_does_not_put_off_the_idle_end() {
    let (_client, downstream) = pair().await;
    let (upstream, _server) = pair().await;
    let mut relay = Relay::default();
    let (often, idle) = (
        std::time::Duration::from_secs(10),
        std::time::Duration::from_secs(60),
    );
    for _ in 0..6 {
        let run = relay.run(&downstream, &upstream, Some(idle));
        if let Ok(end) = tokio::time::timeout(often, run).await {
            assert_eq!(end, End::IdleTimeout);
            return;
        }
    }
    panic!("still open after its idle time");
}

#[test]
fn an_idle_relay_is_small() {
    assert!(size_of::<Relay>() <= 160, "{}", size_of::<Relay>());
}
