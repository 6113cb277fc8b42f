//! A stream that is read and written as bytes, without a socket of an application.

use std::future::poll_fn;
use std::io::IoSlice;
use std::task::{Context, Waker};

use super::*;

/// One end: a stream and the connection that carries it.
struct End {
    relay: Relay,
    connection: Connection,
}

impl End {
    /// A client's stream.
    fn over(mut connection: Connection) -> Self {
        let relay = connection.open(&open());
        Self { relay, connection }
    }

    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, StreamEnd> {
        poll_fn(|cx| self.relay.poll_read(buffer, &mut self.connection, cx)).await
    }

    async fn read_exact(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut at = 0;
        while at < len {
            at += self.read(&mut bytes[at..]).await.expect("bytes");
        }
        bytes
    }

    /// As an exchange does it: what waits for the ACCEPT is tried again after a read.
    async fn write(&mut self, bytes: &[u8]) -> Result<(), StreamEnd> {
        let (head, tail) = bytes.split_at(bytes.len() / 2);
        let (mut at, parts) = (0, [head, tail]);
        while at < bytes.len() {
            let skip = at.min(parts[0].len());
            let left = [
                IoSlice::new(&parts[0][skip..]),
                IoSlice::new(&parts[1][at - skip..]),
            ];
            at += poll_fn(|cx| self.relay.poll_write(&left, &mut self.connection, cx)).await?;
        }
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), StreamEnd> {
        poll_fn(|cx| self.relay.poll_flush(&mut self.connection, cx)).await
    }

    async fn finish(&mut self) -> Result<(), StreamEnd> {
        poll_fn(|cx| self.relay.poll_finish(&mut self.connection, cx)).await
    }
}

/// Both ends of a stream whose first bytes have come.
async fn stream() -> (End, End) {
    let (connection, far) = connections().await;
    begun(connection, far).await
}

async fn begun(connection: Connection, mut far: Connection) -> (End, End) {
    let mut near = End::over(connection);
    near.write(b"hello").await.expect("written");
    let relay = taken(&mut far).await;
    let mut far = End {
        relay,
        connection: far,
    };
    assert_eq!(far.read_exact(5).await, b"hello");
    (near, far)
}

#[tokio::test(flavor = "local")]
async fn bytes_arrive_as_they_were_written_and_fin_is_behind_them() {
    let (mut near, mut far) = stream().await;
    far.relay.accept();
    let len = 3 << 20;
    for near_sends in [true, false] {
        let (from, to) = match near_sends {
            true => (&mut near, &mut far),
            false => (&mut far, &mut near),
        };
        let writing = async {
            from.write(&pattern(1, 0, len)).await.expect("written");
            from.finish().await.expect("ended");
        };
        let reading = async {
            assert!(to.read_exact(len).await == pattern(1, 0, len));
            assert_eq!(to.read(&mut [0; 10]).await, Ok(0));
            assert_eq!(to.read(&mut [0; 10]).await, Ok(0), "it stays so");
        };
        tokio::join!(writing, reading);
    }
    assert!(near.relay.is_over(&near.connection) && far.relay.is_over(&far.connection));
    let (near, far) = (near.connection, far.connection);
    let _next_stream = begun(near, far).await;
}

