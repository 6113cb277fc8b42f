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
