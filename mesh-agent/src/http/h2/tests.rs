mod sizes;
mod tunnels;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::head::response_of;
use super::*;
use crate::http::answer::{Answer, Client as AskedBy};
use crate::http::h1::Bad;
use crate::io::Account;
use crate::model::{HeaderLine, Path, RefuseReason};

/// Both ends of a connection in memory, each driven by a task.
struct Pair {
    client: Client,
    exchanges: mpsc::Receiver<Exchange>,
    drain: mpsc::Sender<()>,
    client_ended: JoinHandle<Result<(), Error>>,
}

async fn pair(hop: Hop) -> Pair {
    pair_of(hop, Arc::default(), Arc::default()).await
}

/// Of a client and a server with these accounts.
async fn pair_of(hop: Hop, client: Arc<Account>, server: Arc<Account>) -> Pair {
    let (near, far) = tokio::io::duplex(64 * 1024);
    over([near, far], hop, [client, server]).await
}

async fn over(
    [near, far]: [DuplexStream; 2],
    hop: Hop,
    [client, server]: [Arc<Account>; 2],
) -> Pair {
    let (sender, exchanges) = mpsc::channel(64);
    let (drain, mut drains) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut server: Server<DuplexStream> = serve(far, hop, server).await.expect("a connection");
        let mut draining = false;
        loop {
            tokio::select! {
                exchange = server.accept() => match exchange {
                    Some(Ok(exchange)) => {
                        if sender.send(exchange).await.is_err() {
                            return;
                        }
                    }
                    Some(Err(_)) | None => return,
                },
                Some(()) = drains.recv(), if !draining => {
                    draining = true;
                    server.drain();
                }
            }
        }
    });
    let (client, driver) = connect(near, hop, client).await.expect("a connection");
    Pair {
        client,
        exchanges,
        drain,
        client_ended: tokio::spawn(driver),
    }
}

fn get() -> Request<()> {
    let request = Request::get("http://shop/cart").body(());
    request.expect("a request")
}

fn ok() -> Response<()> {
    Response::new(())
}

impl Pair {
    /// Both sides of a new exchange.
    async fn exchange(&mut self, end: bool) -> (Answered, Sender, Exchange) {
        self.client.ready().await.expect("room");
        let (answered, sender) = self.client.send(get(), end).expect("sent");
        let exchange = self.exchanges.recv().await.expect("a request");
        (answered, sender, exchange)
    }
}

async fn answer(answered: &mut Answered) -> Result<(http::response::Parts, Receiver), Error> {
    loop {
        if let Informed::Final(parts, body) = answered.next().await? {
            return Ok((parts, body));
        }
    }
}

async fn whole(body: &mut Receiver) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.written(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok(all)
}

#[tokio::test]
async fn heads_bodies_and_trailers_go_both_ways() {
    for hop in [Hop::Edge, Hop::Agents] {
        let mut pair = pair(hop).await;
        let (mut answered, mut sender, mut exchange) = pair.exchange(false).await;
        let sent = Bytes::from(vec![7; 1 << 20]);
        let upload = async {
            sender.send(sent.clone()).await.expect("taken");
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_static("1"));
            sender.trailers(trailers).expect("taken");
        };
        let ((), received) = tokio::join!(upload, whole(&mut exchange.body));
        assert_eq!(received.expect("whole"), sent);
        let trailers = exchange.body.trailers().await.expect("good");
        assert_eq!(trailers.expect("trailers")["x-sum"], "1");
        let mut early = ok();
        *early.status_mut() = StatusCode::EARLY_HINTS;
        exchange.respond.inform(early).expect("sent");
        let mut down = exchange.respond.answer(ok(), false).expect("sent");
        let Ok(Informed::Informational(hints)) = answered.next().await else {
            panic!("103 comes first")
        };
        assert_eq!(hints.status, 103);
        let (parts, mut body) = answer(&mut answered).await.expect("an answer");
        assert_eq!(parts.status, 200);
        let download = async {
            down.send(sent.clone()).await.expect("taken");
            down.finish().expect("taken");
        };
        let ((), received) = tokio::join!(download, whole(&mut body));
        assert_eq!(received.expect("whole"), sent);
        assert_eq!(body.trailers().await.expect("good"), None);
    }
}

mod windows;

