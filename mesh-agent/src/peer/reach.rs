//! Connections to other agents: pooled, waited for, and made ahead.
//!
//! A stream waits out an agent that is being restarted. Where several streams of
//! a pair waited for a handshake at once, the next burst is likely: the worker
//! makes that many in the background. How many is the pool's to say.

use std::time::{Duration, Instant, SystemTime};

use super::connect::{Reached, still_trusted};
use super::peers::{PROTOCOL, Peers, Preconnect};
use crate::enrol::LocalPod;
use crate::model::{PeerProtocol, RefuseReason, Refused, TlsFailure};
use crate::plan::{MayDial as _, MeshPeer};
use crate::tunnel::{Connection, Key};

/// The burst itself goes first, and what it leaves may be enough.
const LATER: Duration = Duration::from_millis(50);

/// Between tries to reach an agent; the first one doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_millis(160);

/// A stream that waits for a new connection.
struct Waiting<'p> {
    peers: &'p Peers,
    key: Key,
}

impl<'p> Waiting<'p> {
    fn begin(peers: &'p Peers, key: Key) -> Self {
        peers.pool.borrow_mut().missed(key, Instant::now());
        Self { peers, key }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.peers.pool.borrow_mut().served(self.key);
    }
}

/// One of those that the pool counts as under way.
pub(crate) struct UnderWay<'p> {
    peers: &'p Peers,
    key: Key,
}

impl UnderWay<'_> {
    pub(crate) fn made(self, keep: impl FnOnce(Key)) {
        keep(self.key);
        self.peers.metrics.connects_ahead.inc();
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.peers.pool.borrow_mut().preconnect_ended(self.key);
    }
}

impl Peers {
    pub(crate) fn key(pod: &LocalPod, peer: &MeshPeer) -> Key {
        Key {
            netns: pod.cookie(),
            destination: peer.to(),
            protocol: PROTOCOL,
        }
    }

    /// A new connection that is to be shared, when it is its turn.
    pub(crate) async fn wait_for_shared(
        &self,
        pod: &LocalPod,
        peer: &MeshPeer,
    ) -> Result<Reached, Refused> {
        let key = Key {
            protocol: PeerProtocol::Shared1,
            ..Self::key(pod, peer)
        };
        let reaching = self.reach_by(peer, || self.connect_shared(pod, peer));
        let reached = self.gate.in_turn(key, reaching).await?;
        self.metrics.connects.inc();
        Ok(reached)
    }

    /// An idle connection, for a stream that begins now. One whose peer is not trusted
    /// any more is closed: what was made before a root went is no fault of the peer's.
    pub(crate) fn pooled(&self, pod: &LocalPod, key: Key, peer: &MeshPeer) -> Option<Connection> {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let expected = peer.expected();
        loop {
            let taken = self.pool.borrow_mut().take(key, expected, now, wall)?;
            if still_trusted(pod, taken.peer()).is_ok() {
                self.request_preconnects(key, peer);
                return Some(taken);
            }
        }
    }

    /// Asks the worker for as many connections as the pool finds missing.
    fn request_preconnects(&self, key: Key, peer: &MeshPeer) {
        let mut pool = self.pool.borrow_mut();
        for _ in 0..pool.preconnects_due(key, Instant::now()) {
            let peer = peer.clone();
            if self.preconnects.try_send(Preconnect { key, peer }).is_err() {
                // The worker has enough to do.
                pool.preconnect_ended(key);
            }
        }
    }

    /// A stream has to wait: it, and the next ones, for a handshake, when it is its turn.
    pub(crate) async fn wait_for(
        &self,
        pod: &LocalPod,
        key: Key,
        peer: &MeshPeer,
    ) -> Result<Connection, Refused> {
        let _waiting = Waiting::begin(self, key);
        self.request_preconnects(key, peer);
        let connection = self.gate.in_turn(key, self.reach(pod, peer)).await?;
        self.metrics.connects.inc();
        Ok(connection)
    }

    /// A new connection to the other agent. One that is not there is given the
    /// time of a connect to be back, unless it has been away for longer than a
    /// restart takes: its application's refusal is a RESET in the stream, so this one
    /// is the agent's absence, and nothing was sent to it. A listener that closes
    /// also drops who waited for it: once that is forgiven.
    pub(crate) async fn reach(
        &self,
        pod: &LocalPod,
        peer: &MeshPeer,
    ) -> Result<Connection, Refused> {
        self.reach_by(peer, || self.connect(pod, peer)).await
    }

    async fn reach_by<T, F>(&self, peer: &MeshPeer, connect: impl Fn() -> F) -> Result<T, Refused>
    where
        F: Future<Output = Result<T, Refused>>,
    {
        let until = Instant::now() + self.config.connect_timeout;
        let (mut pause, mut dropped) = (FIRST_PAUSE, false);
        let agent = peer.to().ip();
        loop {
            let result = connect().await;
            let away = match result.as_ref().map_err(|refused| refused.reason) {
                Err(RefuseReason::ConnectRefused) => true,
                Err(RefuseReason::Tls(TlsFailure::Closed)) => {
                    !std::mem::replace(&mut dropped, true)
                }
                _ => false,
            };
            if !away {
                self.away.borrow_mut().is_back(agent);
                return result;
            }
            let now = Instant::now();
            let back = self.away.borrow_mut().missed(agent, now);
            if now + pause > until.min(back) {
                return result;
            }
            tokio::time::sleep(pause).await;
            pause = LAST_PAUSE.min(pause * 2);
        }
    }

    /// Counts what is wished for as under way until it is there, or given up.
    pub(crate) fn under_way(&self, request: &Preconnect) -> UnderWay<'_> {
        UnderWay {
            peers: self,
            key: request.key,
        }
    }

    /// As for a stream: same certificate, same expected identity, same checks.
    /// One that fails costs nobody anything: the next stream tells why.
    pub(crate) async fn preconnect(
        &self,
        pod: &LocalPod,
        request: &Preconnect,
    ) -> Option<Connection> {
        tokio::time::sleep(LATER).await;
        let now = Instant::now();
        if !self
            .pool
            .borrow_mut()
            .is_preconnect_wanted(request.key, now)
        {
            return None;
        }
        let connection = Box::pin(self.connect(pod, &request.peer)).await.ok()?;
        still_trusted(pod, connection.peer()).ok()?;
        Some(connection)
    }
}
