mod untaken;

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;
use crate::http::h1::request_head;
use crate::proxy::http::{ByteStream, Inbox, Rest, Unkept};
use crate::tls::tests::support::sockets;

const HEAD: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\n";

/// A connection, by its end here, and what was read of it ahead.
struct End {
    socket: TcpStream,
    inbox: Inbox,
}

impl End {
    async fn pair() -> (Self, TcpStream) {
        let (far, socket) = sockets().await;
        let inbox = Inbox::default();
        (Self { socket, inbox }, far)
    }

    fn side(&mut self) -> Side<'_> {
        Side {
            stream: ByteStream::Socket(&self.socket),
            inbox: &mut self.inbox,
        }
    }
}

fn planned(head: &[u8]) -> Planned {
    let mut lines = Lines::new();
    match request_head(head, &mut Scan::default(), &mut lines).expect("a head") {
        Parsed::Head { head: request, len } => {
            Planned::of(&request, &head[..len], None).expect("a plan")
        }
        Parsed::NeedMore => panic!("not whole"),
    }
}

/// A request whose answers of 503 are held, with what its copies get.
async fn held(client: &mut End) -> (Transfer, Rc<RefCell<Option<Vec<u8>>>>) {
    let mut side = client.side();
    let head = side.next(|_, bytes| bytes.to_vec()).await;
    let crate::proxy::http::Next::Request(head) = head else {
        panic!("no request");
    };
    let mut transfer = Transfer::new(planned(&head), Edits::default(), false, &mut side);
    transfer.hold(Hold {
        codes: [503].into(),
        ..Hold::default()
    });
    let copied = Rc::<RefCell<Option<Vec<u8>>>>::default();
    let told = copied.clone();
    transfer.copy_to(Box::new(move |rest: Result<Rest<'_>, Unkept>| {
        *told.borrow_mut() = rest.ok().map(|rest| rest.body.to_vec());
    }));
    (transfer, copied)
}

/// Its body comes later.
const REFUSED: &[u8] = b"HTTP/1.1 503 No\r\ncontent-length: 4\r\n\r\n";

/// An upstream that takes little before its server reads.
async fn slow() -> (End, TcpStream) {
    const LITTLE: u32 = 4096;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a listener");
    let server = TcpSocket::new_v4().expect("a socket");
    server.set_recv_buffer_size(LITTLE).expect("a small buffer");
    let address = listener.local_addr().expect("an address");
    let (server, accepted) = tokio::join!(server.connect(address), listener.accept());
    let (socket, _) = accepted.expect("a connection");
    socket2::SockRef::from(&socket)
        .set_send_buffer_size(LITTLE as usize)
        .expect("a small buffer");
    let inbox = Inbox::default();
    (End { socket, inbox }, server.expect("a connection"))
}

async fn read_until(from: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut got = vec![];
    while !got.ends_with(end) {
        got.push(from.read_u8().await.expect("a byte"));
    }
    got
}

/// It says nothing of its endpoint, as one of 503 with such a word does not.
#[tokio::test]
async fn a_rate_limits_429_is_known_for_the_other_agents() {
    for (reason, is_agents) in [("rate_limited", true), ("connect_refused", false)] {
        let (mut client, mut asking) = End::pair().await;
        let (mut upstream, mut server) = End::pair().await;
        asking.write_all(HEAD).await.expect("write");
        let (mut transfer, _copied) = held(&mut client).await;
        let answer = format!(
            "HTTP/1.1 429 No\r\n{}: {reason}\r\ncontent-length: 4\r\n\r\n",
            crate::http::answer::REASON
        );
        server.write_all(answer.as_bytes()).await.expect("write");
        drop((server, asking));
        let _cut = transfer
            .run(&mut client.side(), &mut upstream.side(), || false)
            .await;
        let carried = transfer.carried();
        assert_eq!((carried.status, carried.is_overflow), (429, is_agents));
    }
}

