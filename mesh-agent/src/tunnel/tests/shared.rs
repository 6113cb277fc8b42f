//! Streams of many clients on one connection, over a real socket and real TLS.

use std::future::{Future as _, poll_fn};
use std::io::ErrorKind;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::task::{JoinSet, spawn_local};

use super::super::shared::limits::{
    CHANNEL_FRAME, FLOODED, FRAMES_PER_POLL, LOOK, MAX_CHANNELS, MAX_WINDOW,
};
use super::support::shared_connections;
use super::*;

type Shared = Rc<SharedConnection>;

/// The client's agent: carries until the connection has ended.
async fn drive(near: Shared) {
    let _ends_with_this = near.driven();
    let opened = near.next().await;
    assert!(opened.is_none(), "a server opens no channels");
    near.flush().await;
}

/// The destination's agent: every stream of every channel goes to `backend`.
async fn serve_channels(far: Shared, backend: SocketAddr) {
    let _ends_with_this = far.driven();
    let mut channels = JoinSet::new();
    while let Some(channel) = far.next().await {
        channels.spawn_local(serve(Connection::on(channel), backend));
    }
    far.farewell().await;
    while let Some(served) = channels.join_next().await {
        assert_eq!(served.expect("no panic"), Ok(()));
    }
    assert_eq!(far.error(), None);
}

/// Both ends, carrying.
async fn carrying(backend: SocketAddr) -> (Shared, [tokio::task::JoinHandle<()>; 2]) {
    let (near, far) = shared_connections().await;
    let driving = spawn_local(drive(near.clone()));
    let serving = spawn_local(serve_channels(far, backend));
    (near, [driving, serving])
}

async fn ended(tasks: [tokio::task::JoinHandle<()>; 2]) {
    for task in tasks {
        let ended = tokio::time::timeout(2 * DEADLINE, task).await;
        ended.expect("it ends").expect("no panic");
    }
}

/// Streams one after the other on a channel; the number of those that were whole.
async fn streams(near: Shared, seed: u64, count: u64, scripts: &'static [Script]) -> usize {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut connection = Connection::on(near.open().expect("room"));
    let mut whole = 0;
    for i in 0..count {
        let script = scripts[rng.random_range(0..scripts.len())];
        let most = if i % 3 == 0 { 200_000 } else { 2_000 };
        let (up, down) = (rng.random_range(0..most), rng.random_range(0..most));
        let (app, agent) = sockets().await;
        let (_, (end, reusable)) = tokio::join!(
            client(app, (seed << 16) | i, up, down, script),
            carry(&mut connection, agent)
        );
        if script == Script::Whole {
            assert_eq!(end, StreamEnd::Finished, "stream {i} of client {seed}");
            whole += 1;
        }
        if !reusable {
            connection = Connection::on(near.open().expect("room"));
        }
    }
    whole
}

#[tokio::test(flavor = "local")]
async fn many_channels_at_once_carry_whole_streams_each_its_own() {
    let (near, tasks) = carrying(backend().await).await;
    let mut clients = JoinSet::new();
    for seed in 0..50 {
        clients.spawn_local(streams(near.clone(), seed, 6, &[Script::Whole]));
    }
    let whole: usize = clients.join_all().await.into_iter().sum();
    assert_eq!(whole, 300);
    assert_eq!(near.open_channels(), 0);
    near.close_when_empty();
    ended(tasks).await;
    assert!(near.is_empty());
}

/// Resets of applications, from both sides, between whole streams of others.
#[tokio::test(flavor = "local")]
async fn a_stream_that_is_reset_ends_no_other() {
    const SCRIPTS: &[Script] = &[
        Script::Whole,
        Script::Whole,
        Script::ClientResets,
        Script::ServerResets,
    ];
    let (near, tasks) = carrying(backend().await).await;
    let mut clients = JoinSet::new();
    for seed in 100..120 {
        clients.spawn_local(streams(near.clone(), seed, 12, SCRIPTS));
    }
    let whole: usize = clients.join_all().await.into_iter().sum();
    assert!(whole > 60, "{whole}");
    near.close_when_empty();
    ended(tasks).await;
}

