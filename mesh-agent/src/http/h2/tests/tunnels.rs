//! Extended CONNECT (RFC 8441).

use ::h2::ext::Protocol;

use super::*;
use crate::model::Edits;

fn websocket(uri: &str) -> Request<()> {
    let mut request = Request::connect(uri).body(()).expect("a request");
    let protocol = Protocol::from_static("websocket");
    request.extensions_mut().insert(protocol);
    request
}

#[tokio::test]
async fn both_ways_of_a_tunnel_end_by_themselves() {
    for hop in [Hop::Edge, Hop::Agents] {
        let mut pair = pair(hop).await;
        let mut client = pair.client.clone();
        client.greeted().await;
        assert!(client.takes_extended_connect());
        client.ready().await.expect("room");
        let sent = client.send(websocket("http://shop/ws?a=b"), false);
        let (mut answered, mut up) = sent.expect("sent");
        let Exchange {
            head,
            body: mut came,
            respond,
            bad: _,
            size: _,
        } = pair.exchanges.recv().await.expect("a request");
        assert!(is_tunnel(&head));
        let on = forwarded(&head, &Edits::default())
            .expect("it can go")
            .parts;
        assert!(is_tunnel(&on));
        let mut lines = HeadLines::default();
        let head = Head::of(&on, &mut lines).expect("a head");
        assert_eq!(
            (head.head.method, head.head.target),
            ("GET", &b"/ws?a=b"[..])
        );
        let mut down = respond.answer(ok(), false).expect("sent");
        let (_, mut back) = answer(&mut answered).await.expect("an answer");
        up.send(Bytes::from_static(b"ping")).await.expect("taken");
        up.finish().expect("taken");
        assert_eq!(whole(&mut came).await.expect("whole"), b"ping");
        down.send(Bytes::from_static(b"late")).await.expect("taken");
        down.finish().expect("taken");
        assert_eq!(whole(&mut back).await.expect("whole"), b"late");
    }
}

#[test]
fn its_head_has_one_meaning() {
    let of = |protocol: &'static str, request: http::request::Builder| {
        let protocol = Protocol::from_static(protocol);
        seen(request.extension(protocol))
    };
    let connect = |uri: &str| Request::connect(uri);
    let there = Ok(("shop".to_owned(), Some("/b".to_owned())));
    assert_eq!(of("connect-ip/1", connect("http://shop/a/../b")), there);
    for bad in ["", "a b", "a/", "/b", "a/b/c", "a,b"] {
        assert_eq!(of(bad, connect("http://shop/")), Err(Bad::Upgrade), "{bad}");
    }
    let sized = connect("http://shop/").header("content-length", "5");
    assert_eq!(of("websocket", sized), Err(Bad::ConnectBody));
    assert_eq!(of("websocket", connect("ftp://shop/")), Err(Bad::Target));
}
