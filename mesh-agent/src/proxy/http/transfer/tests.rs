use std::cell::RefCell;
use std::rc::Rc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::http::h1::request_head;
use crate::proxy::http::{Inbox, Leg, Rest, Unkept};
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
            leg: Leg::Socket(&self.socket),
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

async fn read_until(from: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut got = vec![];
    while !got.ends_with(end) {
        got.push(from.read_u8().await.expect("a byte"));
    }
    got
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
    let ended = transfer.run(&mut client.side(), &mut upstream.side()).await;
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
    let (ended, answer) = tokio::join!(transfer.run(&mut from, &mut to), passing);
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
    let ended = transfer.run(&mut client.side(), &mut first.side()).await;
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
    let (ended, got) = tokio::join!(transfer.run(&mut from, &mut to), serving);
    assert!(matches!(ended, Err(Fail::Held(_))));
    assert_eq!(got, [&head[..], b"halfrest"].concat());
    assert_eq!(copied.borrow().as_deref(), Some(&b"halfrest"[..]));
}