/// Streams that the peer has accepted, each on a channel, with its application.
async fn accepted(near: &Shared, count: usize) -> Vec<(TcpStream, TcpStream, Connection, Relay)> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let (app, agent) = sockets().await;
        let mut connection = Connection::on(near.open().expect("room"));
        let mut relay = connection.open(&open());
        let end = relay.advance(&agent, &mut connection).await;
        assert!(end.is_none() && relay.is_accepted(), "{end:?}");
        streams.push((app, agent, connection, relay));
    }
    streams
}

/// A backend that takes connections and says nothing.
async fn silent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    spawn_local(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    });
    address
}

#[tokio::test(flavor = "local")]
async fn a_peers_close_ends_the_streams_of_all_channels() {
    let (near, [driving, serving]) = carrying(silent().await).await;
    let streams = accepted(&near, 9).await;
    serving.abort();
    for (_app, agent, mut connection, mut relay) in streams {
        let end = tokio::time::timeout(DEADLINE, relay.run(&agent, &mut connection)).await;
        assert_eq!(end.expect("it hears of it"), StreamEnd::Lost);
    }
    driving.await.expect("it ends by itself");
    assert!(near.open().is_none());
}

#[tokio::test(flavor = "local")]
async fn an_end_that_nobody_has_read_yet_is_seen_before_a_channel_is_opened() {
    let (near, far) = shared_connections().await;
    drop(near.open().expect("it is new"));
    near.heard_long_ago();
    drop(near.open().expect("it is whole"));
    drop(far);
    near.tcp().readable().await.expect("readable");
    assert!(near.open().is_none());
}

#[tokio::test(flavor = "local")]
async fn a_server_that_goes_away_loses_nothing_of_what_is_under_way() {
    let (near, far) = shared_connections().await;
    let driving = spawn_local(drive(near.clone()));
    let serving = spawn_local(serve_channels(far.clone(), backend().await));
    let streams = accepted(&near, 20).await;
    far.close_when_empty();
    let mut clients = JoinSet::new();
    for (seed, (app, agent, mut connection, mut relay)) in (0..).zip(streams) {
        clients.spawn_local(async move {
            let carried = async {
                let end = relay.run(&agent, &mut connection).await;
                drop((agent, connection));
                end
            };
            let request = client(app, seed, 100_000, 100_000, Script::Whole);
            tokio::join!(request, carried).1
        });
    }
    for end in clients.join_all().await {
        assert_eq!(end, StreamEnd::Finished);
    }
    ended([driving, serving]).await;
    assert!(near.open().is_none() && near.is_closing());
    assert!(near.is_empty() && far.is_empty());
    let reset = near.tcp().take_error().expect("a socket");
    assert!(reset.is_none(), "{reset:?}");
}

/// A client's request on a channel that is refused is answered elsewhere, whole.
async fn is_not_taken(near: &Shared) {
    let (app, agent) = sockets().await;
    let request = tokio::spawn(client(app, 2, 3_000, 3_000, Script::Whole));
    let mut connection = Connection::on(near.open().expect("room"));
    let mut relay = connection.open(&open());
    let end = tokio::time::timeout(DEADLINE, relay.run(&agent, &mut connection)).await;
    assert_eq!(end.expect("an answer"), StreamEnd::NotTaken);
    let (mut second, far) = connections().await;
    spawn_local(serve(far, backend().await));
    relay.replay_on(&mut second, &open());
    assert_eq!(relay.run(&agent, &mut second).await, StreamEnd::Finished);
    drop(agent);
    request.await.expect("the answer is whole");
}

