//! Carrying bytes until the connection ends, is cut, or has been silent too long.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::sleep;

use super::live::Cut;
use super::live::CutReason;
use super::report::Report;
use crate::io;
use crate::model::{ByteCounts, CloseReason};
use crate::sys::socket;
use crate::tunnel::{self, Connection};

/// A connection that lives longer is counted and logged this often.
const PROGRESS: Duration = Duration::from_secs(10);

/// Why the carrying stopped.
pub(super) enum Stopped<E> {
    Ended(E),
    Cut(CutReason),
    Idle,
}

/// Something that carries bytes and may be interrupted between any two.
pub(super) trait Carry {
    type End;
    async fn run(&mut self) -> Self::End;
    fn bytes(&self) -> ByteCounts;
    /// The socket that was dialled, and not accepted: those have keepalive
    /// from their listener.
    fn dialled(&self) -> &TcpStream;
}

/// Two plain sockets.
pub(super) struct Plain<'s> {
    pub(super) relay: io::Relay,
    pub(super) client: &'s TcpStream,
    pub(super) upstream: &'s TcpStream,
}

impl Carry for Plain<'_> {
    type End = io::End;

    async fn run(&mut self) -> io::End {
        self.relay.run(self.client, self.upstream, None).await
    }

    fn bytes(&self) -> ByteCounts {
        self.relay.bytes()
    }

    fn dialled(&self) -> &TcpStream {
        self.upstream
    }
}

/// A socket of the application, and a stream of a connection between agents.
pub(super) struct Tunnelled<'s> {
    pub(super) relay: &'s mut tunnel::Relay,
    pub(super) application: &'s TcpStream,
    pub(super) connection: &'s mut Connection,
}

impl Carry for Tunnelled<'_> {
    type End = tunnel::End;

    async fn run(&mut self) -> tunnel::End {
        self.relay.run(self.application, self.connection).await
    }

    fn bytes(&self) -> ByteCounts {
        self.relay.bytes()
    }

    /// The delivery. (Of a client's stream the connection was dialled; it has
    /// keepalive from its handshake on.)
    fn dialled(&self) -> &TcpStream {
        self.application
    }
}

/// Carries; `idle`: longest silence, `None` for ever.
pub(super) async fn carry<C: Carry>(
    what: &mut C,
    cut: &Cut,
    report: &Report<'_>,
    idle: Option<Duration>,
) -> Stopped<C::End> {
    let (mut silent, mut before) = (Duration::ZERO, what.bytes());
    let mut lasts = false;
    loop {
        let left = idle.map_or(PROGRESS, |idle| idle.saturating_sub(silent).min(PROGRESS));
        tokio::select! {
            biased; // a cut must not wait for a busy stream
            reason = cut.wait() => return Stopped::Cut(reason),
            end = what.run() => return Stopped::Ended(end),
            () = sleep(left) => {}
        }
        if !std::mem::replace(&mut lasts, true) {
            // It can fail only for a socket that is already dead.
            let _dead = socket::keep_alive(what.dialled());
        }
        let now = what.bytes();
        silent = if now == before {
            silent + left
        } else {
            Duration::ZERO
        };
        before = now;
        if idle.is_some_and(|idle| silent >= idle) {
            return Stopped::Idle;
        }
        report.progress(now);
    }
}

/// How a carried connection ended.
pub(super) type Ended = (ByteCounts, CloseReason);

/// Carries between two plain sockets; a failure of one resets both.
pub(super) async fn carry_plain(
    client: &TcpStream,
    upstream: &TcpStream,
    cut: &Cut,
    report: &mut Report<'_>,
    idle: Option<Duration>,
) -> Ended {
    report.opened();
    let mut plain = Plain {
        relay: io::Relay::default(),
        client,
        upstream,
    };
    let reason = match carry(&mut plain, cut, report, idle).await {
        Stopped::Ended(io::End::Finished) => CloseReason::Finished,
        Stopped::Ended(io::End::ResetByClient) => CloseReason::ResetByClient,
        Stopped::Ended(io::End::ResetByUpstream) => CloseReason::ResetByUpstream,
        Stopped::Ended(io::End::IdleTimeout) | Stopped::Idle => CloseReason::IdleTimeout,
        Stopped::Cut(reason) => reason.close(),
    };
    if reason != CloseReason::Finished {
        socket::reset_on_close(upstream);
    }
    (plain.bytes(), reason)
}