#[tokio::test]
async fn a_copy_is_whole_of_a_request_whose_held_answer_is_passed_on_after_all() {
    let (mut client, mut asking) = End::pair().await;
    let (mut upstream, mut server) = End::pair().await;
    asking
        .write_all(&[HEAD, b"half"].concat())
        .await
        .expect("write");
    let (mut transfer, copied) = held(&mut client).await;
    server.write_all(REFUSED).await.expect("write");
    let ended = transfer
        .run(&mut client.side(), &mut upstream.side(), || false)
        .await;
    assert!(matches!(ended, Err(Fail::Held(held)) if held.status == 503));
    // It could go elsewhere, and does not: there is no budget for it, say.
    assert!(transfer.sent().is_some());
    transfer.release();
    asking.write_all(b"rest").await.expect("write");
    let (mut from, mut to) = (client.side(), upstream.side());
    let passing = async {
        read_until(&mut server, b"rest").await;
        server.write_all(b"body").await.expect("write");
        read_until(&mut asking, b"body").await
    };
    let (ended, answer) = tokio::join!(transfer.run(&mut from, &mut to, || false), passing);
    assert!(ended.is_ok() && answer == [REFUSED, b"body"].concat());
    assert_eq!(copied.borrow().as_deref(), Some(&b"halfrest"[..]));
    assert_eq!(transfer.sent(), None, "nothing of it is kept");
}

#[tokio::test]
async fn a_copy_is_the_request_as_it_came_to_its_end_however_often_it_began() {
    let (mut client, mut asking) = End::pair().await;
    let (mut first, mut server) = End::pair().await;
    asking
        .write_all(&[HEAD, b"half"].concat())
        .await
        .expect("write");
    let (mut transfer, copied) = held(&mut client).await;
    server.write_all(REFUSED).await.expect("write");
    let ended = transfer
        .run(&mut client.side(), &mut first.side(), || false)
        .await;
    assert!(matches!(ended, Err(Fail::Held(_))));
    let head = b"POST /else HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\n";
    let mut again = planned(HEAD);
    again.head = Some(head.to_vec());
    assert!(transfer.restart((again, Edits::default()), None));
    let (mut second, mut server) = End::pair().await;
    asking.write_all(b"rest").await.expect("write");
    let (mut from, mut to) = (client.side(), second.side());
    let serving = async {
        let got = read_until(&mut server, b"rest").await;
        server.write_all(REFUSED).await.expect("write");
        got
    };
    let (ended, got) = tokio::join!(transfer.run(&mut from, &mut to, || false), serving);
    assert!(matches!(ended, Err(Fail::Held(_))));
    assert_eq!(got, [&head[..], b"halfrest"].concat());
    assert_eq!(copied.borrow().as_deref(), Some(&b"halfrest"[..]));
}

/// Its upstream was gone before it took all of the head.
#[tokio::test]
async fn what_no_upstream_took_goes_elsewhere_whole() {
    let asked = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let written = b"GET /b HTTP/1.1\r\nhost: a\r\n\r\n";
    for (first, head) in [(None, &asked[..]), (Some(written.to_vec()), written)] {
        let (mut client, mut asking) = End::pair().await;
        asking.write_all(asked).await.expect("write");
        let mut side = client.side();
        let crate::proxy::http::Next::Request(_) = side.next(|_, bytes| bytes.len()).await else {
            panic!("no request");
        };
        let skip = if first.is_some() { asked.len() } else { 0 };
        let checked = asked.len() - skip;
        let plan = Planned {
            head: first,
            skip,
            checked,
            ..planned(asked)
        };
        let mut transfer = Transfer::new(plan, Edits::default(), false, &mut side);
        transfer.hold(Hold::default());
        assert!(transfer.sent().is_none());
        transfer.keep_head(&mut side);
        assert_eq!(transfer.sent(), Some((head, head.len())));
        assert!(transfer.restart((planned(asked), Edits::default()), Some(asked)));
        let (mut upstream, mut server) = End::pair().await;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        server.write_all(answer).await.expect("write");
        let ended = transfer
            .run(&mut side, &mut upstream.side(), || false)
            .await;
        assert!(ended.is_ok_and(|ended| ended.keep_client && ended.keep_upstream));
        assert_eq!(read_until(&mut server, b"\r\n\r\n").await, asked);
        assert_eq!(transfer.bytes().0, asked.len() as u64);
    }
}