#[tokio::test]
async fn small_messages_that_nobody_reads_and_empty_ones_end_nothing() {
    for hop in [Hop::Edge, Hop::Agents] {
        let mut pair = pair(hop).await;
        let (mut answered, _sender, exchange) = pair.exchange(true).await;
        let mut down = exchange.respond.answer(ok(), false).expect("sent");
        let (_, mut body) = answer(&mut answered).await.expect("an answer");
        for _ in 0..3_000 {
            down.send(Bytes::from_static(b"x")).await.expect("taken");
            down.send(Bytes::new()).await.expect("nothing is sent");
            tokio::task::yield_now().await;
        }
        let (mut other, _sender, exchange) = pair.exchange(true).await;
        drop(exchange.respond.answer(ok(), true).expect("sent"));
        answer(&mut other).await.expect("the connection lives");
        down.finish().expect("taken");
        assert_eq!(whole(&mut body).await.expect("whole").len(), 3_000);
    }
}

#[tokio::test]
async fn answers_that_break_http_2_end_their_own_exchange_also_where_they_are_many() {
    let mut pair = pair(Hop::Edge).await;
    for _ in 0..1_100 {
        let (mut answered, _sender, exchange) = pair.exchange(true).await;
        let mut head = ok();
        let length = HeaderValue::from_static("5");
        head.headers_mut().insert("content-length", length);
        let mut down = exchange.respond.answer(head, false).expect("sent");
        down.send(Bytes::from_static(b"12")).await.expect("taken");
        let _reset = down.finish();
        let (_, mut body) = answer(&mut answered).await.expect("a head");
        assert!(whole(&mut body).await.is_err(), "it is too short");
    }
    let (mut answered, _sender, exchange) = pair.exchange(true).await;
    drop(exchange.respond.answer(ok(), true).expect("sent"));
    answer(&mut answered).await.expect("the connection lives");
}

/// Answers each request, and lets `count` of them be.
async fn answers_all(far: &mut DuplexStream, count: usize) {
    const ANSWERED: u8 = 0x88; // `:status: 200`, of the static table
    let mut preface = [0; 24];
    far.read_exact(&mut preface).await.expect("a preface");
    far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
        .await
        .expect("settings");
    let mut answered = 0;
    while answered < count {
        let mut head = [0; 9];
        far.read_exact(&mut head).await.expect("a frame");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut rest = vec![0; length as usize];
        far.read_exact(&mut rest).await.expect("its payload");
        let is_head = head[3] == 1;
        if is_head {
            let [a, b, c, d] = [head[5], head[6], head[7], head[8]];
            let frame = [0, 0, 1, 1, 5, a, b, c, d, ANSWERED];
            far.write_all(&frame).await.expect("an answer");
            answered += 1;
        }
    }
}

/// Of each the end is held until it is written, and this server reads nothing.
#[tokio::test]
async fn a_server_that_goes_on_after_the_end_of_all_streams_is_left() {
    const STREAMS: usize = 6_000;
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let server = tokio::spawn(async move {
        answers_all(&mut far, STREAMS).await;
        far
    });
    let (mut client, driver) = connect(near, Hop::Edge, Arc::default())
        .await
        .expect("a connection");
    let ended = tokio::spawn(driver);
    for _ in 0..STREAMS {
        client.ready().await.expect("room");
        let (mut answered, _sender) = client.send(get(), true).expect("sent");
        answer(&mut answered).await.expect("an answer");
    }
    let mut far = server.await.expect("it answers");
    for stream in 0..STREAMS {
        let id = u32::try_from(2 * stream + 1).expect("an id").to_be_bytes();
        let frame = [0, 0, 1, 0, 0, id[0], id[1], id[2], id[3], b'x'];
        if far.write_all(&frame).await.is_err() {
            break;
        }
    }
    let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
    assert!(ended.expect("it ends").expect("it ran").is_err());
}

#[tokio::test]
async fn codes_of_resets_pass_both_ways() {
    let mut pair = pair(Hop::Agents).await;
    for code in [
        Reason::NO_ERROR,
        Reason::INTERNAL_ERROR,
        Reason::CANCEL,
        Reason::ENHANCE_YOUR_CALM,
        Reason::HTTP_1_1_REQUIRED,
    ] {
        let (mut answered, _sender, exchange) = pair.exchange(true).await;
        exchange.respond.reset(code);
        let error = answer(&mut answered).await.expect_err("it was reset");
        assert_eq!(fate(&error), Fate::ResetByPeer(code));
        let (_answered, mut sender, mut exchange) = pair.exchange(false).await;
        sender.reset(code);
        let seen = poll_fn(|cx| exchange.respond.poll_reset(cx)).await;
        assert_eq!(seen.expect("it was reset"), code);
    }
}

