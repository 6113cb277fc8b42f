//! The name that a client's own TLS asks for, where something depends on it: a route, or
//! a rule of the destination's policy. All other connections are not looked at for it.

use std::time::Duration;

use tokio::net::TcpStream;

use super::authorize::{Authorized, authorize_named};
use super::context::{ConnectionContext, Exchange};
use super::first::{First, insist};
use super::http::HEAD_TIMEOUT;
use super::peek::peek_until;
use super::report::Report;
use crate::detect::{self, Hello, MAX_HELLO, ServerName, Spoken};
use crate::model::{RefuseReason, Refused};
use crate::plan::AuthzInput;

/// What a connection begins with whose leave depends on a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FirstBytes {
    Requests(First),
    /// Empty: TLS that asks for no name, or another protocol.
    Named(Box<str>),
    /// A hello whose name cannot be told.
    Odd,
}

/// What it is then.
pub(super) enum ConnectionProtocol {
    Requests(First),
    Bytes(Authorized),
}

/// Tells what it is, or how long the rest is waited for.
pub(super) fn first_bytes(bytes: &[u8], hello: Duration) -> Result<FirstBytes, Duration> {
    match detect::http(bytes) {
        told @ (Spoken::Http1 | Spoken::Http2) => return Ok(FirstBytes::Requests(told.into())),
        Spoken::NeedMore => return Err(HEAD_TIMEOUT),
        Spoken::Other => {}
    }
    match detect::client_hello(bytes) {
        Hello::NeedMore => Err(hello),
        // Servers take more for a record than is looked for here: other versions, an alert
        // before the hello.
        Hello::NotTls if bytes.first().is_some_and(is_record) => Ok(FirstBytes::Odd),
        Hello::NotTls => Ok(FirstBytes::Named(Box::default())),
        Hello::OtherTls { server_name } => Ok(match server_name {
            ServerName::Absent => FirstBytes::Named(Box::default()),
            ServerName::Is(name) => FirstBytes::Named(name),
            ServerName::Odd => FirstBytes::Odd,
        }),
        // No server of the application's own takes it for one of its hellos.
        Hello::Mesh | Hello::Malformed => Ok(FirstBytes::Odd),
    }
}

/// Types of TLS's records (RFC 8446, 5.1, and RFC 6520).
fn is_record(kind: &u8) -> bool {
    (20..=24).contains(kind)
}

/// Of a client at a socket, without taking it.
pub(super) async fn peek_first_bytes(
    client: &TcpStream,
    hello: Duration,
) -> Result<FirstBytes, First> {
    let begun = peek_until(client, MAX_HELLO, |bytes| Some(first_bytes(bytes, hello))).await;
    let patience = match begun.ok_or(First::Ended)? {
        Ok(told) => return Ok(told),
        Err(patience) => patience,
    };
    let whole = peek_until(client, MAX_HELLO, |bytes| first_bytes(bytes, hello).ok());
    match tokio::time::timeout(patience, whole).await {
        Ok(whole) => whole.ok_or(First::Ended),
        Err(_) => Err(First::Unfinished),
    }
}

/// Whether a connection may go on as what it begins with. One that is silent may be so as
/// long as one between two requests; one that stays within a hello is refused.
pub(super) async fn decide(
    (exchange, report): (&Exchange, &mut Report),
    check: AuthzInput,
    first_bytes: impl Future<Output = Result<FirstBytes, First>>,
) -> Result<ConnectionProtocol, Refused> {
    let mut named = None;
    let spoken = async {
        match first_bytes.await {
            Ok(FirstBytes::Requests(first)) => first,
            Ok(told) => {
                named = Some(told);
                First::Bytes
            }
            Err(first) => first,
        }
    };
    let insisted = insist(&exchange.context, spoken).await;
    match named {
        Some(FirstBytes::Named(name)) => {
            let authorized = authorize_named(exchange, report, check.named(name))?;
            Ok(ConnectionProtocol::Bytes(authorized))
        }
        Some(FirstBytes::Odd | FirstBytes::Requests(_)) => {
            Err(RefuseReason::UndecidedProtocol.into())
        }
        None => insisted.map(ConnectionProtocol::Requests),
    }
}

