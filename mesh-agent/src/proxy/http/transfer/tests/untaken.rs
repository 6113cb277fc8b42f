//! An upstream that fails: what was read for it and it did not take goes to the next one, and
//! what it had answered is an answer.

use std::pin::pin;
use std::task::Waker;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::task::{spawn_local, yield_now};
use tokio::time::timeout;

use super::*;
use crate::proxy::http::Replayable;
use crate::tls::tests::support::DEADLINE;
use crate::tunnel::tests::support::{open, shared_connections};
use crate::tunnel::{Channel, Connection, IncomingStream, Relay, SharedConnection};

const BODY: usize = 20 * 1024;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A request's head, and its body.
fn request() -> (Vec<u8>, Vec<u8>) {
    let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {BODY}\r\n\r\n");
    let body = (0..BODY).map(|at| b'a' + (at % 23) as u8).collect();
    (head.into_bytes(), body)
}

/// One turn of the exchange.
fn turn(
    transfer: &mut Transfer,
    client: &mut Side<'_>,
    upstream: &mut Side<'_>,
) -> Poll<Result<KeptOpen, Fail>> {
    let mut context = Context::from_waker(Waker::noop());
    pin!(transfer.run(client, upstream, || false)).poll(&mut context)
}

/// The channel that was opened meanwhile, if any.
fn carried(shared: &Rc<SharedConnection>) -> Option<Channel> {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(shared.next()).poll(&mut context) {
        Poll::Ready(opened) => opened,
        Poll::Pending => None,
    }
}

async fn drive(shared: Rc<SharedConnection>) {
    while shared.next().await.is_some() {}
}

fn side<'s>(
    relay: &'s mut Relay,
    connection: &'s mut Connection,
    inbox: &'s mut Inbox,
) -> Side<'s> {
    Side {
        stream: ByteStream::Stream { relay, connection },
        inbox,
    }
}

/// Takes the next channel's stream, `len` bytes of it, and answers.
async fn serve(far: Rc<SharedConnection>, len: usize) -> Vec<u8> {
    let channel = far.next().await.expect("a channel");
    spawn_local(drive(far));
    let mut connection = Connection::on(channel);
    let taken = connection.accept().await.expect("a stream");
    let IncomingStream { mut relay, .. } = *taken.expect("a stream");
    relay.accept();
    let mut inbox = Inbox::default();
    let mut from = side(&mut relay, &mut connection, &mut inbox);
    from.stream.accept_is_due();
    poll_fn(|cx| from.stream.poll_flush(cx))
        .await
        .expect("it waits");
    let (mut got, mut buffer) = (vec![], [0; 4096]);
    while got.len() < len {
        let read = poll_fn(|cx| from.stream.poll_read(&mut buffer, cx));
        let n = read.await.expect("more");
        got.extend(&buffer[..n]);
    }
    let answer = [std::io::IoSlice::new(ANSWER)];
    let written = poll_fn(|cx| from.stream.poll_write(&answer, cx)).await;
    assert_eq!(written, Ok(ANSWER.len()));
    poll_fn(|cx| from.stream.poll_flush(cx))
        .await
        .expect("it waits");
    got
}

/// Its word and more of the body are there at once.
#[tokio::test(flavor = "local")]
async fn a_body_that_comes_with_the_refusal_of_its_channel_goes_elsewhere_whole() {
    let (head, body) = request();
    let (near, far) = shared_connections().await;
    let (mut client, mut asking) = End::pair().await;
    asking.write_all(&head).await.expect("write");
    let (mut transfer, copied) = held(&mut client).await;
    let mut inbox = Inbox::default();
    let mut connection = Connection::on(near.open().expect("room"));
    let mut relay = connection.open(&open());
    let mut upstream = side(&mut relay, &mut connection, &mut inbox);
    assert!(turn(&mut transfer, &mut client.side(), &mut upstream).is_pending());
    let channel = loop {
        assert!(carried(&near).is_none());
        if let Some(channel) = carried(&far) {
            break channel;
        }
        yield_now().await;
    };
    channel.refuse();
    assert!(carried(&far).is_none());
    asking.write_all(&body).await.expect("write");
    client.socket.readable().await.expect("a body");
    while near.held() == 0 {
        assert!(carried(&near).is_none());
        yield_now().await;
    }
    let ended = turn(&mut transfer, &mut client.side(), &mut upstream);
    assert_eq!(
        ended,
        Poll::Ready(Err(Fail::Upstream(Some(StreamEnd::NotTaken))))
    );

    let mut connection = Connection::on(near.open().expect("room"));
    relay.replay_on(&mut connection, &open());
    let mut inbox = Inbox::default();
    let mut upstream = side(&mut relay, &mut connection, &mut inbox);
    spawn_local(drive(near));
    let whole = [&head[..], &body].concat();
    let mut from = client.side();
    let going = async {
        tokio::join!(
            transfer.run(&mut from, &mut upstream, || false),
            serve(far, whole.len())
        )
    };
    let (ended, got) = timeout(DEADLINE, going).await.expect("all of it");
    assert!(ended.is_ok() && got == whole);
    assert!(copied.borrow().as_deref() == Some(&body[..]), "its copy");
    assert_eq!(transfer.bytes().0, whole.len() as u64);
}

