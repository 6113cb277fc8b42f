use super::{Relay, RelayEnd};
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
    tokio::task::JoinHandle<(RelayEnd, crate::model::ByteCounts)>,
) {
    let (client, downstream) = pair().await;
    let (upstream, server) = pair().await;
    let task = tokio::spawn(async move {
        let mut relay = Relay::default();
        let end = relay.run(&downstream, &upstream).await;
        if end != RelayEnd::Finished {
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
    assert_eq!(end, RelayEnd::Finished);
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
            RelayEnd::ResetByClient
        } else {
            RelayEnd::ResetByUpstream
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

#[test]
fn an_idle_relay_is_small() {
    assert!(size_of::<Relay>() <= 160, "{}", size_of::<Relay>());
}

/// Repeatable bytes; no two neighbouring regions are alike.
fn data(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(len)
    .collect()
}

/// Writes in changing sizes, small ones between large ones, then FIN.
async fn send(stream: &mut (impl tokio::io::AsyncWrite + Unpin), data: &[u8]) {
    let sizes = [1, 300_000, 17, 64, 900_000, 4096, 2_500_000, 100];
    let (mut left, mut sizes) = (data, sizes.into_iter().cycle());
    while !left.is_empty() {
        let size = sizes.next().expect("cycle").min(left.len());
        stream.write_all(&left[..size]).await.expect("write");
        left = &left[size..];
    }
    stream.shutdown().await.expect("shutdown");
}

/// Sends until nothing more is taken.
async fn fill(stream: &TcpStream) -> usize {
    let (chunk, mut sent) = (vec![7; 1 << 20], 0);
    let still = std::time::Duration::from_millis(300);
    while tokio::time::timeout(still, stream.writable()).await.is_ok() {
        sent += stream.try_write(&chunk).unwrap_or(0);
    }
    sent
}

#[tokio::test]
async fn bulk_both_ways_arrives_whole_with_small_writes_between() {
    for seed in 1..6_u64 {
        let (client, server, task) = relayed().await;
        let (up, down) = (
            data(seed, 9_000_001 * seed as usize / 2),
            data(!seed, 7_123_457),
        );
        let (mut client_reads, mut client_writes) = client.into_split();
        let (mut server_reads, mut server_writes) = server.into_split();
        let (mut at_client, mut at_server) = (Vec::new(), Vec::new());
        let (_, _, a, b) = tokio::join!(
            send(&mut client_writes, &up),
            send(&mut server_writes, &down),
            client_reads.read_to_end(&mut at_client),
            server_reads.read_to_end(&mut at_server),
        );
        a.and(b).expect("read");
        assert!(at_server == up && at_client == down, "seed {seed}");
        let (end, bytes) = task.await.expect("relay");
        assert_eq!(end, RelayEnd::Finished);
        assert_eq!(bytes.sent, up.len() as u64);
        assert_eq!(bytes.received, down.len() as u64);
    }
}

#[tokio::test]
async fn a_stalled_reader_stops_the_sender_and_then_gets_everything() {
    let (mut client, mut server, task) = relayed().await;
    let sent = fill(&client).await;
    client.shutdown().await.expect("shutdown");
    let mut seen = Vec::new();
    server.read_to_end(&mut seen).await.expect("read");
    assert_eq!(seen.len(), sent);
    server.shutdown().await.expect("shutdown");
    let (end, bytes) = task.await.expect("relay");
    assert_eq!((end, bytes.sent), (RelayEnd::Finished, sent as u64));
}

#[tokio::test]
async fn a_reset_while_bytes_wait_in_the_pipe_is_a_reset() {
    let (client, server, task) = relayed().await;
    assert!(fill(&client).await > 2 << 20);
    reset_on_close(&server);
    drop(server);
    assert_eq!(task.await.expect("relay").0, RelayEnd::ResetByUpstream);
    let error = client
        .writable()
        .await
        .and_then(|()| client.try_write(&[1]));
    assert!(error.is_err());
}

#[tokio::test]
async fn more_stalled_bulk_streams_than_pipes_all_arrive() {
    let streams = super::pipe::MAX_LENT + 8;
    let mut open = Vec::new();
    for _ in 0..streams {
        open.push(relayed().await);
    }
    let mut sending = tokio::task::JoinSet::new();
    let (mut servers, len) = (Vec::new(), 12 << 20);
    for (client, server, task) in open {
        servers.push((server, task));
        sending.spawn(async move {
            let (mut client, chunk) = (client, vec![9; 1 << 20]);
            for _ in 0..len >> 20 {
                client.write_all(&chunk).await.expect("write");
            }
            client.shutdown().await.expect("shutdown");
            client
        });
    }
    // Nobody reads yet: all are stuck with what fits on the way.
    while let Ok(Some(_)) =
        tokio::time::timeout(std::time::Duration::from_secs(1), sending.join_next()).await
    {}
    for (mut server, task) in servers {
        let copied = tokio::io::copy(&mut server, &mut tokio::io::sink()).await;
        assert_eq!(copied.expect("read"), len);
        drop(server);
        assert_eq!(task.await.expect("relay").1.sent, len);
    }
}

#[tokio::test]
async fn an_interrupted_relay_goes_on_where_it_was() {
    let (mut client, downstream) = pair().await;
    let (upstream, mut server) = pair().await;
    let sent = data(3, 30 << 20);
    let relaying = async {
        let mut relay = Relay::default();
        let often = std::time::Duration::from_millis(1);
        loop {
            let run = relay.run(&downstream, &upstream);
            if let Ok(end) = tokio::time::timeout(often, run).await {
                return (end, relay.bytes().sent);
            }
        }
    };
    let reading = async {
        let mut seen = Vec::new();
        server.read_to_end(&mut seen).await.expect("read");
        server.shutdown().await.expect("shutdown");
        seen
    };
    let ((end, passed), (), seen) = tokio::join!(relaying, send(&mut client, &sent), reading);
    assert!(seen == sent);
    assert_eq!((end, passed), (RelayEnd::Finished, sent.len() as u64));
}