#[tokio::test]
async fn what_a_retry_had_still_to_send_goes_with_the_next_one() {
    const BODY: usize = 48 * 1024;
    let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {BODY}\r\n\r\n");
    let body: Vec<u8> = (0..BODY).map(|at| b'a' + (at % 23) as u8).collect();
    let whole = [head.as_bytes(), &body].concat();
    let (mut client, mut asking) = End::pair().await;
    let (mut first, mut server) = End::pair().await;
    let (held, _) = tokio::join!(held(&mut client), async {
        asking.write_all(&whole).await.expect("write");
    });
    let (mut transfer, copied) = held;
    // All of it is taken, and refused.
    let (mut from, mut to) = (client.side(), first.side());
    let serving = async {
        let mut got = vec![0; whole.len()];
        server.read_exact(&mut got).await.expect("all of it");
        server.write_all(REFUSED).await.expect("write");
    };
    let (ended, ()) = tokio::join!(transfer.run(&mut from, &mut to, || false), serving);
    assert!(matches!(ended, Err(Fail::Held(_))));
    // Then it is refused before all of it has gone.
    assert!(transfer.restart((planned(head.as_bytes()), Edits::default()), None));
    let (mut second, mut server) = slow().await;
    server.write_all(REFUSED).await.expect("write");
    let ended = transfer
        .run(&mut client.side(), &mut second.side(), || false)
        .await;
    assert!(matches!(ended, Err(Fail::Held(_))));
    let sent = transfer.sent().map_or(0, |(sent, _)| sent.len());
    assert!(head.len() < sent && sent < whole.len(), "{sent} bytes");
    // And in the end it is taken.
    assert!(transfer.restart((planned(head.as_bytes()), Edits::default()), None));
    let (mut third, mut server) = End::pair().await;
    let (mut from, mut to) = (client.side(), third.side());
    let serving = async {
        let mut got = vec![0; whole.len()];
        let read = tokio::time::timeout(Duration::from_secs(5), server.read_exact(&mut got));
        let _all = read.await.expect("in time").expect("all of it");
        server
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await
            .expect("write");
        got
    };
    let (ended, got) = tokio::join!(transfer.run(&mut from, &mut to, || false), serving);
    assert!(ended.is_ok_and(|ended| ended.keep_client && ended.keep_upstream));
    assert!(got == whole, "what the server gets");
    assert_eq!(transfer.bytes().0, whole.len() as u64);
    assert!(copied.borrow().as_deref() == Some(&body[..]), "its copy");
}

/// An upstream answers before all of a head has gone to it, and the request goes nowhere else.
#[tokio::test]
async fn behind_a_head_that_was_not_sent_whole_no_other_request_goes() {
    const LONG: usize = 64 * 1024 - 200;
    let long = "x".repeat(LONG);
    let head = format!("GET / HTTP/1.1\r\nhost: a\r\nx-long: {long}\r\n\r\n");
    let (mut client, mut asking) = End::pair().await;
    let (held, _) = tokio::join!(held(&mut client), async {
        asking.write_all(head.as_bytes()).await.expect("write");
    });
    let (mut transfer, copied) = held;
    let (mut upstream, mut server) = slow().await;
    server.write_all(REFUSED).await.expect("write");
    let ended = transfer
        .run(&mut client.side(), &mut upstream.side(), || false)
        .await;
    assert!(matches!(ended, Err(Fail::Held(_))));
    assert!(transfer.sent().is_none(), "not all of its head has gone");
    let gone = transfer.bytes().0;
    transfer.keep_head(&mut client.side());
    assert!(
        transfer.sent().is_some(),
        "it could go elsewhere, and does not"
    );
    transfer.release();
    server.write_all(b"body").await.expect("write");
    let ended = transfer
        .run(&mut client.side(), &mut upstream.side(), || false)
        .await;
    assert!(
        ended.is_ok_and(|ended| !ended.keep_upstream && !ended.keep_client),
        "{ended:?}"
    );
    let told = read_until(&mut asking, b"body").await;
    let told = String::from_utf8_lossy(&told).to_lowercase();
    assert!(told.contains("connection: close"), "{told}");
    assert_eq!(copied.borrow().as_deref(), None, "nor its copy");
    drop(upstream);
    let mut got = vec![];
    let _reset = server.read_to_end(&mut got).await;
    assert!(got.len() as u64 <= gone, "{} of {gone}", got.len());
}

/// A second try beside another one, which has no client until its answer, held, has won: how
/// it went, what its server got, and what its client gets until `end`.
async fn won(asked: &[u8], answer: &[u8], end: &[u8]) -> (Transfer, [Vec<u8>; 2]) {
    let (mut upstream, mut server) = End::pair().await;
    let mut inbox = Inbox::default();
    inbox.extend(asked);
    let mut nothing = 0;
    let nobody = &mut Side {
        stream: ByteStream::Nobody(&mut nothing),
        inbox: &mut inbox,
    };
    let mut transfer = Transfer::new(planned(asked), Edits::default(), false, nobody);
    transfer.second(Hold::default());
    let serving = async {
        let got = read_until(&mut server, b"\r\n\r\n").await;
        server.write_all(answer).await.expect("write");
        got
    };
    let mut to = upstream.side();
    let (ended, got) = tokio::join!(transfer.run(nobody, &mut to, || false), serving);
    let Err(Fail::Held(held)) = ended else {
        panic!("{ended:?}");
    };
    assert!(transfer.will_do(&held) && !transfer.has_answered());
    transfer.release();
    let (mut client, mut asking) = End::pair().await;
    let ended = transfer.run(&mut client.side(), &mut to, || false).await;
    assert!(ended.is_ok_and(|ended| ended.keep_client && ended.keep_upstream));
    let told = read_until(&mut asking, end).await;
    (transfer, [got, told])
}