#[tokio::test]
async fn what_is_dropped_is_cancelled() {
    let mut pair = pair(Hop::Edge).await;
    let (answered, sender, mut exchange) = pair.exchange(false).await;
    drop((answered, sender));
    let seen = poll_fn(|cx| exchange.respond.poll_reset(cx)).await;
    assert_eq!(seen.expect("it was reset"), Reason::CANCEL);
    let (mut answered, _sender, exchange) = pair.exchange(false).await;
    drop(exchange);
    let error = answer(&mut answered).await.expect_err("it was reset");
    assert_eq!(fate(&error), Fate::ResetByPeer(Reason::CANCEL));
    // Half an answer is no whole one.
    let (mut answered, _sender, exchange) = pair.exchange(true).await;
    let mut down = exchange.respond.answer(ok(), false).expect("sent");
    let (_, mut body) = answer(&mut answered).await.expect("an answer");
    down.send(Bytes::from_static(b"half")).await.expect("taken");
    assert_eq!(body.data().await.expect("data").expect("good"), "half");
    drop(down);
    assert!(body.data().await.expect("an end").is_err());
}

#[tokio::test]
async fn only_what_was_not_taken_may_go_elsewhere() {
    let mut pair = pair(Hop::Agents).await;
    let (mut answered, _sender, exchange) = pair.exchange(true).await;
    exchange.respond.reset(Reason::REFUSED_STREAM);
    let error = answer(&mut answered).await.expect_err("it was refused");
    assert_eq!(fate(&error), Fate::Refused);
    // A connection that drains finishes what it has.
    let (mut first, _sender, exchange) = pair.exchange(true).await;
    pair.drain.send(()).await.expect("told");
    drop(exchange.respond.answer(ok(), true).expect("sent"));
    answer(&mut first).await.expect("it was taken");
    assert!(pair.client_ended.await.expect("no panic").is_ok());
    let gone = pair.client.ready().await.err();
    assert!(gone.is_none_or(|error| fate(&error) == Fate::NotTaken));
}

#[tokio::test]
async fn an_answer_that_is_whole_stays_so_behind_no_error() {
    let mut pair = pair(Hop::Edge).await;
    let (mut answered, mut sender, exchange) = pair.exchange(false).await;
    let mut down = exchange.respond.answer(ok(), false).expect("sent");
    down.send(Bytes::from_static(b"no")).await.expect("taken");
    down.finish().expect("taken");
    down.reset(Reason::NO_ERROR);
    drop((down, exchange.body));
    let (_, mut body) = answer(&mut answered).await.expect("an answer");
    assert_eq!(whole(&mut body).await.expect("whole"), b"no");
    let cut = sender.send(Bytes::from(vec![0; 8 << 20])).await;
    assert!(matches!(cut, Err(Cut::Reset(Reason::NO_ERROR))), "{cut:?}");
}

#[tokio::test]
async fn large_heads_and_trailers_pass_between_agents() {
    let mut pair = pair(Hop::Agents).await;
    let large = HeaderValue::from_bytes(&[b'a'; 70_000]).expect("a value");
    let mut request = get();
    request.headers_mut().insert("x-large", large.clone());
    pair.client.ready().await.expect("room");
    let (mut answered, mut sender) = pair.client.send(request, false).expect("sent");
    let mut exchange = pair.exchanges.recv().await.expect("a request");
    assert_eq!(exchange.head.headers["x-large"].len(), 70_000);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-large", large.clone());
    sender.trailers(trailers.clone()).expect("taken");
    assert!(exchange.body.data().await.is_none());
    let received = exchange.body.trailers().await.expect("good");
    assert_eq!(received, Some(trailers));
    let mut head = ok();
    head.headers_mut().insert("x-large", large);
    drop(exchange.respond.answer(head, true).expect("sent"));
    let (parts, _) = answer(&mut answered).await.expect("an answer");
    assert_eq!(parts.headers["x-large"].len(), 70_000);
}

