//! Heads and trailers of many kilobytes.

use super::*;
use crate::http::h1::MAX_LINES;

fn large(size: usize) -> HeaderMap {
    let value = HeaderValue::from_bytes(&vec![b'a'; size]).expect("a value");
    HeaderMap::from_iter([(http::HeaderName::from_static("x-large"), value)])
}

#[tokio::test]
async fn what_is_too_large_of_a_client_or_an_application_ends_its_own_exchange() {
    let mut pair = pair(Hop::Edge).await;
    let (mut beside, _bare, other) = pair.exchange(true).await;
    for (size, fits) in [
        (16_000, true),
        (70_000, true),
        (98_000, true),
        (99_000, false),
        (300_000, false),
    ] {
        let mut request = get();
        request.headers_mut().extend(large(size));
        pair.client.ready().await.expect("room");
        let (mut answered, mut up) = pair.client.send(request, false).expect("sent");
        let mut came = pair.exchanges.recv().await.expect("a request");
        assert_eq!(came.bad, (!fits).then_some(Bad::TooLong), "{size}");
        let kept = if fits { size } else { 0 };
        assert_eq!(super::size(&came.head.headers) / 1000, kept / 1000);
        assert_eq!(came.size / 1000, size / 1000, "as it came");
        up.trailers(large(size)).expect("taken");
        assert!(came.body.data().await.is_none());
        let trailers = came.body.trailers().await;
        assert_eq!(trailers.ok().flatten(), fits.then(|| large(size)), "{size}");
        let mut head = ok();
        head.headers_mut().extend(large(size));
        let mut down = came.respond.answer(head, false).expect("sent");
        match answered.next().await.expect("an answer") {
            Informed::Final(_, mut back) => {
                assert!(fits, "{size}");
                down.trailers(large(size)).expect("taken");
                assert!(back.data().await.is_none());
                assert_eq!(back.trailers().await.ok().flatten(), Some(large(size)));
            }
            Informed::Bad(bad) => assert_eq!((bad, fits), (Bad::TooLong, false), "{size}"),
            Informed::Informational(_) => panic!("none was sent"),
        }
    }
    drop(other.respond.answer(ok(), true).expect("sent"));
    answer(&mut beside).await.expect("the connection lives");
}

/// Each byte is sent as 28 bits, as agents send all text.
#[tokio::test]
async fn what_a_client_may_send_passes_between_agents_however_long_it_is_there() {
    let mut pair = pair(Hop::Agents).await;
    let long = || {
        let value = HeaderValue::from_bytes(&[0xf9; 90_000]).expect("a value");
        HeaderMap::from_iter([(http::HeaderName::from_static("x-large"), value)])
    };
    let mut request = get();
    request.headers_mut().extend(long());
    pair.client.ready().await.expect("room");
    let (mut answered, mut up) = pair.client.send(request, false).expect("sent");
    let mut came = pair.exchanges.recv().await.expect("a request");
    assert_eq!(came.head.headers["x-large"].len(), 90_000);
    up.trailers(long()).expect("taken");
    assert!(came.body.data().await.is_none());
    assert_eq!(came.body.trailers().await.ok().flatten(), Some(long()));
    let mut head = ok();
    head.headers_mut().extend(long());
    let mut down = came.respond.answer(head, false).expect("sent");
    let Informed::Final(_, mut back) = answered.next().await.expect("an answer") else {
        panic!("another answer");
    };
    down.trailers(long()).expect("taken");
    assert!(back.data().await.is_none());
    assert_eq!(back.trailers().await.ok().flatten(), Some(long()));
}

/// Where agents sent them on, the connection between them would end.
#[tokio::test]
async fn a_long_method_or_host_counts_as_lines_do() {
    let mut pair = pair(Hop::Edge).await;
    let method = http::Method::from_bytes(&[b'|'; 60_000]).expect("a method");
    let host: http::Uri = format!("http://{}/", "~".repeat(60_000))
        .parse()
        .expect("a host");
    for (method, uri) in [
        (method, "http://a/".parse().expect("a host")),
        (http::Method::GET, host),
    ] {
        let mut request = get();
        (*request.method_mut(), *request.uri_mut()) = (method, uri);
        let value = HeaderValue::from_bytes(&[0xf9; 60_000]).expect("a value");
        request.headers_mut().insert("x-large", value);
        pair.client.ready().await.expect("room");
        let _sent = pair.client.send(request, true).expect("sent");
        let came = pair.exchanges.recv().await.expect("a request");
        assert_eq!(came.bad, Some(Bad::TooLong));
    }
}