#[tokio::test(flavor = "local")]
async fn a_channel_that_crosses_the_goodbye_was_not_taken_and_goes_elsewhere() {
    let (near, far) = shared_connections().await;
    let silent = silent().await;
    // Opened before the goodbye is heard, used behind it.
    far.close_when_empty();
    let serving = spawn_local(serve_channels(far, silent));
    let driving = async {
        // The client hears of nothing before it has said something.
        while near.is_quiet() {
            tokio::task::yield_now().await;
        }
        drive(near.clone()).await;
    };
    tokio::join!(is_not_taken(&near), driving);
    serving.await.expect("no panic");
}

/// There is nobody who would have to refuse it.
#[tokio::test(flavor = "local")]
async fn a_channel_that_is_used_behind_the_goodbye_was_not_taken() {
    let (near, far) = shared_connections().await;
    let mut connection = Connection::on(near.open().expect("room"));
    far.close_when_empty();
    far.flush().await;
    let mut cx = Context::from_waker(Waker::noop());
    while !near.is_closing() {
        assert!(pin!(near.next()).poll(&mut cx).is_pending());
        tokio::task::yield_now().await;
    }
    let (mut app, agent) = sockets().await;
    app.write_all(b"hello").await.expect("a request");
    let mut relay = connection.open(&open());
    let end = tokio::time::timeout(DEADLINE, relay.run(&agent, &mut connection)).await;
    assert_eq!(end.expect("it is known here"), StreamEnd::NotTaken);
    assert!(near.is_quiet());
}

/// With TLS 1.3 a client learns only so that its certificate is none here.
#[tokio::test(flavor = "local")]
async fn a_servers_alert_ends_the_streams_of_all_channels_as_refused() {
    let (near, far) = shared_connections().await;
    let driving = spawn_local(drive(near.clone()));
    let mut streams = Vec::new();
    for _ in 0..3 {
        let (mut app, agent) = sockets().await;
        app.write_all(b"hello").await.expect("a request");
        let mut connection = Connection::on(near.open().expect("room"));
        let mut relay = connection.open(&open());
        streams.push(spawn_local(async move {
            let end = relay.run(&agent, &mut connection).await;
            drop(app);
            end
        }));
    }
    let mut taken = Vec::new();
    for _ in 0..3 {
        taken.push(far.next().await.expect("a channel"));
    }
    const UNKNOWN_CA: u8 = 48;
    far.say_alert(UNKNOWN_CA);
    far.flush().await;
    for stream in streams {
        assert_eq!(stream.await.expect("no panic"), StreamEnd::Refused);
    }
    driving.await.expect("it ends by itself");
    assert!(near.is_refused() && near.error().is_none());
}

#[tokio::test(flavor = "local")]
async fn a_channel_beyond_the_bound_was_not_taken_and_goes_elsewhere() {
    let (near, far) = shared_connections().await;
    let driving = spawn_local(drive(near.clone()));
    let taking = spawn_local(async move {
        let mut channels = Vec::new();
        while let Some(channel) = far.next().await {
            channels.push(channel);
        }
        channels.len()
    });
    // The client has left them all, and the server has not.
    for _ in 0..MAX_CHANNELS {
        let channel = near.open().expect("room");
        channel.try_write(b"a").expect("room");
    }
    is_not_taken(&near).await;
    near.close_when_empty();
    driving.await.expect("no panic");
    assert_eq!(taking.await.expect("no panic"), MAX_CHANNELS);
}

#[tokio::test(flavor = "local")]
async fn a_reader_that_stands_still_holds_up_no_other_channel() {
    let (near, tasks) = carrying(backend().await).await;
    let stuck = near.open().expect("room");
    // A stream whose server sends much more than its window, to a client that reads none.
    let (mut app, agent) = sockets().await;
    let mut connection = Connection::on(stuck);
    let mut relay = connection.open(&open());
    let request = terms(5, 0, 4 << 20, Script::Whole);
    app.write_all(&request).await.expect("a request");
    let end = relay.advance(&agent, &mut connection).await;
    assert!(end.is_none() && relay.is_accepted());
    // From here on nobody reads the channel.
    assert_eq!(streams(near.clone(), 1, 9, &[Script::Whole]).await, 9);
    let held = near.held();
    let most = MAX_WINDOW as usize;
    assert!(held > 0 && held <= 2 * most, "{held}");
    let rest = tokio::spawn(async move {
        app.shutdown().await.expect("an end");
        let mut got = Vec::new();
        app.read_to_end(&mut got).await.expect("an answer");
        assert_eq!(got, pattern(!5, 0, 4 << 20));
    });
    assert_eq!(
        relay.run(&agent, &mut connection).await,
        StreamEnd::Finished
    );
    drop((agent, connection));
    rest.await.expect("all of it");
    near.close_when_empty();
    ended(tasks).await;
}