#[tokio::test]
async fn a_body_that_comes_with_its_upstreams_reset_goes_with_the_retry() {
    let (head, body) = request();
    let (mut client, mut asking) = End::pair().await;
    asking.write_all(&head).await.expect("write");
    let (mut transfer, copied) = held(&mut client).await;
    let (mut first, server) = End::pair().await;
    assert!(turn(&mut transfer, &mut client.side(), &mut first.side()).is_pending());
    let reset = Some(Duration::ZERO);
    socket2::SockRef::from(&server)
        .set_linger(reset)
        .expect("linger");
    drop(server);
    let failed = first.socket.ready(Interest::ERROR).await;
    failed.expect("it fails");
    asking.write_all(&body).await.expect("write");
    client.socket.readable().await.expect("a body");
    let ended = turn(&mut transfer, &mut client.side(), &mut first.side());
    assert!(matches!(ended, Poll::Ready(Err(Fail::Upstream(_)))));

    assert!(transfer.restart((planned(&head), Edits::default()), None));
    let (mut second, mut server) = End::pair().await;
    let mut got = vec![0; head.len() + BODY];
    let serving = async {
        server.read_exact(&mut got).await.expect("all of it");
        server.write_all(ANSWER).await.expect("write");
    };
    let (mut from, mut to) = (client.side(), second.side());
    let going = async { tokio::join!(transfer.run(&mut from, &mut to, || false), serving) };
    let (ended, ()) = timeout(DEADLINE, going).await.expect("all of it");
    assert!(ended.is_ok() && got == [&head[..], &body].concat());
    assert!(copied.borrow().as_deref() == Some(&body[..]), "its copy");
}

/// A write finds either first, and what is read behind it looks the same.
#[tokio::test]
async fn what_an_application_reset_over_is_not_taken_for_unseen_and_what_it_had_left_is() {
    for had_left in [false, true] {
        let (head, body) = request();
        let (mut client, mut asking) = End::pair().await;
        asking.write_all(&head).await.expect("write");
        let (mut transfer, _copied) = held(&mut client).await;
        let (mut upstream, server) = End::pair().await;
        let server = server.into_std().expect("a socket");
        // It has read what its kernel says that it has only a little later.
        SockRef::from(&server)
            .set_tcp_quickack(false)
            .expect("asked for");
        let server = Some(server).filter(|_| !had_left);
        // Its end was on its way meanwhile.
        let mut context = Context::from_waker(Waker::noop());
        let sent = transfer.poll_request(&mut client.side(), &mut upstream.side(), &mut context);
        assert!(sent.is_pending() && transfer.bytes().0 == head.len() as u64);
        if let Some(server) = server {
            SockRef::from(&server)
                .set_linger(Some(Duration::ZERO))
                .expect("asked for");
        }
        let failed = upstream.socket.ready(Interest::ERROR).await;
        failed.expect("it fails");
        asking.write_all(&body).await.expect("write");
        client.socket.readable().await.expect("a body");
        let ended = turn(&mut transfer, &mut client.side(), &mut upstream.side());
        assert_eq!(ended, Poll::Ready(Err(Fail::Upstream(None))), "{had_left}");
        let reused = Replayable {
            is_reused: true,
            is_safe: false,
        };
        assert_eq!(reused.may(true, &upstream.socket, &transfer), had_left);
    }
}

/// Of the channel that is its carrier no more is left than what it had brought.
#[tokio::test(flavor = "local")]
async fn a_client_whose_carrier_breaks_behind_a_whole_answer_is_kept_with_a_whole_request() {
    for (body, is_whole) in [(&b"all of i"[..], true), (b"half", false)] {
        let asked = [HEAD, body].concat();
        let (near, far) = shared_connections().await;
        let (mut client, mut asking) = End::pair().await;
        asking.write_all(&asked).await.expect("write");
        let (mut transfer, _copied) = held(&mut client).await;
        let mut inbox = Inbox::default();
        let mut connection = Connection::on(near.open().expect("room"));
        let mut relay = connection.open(&open());
        let mut upstream = side(&mut relay, &mut connection, &mut inbox);
        let mut from = client.side();
        while transfer.bytes().0 < asked.len() as u64 {
            assert!(turn(&mut transfer, &mut from, &mut upstream).is_pending());
            yield_now().await;
        }
        let ending = async {
            let got = serve(far.clone(), asked.len()).await;
            far.close_when_empty();
            drop(far);
            got
        };
        // The answer is there with the end.
        let both = async { tokio::join!(drive(near), ending) };
        let ((), got) = timeout(DEADLINE, both).await.expect("it ends");
        assert!(got == asked);
        let going = transfer.run(&mut from, &mut upstream, || false);
        let ended = timeout(DEADLINE, going).await.expect("in time");
        let expected = KeptOpen {
            keep_client: is_whole,
            keep_upstream: false,
        };
        assert_eq!(ended, Ok(expected), "{is_whole}");
        let told = read_until(&mut asking, b"\r\n\r\n").await;
        let lines = &ANSWER[..ANSWER.len() - 2];
        let close: &[u8] = if is_whole {
            b""
        } else {
            b"connection: close\r\n"
        };
        assert_eq!(told, [lines, close, b"\r\n"].concat());
    }
}