/// h2 keeps trailers as long as what comes before them, and no window is about them.
#[tokio::test]
async fn large_trailers_behind_what_nobody_reads_end_their_connection_when_they_are_many() {
    let mut pair = pair(Hop::Edge).await;
    let mut ask = async |read: bool| -> Option<(Exchange, Answered)> {
        pair.client.ready().await.ok()?;
        let (answered, mut up) = pair.client.send(get(), false).ok()?;
        let mut came = pair.exchanges.recv().await?;
        up.send(Bytes::from_static(b"data")).await.ok()?;
        up.trailers(large(60_000)).ok()?;
        if read {
            assert!(came.body.data().await.is_some());
            assert!(came.body.data().await.is_none());
            assert_eq!(came.body.trailers().await.ok()?, Some(large(60_000)));
        }
        Some((came, answered))
    };
    let mut held = vec![];
    for _ in 0..50 {
        held.push(ask(true).await.expect("what is read waits nowhere"));
    }
    let mut unread = 0;
    while unread < 100
        && let Some(came) = ask(false).await
    {
        held.push(came);
        unread += 1;
    }
    // `a` takes 5 bits of 8.
    assert!((20..40).contains(&unread), "{unread}");
}

#[tokio::test]
async fn so_do_more_lines_than_a_head_may_have() {
    let mut pair = pair(Hop::Edge).await;
    for (count, bad) in [(MAX_LINES, None), (MAX_LINES + 1, Some(Bad::TooManyLines))] {
        let mut request = get();
        for _ in 0..count {
            let value = HeaderValue::from_static("1");
            request.headers_mut().append("a", value);
        }
        pair.client.ready().await.expect("room");
        let _sent = pair.client.send(request, true).expect("sent");
        let came = pair.exchanges.recv().await.expect("a request");
        assert_eq!(came.bad, bad, "{count}");
    }
}

/// Of a client that sends these frames behind its settings: what is said of the connection.
async fn ends_of(frames: &[u8]) -> Option<Reason> {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    bytes.extend(frames);
    far.write_all(&bytes).await.expect("taken");
    let mut server = serve(near, Hop::Edge, Arc::default())
        .await
        .expect("settings");
    loop {
        match tokio::time::timeout(Duration::from_secs(1), server.accept()).await {
            Ok(Some(Ok(came))) => drop(came.respond),
            Ok(Some(Err(error))) => return error.reason(),
            Ok(None) | Err(_) => return None,
        }
    }
}

/// A head whose lines take a byte each.
fn crumbs(stream: u8, lines: usize) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x84, 0x01, 1, b'b', 0x40, 1, b'a', 0];
    block.extend(vec![0x80 | 62; lines]);
    let [_, length @ ..] = u32::try_from(block.len()).expect("small").to_be_bytes();
    let mut frame = length.to_vec();
    frame.extend([1, 5, 0, 0, 0, stream]);
    frame.extend(block);
    frame
}

#[tokio::test(start_paused = true)]
async fn a_head_of_more_lines_than_anybody_looks_at_ends_its_connection() {
    assert_eq!(ends_of(&crumbs(1, 400)).await, None, "it is answered");
    let both = [crumbs(1, 1), crumbs(3, 10_000)].concat();
    assert_eq!(ends_of(&both).await, Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test(start_paused = true)]
async fn many_requests_at_once_are_all_given() {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    far.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .expect("taken");
    for stream in 0..100 {
        let head = crumbs(2 * stream + 1, 300);
        far.write_all(&head).await.expect("taken");
    }
    let mut server = serve(near, Hop::Edge, Arc::default())
        .await
        .expect("settings");
    for _ in 0..100 {
        let came = server.accept().await.expect("a request").expect("one");
        assert_eq!(came.bad, Some(Bad::TooManyLines));
        came.respond.reset(Reason::CANCEL);
    }
}