#[tokio::test]
async fn the_limits_of_the_other_end_are_seen() {
    let mut pair = pair(Hop::Agents).await;
    let (mut answered, sender, exchange) = pair.exchange(true).await;
    assert_eq!(pair.client.max_streams(), STREAMS as usize);
    drop(sender);
    drop(exchange.respond.answer(ok(), true).expect("sent"));
    let (_, body) = answer(&mut answered).await.expect("an answer");
    drop(answered);
    assert_eq!(pair.client.streams(), 1);
    drop(body);
    assert_eq!(pair.client.streams(), 0);
}

/// What is seen of a request, or what is wrong.
fn seen(request: http::request::Builder) -> Result<(String, Option<String>), Bad> {
    let (parts, ()) = request.body(()).expect("a request").into_parts();
    let mut lines = HeadLines::default();
    let head = Head::of(&parts, &mut lines)?.head;
    let host = head.host.expect("a host").name.into_owned();
    let path = match head.path {
        Path::Normal(path) => Some(path.normal.into_owned()),
        Path::Ambiguous(_) | Path::None => None,
    };
    Ok((host, path))
}

#[test]
fn a_head_has_one_meaning() {
    let get = |uri: &str| Request::get(uri);
    let of = |host: &str, path: &str| Ok((host.to_owned(), Some(path.to_owned())));
    assert_eq!(seen(get("http://Shop.:80/a/../b?c")), of("shop", "/b"));
    assert_eq!(seen(get("/a").header("host", "shop")), of("shop", "/a"));
    let both = get("http://shop/a").header("host", "SHOP:80");
    assert_eq!(seen(both), of("shop", "/a"));
    let connect = Request::connect("shop:443");
    assert_eq!(seen(connect), Ok(("shop".to_owned(), None)));
    let bad = [
        (get("http://shop/").header("host", "other"), Bad::OtherHost),
        (
            get("http://shop/")
                .header("host", "shop")
                .header("host", "shop"),
            Bad::SeveralHosts,
        ),
        (get("/a"), Bad::NoHost),
        (get("http://u@shop/"), Bad::Host),
        (get("/").header("host", "a,b"), Bad::Host),
        (get("/").header("host", "a:99999"), Bad::Host),
        (get("ftp://shop/"), Bad::Target),
        (get("*").header("host", "shop"), Bad::Target),
        (get("http://shop/").header("a", " b"), Bad::HeaderValue),
        (get("http://shop/").header("a", "b\t"), Bad::HeaderValue),
        (
            get("http://shop/").header("http2-settings", "AAA"),
            Bad::HeaderName,
        ),
        (
            get("http://shop/").header("content_length", "5"),
            Bad::FramingName,
        ),
        (
            get("http://shop/").header("content-length", ""),
            Bad::ContentLength,
        ),
        (
            Request::connect("shop:443").header("content-length", "0"),
            Bad::ConnectBody,
        ),
        (Request::connect("shop"), Bad::Target),
    ];
    for (request, wanted) in bad {
        let shown = format!("{request:?}");
        assert_eq!(seen(request), Err(wanted), "{shown}");
    }
}

#[test]
fn a_head_of_http_1_goes_over_http_2_without_what_is_about_its_connection() {
    let line = |name: &'static str, value: &'static [u8]| HeaderLine { name, value };
    let lines = [
        line("Host", b"Shop:8080"),
        line("X-Upper", b"\xe9"),
        line("Connection", b"close"),
        line("Transfer-Encoding", b"chunked"),
        line("TE", b"gzip"),
        line("Cookie", b"a=1"),
        line("cookie", b"b=2"),
    ];
    let response = response_of(204, &lines).expect("HTTP/2 can say it");
    let names: Vec<&str> = response
        .headers()
        .keys()
        .map(|name| name.as_str())
        .collect();
    assert_eq!(names, ["x-upper", "cookie"]);
    assert_eq!(response.headers().get_all("cookie").iter().count(), 2);
    assert!(response_of(99, &[]).is_none());
    let denied = Answer::of(RefuseReason::Denied, AskedBy::default());
    let denied = answer_head(&denied).expect("an answer");
    assert_eq!((denied.status().as_u16(), denied.headers().len()), (403, 2));
}