/// A peer whose plaintext is anything, and the server's end.
async fn hostile() -> (Connection, Shared) {
    let (client, (tcp, session)) = sessions(PeerProtocol::Shared1).await;
    let far = SharedConnection::server(tcp, session, until(), Arc::default());
    (alone(client), far)
}

#[tokio::test(flavor = "local")]
async fn many_small_frames_let_the_neighbours_run_by_their_number() {
    const SMALL: usize = 1_000;
    let one = [1, 0, 0, 1, 0, 0, 0, 1, 7];
    assert_eq!(one.len(), CHANNEL_FRAME + 1);
    for (in_a_record, most) in [(1, FRAMES_PER_POLL), (SMALL, FRAMES_PER_POLL + SMALL)] {
        let (mut near, far) = hostile().await;
        let all = 6 * SMALL;
        for _ in 0..all / in_a_record {
            near.inject(&one.repeat(in_a_record));
        }
        far.bring(&near.unsent);
        near.unsent.clear();
        let turn = || {
            let mut context = Context::from_waker(Waker::noop());
            let next = std::pin::pin!(far.next());
            next.poll(&mut context)
        };
        let mut channel = None;
        let mut turns = Vec::new();
        let mut came = 0;
        while came < all {
            match turn() {
                Poll::Ready(opened) => channel = opened.or(channel),
                Poll::Pending => {}
            }
            let channel = channel.as_ref().expect("the first frame opens it");
            let n = channel.try_read(&mut [0; 64 * 1024]).unwrap_or(0);
            turns.push(n);
            came += n;
        }
        assert!(turns.iter().all(|n| *n <= most), "{turns:?}");
        assert!(turns.len() > 2, "{turns:?}");
    }
}

