//! Streams that are begun again, and those that must not be.

use super::*;

#[tokio::test(flavor = "local")]
async fn a_stream_that_the_peer_did_not_take_is_sent_once_more_elsewhere() {
    let (mut near, mut far) = connections().await;
    let backend = backend().await;
    // One stream, then goodbye.
    let leaving = tokio::task::spawn_local(async move {
        let mut relay = taken(&mut far).await;
        let application = TcpStream::connect(backend).await.expect("the backend");
        relay.accept();
        assert_eq!(relay.run(&application, &mut far).await, StreamEnd::Finished);
        far.go_away().await;
    });
    let (app, agent) = sockets().await;
    let (_, (end, _)) = tokio::join!(
        client(app, 1, 10, 10, Script::Whole),
        carry(&mut near, agent)
    );
    assert_eq!(end, StreamEnd::Finished);

    let (app, agent) = sockets().await;
    let request = tokio::spawn(client(app, 2, 3_000, 3_000, Script::Whole));
    let mut relay = near.open(&open());
    assert_eq!(relay.run(&agent, &mut near).await, StreamEnd::NotTaken);
    near.hang_up();
    leaving.await.expect("no panic");
    finish_elsewhere(relay, agent, backend).await;
    request.await.expect("the answer is whole");
}

async fn finish_elsewhere(mut relay: Relay, agent: TcpStream, backend: SocketAddr) {
    let (mut second, far) = connections().await;
    tokio::task::spawn_local(serve(far, backend));
    relay.replay_on(&mut second, &open());
    assert_eq!(relay.run(&agent, &mut second).await, StreamEnd::Finished);
}

/// Runs the stream until `bytes` of it lie unread at the server.
async fn run_until_unread(
    relay: &mut Relay,
    agent: &TcpStream,
    near: &mut Connection,
    far: &Connection,
    bytes: usize,
) {
    let mut seen = vec![0; bytes];
    let unread = async {
        while far
            .tcp()
            .expect("a socket")
            .peek(&mut seen)
            .await
            .expect("bytes")
            < bytes
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        end = relay.run(agent, near) => panic!("{end:?}"),
        done = tokio::time::timeout(DEADLINE, unread) => done.expect("they arrive"),
    }
}

#[tokio::test(flavor = "local")]
async fn an_open_that_crosses_the_servers_goodbye_is_sent_again_elsewhere() {
    let (mut near, far) = connections().await;
    let (app, agent) = sockets().await;
    let request = tokio::spawn(client(app, 2, 3_000, 3_000, Script::Whole));
    let mut relay = near.open(&open());
    run_until_unread(&mut relay, &agent, &mut near, &far, 1).await;
    let leaving = tokio::task::spawn_local(far.go_away());
    assert_eq!(relay.run(&agent, &mut near).await, StreamEnd::NotTaken);
    near.hang_up();
    tokio::time::timeout(DEADLINE, leaving)
        .await
        .expect("the server closes behind its client")
        .expect("no panic");
    let reset = near
        .tcp()
        .expect("a socket")
        .take_error()
        .expect("a socket");
    assert!(reset.is_none(), "{reset:?}");
    finish_elsewhere(relay, agent, backend().await).await;
    request.await.expect("the answer is whole");
}

/// The RST of a server that closes over an unread OPEN: what it said before counts.
#[tokio::test(flavor = "local")]
async fn a_goaway_is_heard_though_the_next_write_fails() {
    let (mut near, mut far) = connections().await;
    let (mut app, agent) = sockets().await;
    app.write_all(b"one ").await.expect("a write");
    let mut relay = near.open(&open());
    run_until_unread(&mut relay, &agent, &mut near, &far, 1).await;
    let last = far.generation;
    far.queue(frame::Kind::Goaway, last, &[last, 0])
        .expect("sealed");
    std::future::poll_fn(|cx| far.poll_flush(cx))
        .await
        .expect("sent");
    drop(far);
    app.write_all(b"two").await.expect("a write");
    agent.readable().await.expect("readable");
    assert_eq!(relay.run(&agent, &mut near).await, StreamEnd::NotTaken);
    let (mut second, mut far) = connections().await;
    relay.replay_on(&mut second, &open());
    let taken = tokio::select! {
        end = relay.run(&agent, &mut second) => panic!("{end:?}"),
        taken = far.accept() => taken,
    };
    let mut taken = taken.expect("a stream").expect("a stream").relay;
    let (mut reader, application) = sockets().await;
    taken.accept();
    let mut got = [0; 7];
    tokio::select! {
        end = taken.run(&application, &mut far) => panic!("{end:?}"),
        read = reader.read_exact(&mut got) => assert_eq!(read.expect("all of it"), 7),
    }
    assert_eq!(&got, b"one two");
}

#[tokio::test(flavor = "local")]
async fn a_stream_is_begun_again_a_few_times_and_no_more() {
    let (mut app, agent) = sockets().await;
    app.write_all(b"hello").await.expect("a write");
    let mut relay: Option<Relay> = None;
    for attempt in 0..=relay::MAX_REPLAYS {
        let (mut near, far) = connections().await;
        let mut stream = match relay.take() {
            None => near.open(&open()),
            Some(mut before) => {
                before.replay_on(&mut near, &open());
                before
            }
        };
        run_until_unread(&mut stream, &agent, &mut near, &far, 1).await;
        tokio::task::spawn_local(far.go_away());
        let expected = match attempt {
            relay::MAX_REPLAYS => StreamEnd::Lost,
            _ => StreamEnd::NotTaken,
        };
        assert_eq!(stream.run(&agent, &mut near).await, expected);
        relay = Some(stream);
    }
}

#[tokio::test(flavor = "local")]
async fn what_a_new_connection_sent_beyond_the_credit_is_not_replayed() {
    let (mut near, far) = connections().await;
    let (mut app, agent) = sockets().await;
    let much = vec![7; relay::CREDIT_BYTES + 1024];
    app.write_all(&much).await.expect("a write");
    let mut relay = near.open(&open());
    run_until_unread(&mut relay, &agent, &mut near, &far, much.len()).await;
    tokio::task::spawn_local(far.go_away());
    assert_eq!(relay.run(&agent, &mut near).await, StreamEnd::Lost);
}

#[tokio::test(flavor = "local")]
async fn a_connection_that_breaks_in_a_stream_is_never_replayed() {
    let (mut near, mut far) = connections().await;
    let breaking = tokio::task::spawn_local(async move {
        let taken = far.accept().await.expect("a stream").expect("a stream");
        drop((taken, far));
    });
    let (mut app, agent) = sockets().await;
    app.write_all(b"pay 5").await.expect("a write");
    let mut relay = near.open(&open());
    assert_eq!(relay.run(&agent, &mut near).await, StreamEnd::Lost);
    breaking.await.expect("no panic");
}