#[tokio::test(flavor = "local")]
async fn an_accept_goes_with_the_first_bytes_back_or_alone_where_it_is_due() {
    let (mut near, mut far) = stream().await;
    far.relay.accept();
    far.flush().await.expect("nothing to send");
    let mut byte = [0];
    {
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(
            near.relay
                .poll_read(&mut byte, &mut near.connection, cx)
                .is_pending()
        );
    }
    assert!(!near.relay.is_accepted());
    far.relay.accept_is_due();
    far.flush().await.expect("sent");
    let told = poll_fn(|cx| {
        let read = near.relay.poll_read(&mut byte, &mut near.connection, cx);
        assert!(read.is_pending());
        match near.relay.is_accepted() {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    });
    tokio::time::timeout(DEADLINE, told).await.expect("told");
}

#[tokio::test(flavor = "local")]
async fn a_reader_that_takes_little_holds_up_the_writer_and_holds_one_read() {
    let (mut near, mut far) = stream().await;
    far.relay.accept();
    far.write(b"x").await.expect("accepted");
    near.read_exact(1).await;
    let sent = pattern(2, 0, 8 << 20);
    let mut at = 0;
    let cx = &mut Context::from_waker(Waker::noop());
    let mut idle = 0;
    // Nobody reads: it ends by the sockets' buffers.
    while idle < 50 {
        let part = [IoSlice::new(&sent[at..])];
        match near.relay.poll_write(&part, &mut near.connection, cx) {
            std::task::Poll::Ready(n) => (at, idle) = (at + n.expect("taken"), 0),
            std::task::Poll::Pending => {
                idle += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    assert!(at < sent.len(), "all {at} were taken");
    assert_eq!(far.read_exact(10).await, pattern(2, 0, 10));
    let held = far.relay.rest_capacity();
    assert!(held <= broken::RECEIVE_BYTES, "{held} bytes");
    let rest = far.read_exact(at - 10);
    let (rest, flushed) = tokio::join!(rest, near.flush());
    flushed.expect("sent");
    assert!(rest == pattern(2, 10, at - 10));
}

#[tokio::test(flavor = "local")]
async fn a_reset_says_why_after_the_bytes_before_it() {
    let (mut near, mut far) = stream().await;
    far.relay.accept();
    far.write(b"half").await.expect("written");
    let End { relay, connection } = &mut far;
    let resetting = relay.finish_reset(connection, ResetReason::Aborted);
    let reading = async {
        assert_eq!(near.read_exact(4).await, b"half");
        let end = Err(StreamEnd::ResetByPeer(ResetReason::Aborted));
        assert_eq!(near.read(&mut [0; 4]).await, end);
        assert_eq!(near.read(&mut [0; 4]).await, end, "it stays so");
        let End { relay, connection } = &mut near;
        relay.finish_reset(connection, ResetReason::Answer).await
    };
    assert_eq!(tokio::join!(resetting, reading), (true, true));
}

#[tokio::test(flavor = "local")]
async fn what_came_before_a_farewell_is_read_though_both_come_at_once() {
    for ends in [true, false] {
        let (mut near, mut far) = stream().await;
        far.relay.accept();
        far.write(b"answer").await.expect("written");
        if ends {
            far.finish().await.expect("ended");
        }
        far.connection.go_away().await;
        assert_eq!(near.read_exact(6).await, b"answer", "{ends}");
        let end = near.read(&mut [0; 4]).await;
        assert_eq!(end.is_ok(), ends, "{end:?}");
    }
}

/// A server may have its say, and leave what the client still sends: so may its agent.
#[tokio::test(flavor = "local")]
async fn what_came_before_a_connection_broke_is_read_by_who_was_writing() {
    for is_accepted in [false, true] {
        let (mut near, mut far) = stream().await;
        far.relay.accept();
        if is_accepted {
            far.write(b"1").await.expect("written");
            assert_eq!(near.read_exact(1).await, b"1");
        }
        far.write(b"answer").await.expect("written");
        far.connection.reset_on_close();
        drop(far);
        let end = loop {
            if let Err(end) = near.write(&[0; 1_000]).await {
                break end;
            }
        };
        assert_eq!(near.read_exact(6).await, b"answer", "{is_accepted}");
        assert_eq!(near.read(&mut [0; 4]).await, Err(end), "and no more");
    }
}

#[tokio::test(flavor = "local")]
async fn an_alert_is_heard_though_the_next_write_fails() {
    let (mut near, mut far) = stream().await;
    let layer::Layer::Tls(records) = &mut far.connection.layer else {
        panic!("a connection of its own");
    };
    let alert = records.fatal_alert(48).expect("sealed");
    far.connection.unsent.extend(&alert);
    far.flush().await.expect("sent");
    far.connection.reset_on_close();
    drop(far);
    let socket = near.connection.tcp().expect("a socket");
    let failed = socket.ready(tokio::io::Interest::ERROR).await;
    failed.expect("it fails");
    assert_eq!(near.write(b"more").await, Err(StreamEnd::Refused));
}

#[tokio::test(flavor = "local")]
async fn what_was_written_before_the_accept_is_begun_again_elsewhere() {
    // A used connection, whose server leaves before it takes the second stream.
    let (mut near, mut far) = stream().await;
    far.relay.accept();
    let (ended, other) = tokio::join!(near.finish(), far.finish());
    ended.and(other).expect("ended");
    assert_eq!(near.read(&mut [0]).await, Ok(0));
    assert_eq!(far.read(&mut [0]).await, Ok(0));
    near.relay = near.connection.open(&open());
    near.write(b"one").await.expect("written");
    let leaving = tokio::task::spawn_local(far.connection.go_away());
    assert_eq!(near.read(&mut [0; 9]).await, Err(StreamEnd::NotTaken));
    near.connection.hang_up();
    leaving.await.expect("no panic");

    let (connection, mut far) = connections().await;
    near.connection = connection;
    near.relay.replay_on(&mut near.connection, &open());
    near.write(b" two").await.expect("written");
    let relay = taken(&mut far).await;
    let mut far = End {
        relay,
        connection: far,
    };
    assert_eq!(far.read_exact(7).await, b"one two");
}

/// Who writes has it still, and writes it again.
#[tokio::test(flavor = "local")]
async fn what_a_failed_write_did_not_take_is_not_sent_by_the_replay_as_well() {
    let (connection, far) = connections().await;
    far.reset_on_close();
    drop(far);
    let mut near = End::over(connection);
    near.connection
        .tcp()
        .expect("a socket")
        .ready(tokio::io::Interest::ERROR)
        .await
        .expect("it fails");
    assert_eq!(near.write(b"hello").await, Err(StreamEnd::NotTaken));
    let (connection, mut far) = connections().await;
    near.connection = connection;
    near.relay.replay_on(&mut near.connection, &open());
    near.write(b"hello").await.expect("written");
    near.finish().await.expect("ended");
    let mut far = End {
        relay: taken(&mut far).await,
        connection: far,
    };
    assert_eq!(far.read_exact(5).await, b"hello");
    assert_eq!(far.read(&mut [0; 9]).await, Ok(0), "and no more");
}

#[tokio::test(flavor = "local")]
async fn a_used_connection_takes_no_more_than_can_be_sent_again_before_the_accept() {
    let (mut near, mut far) = stream().await;
    far.relay.accept();
    let (ended, other) = tokio::join!(near.finish(), far.finish());
    ended.and(other).expect("ended");
    assert_eq!(near.read(&mut [0]).await, Ok(0));
    assert_eq!(far.read(&mut [0]).await, Ok(0));
    near.relay = near.connection.open(&open());
    let much = vec![7; relay::CREDIT_BYTES + 1];
    let part = [IoSlice::new(&much)];
    let written = poll_fn(|cx| near.relay.poll_write(&part, &mut near.connection, cx)).await;
    assert_eq!(written, Ok(relay::CREDIT_BYTES));
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(
        near.relay
            .poll_write(&part, &mut near.connection, cx)
            .is_pending()
    );
}

#[tokio::test(flavor = "local")]
async fn a_stream_is_quiet_between_two_messages_and_not_behind_a_fin() {
    let (mut near, mut far) = stream().await;
    far.relay.accept();
    far.write(b"answer").await.expect("written");
    near.read_exact(6).await;
    assert!(near.relay.is_quiet(&mut near.connection));
    far.finish().await.expect("ended");
    near.connection
        .tcp()
        .expect("a socket")
        .readable()
        .await
        .expect("readable");
    assert!(!near.relay.is_quiet(&mut near.connection));
}
