//! What a connection from elsewhere begins with, without taking it.

use std::time::Duration;

use tokio::net::TcpStream;

use crate::detect::{Hello, MAX_HELLO, client_hello};
use crate::proxy::peek::peek_until;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sniffed {
    /// A ClientHello that offers `mesh/1`.
    Mesh,
    /// Anything else, the application's own TLS included.
    Plaintext,
    /// Nothing that can be told apart within the deadline.
    Silent,
    /// A ClientHello that does not parse: refused, never passed on.
    Malformed,
    /// The client ended its direction, or failed, before that.
    Closed,
}

pub(crate) async fn sniff(client: &TcpStream, deadline: Duration) -> Sniffed {
    match tokio::time::timeout(deadline, inspect(client)).await {
        Ok(sniffed) => sniffed,
        Err(_) => Sniffed::Silent,
    }
}

async fn inspect(client: &TcpStream) -> Sniffed {
    let found = peek_until(client, MAX_HELLO, judge).await;
    found.unwrap_or(Sniffed::Closed)
}

/// `None`: more bytes are needed to tell.
fn judge(first: &[u8]) -> Option<Sniffed> {
    match client_hello(first) {
        Hello::Mesh => Some(Sniffed::Mesh),
        Hello::NotTls | Hello::OtherTls { .. } => Some(Sniffed::Plaintext),
        // It claims to be TLS and is none that any server would take.
        Hello::Malformed => Some(Sniffed::Malformed),
        Hello::NeedMore => None,
    }
}

/// Any bytes as the first ones of a connection from elsewhere.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let first = &bytes[..bytes.len().min(MAX_HELLO)];
    let judged = judge(first);
    assert_eq!(
        judged == Some(Sniffed::Mesh),
        client_hello(first) == Hello::Mesh
    );
    if first.len() == MAX_HELLO {
        assert_ne!(judged, None, "it would be waited for without end");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::tls::tests::support::sockets;

    const DEADLINE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_client_that_ends_within_its_hello_is_not_waited_for() {
        for begun in [&b""[..], &[22], &[22, 3, 1, 0, 200, 1, 0, 0, 196]] {
            let (mut client, server) = sockets().await;
            client.write_all(begun).await.expect("write");
            client.shutdown().await.expect("end");
            // Otherwise it would be called silent, at the deadline.
            assert_eq!(sniff(&server, DEADLINE).await, Sniffed::Closed, "{begun:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stays_within_its_hello_is_waited_for_until_the_deadline() {
        for begun in [&b""[..], &[22, 3], &[22, 3, 1, 0, 200, 1, 0, 0, 196]] {
            let (mut client, server) = sockets().await;
            client.write_all(begun).await.expect("write");
            assert_eq!(sniff(&server, DEADLINE).await, Sniffed::Silent, "{begun:?}");
        }
    }
}
