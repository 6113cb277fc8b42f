//! A copy of a request of HTTP/2, over a connection of its own: it can stall nobody.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::wire::{Seen, Wire};
use crate::http::h2 as http2;
use crate::http::h2::{Client, HeaderMap, Informed, Receiver, Sender, request};
use crate::io::Account;
use crate::proxy::http::Side;
use crate::tunnel::StreamEnd;

/// Why there is no answer, or not all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Uncopied {
    /// The wire failed; `None`: the peer did, or wants no such request.
    Failed(Option<StreamEnd>),
    /// There is more of the answer than anybody wants to know.
    Enough,
}

/// What a copy consists of.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Whole {
    pub(in crate::proxy) head: request::Parts,
    pub(in crate::proxy) body: Bytes,
    pub(in crate::proxy) trailers: Option<HeaderMap>,
}

/// To the end of its answer, and of the connection: `most` bytes of it are read, by the
/// pod's `account`.
pub(in crate::proxy) async fn copy(
    side: &mut Side<'_>,
    (hop, account): (http2::Hop, Arc<Account>),
    whole: Whole,
    most: u64,
) -> Result<(), Uncopied> {
    let seen = Rc::new(Seen::default());
    let failed = || Uncopied::Failed(seen.failed());
    let wire = Wire::new(side, seen.clone());
    let connected = http2::connect(wire, hop, account).await;
    let (client, mut driver) = connected.map_err(|_| failed())?;
    let exchange = exchange(client, whole, most);
    let ended = tokio::select! {
        biased; // an answer that is there counts, however its connection ends
        ended = exchange => ended.map_err(|_| failed()),
        _lost = &mut driver => Err(failed()),
    };
    if !ended? {
        return Err(Uncopied::Enough);
    }
    // Nobody holds a stream any more: it says goodbye.
    let _in_order = driver.await;
    Ok(())
}

/// Is the answer whole?
async fn exchange(mut client: Client, whole: Whole, most: u64) -> Result<bool, http2::Error> {
    let Whole {
        head,
        body,
        trailers,
    } = whole;
    client.ready().await?;
    let is_bare = body.is_empty() && trailers.is_none();
    let head = ::http::Request::from_parts(head, ());
    let (mut answered, mut up) = client.send(head, is_bare)?;
    let sending = async {
        if !is_bare {
            send(&mut up, body, trailers).await;
        }
    };
    let reading = async {
        loop {
            match answered.next().await? {
                Informed::Informational(_) => {}
                Informed::Final(_, body) => return thrown_away(body, most).await,
                Informed::Bad(_) => return Ok(false),
            }
        }
    };
    // Where the peer wants no more of the request its answer may still come.
    tokio::join!(sending, reading).1
}

async fn send(up: &mut Sender, body: Bytes, trailers: Option<HeaderMap>) {
    if up.send(body).await.is_err() {
        return;
    }
    let _told_by_the_answer = match trailers {
        Some(trailers) => up.trailers(trailers),
        None => up.finish(),
    };
}

async fn thrown_away(mut body: Receiver, most: u64) -> Result<bool, http2::Error> {
    let mut left = most;
    while let Some(data) = body.data().await {
        let read = data?.len();
        left = left.saturating_sub(read as u64);
        if left == 0 {
            return Ok(false);
        }
        body.written(read)?;
    }
    body.trailers().await?;
    Ok(true)
}