#[tokio::test(flavor = "local")]
async fn a_peer_that_breaks_the_protocol_ends_all_channels_and_it_is_told_how() {
    let (mut near, far) = hostile().await;
    near.inject(&[1, 0, 0, 1, 0, 0, 0, 1, 7]);
    poll_fn(|cx| near.poll_flush(cx)).await.expect("sent");
    let channel = far.next().await.expect("a channel");
    near.inject(&[4, 0, 0, 0, 0, 0, 0, 0]);
    poll_fn(|cx| near.poll_flush(cx)).await.expect("sent");
    assert!(far.next().await.is_none());
    assert_eq!(far.error(), Some(ProtocolError::OutOfPlace));
    assert_eq!(channel.try_read(&mut [0; 9]).expect("what came before"), 1);
    assert_eq!(channel.try_read(&mut [0; 9]).expect("the end"), 0);
    let refused = channel.try_write(b"a").expect_err("nobody takes it");
    assert_eq!(refused.kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test(flavor = "local")]
async fn a_peer_that_reads_none_of_its_answers_is_not_read_either() {
    let (mut near, far) = hostile().await;
    let socket = socket2::SockRef::from(far.tcp());
    socket.set_send_buffer_size(16 * 1024).expect("a small one");
    near.inject(&[1, 0, 0, 1, 0, 0, 0, 1, 7]);
    poll_fn(|cx| near.poll_flush(cx)).await.expect("sent");
    let _open = far.next().await.expect("a channel");
    far.close_when_empty();
    let opens = |from: u32| -> Vec<u8> {
        let one = |id: u32| [&[1, 0, 0, 1][..], &id.to_be_bytes(), &[7]].concat();
        (from..from + 1_000).flat_map(one).collect()
    };
    let mut kept = 0;
    let mut turns = 0;
    for from in (2..400_000).step_by(1_000) {
        near.inject(&opens(from));
        far.bring(&near.unsent);
        near.unsent.clear();
        let mut context = Context::from_waker(Waker::noop());
        let next = std::pin::pin!(far.next());
        assert!(next.poll(&mut context).is_pending());
        kept = far.unsealed();
        turns += 1;
        if kept > FLOODED {
            break;
        }
    }
    assert!(turns < 400, "it fills");
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..9 {
        near.inject(&opens(1_000_000));
        far.bring(&near.unsent);
        near.unsent.clear();
        let next = std::pin::pin!(far.next());
        assert!(next.poll(&mut context).is_pending());
    }
    assert_eq!(far.unsealed(), kept, "nothing more is read");
    assert!(kept < 2 * FLOODED, "{kept}");
}

/// A socket that takes nothing more may have brought answers, or a word of what was not taken.
#[tokio::test(flavor = "local")]
async fn what_came_before_a_failure_is_read_where_a_write_finds_the_failure() {
    let (near, far) = shared_connections().await;
    let mut cx = Context::from_waker(Waker::noop());
    let channel = near.open().expect("room");
    assert_eq!(channel.try_write(b"asked").expect("room"), 5);
    assert!(pin!(near.next()).poll(&mut cx).is_pending());
    let taken = far.next().await.expect("a channel");
    assert_eq!(taken.try_write(b"answer").expect("room"), 6);
    assert!(pin!(far.next()).poll(&mut cx).is_pending());
    reset_on_close(far.tcp());
    drop((taken, far));
    assert_eq!(channel.try_write(b"more").expect("not known yet"), 4);
    assert!(near.next().await.is_none());
    let mut read = [0; 16];
    assert_eq!(channel.try_read(&mut read).expect("an answer"), 6);
    assert_eq!(&read[..6], b"answer");
    assert_eq!(channel.try_read(&mut read).expect("its end"), 0);
}

/// Channels that have something to say, the last of it in vain: its peer's kernel takes no more.
fn stuck(near: &Shared) -> Vec<Channel> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut channels = Vec::new();
    while near.unsealed() == 0 {
        let channel = near.open().expect("room");
        let said = channel.try_write(&[7; SAID]).expect("room");
        assert_eq!(said, SAID);
        channels.push(channel);
        assert!(pin!(near.next()).poll(&mut cx).is_pending());
    }
    channels
}

const SAID: usize = 8 * 1024;

#[tokio::test(flavor = "local")]
async fn what_is_small_waits_behind_no_megabytes_in_the_kernel() {
    let (near, _far) = shared_connections().await;
    let waiting = stuck(&near).len() * SAID;
    assert!(waiting < 512 * 1024, "{waiting} bytes");
}

/// Its streams are told that they are lost. One that nobody looks at keeps its channel.
#[tokio::test(flavor = "local")]
async fn nothing_more_is_sent_of_one_that_is_given_up() {
    for is_kept in [false, true] {
        let (near, far) = shared_connections().await;
        let mut channels = stuck(&near);
        near.flood();
        tokio::time::pause();
        tokio::select! {
            never = near.look_after(DEADLINE) => match never {},
            () = tokio::time::sleep(3 * LOOK) => {}
        }
        tokio::time::resume();
        assert!(near.open().is_none());
        channels.truncate(usize::from(is_kept));
        drop(near);
        let end = async {
            loop {
                far.tcp().readable().await.expect("a socket");
                match far.tcp().try_read(&mut [0; 64 * 1024]) {
                    Ok(0) => break None,
                    Err(e) if e.kind() != ErrorKind::WouldBlock => break Some(e.kind()),
                    Ok(_) | Err(_) => {}
                }
            }
        };
        let end = tokio::time::timeout(DEADLINE, end).await.expect("an end");
        assert_eq!(end, Some(ErrorKind::ConnectionReset), "kept: {is_kept}");
    }
}