/// All that a second try beside another one is: it has no client until it has won.
#[tokio::test]
async fn a_second_try_stops_at_its_answer_and_goes_on_where_that_is_the_clients() {
    const ASKED: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody";
    let (transfer, passed) = won(ASKED, ANSWER, b"body").await;
    assert_eq!(passed, [ASKED, ANSWER]);
    let bytes = (ASKED.len() as u64, ANSWER.len() as u64);
    assert_eq!(transfer.bytes(), bytes, "as of any request");
}

/// An early answer wins, too. What had not gone by then is its request's, until that answer is
/// over, and what its client has sent behind it is not.
#[tokio::test]
async fn behind_a_second_try_that_wins_early_goes_its_own_request_and_no_other() {
    const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n";
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n";
    let body = "x".repeat(60_000);
    let sized = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 60000\r\n\r\n{body}");
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunked = format!("{chunked}ea60\r\n{body}\r\n0\r\n\r\n");
    for (asked, next, is_read) in [
        (&sized, NEXT, true),
        (&sized, &NEXT[..0], true),
        (&chunked, NEXT, true),
        (&sized, NEXT, false),
        (&sized, &NEXT[..0], false),
    ] {
        let (mut upstream, mut server) = slow().await;
        let mut inbox = Inbox::default();
        inbox.extend(asked.as_bytes());
        let mut nothing = 0;
        let nobody = &mut Side {
            stream: ByteStream::Nobody(&mut nothing),
            inbox: &mut inbox,
        };
        let plan = planned(asked.as_bytes());
        let mut transfer = Transfer::new(plan, Edits::default(), false, nobody);
        transfer.second(Hold::default());
        server.write_all(HEAD).await.expect("write");
        let mut to = upstream.side();
        let ended = transfer.run(nobody, &mut to, || false).await;
        assert!(matches!(ended, Err(Fail::Held(held)) if transfer.will_do(&held)));
        assert!(transfer.bytes().0 < asked.len() as u64, "not all has gone");
        transfer.wins(nobody.inbox);
        let (mut client, mut asking) = End::pair().await;
        client.inbox.extend(next);
        let serving = async {
            let mut got = vec![];
            if is_read {
                got.resize(asked.len(), 0);
                let read = server.read_exact(&mut got);
                let read = tokio::time::timeout(Duration::from_secs(5), read).await;
                let _all = read.expect("in time").expect("all of it");
            }
            server.write_all(b"body").await.expect("write");
            got
        };
        let mut from = client.side();
        let (ended, mut got) = tokio::join!(transfer.run(&mut from, &mut to, || false), serving);
        let ended = ended.expect("an answer");
        assert_eq!((ended.keep_client, ended.keep_upstream), (is_read, is_read));
        assert_eq!(client.inbox.bytes(), next);
        let answer = read_until(&mut asking, b"body").await;
        assert_eq!(answer, [HEAD, b"body"].concat());
        drop(upstream);
        server.read_to_end(&mut got).await.expect("its end");
        let is_all = got.len() == asked.len();
        assert!(asked.as_bytes().starts_with(&got) && is_all == is_read);
    }
}

/// What comes before it is for the client of the first try alone, as over HTTP/2.
#[tokio::test]
async fn answers_before_the_answer_of_a_second_try_are_for_nobody() {
    let asked = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let early = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    let answer = b"HTTP/1.1 204 None\r\n\r\n";
    let all = [&early[..], early, answer].concat();
    let (transfer, [_, told]) = won(asked, &all, b"\r\n\r\n").await;
    assert_eq!(told, answer);
    assert_eq!(transfer.carried().status, 204);
}