/// For a route, by which it goes without one where the client is silent, or what it asks
/// for is none.
pub(super) async fn routed(
    context: &ConnectionContext,
    client: &TcpStream,
) -> Result<Option<Box<str>>, Refused> {
    let judge = |bytes: &[u8]| match detect::client_hello(bytes) {
        Hello::NeedMore => None,
        Hello::OtherTls {
            server_name: ServerName::Is(name),
        } => Some(Some(name)),
        Hello::OtherTls {
            server_name: ServerName::Absent | ServerName::Odd,
        }
        | Hello::NotTls
        | Hello::Mesh
        | Hello::Malformed => Some(None),
    };
    let deadline = context.worker.agent.config.handshake_timeout;
    tokio::select! {
        biased; // removal and drain win
        reason = context.entry().cut.wait() => Err(reason.refuse()),
        name = peek_until(client, MAX_HELLO, judge) => Ok(name.flatten()),
        () = tokio::time::sleep(deadline) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::tls::tests::support::sockets;

    const HELLO: &[u8] = include_bytes!("../detect/corpus/openssl-h2-sni.bin");
    const MESH: &[u8] = include_bytes!("../detect/corpus/openssl-mesh.bin");
    const WAIT: Duration = Duration::from_secs(5);

    fn named(name: &str) -> Result<FirstBytes, First> {
        Ok(FirstBytes::Named(name.into()))
    }

    #[tokio::test]
    async fn a_name_is_told_of_a_whole_hello_however_it_comes() {
        for at in [0, 1, 5, 6, 100, HELLO.len() - 1] {
            let (mut client, server) = sockets().await;
            let sending = async {
                for part in [&HELLO[..at], &HELLO[at..]] {
                    client.write_all(part).await.expect("write");
                    tokio::task::yield_now().await;
                }
            };
            let (told, ()) = tokio::join!(peek_first_bytes(&server, WAIT), sending);
            assert_eq!(told, named("shop.example.com"), "{at}");
        }
    }

    #[tokio::test]
    async fn what_is_no_hello_has_no_name_and_an_odd_one_none_that_can_be_told() {
        let requests = |first| Ok(FirstBytes::Requests(first));
        let mut odd = HELLO.to_vec();
        let at = HELLO.windows(4).position(|part| part == b"shop");
        odd[at.expect("the name")] = b'\n';
        let oversized = [22, 3, 1, 0x40, 0, 1, 0, 0x50, 0];
        // What a TLS server may take for the beginning of a hello all the same.
        let of_version = |major, minor| {
            let mut hello = HELLO.to_vec();
            (hello[1], hello[2]) = (major, minor);
            hello
        };
        let [newer, newest, other] = [(3, 5), (3, 0xff), (2, 1)].map(|(a, b)| of_version(a, b));
        let behind = |first: &[u8]| [first, HELLO].concat();
        let alert = behind(b"\x15\x03\x01\x00\x02\x01\x5a");
        let empty = behind(b"\x16\x03\x01\x00\x00");
        for (bytes, expected) in [
            (&b"SSH-2.0-OpenSSH_9\r\n"[..], named("")),
            (b"\x80\x2e\x01\x03\x01", named("")),
            (b"\x16\x02", Ok(FirstBytes::Odd)),
            (&newer, Ok(FirstBytes::Odd)),
            (&newest, Ok(FirstBytes::Odd)),
            (&other, Ok(FirstBytes::Odd)),
            (&alert, Ok(FirstBytes::Odd)),
            (&empty, Ok(FirstBytes::Odd)),
            (b"GET / HTTP/1.1\r\n", requests(First::Http)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", requests(First::Http2)),
            (&odd, Ok(FirstBytes::Odd)),
            (&oversized, Ok(FirstBytes::Odd)),
            (MESH, Ok(FirstBytes::Odd)),
            (&HELLO[..50], Err(First::Ended)),
            (b"GET /", Err(First::Ended)),
            (b"", Err(First::Ended)),
        ] {
            let (mut client, server) = sockets().await;
            client.write_all(bytes).await.expect("write");
            client.shutdown().await.expect("end");
            assert_eq!(peek_first_bytes(&server, WAIT).await, expected, "{bytes:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_stays_within_a_hello_is_waited_for_that_long_and_is_nobody_then() {
        for (begun, wait) in [
            (&HELLO[..1], WAIT),
            (&HELLO[..50], WAIT),
            (b"GET", HEAD_TIMEOUT),
        ] {
            let (mut client, server) = sockets().await;
            client.write_all(begun).await.expect("write");
            let now = tokio::time::Instant::now();
            assert_eq!(
                peek_first_bytes(&server, WAIT).await,
                Err(First::Unfinished)
            );
            assert!((wait..wait + WAIT).contains(&now.elapsed()), "{begun:?}");
        }
    }
}