#[tokio::test]
async fn an_answer_that_begins_while_the_agent_drains_says_that_it_is_the_last() {
    for is_last in [false, true] {
        let (mut client, mut asking) = End::pair().await;
        let (mut upstream, mut server) = End::pair().await;
        let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        asking.write_all(request).await.expect("write");
        let mut side = client.side();
        let head = side.next(|_, bytes| bytes.to_vec()).await;
        let crate::proxy::http::Next::Request(head) = head else {
            panic!("no request");
        };
        let mut transfer = Transfer::new(planned(&head), Edits::default(), false, &mut side);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        server.write_all(answer).await.expect("write");
        let (mut from, mut to) = (client.side(), upstream.side());
        let ended = transfer.run(&mut from, &mut to, || is_last).await;
        let ended = ended.expect("whole");
        assert_eq!(ended.keep_client, !is_last);
        assert!(ended.keep_upstream, "that is none of the server's");
        let told = read_until(&mut asking, b"ok").await;
        let told = String::from_utf8_lossy(&told).into_owned();
        assert_eq!(told.contains("connection: close\r\n"), is_last, "{told}");
    }
}

#[tokio::test]
async fn a_client_whose_connection_ends_behind_the_answer_to_half_its_request_is_told() {
    const SIZED: &str = "content-length: 2\r\n\r\nno";
    const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n";
    for (connection, body, answer, is_last) in [
        ("close", &b"half"[..], SIZED, true),
        ("close", b"all of it", SIZED, false),
        // Of one that stays nobody waits for the rest either.
        ("keep-alive", b"half", SIZED, true),
        ("keep-alive", b"half", CHUNKED, true),
        ("keep-alive", b"all of it", SIZED, false),
    ] {
        let (mut client, mut asking) = End::pair().await;
        let (mut upstream, mut server) = End::pair().await;
        let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n";
        asking.write_all(head).await.expect("write");
        asking.write_all(body).await.expect("write");
        let (mut transfer, _) = held(&mut client).await;
        let answer = format!("HTTP/1.1 413 No\r\nconnection: {connection}\r\n{answer}");
        let serving = async {
            let mut got = vec![0; head.len() + body.len()];
            server.read_exact(&mut got).await.expect("as much as came");
            server.write_all(answer.as_bytes()).await.expect("write");
        };
        let (mut from, mut to) = (client.side(), upstream.side());
        let going = transfer.run(&mut from, &mut to, || false);
        let (ended, (), told) = tokio::join!(going, serving, read_until(&mut asking, b"no"));
        assert_eq!(ended.expect("an answer").keep_client, !is_last);
        let told = String::from_utf8_lossy(&told).to_lowercase();
        assert_eq!(told.contains("connection: close"), is_last, "{told}");
    }
}

#[tokio::test]
async fn an_upstream_that_closes_behind_its_clients_end_has_not_failed() {
    const ASKED: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    const HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\n\r\n";
    // Whether the client ends its side, what the server says, and whether it resets.
    let cases: [(bool, &[u8], bool); 8] = [
        (true, b"", false),
        (true, b"", true),
        (true, HINTS, false),
        (true, &ANSWER[..20], false),
        (true, ANSWER, false),
        (false, b"", false),
        (false, b"", true),
        (false, HINTS, false),
    ];
    for (ends, says, resets) in cases {
        let (mut client, mut asking) = End::pair().await;
        let (mut upstream, mut server) = End::pair().await;
        asking.write_all(ASKED).await.expect("write");
        if ends {
            asking.shutdown().await.expect("an end");
        }
        let mut side = client.side();
        let head = side.next(|_, bytes| bytes.to_vec()).await;
        let crate::proxy::http::Next::Request(head) = head else {
            panic!("no request");
        };
        let mut transfer = Transfer::new(planned(&head), Edits::default(), false, &mut side);
        let (mut from, mut to) = (client.side(), upstream.side());
        let serving = async {
            read_until(&mut server, ASKED).await;
            if ends {
                // It is passed on as it is: who answers is heard.
                assert_eq!(server.read(&mut [0]).await.expect("an end"), 0);
            }
            server.write_all(says).await.expect("write");
            if resets {
                let linger = Some(Duration::ZERO);
                socket2::SockRef::from(&server)
                    .set_linger(linger)
                    .expect("asked for");
            }
            drop(server);
        };
        let (ended, ()) = tokio::join!(transfer.run(&mut from, &mut to, || false), serving);
        let carried = transfer.carried();
        assert_eq!(carried.left.is_some(), ends);
        match (ended, says == ANSWER) {
            (Ok(ended), true) => assert!(!ended.keep_upstream && carried.status == 200),
            (Err(Fail::Client(None)), false) => assert!(ends && carried.status == 0),
            (Err(Fail::Upstream(_)), false) => assert!(!ends && carried.status == 0),
            (ended, _) => panic!("{ends} {says:?} {resets}: {ended:?}"),
        }
    }
}
